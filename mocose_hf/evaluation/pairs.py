"""Scored pairs of sentences: read them, and correlate the similarities of their embeddings with the scores."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset

from mocose_hf.data.readers import load_hub_dataset, read_records
from mocose_hf.data.record_formats import PlacedRecord
from mocose_hf.data.text_lines import fallback_encoding, read_lines
from mocose_hf.errors import InputError
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.evaluation.geometry import POSITIVE_SCORE, alignment, uniformity
from mocose_hf.evaluation.sentence_embeddings import embed
from mocose_hf.evaluation.similarity import pair_similarities

DEV_SPEARMAN = "dev_spearman"
"""The default of `metric_for_best_model`: Spearman correlation × 100 on the development pairs."""

PAIR_METRICS = (DEV_SPEARMAN, "dev_alignment", "dev_uniformity")
"""Metrics of scored pairs. Other development sets name theirs `{task}_{metric}` in the same way."""

PAIR_COLUMNS = ("sentence1", "sentence2", "score")


class ScoredPair(NamedTuple):
    """Two sentences and the human score of their similarity."""

    score: float
    sentence1: str
    sentence2: str


def read_scored_pairs(path: str | Path, encoding: str | None = None) -> Dataset:
    """Read the scored pairs of a file.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file (or one of these and .gz) with columns `sentence1`, `sentence2` and
            `score`, or a TSV without header of score, sentence, sentence, unquoted. Scores are on any scale.
        encoding: Encoding of the file if it is not UTF-8.

    Returns:
        Columns `score` (float), `sentence1`, `sentence2`.

    Raises:
        InputError: With file, line and remedy.
    """
    path = Path(path)
    encoding = fallback_encoding(path, encoding)
    if _has_columns(path, encoding):
        records = read_records(path, PAIR_COLUMNS, ("score",), encoding=encoding)
        return pairs_dataset(path, list(_column_pairs(records)))
    return pairs_dataset(path, _read_headerless(path, list(numbered_lines(path, encoding))))


def _read_headerless(path: Path, lines: list[tuple[int, str]]) -> list[ScoredPair]:
    rows: list[ScoredPair] = []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != 3:
            raise InputError(
                f"{path}, line {number}: {len(fields)} tab-separated fields, but 3 are needed; write score, sentence, "
                f"sentence{_header_remedy(fields)}."
            )
        if not _is_number(fields[0]):
            next_fields = lines[1][1].split("\t") if not rows and len(lines) > 1 else []
            remedy = _score_remedy(fields, next_fields)
            raise InputError(f"{path}, line {number}: the score {fields[0][:40]!r} is no number; {remedy}.")
        rows.append(scored_pair(f"{path}, line {number}", *fields))
    return rows


def _score_remedy(fields: list[str], next_fields: list[str]) -> str:
    """Return the remedy for a line that does not begin with a score.

    Args:
        fields: The three fields of the line.
        next_fields: The fields of the second line if this is the first line, which may be a header.
    """
    if next_fields and _is_number(next_fields[0]):
        return "mend the line, or drop it if it is a header"
    example = next_fields or fields
    score_columns = [number for number, field in enumerate(example, start=1) if number > 1 and _is_number(field)]
    if score_columns:
        return (
            f"column {score_columns[0]} seems to hold the scores, but the score comes first, then both sentences: "
            "reorder the columns, or add a header line that names them sentence1, sentence2 and score"
        )
    return "mend the line: the score comes first, then both sentences"


def _header_remedy(fields: list[str]) -> str:
    """Return a further remedy if a line with the wrong number of fields has no scores."""
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
        InputError: If it cannot be loaded, lacks a column, or has a score that is not a number.
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


def _has_columns(path: Path, encoding: str | None) -> bool:
    """Return whether a file has named columns, so is not a TSV of score, sentence, sentence."""
    suffix = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    if suffix.lower() in (".jsonl", ".parquet"):
        return True
    if suffix.lower() not in (".csv", ".tsv"):
        return False
    line = next((line for _, line in numbered_lines(path, encoding)), "")
    names = line.replace(",", "\t").replace('"', "").split("\t")
    return set(PAIR_COLUMNS) <= set(names) or (suffix.lower() == ".csv" and "\t" not in line)


def _column_pairs(records: Iterable[PlacedRecord]) -> Iterator[ScoredPair]:
    for place, record in records:
        if record is not None and any(record[column] not in (None, "") for column in PAIR_COLUMNS):
            first, second = record["sentence1"] or "", record["sentence2"] or ""
            score = "" if record["score"] is None else str(record["score"])
            yield scored_pair(place, score, first, second, remedy="mend it, or drop the row")


def numbered_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its number from 1."""
    lines = read_lines(path, encoding)
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def scored_pair(
    place: str,
    score: str,
    first: str,
    second: str,
    sentences_place: str | None = None,
    remedy: str = "fetch the file again",
) -> ScoredPair:
    """Check and return one pair.

    Args:
        place: File and line of the score.
        score: The score as text.
        first, second: The sentences.
        sentences_place: File and line of the sentences, if they are in another file.
        remedy: The remedy if the score is not a number.

    Raises:
        InputError: If the score is not a finite number or a sentence is blank.
    """
    if not _is_number(score):
        raise InputError(f"{place}: the score {score[:40]!r} is no number; {remedy}.")
    first, second = first.strip(), second.strip()
    if not first or not second:
        remedy = "fetch both files again" if sentences_place else "write it, or drop the line"
        raise InputError(f"{sentences_place or place}: a blank sentence; {remedy}.")
    return ScoredPair(float(score), first, second)


def pairs_dataset(path: Path, rows: list[ScoredPair]) -> Dataset:
    """Return a dataset with columns `score`, `sentence1`, `sentence2`.

    Raises:
        InputError: If no correlation can be computed, because all scores or all cosines are equal.
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


def evaluate_pairs(model, tokenizer, pairs: Dataset, batch_size: int = 128, **encode_options) -> dict[str, float]:
    """Score the sentence embeddings of a model on scored pairs; with several processes, each encodes its share.

    The model's configuration names the similarity (`similarity_fn_name`); it is cosine unless the start was a
    sentence-transformers model with another one.

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
            f"The Spearman correlation of the {len(scores):,} development pairs is not a number, because similarities "
            "or scores are all equal; give pairs of different sentences and scores, or use another checkpoint."
        )
    positive = torch.tensor(scores) > positive_score(scores)
    if positive.any():
        metrics["dev_alignment"] = alignment(left[positive], right[positive])
    metrics["dev_uniformity"] = uniformity(embeddings(list(dict.fromkeys(first + second))))
    return metrics


def positive_score(scores: Iterable[float]) -> float:
    """Return the score above which pairs are positive: 4/5 of the scale.

    The scale ends at the smallest of 1, 5, 10 and 100 that is not below any score, otherwise at the largest score.
    """
    largest = max(scores)
    scale = next((scale for scale in (1.0, 5.0, 10.0, 100.0) if largest <= scale), largest)
    return POSITIVE_SCORE / 5.0 * scale
