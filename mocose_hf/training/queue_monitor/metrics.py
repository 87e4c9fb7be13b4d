"""Metrics of the negatives of one batch: pure functions of logits, ages, ids and keys."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.models.losses import OnlineSoftmax, contrastive_logits

MOST_BINS = 32

_COLUMNS_AT_ONCE = 4096


@dataclass(frozen=True)
class AgeBins:
    """Bins of equal width over the age of a key, the optimizer steps since it was made.

    A batch sees no key younger than 1. Bin i holds the ages from i · width + 1 to (i + 1) · width. The last bin also
    holds older keys, which exist if optimizer steps were skipped.

    Args:
        count: Number of bins, at most `MOST_BINS`; 0 without a queue.
        width: Ages in a bin, at least 1.
    """

    count: int
    width: int

    @classmethod
    def of_queue(cls, queue_size: int, keys_per_step: int) -> "AgeBins":
        """Return the bins for the ages of a full queue, with the smallest width that `MOST_BINS` allows."""
        oldest = math.ceil(queue_size / keys_per_step)
        width = max(1, math.ceil(oldest / MOST_BINS))
        return cls(math.ceil(oldest / width), width)

    def first_ages(self) -> list[int]:
        """Return the lowest age in each bin."""
        return [1 + i * self.width for i in range(self.count)]

    def numbers(self, ages: Tensor) -> Tensor:
        """Return the bin of each age: int64 of the same shape."""
        return ((ages - 1) // self.width).clamp(0, max(self.count - 1, 0))


@dataclass(frozen=True)
class Groups:
    """Numbers of the groups of negatives: the bins of `AgeBins`, then the properties of this class.

    Args:
        bins: The bins of ages.
    """

    bins: AgeBins

    @property
    def initial(self) -> int:
        """Rows without an age in this run: random initial rows, and keys that were loaded with the model."""
        return self.bins.count

    @property
    def batch(self) -> int:
        """The keys of the batch."""
        return self.bins.count + 1

    @property
    def other(self) -> int:
        """Negatives computed from the queue that are not its rows, such as centroids."""
        return self.bins.count + 2

    @property
    def count(self) -> int:
        """Number of groups."""
        return self.bins.count + 3

    def of_slots(self, enqueued_at: Tensor, step: int) -> Tensor:
        """Return the group of each slot of a queue as the batch of an optimizer step sees it.

        Args:
            enqueued_at: (K,) int64, the step that made each row, see `NegativeQueue`.
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
    """How the gradient of a batch's loss spreads over its negatives.

    Args:
        shares: (G,) float64, the share of each group in the gradient on all negatives, ∂L/∂logit summed over the
            batch; they sum to 1. None if there is no such gradient.
        effective: exp(entropy) of the softmax over a query's negatives alone, mean over the queries that have any:
            the number of equally weighted negatives with the same entropy. None if there are none.
        count: Negatives of a query, mean over the queries.
        false_negative_rate: Share of the (query, negative) pairs whose two sentence ids are equal, among those whose
            ids are both known; None if none are.
        false_negative_share: Their share of the gradient on all negatives; None if `shares` or the rate is.
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
    positive_logits: Tensor,
    groups: Tensor,
    num_groups: int,
    query_ids: Tensor,
    column_ids: Tensor,
) -> NegativeWeights:
    """Measure how the softmax of the loss spreads over the negatives, in one pass over the columns.

    The gradient of the loss with respect to the logit of a negative is its softmax probability over all candidates,
    divided by B. An `OnlineSoftmax` needs only one chunk in memory.

    Args:
        chunks: Logits of the negatives, (B, n) float32 each, together (B, N); −∞ for columns that are no negative of
            a query, such as its own key. They are overwritten.
        positive_logits: (B,) float32, the logit of each query's own key.
        groups: (N,) int64, the group of each column; −1 for none.
        num_groups: G.
        query_ids: (B,) int64, the sentence of each query, −1 if unknown.
        column_ids: (N,) int64, the sentence of each column, −1 if unknown.
    """
    softmax = OnlineSoftmax(positive_logits)
    running_entropy, same_sum = positive_logits.new_zeros(2, len(positive_logits))
    group_sums = positive_logits.new_zeros(len(positive_logits), num_groups)
    # the numbers of negatives, of pairs with known ids, and of pairs with equal ids
    counts = torch.zeros(3, dtype=torch.int64, device=positive_logits.device)
    numbers = torch.arange(num_groups, device=positive_logits.device)
    first = 0
    for logits in chunks:
        columns = slice(first, first + logits.shape[1])
        first = columns.stop
        is_negative = logits > float("-inf")
        previous_sum = softmax.running_sum
        weights, rescale = softmax.add(logits)  # (B, n), (B,)
        running_entropy = rescale * running_entropy + torch.xlogy(rescale, rescale) * previous_sum
        running_entropy += torch.xlogy(weights, weights).sum(1)
        is_in_group = (groups[columns, None] == numbers).to(weights)  # (n, G); a product is deterministic on a GPU too
        group_sums = rescale[:, None] * group_sums + weights @ is_in_group
        is_known = is_negative & (query_ids >= 0)[:, None] & (column_ids[columns] >= 0)
        is_same = is_known & (query_ids[:, None] == column_ids[columns])
        same_sum = rescale * same_sum + (weights * is_same).sum(1)
        counts += torch.stack([is_negative.sum(), is_known.sum(), is_same.sum()])
    sums = (positive_logits, softmax.running_max, softmax.running_sum, running_entropy, group_sums, same_sum)
    return _summarize(counts.tolist(), *(part.cpu().double() for part in sums))


def _summarize(
    counts: list[int],
    positive_logits: Tensor,
    maximum: Tensor,
    total: Tensor,
    entropy_sum: Tensor,
    group_sums: Tensor,
    same_sum: Tensor,
) -> NegativeWeights:
    """Combine the sums of `weigh_negatives`, which are relative to exp of each query's `maximum`."""
    has_negatives = total > 0
    log_total = maximum + total.log()  # (B,), −∞ for a query without negatives
    gradient = torch.sigmoid(log_total - positive_logits)  # (B,), on all negatives of a query
    gradient_sum = gradient.sum()
    scale = torch.where(has_negatives, gradient / total, 0.0)
    shares = (scale[:, None] * group_sums).sum(0) / gradient_sum if gradient_sum > 0 else None
    entropy = total.log() - entropy_sum / total
    negatives, known, same = counts
    has_shares = known and shares is not None
    return NegativeWeights(
        shares=shares,
        effective=entropy[has_negatives].exp().mean().item() if has_negatives.any() else None,
        count=negatives / len(positive_logits),
        false_negative_rate=same / known if known else None,
        false_negative_share=((scale * same_sum).sum() / gradient_sum).item() if has_shares else None,
        loss=F.softplus(log_total - positive_logits).mean().item(),
    )


