"""Which EMA decay and queue size give a wanted maximum traceable distance."""

from collections.abc import Iterable
from dataclasses import dataclass

from mocose_hf.models.ema import maximum_traceable_distance


@dataclass(frozen=True)
class Setting:
    """One way to a distance.

    Args:
        ema_decay: η.
        queue_size: K.
        d_trace: The distance they give, in optimizer steps.
        note: What the data say against it, "" where nothing.
    """

    ema_decay: float
    queue_size: int
    d_trace: float
    note: str = ""

    @property
    def queue_init_size(self) -> int:
        """How many random rows a queue of K starts with: a quarter, as the paper's 128 of 512."""
        return self.queue_size // 4


def solve(d_trace: float, batch_size: int, sentences: int | None = None, ratios: Iterable[int] = ()) -> list[Setting]:
    """Return the pairs (η, K) with 1 / (1 − η) + K / B = d_trace, for queues of whole batches.

    See https://arxiv.org/abs/2202.13093, section 5. A queue of m batches leaves 1 / (1 − η) = d_trace − m, so
    η = 1 − 1 / (d_trace − m), which is a decay while d_trace − m ≥ 1: at 1 the target is a copy of the online branch.

    Args:
        d_trace: The wanted distance in optimizer steps, at least 1.
        batch_size: B, keys that enter the queue in one optimizer step, at least 1.
        sentences: How many different ones there are to train on; with it, queues that would hold a sentence twice, or
            a key of a sentence of the batch, are told.
        ratios: The K / B to look at; 0 and the powers of 2 up to the largest possible where empty.

    Raises:
        ValueError: Where a number is outside its range.
    """
    if not 1.0 <= d_trace < float("inf") or batch_size < 1:
        raise ValueError(f"`d_trace` and `batch_size` are numbers from 1 on, not {d_trace} and {batch_size}.")
    found = []
    for ratio in list(ratios) or [0, *_powers_of_two(d_trace - 1.0)]:
        memory = d_trace - ratio
        if memory >= 1.0:
            decay, size = 1.0 - 1.0 / memory, ratio * batch_size
            distance = maximum_traceable_distance(decay, size, batch_size)
            found.append(Setting(decay, size, distance, _note(size, batch_size, sentences)))
    return found


def _powers_of_two(most: float) -> list[int]:
    powers = []
    while 2 ** len(powers) <= most:
        powers.append(2 ** len(powers))
    return powers


def _note(size: int, batch_size: int, sentences: int | None) -> str:
    """Say how much of the text a queue holds, and where that is too much."""
    if sentences is None or size == 0:
        return ""
    if size + batch_size > sentences:
        return f"not with {sentences:,} sentences: each would meet older keys of its own"
    note = f"holds {size / sentences:.2%} of the sentences"
    # As the next epoch begins, the queue holds the last K sentences of this one.
    return f"{note}; over several epochs, mask_same_sentence" if size > sentences / 100 else note
