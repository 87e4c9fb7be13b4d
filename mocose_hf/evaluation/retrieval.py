"""Retrieval: how well the cosine ranks the right texts of each query among all texts of a corpus.

The measures are those of trec_eval and BEIR. They need only the ranks of the relevant texts, so these are counted
directly. The libraries for this task either need a compiler (pytrec_eval), numba (ranx) or an optional dependency
(sentence-transformers); the last one is the oracle of the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mocose_hf.evaluation.similarity import Embeddings, cosine_blocks

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
    """

    name: str
    queries: list[str]
    corpus: list[str]
    judgements: Judgements
    excluded: dict[int, int] = field(default_factory=dict)

    primary = "ndcg_at_10"

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.queries)

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
