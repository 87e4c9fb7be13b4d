"""Compare cells that share their seeds, with the effect of each seed removed.

This is a randomised block design whose blocks are the seeds: score = cell + seed + noise. See
https://www.itl.nist.gov/div898/handbook/pri/section3/pri332.htm. The tests allow each cell its own noise level. The
minimum detectable difference assumes one noise level for all cells. Trials may be missing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import chi2, f, studentized_range, t

from mocose_hf.study.analysis.seed_tests import CONFIDENCE, ROUNDING

Scores = Mapping[str, Mapping[int, float]]
"""The score of each seed, by cell."""


@dataclass(frozen=True)
class BlockModel:
    """The fit of score = cell + seed + noise, with the same noise level in all cells.

    Args:
        scores: The scores, without cells that have none.
        sd: The residual standard deviation; 0 if it is rounding error or unknown.
        degrees_of_freedom: The degrees of freedom of `sd`; 0 if it is unknown.
    """

    scores: Scores
    sd: float
    degrees_of_freedom: int


@dataclass(frozen=True)
class DetectableDifference:
    """The typical noise of a study, and the smallest difference that stands out from it.

    Args:
        sd: The residual standard deviation of all trained cells.
        low, high: The 95 % confidence interval of `sd` (χ²), valid if all cells have the same noise level.
        degrees_of_freedom: The degrees of freedom of `sd`.
        count: The number of shared seeds that `minimum` holds for.
        minimum: The minimum detectable difference: the smallest difference of two cells with this noise and `count`
            shared seeds that is significant in one planned block-design t-test (two-sided, at 0.05, unadjusted).
    """

    sd: float
    low: float
    high: float
    degrees_of_freedom: int
    count: int
    minimum: float


@dataclass(frozen=True)
class BlockTest:
    """A block-design t-test of the difference between two cells.

    Args:
        difference: The mean difference over the shared seeds.
        low, high: Its 95 % confidence interval, unadjusted.
        p: Two-sided, unadjusted.
        degrees_of_freedom: By Welch and Satterthwaite; from S − 1 to 2 (S − 1) for S shared seeds.
    """

    difference: float
    low: float
    high: float
    p: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class RangeTest:
    """How far the means of the cells spread, compared with cells that do not differ.

    Args:
        spread: The highest mean minus the lowest.
        critical: The spread that 5 % of studies without any difference between cells exceed.
        count: The number of cells.
    """

    spread: float
    critical: float
    count: int


def fit_block_model(scores: Scores) -> BlockModel:
    """Fit score = cell + seed + noise by least squares. Cells without scores are ignored."""
    scores = {cell: dict(by_seed) for cell, by_seed in scores.items() if by_seed}
    seeds = {seed: i for i, seed in enumerate(sorted({seed for by_seed in scores.values() for seed in by_seed}))}
    figures = np.array([score for by_seed in scores.values() for score in by_seed.values()], dtype=np.float64)
    if not len(figures):
        return BlockModel(scores, 0.0, 0)
    design = np.zeros((len(figures), len(scores) + len(seeds)))
    columns = [(i, len(scores) + seeds[seed]) for i, by_seed in enumerate(scores.values()) for seed in by_seed]
    for trial, (cell_column, seed_column) in enumerate(columns):
        design[trial, [cell_column, seed_column]] = 1.0
    centred = figures - figures.mean()
    # The cell columns and the seed columns have the same sum, so the design is rank deficient.
    effects, _, rank, _ = np.linalg.lstsq(design, centred, rcond=1e-10)
    freedom = len(figures) - int(rank)
    sd = math.sqrt(float(np.sum((centred - design @ effects) ** 2)) / freedom) if freedom else 0.0
    return BlockModel(scores, sd if sd > ROUNDING * np.abs(figures).max() else 0.0, freedom)


def detectable_difference(model: BlockModel) -> DetectableDifference | None:
    """Return the minimum detectable difference, None if no two cells share two seeds.

    It holds for the most frequent number of seeds among the cells with at least two; the smallest number if several
    are equally frequent.
    """
    freedom, sd = model.degrees_of_freedom, model.sd
    if freedom == 0:
        return None
    low, high = (sd * factor for factor in interval_of_sd(freedom))
    count = _most_frequent([len(by_seed) for by_seed in model.scores.values() if len(by_seed) > 1])
    test_freedom = 2 * (count - 1) if len(model.scores) > 2 else count - 1
    minimum = _t_critical(test_freedom) * sd * math.sqrt(2 / count)
    return DetectableDifference(sd, low, high, freedom, count, minimum)


def seed_effects(others: np.ndarray) -> np.ndarray:
    """Return the effect of each seed on the scores of other cells: the median over these cells.

    Args:
        others: Scores (..., K, S) of K cells with S seeds.

    Returns:
        (..., S). The median limits the influence of a cell that is much noisier than the rest.
    """
    return np.median(others - others.mean(axis=-1, keepdims=True), axis=-2)


def welch_error(first: np.ndarray, second: np.ndarray, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of a difference of means and its degrees of freedom; each cell has its own noise.

    The variance of each cell is that of its scores minus the seed effects
    (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28). The effects come from other cells, so their noise can only
    increase this variance: the test is conservative.

    Args:
        first, second: Scores (..., S) with the same S seeds, at least 2.
        effects: (..., S), from `seed_effects`.

    Returns:
        Two arrays (...); the degrees of freedom are NaN if nothing varies.
    """
    count = first.shape[-1]
    variances = [np.var(scores - effects, axis=-1, ddof=1) / count for scores in (first, second)]
    total = variances[0] + variances[1]
    with np.errstate(invalid="ignore"):
        freedom = (count - 1) * total**2 / (variances[0] ** 2 + variances[1] ** 2)
    return np.sqrt(total), freedom


