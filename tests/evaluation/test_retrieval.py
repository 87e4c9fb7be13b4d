"""Ranks of relevant texts, and the measures made of them."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from mocose_hf.evaluation import retrieval, similarity
from mocose_hf.evaluation.retrieval import Judgements, RetrievalTask, ranking_metrics, relevant_ranks


def random_case(seed: int, queries: int = 23, texts: int = 170):
    """Embeddings in few dimensions, so that relevant texts stand at all ranks, and graded judgements."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(queries, 3, generator=generator), torch.randn(texts, 3, generator=generator)
    entries = []
    for query in range(queries):
        count = int(torch.randint(1, 14, (), generator=generator))
        rows = torch.randperm(texts, generator=generator)[:count].tolist()
        entries += [(query, row, float(torch.randint(1, 4, (), generator=generator))) for row in rows]
    order = torch.randperm(len(entries), generator=generator).tolist()
    return first, second, Judgements.from_entries([entries[i] for i in order])


def slow_ranking(query, corpus, relevant) -> list[int]:
    """Sort the rows of the corpus, the relevant ones last among equal cosines."""
    cosines = [F.cosine_similarity(query, text, dim=0).item() for text in corpus]
    return sorted(range(len(corpus)), key=lambda row: (-cosines[row], row in relevant))


def slow_metrics(queries, corpus, judgements) -> dict[str, float]:
    sums = {}
    for number, query in enumerate(queries):
        entries = zip(*(part.tolist() for part in vars(judgements).values()), strict=True)
        grades = {row: grade for of, row, grade in entries if of == number}
        ranking = slow_ranking(query, corpus, grades)
        gain = sum(grades.get(row, 0) / math.log2(place + 2) for place, row in enumerate(ranking[:10]))
        best = sorted(grades.values(), reverse=True)[:10]
        ideal = sum(grade / math.log2(place + 2) for place, grade in enumerate(best))
        hits = [place for place, row in enumerate(ranking[:10], start=1) if row in grades]
        found = {"ndcg_at_10": gain / ideal, "mrr_at_10": 1 / hits[0] if hits else 0.0}
        found |= {f"recall_at_{k}": len(grades.keys() & set(ranking[:k])) / len(grades) for k in (1, 10, 100)}
        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
    return {name: 100 * value / len(queries) for name, value in sums.items()}


def test_measures_by_hand():
    # Query 0 finds its texts at ranks 2 (grade 3) and 4 (grade 1), query 1 its only one at rank 11.
    judgements = Judgements.from_entries([(0, 5, 3.0), (1, 7, 1.0), (0, 6, 1.0)])
    metrics = ranking_metrics(torch.tensor([2, 11, 4]), judgements, 2)
    gain, ideal = 3 / math.log2(3) + 1 / math.log2(5), 3 / math.log2(2) + 1 / math.log2(3)
    assert metrics == pytest.approx(
        {
            "ndcg_at_10": 100 * (gain / ideal) / 2,
            "mrr_at_10": 100 * (1 / 2) / 2,
            "recall_at_1": 0.0,
            "recall_at_10": 100 / 2,
            "recall_at_100": 100.0,
        }
    )


