"""Neighbours and clusters of labelled texts."""

import math
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.nn import functional as F

from mocose_hf.errors import InputError
from mocose_hf.evaluation import similarity
from mocose_hf.evaluation.labels import (
    LabelTask,
    kmeans_v_measure,
    nearest_neighbours,
    neighbour_metrics,
    read_label_task,
)


def labelled(seed: int, rows: int = 90, labels: int = 4, spread: float = 1.0):
    """Embeddings around one centre for each label."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(labels, 6, generator=generator)
    drawn = torch.randint(labels, (rows,), generator=generator)
    return centres[drawn] + spread * torch.randn(rows, 6, generator=generator), drawn


def slow_metrics(embeddings, labels) -> dict[str, float]:
    first = vote = share = 0
    for i, own in enumerate(embeddings):
        cosines = {j: F.cosine_similarity(own, e, dim=0).item() for j, e in enumerate(embeddings) if j != i}
        near = [int(labels[j]) for j in sorted(cosines, key=cosines.get, reverse=True)[:10]]
        votes = Counter(near)
        winner = next(label for label in near if votes[label] == max(votes.values()))
        first += near[0] == labels[i]
        vote += winner == labels[i]
        share += near.count(int(labels[i])) / 10
    sums = {"knn_accuracy_at_1": first, "knn_accuracy_at_10": vote, "precision_at_10": share}
    return {name: 100 * float(value) / len(embeddings) for name, value in sums.items()}


def test_measures_by_hand():
    # Row 0 (label 1): six votes for 0 beat its own four. Row 1 (label 2): five votes each, so the nearest decides.
    labels = torch.tensor([1, 2, 0, 1, 2])
    neighbours = torch.tensor([[3, 3, 3, 3, 2, 2, 2, 2, 2, 2], [4, 2, 2, 2, 2, 2, 4, 4, 4, 4]])
    metrics = neighbour_metrics(torch.cat([neighbours, torch.full((3, 10), 3)]), labels)
    assert metrics == pytest.approx(
        {
            "knn_accuracy_at_1": 100 * (1 + 1 + 0 + 1 + 0) / 5,
            "knn_accuracy_at_10": 100 * (0 + 1 + 0 + 1 + 0) / 5,
            "precision_at_10": 100 * (0.4 + 0.5 + 0 + 1 + 0) / 5,
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_a_slow_loop(seed, monkeypatch):
    embeddings, labels = labelled(seed)
    if seed:
        monkeypatch.setattr(similarity, "_BLOCK_CELLS", 7 * len(labels))
    metrics = neighbour_metrics(nearest_neighbours(embeddings, 10), labels)
    assert metrics == pytest.approx(slow_metrics(embeddings, labels), abs=1e-9)
    assert metrics["precision_at_10"] < 100


def test_nearest_neighbour_is_that_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    embeddings, _ = labelled(4)
    unit = F.normalize(embeddings, dim=-1).numpy()
    found = neighbors.NearestNeighbors(n_neighbors=10, metric="cosine").fit(unit).kneighbors(return_distance=False)
    assert nearest_neighbours(embeddings, 10).tolist() == found.tolist()


def test_measures_do_not_depend_on_order_length_or_names_of_labels():
    embeddings, labels = labelled(5)
    expected = neighbour_metrics(nearest_neighbours(embeddings, 10), labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))
    longer = embeddings[order] * torch.linspace(0.5, 2, len(labels))[:, None]
    moved = neighbour_metrics(nearest_neighbours(longer, 10), 17 - labels[order])
    assert moved == pytest.approx(expected, abs=1e-9)


def test_labels_that_lie_apart_score_100():
    embeddings, labels = labelled(6, spread=1e-4)
    metrics = neighbour_metrics(nearest_neighbours(embeddings, 10), labels)
    assert set(metrics.values()) == {100.0}
    pytest.importorskip("sklearn")
    assert kmeans_v_measure(embeddings, labels) == pytest.approx(100.0)


def test_v_measure_is_the_mean_harmonic_mean_of_homogeneity_and_completeness():
    cluster = pytest.importorskip("sklearn.cluster")
    embeddings, labels = labelled(7, spread=1.5)
    unit, values = F.normalize(embeddings, dim=-1).numpy(), []

    def entropy(*columns) -> float:
        counts = Counter(zip(*columns, strict=True)).values()
        return -sum(n / len(labels) * math.log(n / len(labels)) for n in counts)

    for start in range(3):
        found = cluster.KMeans(4, n_init=1, random_state=start).fit_predict(unit).tolist()
        true = labels.tolist()
        joint = entropy(true, found)
        homogeneity = 1 - (joint - entropy(found)) / entropy(true)
        completeness = 1 - (joint - entropy(true)) / entropy(found)
        values.append(2 * homogeneity * completeness / (homogeneity + completeness))
    assert kmeans_v_measure(3 * embeddings, labels) == pytest.approx(100 * sum(values) / 3, abs=1e-6)


def test_sparse_embeddings_score_as_dense_ones():
    embeddings, labels = labelled(8)
    embeddings = embeddings.relu()
    rows = sparse.csr_matrix(embeddings)
    dense = neighbour_metrics(nearest_neighbours(embeddings, 10), labels)
    assert neighbour_metrics(nearest_neighbours(rows, 10), labels) == pytest.approx(
        dense, abs=1.5
    )  # ties of zero rows


def test_a_task_names_its_metrics():
    embeddings, labels = labelled(9, rows=40)
    texts = [str(i) for i in range(40)]
    task = LabelTask("bank", texts, [f"label {i}" for i in labels.tolist()])
    scores = task.score(lambda texts: embeddings[[int(text) for text in texts]])
    expected = neighbour_metrics(nearest_neighbours(embeddings, 10), labels)
    assert scores == {f"bank_{name}": value for name, value in expected.items()}
    assert task.metric_names == list(scores)
    pytest.importorskip("sklearn")
    task.clusters = True
    more = task.score(lambda texts: embeddings[[int(text) for text in texts]])
    assert task.metric_names == list(more)
    assert more == scores | {"bank_v_measure": kmeans_v_measure(embeddings, np.asarray(labels))}


@pytest.mark.parametrize(
    ("texts", "labels"), [(["a"] * 10, ["1", "2"] * 5), (["a"] * 12, ["1"] * 12), (["a"] * 12, ["1", "2"])]
)
def test_a_task_needs_eleven_texts_and_two_labels(texts, labels):
    with pytest.raises(ValueError, match="at least 11 texts, and at least 2 different labels"):
        LabelTask("x", texts, labels)
    with pytest.raises(ValueError, match="need at least 11 rows, not 10"):
        nearest_neighbours(torch.randn(10, 2), 10)


def test_clusters_without_scikit_learn_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install .*\[evaluation\]'"):
        kmeans_v_measure(torch.randn(4, 2), [0, 1, 0, 1])


def test_whole_numbers_are_one_label_however_they_are_written(tmp_path):
    rows = [f'{{"text": "text {i}", "label": {label}}}' for i, label in enumerate(("1", "1.0", '"1"', "2", "2.5") * 3)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    task = read_label_task(tmp_path / "a.jsonl")
    assert sorted(task.labels) == ["1"] * 9 + ["2"] * 3 + ["2.5"] * 3
