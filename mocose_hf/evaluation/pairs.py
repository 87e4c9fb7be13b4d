"""Scored pairs of sentences: read them, and correlate the similarities of their embeddings with the scores."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.data.readers import load_hub_dataset, read_records
from mocose_hf.data.text_lines import read_lines
from mocose_hf.errors import InputError
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.evaluation.geometry import POSITIVE_SCORE, alignment, uniformity
from mocose_hf.evaluation.sentence_embeddings import embed
from mocose_hf.evaluation.similarity import Embeddings, unit_rows

DEV_SPEARMAN = "dev_spearman"
"""The default of `metric_for_best_model`: Spearman correlation × 100 on the development pairs."""

PAIR_METRICS = (DEV_SPEARMAN, "dev_alignment", "dev_uniformity")
"""Metrics of scored pairs. Other development sets name theirs `{task}_{metric}` in the same way."""

ScoredPair = tuple[float, str, str]
"""Score, sentence, sentence."""


PAIR_COLUMNS = ("sentence1", "sentence2", "score")


def read_scored_pairs(path: str | Path) -> Dataset:
    """Read scored pairs of a file.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file (or one of these and .gz) with columns `sentence1`, `sentence2` and
            `score`; or a TSV without header of score, sentence, sentence, unquoted. Scores are on any scale.

    Returns:
        Columns `score` (float), `sentence1`, `sentence2`.

    Raises:
        InputError: With file, line and remedy.
    """
    path, rows = Path(path), []
    if _has_columns(path):
        return pairs_dataset(path, list(_column_pairs(read_records(path, PAIR_COLUMNS, ("score",)))))
    lines = list(numbered_lines(path))
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != 3:
            raise InputError(
                f"{path}, line {number}: {len(fields)} tab-separated fields, but 3 are needed; write score, sentence, "
                f"sentence{_advice_on_columns(fields)}."
            )
        if not _is_number(fields[0]):
            following = lines[1][1].split("\t") if not rows and len(lines) > 1 else []
            remedy = _remedy_for_score(fields, following)
            raise InputError(f"{path}, line {number}: the score {fields[0][:40]!r} is no number; {remedy}.")
        rows.append(scored_pair(f"{path}, line {number}", *fields))
    return pairs_dataset(path, rows)


def _remedy_for_score(fields: list[str], following: list[str]) -> str:
    """Return what to do about a line without a score in front.

    Args:
        fields: The three fields of the line.
        following: Those of the next line if the line is the first, which a header may be.
    """
    if following and _is_number(following[0]):
        return "mend the line, or drop it if it is a header"
    example = following or fields
    scores = [place for place, field in enumerate(example, start=1) if place > 1 and _is_number(field)]
    if scores:
        return (
            f"column {scores[0]} seems to hold the scores, but the score comes first, then both sentences: reorder "
            "the columns, or add a header line that names them sentence1, sentence2 and score"
        )
    return "mend the line: the score comes first, then both sentences"


def _advice_on_columns(fields: list[str]) -> str:
    """Return an addition for a line of another number of fields that may be a header."""
    if len(fields) > 3 and not any(_is_number(field) for field in fields):
        return ", or add a header line that names columns sentence1, sentence2 and score"
    return ""


def _is_number(field: str) -> bool:
    try:
        return math.isfinite(float(field))
    except ValueError:
        return False


def load_scored_pairs(name: str, split: str) -> Dataset:
    """Load scored pairs from the hub: a dataset with columns `sentence1`, `sentence2` and `score`.

    Raises:
        InputError: If it cannot be loaded or lacks a column, or a score is not a number.
    """
    dataset = load_hub_dataset(name, None, split, argument="validation_dataset_name")
    missing = [column for column in PAIR_COLUMNS if column not in dataset.column_names]
    if missing:
        raise InputError(
            f"{name}: no column `{missing[0]}`, the columns are: {', '.join(dataset.column_names)[:200]}; give a "
            f"dataset with {', '.join(PAIR_COLUMNS)}."
        )
    places = ((f"{name}, {split} row {number}", record) for number, record in enumerate(dataset, start=1))
    return pairs_dataset(Path(name), list(_column_pairs(places)))


def _has_columns(path: Path) -> bool:
    """Return whether a file has named columns: whether it is no TSV of score, sentence, sentence."""
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    if suffix.lower() in (".jsonl", ".parquet"):
        return True
    if suffix.lower() not in (".csv", ".tsv"):
        return False
    line = next((line for _, line in numbered_lines(path)), "")
    names = line.replace(",", "\t").replace('"', "").split("\t")
    return set(PAIR_COLUMNS) <= set(names) or (suffix.lower() == ".csv" and "\t" not in line)


def _column_pairs(records: Iterable[tuple[str, dict | None]]) -> Iterator[ScoredPair]:
    for place, record in records:
        if record is not None and any(record[column] not in (None, "") for column in PAIR_COLUMNS):
            first, second = record["sentence1"] or "", record["sentence2"] or ""
            score = "" if record["score"] is None else str(record["score"])
            yield scored_pair(place, score, first, second, remedy="mend it, or drop the row")


def numbered_lines(path: Path) -> Iterable[tuple[int, str]]:
    """Return the lines that are not blank, each with its number from 1."""
    return ((number, line) for number, line in enumerate(read_lines(path), start=1) if line.strip())


def scored_pair(
    place: str,
    score: str,
    first: str,
    second: str,
    sentences_place: str | None = None,
    remedy: str = "fetch the file again",
) -> ScoredPair:
    """Check one pair as it stands at a place in a file, or at two.

    Raises:
        InputError: Where the score is no finite number or a sentence is blank.
    """
    if not _is_number(score):
        raise InputError(f"{place}: the score {score[:40]!r} is no number; {remedy}.")
    first, second = first.strip(), second.strip()
    if not first or not second:
        remedy = "fetch both files again" if sentences_place else "write it, or drop the line"
        raise InputError(f"{sentences_place or place}: a blank sentence; {remedy}.")
    return float(score), first, second


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


def pair_cosines(first: Embeddings, second: Embeddings) -> Tensor:
    """Return the cosine of each row of (N, H) with the same row of the other side, (N,) float64; 0 for a zero row."""
    if not isinstance(first, Tensor):
        return torch.from_numpy(unit_rows(first).multiply(unit_rows(second)).sum(axis=1)).flatten()
    return F.cosine_similarity(first.double(), second.double())


def pair_similarities(first: Tensor, second: Tensor, similarity_fn_name: str = "cosine") -> Tensor:
    """Return the similarity of each row of (N, H) to the same row of the other, (N,) float64.

    Args:
        first, second: (N, H).
        similarity_fn_name: cosine, dot, euclidean or manhattan; the last two are distances with a minus sign.
    """
    if similarity_fn_name == "cosine":
        return pair_cosines(first, second)
    first, second = first.double(), second.double()
    if similarity_fn_name == "dot":
        return (first * second).sum(-1)
    return -(first - second).norm(p={"euclidean": 2, "manhattan": 1}[similarity_fn_name], dim=-1)


def evaluate_pairs(model, tokenizer, pairs: Dataset, batch_size: int = 128, **encode_options) -> dict[str, float]:
    """Score the sentence embeddings of a model on scored pairs; with several processes, each encodes its share.

    Pairs are compared by the `similarity_fn_name` of the model's configuration, which is cosine unless the start was
    a sentence-transformers model with another one.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`, such as `MoCoSEModel` and `MoCoSEForPreTraining`.
        tokenizer: The model's tokenizer.
        pairs: Columns `score`, `sentence1`, `sentence2`.
        batch_size, encode_options: As `encode` takes them.

    Returns:
        `dev_spearman` (× 100), `dev_uniformity` over all different sentences and, if there are positive pairs,
        `dev_alignment` over those.

    Raises:
        FloatingPointError: If the Spearman correlation is not a number, or as `embed`.
    """
    sentences = [*pairs["sentence1"], *pairs["sentence2"]]
    return score_pairs(pairs, embed(model, tokenizer, sentences, batch_size=batch_size, **encode_options))


def score_pairs(pairs: Dataset, embeddings) -> dict[str, float]:
    """Score the embeddings of scored pairs; otherwise as `evaluate_pairs`.

    Args:
        pairs: Columns `score`, `sentence1`, `sentence2`.
        embeddings: Returns the embeddings (N, H) of N sentences.
    """
    first, second, scores = list(pairs["sentence1"]), list(pairs["sentence2"]), list(pairs["score"])
    left, right = embeddings(first), embeddings(second)
    name = getattr(embeddings, "similarity_fn_name", "cosine")
    metrics = {DEV_SPEARMAN: spearman(pair_similarities(left, right, name), scores)}
    if math.isnan(metrics[DEV_SPEARMAN]):
        raise FloatingPointError(
            f"The Spearman correlation of the {len(scores):,} development pairs is not a number, as similarities "
            "or scores are all equal; give pairs of different sentences and scores, or use another checkpoint."
        )
    positive = torch.tensor(scores) > positive_score(scores)
    if positive.any():
        metrics["dev_alignment"] = alignment(left[positive], right[positive])
    metrics["dev_uniformity"] = uniformity(embeddings(list(dict.fromkeys(first + second))))
    return metrics


def positive_score(scores: Iterable[float]) -> float:
    """Return the score above which pairs are positive: 4 of 5, or as much of another scale.

    The scale is the smallest of 0 to 1, 5, 10 and 100 that holds all scores, or ends at the largest score.
    """
    largest = max(scores)
    scale = next((scale for scale in (1.0, 5.0, 10.0, 100.0) if largest <= scale), largest)
    return POSITIVE_SCORE / 5.0 * scale
