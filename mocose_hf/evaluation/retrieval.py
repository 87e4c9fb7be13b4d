"""Retrieval: how well the cosine ranks the relevant texts of each query among all texts of a corpus.

The metrics are those of trec_eval and BEIR. They need only the ranks of the relevant texts, so these are counted
directly. The libraries for this need a compiler (pytrec_eval), numba (ranx) or an optional dependency
(sentence-transformers, which is the oracle of the tests).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mocose_hf.data.readers import read_records
from mocose_hf.data.text_lines import fallback_encoding
from mocose_hf.errors import InputError
from mocose_hf.evaluation.sentence_embeddings import DOCUMENT, QUERY, RoleTexts, SentenceEmbeddings
from mocose_hf.evaluation.similarity import Embeddings, cosine_blocks
from mocose_hf.evaluation.task_names import task_name

SPLITS = ("test", "dev")
"""The preferred files of judgements in a folder in BEIR's layout, for a finished model."""

DEVELOPMENT_SPLITS = ("dev", "test")
"""The same while checkpoints are still selected."""

METRICS = ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10", "recall_at_100")
"""The metrics of a task; the first one selects the best checkpoint by default."""

_BLOCK_CELLS = 2**24


@dataclass(frozen=True)
class Judgements:
    """The relevant texts of each query, as P (query, text) pairs.

    Args:
        query_rows: (P,) int64, the row of the query.
        text_rows: (P,) int64, the row of the relevant text in the corpus.
        grades: (P,) float64, its relevance, above 0.
    """

    query_rows: Tensor
    text_rows: Tensor
    grades: Tensor

    @classmethod
    def from_entries(cls, entries: Sequence[tuple[int, int, float]]) -> "Judgements":
        """Build the tensors from (query row, text row, grade) entries."""
        queries, texts, grades = zip(*entries, strict=True) if entries else ((), (), ())
        return cls(
            torch.tensor(queries, dtype=torch.int64),
            torch.tensor(texts, dtype=torch.int64),
            torch.tensor(grades, dtype=torch.float64),
        )


