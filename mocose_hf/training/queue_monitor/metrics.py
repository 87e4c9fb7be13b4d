"""What the negatives of one batch are like: pure functions of logits, ages, ids and keys."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.models.losses import contrastive_logits

MOST_BINS = 32

_COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True)
class AgeBins:
    """Bins of equal width over the age of a key, the optimizer steps since the one that made it.

    A batch sees no key younger than 1. Bin i holds the ages from i · width + 1 to (i + 1) · width; the last bin also
    holds all that are older, as there are where optimizer steps were skipped.

    Args:
        count: Number of bins, at most `MOST_BINS`; 0 without a queue.
        width: Ages in a bin, at least 1.
    """

    count: int
    width: int

    @classmethod
    def of_queue(cls, queue_size: int, keys_per_step: int) -> "AgeBins":
        """Return as many bins as the ages of a full queue need, of the least width that `MOST_BINS` allows."""
        oldest = math.ceil(queue_size / keys_per_step)
        width = max(1, math.ceil(oldest / MOST_BINS))
        return cls(math.ceil(oldest / width), width)

    def first_ages(self) -> list[int]:
        """Return the lowest age of each bin."""
        return [1 + i * self.width for i in range(self.count)]

    def numbers(self, ages: Tensor) -> Tensor:
        """Return the bin of each age: int64 of the same shape."""
        return ((ages - 1) // self.width).clamp(0, max(self.count - 1, 0))


@dataclass(frozen=True)
class Groups:
    """The numbers of the groups that negatives are counted in: those of `AgeBins`, and then these.

    Args:
        bins: The bins of ages.
    """

    bins: AgeBins

    @property
    def initial(self) -> int:
        """Rows without an age in this run: the random initial ones, and keys that the model was given with."""
        return self.bins.count

    @property
    def batch(self) -> int:
        """Keys of the batch."""
        return self.bins.count + 1

    @property
    def other(self) -> int:
        """Negatives made of the queue that are not its rows, such as centroids."""
        return self.bins.count + 2

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.bins.count + 3

    def of_slots(self, enqueued_at: Tensor, step: int) -> Tensor:
        """Return the group of each slot of a queue as the batch of an optimizer step sees it.

        Args:
            enqueued_at: (K,) int64, the step that made each row, as `NegativeQueue` has them.
            step: The optimizer step of the batch, counted from 1.

        Returns:
            (K,) int64, −1 for empty slots.
        """
        ages = step - enqueued_at
        groups = self.bins.numbers(ages)
        groups = groups.masked_fill((enqueued_at == 0) | (ages < 1), self.initial)
        return groups.masked_fill(enqueued_at < 0, -1)


@dataclass
class NegativeWeights:
    """How a batch's loss pulls at its negatives.

    Args:
        shares: (G,) float64, the share of each group in the gradient on all negatives, ∂L/∂logit summed over the
            batch; they sum to 1. None where there is no such gradient.
        effective: exp(entropy) of the softmax over a query's negatives alone, mean over the queries that have any:
            how many negatives of equal weight would be as spread. None where there are none.
        count: Negatives of a query, mean over the queries.
        false_negative_rate: Share of the (query, negative) pairs whose two sentence ids are equal, among those whose
            ids are both known; None where none are.
        false_negative_share: Their share of the gradient on all negatives; None where `shares` or the rate is.
        loss: The mean InfoNCE loss of the logits.
    """

    shares: Tensor | None
    effective: float | None
    count: float
    false_negative_rate: float | None
    false_negative_share: float | None
    loss: float


@torch.no_grad()
def weigh_negatives(
    chunks: Iterable[Tensor],
    own: Tensor,
    groups: Tensor,
    num_groups: int,
    query_ids: Tensor,
    column_ids: Tensor,
) -> NegativeWeights:
    """Measure how the softmax of the loss spreads over the negatives, passing over the columns once.

    The gradient of the loss by the logit of a negative is its softmax probability over all candidates, over B. The
    softmax is kept online, as running maximum and sums (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867),
    so no more than one chunk is held.

    Args:
        chunks: Logits of the negatives, (B, n) float32 each, side by side (B, N); −∞ for what is none of a query's
            negatives, such as its own key.
        own: (B,) float32, the logit of each query's own key.
        groups: (N,) int64, the group of each column; −1 for none.
        num_groups: G.
        query_ids: (B,) int64, the sentence of each query, −1 where unknown.
        column_ids: (N,) int64, the sentence of each column, −1 where unknown.
    """
    rows = len(own)
    top = own.new_full((rows,), float("-inf"))
    total, spread, of_same = own.new_zeros(3, rows)
    of_groups = own.new_zeros(rows, num_groups)
    counts = torch.zeros(3, dtype=torch.int64, device=own.device)  # negatives, pairs of known ids, of equal ids
    numbers = torch.arange(num_groups, device=own.device)
    first = 0
    for logits in chunks:
        columns = slice(first, first + logits.shape[1])
        first = columns.stop
        before, top = top, torch.maximum(top, logits.amax(1))
        floor = top.masked_fill(top == float("-inf"), 0.0)  # (B,), finite where a query has had no negatives yet
        weights = (logits - floor[:, None]).exp()  # (B, n)
        shrunk = (before - floor).exp()
        spread = shrunk * spread + torch.xlogy(shrunk, shrunk) * total + torch.xlogy(weights, weights).sum(1)
        total = shrunk * total + weights.sum(1)
        belongs = (groups[columns, None] == numbers).to(weights)  # (n, G); a product sums in one order on a GPU too
        of_groups = shrunk[:, None] * of_groups + weights @ belongs
        there = logits > float("-inf")
        known = there & (query_ids >= 0)[:, None] & (column_ids[columns] >= 0)
        same = known & (query_ids[:, None] == column_ids[columns])
        of_same = shrunk * of_same + (weights * same).sum(1)
        counts += torch.stack([there.sum(), known.sum(), same.sum()])
    return _sum_up(*(part.cpu().double() for part in (own, top, total, spread, of_groups, of_same)), counts.tolist())


def _sum_up(own, top, total, spread, of_groups, of_same, counts: list[int]) -> NegativeWeights:
    """Put together what `weigh_negatives` summed for each query, relative to exp of its `top`."""
    some = total > 0
    log_total = top + total.log()  # (B,), −∞ where a query has no negatives
    pull = torch.sigmoid(log_total - own)  # (B,), the gradient on all negatives of a query
    pulled = pull.sum()
    scale = torch.where(some, pull / total, 0.0)
    shares = (scale[:, None] * of_groups).sum(0) / pulled if pulled > 0 else None
    entropy = total.log() - spread / total
    negatives, known, same = counts
    return NegativeWeights(
        shares=shares,
        effective=entropy[some].exp().mean().item() if some.any() else None,
        count=negatives / len(own),
        false_negative_rate=same / known if known else None,
        false_negative_share=((scale * of_same).sum() / pulled).item() if known and shares is not None else None,
        loss=F.softplus(log_total - own).mean().item(),
    )


def negative_columns(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Give the columns of logits (B, C + N) in chunks, −∞ in the column of each query's own key.

    Args:
        logits: As the model's output has them.
        labels: (B,) int64, the column of each query's own key.
    """
    for first in range(0, logits.shape[1], _COLUMNS_AT_ONCE):
        chunk = logits[:, first : first + _COLUMNS_AT_ONCE]
        columns = torch.arange(first, first + chunk.shape[1], device=logits.device)
        yield chunk.masked_fill(columns == labels[:, None], float("-inf"))


