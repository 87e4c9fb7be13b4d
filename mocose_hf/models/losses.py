"""The contrastive loss, as pure functions of embeddings."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class SentenceIds(NamedTuple):
    """The ids of the sentences, by which a candidate of the query's own sentence does not count as its negative.

    Args:
        queries: (B,) integers; −1 is unknown and matches nothing.
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
    """Return the cosine of each query with each key and each negative, over the temperature, in float32.

    Args:
        queries: (B, D), L2-normalised.
        keys: (C, D), L2-normalised, C ≥ B: the keys of the batch, of all processes where there are several.
        negatives: (N, D) of any floating dtype, L2-normalised, the rows of the queue; N may be 0.
        temperature: τ > 0.
        labels: (B,) integers, the column of each query's own key; row i's is column i where None.
        in_batch_negatives: Whether the other keys of the batch count as negatives. Where not, their logits are −∞.
        log_weights: (N,), added to the logits of each negative after the temperature; 0 if None. log w counts a row
            w times, and −∞ takes it out. Rows must be finite, even those that are taken out.

    Returns:
        (B, C + N), keys first.
    """
    with torch.autocast(device_type=queries.device.type, enabled=False):
        scaled = queries.float() / temperature  # (B, D), which is smaller than the logits
        of_keys = scaled @ keys.float().T  # (B, C)
        added = None if log_weights is None else log_weights.float()
        of_negatives = F.linear(scaled, negatives.float(), added)  # (B, N)
    if not in_batch_negatives:
        of_keys = of_keys.masked_fill(_of_others(queries, keys, labels), float("-inf"))
    if sentence_ids is not None:
        same = same_sentence(sentence_ids.queries, sentence_ids.keys) & _of_others(queries, keys, labels)
        of_keys = of_keys.masked_fill(same, float("-inf"))
        same = same_sentence(sentence_ids.queries, sentence_ids.negatives)
        of_negatives = of_negatives.masked_fill(same, float("-inf"))
    return torch.cat([of_keys, of_negatives], dim=1)


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
    https://arxiv.org/abs/1807.03748, eq. 4). `contrastive_logits` explains the
    arguments.
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
        keys: (B, D), L2-normalised; no gradient passes.
        rows: (N, D), L2-normalised, N ≥ 1.
        count: k ≥ 1, at most N are returned.
        excluded: Broadcasts to (B, N) bool, rows that a key must not take.
        min_similarity: Least cosine of a row that counts.

    Returns:
        The rows, nearest first, (B, k) int64, and whether each counts, (B, k) bool.
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
    is the loss of supervised contrastive learning (https://arxiv.org/abs/2004.11362, eq. 2) with positives that are
    found and not given. Without further positives it is `info_nce_loss`.

    Args:
        logits: (B, C), over the temperature, −∞ for what is no candidate.
        labels: (B,) int64, the column of each query's own key.
        columns: (B, k) int64, the columns of further positives P_i, all different.
        is_positive: (B, k) bool, which of them count.
        weight: w ≥ 0, the weight of each beside the own key.
    """
    log_shares = logits.log_softmax(dim=1)  # (B, C)
    own = log_shares.gather(1, labels[:, None])[:, 0]  # (B,)
    others = log_shares.gather(1, columns).masked_fill(~is_positive, 0.0)  # (B, k)
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
    (ReSSL, https://arxiv.org/abs/2107.09282, eq. 4). With τ_t = τ it is least if queries equal keys. With τ_t below τ
    a query moves towards the rows nearest to its key, with τ_t above τ away from them.

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
    has_none = excluded.all(dim=1)  # (B,)
    excluded = excluded & ~has_none[:, None]  # or −∞ − (−∞) would put NaN into the gradient
    with torch.autocast(device_type=queries.device.type, enabled=False):
        rows = rows.float()
        wanted = keys.detach().float() @ rows.T / target_temperature  # (B, N)
        found = queries.float() @ rows.T / temperature  # (B, N)
        counted = found
        if log_weights is not None:
            wanted, counted = wanted + log_weights, counted + log_weights
        wanted = wanted.masked_fill(excluded, float("-inf"))
    shares = wanted.softmax(dim=1).masked_fill(excluded, 0.0)  # (B, N)
    log_shares = found - counted.masked_fill(excluded, float("-inf")).logsumexp(dim=1, keepdim=True)  # (B, N)
    losses = -(shares * log_shares).sum(dim=1)  # (B,)
    return losses.masked_fill(has_none, 0.0).mean()


def reshape_keys(
    keys: Tensor,
    rows: Tensor,
    excluded: Tensor,
    whitening: float = 0.0,
    smoothing: float = 0.0,
    temperature: float = 0.05,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Return the keys as the rows reshape them, (B, D) float32, L2-normalised.

    First whitening, softly: with μ and UΛUᵀ the mean and the covariance of the rows, a key k and each row become
    (k − μ) U Λ^(−w/2) Uᵀ, L2-normalised (w = 1: https://arxiv.org/abs/2103.15316). This weakens what all rows share.
    Then smoothing: k becomes (1 − s)·k + s·m, L2-normalised, with m the L2-normalised mean of the rows n_l under the
    softmax over l of k·n_l / τ. This weakens what tells a key from its neighbours (mean shift,
    https://arxiv.org/abs/2105.07269).

    Args:
        keys: (B, D), L2-normalised.
        rows: (N, D), L2-normalised, N ≥ 1.
        excluded: (B, N) bool, rows that a key is not smoothed with. A key without any row is not smoothed.
        whitening: w in [0, 1]; 0 leaves mean and covariance as they are.
        smoothing: s in [0, 1); 0 leaves keys alone.
        temperature: τ > 0.
        log_weights: (N,), the log of how many times each row counts, as in `contrastive_logits`.
    """
    with torch.no_grad(), torch.autocast(device_type=keys.device.type, enabled=False):
        keys, rows = keys.detach().float(), rows.float()
        log_weights = rows.new_zeros(len(rows)) if log_weights is None else log_weights.float()  # (N,)
        if whitening > 0.0:
            shares = log_weights.softmax(dim=0)[:, None]  # (N, 1)
            mean = (shares * rows).sum(dim=0)  # (D,)
            centred = rows - mean  # (N, D)
            variances, axes = torch.linalg.eigh((shares * centred).T @ centred)  # (D,), (D, D)
            variances = variances.clamp(min=MIN_VARIANCE * float(variances.max()))
            matrix = axes @ (variances[:, None] ** (-whitening / 2) * axes.T)  # (D, D)
            keys, rows = F.normalize((keys - mean) @ matrix, dim=-1), F.normalize(centred @ matrix, dim=-1)
        if smoothing > 0.0:
            similarity = keys @ rows.T / temperature + log_weights  # (B, N)
            excluded = excluded | (log_weights == float("-inf"))
            has_some = ~excluded.all(dim=1, keepdim=True)  # (B, 1)
            weights = similarity.masked_fill(excluded & has_some, float("-inf")).softmax(dim=1)  # (B, N)
            smoothed = (1.0 - smoothing) * keys + smoothing * F.normalize(weights @ rows, dim=-1)
            keys = torch.where(has_some, F.normalize(smoothed, dim=-1), keys)
    return keys


MIN_VARIANCE = 1e-4
"""Least variance along an axis that whitening divides by, as a share of the largest one."""


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
    """Return the loss of `info_nce_loss`, for queues whose logits should not be held: O(B·chunk_size) memory.

    The queue is passed over once, chunk by chunk. The softmax is kept online, as its running maximum and sum (Milakov
    & Gimelshein 2018, https://arxiv.org/abs/1805.02867), and so is the mean of the candidates under it, which is all
    that the gradient needs: ∂ℓ_i/∂q_i = (Σ_c p_ic c − k_i)/τ, c over keys and queue. Keys and queue get no gradient.

    Args:
        queries, keys, temperature, labels, in_batch_negatives, log_weights, sentence_ids: As in `contrastive_logits`.
        negatives: As there; converted to float32 chunk by chunk.
        chunk_size: Rows of the queue at a time, at least 1.

    Returns:
        The loss, a float32 scalar, and whether each query is nearest to its own key, (B,) bool.
    """
    own = _own_columns(queries, labels)
    options = (temperature, own, in_batch_negatives, chunk_size, sentence_ids)
    return _ChunkedInfoNCE.apply(queries, keys, negatives, log_weights, *options)


class _ChunkedInfoNCE(torch.autograd.Function):
    """The gradient is computed beside the loss, so that no chunk is visited twice."""

    @staticmethod
    def forward(ctx, queries, keys, negatives, log_weights, temperature, labels, in_batch_negatives, chunk_size, ids):
        with torch.autocast(device_type=queries.device.type, enabled=False):
            q, k = queries.float(), keys.float()
            of_batch = None if ids is None else ids._replace(negatives=ids.negatives[:0])
            logits = contrastive_logits(  # (B, C)
                q, k, negatives[:0], temperature, labels, in_batch_negatives, sentence_ids=of_batch
            )
            own = logits.gather(1, labels[:, None])[:, 0]  # (B,)
            top = logits.amax(1)
            weights = (logits - top[:, None]).exp_()
            total, pulled = weights.sum(1), weights @ k  # (B,), (B, D)
            scaled = q / temperature
            for first in range(0, len(negatives), chunk_size):
                chunk = slice(first, first + chunk_size)
                added = None if log_weights is None else log_weights[chunk].float()
                if added is not None and added.device.type == "cpu" and added.max() == float("-inf"):
                    continue  # on a GPU, looking would take longer than computing
                rows = negatives[chunk].float()
                logits = F.linear(scaled, rows, added)  # (B, chunk)
                if ids is not None:
                    logits.masked_fill_(same_sentence(ids.queries, ids.negatives[chunk]), float("-inf"))
                before, top = top, torch.maximum(top, logits.amax(1))
                weights = logits.sub_(top[:, None]).exp_()
                shrunk = (before - top).exp()
                total = total * shrunk + weights.sum(1)
                pulled = torch.addmm(pulled * shrunk[:, None], weights, rows)
            loss = ((top - own) + total.log()).mean()  # in this order: both are small where the loss is
            gradient = (pulled / total[:, None] - k[labels]) / (temperature * len(q))
        nearest = own >= top
        ctx.save_for_backward(gradient.to(queries.dtype))
        ctx.mark_non_differentiable(nearest)
        return loss, nearest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, loss_gradient, _):
        (gradient,) = ctx.saved_tensors
        return loss_gradient.to(gradient.dtype) * gradient, *[None] * 8


def _own_columns(queries: Tensor, labels: Tensor | None) -> Tensor:
    return torch.arange(len(queries), device=queries.device) if labels is None else labels


def _of_others(queries: Tensor, keys: Tensor, labels: Tensor | None) -> Tensor:
    """Return (B, C), false in the column of each query's own key."""
    return torch.arange(len(keys), device=keys.device) != _own_columns(queries, labels)[:, None]


def same_sentence(query_ids: Tensor, ids: Tensor) -> Tensor:
    """Return (B, N), true where the id is the query's own and not −1."""
    return (query_ids[:, None] == ids) & (ids != -1)
