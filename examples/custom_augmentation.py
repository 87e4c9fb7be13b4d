"""Change the text of the key view by a function of your own.

python examples/custom_augmentation.py ENCODER sentences.txt out
"""

import random
import sys

from mocose_hf import (
    MoCoSEForPreTraining,
    MoCoSETrainer,
    MoCoSETrainingArguments,
    SentenceCollator,
    load_tokenizer,
    read_sentences,
)


def swap_two_words(text: str, generator: random.Random) -> str:
    """Swap two adjacent words. All randomness comes from the generator, so a resumed run draws the same."""
    words = text.split()
    if len(words) > 1:
        place = generator.randrange(len(words) - 1)
        words[place : place + 2] = reversed(words[place : place + 2])
    return " ".join(words)


def main(encoder: str, text: str, output_dir: str) -> MoCoSETrainer:
    """Train with a collator that augments the key view only."""
    tokenizer = load_tokenizer(encoder)
    trainer = MoCoSETrainer(
        model=MoCoSEForPreTraining.from_encoder_pretrained(encoder, queue_size=512),
        args=MoCoSETrainingArguments(output_dir),
        train_dataset=read_sentences(text).dataset,
        processing_class=tokenizer,
        data_collator=SentenceCollator(tokenizer, max_seq_length=32, key_augmentation=swap_two_words, seed=42),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