def recomputed_columns(
    queries: Tensor, keys: Tensor, rows: Tensor, log_weights: Tensor, temperature: float, in_batch_negatives: bool
) -> Iterator[Tensor]:
    """Give the same for a queue whose logits were not held, computing them again chunk by chunk.

    Args:
        queries, keys: (B, D), the batch's own.
        rows, log_weights: (K, D) and (K,), the queue, and what is added to its logits.
        temperature, in_batch_negatives: As `contrastive_logits` takes them.
    """
    of_batch = contrastive_logits(queries, keys, rows[:0], temperature, None, in_batch_negatives)
    yield of_batch.fill_diagonal_(float("-inf"))
    for first in range(0, len(rows), _COLUMNS_AT_ONCE):
        chunk = slice(first, first + _COLUMNS_AT_ONCE)
        yield contrastive_logits(queries, keys[:0], rows[chunk], temperature, log_weights=log_weights[chunk])


def spread_evenly(items: Tensor, count: int) -> Tensor:
    """Return at most `count` of the items (N,), at even distances, the first and the last among them."""
    if len(items) <= count:
        return items
    places = torch.linspace(0, len(items) - 1, count, dtype=torch.float64).round().long()
    return items[places.to(items.device)]


def means_by_group(values: Tensor, groups: Tensor, count: int) -> tuple[list[float | None], list[int]]:
    """Return the mean of the values of each group, None where it has none, and how many it has.

    Args:
        values: (N,) floats.
        groups: (N,) int64, each in [0, count).
        count: Number of groups.
    """
    values, groups = values.cpu().double(), groups.cpu()
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, values).tolist()
    numbers = torch.bincount(groups, minlength=count).tolist()
    return [total / number if number else None for total, number in zip(sums, numbers, strict=True)], numbers
