"""What can be said of a few seeds: spread, paired tests, many comparisons, agreement in rank; pure functions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t, ttest_rel

from mocose_hf.evaluation.correlation import spearman

CONFIDENCE = 0.95

ROUNDING = 1e-9
"""Differences that vary by less than this part of the numbers they are of do so by rounding alone."""


@dataclass(frozen=True)
class Summary:
    """A mean over seeds.

    Args:
        count: Number of seeds, at least 1.
        mean: Their mean.
        sd: Their sample standard deviation (divisor `count` − 1), None of one seed.
    """

    count: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired t-test of one cell against another over their common seeds.

    Args:
        count: Number of common seeds.
        difference: Mean difference, None without a common seed.
        low, high: 95 % confidence interval of it, None where there is no test.
        p: None where there is no test.
        reason: Why there is none, "" where there is one.
    """

    count: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Agreement:
    """How alike two sets of figures rank the same cells.

    Args:
        count: Number of cells that both have.
        correlation: Spearman's, in [−1, 1]; None of fewer than three cells or where a side is constant.
        chance: Standard deviation of that correlation where the two have nothing to do with each other, None with it.
        best: Names of the highest cell of each side, of these cells; "" without any.
    """

    count: int
    correlation: float | None = None
    chance: float | None = None
    best: tuple[str, str] = ("", "")


def summary(figures: Sequence[float]) -> Summary | None:
    """Return mean and sample standard deviation of figures, None of none."""
    if not figures:
        return None
    sd = float(np.std(figures, ddof=1)) if len(figures) > 1 else None
    return Summary(len(figures), float(np.mean(figures)), sd)


def paired_test(cell: Mapping[int, float], default: Mapping[int, float]) -> PairedTest:
    """Test whether a cell differs from the default, over the seeds that both have.

    Args:
        cell, default: Figure of each seed.
    """
    seeds = sorted(cell.keys() & default.keys())
    if not seeds:
        return PairedTest(0, reason="no common seed")
    ours, theirs = (np.array([side[seed] for seed in seeds], dtype=np.float64) for side in (cell, default))
    differences = ours - theirs
    difference = float(differences.mean())
    if len(seeds) < 2:
        return PairedTest(1, difference, reason="one common seed")
    if np.ptp(differences) <= ROUNDING * max(np.abs(ours).max(), np.abs(theirs).max()):
        return PairedTest(len(seeds), difference, reason="the same difference with every seed")
    result = ttest_rel(ours, theirs)
    low, high = result.confidence_interval(CONFIDENCE)
    return PairedTest(len(seeds), difference, float(low), float(high), float(result.pvalue))


def equivalence_p(cell: Mapping[int, float], default: Mapping[int, float], bound: float) -> float | None:
    """Return the p of equivalence: that the mean paired difference lies outside of ± bound.

    Two one-sided t-tests over the seeds that both have (Schuirmann 1987, https://doi.org/10.1007/BF01068419). The
    larger p counts. A p below 0.05 means that the 90 % interval of the difference lies inside of the bounds.

    Args:
        cell, default: Figure of each seed.
        bound: The largest difference that has no importance, above 0.

    Returns:
        None if `paired_test` has no p either.
    """
    if paired_test(cell, default).p is None:
        return None
    seeds = sorted(cell.keys() & default.keys())
    ours, theirs = (np.array([side[seed] for seed in seeds], dtype=np.float64) for side in (cell, default))
    above = ttest_rel(ours + bound, theirs, alternative="greater").pvalue
    below = ttest_rel(ours - bound, theirs, alternative="less").pvalue
    return float(max(above, below))


def seeds_for_equivalence(sd: float, bound: float) -> int:
    """Return about how many seeds one test of equivalence needs to find it with probability 0.8 in equal cells.

    Args:
        sd: Standard deviation of the paired differences, above 0.
        bound: The bound of equivalence, above 0.
    """
    z = norm.ppf(CONFIDENCE) + norm.ppf(0.9)  # each of the two tests may miss one time in ten
    return max(2, math.ceil((z * sd / bound) ** 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method, in their order.

    Holm 1979, https://www.jstor.org/stable/4615733: the i-th smallest of m is multiplied by m − i + 1, is at most 1
    and at least as large as the one before. Whichever hypotheses are true, the probability of rejecting any true one
    at 0.05 is at most 0.05. The tests may depend on each other, as those against one default do.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def first_step_ratio(count: int, comparisons: int) -> float:
    """Return the difference that is significant as the first of several cells by Holm's method at 0.05.

    Args:
        count: Number of common seeds, at least 2.
        comparisons: Number of cells that are tested.

    Returns:
        The smallest mean difference, in standard deviations of the differences: t_{1 − 0.025 / m, n − 1} / √n.
    """
    return float(t.isf((1 - CONFIDENCE) / 2 / comparisons, count - 1)) / math.sqrt(count)


def spread_over_seeds(groups: Iterable[Sequence[float]]) -> float | None:
    """Return the standard deviation over seeds within cells, pooled: how much one run varies; None without two seeds.

    A description: cells that share their seeds are no independent samples of it, so it has no interval here.

    Args:
        groups: Figures of each cell, one a seed.
    """
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    weights = [len(group) - 1 for group in groups]
    return math.sqrt(np.average([np.var(group, ddof=1) for group in groups], weights=weights))


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> Agreement:
    """Compare the ranks of the cells that both have.

    The rank correlation of k cells that have nothing to do with each other scatters around 0 with a standard
    deviation of 1 / √(k − 1).

    Args:
        first, second: Figure of each cell by its name; the higher the better.
    """
    names = [name for name in first if name in second]
    if not names:
        return Agreement(0)
    best = (max(names, key=first.__getitem__), max(names, key=second.__getitem__))
    correlation = spearman([first[name] for name in names], [second[name] for name in names]) / 100
    if len(names) < 3 or math.isnan(correlation):
        return Agreement(len(names), best=best)
    return Agreement(len(names), correlation, 1 / math.sqrt(len(names) - 1), best)
