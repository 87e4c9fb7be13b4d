"""What can be said of a few seeds: spread, paired tests, the noise floor, and agreement in rank; pure functions."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import chi2, f, studentized_range, t, ttest_rel

from mocose_hf.evaluation.correlation import spearman

CONFIDENCE = 0.95

_ROUNDING = 1e-9
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
class NoiseFloor:
    """What seeds alone do to the figures of a study, on the assumption that its cells spread alike.

    Args:
        sd: Pooled standard deviation over the seeds of all cells.
        low, high: 95 % confidence interval of it (χ², for normal figures).
        degrees_of_freedom: Those of it: seeds less cells, of the cells with two seeds or more.
        count: Number of seeds in a mean for which the next is said.
        smallest_difference: Of two means of `count` seeds each: the smallest difference that a two-sided unpaired
            95 % t-interval tells from zero.
    """

    sd: float
    low: float
    high: float
    degrees_of_freedom: int
    count: int
    smallest_difference: float


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
    if np.ptp(differences) <= _ROUNDING * max(np.abs(ours).max(), np.abs(theirs).max()):
        return PairedTest(len(seeds), difference, reason="the same difference with every seed")
    result = ttest_rel(ours, theirs)
    low, high = result.confidence_interval(CONFIDENCE)
    return PairedTest(len(seeds), difference, float(low), float(high), float(result.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method, in their order.

    Holm 1979, https://www.jstor.org/stable/4615733: the i-th smallest of m is multiplied by m − i + 1, is at most 1
    and at least as large as the one before. Whatever of the hypotheses is true, the chance to reject a true one at
    0.05 is 0.05 at most, and the tests may depend on each other, as those against one default do.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def first_step_ratio(count: int, comparisons: int) -> float:
    """Return what it takes to be told apart as the first of several cells by Holm's method at 0.05.

    Args:
        count: Number of common seeds, at least 2.
        comparisons: Number of cells that are tested.

    Returns:
        The smallest mean difference, in standard deviations of the differences: t_{1 − 0.025 / m, n − 1} / √n.
    """
    return float(t.isf((1 - CONFIDENCE) / 2 / comparisons, count - 1)) / math.sqrt(count)


def noise_floor(groups: Iterable[Sequence[float]]) -> NoiseFloor | None:
    """Pool the spread over seeds within cells.

    Args:
        groups: Figures of each cell, one a seed.

    Returns:
        None where no cell has two seeds. Means are taken to have as many seeds as most cells of two seeds or more
        have; where several numbers are as frequent, the smallest of them.
    """
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    freedom = [len(group) - 1 for group in groups]
    total = sum(freedom)
    sd = math.sqrt(np.average([np.var(group, ddof=1) for group in groups], weights=freedom))
    low, high = (sd * math.sqrt(total / float(chi2.ppf(p, total))) for p in _tails()[::-1])
    count = _most_frequent([len(group) for group in groups])
    smallest = float(t.ppf(_tails()[1], total)) * sd * math.sqrt(2 / count)
    return NoiseFloor(sd, low, high, total, count, smallest)


def pooled_p(first: Summary, second: Summary, floor: NoiseFloor) -> float | None:
    """Return the two-sided p of an unpaired t-test of two means that takes the noise floor for their spread.

    It has the degrees of freedom of the whole study, so it finds with few seeds what a paired test cannot, at the
    price of the assumption that all cells spread alike. None where the noise floor is 0.
    """
    if floor.sd == 0:
        return None
    error = floor.sd * math.sqrt(1 / first.count + 1 / second.count)
    return 2 * float(t.sf(abs(first.mean - second.mean) / error, floor.degrees_of_freedom))


def outlying_spread(groups: Mapping[str, Sequence[float]]) -> str | None:
    """Return the name of the group that spreads more than the others pooled, beyond chance; None where there is none.

    The largest variance against that of the others by F at 0.05 over the number of groups, which for groups of one
    size is Cochran's test (1941, https://doi.org/10.1111/j.1469-1809.1941.tb02271.x).

    Args:
        groups: Figures of each group; of fewer than three groups with two figures none stands out.
    """
    floors = {name: noise_floor([group]) for name, group in groups.items() if len(group) > 1}
    if len(floors) < 3:
        return None
    name = max(floors, key=lambda name: floors[name].sd)
    widest, others = floors[name], noise_floor(groups[other] for other in floors if other != name)
    if others.sd == 0:
        return name if widest.sd > 0 else None
    ratio = (widest.sd / others.sd) ** 2
    chance = float(f.sf(ratio, widest.degrees_of_freedom, others.degrees_of_freedom)) * len(floors)
    return name if chance < 1 - CONFIDENCE else None


def spread_of_equal_means(floor: NoiseFloor, counts: Sequence[int]) -> float:
    """Return how far the highest of k means lies above the lowest in 95 of 100 studies at most, were all cells equal.

    The studentised range of Tukey, with the harmonic mean of the numbers of seeds where these differ.

    Args:
        floor: The spread over seeds.
        counts: Number of seeds of each of the k means, k at least 2.
    """
    seeds = len(counts) / sum(1 / count for count in counts)
    return _studentised_range(len(counts), floor.degrees_of_freedom) * floor.sd / math.sqrt(seeds)


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


@lru_cache(maxsize=256)
def _studentised_range(means: int, degrees_of_freedom: int) -> float:
    return float(studentized_range.ppf(CONFIDENCE, means, degrees_of_freedom))  # takes a good part of a second


def _tails() -> tuple[float, float]:
    return (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2


def _most_frequent(counts: Sequence[int]) -> int:
    return min(Counter(counts).items(), key=lambda entry: (-entry[1], entry[0]))[0]
