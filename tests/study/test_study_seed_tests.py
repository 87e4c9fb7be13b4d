"""Statistics of a few seeds, compared with numbers by hand and with scipy, and their use in a study."""

import math
import random
import warnings

import numpy as np
import pytest
from scipy import stats
from study_results import NASTY, complete, decay_study

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import BETTER, NOT_SIGNIFICANT, WORSE, analyse, num_test_sets
from mocose_hf.study.analysis.block_design import block_test
from mocose_hf.study.analysis.seed_tests import (
    Agreement,
    PairedTest,
    Summary,
    agreement,
    equivalence_p,
    first_step_ratio,
    holm,
    paired_test,
    seeds_for_equivalence,
    spread_over_seeds,
    summary,
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Means


def test_a_mean_has_a_sample_standard_deviation_from_two_seeds_on():
    assert summary([]) is None
    assert summary([71.5]) == Summary(1, 71.5, None)
    analysis = summary([70.0, 72.0, 77.0])
    assert analysis.count == 3
    assert analysis.mean == 73.0
    assert analysis.sd == pytest.approx(math.sqrt((9 + 1 + 16) / 2))


# The paired test


def test_the_paired_test_by_hand():
    """Differences 1, 2, 3: mean 2, sd 1, t = 2√3 with 2 degrees of freedom, whose p is 1 − t / √(t² + 2)."""
    analysis = paired_test({1: 71.0, 2: 73.0, 3: 72.0, 9: 0.0}, {3: 69.0, 1: 70.0, 2: 71.0, 7: 100.0})
    t = 2 * math.sqrt(3)
    half = 4.302652729911275 / math.sqrt(3)
    assert analysis.count == 3
    assert analysis.difference == pytest.approx(2)
    assert (analysis.low, analysis.high) == pytest.approx((2 - half, 2 + half))
    assert analysis.p == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    assert analysis.reason == ""


def test_the_paired_test_is_scipys():
    draw = random.Random(0)
    first, second = ({seed: draw.gauss(70, 1) for seed in range(5)} for _ in range(2))
    analysis = paired_test(first, second)
    assert analysis.p == pytest.approx(stats.ttest_rel(list(first.values()), list(second.values())).pvalue)
    assert analysis.low < analysis.difference < analysis.high


def test_too_few_seeds_are_not_tested():
    assert paired_test({1: 70.0}, {2: 71.0}) == PairedTest(0, reason="no common seed")
    assert paired_test({1: 70.0, 3: 2.0}, {1: 71.0, 2: 9.0}) == PairedTest(1, -1.0, reason="one common seed")


@pytest.mark.parametrize("step", [0.0, 0.1])
def test_differences_that_do_not_vary_are_not_tested(step):
    """Adding 0.1 to each score leaves only rounding error, for which scipy returns a p of about 0."""
    default = {1: 70.3, 2: 71.7, 3: 69.1}
    analysis = paired_test({seed: score + step for seed, score in default.items()}, default)
    assert analysis.p is None
    assert analysis.low is None
    assert analysis.difference == pytest.approx(step)
    assert analysis.reason == "the same difference with every seed"


# Many comparisons


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 × 0.01, then 2 × 0.03, then at least that
    assert holm([0.9, 0.6, 0.001]) == pytest.approx([1.0, 1.0, 0.003])


def test_holm_is_that_of_statsmodels():
    from statsmodels.stats.multitest import multipletests

    draw = random.Random(2)
    for count in (1, 2, 19):
        values = [draw.random() ** 3 for _ in range(count)]
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_holm_rejects_what_the_stepwise_definition_rejects():
    draw = random.Random(1)
    for _ in range(100):
        values = [draw.random() ** 3 for _ in range(draw.randint(1, 8))]
        rejected = set()
        for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
            if values[place] > 0.05 / (len(values) - rank):
                break
            rejected.add(place)
        assert {i for i, p in enumerate(holm(values)) if p <= 0.05} == rejected


def test_the_first_step_is_the_one_whose_adjusted_p_is_just_below():
    ratio = first_step_ratio(3, 9)
    differences = np.array([-1.0, 0.0, 1.0]) + ratio  # of standard deviation 1
    assert 9 * stats.ttest_1samp(differences, 0).pvalue == pytest.approx(0.05)


# Equivalence


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.4])
def test_equivalence_is_two_one_sided_tests_of_statsmodels(shift):
    from statsmodels.stats.weightstats import ttost_paired

    draw = random.Random(3)
    default = {seed: draw.gauss(70, 1) for seed in range(9)}
    cell = {seed: score + shift + draw.gauss(0, 0.2) for seed, score in default.items()}
    expected, _, _ = ttost_paired(np.array(list(cell.values())), np.array(list(default.values())), -0.3, 0.3)
    assert equivalence_p(cell | {20: 1.0}, default | {21: 2.0}, 0.3) == pytest.approx(expected)


