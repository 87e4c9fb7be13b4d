"""The statistics of shared seeds, compared with numbers by hand, statsmodels, scipy and simulated studies."""

import math
import random
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mocose_hf.study.analysis.block_design import (
    block_test,
    detectable_difference,
    find_noisy_cell,
    fit_block_model,
    range_test,
    seed_effects,
    welch_error,
)
from mocose_hf.study.analysis.seed_tests import holm, paired_test, spread_over_seeds

BY_HAND = {"a": {1: 70.0, 2: 72.0, 3: 74.0}, "b": {1: 71.0, 2: 74.0, 3: 74.0}, "c": {1: 75.0, 2: 76.0, 3: 80.0}}
"""Cell means 72, 73, 77 and seed means 72, 74, 76 around 74 leave residuals (0, 0, 0), (0, 1, −1), (0, −1, 1).

Their sum of squares is 4 with (3 − 1)(3 − 1) degrees of freedom, so the residual variance is 1.
"""


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def table(figures) -> dict[str, dict[int, float]]:
    """Return the scores in an array (cells, seeds)."""
    return {str(cell): dict(enumerate(map(float, of_seeds))) for cell, of_seeds in enumerate(figures)}


def correlated(draw, studies: int, correlation: float) -> np.ndarray:
    """Return scores with standard deviation 1 of 20 cells with 3 seeds, correlated over cells."""
    seeds, own = draw.normal(size=(studies, 1, 3)), draw.normal(size=(studies, 20, 3))
    return 70 + math.sqrt(correlation) * seeds + math.sqrt(1 - correlation) * own


# The noise found


def test_the_two_way_analysis_of_variance_by_hand():
    model = fit_block_model(BY_HAND)
    found = detectable_difference(model)
    assert model.degrees_of_freedom == found.degrees_of_freedom == 4
    assert found.sd == pytest.approx(1.0)
    assert found.count == 3
    assert found.minimum == pytest.approx(2.7764451051977934 * math.sqrt(2 / 3))
    assert (found.low, found.high) == pytest.approx((math.sqrt(4 / 11.143286781877796), math.sqrt(4 / 0.484418557)))


def test_the_noise_with_missing_trials_is_that_of_statsmodels():
    from statsmodels.formula.api import ols

    draw = random.Random(2)
    scores = {cell: {seed: draw.gauss(70, 1) for seed in range(4) if draw.random() < 0.8} for cell in "abcde"}
    rows = [(cell, seed, score) for cell, of_seeds in scores.items() for seed, score in of_seeds.items()]
    cells, seeds, figures = zip(*rows, strict=True)
    fitted = ols("score ~ C(cell) + C(seed)", pd.DataFrame({"cell": cells, "seed": seeds, "score": figures})).fit()
    model = fit_block_model(scores)
    assert len(rows) < 20
    assert model.degrees_of_freedom == fitted.df_resid
    assert model.sd == pytest.approx(math.sqrt(fitted.mse_resid))


def test_the_noise_floor_is_the_smallest_significant_difference_of_two_cells_of_this_noise():
    """Welch's t-test of two samples of one variance and three seeds has four degrees of freedom."""
    found = detectable_difference(fit_block_model(BY_HAND))
    result = stats.ttest_ind_from_stats(found.minimum, 1.0, 3, 0.0, 1.0, 3, equal_var=False)
    assert result.pvalue == pytest.approx(0.05)
    of_two = detectable_difference(fit_block_model({"a": BY_HAND["a"], "b": BY_HAND["b"]}))
    assert of_two.minimum == pytest.approx(stats.t.ppf(0.975, 2) * of_two.sd * math.sqrt(2 / 3))


# The block test


def test_the_block_test_by_hand():
    """Cell b shifts the seeds by −2, 1 and 1: without them c is 77, 75, 79 and a 72, 71, 73, of variance 4 and 1.

    So the error is √(5 / 3), with (4 + 1)² / ((16 + 1) / 2) degrees of freedom.
    """
    result = block_test(BY_HAND, "c", "a")
    assert result.difference == pytest.approx(5.0)
    assert result.degrees_of_freedom == pytest.approx(50 / 17)
    assert result.p == pytest.approx(2 * stats.t.sf(5 / math.sqrt(5 / 3), 50 / 17))
    margin = stats.t.ppf(0.975, 50 / 17) * math.sqrt(5 / 3)
    assert (result.low, result.high) == pytest.approx((5 - margin, 5 + margin))


