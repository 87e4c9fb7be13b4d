"""Retrieval: how well the cosine ranks the right texts of each query among all texts of a corpus.

The measures are those of trec_eval and BEIR. They need only the ranks of the relevant texts, so these are counted
directly. The libraries for this task either need a compiler (pytrec_eval), numba (ranx) or an optional dependency
(sentence-transformers); the last one is the oracle of the tests.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mocose_hf.data.readers import read_records
from mocose_hf.errors import InputError
from mocose_hf.evaluation.similarity import Embeddings, cosine_blocks
from mocose_hf.evaluation.task_names import task_name

SPLITS = ("test", "dev")
"""The judgements of a folder in BEIR's layout that are read, the first one that is there."""

DEVELOPMENT_SPLITS = ("dev", "test")
"""The same for a model that is still to be selected."""

FIGURES = ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10", "recall_at_100")
"""What a task is scored by; the first one selects the best checkpoint if none is named."""

_CELLS_AT_ONCE = 2**24


@dataclass(frozen=True)
class Judgements:
    """Which texts are relevant to which query; one entry for each of P (query, text) pairs.

    Args:
        query_rows: (P,) int64, the number of the query.
        text_rows: (P,) int64, the number of the relevant text.
        grades: (P,) float64, its relevance, above 0.
    """

    query_rows: Tensor
    text_rows: Tensor
    grades: Tensor

    @classmethod
    def of(cls, entries: Sequence[tuple[int, int, float]]) -> "Judgements":
        """Collect (query, text, grade) entries."""
        queries, texts, grades = zip(*entries, strict=True) if entries else ((), (), ())
        return cls(
            torch.tensor(queries, dtype=torch.int64),
            torch.tensor(texts, dtype=torch.int64),
            torch.tensor(grades, dtype=torch.float64),
        )


