import pytest
from scipy.stats import ttest_1samp

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import ABOVE, analyse

STUDY = Study("s", "S", "S?", "", [Cell("trained"), Cell("other"), Cell("start", options={"baseline": "start"})])
SCORES = {"trained": [50.0, 51.0, 52.5], "other": [49.0, 51.5, 50.5]}


def trials() -> list[TrialResult]:
    made = [
        TrialResult("s", cell, seed, "complete", {"dev_spearman": score})
        for cell, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]
    return [*made, TrialResult("s", "start", 0, "complete", {"dev_spearman": 40.0})]


def test_a_cell_without_training_is_run_once_and_compared_with_each_seed():
    made = analyse(STUDY, trials())
    start = made.cells[2]

    expected = ttest_1samp([40.0 - score for score in SCORES["trained"]], 0.0)
    assert start.num_seeds == 1
    assert (start.score.count, start.score.sd) == (1, None)
    assert start.test.count == 3
    assert start.test.p == pytest.approx(expected.pvalue)
    assert start.test.difference == pytest.approx(40.0 - 153.5 / 3)
    assert start.block is None
    assert start.block_p is None
    assert len(made.trials) == 7


def test_a_cell_without_training_says_nothing_of_the_noise():
    with_start, without = analyse(STUDY, trials()), analyse(STUDY, trials()[:-1])
    assert with_start.floor == without.floor
    assert with_start.floor.degrees_of_freedom == 2


def test_a_cell_without_training_may_be_the_default():
    study = Study("s", "S", "S?", "", STUDY.cells, default="start")
    trained = analyse(study, trials()).cells[0]
    assert trained.verdict == ABOVE
    assert trained.test.difference == pytest.approx(153.5 / 3 - 40.0)


def test_a_cell_without_training_that_is_not_scored_yet_has_no_score():
    start = analyse(STUDY, trials()[:-1]).cells[2]
    assert start.score is None
    assert start.test is None
