"""What shared seeds allow: differences of cells with the shift of each seed taken out.

A randomised block design whose blocks are the seeds
(https://www.itl.nist.gov/div898/handbook/pri/section3/pri332.htm): score = cell + seed + noise. The tests give each
cell noise of its own size. The noise floor describes all cells by one size. Trials may be missing.
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
    """The noise of C cells with S seeds: what a cell and a seed leave of a score, with one size in all cells.

    Args:
        scores: The scores, of cells that have any.
        sd: Standard deviation of the noise, 0 if it is rounding alone or unknown.
        degrees_of_freedom: Those of `sd`, 0 if it is unknown.
    """

    scores: Scores
    sd: float
    degrees_of_freedom: int


@dataclass(frozen=True)
class NoiseFloor:
    """The typical noise of comparing two cells of a study with the same seeds.

    Args:
        sd: Standard deviation of the noise of all trained cells.
        low, high: 95 % confidence interval of it (χ²), if all cells have noise of one size.
        degrees_of_freedom: Those of it.
        count: Number of shared seeds that `smallest_difference` is for.
        smallest_difference: The noise floor: the smallest difference of two cells of this noise with `count` shared
            seeds that is significant in one block test, chosen beforehand and unadjusted (two-sided, at 0.05).
    """

    sd: float
    low: float
    high: float
    degrees_of_freedom: int
    count: int
    smallest_difference: float


@dataclass(frozen=True)
class Contrast:
    """The difference of two cells by the block test.

    Args:
        difference: Mean difference over the seeds of both.
        low, high: 95 % confidence interval of it, unadjusted.
        p: Two-sided, unadjusted.
        degrees_of_freedom: Those of Welch and Satterthwaite, from S − 1 to 2 (S − 1) for S shared seeds.
    """

    difference: float
    low: float
    high: float
    p: float
    degrees_of_freedom: float


def fit_blocks(scores: Scores) -> BlockModel:
    """Fit cell + seed + noise to scores by least squares; cells without a score are left out."""
    scores = {cell: dict(of_seeds) for cell, of_seeds in scores.items() if of_seeds}
    seeds = {seed: place for place, seed in enumerate(sorted({seed for of in scores.values() for seed in of}))}
    figures = np.array([score for of_seeds in scores.values() for score in of_seeds.values()], dtype=np.float64)
    if not len(figures):
        return BlockModel(scores, 0.0, 0)
    design = np.zeros((len(figures), len(scores) + len(seeds)))
    of_trials = [(cell, len(scores) + seeds[s]) for cell, of_seeds in enumerate(scores.values()) for s in of_seeds]
    for trial, places in enumerate(of_trials):
        design[trial, places] = 1.0
    centred = figures - figures.mean()
    # The columns of cells and those of seeds have the same sum, so the design has no full rank.
    effects, _, rank, _ = np.linalg.lstsq(design, centred, rcond=1e-10)
    freedom = len(figures) - int(rank)
    sd = math.sqrt(float(np.sum((centred - design @ effects) ** 2)) / freedom) if freedom else 0.0
    return BlockModel(scores, sd if sd > ROUNDING * np.abs(figures).max() else 0.0, freedom)


def noise_floor(model: BlockModel) -> NoiseFloor | None:
    """Return the typical noise of a comparison, None if no two cells share two seeds.

    It is for the number of seeds that most cells of two seeds or more have; if several numbers are as frequent, for
    the smallest of them.
    """
    freedom, sd = model.degrees_of_freedom, model.sd
    if freedom == 0:
        return None
    low, high = (sd * factor for factor in _interval_of_sd(freedom))
    count = _most_frequent([len(of_seeds) for of_seeds in model.scores.values() if len(of_seeds) > 1])
    own = 2 * (count - 1) if len(model.scores) > 2 else count - 1
    return NoiseFloor(sd, low, high, freedom, count, _t_critical(own) * sd * math.sqrt(2 / count))


def seed_shifts(others: np.ndarray) -> np.ndarray:
    """Return how far each seed shifts other cells from their means, the median over these cells.

    Args:
        others: Scores (..., K, S) of K cells with S seeds.

    Returns:
        (..., S). A cell that is much noisier than the rest has little weight in a median.
    """
    return np.median(others - others.mean(axis=-1, keepdims=True), axis=-2)


def welch_error(first: np.ndarray, second: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the standard error of a difference of means, and its degrees of freedom, each cell with its own noise.

    The variance of each cell is that of its scores less the shifts of the seeds
    (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28). As the shifts come from other cells, their noise can only
    add to it: the test finds too little rather than too much.

    Args:
        first, second: Scores (..., S) with the same S seeds, at least 2.
        shifts: (..., S), see `seed_shifts`.

    Returns:
        Two arrays (...); the degrees of freedom are NaN if nothing varies.
    """
    count = first.shape[-1]
    variances = [np.var(scores - shifts, axis=-1, ddof=1) / count for scores in (first, second)]
    total = variances[0] + variances[1]
    with np.errstate(invalid="ignore"):
        freedom = (count - 1) * total**2 / (variances[0] ** 2 + variances[1] ** 2)
    return np.sqrt(total), freedom


