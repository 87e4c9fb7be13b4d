"""The contrastive losses, as pure functions of embeddings."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class SentenceIds(NamedTuple):
    """The ids of the sentences; a candidate with a query's own sentence id is not its negative.

    Args:
        queries: (B,) integers; −1 is unknown and equals nothing.
        keys: (C,), of the keys of the batch.
        negatives: (N,), of the rows of the queue.
    """

    queries: Tensor
    keys: Tensor
    negatives: Tensor


def contrastive_logits(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    in_batch_negatives: bool = True,
    log_weights: Tensor | None = None,
    sentence_ids: SentenceIds | None = None,
) -> Tensor:
    """Return the cosine of each query with each key and each negative, divided by the temperature, in float32.

    Args:
        queries: (B, D), L2-normalised.
        keys: (C, D), L2-normalised, C ≥ B: the keys of the batch, of all processes if there are several.
        negatives: (N, D) of any floating dtype, L2-normalised, the rows of the queue; N may be 0.
        temperature: τ > 0.
        labels: (B,) integers, the column of each query's own key; if None, column i for row i.
        in_batch_negatives: Whether the other keys of the batch are negatives. If not, their logits are −∞.
        log_weights: (N,), added to the logits of each negative after the temperature; 0 if None. log w counts a row
            w times, and −∞ takes it out. Rows must be finite, even those that are taken out.
        sentence_ids: The logits of other candidates with a query's own sentence id are −∞. None to keep all.

    Returns:
        (B, C + N), keys first.

    Examples:
        >>> queries, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
        >>> contrastive_logits(queries, keys, negatives=torch.tensor([[-1.0, 0.0]]), temperature=0.5)
        tensor([[ 1.2000, -2.0000]])
    """
    with torch.autocast(device_type=queries.device.type, enabled=False):
        scaled = queries.float() / temperature  # (B, D), smaller than the logits
        key_logits = scaled @ keys.float().T  # (B, C)
        bias = None if log_weights is None else log_weights.float()
        negative_logits = F.linear(scaled, negatives.float(), bias)  # (B, N)
    if not in_batch_negatives:
        key_logits = key_logits.masked_fill(_is_other_key(queries, keys, labels), float("-inf"))
    if sentence_ids is not None:
        is_same = same_sentence(sentence_ids.queries, sentence_ids.keys) & _is_other_key(queries, keys, labels)
        key_logits = key_logits.masked_fill(is_same, float("-inf"))
        is_same = same_sentence(sentence_ids.queries, sentence_ids.negatives)
        negative_logits = negative_logits.masked_fill(is_same, float("-inf"))
    return torch.cat([key_logits, negative_logits], dim=1)


def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    log_weights: Tensor | None = None,
    sentence_ids: SentenceIds | None = None,
) -> Tensor:
    """Return the mean InfoNCE loss of the queries against the keys of the batch and the queue, a float32 scalar.

    ℓ_i = −log( e^{cos(q_i, k_i)/τ} / (Σ_j e^{cos(q_i, k_j)/τ} + Σ_l e^{cos(q_i, n_l)/τ}) ), with j over the keys of
    the batch, k_i among them, and l over the queue (https://arxiv.org/abs/2202.13093, eq. 4; InfoNCE:
    https://arxiv.org/abs/1807.03748, eq. 4). `contrastive_logits` explains the arguments.

    Examples:
        >>> query, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> info_nce_loss(query, query, negative, temperature=1.0)  # −log(e / (e + 1))
        tensor(0.3133)
    """
    logits = contrastive_logits(
        queries, keys, negatives, temperature, labels, log_weights=log_weights, sentence_ids=sentence_ids
    )
    return F.cross_entropy(logits, _own_columns(queries, labels))


def nearest_rows(
    keys: Tensor, rows: Tensor, count: int, excluded: Tensor, min_similarity: float = -1.0
) -> tuple[Tensor, Tensor]:
    """Return the rows nearest to each key by cosine.

    Args:
        keys: (B, D), L2-normalised; they get no gradient.
        rows: (N, D), L2-normalised, N ≥ 1.
        count: k ≥ 1; at most N rows are returned.
        excluded: Broadcasts to (B, N) bool, rows that a key must not take.
        min_similarity: Minimum cosine of a row that counts.

    Returns:
        The rows, nearest first, (B, k) int64, and whether each counts, (B, k) bool.

    Examples:
        >>> keys, rows = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> nearest_rows(keys, rows, count=2, excluded=torch.tensor(False), min_similarity=0.5)
        (tensor([[1, 0]]), tensor([[ True, False]]))
    """
    with torch.no_grad(), torch.autocast(device_type=keys.device.type, enabled=False):
        similarity = keys.detach().float() @ rows.float().T  # (B, N)
        similarity = similarity.masked_fill(excluded, float("-inf"))
        nearest = similarity.topk(min(count, len(rows)), dim=1)
    return nearest.indices, nearest.values >= min_similarity


def multi_positive_loss(
    logits: Tensor, labels: Tensor, columns: Tensor, is_positive: Tensor, weight: float = 1.0
) -> Tensor:
    """Return the mean InfoNCE loss of queries with several positives, a float32 scalar.

    ℓ_i = −( log p_i,own + w · Σ_{c ∈ P_i} log p_ic ) / (1 + w·|P_i|), with p_i the softmax over all candidates. This
    is the loss of supervised contrastive learning (https://arxiv.org/abs/2004.11362, eq. 2) with found instead of
    given positives. Without further positives it is `info_nce_loss`.

    Args:
        logits: (B, C), divided by the temperature, −∞ for what is no candidate.
        labels: (B,) int64, the column of each query's own key.
        columns: (B, k) int64, the columns of further positives P_i, all different.
        is_positive: (B, k) bool, which of them count.
        weight: w ≥ 0, the weight of each relative to the own key.

    Examples:
        >>> logits, own, others = torch.zeros(1, 4), torch.tensor([0]), torch.tensor([[2]])
        >>> multi_positive_loss(logits, own, others, is_positive=torch.tensor([[True]]))  # log(4)
        tensor(1.3863)
    """
    log_probs = logits.log_softmax(dim=1)  # (B, C)
    own = log_probs.gather(1, labels[:, None])[:, 0]  # (B,)
    others = log_probs.gather(1, columns).masked_fill(~is_positive, 0.0)  # (B, k)
    return -((own + weight * others.sum(1)) / (1.0 + weight * is_positive.sum(1))).mean()


def relation_loss(
    queries: Tensor,
    keys: Tensor,
    rows: Tensor,
    temperature: float,
    target_temperature: float,
    excluded: Tensor,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy of the queries' similarities to rows under those of the keys, a float32 scalar.

    ℓ_i = −Σ_l p_il log s_il, with p_i the softmax over l of k_i·n_l / τ_t, s_i that of q_i·n_l / τ, and n_l the rows
    (ReSSL, https://arxiv.org/abs/2107.09282, eq. 4). With τ_t = τ it is smallest if queries equal keys. With τ_t below
    τ a query moves towards the rows nearest to its key, with τ_t above τ away from them.

    Args:
        queries: (B, D), L2-normalised.
        keys: (B, D), L2-normalised; they get no gradient.
        rows: (N, D), L2-normalised, without gradient.
        temperature: τ > 0.
        target_temperature: τ_t > 0.
        excluded: (B, N) bool, rows that a sentence is not compared with. A sentence without any row has loss 0.
        log_weights: (N,), the log of how many times each row counts, as in `contrastive_logits`.
    """
    if log_weights is not None:
        is_out = log_weights == float("-inf")  # (N,)
        excluded = excluded | is_out
        log_weights = log_weights.float().masked_fill(is_out, 0.0)
    has_no_row = excluded.all(dim=1)  # (B,)
    excluded = excluded & ~has_no_row[:, None]  # −∞ − (−∞) would put NaN into the gradient
    with torch.autocast(device_type=queries.device.type, enabled=False):
        rows = rows.float()
        key_logits = keys.detach().float() @ rows.T / target_temperature  # (B, N)
        query_logits = queries.float() @ rows.T / temperature  # (B, N)
        weighted_logits = query_logits
        if log_weights is not None:
            key_logits, weighted_logits = key_logits + log_weights, query_logits + log_weights
        key_logits = key_logits.masked_fill(excluded, float("-inf"))
    target_probs = key_logits.softmax(dim=1).masked_fill(excluded, 0.0)  # (B, N)
    log_total = weighted_logits.masked_fill(excluded, float("-inf")).logsumexp(dim=1, keepdim=True)  # (B, 1)
    losses = -(target_probs * (query_logits - log_total)).sum(dim=1)  # (B,)
    return losses.masked_fill(has_no_row, 0.0).mean()


class OnlineSoftmax:
    """The softmax over logits that arrive chunk by chunk (Milakov & Gimelshein 2018, https://arxiv.org/abs/1805.02867).

    Args:
        like: (B,) float32, for shape and device.

    Attributes:
        running_max: (B,), the largest logit so far, −∞ before the first.
        running_sum: (B,), the sum of exp(logit − running_max) so far.

    Examples:
        >>> softmax = OnlineSoftmax(torch.zeros(1))
        >>> for chunk in torch.tensor([[1.0, 2.0, 3.0, 4.0]]).split(2, dim=1):
        ...     weights, rescale = softmax.add(chunk)
        >>> softmax.running_max + softmax.running_sum.log()  # logsumexp of all four
        tensor([4.4402])
    """

    def __init__(self, like: Tensor):
        self.running_max = torch.full_like(like, float("-inf"))
        self.running_sum = torch.zeros_like(like)

    def add(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Add the logits (B, n) of a chunk, which are overwritten.

        Returns:
            The weights exp(logit − running_max) of the chunk, (B, n), and the factor (B,) that rescales sums of
            earlier weights to the new maximum.
        """
        previous_max, self.running_max = self.running_max, torch.maximum(self.running_max, logits.amax(1))
        shift = self.running_max.masked_fill(self.running_max == float("-inf"), 0.0)  # finite without candidates too
        weights = logits.sub_(shift[:, None]).exp_()
        rescale = (previous_max - shift).exp()
        self.running_sum = self.running_sum * rescale + weights.sum(1)
        return weights, rescale


def reshape_keys(
    keys: Tensor,
    rows: Tensor,
    excluded: Tensor,
    whitening: float = 0.0,
    smoothing: float = 0.0,
    temperature: float = 0.05,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Return the keys, whitened and smoothed by the rows, (B, D) float32, L2-normalised.

    First soft whitening: with μ and UΛUᵀ the mean and the covariance of the rows, a key k and each row become
    (k − μ) U Λ^(−w/2) Uᵀ, L2-normalised (w = 1: https://arxiv.org/abs/2103.15316). This weakens the directions that
    all rows share. Then smoothing: k becomes (1 − s)·k + s·m, L2-normalised, with m the L2-normalised mean of the rows
    n_l under the softmax over l of k·n_l / τ. This weakens the differences between a key and its neighbours (mean
    shift, https://arxiv.org/abs/2105.07269).

    Args:
        keys: (B, D), L2-normalised.
        rows: (N, D), L2-normalised, N ≥ 1.
        excluded: (B, N) bool, rows that a key is not smoothed with. A key without any row is not smoothed.
        whitening: w in [0, 1]; 0 for none.
        smoothing: s in [0, 1); 0 for none.
        temperature: τ > 0.
        log_weights: (N,), the log of how many times each row counts, as in `contrastive_logits`.
    """
    with torch.no_grad(), torch.autocast(device_type=keys.device.type, enabled=False):
        keys, rows = keys.detach().float(), rows.float()
        log_weights = rows.new_zeros(len(rows)) if log_weights is None else log_weights.float()  # (N,)
        if whitening > 0.0:
            row_weights = log_weights.softmax(dim=0)[:, None]  # (N, 1)
            mean = (row_weights * rows).sum(dim=0)  # (D,)
            centred = rows - mean  # (N, D)
            matrix = whitening_matrix((row_weights * centred).T @ centred, whitening)  # (D, D)
            keys, rows = F.normalize((keys - mean) @ matrix, dim=-1), F.normalize(centred @ matrix, dim=-1)
        if smoothing > 0.0:
            similarity = keys @ rows.T / temperature + log_weights  # (B, N)
            excluded = excluded | (log_weights == float("-inf"))
            has_rows = ~excluded.all(dim=1, keepdim=True)  # (B, 1)
            weights = similarity.masked_fill(excluded & has_rows, float("-inf")).softmax(dim=1)  # (B, N)
            smoothed = (1.0 - smoothing) * keys + smoothing * F.normalize(weights @ rows, dim=-1)
            keys = torch.where(has_rows, F.normalize(smoothed, dim=-1), keys)
    return keys


def whitening_matrix(covariance: Tensor, degree: float) -> Tensor:
    """Return U Λ^(−w/2) Uᵀ of a covariance UΛUᵀ, (D, D), which whitens centred rows from the right.

    Args:
        covariance: (D, D), symmetric.
        degree: w in [0, 1]: 0 changes nothing, 1 whitens fully (https://arxiv.org/abs/2103.15316).
    """
    variances, axes = torch.linalg.eigh(covariance)  # (D,), (D, D)
    variances = variances.clamp(min=MIN_VARIANCE * float(variances.max()))
    return axes @ (variances[:, None] ** (-degree / 2) * axes.T)


MIN_VARIANCE = 1e-4
"""Smallest variance along an axis that whitening divides by, as a fraction of the largest one."""


def reshaping_loss(queries: Tensor, reshaped_keys: Tensor) -> Tensor:
    """Return the mean of 1 − q_i·k_i over queries and reshaped keys (B, D), a float32 scalar."""
    with torch.autocast(device_type=queries.device.type, enabled=False):
        return 1.0 - (queries.float() * reshaped_keys).sum(dim=1).mean()


def chunked_info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    in_batch_negatives: bool = True,
    chunk_size: int = 4096,
    log_weights: Tensor | None = None,
    sentence_ids: SentenceIds | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of `info_nce_loss` in O(B·chunk_size) memory, for queues whose logits would not fit.

    It visits the queue once, chunk by chunk. Besides an `OnlineSoftmax` it accumulates the mean of the candidates
    under the softmax, which is all that the gradient needs: ∂ℓ_i/∂q_i = (Σ_c p_ic c − k_i)/τ, with c over keys and
    queue. Keys and queue get no gradient.

    Args:
        queries, keys, temperature, labels, in_batch_negatives, log_weights, sentence_ids: As in `contrastive_logits`.
        negatives: As there; converted to float32 chunk by chunk.
        chunk_size: Rows of the queue at a time, at least 1.

    Returns:
        The loss, a float32 scalar, and whether each query is nearest to its own key, (B,) bool.

    Examples:
        >>> query, negatives = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])
        >>> chunked_info_nce_loss(query, query, negatives, temperature=1.0, chunk_size=1)  # −log(e / (e + 2))
        (tensor(0.5514), tensor([True]))
    """
    labels = _own_columns(queries, labels)
    options = (temperature, labels, in_batch_negatives, chunk_size, sentence_ids)
    return _ChunkedInfoNCE.apply(queries, keys, negatives, log_weights, *options)


class _ChunkedInfoNCE(torch.autograd.Function):
    """Compute the gradient together with the loss, so that no chunk is visited twice."""

    @staticmethod
    def forward(ctx, queries, keys, negatives, log_weights, temperature, labels, in_batch_negatives, chunk_size, ids):
        with torch.autocast(device_type=queries.device.type, enabled=False):
            q, k = queries.float(), keys.float()
            batch_ids = None if ids is None else ids._replace(negatives=ids.negatives[:0])
            logits = contrastive_logits(  # (B, C)
                q, k, negatives[:0], temperature, labels, in_batch_negatives, sentence_ids=batch_ids
            )
            positive_logit = logits.gather(1, labels[:, None])[:, 0]  # (B,)
            softmax = OnlineSoftmax(positive_logit)
            weights, _ = softmax.add(logits)
            weighted_keys = weights @ k  # (B, D)
            scaled = q / temperature
            for first in range(0, len(negatives), chunk_size):
                chunk = slice(first, first + chunk_size)
                bias = None if log_weights is None else log_weights[chunk].float()
                if bias is not None and bias.device.type == "cpu" and bias.max() == float("-inf"):
                    continue  # on a GPU, reading the value takes longer than computing the chunk
                rows = negatives[chunk].float()
                logits = F.linear(scaled, rows, bias)  # (B, chunk)
                if ids is not None:
                    logits.masked_fill_(same_sentence(ids.queries, ids.negatives[chunk]), float("-inf"))
                weights, rescale = softmax.add(logits)
                weighted_keys = torch.addmm(weighted_keys * rescale[:, None], weights, rows)
            # In this order, because both parts are small if the loss is.
            loss = ((softmax.running_max - positive_logit) + softmax.running_sum.log()).mean()
            gradient = (weighted_keys / softmax.running_sum[:, None] - k[labels]) / (temperature * len(q))
        is_top1 = positive_logit >= softmax.running_max
        ctx.save_for_backward(gradient.to(queries.dtype))
        ctx.mark_non_differentiable(is_top1)
        return loss, is_top1

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, loss_gradient, _):
        (gradient,) = ctx.saved_tensors
        return loss_gradient.to(gradient.dtype) * gradient, *[None] * 8


def same_sentence(query_ids: Tensor, ids: Tensor) -> Tensor:
    """Return (B, N) bool, whether each of `ids` (N,) is the query's own (B,) and not −1."""
    return (query_ids[:, None] == ids) & (ids != -1)


def _own_columns(queries: Tensor, labels: Tensor | None) -> Tensor:
    return torch.arange(len(queries), device=queries.device) if labels is None else labels


def _is_other_key(queries: Tensor, keys: Tensor, labels: Tensor | None) -> Tensor:
    """Return (B, C) bool, false in the column of each query's own key."""
    return torch.arange(len(keys), device=keys.device) != _own_columns(queries, labels)[:, None]