def test_the_block_test_is_statsmodels_welch_test_of_shifted_scores():
    from statsmodels.stats.weightstats import CompareMeans

    figures = np.random.default_rng(6).normal(70, 1, size=(6, 4))
    others = figures[2:] - figures[2:].mean(axis=1, keepdims=True)
    shifted = figures[:2] - np.median(others, axis=0)
    welch = CompareMeans.from_data(*shifted)
    _, p, freedom = welch.ttest_ind(usevar="unequal")
    result = block_test(table(figures), "0", "1")
    assert (result.p, result.degrees_of_freedom) == pytest.approx((p, freedom))
    assert (result.low, result.high) == pytest.approx(welch.tconfint_diff(usevar="unequal"))


def test_of_two_cells_the_block_test_is_the_paired_test():
    draw = random.Random(0)
    for seeds in (2, 3, 7):
        first, second = ({seed: draw.gauss(70, 1) for seed in range(seeds)} for _ in range(2))
        extra = {100: 12.0}  # a seed of only one cell does not count
        result, paired = block_test({"a": first | extra, "b": second}, "a", "b"), paired_test(first, second)
        assert result.p == pytest.approx(paired.p, rel=1e-9)
        assert (result.difference, result.low, result.high) == pytest.approx(
            (paired.difference, paired.low, paired.high)
        )


def test_the_shift_of_a_seed_is_not_in_the_block_test():
    shifted = {cell: {seed: score + 50.0 * seed for seed, score in of.items()} for cell, of in BY_HAND.items()}
    result, before = block_test(shifted, "c", "a"), block_test(BY_HAND, "c", "a")
    assert (result.difference, result.p) == pytest.approx((before.difference, before.p))


def test_a_wild_cell_does_not_hide_the_differences_of_the_others():
    """Seed effects are medians, so a collapsed cell does not change them."""
    draw = random.Random(3)
    scores = {cell: {seed: 70 + seed + draw.gauss(0, 0.1) for seed in range(4)} for cell in "abcde"}
    scores["a"] = {seed: score + 1 for seed, score in scores["a"].items()}
    wild = scores | {"wild": {0: 20.0, 1: 71.0, 2: 5.0, 3: 73.0}}
    assert block_test(scores, "a", "b").p < 0.001
    assert block_test(wild, "a", "b").p < 0.001


def test_a_noisy_cell_has_a_wide_interval_and_the_others_do_not():
    draw = random.Random(4)
    scores = {cell: {seed: 70 + draw.gauss(0, 0.1) for seed in range(3)} for cell in "abcdef"}
    scores["noisy"] = {seed: 70 + draw.gauss(0, 10) for seed in range(3)}
    widths = {cell: (test := block_test(scores, cell, "a")).high - test.low for cell in list(scores)[1:]}
    assert widths["noisy"] > 10 * max(width for cell, width in widths.items() if cell != "noisy")


def test_cells_with_fewer_seeds_shift_nothing_and_two_common_seeds_are_needed():
    more = BY_HAND | {"d": {2: 80.0}, "e": {7: 1.0, 8: 2.0}}
    assert block_test(more, "c", "a") == block_test(BY_HAND, "c", "a")
    assert block_test(more, "d", "a") is None
    assert block_test(more, "e", "a") is None
    assert block_test(more, "a", "not there") is None
    assert block_test({"a": {}, "b": {1: 70.0}}, "a", "b") is None


def test_differences_by_rounding_alone_are_no_noise():
    default = {1: 70.3, 2: 71.7, 3: 69.1}
    steps = {"a": 0.0, "b": 0.1, "c": 0.3}
    scores = {name: {seed: score + step for seed, score in default.items()} for name, step in steps.items()}
    assert detectable_difference(fit_block_model(scores)).sd == 0
    for cells in ("ab", "abc"):
        assert block_test({cell: scores[cell] for cell in cells}, "a", "b") is None
    assert range_test(scores) is None


def test_a_shift_of_a_seed_in_all_cells_is_no_noise():
    shifted = {cell: {seed: score + 5.0 * seed for seed, score in of.items()} for cell, of in BY_HAND.items()}
    assert detectable_difference(fit_block_model(shifted)).sd == pytest.approx(1.0)
    assert spread_over_seeds([list(of.values()) for of in shifted.values()]) > 5


