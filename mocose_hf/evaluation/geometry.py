"""The geometry of an embedding space."""

import torch
from torch import Tensor
from torch.nn import functional as F


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of positive pairs on the unit sphere, in [0, 4]; less is closer.

    Wang & Isola 2020 (https://arxiv.org/abs/2005.10242), with α = 2.

    Args:
        first, second: (N, H), N ≥ 1, one pair a row; normalised here.
    """
    difference = F.normalize(first.double(), dim=-1) - F.normalize(second.double(), dim=-1)
    return difference.square().sum(-1).mean().item()


def uniformity(embeddings: Tensor) -> float:
    """Return log E exp(−2 ‖x − y‖²) over all pairs of different rows, in [−8, 0]; less is more even.

    Wang & Isola 2020 (https://arxiv.org/abs/2005.10242), with t = 2.

    Args:
        embeddings: (N, H), N ≥ 2; normalised here.

    Raises:
        ValueError: Where there are fewer than two.
    """
    if len(embeddings) < 2:
        raise ValueError(f"Uniformity needs at least 2 embeddings, not {len(embeddings)}.")
    unit = F.normalize(embeddings.double(), dim=-1)
    total = unit.new_zeros(())
    for rows in unit.split(_ROWS_AT_ONCE):
        total += torch.cdist(rows, unit, compute_mode="donot_use_mm_for_euclid_dist").square().mul(-2).exp().sum()
    count = len(unit)
    return torch.log((total - count) / (count * (count - 1))).item()  # less the distance of each row to itself


def effective_rank(matrix: Tensor) -> float:
    """Return exp(−Σ_k p_k log p_k), p_k = σ_k / Σ_j σ_j, of the singular values σ, in [1, min(N, D)].

    It is k where k singular values are equal and the others 0, and 0 for a matrix of zeros (Roy & Vetterli 2007, "The
    effective rank: a measure of effective dimensionality", EUSIPCO, definition 1).

    Args:
        matrix: (N, D), N, D ≥ 1; taken as it is: subtract the mean row first to leave it out.
    """
    singular_values = torch.linalg.svdvals(matrix.double())
    total = singular_values.sum()
    if total == 0:
        return 0.0
    return torch.special.entr(singular_values / total).sum().exp().item()


_ROWS_AT_ONCE = 512
