"""Which queued keys are negatives and with what weight: pure functions of tensors, in the queue's order of slots.

No function reads a GPU value, so none forces a synchronisation.
"""

import math
import re
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOWS = {
    "all": "0-1",
    "newest": "0-0.5",
    "middle": "0.25-0.75",
    "oldest": "0.5-1",
    "without_middle": "0-0.25,0.75-1",
}
"""The windows of Table 8 of https://arxiv.org/abs/2202.13093, as fractions of the filled queue, newest row first."""

_FRACTION = r"([01](?:\.[0-9]{1,6})?|\.[0-9]{1,6}|[0-9]{1,6}/[1-9][0-9]{0,5})"
_RANGE = re.compile(rf"\s*{_FRACTION}\s*-\s*{_FRACTION}\s*")

_MIN_SOFTNESS = 1e-9  # with fewer than ten million rows, such a window is hard to the last bit

Ranges = tuple[tuple[Fraction, Fraction], ...]


@cache
def parse_window(window: str) -> Ranges:
    """Return the ranges of fractions that a window consists of, in rising order; ranges that touch are merged.

    Args:
        window: A name of `WINDOWS`, or ranges such as 0-0.25,0.5-0.75 or 0-1/3, of up to six digits after the point
            or in numerator and denominator.

    Raises:
        ValueError: If it is neither, or a range does not rise within [0, 1], or two ranges overlap.
    """
    ranges: list[tuple[Fraction, Fraction]] = []
    parts = [_RANGE.fullmatch(part) for part in WINDOWS.get(window, window).split(",")]
    is_valid = all(parts)
    for first, last in sorted((Fraction(part[1]), Fraction(part[2])) for part in parts if part):
        is_valid = is_valid and first < last <= 1 and (not ranges or ranges[-1][1] <= first)
        if ranges and ranges[-1][1] == first:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    if not is_valid:
        raise ValueError(
            f"`queue_window` is one of {', '.join(WINDOWS)}, or ranges that rise from 0, the newest row, to 1 and do "
            f"not overlap, such as 0-0.25,0.5-0.75, not {window[:60]!r}."
        )
    return tuple(ranges)


def window_log_weights(ranks: Tensor, num_filled: Tensor, window: str, softness: float = 0.0) -> Tensor:
    """Return the log of each row's weight under a window of ages.

    With n rows in use, the edge a of a range lies exactly before the row of rank e(a) = ⌈a·n⌉. A row lies in [a, b) if
    a·n ≤ rank < b·n, so each row lies in exactly one of several complementary windows. A window can be empty while the
    queue holds few rows.

    With a softness s, the weight of a row is w = Σ σ((rank + ½ − e(a)) / (n·s)) − σ((rank + ½ − e(b)) / (n·s)), summed
    over the ranges. The first term is 1 for a = 0 and the second 0 for b = 1, because the ends of the queue are no
    edges. The weights of complementary windows sum to 1 and approach those of the hard windows as s approaches 0.

    Args:
        ranks: (K,) int64, the rank of each slot by age, 0 for the newest.
        num_filled: Scalar int64, n, the number of slots in use. Values for ranks from n on are meaningless.
        window: As in `parse_window`.
        softness: s ≥ 0, a fraction of the filled queue.

    Returns:
        (K,) float32. A hard window gives 0 or −∞, a soft one at most 0, and −∞ in an empty range.
    """
    count = num_filled.clamp(min=1)
    edges = [tuple(_first_rank(edge, count) for edge in ends) for ends in parse_window(window)]
    if softness == 0.0:
        inside = torch.zeros_like(ranks, dtype=torch.bool)
        for first, last in edges:
            inside = inside | ((ranks >= first) & (ranks < last))
        return torch.full_like(ranks, float("-inf"), dtype=torch.float32).masked_fill_(inside, 0.0)
    width = count * max(softness, _MIN_SOFTNESS)
    parts = []
    for (start, end), (first, last) in zip(parse_window(window), edges, strict=True):
        rise = F.logsigmoid((ranks - first + 0.5) / width) if start > 0 else torch.zeros_like(ranks, dtype=width.dtype)
        fall = F.logsigmoid((last - ranks - 0.5) / width) if end < 1 else torch.zeros_like(rise)
        # σ(x) − σ(y) = σ(x) · σ(−y) · (1 − e^(y−x)) stays precise if both are small.
        both = torch.log(-torch.expm1((first - last) / width)) if start > 0 and end < 1 else 0.0
        parts.append(rise + fall + both)
    return torch.stack(parts).logsumexp(0)


def half_life_log_weights(ages: Tensor, half_life: float) -> Tensor:
    """Return −ln 2 · age / half_life, the log of a weight that halves each `half_life` steps: (K,) float32.

    Args:
        ages: (K,) int64 ≥ 0, in optimizer steps.
        half_life: Optimizer steps, at least 1e-6 or at most −1e-6. If negative, the weight doubles instead.
    """
    return ages.float() * (-math.log(2.0) / half_life)


def _first_rank(edge: Fraction, count: Tensor) -> Tensor:
    """Return ⌈edge · count⌉."""
    return (count * edge.numerator + (edge.denominator - 1)) // edge.denominator
