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


def _own_columns(queries: Tensor, labels: Tensor | None) -> Tensor:
    return torch.arange(len(queries), device=queries.device) if labels is None else labels
