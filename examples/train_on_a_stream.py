"""Train on a file that may be larger than memory.

python examples/train_on_a_stream.py ENCODER large.txt.gz out
"""

import sys

from mocose_hf import (
    MoCoSEForPreTraining,
    MoCoSETrainer,
    MoCoSETrainingArguments,
    SentenceStream,
    export_sentence_encoder,
    load_tokenizer,
)


def main(encoder: str, text: str, output_dir: str) -> None:
    """Train by the paper's method for a number of steps, because a stream has no epochs."""
    trainer = MoCoSETrainer(
        model=MoCoSEForPreTraining.from_encoder_pretrained(encoder, queue_size=512),
        args=MoCoSETrainingArguments(output_dir, max_steps=10_000, save_steps=1000),
        train_dataset=SentenceStream(text, shuffle_buffer_size=100_000, seed=42),
        processing_class=load_tokenizer(encoder),
    )
    trainer.train()
    export_sentence_encoder(trainer.model, trainer.processing_class, output_dir)


if __name__ == "__main__":
    main(*sys.argv[1:])
