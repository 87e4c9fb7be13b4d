#!/usr/bin/env python
"""Pre-train a small BERT on your own text by masked language modelling, as a start for sentence embeddings.

    python examples/pretrain_encoder.py --train_file sentences.txt --output_dir encoder --num_hidden_layers 6 \
        --hidden_size 384 --num_train_epochs 3 --per_device_train_batch_size 256 --learning_rate 5e-4

It is the stock `transformers.Trainer`: all its options may be given, and `accelerate launch` runs it on several GPUs.
What it writes, `run_mocose.py --model_name_or_path encoder` takes; it has never seen a pair of sentences.
"""

from dataclasses import dataclass, field

from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

from mocose_hf import read_sentences


@dataclass
class EncoderArguments:
    """What is trained, and on what."""

    train_file: str = field(metadata={"help": "Sentences: .txt (one a line), .csv, .tsv, .jsonl or .parquet."})
    text_column: str = field(default="text", metadata={"help": "Column of the sentences."})
    vocab_size: int = field(default=16_384, metadata={"help": "Word pieces, learnt from the text."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Layers."})
    hidden_size: int = field(default=256, metadata={"help": "Width, a multiple of 64, as a head is 64 wide."})
    max_seq_length: int = field(default=64, metadata={"help": "Longest input in tokens."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of tokens to be guessed."})


def main(argv: list[str] | None = None) -> None:
    """Learn word pieces, pre-train, and save encoder and tokenizer."""
    encoder, training = HfArgumentParser((EncoderArguments, TrainingArguments)).parse_args_into_dataclasses(argv)
    set_seed(training.seed)
    sentences = read_sentences(encoder.train_file, encoder.text_column)
    print(f"{encoder.train_file}: {sentences.summary()}")
    tokenizer = train_tokenizer(sentences.dataset["text"], encoder.vocab_size, encoder.max_seq_length)
    with training.main_process_first():
        tokens = sentences.dataset.map(
            lambda rows: tokenizer(rows["text"], truncation=True, return_special_tokens_mask=True),
            batched=True,
            remove_columns=sentences.dataset.column_names,
        )
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=encoder.hidden_size,
            num_hidden_layers=encoder.num_hidden_layers,
            num_attention_heads=max(1, encoder.hidden_size // 64),
            intermediate_size=4 * encoder.hidden_size,
        )
    )
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=tokens,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=encoder.mlm_probability),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).bert.save_pretrained(training.output_dir)
        tokenizer.save_pretrained(training.output_dir)


def train_tokenizer(texts: list[str], vocab_size: int, max_length: int) -> BertTokenizerFast:
    """Learn an uncased WordPiece vocabulary."""
    learnt = BertWordPieceTokenizer(lowercase=True)
    learnt.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    return BertTokenizerFast(tokenizer_object=learnt._tokenizer, model_max_length=max_length, do_lower_case=True)


if __name__ == "__main__":
    main()
