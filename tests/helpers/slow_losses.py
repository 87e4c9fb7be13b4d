"""Losses by loops."""

import math

import torch
from torch.nn import functional as F


def unit_rows(rows: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def slow_loss_and_gradient(queries, keys, negatives, temperature, labels=None, in_batch_negatives=True, weights=None):
    """Loop over Python floats: the mean loss, and its derivative by each number in the queries.

    `weights` says how often each negative counts, once where None.
    """
    queries, keys, negatives = queries.tolist(), keys.tolist(), negatives.tolist()
    total, gradient = 0.0, []
    for i, query in enumerate(queries):
        own = i if labels is None else int(labels[i])
        own_and_others = [key for j, key in enumerate(keys) if in_batch_negatives or j == own]
        candidates = own_and_others + negatives
        counts = [1.0] * len(own_and_others) + ([1.0] * len(negatives) if weights is None else list(weights))
        shares = [
            count * math.exp(sum(a * b for a, b in zip(query, c, strict=True)) / temperature)
            for count, c in zip(counts, candidates, strict=True)
        ]
        positive = math.exp(sum(a * b for a, b in zip(query, keys[own], strict=True)) / temperature)
        total -= math.log(positive / sum(shares))
        row = []
        for d in range(len(query)):
            pull = sum(share * c[d] for share, c in zip(shares, candidates, strict=True)) / sum(shares)
            row.append((pull - keys[own][d]) / temperature / len(queries))
        gradient.append(row)
    return total / len(queries), torch.tensor(gradient, dtype=torch.float64)
