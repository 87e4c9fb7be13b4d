"""Which checkpoint is chosen by what, from a log by hand."""

import json
import math

import pytest
import torch
from builders import sentences
from datasets import Dataset

from mocose_hf.evaluation.checkpoint_selection import average_name, compare_selections, is_greater_better
from mocose_hf.evaluation.checkpoint_selection import score_test_sets as figures_of_tests
from mocose_hf.evaluation.sts import STS_TASKS, STSTask

AVERAGE = "sts_avg_spearman"


def entry(step: int, development: float, tests: float, **more) -> dict:
    """An evaluation as it stands in the log."""
    return {
        "epoch": step / 100,
        "eval_runtime": 1.0,
        "eval_dev_spearman": development,
        "eval_stsb_spearman": development - 5,
        "eval_dev_uniformity": -2.0,
        f"eval_{AVERAGE}": tests,
        "step": step,
        **more,
    }


def training(step: int) -> dict:
    return {"loss": 0.5, "learning_rate": 1e-5, "step": step}


def steps(selections) -> dict[str, int]:
    """Return the step chosen by each way, which the row's name ends in."""
    return {name.rpartition(", step ")[0]: int(name.rpartition(", step ")[2]) for name, _ in selections}


LOG = [
    entry(0, 75.0, 65.0),
    training(10),
    entry(10, 80.0, 70.0),
    training(20),
    entry(20, 82.0, 71.0),
    entry(30, 81.0, 72.0),
    training(40),
    entry(40, 79.0, 69.0),
]


def test_the_last_and_the_best_by_each_are_the_right_steps():
    assert steps(compare_selections(LOG, AVERAGE)) == {
        "last": 40,
        "selected on development pairs": 20,
        "selected on test sets": 30,
    }
    assert [name for name, _ in compare_selections(LOG, AVERAGE)] == [
        "last, step 40",
        "selected on development pairs, step 20",
        "selected on test sets, step 30",
    ]


def test_the_start_is_selected_if_no_step_is_better():
    log = [entry(0, 85.0, 71.0), *LOG[1:]]
    chosen = {"last": 40, "selected on development pairs": 0, "selected on test sets": 30}
    assert steps(compare_selections(log, AVERAGE)) == chosen


def test_nothing_is_compared_if_only_the_start_was_scored():
    assert compare_selections(LOG[:1], AVERAGE) == []


@pytest.mark.parametrize(
    ("metric", "greater"),
    [
        ("dev_spearman", True),
        ("news_dev_spearman", True),
        ("alignment", False),
        ("eval_a_alignment", False),
        ("a_uniformity", False),
        ("loss", False),
        ("eval_ndcg_at_10", True),
        ("alignment_dev_spearman", True),
    ],
)
def test_the_name_of_a_metric_tells_its_direction_with_any_prefix(metric, greater):
    assert is_greater_better(metric) is greater


def test_a_second_entry_of_a_step_is_of_another_model_and_ignored():
    """The evaluation of the finished model, which may be the best checkpoint, is logged under the last step."""
    found = compare_selections([*LOG, entry(40, 99.0, 99.0), entry(10, 98.0, 98.0)], AVERAGE)
    assert found == compare_selections(LOG, AVERAGE)


def test_nan_never_wins():
    log = [entry(10, math.nan, 70.0), entry(20, -3.0, math.nan), entry(30, -5.0, 60.0), entry(40, math.nan, math.nan)]
    for order in (log, log[::-1]):
        assert steps(compare_selections(order, AVERAGE)) == {
            "last": 40,
            "selected on development pairs": 20,
            "selected on test sets": 10,
        }


def test_of_equal_ones_the_first_is_chosen():
    log = [entry(step, 80.0, 70.0) for step in (10, 20, 30)]
    assert steps(compare_selections(log, AVERAGE)) == {
        "last": 30,
        "selected on development pairs": 10,
        "selected on test sets": 10,
    }


def test_entries_without_test_figures_are_no_evaluations_of_them():
    without = [{name: value for name, value in e.items() if name != f"eval_{AVERAGE}"} for e in LOG]
    assert compare_selections(without, AVERAGE) == []
    assert steps(compare_selections([*LOG[:3], without[5]], AVERAGE))["last"] == 10
    assert compare_selections(LOG, "sts_avg_of_4_spearman") == []
    assert compare_selections([], AVERAGE) == []


def test_figures_are_named_as_those_of_tasks_and_no_others_are_given():
    log = [entry(10, 80.0, 70.0, eval_sts12_spearman=60.0, eval_dev_alignment=0.2)]
    row = {"stsb_spearman": 75.0, "dev_spearman": 80.0, "sts12_spearman": 60.0, AVERAGE: 70.0}
    assert [figures for _, figures in compare_selections(log, AVERAGE)] == [row] * 3


def test_a_log_that_went_through_a_file_gives_the_same():
    assert compare_selections(json.loads(json.dumps(LOG)), AVERAGE) == compare_selections(LOG, AVERAGE)


# Names


def of_random_pairs(name: str, count: int = 8) -> STSTask:
    made = sentences(2 * count, seed=len(name))
    columns = {"score": [float(i % 5) for i in range(count)], "sentence1": made[:count], "sentence2": made[count:]}
    return STSTask(name, {"test": Dataset.from_dict(columns)})


@pytest.mark.parametrize(
    ("names", "average"),
    [
        (STS_TASKS, "sts_avg_spearman"),
        (("sts12", "sts15", "stsb", "sickr"), "sts_avg_of_4_spearman"),
        (("stsb", "sickr"), "sts_avg_of_2_spearman"),
        (("sts12",), "sts12_spearman"),
        (("stsb",), "stsb_spearman"),
    ],
)
def test_what_the_test_sets_select_by_is_in_the_log_under_its_name(names, average):
    class Random:
        def encode(self, sentences, tokenizer, **options):
            return torch.randn(len(sentences), 5, generator=torch.Generator().manual_seed(0))

    found = [of_random_pairs(name) for name in names]
    assert average_name(found) == average
    figures = figures_of_tests(Random(), None, found)
    singles = {f"{name}_spearman" for name in names}
    assert figures.keys() == singles | {average}
    assert figures[average] == pytest.approx(sum(figures[name] for name in singles) / len(singles))
    log = [{f"eval_{name}": value for name, value in figures.items()} | {"step": 5, "eval_dev_spearman": 1.0}]
    ((_, row), *_) = compare_selections(log, average)
    assert row.get("stsb_spearman") == figures.get("stsb_spearman")
    assert row["dev_spearman"] == 1.0
