"""The contrastive loss, as pure functions of embeddings."""

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_logits(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    in_batch_negatives: bool = True,
) -> Tensor:
    """Return the cosine of each query with each key and each negative, over the temperature, in float32.

    Args:
        queries: (B, D), L2-normalised.
        keys: (C, D), L2-normalised, C ≥ B: the keys of the batch, of all processes where there are several.
        negatives: (N, D), L2-normalised, the rows of the queue; N may be 0.
        temperature: τ > 0.
        labels: (B,) integers, the column of each query's own key; row i's is column i where None.
        in_batch_negatives: Whether the other keys of the batch count as negatives. Where not, their logits are −∞.

    Returns:
        (B, C + N), keys first.
    """
    with torch.autocast(device_type=queries.device.type, enabled=False):
        candidates = torch.cat([keys.float(), negatives.float()])  # (C + N, D)
        logits = queries.float() @ candidates.T / temperature  # (B, C + N)
    if not in_batch_negatives:
        own = _own_columns(queries, labels)
        others = torch.ones(len(queries), len(keys), dtype=torch.bool, device=logits.device)
        others[torch.arange(len(queries), device=logits.device), own] = False
        others = F.pad(others, (0, len(negatives)))
        logits = logits.masked_fill(others, float("-inf"))
    return logits


def info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    labels: Tensor | None = None,
) -> Tensor:
    """Return the mean InfoNCE loss of the queries against the keys of the batch and the queue, a float32 scalar.

    ℓ_i = −log( e^{cos(q_i, k_i)/τ} / (Σ_j e^{cos(q_i, k_j)/τ} + Σ_l e^{cos(q_i, n_l)/τ}) ), with j over the keys of
    the batch, k_i among them, and l over the queue (https://arxiv.org/abs/2202.13093, eq. 4; InfoNCE:
    https://arxiv.org/abs/1807.03748, eq. 4). Shapes and symbols are those of `contrastive_logits`.
    """
    logits = contrastive_logits(queries, keys, negatives, temperature)
    return F.cross_entropy(logits, _own_columns(queries, labels))


def chunked_info_nce_loss(
    queries: Tensor,
    keys: Tensor,
    negatives: Tensor,
    temperature: float,
    labels: Tensor | None = None,
    in_batch_negatives: bool = True,
    chunk_size: int = 8192,
) -> tuple[Tensor, Tensor]:
    """Return the loss of `info_nce_loss`, for queues whose logits should not be held: O(B·chunk_size) memory.

    The queue is passed over once, chunk by chunk. The softmax is kept online, as its running maximum and sum (Milakov
    & Gimelshein 2018, https://arxiv.org/abs/1805.02867), and so is the mean of the candidates under it, which is all
    that the gradient needs: ∂ℓ_i/∂q_i = (Σ_c p_ic c − k_i)/τ, c over keys and queue. Keys and queue get no gradient.

    Args:
        queries, keys, negatives, temperature, labels, in_batch_negatives: As `contrastive_logits` takes them;
            `negatives` may be of any floating dtype and is converted chunk by chunk.
        chunk_size: Rows of the queue at a time, at least 1.

    Returns:
        The loss, a float32 scalar, and whether each query is nearest to its own key, (B,) bool.
    """
    own = _own_columns(queries, labels)
    return _ChunkedInfoNCE.apply(queries, keys, negatives, temperature, own, in_batch_negatives, chunk_size)


class _ChunkedInfoNCE(torch.autograd.Function):
    """The gradient is computed beside the loss, so that no chunk is visited twice."""

    @staticmethod
    def forward(ctx, queries, keys, negatives, temperature, labels, in_batch_negatives, chunk_size):
        with torch.autocast(device_type=queries.device.type, enabled=False):
            q, k = queries.float(), keys.float()
            logits = contrastive_logits(q, k, negatives[:0], temperature, labels, in_batch_negatives)  # (B, C)
            own = logits.gather(1, labels[:, None])[:, 0]  # (B,)
            top = logits.amax(1)
            weights = (logits - top[:, None]).exp_()
            total, pulled = weights.sum(1), weights @ k  # (B,), (B, D)
            for rows in negatives.split(chunk_size) if len(negatives) else ():
                rows = rows.float()
                logits = (q @ rows.T).div_(temperature)  # (B, chunk)
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
        return loss_gradient.to(gradient.dtype) * gradient, None, None, None, None, None, None


def _own_columns(queries: Tensor, labels: Tensor | None) -> Tensor:
    return torch.arange(len(queries), device=queries.device) if labels is None else labels
