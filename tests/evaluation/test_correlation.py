"""Correlation × 100, by hand, by slow loops and where there is none."""

import math
import warnings

import numpy as np
import pytest
import torch
from slow_correlation import slow_pearson, slow_ranks

from mocose_hf.evaluation.correlation import pearson, spearman


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4, 5], [1, 0, 3, 2, 4], 80.0),  # d² sums to 4: 1 − 6·4 / (5·24)
        ([0.9, 0.1, 0.5], [50, -1, 3], 100.0),
        ([0.9, 0.1, 0.5], [1, 5, 3], -100.0),
        # Ranks 1, 2.5, 2.5, 4 against 1 to 4: covariance 4.5, variances 4.5 and 5.
        ([0.1, 0.2, 0.2, 0.3], [1, 2, 3, 4], 100 * math.sqrt(0.9)),
        ([0.0, 1.0], [3.0, 2.0], -100.0),
    ],
)
def test_spearman_worked_by_hand(first, second, expected):
    assert spearman(first, second) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 100.0),
        ([1, 2, 3], [1, 0, -1], -100.0),
        ([1, 2, 3], [1, 3, 2], 50.0),  # covariance 1, variances 2 and 2
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.0),
        ([0, 0, 1], [0, 1, 5], 100 * 3 / math.sqrt(2 / 3 * 14)),  # covariance 3, variances 2/3 and 14
    ],
)
def test_pearson_worked_by_hand(first, second, expected):
    assert pearson(first, second) == pytest.approx(expected, abs=1e-9)


def test_both_are_the_slow_loops():
    random = np.random.default_rng(5)
    first = (random.integers(0, 26, 90) / 5).tolist()  # with ties
    second = [math.exp(v / 2) + noise for v, noise in zip(first, random.normal(size=90).tolist(), strict=True)]
    assert pearson(first, second) == pytest.approx(slow_pearson(first, second), abs=1e-9)
    assert spearman(first, second) == pytest.approx(slow_pearson(slow_ranks(first), slow_ranks(second)), abs=1e-9)
    assert 10 < pearson(first, second) < spearman(first, second) < 99.9


def test_spearman_sees_ranks_alone_and_pearson_lines_alone():
    first, second = np.random.default_rng(6).normal(size=(2, 50))
    assert spearman(np.exp(first), second**3) == pytest.approx(spearman(first, second), abs=1e-9)
    assert pearson(np.exp(3 * first), second) != pytest.approx(pearson(first, second), abs=1e-2)
    for function in (spearman, pearson):
        assert function(7 * first - 2, second) == pytest.approx(function(first, second), abs=1e-9)
        assert function(-first, second) == pytest.approx(-function(first, second), abs=1e-9)
        assert function(second, first) == pytest.approx(function(first, second), abs=1e-9)


@pytest.mark.parametrize("function", [spearman, pearson])
@pytest.mark.parametrize(
    "constant",
    [[0.5, 0.5, 0.5], [0, 0, 0], [0.1, math.nan, 0.3], [math.nan] * 3],
)
def test_a_constant_and_a_nan_have_no_correlation_and_no_warning(function, constant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(function(constant, [1.0, 2.0, 3.0]))
        assert math.isnan(function([1.0, 2.0, 3.0], constant))
        assert math.isnan(function([1.0], [2.0]))
        assert math.isnan(function([], []))


@pytest.mark.parametrize("function", [spearman, pearson])
def test_numbers_that_differ_by_rounding_give_no_warning(function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert -100 <= function([1.0, 1.0 + 2**-52, 1.0], [1.0, 2.0, 3.0]) <= 100


@pytest.mark.parametrize("function", [spearman, pearson])
def test_lists_arrays_and_tensors_give_one_float(function):
    first, second = [0.25, 0.5, -1.0, 2.0], [1, 3, 2, 5]
    expected = function(first, second)
    assert type(expected) is float
    assert function(tuple(first), np.array(second)) == expected
    assert function(torch.tensor(first), torch.tensor(second)) == expected
    assert function(np.array(first, dtype=np.float32), np.array(second, dtype=np.int8)) == expected


@pytest.mark.parametrize("function", [spearman, pearson])
def test_two_lengths_are_refused(function):
    with pytest.raises(ValueError, match=r"two lists of equal length, not \(3,\) and \(2,\)\.$"):
        function([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="two lists of equal length"):
        function([[1, 2], [3, 4]], [[1, 2], [3, 5]])
