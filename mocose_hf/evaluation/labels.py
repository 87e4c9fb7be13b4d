"""Labelled texts: how far the nearest neighbours of a text, and the clusters of all, share its label."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mocose_hf.data.readers import read_records
from mocose_hf.errors import InputError
from mocose_hf.evaluation.similarity import Embeddings, cosine_blocks, unit_rows
from mocose_hf.evaluation.task_names import task_name
from mocose_hf.evaluation.tfidf import has_sklearn

FIGURES = ("precision_at_10", "knn_accuracy_at_1", "knn_accuracy_at_10")
"""What a task is scored by; the first one selects the best checkpoint if none is named."""

V_MEASURE = "v_measure"
"""The figure of the clusters."""

NEIGHBOURS = 10
"""How many neighbours of a text are looked at."""

KMEANS_STARTS = 3

MOST_ROWS = 4_000
"""How many rows of a file are scored; of more, as many are drawn."""


@dataclass
class LabelTask:
    """Texts with one label each.

    Args:
        name: The first part of the names of its figures.
        texts: N texts, N > `NEIGHBOURS`.
        labels: Their N labels, two or more different ones.
        clusters: Whether k-means is scored too, which takes seconds and needs scikit-learn.
        source: The file that it was read from.
        rows: Rows of that file.
    """

    name: str
    texts: list[str]
    labels: list[str]
    clusters: bool = False
    source: str = ""
    rows: int = 0

    def __post_init__(self):
        if len(self.texts) != len(self.labels) or len(self.texts) <= NEIGHBOURS or len(set(self.labels)) < 2:
            raise ValueError(
                f"{len(self.texts)} texts and {len(self.labels)} labels, {len(set(self.labels))} of them different; "
                f"give a label for each of at least {NEIGHBOURS + 1} texts, and at least 2 different labels."
            )

    @property
    def figures(self) -> list[str]:
        """The names of the figures, the first one to look at first."""
        return [f"{self.name}_{figure}" for figure in (*FIGURES, *[V_MEASURE] * self.clusters)]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def summary(self) -> str:
        """Return one line: the source and its numbers of texts and labels."""
        drawn = f" of {self.rows:,}" if self.rows > len(self.texts) else ""
        return f"{self.source}: {len(self.texts):,}{drawn} texts, {len(set(self.labels)):,} labels."

    def answers(self) -> list[str]:
        """Return what the texts are scored against, as plain values."""
        return self.labels

    def sentences(self) -> list[str]:
        """Return all texts."""
        return self.texts

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Return `{name}_precision_at_10`, `_knn_accuracy_at_1`, `_knn_accuracy_at_10` and, with `clusters`,
        `_v_measure`, × 100.

        Args:
            embeddings: Returns the embeddings (N, H) of N texts.
            show_progress: Not used.
        """
        matrix = embeddings(self.texts)
        labels = torch.from_numpy(np.unique(self.labels, return_inverse=True)[1])
        metrics = neighbour_metrics(nearest_neighbours(matrix, NEIGHBOURS), labels)
        if self.clusters:
            metrics[V_MEASURE] = kmeans_v_measure(matrix, labels)
        return {f"{self.name}_{metric}": value for metric, value in metrics.items()}


def read_label_task(path: str | Path, clusters: bool = False) -> LabelTask:
    """Read a file with columns `label` and `text`.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file, or one of these and .gz. Of more than `MOST_ROWS` rows as many are
            drawn: the first ones of numpy's `RandomState(0).permutation`.
        clusters: Whether k-means is scored too.

    Raises:
        InputError: With file, line and remedy; with `clusters` also if scikit-learn is not installed.
    """
    if clusters:
        require_sklearn()
    rows: list[tuple[str, str]] = []
    for place, record in read_records(path, ("label", "text"), ("label",)):
        label, text = (record or {}).get("label"), ((record or {}).get("text") or "").strip()
        label = "" if label is None else str(label).strip()
        if not label and not text:
            continue
        if not label or not text:
            raise InputError(f"{place}: a blank {'text' if label else 'label'}; write it, or drop the row.")
        rows.append((label, text))
    drawn = [rows[i] for i in np.random.RandomState(0).permutation(len(rows))[:MOST_ROWS]]
    labels, texts = [label for label, _ in drawn], [text for _, text in drawn]
    try:
        return LabelTask(task_name(path), texts, labels, clusters, str(path), len(rows))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def nearest_neighbours(embeddings: Embeddings, count: int) -> Tensor:
    """Return the `count` other rows of highest cosine for each row of (N, H), nearest first; (N, count) int64.

    Raises:
        ValueError: If there are fewer than `count` other rows.
    """
    rows = embeddings.shape[0]
    if rows <= count:
        raise ValueError(f"{count} neighbours of each row need at least {count + 1} rows, not {rows}.")
    found = []
    for start, block in cosine_blocks(embeddings, embeddings):
        here = torch.arange(len(block))
        block[here, start + here] = -torch.inf  # a row is not its own neighbour
        found.append(block.topk(count, dim=1).indices)
    return torch.cat(found)


def neighbour_metrics(neighbours: Tensor, labels: Tensor | Sequence[int]) -> dict[str, float]:
    """Compare the label of each row with those of its neighbours, leave-one-out.

    Args:
        neighbours: (N, 10) int64, the nearest first.
        labels: (N,) int64.

    Returns:
        × 100: `precision_at_10` (mean share of neighbours with the label of the row), `knn_accuracy_at_1` (share of
        rows whose nearest neighbour has their label) and `knn_accuracy_at_10` (share of rows whose label most of the
        neighbours have; of labels with equal votes, the one of the nearest neighbour wins).
    """
    labels = torch.as_tensor(labels)
    found = labels[neighbours]  # (N, 10)
    votes = (found[:, :, None] == found[:, None, :]).sum(dim=2)
    predicted = found.gather(1, votes.argmax(dim=1, keepdim=True))  # the first of equal maxima is the nearest
    same = found == labels[:, None]
    figures = {
        "precision_at_10": same,
        "knn_accuracy_at_1": same[:, 0],
        "knn_accuracy_at_10": predicted[:, 0] == labels,
    }
    return {name: 100.0 * values.double().mean().item() for name, values in figures.items()}


def kmeans_v_measure(embeddings: Embeddings, labels: Tensor | Sequence[int], starts: int = KMEANS_STARTS) -> float:
    """Cluster the normalised rows by k-means into as many clusters as there are labels, and compare the two.

    Args:
        embeddings: (N, H).
        labels: (N,) int64.
        starts: How many starts the figure is the mean of.

    Returns:
        V-measure (harmonic mean of homogeneity and completeness) × 100.

    Raises:
        InputError: If scikit-learn is not installed.
    """
    require_sklearn()
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    labels, unit = np.asarray(labels), unit_rows(embeddings)
    unit = unit.numpy() if isinstance(unit, Tensor) else unit
    count = len(np.unique(labels))
    found = (KMeans(count, n_init=1, random_state=start).fit_predict(unit) for start in range(starts))
    return 100.0 * float(np.mean([v_measure_score(labels, clusters) for clusters in found]))


def require_sklearn() -> None:
    """Raise an `InputError` if scikit-learn is not installed."""
    if not has_sklearn():
        raise InputError(
            "V-measure needs scikit-learn, which is not installed; run pip install 'mocose_hf[evaluation]'."
        )
