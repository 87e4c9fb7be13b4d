"""Train on pairs, such as a question and its answer: the contrast of sentence-transformers' in-batch negatives.

python examples/train_on_pairs.py ENCODER pairs.csv out    # columns query and text
"""

import sys

from mocose_hf import (
    MoCoSEForPreTraining,
    MoCoSETrainer,
    MoCoSETrainingArguments,
    export_sentence_encoder,
    load_tokenizer,
    read_sentences,
)


def main(encoder: str, pairs: str, output_dir: str) -> None:
    """Train with gradient through both texts, without heads, target and queue, and write the plain encoder."""
    model = MoCoSEForPreTraining.from_encoder_pretrained(
        encoder,
        pooling_mode="mean",
        use_pooler=False,
        num_projection_layers=0,
        num_predictor_layers=0,
        queue_weight=0.0,
        queue_size=0,
        in_batch_weight=1.0,
        symmetric_loss=True,
        mask_same_sentence=True,  # pairs that share a text are no negatives of each other
        encoder_dropout_prob=0.0,
    )
    trainer = MoCoSETrainer(
        model=model,
        args=MoCoSETrainingArguments(output_dir, learning_rate=1e-4, num_train_epochs=1, max_seq_length=128),
        train_dataset=read_sentences(pairs, text_column="query", key_column="text").dataset,
        processing_class=load_tokenizer(encoder),
    )
    trainer.train()
    export_sentence_encoder(trainer.model, trainer.processing_class, output_dir)


if __name__ == "__main__":
    main(*sys.argv[1:])
