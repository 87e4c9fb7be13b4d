"""Labelled texts: how often the neighbours of a text, and the texts of a cluster, share its label."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mocose_hf.data.readers import read_records
from mocose_hf.data.text_lines import fallback_encoding
from mocose_hf.errors import InputError
from mocose_hf.evaluation.optional_libraries import validate_sklearn
from mocose_hf.evaluation.similarity import Embeddings, cosine_blocks, unit_rows
from mocose_hf.evaluation.task_names import task_name

METRICS = ("precision_at_10", "knn_accuracy_at_1", "knn_accuracy_at_10")
"""The metrics of a task; the first one selects the best checkpoint by default."""

V_MEASURE = "v_measure"
"""The metric of the clusters."""

NEIGHBOURS = 10

KMEANS_STARTS = 3

MAX_ROWS = 4_000
"""The largest number of rows that are scored; of a larger file, as many are drawn at random."""


@dataclass
class LabelTask:
    """Texts with one label each.

    Args:
        name: The name of the task, which begins the names of its metrics.
        texts: N texts, N > `NEIGHBOURS`.
        labels: Their N labels, two or more different ones.
        clusters: Whether k-means is scored too, which takes seconds and needs scikit-learn.
        source: The file that the task was read from.
        rows: Number of rows in that file.
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
    def metric_names(self) -> list[str]:
        """The names of the metrics, the most important one first."""
        return [f"{self.name}_{metric}" for metric in (*METRICS, *[V_MEASURE] * self.clusters)]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def summary(self) -> str:
        """Return one line with the source and the numbers of texts and labels."""
        total = f" of {self.rows:,}" if self.rows > len(self.texts) else ""
        return f"{self.source}: {len(self.texts):,}{total} texts, {len(set(self.labels)):,} labels."

    def targets(self) -> list[str]:
        """Return the labels, as plain values that identify the task together with its sentences."""
        return self.labels

    def sentences(self) -> list[str]:
        """Return all texts."""
        return self.texts

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Return the metrics × 100 by name.

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


def read_label_task(path: str | Path, clusters: bool = False, encoding: str | None = None) -> LabelTask:
    """Read a file with columns `label` and `text`.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file, or one of these and .gz. Of more than `MAX_ROWS` rows, the first
            ones of numpy's `RandomState(0).permutation` are scored.
        clusters: Whether k-means is scored too.
        encoding: Encoding of the file if it is not UTF-8.

    Raises:
        InputError: With file, line and remedy; with `clusters` also if scikit-learn is not installed.
    """
    if clusters:
        validate_sklearn("V-measure")
    rows: list[tuple[str, str]] = []
    for place, record in read_records(path, ("label", "text"), ("label",), encoding=fallback_encoding(path, encoding)):
        label, text = _label_text((record or {}).get("label")), ((record or {}).get("text") or "").strip()
        if not label and not text:
            continue
        if not label or not text:
            raise InputError(f"{place}: a blank {'text' if label else 'label'}; write it, or drop the row.")
        rows.append((label, text))
    sample = [rows[i] for i in np.random.RandomState(0).permutation(len(rows))[:MAX_ROWS]]
    labels, texts = [label for label, _ in sample], [text for _, text in sample]
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
    neighbours = []
    for start, block in cosine_blocks(embeddings, embeddings):
        block_rows = torch.arange(len(block))
        block[block_rows, start + block_rows] = -torch.inf  # a row is not its own neighbour
        neighbours.append(block.topk(count, dim=1).indices)
    return torch.cat(neighbours)


def neighbour_metrics(neighbours: Tensor, labels: Tensor | Sequence[int]) -> dict[str, float]:
    """Compare the label of each row with those of its neighbours, leave-one-out.

    Args:
        neighbours: (N, 10) int64, the nearest first.
        labels: (N,) int64.

    Returns:
        × 100: `precision_at_10` (mean share of neighbours with the label of the row), `knn_accuracy_at_1` (share of
        rows whose nearest neighbour has their label) and `knn_accuracy_at_10` (share of rows whose label wins the vote
        of the neighbours; of labels with equal votes, the one of the nearest neighbour wins).
    """
    labels = torch.as_tensor(labels)
    neighbour_labels = labels[neighbours]  # (N, 10)
    votes = (neighbour_labels[:, :, None] == neighbour_labels[:, None, :]).sum(dim=2)
    # argmax returns the first of equal maxima, which is the nearest neighbour.
    predicted = neighbour_labels.gather(1, votes.argmax(dim=1, keepdim=True))
    is_same = neighbour_labels == labels[:, None]
    metrics = {
        "precision_at_10": is_same,
        "knn_accuracy_at_1": is_same[:, 0],
        "knn_accuracy_at_10": predicted[:, 0] == labels,
    }
    return {name: 100.0 * values.double().mean().item() for name, values in metrics.items()}


def kmeans_v_measure(embeddings: Embeddings, labels: Tensor | Sequence[int], starts: int = KMEANS_STARTS) -> float:
    """Cluster the normalised rows by k-means into as many clusters as there are labels, and compare the two.

    Args:
        embeddings: (N, H).
        labels: (N,) int64.
        starts: Number of random starts that the V-measure is averaged over.

    Returns:
        V-measure (harmonic mean of homogeneity and completeness) × 100.

    Raises:
        InputError: If scikit-learn is not installed.
    """
    validate_sklearn("V-measure")
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    rows, numbers = unit_rows(embeddings), np.asarray(labels)
    unit = rows.numpy() if isinstance(rows, Tensor) else rows
    count = len(np.unique(numbers))
    clusterings = (KMeans(count, n_init=1, random_state=start).fit_predict(unit) for start in range(starts))
    return 100.0 * float(np.mean([v_measure_score(numbers, clusters) for clusters in clusterings]))


def _label_text(label: object) -> str:
    """Return a label as text; JSON and Parquet may hold one label as 1 and 1.0."""
    if label is None:
        return ""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).strip()