def test_equivalence_by_hand():
    """Differences −0.1, 0, 0.1: the error is 0.1 / √3, and both bounds are 0.3 / (0.1 / √3) = 3√3 of it away."""
    default = {1: 70.0, 2: 71.0, 3: 72.0}
    cell = {1: 69.9, 2: 71.0, 3: 72.1}
    assert equivalence_p(cell, default, 0.3) == pytest.approx(stats.t.sf(3 * math.sqrt(3), 2))
    assert equivalence_p(cell, default, 0.01) > 0.4


def test_without_a_paired_test_there_is_none_of_equivalence():
    assert equivalence_p({1: 70.0}, {1: 70.1}, 0.3) is None
    assert equivalence_p({1: 70.0, 2: 71.0}, {1: 70.0, 2: 71.0}, 0.3) is None


def test_the_seeds_for_equivalence_find_it_in_four_of_five_studies():
    """The standard deviation of a difference is 0.55 in practice: ± 0.3 needs 29 seeds."""
    count = seeds_for_equivalence(0.55, 0.3)
    assert count == 29
    figures = np.random.default_rng(0).normal(0, 0.55, size=(2000, count))
    p_values = [stats.ttest_1samp(figures + bound, 0, axis=1, alternative=side).pvalue for bound, side in SIDES]
    assert np.mean(np.maximum(*p_values) < 0.05) == pytest.approx(0.8, abs=0.04)
    assert seeds_for_equivalence(0.01, 0.3) == 2


def test_a_difference_at_the_bound_is_called_equivalent_in_5_of_100_studies():
    figures = np.random.default_rng(1).normal(0.3, 0.2, size=(4000, 6))
    p_values = [stats.ttest_1samp(figures + bound, 0, axis=1, alternative=side).pvalue for bound, side in SIDES]
    assert np.mean(np.maximum(*p_values) < 0.05) == pytest.approx(0.05, abs=0.01)
    one = {seed: 70 + score for seed, score in enumerate(figures[0])}
    assert equivalence_p(one, dict.fromkeys(one, 70.0), 0.3) == pytest.approx(max(p_values[0][0], p_values[1][0]))


SIDES = ((0.3, "greater"), (-0.3, "less"))


# The spread over seeds


def test_the_spread_over_seeds_by_hand():
    """Variances 2 (1 degree), 1 (2 degrees) and 4 (2 degrees): (2 + 2 + 8) / 5."""
    analysis = spread_over_seeds([[1.0, 3.0], [4.0, 5.0, 6.0], [9.0, 11.0, 13.0], [70.0], []])
    assert analysis == pytest.approx(math.sqrt(12 / 5))
    assert spread_over_seeds([]) is None
    assert spread_over_seeds([[70.0], [71.0], []]) is None


# Ranks


def test_agreement_is_spearmans_over_common_cells():
    paper = {"a": 76.0, "b": 75.0, "c": 77.0, "d": 74.0, "only here": 99.0}
    ours = {"d": 60.0, "a": 63.0, "b": 61.0, "c": 62.0, "only there": 99.0}
    analysis = agreement(paper, ours)
    assert analysis.count == 4
    assert analysis.correlation == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks differ by 1 in two cells
    assert analysis.chance == pytest.approx(1 / math.sqrt(3))
    assert analysis.best == ("c", "a")


