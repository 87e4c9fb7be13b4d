"""The geometry of an embedding space (Wang & Isola 2020, https://arxiv.org/abs/2005.10242)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of positive pairs on the unit sphere, in [0, 4]; less is closer.

    Args:
        first, second: (N, H), N ≥ 1, one pair a row; normalised here.
    """
    difference = F.normalize(first.double(), dim=-1) - F.normalize(second.double(), dim=-1)
    return difference.square().sum(-1).mean().item()


def uniformity(embeddings: Tensor) -> float:
    """Return log E exp(−2 ‖x − y‖²) over all pairs of different rows, in [−8, 0]; less is more even.

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


_ROWS_AT_ONCE = 512
