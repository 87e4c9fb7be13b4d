"""The geometry of an embedding space."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.evaluation.sentence_embeddings import SentenceEmbeddings

ROUNDING = 1e-6
"""Values below this share of the largest one are rounding errors of float32."""

POSITIVE_SCORE = 4.0
"""Pairs scored above this are positive pairs for `alignment`, as in SimCSE (https://arxiv.org/abs/2104.08821)."""

_BLOCK_ROWS = 512


def alignment(first: Tensor, second: Tensor) -> float:
    """Return the mean squared distance of positive pairs on the unit sphere, in [0, 4]; lower is closer.

    Wang & Isola 2020 (https://arxiv.org/abs/2005.10242), with α = 2.

    Args:
        first, second: (N, H), N ≥ 1, one pair a row; normalised here.
    """
    difference = F.normalize(first.double(), dim=-1) - F.normalize(second.double(), dim=-1)
    return difference.square().sum(-1).mean().item()


def uniformity(embeddings: Tensor) -> float:
    """Return log E exp(−2 ‖x − y‖²) over all pairs of different rows, in [−8, 0]; lower is more even.

    Wang & Isola 2020 (https://arxiv.org/abs/2005.10242), with t = 2.

    Args:
        embeddings: (N, H), N ≥ 2; normalised here.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(embeddings) < 2:
        raise ValueError(f"Uniformity needs at least 2 embeddings, not {len(embeddings)}.")
    unit = F.normalize(embeddings.double(), dim=-1)
    total = unit.new_zeros(())
    for rows in unit.split(_BLOCK_ROWS):
        total += torch.cdist(rows, unit, compute_mode="donot_use_mm_for_euclid_dist").square().mul(-2).exp().sum()
    count = len(unit)
    return torch.log((total - count) / (count * (count - 1))).item()  # without the distance of each row to itself


def mean_cosine(embeddings: Tensor) -> float:
    """Return the mean cosine of all pairs of different rows, in [−1 / (N − 1), 1]; 1 is a collapse.

    The cosines of all pairs sum to the squared length of the sum of the unit rows, so the cost is O(N · H).

    Args:
        embeddings: (N, H), N ≥ 2; normalised here. A row of zeros has the cosine 0 to every other.

    Raises:
        ValueError: If there are fewer than two.
    """
    if len(embeddings) < 2:
        raise ValueError(f"The mean cosine needs at least 2 embeddings, not {len(embeddings)}.")
    unit = F.normalize(embeddings.double(), dim=-1)
    count = len(unit)
    total = unit.sum(0).square().sum() - unit.square().sum()  # without the cosine of each row to itself
    return (total / (count * (count - 1))).item()


def singular_values(matrix: Tensor) -> Tensor:
    """Return the singular values of a matrix, the largest first: min(N, D) numbers, float64, none below 0.

    Args:
        matrix: (N, D), N, D ≥ 1; not centred.
    """
    return torch.linalg.svdvals(matrix.double())


def effective_rank(matrix: Tensor) -> float:
    """Return exp(−Σ_k p_k log p_k), p_k = σ_k / Σ_j σ_j, of the singular values σ, in [1, min(N, D)].

    It is k if k singular values are equal and the others 0, and 0 for a matrix of zeros (Roy & Vetterli 2007, "The
    effective rank: a measure of effective dimensionality", EUSIPCO, definition 1).

    Args:
        matrix: (N, D), N, D ≥ 1; not centred: subtract the mean row first if it should not count.
    """
    values = singular_values(matrix)
    total = values.sum()
    if total == 0:
        return 0.0
    return torch.special.entr(values / total).sum().exp().item()


@dataclass
class GeometryTask:
    """Alignment, uniformity and singular values of the embeddings of scored pairs.

    The paper studies alignment and uniformity (of all pairs and of the positive ones) and the singular values (Figure
    7) on STS-B (https://arxiv.org/abs/2202.13093).

    Attributes:
        pairs: Columns `score`, `sentence1`, `sentence2`, as `read_stsb` returns them; scores of 0 to 5.
        name: The name of the task.
    """

    pairs: Dataset
    name: str = "geometry"

    def sentences(self) -> list[str]:
        """Return the different sentences of all pairs, in order of their first occurrence."""
        return _different(self.pairs["sentence1"], self.pairs["sentence2"])

    def score(self, embeddings: Callable[[list[str]], Tensor], show_progress: bool = False) -> dict[str, float]:
        """Measure the embeddings of all pairs.

        Args:
            embeddings: Returns the embeddings (N, H) of N sentences.
            show_progress: Not used.

        Returns:
            `alignment` of the pairs scored above `POSITIVE_SCORE` and `alignment_all_pairs`; `uniformity` of all
            different sentences and `uniformity_positive_pairs` of those in positive pairs; `effective_rank` of all
            different sentences **after subtracting their mean**, 0 if they differ only by rounding errors; their
            `mean_cosine`, without centring. Metrics of positive pairs are missing if there are no positive pairs.

        Raises:
            ValueError: If all sentences are equal.
        """
        first, second = list(self.pairs["sentence1"]), list(self.pairs["sentence2"])
        sentences = self.sentences()
        matrix = embeddings(sentences).double()
        lookup = SentenceEmbeddings(sentences, matrix)
        left, right = lookup(first), lookup(second)
        positive = [i for i, score in enumerate(self.pairs["score"]) if score > POSITIVE_SCORE]
        metrics = {}
        if positive:
            metrics["alignment"] = alignment(left[positive], right[positive])
        metrics["alignment_all_pairs"] = alignment(left, right)
        metrics["uniformity"] = uniformity(matrix)
        positive_sentences = _different((first[i] for i in positive), (second[i] for i in positive))
        if len(positive_sentences) > 1:
            metrics["uniformity_positive_pairs"] = uniformity(lookup(positive_sentences))
        centered = matrix - matrix.mean(0)
        is_collapsed = centered.norm() <= ROUNDING * matrix.norm()  # the rank would be that of rounding errors
        metrics["effective_rank"] = 0.0 if is_collapsed else effective_rank(centered)
        metrics["mean_cosine"] = mean_cosine(matrix)
        return metrics

    def spectrum(self, embeddings: Callable[[list[str]], Tensor]) -> Tensor:
        """Return the singular values of the embeddings of all different sentences, without centring or normalisation.

        Figure 7 of https://arxiv.org/abs/2202.13093.

        Args:
            embeddings: As `score` takes it.
        """
        return singular_values(embeddings(self.sentences()))


def _different(first: Iterable[str], second: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))
