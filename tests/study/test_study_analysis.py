import random

import pytest
from scipy.stats import ttest_1samp

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import BETTER, WORSE, analyse
from mocose_hf.study.metrics import Metric, describe_metric

STUDY = Study("s", "S", "S?", "", [Cell("trained"), Cell("other"), Cell("start", options={"baseline": "start"})])
SCORES = {"trained": [50.0, 51.0, 52.5], "other": [49.0, 51.5, 50.5]}


def trials() -> list[TrialResult]:
    results = [
        TrialResult("s", cell, seed, "complete", {"dev_spearman": score})
        for cell, scores in SCORES.items()
        for seed, score in enumerate(scores)
    ]
    return [*results, TrialResult("s", "start", 0, "complete", {"dev_spearman": 40.0})]


def test_a_cell_without_training_is_run_once_and_compared_with_each_seed():
    analysis = analyse(STUDY, trials())
    start = analysis.cells[2]

    expected = ttest_1samp([40.0 - score for score in SCORES["trained"]], 0.0)
    assert start.num_seeds == 1
    assert (start.score.count, start.score.sd) == (1, None)
    assert start.test.count == 3
    assert start.test.p == pytest.approx(expected.pvalue)
    assert start.test.difference == pytest.approx(40.0 - 153.5 / 3)
    assert start.block is None
    assert start.block_p is None
    assert len(analysis.trials) == 7


def test_a_cell_without_training_has_no_noise():
    with_start, without = analyse(STUDY, trials()), analyse(STUDY, trials()[:-1])
    assert with_start.detectable == without.detectable
    assert with_start.detectable.degrees_of_freedom == 2


def test_a_cell_without_training_may_be_the_default():
    study = Study("s", "S", "S?", "", STUDY.cells, default="start")
    trained = analyse(study, trials()).cells[0]
    assert trained.verdict == BETTER
    assert trained.test.difference == pytest.approx(153.5 / 3 - 40.0)


def test_a_cell_without_training_that_is_not_scored_yet_has_no_score():
    start = analyse(STUDY, trials()[:-1]).cells[2]
    assert start.score is None
    assert start.test is None


def test_a_metric_of_which_less_is_better_turns_the_verdicts_around():
    cells = [Cell("a", paper=70.0), Cell("b", paper=60.0), Cell("c", paper=50.0)]
    study = Study("s", "S", "S?", "", cells, metric="dev_uniformity")
    means, draw = {"a": -2.0, "b": -2.5, "c": -1.5}, random.Random(0)
    results = [
        TrialResult("s", cell, seed, "complete", {"dev_spearman": 70.0, "dev_uniformity": mean + draw.gauss(0, 0.01)})
        for cell, mean in means.items()
        for seed in range(6)
    ]
    analysis = analyse(study, results)
    assert [outcome.verdict for outcome in analysis.cells] == ["", BETTER, WORSE]
    assert analysis.best.cell.label == "b"
    assert analysis.agreements["dev_uniformity"].best == ("a", "b")
    assert analysis.cells[1].over_pairs is None


@pytest.mark.parametrize(
    ("name", "title", "unit", "greater", "decimals"),
    [
        ("dev_spearman", "Development pairs", "Spearman × 100", True, 2),
        ("last_dev_spearman", "Development pairs, last evaluation", "Spearman × 100", True, 2),
        ("faq_mrr_at_10", "faq, MRR@10", "MRR@10 × 100", True, 2),
        ("my_bank_precision_at_10", "my_bank, precision@10", "precision@10 × 100", True, 2),
        ("bank_knn_accuracy_at_1", "bank, kNN accuracy@1", "kNN accuracy@1 × 100", True, 2),
        ("bank_v_measure", "bank, V-measure", "V-measure × 100", True, 2),
        ("sts_avg_of_4_spearman", "Mean of 4 STS test sets", "Spearman × 100", True, 2),
        ("stsb_spearman", "STS-B, test set", "Spearman × 100", True, 2),
        ("dev_uniformity", "Uniformity, development pairs", "uniformity", False, 4),
        ("dev_alignment", "Alignment, development pairs", "alignment", False, 4),
    ],
)
def test_a_metric_has_a_title_a_unit_and_a_direction(name, title, unit, greater, decimals):
    assert describe_metric(name) == Metric(name, title, unit, greater, decimals)