@dataclass
class RetrievalTask:
    """Queries, a corpus, and the texts of the corpus that answer each query.

    Args:
        name: The first part of the names of its figures.
        queries: Q different queries.
        corpus: D texts.
        judgements: The relevant texts; each query has at least one.
        excluded: By query, the row of a text that is not a candidate for it. BEIR leaves out a document that has the
            query's own id.
        source: The file that it was read from.
        unknown: How many judgements were left out because they name a document that the corpus does not have.
    """

    name: str
    queries: list[str]
    corpus: list[str]
    judgements: Judgements
    excluded: dict[int, int] = field(default_factory=dict)
    source: str = ""
    unknown: int = 0

    @property
    def figures(self) -> list[str]:
        """The names of the figures, the first one to look at first."""
        return [f"{self.name}_{figure}" for figure in FIGURES]

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.queries)

    def summary(self) -> str:
        """Return one line: the source and its numbers of queries, texts and relevant texts."""
        unknown = f"; {self.unknown:,} judgements of unknown documents left out" if self.unknown else ""
        return (
            f"{self.source}: {len(self.queries):,} queries, {len(self.corpus):,} texts, "
            f"{len(self.judgements.grades):,} relevant ones{unknown}."
        )

    def answers(self) -> list[list[float]]:
        """Return what the queries are scored against, as plain values."""
        return [part.tolist() for part in vars(self.judgements).values()]

    def sentences(self) -> list[str]:
        """Return all texts: queries and corpus."""
        return [*self.queries, *self.corpus]

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Return `{name}_ndcg_at_10`, `_mrr_at_10`, `_recall_at_1`, `_recall_at_10` and `_recall_at_100`, × 100.

        Args:
            embeddings: Returns the embeddings (N, H) of N texts.
            show_progress: Not used.
        """
        ranks = relevant_ranks(embeddings(self.queries), embeddings(self.corpus), self.judgements, self.excluded)
        metrics = ranking_metrics(ranks, self.judgements, len(self.queries))
        return {f"{self.name}_{metric}": value for metric, value in metrics.items()}


def read_retrieval_task(path: str | Path, splits: Sequence[str] = SPLITS) -> RetrievalTask:
    """Read a file of queries and texts, or a folder in the layout of BEIR (https://github.com/beir-cellar/beir).

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file (or one of these and .gz) with columns `query` and `text`: the text
            of a row is to be found among all texts of the file, and equal queries have several right ones. Or a folder
            with corpus.jsonl (`_id`, `text` and perhaps `title`, which goes before the text), queries.jsonl (`_id`,
            `text`) and qrels/*.tsv (`query-id`, `corpus-id`, `score`). Or one of the files in that qrels.
        splits: Which file of qrels is read if there are several.

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
    for place, record in read_records(path, ("query", "text")):
        query, text = ((record or {}).get(column) or "" for column in ("query", "text"))
        query, text = query.strip(), text.strip()
        if not query and not text:
            continue
        if not query or not text:
            raise InputError(f"{place}: a blank {'text' if query else 'query'}; write it, or drop the row.")
        entries[queries.setdefault(query, len(queries)), corpus.setdefault(text, len(corpus))] = 1.0
    judgements = Judgements.of([(*pair, grade) for pair, grade in entries.items()])
    return _checked(RetrievalTask(name, list(queries), list(corpus), judgements, source=str(path)))


def retrieval_task_name(path: str | Path) -> str:
    """Return the name of the task in a file or folder, without reading it."""
    path = Path(path)
    return task_name(f"{path.resolve().parent.parent.name}_{path.name}" if _is_qrels(path) else path)


def _is_qrels(path: Path) -> bool:
    """Return whether a file holds the judgements of a folder in BEIR's layout."""
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
            _note_id(place, record["_id"], corpus_ids)
            corpus.append(f"{title} {record['text'] or ''}".strip())
    query_ids: dict[str, int] = {}
    texts: list[str] = []
    for place, record in read_records(folder / "queries.jsonl", ("_id", "text"), ("_id",)):
        if record is not None:
            _note_id(place, record["_id"], query_ids)
            texts.append((record["text"] or "").strip())
    judged: dict[str, dict[int, float]] = {}
    unknown = 0
    for place, record in read_records(qrels, ("query-id", "corpus-id", "score"), ("score",)):
        if record is None:
            continue
        query, document, grade = record["query-id"], record["corpus-id"], _grade(place, record["score"])
        if query not in query_ids:
            raise InputError(f"{place}: queries.jsonl has no query {query[:40]!r}; fetch the files again.")
        if grade > 0 and document in corpus_ids:
            judged.setdefault(query, {})[corpus_ids[document]] = grade
        unknown += grade > 0 and document not in corpus_ids
    entries = [(row, text, grade) for row, own in enumerate(judged.values()) for text, grade in own.items()]
    excluded = {row: corpus_ids[query] for row, query in enumerate(judged) if query in corpus_ids}
    queries = [texts[query_ids[query]] for query in judged]
    return _checked(RetrievalTask(name, queries, corpus, Judgements.of(entries), excluded, str(qrels), unknown))


def _note_id(place: str, given: object, ids: dict[str, int]) -> None:
    if str(given) in ids:
        raise InputError(f"{place}: the _id {str(given)[:40]!r} stands there twice; give each row one of its own.")
    ids[str(given)] = len(ids)


def _grade(place: str, score: object) -> float:
    try:
        grade = float(score)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise InputError(f"{place}: the score {str(score)[:40]!r} is no number; write 1 for a relevant document.")
    return grade


def _checked(task: RetrievalTask) -> RetrievalTask:
    """Refuse a task that has nothing to rank."""
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

    A tie counts against the encoder: a relevant text stands behind all others of the same cosine. Embeddings that are
    all alike therefore score like the worst ranking and not like a lucky one.

    Args:
        queries: (Q, H).
        corpus: (D, H).
        judgements: P relevant pairs.
        excluded: By query, the row of a text that is not ranked for it.

    Returns:
        (P,) int64.
    """
    excluded = excluded or {}
    cosines = torch.empty(len(judgements.query_rows))
    others_before = torch.empty(len(judgements.query_rows), dtype=torch.int64)
    for start, block in cosine_blocks(queries, corpus):
        pairs = ((judgements.query_rows >= start) & (judgements.query_rows < start + len(block))).nonzero()[:, 0]
        rows, texts = judgements.query_rows[pairs] - start, judgements.text_rows[pairs]
        cosines[pairs] = block[rows, texts]
        block[rows, texts] = -torch.inf
        for row in range(len(block)):
            if start + row in excluded:
                block[row, excluded[start + row]] = -torch.inf
        for part in torch.arange(len(pairs)).split(max(1, _CELLS_AT_ONCE // block.shape[1])):
            ahead = block[rows[part]] >= cosines[pairs[part], None]
            others_before[pairs[part]] = ahead.sum(dim=1)
    return 1 + others_before + _places_among_own(judgements.query_rows, cosines)


def ranking_metrics(ranks: Tensor, judgements: Judgements, query_count: int) -> dict[str, float]:
    """Compute nDCG@10, MRR@10 and recall@1, 10, 100 from the ranks of the relevant texts; means over queries, × 100.

    nDCG: gain = grade, discount = log₂(1 + rank), divided by that of the ideal ranking (as trec_eval and BEIR).
    MRR: 1 / rank of the first relevant text, 0 if it is not among the first 10.
    Recall: share of a query's relevant texts among the first k.

    Args:
        ranks: (P,) from 1, of the pairs of `judgements`.
        judgements: Which query each belongs to, and its grade.
        query_count: Q; each query has a relevant text.

    Returns:
        `ndcg_at_10`, `mrr_at_10`, `recall_at_1`, `recall_at_10`, `recall_at_100`, in [0, 100].
    """

    def per_query(values: Tensor) -> Tensor:
        return torch.zeros(query_count, dtype=torch.float64).index_add_(0, judgements.query_rows, values.double())

    def gain_at_10(places: Tensor) -> Tensor:
        return per_query(judgements.grades / torch.log2(1.0 + places.double()) * (places <= 10))

    ideal_ranks = 1 + _places_among_own(judgements.query_rows, judgements.grades)
    first = torch.full((query_count,), torch.iinfo(torch.int64).max)
    first = first.scatter_reduce(0, judgements.query_rows, ranks, "amin")
    figures = {
        "ndcg_at_10": gain_at_10(ranks) / gain_at_10(ideal_ranks),
        "mrr_at_10": (first <= 10) / first.double(),
    }
    relevant = per_query(torch.ones_like(judgements.grades))
    figures |= {f"recall_at_{k}": per_query(ranks <= k) / relevant for k in (1, 10, 100)}
    return {name: 100.0 * values.mean().item() for name, values in figures.items()}


def _places_among_own(groups: Tensor, values: Tensor) -> Tensor:
    """Return for each of P values how many of its own group are larger, or equal and earlier; (P,) int64."""
    groups, values = groups.numpy(), values.numpy()
    order = np.lexsort((-values, groups))
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    return torch.from_numpy(places)