def test_few_or_constant_cells_have_no_rank_correlation():
    assert agreement({"a": 1.0}, {"b": 1.0}) == Agreement(0)
    assert agreement({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}) == Agreement(2, best=("b", "b"))
    constant = agreement({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert (constant.count, constant.correlation, constant.best) == (3, None, ("c", "a"))


# A whole study


def test_cells_are_tested_against_the_default_as_one_family():
    study, results = decay_study()
    analysis = analyse(study, results)
    outcomes = {outcome.cell.label: outcome for outcome in analysis.cells}
    assert analysis.default is outcomes["η = 0.85"]
    assert analysis.default.test is None
    assert analysis.default.verdict == ""
    tested = [outcome for outcome in analysis.cells if outcome.adjusted_p is not None]
    assert len(tested) == 7  # of ten: the default, one with a single seed and one without are not
    block = [outcome for outcome in analysis.cells if outcome.block_p is not None]
    assert block == tested
    assert [o.block for o in block] == [block_test(analysis.model.scores, o.cell.label, "η = 0.85") for o in block]
    assert [outcome.block_p for outcome in block] == pytest.approx(holm([o.block.p for o in block]))
    assert outcomes[NASTY].block_verdict == WORSE
    assert [o.adjusted_p for o in tested] == pytest.approx(holm([o.test.p for o in tested]))
    assert outcomes[NASTY].verdict == WORSE
    assert outcomes["η = 0.75"].verdict == "not tested: one common seed"
    assert outcomes["η = 0.95"].verdict == NOT_SIGNIFICANT
    assert outcomes["never run"].verdict == ""
    assert outcomes["never run"].score is None


def test_a_better_cell_has_the_verdict_better():
    study = Study("s", "S", "?", "", [Cell("a"), Cell("b")])
    results = [complete("s", "a", seed, 70 + seed / 10) for seed in range(4)]
    results += [complete("s", "b", seed, 75 + seed / 9) for seed in range(4)]
    assert analyse(study, results).cells[1].verdict == BETTER
    assert analyse(Study(**vars(study) | {"default": "b"}), results).cells[0].verdict == WORSE


def test_equivalence_has_the_bounds_that_the_study_declares():
    draw = random.Random(8)
    results = [complete("s", cell, seed, 70 + seed + draw.gauss(0, 0.1)) for cell in "abc" for seed in range(8)]
    cells = [Cell(row) for row in "abc"]
    studies = {bound: Study("s", "S", "?", "", cells, equivalence_bound=bound) for bound in (1, 0.01)}
    declared = {bound: analyse(study, results) for bound, study in studies.items()}
    found = {bound: [outcome.is_equivalent for outcome in analysis.cells] for bound, analysis in declared.items()}
    assert found == {1: [False, True, True], 0.01: [False, False, False]}
    tested = declared[1].cells[1:]
    assert [o.adjusted_equivalence_p for o in tested] == pytest.approx(holm([o.equivalence_p for o in tested]))
    assert Study("s", "S", "?", "", cells).equivalence_bound == 0.3
    for bound in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"`equivalence_bound` is .* but must be a number above 0"):
            Study("s", "S", "?", "", cells, equivalence_bound=bound)


def test_a_missing_trial_is_not_counted():
    study, results = decay_study()
    analysis = analyse(study, results)
    assert len(analysis.trials) == 27
    assert [outcome.num_seeds for outcome in analysis.cells] == [3] * 9 + [0]


def test_unfinished_trials_and_figures_that_are_no_numbers_do_not_count():
    study = Study("s", "S", "?", "", [Cell("a", paper=1.0)])
    running = TrialResult("s", "a", 1, "running", {"dev_spearman": 99.0})
    results = [running, complete("s", "a", 2, math.nan), complete("s", "a", 3, 70.0)]
    (outcome,) = analyse(study, results).cells
    assert outcome.scores == {3: 70.0}
    assert outcome.figure("dev_step") == Summary(2, 400.0, 0.0)
    assert outcome.figure("alarm_step") is None


def test_the_paper_is_compared_with_development_pairs_and_test_sets():
    study, results = decay_study()
    analysis = analyse(study, results)
    assert list(analysis.agreements) == ["dev_spearman", "sts_avg_spearman"]
    assert analysis.agreements["dev_spearman"].count == 7
    assert analysis.agreements["dev_spearman"].best[0] == "η = 0.85"


def test_averages_over_fewer_test_sets_go_by_their_own_name():
    study = Study("s", "S", "?", "", [Cell("a"), Cell("b")])
    results = [complete("s", "a", 1, 70.0, figures={"sts_avg_of_4_spearman": 60.0, "sts_avg_of_x_spearman": 1.0})]
    results += [complete("s", "b", 1, 70.0, figures={"sts_avg_spearman": 60.0})]
    analysis = analyse(study, results)
    assert analysis.test_averages == ["sts_avg_spearman", "sts_avg_of_4_spearman"]
    assert [num_test_sets(name) for name in analysis.test_averages] == [7, 4]
    assert list(analysis.agreements) == []


def test_a_cell_of_larger_noise_is_named():
    study = Study("s", "S", "?", "", [Cell(row) for row in "abcd"])
    draw = random.Random(4)
    results = [complete("s", row, seed, 70 + seed + draw.gauss(0, 0.1)) for row in "abc" for seed in range(3)]
    calm = analyse(study, results)
    assert calm.noisy_cell is None
    results += [complete("s", "d", seed, 30 + 20.0 * seed) for seed in range(3)]
    noisy = analyse(study, results)
    assert noisy.noisy_cell == "d"
    assert noisy.detectable_without == calm.detectable


def test_the_spread_covers_what_all_cells_share_and_the_detectable_difference_does_not():
    study = Study("s", "S", "?", "", [Cell(row) for row in "abc"])
    draw = random.Random(5)
    results = [complete("s", row, seed, 70 + 3 * seed + draw.gauss(0, 0.1)) for row in "abc" for seed in range(3)]
    analysis = analyse(study, results)
    assert analysis.spread > 2.9
    assert analysis.detectable.sd < 0.2


def test_trials_of_other_cells_are_kept_apart():
    study = Study("s", "S", "?", "", [Cell("a")])
    analysis = analyse(study, [complete("s", "a", 1, 70.0), complete("s", "gone", 2, 70.0)])
    assert [trial.cell for trial in analysis.foreign] == ["gone"]
    assert len(analysis.trials) == 1


def test_impossible_trials_fail():
    study = Study("s", "S", "?", "", [Cell("a")])
    with pytest.raises(ValueError, match="has two trials of 'a' with seed 1"):
        analyse(study, [complete("s", "a", 1, 70.0), complete("s", "a", 1, 71.0)])
    with pytest.raises(ValueError, match="has the state 'done'"):
        analyse(study, [TrialResult("s", "a", 1, "done")])
