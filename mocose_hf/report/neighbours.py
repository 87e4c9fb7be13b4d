"""The nearest texts of some texts, before and after a training."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from mocose_hf.evaluation.labels import nearest_neighbours
from mocose_hf.evaluation.similarity import unit_rows

Encode = Callable[[list[str]], Tensor]
"""Returns embeddings (n, H) of n texts."""


@dataclass(frozen=True)
class Neighbours:
    """A text and its nearest others under two encoders, the nearest first.

    Args:
        text: The text.
        before, after: Cosine and text of each neighbour.
    """

    text: str
    before: list[tuple[float, str]]
    after: list[tuple[float, str]]


def compare_neighbours(
    texts: Sequence[str],
    encode_before: Encode,
    encode_after: Encode,
    queries: int = 10,
    count: int = 3,
    pool: int = 1000,
    seed: int = 0,
) -> list[Neighbours]:
    """Find the neighbours of some texts among others under two encoders.

    Args:
        texts: The texts to draw from; duplicates count once.
        encode_before, encode_after: The two encoders.
        queries: How many texts to look at, drawn at random.
        count: Neighbours of each.
        pool: How many texts to search, drawn at random.
        seed: Of the draws.

    Returns:
        One entry per text looked at; none if there are too few texts.
    """
    drawn = list(dict.fromkeys(texts))
    if len(drawn) <= count:
        return []
    drawn = random.Random(seed).sample(drawn, min(pool, len(drawn)))
    queries = min(queries, len(drawn))
    found = [_nearest(encode(drawn), queries, count) for encode in (encode_before, encode_after)]
    return [
        Neighbours(text, *([(round(score, 4), drawn[place]) for score, place in side[number]] for side in found))
        for number, text in enumerate(drawn[:queries])
    ]


def _nearest(embeddings: Tensor, queries: int, count: int) -> list[list[tuple[float, int]]]:
    """Return cosine and row of the nearest rows of each of the first rows."""
    places = nearest_neighbours(embeddings, count)[:queries]  # (Q, count)
    rows = unit_rows(embeddings)  # (N, H)
    scores = (rows[:queries, None] * rows[places]).sum(dim=-1)  # (Q, count)
    return [list(zip(*row, strict=True)) for row in zip(scores.tolist(), places.tolist(), strict=True)]
