"""Correlation of two lists of numbers, × 100 as in papers on sentence embeddings."""

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import NearConstantInputWarning, pearsonr, spearmanr


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Return Spearman's rank correlation × 100, in [−100, 100]; equal numbers share their mean rank.

    Args:
        first, second: N numbers each.

    Returns:
        NaN if a side is constant or has a NaN.

    Raises:
        ValueError: If the sides are not two lists of equal length.
    """
    return _correlation(spearmanr, first, second)


def pearson(first: ArrayLike, second: ArrayLike) -> float:
    """Return Pearson's correlation × 100, in [−100, 100]; otherwise as `spearman`.

    If the numbers of a side differ only by rounding errors, the result is meaningless.
    """
    return _correlation(pearsonr, first, second)


def _correlation(function, first: ArrayLike, second: ArrayLike) -> float:
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"A correlation needs two lists of equal length, not {first.shape} and {second.shape}.")
    if any(len(side) == 0 or (side == side[0]).all() for side in (first, second)):
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NearConstantInputWarning)
        return 100.0 * float(function(first, second).statistic)
