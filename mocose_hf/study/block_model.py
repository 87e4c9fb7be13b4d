"""What shared seeds allow: a score as cell + seed + noise, by least squares over all cells of a study.

A randomised block design whose blocks are the seeds
(https://www.itl.nist.gov/div898/handbook/pri/section3/pri332.htm). It assumes that a seed shifts all cells alike, and
that what is left is normal and of one size in all cells; then cells that share their seeds may depend on each other as
much as they like. Trials may be missing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import chi2, f, studentized_range, t

from mocose_hf.study.seed_statistics import CONFIDENCE, ROUNDING

Scores = Mapping[str, Mapping[int, float]]
"""The score of each seed, by cell."""


@dataclass(frozen=True, eq=False)
class BlockModel:
    """Scores of C cells with S seeds, fitted.

    Args:
        scores: What was fitted, of cells with a score alone.
        effects: Of the cells, then of the seeds, (C + S,) float64; known up to what moves from the ones to the others,
            so differences of cells alone mean anything.
        shape: Their covariance in variances of the noise, (C + S, C + S) float64.
        told: Projector on the sums of effects that the scores tell, (C + S, C + S) float64.
        sd: Standard deviation of the noise, 0 where it is rounding alone or nothing tells it.
        degrees_of_freedom: Of that, 0 where nothing tells it.
    """

    scores: Scores
    effects: np.ndarray
    shape: np.ndarray
    told: np.ndarray
    sd: float
    degrees_of_freedom: int


@dataclass(frozen=True)
class NoiseFloor:
    """What the noise is of comparing two cells of a study with the same seeds.

    Args:
        sd: The noise of a comparison: standard deviation of what cell and seed leave of a score.
        low, high: 95 % confidence interval of it (χ²).
        degrees_of_freedom: Those of it, from all trained cells.
        count: Number of shared seeds for which the next is said.
        smallest_difference: The noise floor: the smallest difference of two cells with `count` shared seeds that one
            comparison, chosen beforehand and unadjusted, tells from zero (two-sided, at 0.05).
    """

    sd: float
    low: float
    high: float
    degrees_of_freedom: int
    count: int
    smallest_difference: float


@dataclass(frozen=True)
class Contrast:
    """The difference of two cells by the block model, over the seeds of both.

    Args:
        difference: That of their means where they have the same seeds; otherwise with the seeds' shifts taken out.
        low, high: 95 % confidence interval of it, unadjusted.
        p: Two-sided, unadjusted.
    """

    difference: float
    low: float
    high: float
    p: float


def fit_blocks(scores: Scores) -> BlockModel:
    """Fit cell + seed + noise to scores by least squares; cells without a score are left out."""
    scores = {cell: dict(of_seeds) for cell, of_seeds in scores.items() if of_seeds}
    seeds = {seed: place for place, seed in enumerate(sorted({seed for of in scores.values() for seed in of}))}
    figures = np.array([score for of_seeds in scores.values() for score in of_seeds.values()], dtype=np.float64)
    design = np.zeros((len(figures), len(scores) + len(seeds)))
    of_trials = [(cell, len(scores) + seeds[s]) for cell, of_seeds in enumerate(scores.values()) for s in of_seeds]
    for trial, places in enumerate(of_trials):
        design[trial, places] = 1.0
    # The columns of cells and those of seeds have the same sum, so the design has no full rank.
    inverse = np.linalg.pinv(design, rcond=1e-10)
    centred = figures - figures.mean() if len(figures) else figures
    effects = inverse @ centred
    told = inverse @ design
    freedom = len(figures) - round(float(np.trace(told)))
    sd = math.sqrt(float(np.sum((centred - design @ effects) ** 2)) / freedom) if freedom else 0.0
    sd = sd if freedom and sd > ROUNDING * np.abs(figures).max() else 0.0
    return BlockModel(scores, effects, inverse @ inverse.T, told, sd, freedom)


def noise_floor(model: BlockModel) -> NoiseFloor | None:
    """Return what the noise of a comparison is, None where no two cells share two seeds.

    It is said for as many seeds as most cells of two seeds or more have; where several numbers are as frequent, for
    the smallest of them.
    """
    freedom, sd = model.degrees_of_freedom, model.sd
    if freedom == 0:
        return None
    low, high = (sd * factor for factor in _interval_of_sd(freedom))
    count = _most_frequent([len(of_seeds) for of_seeds in model.scores.values() if len(of_seeds) > 1])
    return NoiseFloor(sd, low, high, freedom, count, _reach(freedom) * sd * math.sqrt(2 / count))


def contrast(model: BlockModel, first: str, second: str) -> Contrast | None:
    """Return how far one cell lies above another.

    It has the degrees of freedom of the whole study, so it finds with few seeds what a paired test cannot, at the
    price of the model's assumptions. Of a study of two cells it is the paired test.

    Returns:
        None where the noise is 0 or unknown, a cell has no score, or no chain of shared seeds joins the two.
    """
    if model.sd == 0 or not {first, second} <= model.scores.keys():
        return None
    weights = _weights(model, first, second)
    if not _is_told(model, weights):
        return None
    error = _error(model, weights)
    difference = float(weights @ model.effects)
    reach = _reach(model.degrees_of_freedom) * error
    p = 2 * float(t.sf(abs(difference) / error, model.degrees_of_freedom))
    return Contrast(difference, difference - reach, difference + reach, p)


def range_of_cells(model: BlockModel) -> tuple[float, float] | None:
    """Return how far the highest cell lies above the lowest, and how far in 95 of 100 studies at most, were all equal.

    Tukey's studentised range with the error of the difference of these two, as Kramer has it
    (1956, https://doi.org/10.2307/3001469), where they lack trials.

    Returns:
        None of fewer than three cells, and where no difference of theirs can be tested.
    """
    cells = list(model.scores)
    joined = all(_is_told(model, _weights(model, cells[0], cell)) for cell in cells[1:])
    if len(cells) < 3 or model.sd == 0 or not joined:
        return None
    height = dict(zip(cells, model.effects, strict=False))
    highest, lowest = max(cells, key=height.__getitem__), min(cells, key=height.__getitem__)
    error = _error(model, _weights(model, highest, lowest))
    expected = _studentised_range(len(cells), model.degrees_of_freedom) * error / math.sqrt(2)
    return float(height[highest] - height[lowest]), expected


def outlying_cell(scores: Scores) -> str | None:
    """Return the name of the cell whose noise is larger than that of the others, beyond chance; None without one.

    What the fit of all cells leaves, less what that of the others leaves, is the cell's own share; set against the
    others' it is an F under the model, taken at 0.05 over the number of cells. Of fewer than three cells, and with one
    seed, none stands out.
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
    """Return how likely a cell's own variance is as large as that, were its noise that of the others."""
    if others.sd == 0:
        return 0.0 if own > 0 else 1.0
    return float(f.sf(own / others.sd**2, freedom, others.degrees_of_freedom))


def _weights(model: BlockModel, first: str, second: str) -> np.ndarray:
    """Return the weights of the effects in a difference of cells, (C + S,) float64."""
    cells = list(model.scores)
    weights = np.zeros(len(model.effects))
    weights[cells.index(first)] += 1.0
    weights[cells.index(second)] -= 1.0
    return weights


def _is_told(model: BlockModel, weights: np.ndarray) -> bool:
    return bool(np.abs(weights @ model.told - weights).max() < ROUNDING)


def _error(model: BlockModel, weights: np.ndarray) -> float:
    """Return the standard error of a difference."""
    return model.sd * math.sqrt(float(weights @ model.shape @ weights))


@lru_cache(maxsize=256)
def _interval_of_sd(freedom: int) -> tuple[float, float]:
    tails = (1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2
    low, high = (math.sqrt(freedom / float(chi2.ppf(tail, freedom))) for tail in tails)
    return low, high


@lru_cache(maxsize=256)
def _studentised_range(cells: int, freedom: int) -> float:
    return float(studentized_range.ppf(CONFIDENCE, cells, freedom))  # takes a good part of a second


@lru_cache(maxsize=256)
def _reach(freedom: int) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, freedom))


def _most_frequent(counts: Sequence[int]) -> int:
    return min(Counter(counts).items(), key=lambda entry: (-entry[1], entry[0]))[0]
