"""Find the EMA decay and the queue size that give a wanted maximum traceable distance."""

from collections.abc import Iterable
from dataclasses import dataclass

from mocose_hf.models.ema import maximum_traceable_distance


@dataclass(frozen=True)
class Setting:
    """A pair of EMA decay and queue size.

    Args:
        ema_decay: η.
        queue_size: K.
        d_trace: The maximum traceable distance that they give, in optimizer steps.
        note: A remark on the training sentences, or "".
    """

    ema_decay: float
    queue_size: int
    d_trace: float
    note: str = ""

    @property
    def queue_init_size(self) -> int:
        """The number of random rows at the start: a quarter of K, as in the paper (128 of 512)."""
        return self.queue_size // 4


def solve(
    d_trace: float, batch_size: int, num_sentences: int | None = None, ratios: Iterable[int] = ()
) -> list[Setting]:
    """Return the pairs (η, K) with 1 / (1 − η) + K / B = d_trace, for queues of whole batches.

    See https://arxiv.org/abs/2202.13093, section 5. A queue of m batches leaves 1 / (1 − η) = d_trace − m, so
    η = 1 − 1 / (d_trace − m). This is a valid decay if d_trace − m ≥ 1; at 1, the target is a copy of the online
    branch.

    Args:
        d_trace: The wanted distance in optimizer steps, at least 1.
        batch_size: B, the number of keys that enter the queue per optimizer step, at least 1.
        num_sentences: The number of different training sentences. If given, a setting has a note if its queue would
            hold a sentence twice, or an older key of a sentence of the batch.
        ratios: The K / B to try; if empty, 0 and the powers of 2 up to the largest possible one.

    Raises:
        ValueError: If a number is out of range.
    """
    if not 1.0 <= d_trace < float("inf") or batch_size < 1:
        raise ValueError(
            f"`d_trace` is {d_trace} and `batch_size` is {batch_size}, but both must be finite numbers of at least 1."
        )
    settings = []
    for ratio in list(ratios) or [0, *_powers_of_two(d_trace - 1.0)]:
        memory = d_trace - ratio
        if memory >= 1.0:
            decay, size = 1.0 - 1.0 / memory, ratio * batch_size
            distance = maximum_traceable_distance(decay, size, batch_size)
            settings.append(Setting(decay, size, distance, _note(size, batch_size, num_sentences)))
    return settings


def _powers_of_two(largest: float) -> list[int]:
    powers: list[int] = []
    while 2 ** len(powers) <= largest:
        powers.append(2 ** len(powers))
    return powers


def _note(size: int, batch_size: int, num_sentences: int | None) -> str:
    """Return what share of the sentences a queue holds, and a warning if that is too much."""
    if num_sentences is None or size == 0:
        return ""
    if size + batch_size > num_sentences:
        return f"too large for {num_sentences:,} sentences: each would meet its own older keys"
    note = f"holds {size / num_sentences:.2%} of the sentences"
    # At the start of the next epoch, the queue holds the last K sentences of this one.
    return f"{note}; set mask_same_sentence for several epochs" if size > num_sentences / 100 else note
