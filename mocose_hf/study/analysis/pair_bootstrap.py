"""How far a result depends on the development pairs: a bootstrap over the pairs, with fixed trained encoders."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mocose_hf.study.analysis.seed_tests import CONFIDENCE
from mocose_hf.study.study import TrialResult

RESAMPLES = 1000


@dataclass(frozen=True)
class PairInterval:
    """A percentile interval of a difference over development pairs, for the given seeds.

    Args:
        low, high: 95 % of the resampled sets of pairs give a difference between them.
    """

    low: float
    high: float


class PairResamples:
    """Sets of development pairs drawn with replacement, to correlate cosines with gold scores.

    Args:
        scores: The gold score of each of N pairs.
        counts: How often each pair is in each of B sets, (N, B).
    """

    def __init__(self, scores: Sequence[float], counts: np.ndarray):
        self._counts = np.ascontiguousarray(counts, dtype=np.float64)
        self._scores = self._centred_ranks(scores)  # (N, B)
        self._weighted = self._counts * self._scores
        self._variance = np.einsum("nb,nb->b", self._weighted, self._scores)

    @classmethod
    def draw(cls, scores: Sequence[float], number: int = RESAMPLES) -> "PairResamples":
        """Draw sets of N pairs. Every call draws the same sets."""
        size = len(scores)
        counts = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), size=number)
        return cls(scores, counts.T)

    def spearman(self, cosines: Sequence[float]) -> np.ndarray:
        """Return Spearman's correlation × 100 in each set, (B,) float64; NaN if one side is constant."""
        ranks = self._centred_ranks(cosines)
        variance = np.einsum("nb,nb,nb->b", self._counts, ranks, ranks)
        with np.errstate(invalid="ignore"):
            return 100 * np.einsum("nb,nb->b", self._weighted, ranks) / np.sqrt(variance * self._variance)

    def _centred_ranks(self, figures: Sequence[float]) -> np.ndarray:
        """Return the rank of each pair within each set minus the mean rank, (N, B); ties share a rank."""
        _, group = np.unique(np.asarray(figures, dtype=np.float64), return_inverse=True)
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        in_group = self._counts[order]  # (N, B)
        if len(starts) < len(order):
            in_group = np.add.reduceat(in_group, starts, axis=0)  # (groups, B); most of the time goes here
        ranks = np.cumsum(in_group, axis=0)
        ranks -= in_group / 2
        ranks -= self._counts.sum(axis=0) / 2
        return ranks[group]


def pair_intervals(
    trials: Mapping[str, Sequence[TrialResult]], default: str, fixed: Collection[str] = ()
) -> dict[str, PairInterval]:
    """Return an interval of the difference between each cell and the default over development pairs.

    The difference of the mean scores over shared seeds is recomputed for `RESAMPLES` sets of pairs, drawn with
    replacement (Efron 1979, https://doi.org/10.1214/aos/1176344552). All cells get the same sets.

    Args:
        trials: The trials of each cell; only those with cosines count.
        default: The cell that the others are compared with.
        fixed: The cells without training, whose one trial stands for every seed.
    """
    with_pairs = {cell: {t.seed: t for t in of_cell if t.pair_cosines} for cell, of_cell in trials.items()}
    first = next(iter(with_pairs.get(default, {}).values()), None)
    if first is None:
        return {}
    scores = first.pair_scores
    resamples = PairResamples.draw(scores)
    # A cell may have its own development pairs, so only cells with the default's pairs are compared.
    resampled = {
        cell: {
            seed: resamples.spearman(trial.pair_cosines)
            for seed, trial in by_seed.items()
            if trial.pair_scores == scores
        }
        for cell, by_seed in with_pairs.items()
    }
    seeds = {seed for by_seed in resampled.values() for seed in by_seed}
    for cell in fixed:
        for scores_of_sets in list(resampled.get(cell, {}).values())[:1]:
            resampled[cell] = dict.fromkeys(seeds, scores_of_sets)
    intervals = {
        cell: _interval(by_seed, resampled[default]) for cell, by_seed in resampled.items() if cell != default
    }
    return {cell: interval for cell, interval in intervals.items() if interval is not None}


def _interval(cell: Mapping[int, np.ndarray], default: Mapping[int, np.ndarray]) -> PairInterval | None:
    seeds = sorted(cell.keys() & default.keys())
    differences = np.mean([cell[seed] - default[seed] for seed in seeds], axis=0) if seeds else np.array(np.nan)
    if not np.isfinite(differences).all():
        return None
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return PairInterval(float(low), float(high))