def test_ranks_by_hand():
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    corpus = torch.tensor([[1.0, 0.1], [5.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    judgements = Judgements.from_entries([(0, 0, 1.0), (0, 2, 1.0), (1, 2, 1.0), (1, 3, 1.0)])
    assert relevant_ranks(queries, corpus, judgements).tolist() == [2, 3, 1, 4]
    assert relevant_ranks(queries, corpus, judgements, {0: 1, 1: 0}).tolist() == [1, 2, 1, 3]


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_those_of_a_slow_loop(seed, monkeypatch):
    queries, corpus, judgements = random_case(seed)
    if seed % 2:  # blocks of two queries, and of one pair
        monkeypatch.setattr(similarity, "_BLOCK_CELLS", 2 * len(corpus))
        monkeypatch.setattr(retrieval, "_BLOCK_CELLS", 1)
    metrics = ranking_metrics(relevant_ranks(queries, corpus, judgements), judgements, len(queries))
    assert metrics == pytest.approx(slow_metrics(queries, corpus, judgements), abs=1e-9)


def test_measures_are_those_of_sentence_transformers():
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    queries, corpus, judgements = random_case(9)
    judgements = Judgements(judgements.query_rows, judgements.text_rows, torch.ones_like(judgements.grades))
    relevant = {str(query): set() for query in range(len(queries))}
    for query, row in zip(judgements.query_rows.tolist(), judgements.text_rows.tolist(), strict=True):
        relevant[str(query)].add(str(row))
    oracle = evaluation.InformationRetrievalEvaluator(
        {str(i): str(i) for i in range(len(queries))},
        {str(i): str(i) for i in range(len(corpus))},
        relevant,
        precision_recall_at_k=[1, 10, 100],
        write_csv=False,
    )
    cosines = F.normalize(queries, dim=-1) @ F.normalize(corpus, dim=-1).T
    hits = [[{"corpus_id": str(row), "score": score} for row, score in enumerate(line.tolist())] for line in cosines]
    theirs = oracle.compute_metrics(hits)
    ours = ranking_metrics(relevant_ranks(queries, corpus, judgements), judgements, len(queries))
    for name, value in ours.items():
        measure, _, k = name.rpartition("_at_")
        assert value == pytest.approx(100 * theirs[f"{measure}@k"][int(k)], abs=1e-9), name


def test_graded_gain_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    queries, corpus, judgements = random_case(3)
    grades = np.zeros((len(queries), len(corpus)))
    grades[judgements.query_rows, judgements.text_rows] = judgements.grades
    cosines = (F.normalize(queries, dim=-1) @ F.normalize(corpus, dim=-1).T).numpy()
    ours = ranking_metrics(relevant_ranks(queries, corpus, judgements), judgements, len(queries))
    assert ours["ndcg_at_10"] == pytest.approx(100 * sklearn.ndcg_score(grades, cosines, k=10), abs=1e-6)


def test_measures_do_not_depend_on_the_order_of_the_corpus_or_the_length_of_embeddings():
    queries, corpus, judgements = random_case(5)
    expected = ranking_metrics(relevant_ranks(queries, corpus, judgements), judgements, len(queries))
    order = torch.randperm(len(corpus), generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(corpus))
    moved = Judgements(judgements.query_rows, place[judgements.text_rows], judgements.grades)
    longer = corpus[order] * torch.linspace(0.5, 2, len(corpus))[:, None]
    ranks = relevant_ranks(3 * queries, longer, moved)
    assert ranking_metrics(ranks, moved, len(queries)) == pytest.approx(expected, abs=1e-9)


def test_texts_that_are_found_at_once_score_100_and_equal_embeddings_score_0():
    texts = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    own = Judgements.from_entries([(i, i, 1.0) for i in range(len(texts))])
    assert set(ranking_metrics(relevant_ranks(texts, texts, own), own, len(texts)).values()) == {100.0}
    same = torch.full((300, 8), 0.3) + 1e-8 * texts  # equal but for rounding errors
    assert set(ranking_metrics(relevant_ranks(same, same, own), own, len(texts)).values()) == {0.0}


def test_sparse_embeddings_rank_as_dense_ones():
    queries, corpus, judgements = random_case(2)
    queries[0] = 0  # a query of unknown words
    corpus[5:9] = 0
    ranks = relevant_ranks(queries, corpus, judgements)
    assert relevant_ranks(sparse.csr_matrix(queries), sparse.csr_matrix(corpus), judgements).tolist() == ranks.tolist()


def test_a_task_names_its_metrics():
    task = RetrievalTask("shop", ["a", "b"], ["x", "y"], Judgements.from_entries([(0, 0, 1.0), (1, 1, 1.0)]))
    assert task.sentences() == ["a", "b", "x", "y"]
    known = {"a": [1.0, 0.0], "b": [1.0, 0.2], "x": [1.0, 0.0], "y": [0.0, 1.0]}
    scores = task.score(lambda texts: torch.tensor([known[text] for text in texts]))
    names = ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10", "recall_at_100")
    assert list(scores) == [f"shop_{name}" for name in names]
    assert scores["shop_mrr_at_10"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert task.metric_names == list(scores)
