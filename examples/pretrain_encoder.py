#!/usr/bin/env python
"""Pre-train a small BERT on your own text by masked language modelling, to start sentence embeddings from.

    python examples/pretrain_encoder.py --train_file sentences.txt --output_dir encoder --num_hidden_layers 6 \
        --hidden_size 384 --num_train_epochs 3 --per_device_train_batch_size 256 --learning_rate 5e-4

It takes all options of `transformers.TrainingArguments`, and `accelerate launch` runs it on several GPUs. Then train
sentence embeddings from the result: `run_mocose.py --model_name_or_path encoder …`.
"""

from dataclasses import dataclass, field

import transformers
from tokenizers import BertWordPieceTokenizer

from mocose_hf import read_sentences


@dataclass
class EncoderArguments:
    """Sizes and data of the encoder."""

    train_file: str = field(metadata={"help": "Sentences: .txt (one a line), .csv, .tsv, .jsonl or .parquet."})
    text_column: str = field(default="text", metadata={"help": "Column of the sentences."})
    vocab_size: int = field(default=16_384, metadata={"help": "Number of word pieces."})
    num_hidden_layers: int = field(default=4, metadata={"help": "Number of layers."})
    hidden_size: int = field(default=256, metadata={"help": "Hidden size, a multiple of 64, the size of a head."})
    max_seq_length: int = field(default=64, metadata={"help": "Longest input in tokens."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of masked tokens."})


def main(argv: list[str] | None = None) -> None:
    """Train the tokenizer, pre-train the encoder, and save both."""
    parser = transformers.HfArgumentParser((EncoderArguments, transformers.TrainingArguments))
    encoder, training = parser.parse_args_into_dataclasses(argv)
    transformers.set_seed(training.seed)
    sentences = read_sentences(encoder.train_file, encoder.text_column)
    print(f"{encoder.train_file}: {sentences.summary()}")
    dataset = sentences.dataset
    tokenizer = train_tokenizer(dataset["text"], encoder.vocab_size, encoder.max_seq_length)

    def tokenize(rows):
        return tokenizer(rows["text"], truncation=True, return_special_tokens_mask=True)

    with training.main_process_first():
        tokens = dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_hidden_layers,
        num_attention_heads=max(1, encoder.hidden_size // 64),
        intermediate_size=4 * encoder.hidden_size,
    )
    trainer = transformers.Trainer(
        model=transformers.BertForMaskedLM(config),
        args=training,
        train_dataset=tokens,
        processing_class=tokenizer,
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=encoder.mlm_probability),
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        trainer.accelerator.unwrap_model(trainer.model).bert.save_pretrained(training.output_dir)
        tokenizer.save_pretrained(training.output_dir)


def train_tokenizer(texts: list[str], vocab_size: int, max_length: int) -> transformers.BertTokenizerFast:
    """Train an uncased WordPiece tokenizer."""
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    return transformers.BertTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, model_max_length=max_length, do_lower_case=True
    )


if __name__ == "__main__":
    main()