def test_without_shared_seeds_nothing_is_known():
    assert detectable_difference(fit_block_model({})) is None
    assert detectable_difference(fit_block_model({"a": {}, "b": {1: 70.0}})) is None
    assert detectable_difference(fit_block_model({"a": {1: 70.0, 2: 71.0}})) is None
    assert detectable_difference(fit_block_model({"a": {1: 70.0, 2: 71.0}, "b": {3: 70.0, 4: 71.0}})) is None


def test_of_equally_frequent_counts_the_smaller_is_used():
    two, three = {1: 1.0, 2: 2.5}, {1: 1.0, 2: 2.0, 3: 3.0}
    assert detectable_difference(fit_block_model({"a": two, "b": three, "single": {1: 9.0}})).count == 2
    assert detectable_difference(fit_block_model({"a": two, "b": three, "c": {1: 3.0, 2: 2.0, 3: 1.0}})).count == 3


# Simulated studies, 20 cells with 3 seeds


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_the_interval_of_the_noise_covers_it_however_alike_a_seed_makes_the_cells(correlation):
    """The pooled standard deviation within cells, taken for that of 40 degrees of freedom, covers in 45 % at 0.7."""
    figures = correlated(np.random.default_rng(0), 2000, correlation)
    floors = [detectable_difference(fit_block_model(table(study))) for study in figures]
    truth = math.sqrt(1 - correlation)
    assert 0.93 < np.mean([found.low < truth < found.high for found in floors]) < 0.97


NOISE = {
    "of one size": np.ones(20),
    "a noisy default": np.r_[5.0, np.ones(19)],
    "a calm default": np.r_[0.2, np.ones(19)],
    "one noisy cell": np.r_[np.ones(19), 5.0],
    "from 5 to 1": np.linspace(5, 1, 20),
    "of many sizes": np.exp(np.random.default_rng(5).normal(size=20)),
    "half of the cells calm": np.r_[1.0, np.full(10, 0.1), np.ones(9)],
}
"""Standard deviations of the noise of 20 cells, the default first."""

STUDIES = 2000

MOST = 0.05 + 1.96 * math.sqrt(0.05 * 0.95 / STUDIES)
"""The promised rate and its Monte Carlo error."""


def null_studies(noise: np.ndarray, seeds: int = 3, studies: int = STUDIES, seed: int = 1) -> np.ndarray:
    """Return scores (studies, cells, seeds) of equal cells; a seed affects all cells equally."""
    draw = np.random.default_rng(seed)
    own = draw.normal(size=(studies, len(noise), seeds)) * noise[:, None]
    return 70 + 2 * draw.normal(size=(studies, 1, seeds)) + own


def block_p_values(figures: np.ndarray) -> np.ndarray:
    """Return the unadjusted p of each cell against the first, (studies, cells − 1)."""
    default, p_values = figures[:, 0], []
    for cell in range(1, figures.shape[1]):
        shifts = seed_effects(np.delete(figures, [0, cell], axis=1))
        error, freedom = welch_error(figures[:, cell], default, shifts)
        statistic = (figures[:, cell] - default).mean(axis=-1) / error
        p_values.append(2 * stats.t.sf(np.abs(statistic), freedom))
    return np.stack(p_values, axis=1)


def rejects(p_values: np.ndarray) -> np.ndarray:
    """Return whether Holm's method rejects any hypothesis: its first step is Bonferroni's."""
    return p_values.min(axis=1) * p_values.shape[1] < 0.05


def test_the_simulation_tests_what_a_study_tests():
    for figures in null_studies(NOISE["of many sizes"], studies=3):
        p_values = [block_test(table(figures), str(cell), "0").p for cell in range(1, 20)]
        assert p_values == pytest.approx(block_p_values(figures[None])[0].tolist())
        assert (min(holm(p_values)) < 0.05) == rejects(np.array([p_values]))[0]


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_without_a_difference_a_test_finds_one_in_5_of_100_studies_at_most(noise):
    """A test that assumes equal noise in all cells finds a difference in up to 38 of 100."""
    figures = null_studies(noise)
    paired = stats.ttest_rel(figures[:, 1:], figures[:, :1], axis=-1).pvalue
    assert rejects(block_p_values(figures)).mean() <= MOST
    assert rejects(paired).mean() <= MOST


