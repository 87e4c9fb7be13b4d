"""Weigh the negatives of the queue by a rule of your own: keys that resemble all others count less.

python examples/custom_queue_policy.py ENCODER sentences.txt out
"""

import sys

from torch import Tensor
from torch.nn import functional as F

from mocose_hf import (
    MoCoSEForPreTraining,
    MoCoSETrainer,
    MoCoSETrainingArguments,
    NegativeQueue,
    load_tokenizer,
    read_sentences,
)


class DistinctNegatives(MoCoSEForPreTraining):
    """MoCoSE whose queued keys count less the closer they are to the mean of the queue."""

    strength = 2.0

    def queue_candidates(self, queue: NegativeQueue) -> tuple[Tensor, Tensor]:
        """Return the rows (K, D), and the log of each row's weight (K,), −∞ if the row is no negative."""
        rows, log_weights = super().queue_candidates(queue)
        rows_in_use = (log_weights.exp()[:, None] * rows).float()
        mean = F.normalize(rows_in_use.sum(0), dim=0)
        return rows, log_weights - self.strength * (rows.float() @ mean)


def main(encoder: str, text: str, output_dir: str) -> MoCoSETrainer:
    """Train with the policy."""
    trainer = MoCoSETrainer(
        model=DistinctNegatives.from_encoder_pretrained(encoder, queue_size=512),
        args=MoCoSETrainingArguments(output_dir),
        train_dataset=read_sentences(text).dataset,
        processing_class=load_tokenizer(encoder),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
