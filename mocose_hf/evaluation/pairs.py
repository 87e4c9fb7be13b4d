"""Scored pairs of sentences: read them, and correlate the cosines of their embeddings with the scores."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.errors import InputError
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.evaluation.embedding import embed
from mocose_hf.evaluation.geometry import POSITIVE_SCORE, alignment, uniformity
from mocose_hf.readers import read_lines

ScoredPair = tuple[float, str, str]
"""Score, sentence, sentence."""


def read_scored_pairs(path: str | Path) -> Dataset:
    """Read a TSV of score, sentence, sentence: unquoted, without header.

    Returns:
        Columns `score` (float), `sentence1`, `sentence2`.

    Raises:
        InputError: With file, line and remedy.
    """
    path, rows = Path(path), []
    for number, line in numbered_lines(path):
        fields = line.split("\t")
        if len(fields) != 3:
            raise InputError(
                f"{path}, line {number}: {len(fields)} tab-separated fields, but 3 are needed; write score, sentence, "
                "sentence."
            )
        rows.append(scored_pair(f"{path}, line {number}", *fields))
    return pairs_dataset(path, rows)


def numbered_lines(path: Path) -> Iterable[tuple[int, str]]:
    """Return the lines that are not blank, each with its number from 1."""
    return ((number, line) for number, line in enumerate(read_lines(path), start=1) if line.strip())


def scored_pair(place: str, score: str, first: str, second: str, sentences_place: str | None = None) -> ScoredPair:
    """Check one pair as it stands at a place in a file, or at two.

    Raises:
        InputError: Where the score is no finite number or a sentence is blank.
    """
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"{place}: the score {score[:40]!r} is no number; mend the line, where the score comes first, then both "
            "sentences, or drop it where it is a header."
        )
    first, second = first.strip(), second.strip()
    if not first or not second:
        remedy = "fetch both files again" if sentences_place else "write it, or drop the line"
        raise InputError(f"{sentences_place or place}: a blank sentence; {remedy}.")
    return value, first, second


def pairs_dataset(path: Path, rows: list[ScoredPair]) -> Dataset:
    """Make a dataset with columns `score`, `sentence1`, `sentence2`.

    Raises:
        InputError: Where no correlation can be computed, as scores or cosines are all one.
    """
    if not rows:
        raise InputError(f"{path}: no scored pairs; fetch the file again, or write some.")
    if len({score for score, _, _ in rows}) < 2:
        raise InputError(f"{path}: {len(rows)} scored pairs of one score; give pairs of different scores.")
    if len({frozenset(pair) if len(set(pair)) > 1 else None for _, *pair in rows}) < 2:
        raise InputError(
            f"{path}: {len(rows)} scored pairs of one cosine, as each has the same two sentences or one twice; give "
            "pairs of different sentences."
        )
    return Dataset.from_dict(dict(zip(("score", "sentence1", "sentence2"), zip(*rows, strict=True), strict=True)))


def pair_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosine of each row of (N, H) with its fellow, (N,) float64."""
    return F.cosine_similarity(first.double(), second.double())


def evaluate_pairs(model, tokenizer, pairs: Dataset, batch_size: int = 128, **encode_options) -> dict[str, float]:
    """Score the sentence embeddings of a model on scored pairs; with several processes, each encodes its share.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`, such as `MoCoSEModel` and `MoCoSEForPreTraining`.
        tokenizer: The model's tokenizer.
        pairs: Columns `score`, `sentence1`, `sentence2`.
        batch_size, encode_options: As `encode` takes them.

    Returns:
        `stsb_spearman` (× 100), `uniformity` over all different sentences and, where there are positive pairs,
        `alignment` over those.
    """
    first, second, scores = list(pairs["sentence1"]), list(pairs["sentence2"]), list(pairs["score"])
    embeddings = embed(model, tokenizer, first + second, batch_size=batch_size, **encode_options)
    left, right = embeddings(first), embeddings(second)
    metrics = {"stsb_spearman": spearman(pair_cosines(left, right), scores)}
    positive = torch.tensor(scores) > POSITIVE_SCORE
    if positive.any():
        metrics["alignment"] = alignment(left[positive], right[positive])
    metrics["uniformity"] = uniformity(embeddings.matrix)
    return metrics
