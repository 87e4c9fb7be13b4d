"""Correlations by loops."""

import math


def slow_ranks(values: list[float]) -> list[float]:
    """One more than the numbers below, and half of the others that are equal."""
    return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def slow_pearson(first: list[float], second: list[float]) -> float:
    x, y = (math.fsum(side) / len(side) for side in (first, second))
    product = math.fsum((a - x) * (b - y) for a, b in zip(first, second, strict=True))
    squares = [math.fsum((v - mean) ** 2 for v in side) for side, mean in ((first, x), (second, y))]
    return 100 * product / math.sqrt(squares[0] * squares[1])
