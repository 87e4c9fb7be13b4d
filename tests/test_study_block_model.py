"""The model of shared seeds, against a two-way ANOVA worked by hand, the paired t-test, and simulated studies."""

import math
import random
import warnings

import numpy as np
import pytest
from scipy import stats

from mocose_hf.study.block_model import contrast, fit_blocks, noise_floor, outlying_cell, range_of_cells
from mocose_hf.study.seed_statistics import holm, paired_test, spread_over_seeds

BY_HAND = {"a": {1: 70.0, 2: 72.0, 3: 74.0}, "b": {1: 71.0, 2: 74.0, 3: 74.0}, "c": {1: 75.0, 2: 76.0, 3: 80.0}}
"""Cells 72, 73 and 77 of mean 74, seeds 72, 74 and 76: what is left is (0, 0, 0), (0, 1, −1) and (0, −1, 1).

So the sum of squares is 4 over (3 − 1)(3 − 1) degrees of freedom, and the variance of the noise 1.
"""


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(figures) -> dict[str, dict[int, float]]:
    """Scores of an array of cells by seeds."""
    return {str(cell): dict(enumerate(map(float, of_seeds))) for cell, of_seeds in enumerate(figures)}


def correlated(draw, studies: int, correlation: float) -> np.ndarray:
    """Scores of standard deviation 1 of 20 cells with 3 seeds, which all cells share to a degree."""
    seeds, own = draw.normal(size=(studies, 1, 3)), draw.normal(size=(studies, 20, 3))
    return 70 + math.sqrt(correlation) * seeds + math.sqrt(1 - correlation) * own


# The fit


def test_the_two_way_analysis_of_variance_by_hand():
    model = fit_blocks(BY_HAND)
    floor = noise_floor(model)
    assert model.degrees_of_freedom == floor.degrees_of_freedom == 4
    assert floor.sd == pytest.approx(1.0)
    assert floor.count == 3
    assert floor.smallest_difference == pytest.approx(2.7764451051977934 * math.sqrt(2 / 3))
    assert (floor.low, floor.high) == pytest.approx((math.sqrt(4 / 11.143286781877796), math.sqrt(4 / 0.484418557)))
    made = contrast(model, "c", "a")
    assert made.difference == pytest.approx(5.0)
    assert (made.low, made.high) == pytest.approx((5 - floor.smallest_difference, 5 + floor.smallest_difference))
    assert made.p == pytest.approx(2 * stats.t.sf(5 / math.sqrt(2 / 3), 4))


def test_of_two_cells_the_model_is_the_paired_test():
    draw = random.Random(0)
    for seeds in (2, 3, 7):
        first, second = ({seed: draw.gauss(70, 1) for seed in range(seeds)} for _ in range(2))
        extra = {100: 12.0}  # a seed of one cell alone tells nothing of the difference
        made, paired = contrast(fit_blocks({"a": first | extra, "b": second}), "a", "b"), paired_test(first, second)
        assert made.p == pytest.approx(paired.p, rel=1e-9)
        assert (made.difference, made.low, made.high) == pytest.approx((paired.difference, paired.low, paired.high))


def test_missing_trials_leave_the_difference_of_a_slow_fit():
    """Cell b lacks the seed that is 10 lower in both others; its mean alone would be higher than theirs."""
    scores = {"a": {1: 70.0, 2: 60.0, 3: 71.0}, "b": {1: 69.0, 3: 70.2}, "c": {1: 72.0, 2: 62.5, 3: 72.5}}
    model = fit_blocks(scores)
    cells, seeds = list(scores), [1, 2, 3]
    rows, figures = [], []
    for cell, of_seeds in scores.items():
        for seed, score in of_seeds.items():
            rows.append([1.0, *(cell == c for c in cells[1:]), *(seed == s for s in seeds[1:])])
            figures.append(score)
    design, figures = np.array(rows, dtype=float), np.array(figures)
    solution = np.linalg.solve(design.T @ design, design.T @ figures)
    left = figures - design @ solution
    assert model.degrees_of_freedom == 8 - 5
    assert model.sd == pytest.approx(math.sqrt(left @ left / 3))
    made = contrast(model, "b", "a")
    error = model.sd * math.sqrt(np.linalg.inv(design.T @ design)[1, 1])
    assert made.difference == pytest.approx(solution[1])
    assert made.difference < 0
    assert made.p == pytest.approx(2 * stats.t.sf(abs(solution[1]) / error, 3))


def test_a_shift_of_a_seed_in_all_cells_is_no_noise():
    shifted = {cell: {seed: score + 5.0 * seed for seed, score in of.items()} for cell, of in BY_HAND.items()}
    assert noise_floor(fit_blocks(shifted)).sd == pytest.approx(1.0)
    assert spread_over_seeds([list(of.values()) for of in shifted.values()]) > 5


def test_a_cell_with_one_seed_is_compared_over_it():
    made = contrast(fit_blocks(BY_HAND | {"d": {2: 80.0}}), "d", "a")
    assert made.difference == pytest.approx(80 - 72)
    # Variances: of its own noise, of the shift of seed 2 (1/3 − 1/9) and of the mean of a; those two are independent.
    assert made.p == pytest.approx(2 * stats.t.sf(8 / math.sqrt(1 + 1 / 3 - 1 / 9 + 1 / 3), 4))