def negative_columns(logits: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Yield the columns of logits (B, C + N) in chunks, −∞ in the column of each query's own key.

    Args:
        logits: The logits of the model's output.
        labels: (B,) int64, the column of each query's own key.
    """
    for first in range(0, logits.shape[1], _COLUMNS_AT_ONCE):
        chunk = logits[:, first : first + _COLUMNS_AT_ONCE]
        columns = torch.arange(first, first + chunk.shape[1], device=logits.device)
        yield chunk.masked_fill(columns == labels[:, None], float("-inf"))


def recomputed_columns(
    queries: Tensor, keys: Tensor, rows: Tensor, log_weights: Tensor, temperature: float, in_batch_negatives: bool
) -> Iterator[Tensor]:
    """Yield the same for a queue whose logits were not stored, computing them again chunk by chunk.

    Args:
        queries, keys: (B, D) of the batch.
        rows, log_weights: (K, D) and (K,), the queue, and what is added to its logits.
        temperature, in_batch_negatives: As `contrastive_logits` takes them.
    """
    batch_logits = contrastive_logits(queries, keys, rows[:0], temperature, None, in_batch_negatives)
    yield batch_logits.fill_diagonal_(float("-inf"))
    for first in range(0, len(rows), _COLUMNS_AT_ONCE):
        chunk = slice(first, first + _COLUMNS_AT_ONCE)
        yield contrastive_logits(queries, keys[:0], rows[chunk], temperature, log_weights=log_weights[chunk])


def spread_evenly(items: Tensor, count: int) -> Tensor:
    """Return at most `count` of the items (N,), evenly spaced, including the first and the last."""
    if len(items) <= count:
        return items
    indices = torch.linspace(0, len(items) - 1, count, dtype=torch.float64).round().long()
    return items[indices.to(items.device)]


def means_by_group(values: Tensor, groups: Tensor, count: int) -> tuple[list[float | None], list[int]]:
    """Return for each group the mean of its values, None if it has none, and their number.

    Args:
        values: (N,) floats.
        groups: (N,) int64, each in [0, count).
        count: Number of groups.
    """
    values, groups = values.cpu().double(), groups.cpu()
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, values).tolist()
    counts = torch.bincount(groups, minlength=count).tolist()
    return [total / size if size else None for total, size in zip(sums, counts, strict=True)], counts