def block_test(scores: Scores, first: str, second: str) -> BlockTest | None:
    """Compare two cells over their shared seeds with a block-design t-test.

    The effect of each seed comes from the other cells that have all of these seeds. Without this effect, each cell
    shows its own noise level, which gives up to twice the degrees of freedom of a paired test. The test assumes that a
    seed affects all cells equally and that the noise is normal. Without other cells it equals the paired test.

    Returns:
        None if the cells share fewer than two seeds, or nothing varies.
    """
    first_scores, second_scores = scores.get(first, {}), scores.get(second, {})
    seeds = sorted(first_scores.keys() & second_scores.keys())
    if len(seeds) < 2:
        return None
    ours, theirs = _figures(first_scores, seeds), _figures(second_scores, seeds)
    others = [
        by_seed for cell, by_seed in scores.items() if cell not in (first, second) and by_seed.keys() >= set(seeds)
    ]
    error: float
    freedom: float
    if others:
        effects = seed_effects(np.stack([_figures(by_seed, seeds) for by_seed in others]))
        error, freedom = map(float, welch_error(ours, theirs, effects))
    else:
        error, freedom = float(np.std(ours - theirs, ddof=1)) / math.sqrt(len(seeds)), float(len(seeds) - 1)
    if error * math.sqrt(len(seeds)) <= ROUNDING * max(np.abs(ours).max(), np.abs(theirs).max()):
        return None
    difference = float(np.mean(ours - theirs))
    margin = _t_critical(freedom) * error
    p = 2 * float(t.sf(abs(difference) / error, freedom))
    return BlockTest(difference, difference - margin, difference + margin, p, freedom)


def range_test(scores: Scores) -> RangeTest | None:
    """Compare the spread of the cell means with that of a study without any difference between cells.

    This is the studentised range with the standard error and degrees of freedom of the highest and the lowest cell, as
    Games and Howell use it for unequal noise (1976, https://doi.org/10.3102/10769986001002113). Cells with fewer than
    two scores are ignored. Only seeds that all remaining cells have count.

    Returns:
        None if there are fewer than three cells or two shared seeds, or nothing varies.
    """
    scores = {cell: by_seed for cell, by_seed in scores.items() if len(by_seed) > 1}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in scores.values()))) if scores else []
    if len(scores) < 3 or len(seeds) < 2:
        return None
    shared = {cell: {seed: by_seed[seed] for seed in seeds} for cell, by_seed in scores.items()}
    means = {cell: float(np.mean(list(by_seed.values()))) for cell, by_seed in shared.items()}
    highest, lowest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    extremes = block_test(shared, highest, lowest) if highest != lowest else None
    if extremes is None:
        return None
    error = (extremes.high - extremes.difference) / _t_critical(extremes.degrees_of_freedom)
    # Rounded down, because each new number of degrees of freedom takes a good part of a second.
    freedom = math.floor(10 * extremes.degrees_of_freedom + ROUNDING) / 10
    critical = _studentised_range(len(shared), freedom) * error / math.sqrt(2)
    return RangeTest(extremes.difference, critical, len(shared))


def find_noisy_cell(scores: Scores) -> str | None:
    """Return the cell that is significantly noisier than the others, None if there is none.

    The residual sum of squares of all cells minus that of the others belongs to the cell. Its ratio to the others' is
    an F statistic, tested at 0.05 divided by the number of cells. This needs at least three cells and two seeds.
    """
    whole = fit_block_model(scores)
    candidates: dict[str, tuple[float, float]] = {}
    for cell in whole.scores if len(whole.scores) > 2 else ():
        others = fit_block_model({other: by_seed for other, by_seed in whole.scores.items() if other != cell})
        freedom = whole.degrees_of_freedom - others.degrees_of_freedom
        if min(freedom, others.degrees_of_freedom) > 0:
            variance = max(0.0, (_squares(whole) - _squares(others)) / freedom)
            candidates[cell] = _p_of_variance(variance, others, freedom), -variance
    cell = min(candidates, key=candidates.__getitem__, default=None)
    return cell if candidates and candidates[cell][0] * len(candidates) < 1 - CONFIDENCE else None


def _squares(model: BlockModel) -> float:
    return model.sd**2 * model.degrees_of_freedom


def _p_of_variance(variance: float, others: BlockModel, freedom: int) -> float:
    """Return the probability of a variance this large for a cell with the noise of the others."""
    if others.sd == 0:
        return 0.0 if variance > 0 else 1.0
    return float(f.sf(variance / others.sd**2, freedom, others.degrees_of_freedom))


def _figures(by_seed: Mapping[int, float], seeds: Sequence[int]) -> np.ndarray:
    return np.array([by_seed[seed] for seed in seeds], dtype=np.float64)


@lru_cache(maxsize=256)
def interval_of_sd(freedom: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a standard deviation (χ²), as factors of its estimate."""
    tails = (1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2
    low, high = (math.sqrt(freedom / float(chi2.ppf(tail, freedom))) for tail in tails)
    return low, high


@lru_cache(maxsize=256)
def _studentised_range(cells: int, freedom: float) -> float:
    return float(studentized_range.ppf(CONFIDENCE, cells, freedom))  # takes a good part of a second


@lru_cache(maxsize=256)
def _t_critical(freedom: float) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _most_frequent(counts: Sequence[int]) -> int:
    return min(Counter(counts).items(), key=lambda entry: (-entry[1], entry[0]))[0]