def test_without_shared_seeds_nothing_is_known():
    assert noise_floor(fit_blocks({})) is None
    assert noise_floor(fit_blocks({"a": {}, "b": {1: 70.0}})) is None
    assert noise_floor(fit_blocks({"a": {1: 70.0, 2: 71.0}})) is None
    assert noise_floor(fit_blocks({"a": {1: 70.0, 2: 71.0}, "b": {3: 70.0, 4: 71.0}})) is None
    assert contrast(fit_blocks({"a": {1: 70.0}, "b": {1: 71.0}}), "a", "b") is None


def test_cells_that_no_seed_joins_are_not_compared():
    model = fit_blocks(BY_HAND | {"d": {7: 70.0, 8: 71.5}, "e": {7: 70.0, 8: 71.0}})
    assert contrast(model, "a", "b") is not None
    assert contrast(model, "d", "e") is not None
    assert contrast(model, "a", "d") is None
    assert contrast(model, "a", "not there") is None
    assert range_of_cells(model) is None


def test_differences_by_rounding_alone_are_no_noise():
    default = {1: 70.3, 2: 71.7, 3: 69.1}
    model = fit_blocks({"a": default, "b": {seed: score + 0.1 for seed, score in default.items()}})
    assert noise_floor(model).sd == 0
    assert contrast(model, "a", "b") is None


def test_of_equally_frequent_counts_the_smaller_is_said():
    two, three = {1: 1.0, 2: 2.5}, {1: 1.0, 2: 2.0, 3: 3.0}
    assert noise_floor(fit_blocks({"a": two, "b": three, "single": {1: 9.0}})).count == 2
    assert noise_floor(fit_blocks({"a": two, "b": three, "c": {1: 3.0, 2: 2.0, 3: 1.0}})).count == 3


# Simulated studies, 20 cells with 3 seeds


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_the_interval_of_the_noise_covers_it_however_alike_a_seed_makes_the_cells(correlation):
    """The pooled standard deviation within cells, taken for that of 40 degrees of freedom, covers in 45 % at 0.7."""
    figures = correlated(np.random.default_rng(0), 2000, correlation)
    floors = [noise_floor(fit_blocks(table(study))) for study in figures]
    truth = math.sqrt(1 - correlation)
    assert 0.93 < np.mean([floor.low < truth < floor.high for floor in floors]) < 0.97


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_of_equal_cells_one_is_told_apart_in_one_of_20_studies_at_most(correlation):
    """By the pooled test with Holm's method, of the 19 cells that are not the default."""
    figures = correlated(np.random.default_rng(1), 300, correlation)
    wrong = 0
    for study in figures:
        model = fit_blocks(table(study))
        wrong += min(holm([contrast(model, str(cell), "0").p for cell in range(1, 20)])) < 0.05
    assert 0 < wrong / 300 < 0.08


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_equal_cells_spread_as_tukey_says(correlation):
    figures = correlated(np.random.default_rng(9), 2000, correlation)
    ranges = [range_of_cells(fit_blocks(table(study))) for study in figures]
    assert 0.93 < np.mean([found <= expected for found, expected in ranges]) < 0.97


# Tukey's range


def test_the_range_of_the_cells_by_hand():
    found, expected = range_of_cells(fit_blocks(BY_HAND))
    assert found == pytest.approx(5.0)
    assert expected == pytest.approx(stats.studentized_range.ppf(0.95, 3, 4) / math.sqrt(3))


def test_the_range_of_cells_with_missing_trials_is_that_of_tukey_and_kramer():
    scores = BY_HAND | {"c": {1: 75.0, 2: 76.5}}
    model = fit_blocks(scores)
    found, expected = range_of_cells(model)
    made = contrast(model, "c", "a")
    error = (made.high - made.difference) / stats.t.ppf(0.975, 3)
    assert found == pytest.approx(made.difference)
    assert expected == pytest.approx(stats.studentized_range.ppf(0.95, 3, 3) * error / math.sqrt(2))


def test_two_cells_have_no_range():
    assert range_of_cells(fit_blocks({"a": BY_HAND["a"], "b": BY_HAND["b"]})) is None


# A cell that is noisier than the others


def test_the_share_of_a_cell_in_the_noise_by_hand():
    """Without c, a and b leave a half on 2 degrees of freedom, so c adds 3.5 in 2: F = 7 has p = 1 / (1 + 7)."""
    assert stats.f.sf(7, 2, 2) == pytest.approx(1 / 8)
    model, others = fit_blocks(BY_HAND), fit_blocks({"a": BY_HAND["a"], "b": BY_HAND["b"]})
    assert others.sd**2 * 2 == pytest.approx(1.0)
    assert model.sd**2 * 4 == pytest.approx(4.0)
    assert outlying_cell(BY_HAND) is None


def test_a_cell_of_another_size_of_noise_stands_out():
    calm = {str(i): {s: 70 + s + 0.1 * ((i * s) % 3) for s in range(3)} for i in range(5)}
    assert outlying_cell(calm) is None
    assert outlying_cell(calm | {"wild": {0: 30.0, 1: 70.0, 2: 50.0}, "single": {0: 3.0}}) == "wild"
    assert outlying_cell({"a": {0: 1.0, 1: 1.1}, "wild": {0: 30.0, 1: 70.0}}) is None
    still = {"a": {0: 1.0, 1: 1.0}, "b": {0: 2.0, 1: 2.0}}
    assert outlying_cell(still | {"wild": {0: 3.0, 1: 7.0}}) == "wild"
    assert outlying_cell(still | {"c": {0: 3.0, 1: 3.0}}) is None


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_cells_of_one_noise_seldom_stand_out(correlation):
    figures = correlated(np.random.default_rng(3), 100, correlation)[:, :6]
    found = [outlying_cell(table(study)) for study in figures]
    assert sum(name is not None for name in found) / 100 < 0.1