@dataclass
class RetrievalTask:
    """Queries, a corpus, and the texts of the corpus that are relevant to each query.

    Args:
        name: The name of the task, which begins the names of its metrics.
        queries: Q different queries.
        corpus: D texts.
        judgements: The relevant texts; each query has at least one.
        excluded: The row of a text that is not a candidate, by the row of the query. BEIR excludes a document with the
            query's own id.
        source: The file that the task was read from.
        unknown: Number of judgements that were dropped because the corpus lacks their document.
        has_roles: Whether queries and corpus get the prompts that the model has for queries and documents.
    """

    name: str
    queries: list[str]
    corpus: list[str]
    judgements: Judgements
    excluded: dict[int, int] = field(default_factory=dict)
    source: str = ""
    unknown: int = 0
    has_roles: bool = True

    @property
    def metric_names(self) -> list[str]:
        """The names of the metrics, the most important one first."""
        return [f"{self.name}_{metric}" for metric in METRICS]

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.queries)

    def summary(self) -> str:
        """Return one line with the source and the numbers of queries, texts and relevant texts."""
        unknown = f"; {self.unknown:,} judgements of unknown documents dropped" if self.unknown else ""
        return (
            f"{self.source}: {len(self.queries):,} queries, {len(self.corpus):,} texts, "
            f"{len(self.judgements.grades):,} relevant ones{unknown}."
        )

    def targets(self) -> list[list[float]]:
        """Return the judgements, as plain values that identify the task together with its sentences."""
        return [part.tolist() for part in vars(self.judgements).values()]

    def sentences(self) -> list[str]:
        """Return all texts: queries and corpus."""
        return [*self.queries, *self.corpus]

    def role_texts(self) -> RoleTexts:
        """Return the texts by role."""
        return {QUERY: self.queries, DOCUMENT: self.corpus} if self.has_roles else {None: self.sentences()}

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Return the metrics × 100 by name.

        Args:
            embeddings: Returns the embeddings (N, H) of N texts, and takes their role if the task has roles.
            show_progress: Not used.
        """
        takes_roles = self.has_roles and isinstance(embeddings, SentenceEmbeddings)
        queries = embeddings(self.queries, QUERY) if takes_roles else embeddings(self.queries)
        corpus = embeddings(self.corpus, DOCUMENT) if takes_roles else embeddings(self.corpus)
        ranks = relevant_ranks(queries, corpus, self.judgements, self.excluded)
        metrics = ranking_metrics(ranks, self.judgements, len(self.queries))
        return {f"{self.name}_{metric}": value for metric, value in metrics.items()}


def read_retrieval_task(
    path: str | Path, splits: Sequence[str] = SPLITS, encoding: str | None = None
) -> RetrievalTask:
    """Read a file of queries and texts, or a folder in the layout of BEIR (https://github.com/beir-cellar/beir).

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file (or one of these and .gz) with columns `query` and `text`: the text
            of a row is relevant to its query, among all texts of the file; equal queries have several relevant texts.
            Or a folder with corpus.jsonl (`_id`, `text` and optionally `title`, which is put before the text),
            queries.jsonl (`_id`, `text`) and qrels/*.tsv (`query-id`, `corpus-id`, `score`). Or a file in its qrels.
        splits: The preferred file if qrels has several.
        encoding: Encoding of the file if it is not UTF-8; not for a folder.

    Returns:
        The task, named after the file or folder.

    Raises:
        InputError: With file, line and remedy.
    """
    path, name = Path(path), retrieval_task_name(path)
    if path.is_dir():
        return _read_beir(path, _qrels_file(path, splits), name)
    if _is_qrels(path):
        return _read_beir(path.parent.parent, path, name)
    queries: dict[str, int] = {}
    corpus: dict[str, int] = {}
    entries: dict[tuple[int, int], float] = {}
    for place, record in read_records(path, ("query", "text"), encoding=fallback_encoding(path, encoding)):
        query, text = ((record or {}).get(column) or "" for column in ("query", "text"))
        query, text = query.strip(), text.strip()
        if not query and not text:
            continue
        if not query or not text:
            raise InputError(f"{place}: a blank {'text' if query else 'query'}; write it, or drop the row.")
        entries[queries.setdefault(query, len(queries)), corpus.setdefault(text, len(corpus))] = 1.0
    judgements = Judgements.from_entries([(*pair, grade) for pair, grade in entries.items()])
    return _validated(RetrievalTask(name, list(queries), list(corpus), judgements, source=str(path)))


def retrieval_task_name(path: str | Path) -> str:
    """Return the name of the task in a file or folder without reading it."""
    path = Path(path)
    return task_name(f"{path.resolve().parent.parent.name}_{path.name}" if _is_qrels(path) else path)


def _is_qrels(path: Path) -> bool:
    """Return whether a file is in the qrels of a folder in BEIR's layout."""
    return path.parent.name == "qrels" and (path.parent.parent / "corpus.jsonl").exists()


def _qrels_file(folder: Path, splits: Sequence[str]) -> Path:
    files = sorted((folder / "qrels").glob("*.tsv"))
    for split in splits:
        if folder / "qrels" / f"{split}.tsv" in files:
            return folder / "qrels" / f"{split}.tsv"
    if not files:
        raise InputError(
            f"{folder}: no qrels/*.tsv, so this is no folder in BEIR's layout (corpus.jsonl, queries.jsonl, "
            "qrels/test.tsv); give that folder, or a file with columns query and text."
        )
    if len(files) > 1:
        raise InputError(f"{folder}: {len(files)} files in qrels; give one of them, such as {files[0]}.")
    return files[0]


def _read_beir(folder: Path, qrels: Path, name: str) -> RetrievalTask:
    corpus_ids: dict[str, int] = {}
    corpus: list[str] = []
    for place, record in read_records(folder / "corpus.jsonl", ("_id", "text"), ("_id",)):
        if record is not None:
            title = record.get("title") or ""
            _add_id(place, record["_id"], corpus_ids)
            corpus.append(f"{title} {record['text'] or ''}".strip())
    query_ids: dict[str, int] = {}
    texts: list[str] = []
    for place, record in read_records(folder / "queries.jsonl", ("_id", "text"), ("_id",)):
        if record is not None:
            _add_id(place, record["_id"], query_ids)
            texts.append((record["text"] or "").strip())
    grades: dict[str, dict[int, float]] = {}
    unknown = 0
    for place, record in read_records(qrels, ("query-id", "corpus-id", "score"), ("score",)):
        if record is None:
            continue
        query, document, grade = record["query-id"], record["corpus-id"], _grade(place, record["score"])
        if query not in query_ids:
            raise InputError(f"{place}: queries.jsonl has no query {query[:40]!r}; fetch the files again.")
        if grade > 0 and document in corpus_ids:
            grades.setdefault(query, {})[corpus_ids[document]] = grade
        unknown += grade > 0 and document not in corpus_ids
    entries = [(row, *pair) for row, relevant in enumerate(grades.values()) for pair in relevant.items()]
    excluded = {row: corpus_ids[query] for row, query in enumerate(grades) if query in corpus_ids}
    queries = [texts[query_ids[query]] for query in grades]
    return _validated(
        RetrievalTask(name, queries, corpus, Judgements.from_entries(entries), excluded, str(qrels), unknown)
    )


def _add_id(place: str, text_id: object, ids: dict[str, int]) -> None:
    if str(text_id) in ids:
        raise InputError(f"{place}: the _id {str(text_id)[:40]!r} occurs twice; give each row its own.")
    ids[str(text_id)] = len(ids)


def _grade(place: str, score: Any) -> float:
    try:
        grade = float(score)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise InputError(f"{place}: the score {str(score)[:40]!r} is no number; write 1 for a relevant document.")
    return grade


def _validated(task: RetrievalTask) -> RetrievalTask:
    """Return the task if it has something to rank."""
    if not task.queries or len(task.corpus) < 2:
        raise InputError(
            f"{task.source}: {len(task.queries)} queries with a relevant text, {len(task.corpus)} different texts; "
            "give at least one query and two texts."
        )
    return task


def relevant_ranks(
    queries: Embeddings, corpus: Embeddings, judgements: Judgements, excluded: dict[int, int] | None = None
) -> Tensor:
    """Rank the corpus by cosine for each query, and return the rank of each relevant text, from 1.

    A tie counts against the encoder: a relevant text ranks behind all other texts of the same cosine. So a collapsed
    encoder gets the score of the worst ranking and not that of a lucky one.

    Args:
        queries: (Q, H).
        corpus: (D, H).
        judgements: P relevant pairs.
        excluded: The row of a text that is not ranked, by the row of the query.

    Returns:
        (P,) int64.
    """
    excluded = excluded or {}
    cosines = torch.empty(len(judgements.query_rows))
    irrelevant_before = torch.empty(len(judgements.query_rows), dtype=torch.int64)
    for start, block in cosine_blocks(queries, corpus):
        pairs = ((judgements.query_rows >= start) & (judgements.query_rows < start + len(block))).nonzero()[:, 0]
        rows, texts = judgements.query_rows[pairs] - start, judgements.text_rows[pairs]
        cosines[pairs] = block[rows, texts]
        block[rows, texts] = -torch.inf
        for row in range(len(block)):
            if start + row in excluded:
                block[row, excluded[start + row]] = -torch.inf
        for part in torch.arange(len(pairs)).split(max(1, _BLOCK_CELLS // block.shape[1])):
            ahead = block[rows[part]] >= cosines[pairs[part], None]
            irrelevant_before[pairs[part]] = ahead.sum(dim=1)
    return 1 + irrelevant_before + _rank_in_group(judgements.query_rows, cosines)


def ranking_metrics(ranks: Tensor, judgements: Judgements, query_count: int) -> dict[str, float]:
    """Compute nDCG@10, MRR@10 and recall@1, 10, 100 from the ranks of the relevant texts; means over queries, × 100.

    nDCG: gain = grade, discount = log₂(1 + rank), divided by the nDCG of the ideal ranking (as trec_eval and BEIR).
    MRR: 1 / rank of the first relevant text, 0 if it is not among the first 10.
    Recall: share of a query's relevant texts among the first k.

    Args:
        ranks: (P,) from 1, of the pairs of `judgements`.
        judgements: The query and the grade of each pair.
        query_count: Q; each query has a relevant text.

    Returns:
        `ndcg_at_10`, `mrr_at_10`, `recall_at_1`, `recall_at_10`, `recall_at_100`, in [0, 100].
    """

    def per_query(values: Tensor) -> Tensor:
        return torch.zeros(query_count, dtype=torch.float64).index_add_(0, judgements.query_rows, values.double())

    def gain_at_10(ranks: Tensor) -> Tensor:
        return per_query(judgements.grades / torch.log2(1.0 + ranks.double()) * (ranks <= 10))

    ideal_ranks = 1 + _rank_in_group(judgements.query_rows, judgements.grades)
    first = torch.full((query_count,), torch.iinfo(torch.int64).max)
    first = first.scatter_reduce(0, judgements.query_rows, ranks, "amin")
    metrics = {
        "ndcg_at_10": gain_at_10(ranks) / gain_at_10(ideal_ranks),
        "mrr_at_10": (first <= 10) / first.double(),
    }
    relevant = per_query(torch.ones_like(judgements.grades))
    metrics |= {f"recall_at_{k}": per_query(ranks <= k) / relevant for k in (1, 10, 100)}
    return {name: 100.0 * values.mean().item() for name, values in metrics.items()}


def _rank_in_group(groups: Tensor, values: Tensor) -> Tensor:
    """Return for each of P values how many values of its group are larger, or equal and earlier; (P,) int64."""
    order = np.lexsort((-values.numpy(), groups.numpy()))
    _, starts, sizes = np.unique(groups.numpy()[order], return_index=True, return_counts=True)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return torch.from_numpy(ranks)
