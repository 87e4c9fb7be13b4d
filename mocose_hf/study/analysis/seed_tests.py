"""Statistics of a few seeds: spread, paired tests, equivalence, multiple comparisons and rank agreement."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t, ttest_rel

from mocose_hf.evaluation.correlation import spearman

CONFIDENCE = 0.95

ROUNDING = 1e-9
"""Relative size below which the variation of differences counts as rounding error."""


@dataclass(frozen=True)
class Summary:
    """A mean over seeds.

    Args:
        count: The number of seeds, at least 1.
        mean: The mean.
        sd: The sample standard deviation (divisor `count` − 1), None for one seed.
    """

    count: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class PairedTest:
    """A two-sided paired t-test of one cell against another over their shared seeds.

    Args:
        count: The number of shared seeds.
        difference: The mean difference, None without a shared seed.
        low, high: Its 95 % confidence interval, None without a test.
        p: None without a test.
        reason: Why there is no test, "" otherwise.
    """

    count: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Agreement:
    """How similarly two sets of figures rank the same cells.

    Args:
        count: The number of cells in both.
        correlation: Spearman's rank correlation in [−1, 1]; None for fewer than three cells or constant figures.
        chance: The standard deviation of that correlation for unrelated rankings, None without a correlation.
        best: The names of the best cell in each set, "" without shared cells.
    """

    count: int
    correlation: float | None = None
    chance: float | None = None
    best: tuple[str, str] = ("", "")


def summary(figures: Sequence[float]) -> Summary | None:
    """Return the mean and the sample standard deviation of figures, None without figures."""
    if not figures:
        return None
    sd = float(np.std(figures, ddof=1)) if len(figures) > 1 else None
    return Summary(len(figures), float(np.mean(figures)), sd)


def paired_test(cell: Mapping[int, float], default: Mapping[int, float]) -> PairedTest:
    """Test whether a cell differs from the default over their shared seeds.

    Args:
        cell, default: The score of each seed.
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
    """Return the p of equivalence. The null hypothesis is a mean paired difference outside ± bound.

    The larger p of two one-sided t-tests over the shared seeds (Schuirmann 1987,
    https://doi.org/10.1007/BF01068419). A p below 0.05 means that the 90 % confidence interval of the difference lies
    within the bounds.

    Args:
        cell, default: The score of each seed.
        bound: The largest difference that has no practical importance, above 0.

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
    """Return about how many seeds one equivalence test of equal cells needs for a power of 0.8.

    Args:
        sd: The standard deviation of the paired differences, above 0.
        bound: The bound of equivalence, above 0.
    """
    z = norm.ppf(CONFIDENCE) + norm.ppf(0.9)  # each of the two one-sided tests may fail one time in ten
    return max(2, math.ceil((z * sd / bound) ** 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method, in the given order.

    Holm 1979, https://www.jstor.org/stable/4615733: the i-th smallest of m values is multiplied by m − i + 1, capped
    at 1, and is at least as large as the one before. The probability of rejecting any true hypothesis at 0.05 is then
    at most 0.05, also for dependent tests such as several against one default.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def first_step_ratio(count: int, comparisons: int) -> float:
    """Return the difference that makes the first of several cells significant by Holm's method at 0.05.

    Args:
        count: The number of shared seeds, at least 2.
        comparisons: The number of tested cells.

    Returns:
        The smallest mean difference, in standard deviations of the differences: t_{1 − 0.025 / m, n − 1} / √n.
    """
    return float(t.isf((1 - CONFIDENCE) / 2 / comparisons, count - 1)) / math.sqrt(count)


def spread_over_seeds(groups: Iterable[Sequence[float]]) -> float | None:
    """Return the pooled standard deviation over seeds within cells; None if no cell has two seeds.

    This is descriptive. Cells that share their seeds are no independent samples, so it has no confidence interval.

    Args:
        groups: The scores of each cell, one per seed.
    """
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    weights = [len(group) - 1 for group in groups]
    return math.sqrt(np.average([np.var(group, ddof=1) for group in groups], weights=weights))


def agreement(first: Mapping[str, float], second: Mapping[str, float]) -> Agreement:
    """Compare the rankings of the cells that are in both sets.

    The rank correlation of k cells with unrelated rankings scatters around 0 with a standard deviation of
    1 / √(k − 1).

    Args:
        first, second: The figure of each cell by its name; higher is better.
    """
    names = [name for name in first if name in second]
    if not names:
        return Agreement(0)
    best = (max(names, key=first.__getitem__), max(names, key=second.__getitem__))
    correlation = spearman([first[name] for name in names], [second[name] for name in names]) / 100
    if len(names) < 3 or math.isnan(correlation):
        return Agreement(len(names), best=best)
    return Agreement(len(names), correlation, 1 / math.sqrt(len(names) - 1), best)