def contrast(scores: Scores, first: str, second: str) -> Contrast | None:
    """Compare two cells over the seeds that both have by the block test.

    The shift of each seed comes from the other cells that have all of these seeds. With it, each cell tells the size
    of its own noise, which gives the test up to twice the degrees of freedom of a paired one. It assumes that a seed
    shifts all cells alike and that the noise is normal. Without other cells it is the paired test.

    Returns:
        None if the cells share fewer than two seeds, or nothing varies.
    """
    of_first, of_second = scores.get(first, {}), scores.get(second, {})
    seeds = sorted(of_first.keys() & of_second.keys())
    if len(seeds) < 2:
        return None
    ours, theirs = _figures(of_first, seeds), _figures(of_second, seeds)
    others = [of for cell, of in scores.items() if cell not in (first, second) and of.keys() >= set(seeds)]
    if others:
        error, freedom = welch_error(ours, theirs, seed_shifts(np.stack([_figures(of, seeds) for of in others])))
    else:
        error, freedom = np.std(ours - theirs, ddof=1) / math.sqrt(len(seeds)), len(seeds) - 1
    if error * math.sqrt(len(seeds)) <= ROUNDING * max(np.abs(ours).max(), np.abs(theirs).max()):
        return None
    error, freedom, difference = float(error), float(freedom), float(np.mean(ours - theirs))
    reach = _t_critical(freedom) * error
    p = 2 * float(t.sf(abs(difference) / error, freedom))
    return Contrast(difference, difference - reach, difference + reach, p, freedom)


def range_of_cells(scores: Scores) -> tuple[float, float, int] | None:
    """Return how far the highest cell lies above the lowest, and how far in at most 5 of 100 studies of equal cells.

    The studentised range with the error of these two cells and its degrees of freedom, as Games and Howell have it for
    noise of unequal size (1976, https://doi.org/10.3102/10769986001002113). Cells with fewer than two scores are left
    out; of the others, the seeds count that all of them have.

    Returns:
        Both and the number of cells; None of fewer than three cells or two common seeds, or if nothing varies.
    """
    scores = {cell: of for cell, of in scores.items() if len(of) > 1}
    seeds = sorted(set.intersection(*(set(of) for of in scores.values()))) if scores else []
    if len(scores) < 3 or len(seeds) < 2:
        return None
    shared = {cell: {seed: of[seed] for seed in seeds} for cell, of in scores.items()}
    means = {cell: float(np.mean(list(of.values()))) for cell, of in shared.items()}
    highest, lowest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    found = contrast(shared, highest, lowest) if highest != lowest else None
    if found is None:
        return None
    error = (found.high - found.difference) / _t_critical(found.degrees_of_freedom)
    # Rounded down, as each number of degrees of freedom takes a good part of a second.
    freedom = math.floor(10 * found.degrees_of_freedom + ROUNDING) / 10
    return found.difference, _studentised_range(len(shared), freedom) * error / math.sqrt(2), len(shared)


def outlying_cell(scores: Scores) -> str | None:
    """Return the name of the cell whose noise is larger than that of the others beyond chance, None without one.

    The squares that the fit of all cells leaves, less those that the fit of the others leaves, are the cell's own.
    Their ratio to the others' is an F, tested at 0.05 over the number of cells. There is none among fewer than three
    cells, or with one seed.
    """
    whole = fit_blocks(scores)
    found: dict[str, tuple[float, float]] = {}
    for cell in whole.scores if len(whole.scores) > 2 else ():
        others = fit_blocks({other: of_seeds for other, of_seeds in whole.scores.items() if other != cell})
        freedom = whole.degrees_of_freedom - others.degrees_of_freedom
        if min(freedom, others.degrees_of_freedom) > 0:
            own = max(0.0, (_squares(whole) - _squares(others)) / freedom)
            found[cell] = _chance_of_ratio(own, others, freedom), -own
    cell = min(found, key=found.__getitem__, default=None)
    return cell if found and found[cell][0] * len(found) < 1 - CONFIDENCE else None


def _squares(model: BlockModel) -> float:
    return model.sd**2 * model.degrees_of_freedom


def _chance_of_ratio(own: float, others: BlockModel, freedom: int) -> float:
    """Return the probability of a variance this large if the cell has the noise of the others."""
    if others.sd == 0:
        return 0.0 if own > 0 else 1.0
    return float(f.sf(own / others.sd**2, freedom, others.degrees_of_freedom))


def _figures(of_seeds: Mapping[int, float], seeds: Sequence[int]) -> np.ndarray:
    return np.array([of_seeds[seed] for seed in seeds], dtype=np.float64)


@lru_cache(maxsize=256)
def _interval_of_sd(freedom: int) -> tuple[float, float]:
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