@pytest.mark.parametrize(("cells", "seeds"), [(3, 2), (3, 3), (4, 12), (20, 2), (20, 6)])
@pytest.mark.parametrize("default", [0.2, 1.0, 5.0])
def test_so_it_is_with_few_cells_and_many_seeds(cells, seeds, default):
    noise = np.r_[default, np.ones(cells - 1)]
    assert rejects(block_p_values(null_studies(noise, seeds))).mean() <= MOST


def test_with_many_cells_and_few_seeds_the_block_test_finds_more_than_the_paired_one():
    """A difference of six standard deviations of the noise, 20 cells with 3 seeds."""
    figures = null_studies(np.ones(20))
    figures[:, 1] += 6
    paired = stats.ttest_rel(figures[:, 1:], figures[:, :1], axis=-1).pvalue
    found = [(19 * p_values[:, 0] < 0.05).mean() for p_values in (block_p_values(figures), paired)]
    assert found[0] > 2 * found[1]


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_the_means_of_equal_cells_spread_as_expected(noise):
    """Tukey's range, with one size of noise for all cells, is exceeded in up to 36 of 100."""
    found = [range_test(table(study[:8])) for study in null_studies(noise, studies=400)]
    assert np.mean([result.spread > result.critical for result in found]) <= 0.05 + 1.96 * math.sqrt(0.05 * 0.95 / 400)


# The range of the means


def test_the_range_of_the_cells_by_hand():
    """The error of c and a, the highest and the lowest, with 2.9 of their 50 / 17 degrees of freedom."""
    result = range_test(BY_HAND)
    assert result.spread == pytest.approx(5.0)
    assert result.critical == pytest.approx(stats.studentized_range.ppf(0.95, 3, 2.9) * math.sqrt(5 / 3 / 2))
    assert result.count == 3


def test_the_range_is_of_the_seeds_that_all_cells_have():
    more = BY_HAND | {"c": BY_HAND["c"] | {4: 0.0}, "single": {1: 12.0}}
    assert range_test(more) == range_test(BY_HAND)
    assert range_test(BY_HAND | {"d": {7: 70.0, 8: 71.5}}) is None


def test_two_cells_have_no_range():
    assert range_test({"a": BY_HAND["a"], "b": BY_HAND["b"]}) is None
    assert range_test({}) is None


# A cell that is noisier than the others


def test_the_share_of_a_cell_in_the_noise_by_hand():
    """Without c, a and b leave a half on 2 degrees of freedom, so c adds 3.5 in 2: F = 7 has p = 1 / (1 + 7)."""
    assert stats.f.sf(7, 2, 2) == pytest.approx(1 / 8)
    model, others = fit_block_model(BY_HAND), fit_block_model({"a": BY_HAND["a"], "b": BY_HAND["b"]})
    assert others.sd**2 * 2 == pytest.approx(1.0)
    assert model.sd**2 * 4 == pytest.approx(4.0)
    assert find_noisy_cell(BY_HAND) is None


def test_a_cell_of_another_size_of_noise_stands_out():
    calm = {str(i): {s: 70 + s + 0.1 * ((i * s) % 3) for s in range(3)} for i in range(5)}
    assert find_noisy_cell(calm) is None
    assert find_noisy_cell(calm | {"wild": {0: 30.0, 1: 70.0, 2: 50.0}, "single": {0: 3.0}}) == "wild"
    assert find_noisy_cell({"a": {0: 1.0, 1: 1.1}, "wild": {0: 30.0, 1: 70.0}}) is None
    still = {"a": {0: 1.0, 1: 1.0}, "b": {0: 2.0, 1: 2.0}}
    assert find_noisy_cell(still | {"wild": {0: 3.0, 1: 7.0}}) == "wild"
    assert find_noisy_cell(still | {"c": {0: 3.0, 1: 3.0}}) is None


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_cells_of_one_noise_seldom_stand_out(correlation):
    figures = correlated(np.random.default_rng(3), 100, correlation)[:, :6]
    found = [find_noisy_cell(table(study)) for study in figures]
    assert sum(name is not None for name in found) / 100 < 0.1
