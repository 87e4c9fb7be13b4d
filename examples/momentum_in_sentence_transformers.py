"""Train on pairs by momentum contrast in sentence-transformers' own trainer.

python examples/momentum_in_sentence_transformers.py ENCODER pairs.csv out    # columns query and text
"""

import sys

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from mocose_hf.sentence_transformers import MomentumCallback, MomentumContrastLoss


def main(encoder: str, pairs: str, output_dir: str) -> SentenceTransformerTrainer:
    """Contrast each query with the texts of its batch and with 2,048 past texts, and save the model."""
    model = SentenceTransformer(encoder)
    loss = MomentumContrastLoss(
        model,
        queue_size=2048,
        ema_decay=0.95,
        in_batch_weight=1.0,  # online texts of the batch, with gradient through both sides
        queue_weight=0.5,  # the target's texts of the batch and the queue
        symmetric=True,
    )
    args = SentenceTransformerTrainingArguments(
        output_dir,
        per_device_train_batch_size=64,
        learning_rate=1e-4,
        warmup_steps=0.1,
        lr_scheduler_type="cosine",
        num_train_epochs=1,
    )
    trainer = SentenceTransformerTrainer(
        model, args, Dataset.from_csv(pairs), loss=loss, callbacks=[MomentumCallback(loss)]
    )
    trainer.train()
    model.save_pretrained(output_dir)
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
