import json
import time

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mocose_hf.errors import InputError
from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.study_file import read_study_file


def read(tmp_path, text: str, name: str = "mine.yaml"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_study_file(tmp_path / name)


def test_a_grid_of_two_options_has_rows_and_columns(tmp_path):
    study = read(
        tmp_path,
        "question: Which?\n"
        "grid:\n  ema_decay: [0.5, 0.85]\n  queue_size: [64, 128, 256]\n"
        "options: {max_steps: 20}\n"
        "default: ema_decay = 0.85, queue_size = 128\n",
    )

    assert (study.name, study.title, study.question) == ("mine", "mine", "Which?")
    assert len(study.cells) == 6
    assert study.cells[1].row == "ema_decay = 0.5"
    assert study.cells[1].column == "queue_size = 128"
    assert study.options_of(study.cells[1]) == {"max_steps": 20, "ema_decay": 0.5, "queue_size": 128}
    assert study.cells[1].x == 0.5
    assert study.default_label == "ema_decay = 0.85, queue_size = 128"


def test_a_grid_accepts_numbers_that_yaml_reads_as_strings(tmp_path):
    study = read(tmp_path, "grid:\n  learning_rate: [1e-5, 3e-5]\nplot: line\nx_label: rate\n")

    assert [cell.x for cell in study.cells] == [1e-5, 3e-5]
    assert (study.plot, study.x_label, study.default_label) == ("line", "rate", "learning_rate = 1e-5")


def test_cells_have_labels_and_options(tmp_path):
    study = read(tmp_path, "cells:\n  the default:\n  no queue: {queue_size: 0, queue_init_size: 0}\n")

    assert [(c.label, dict(c.options)) for c in study.cells] == [
        ("the default", {}),
        ("no queue", {"queue_size": 0, "queue_init_size": 0}),
    ]


def test_a_search_has_a_space(tmp_path):
    search = read(
        tmp_path,
        "search:\n  trials: 12\n  space:\n"
        "    temperature: {low: 1e-2, high: 0.2, log: true}\n"
        "    queue_size: {low: 64, high: 512, step: 64}\n"
        "    pooling_mode: [cls, mean]\n",
    )

    assert search.trials == 12
    assert search.space == {
        "temperature": FloatDistribution(0.01, 0.2, log=True),
        "queue_size": IntDistribution(64, 512, step=64),
        "pooling_mode": CategoricalDistribution(["cls", "mean"]),
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n", "must be a mapping with one of grid, cells and search"),
        ("title: x\n", "must be a mapping with one of grid, cells and search"),
        ("grid: {a: [1]}\ncells: {b: {}}\n", "must be a mapping with one of grid, cells and search"),
        ("grid: {a: [1]}\nseeds: [1]\n", "`seeds` is unknown; choose from cells, default"),
        ("grid: [1, 2]\n", "`grid` must be a mapping"),
        ("grid: {a: [1, 1]}\n", "duplicate cell labels"),
        ("grid: {a: [1]}\ndefault: b\n", "'b', which is not a cell"),
        ("cells: {x: [1]}\n", "`x` must be a mapping"),
        ("search: {trials: 0, space: {a: [1]}}\n", "`trials` is 0, but must be a whole number"),
        ("search: {trials: 3}\n", "`space` must be a mapping"),
        ("search: {trials: 3, space: {a: {low: 1}}}\n", "`a` must be a list of choices, or a mapping of low, high"),
        ("search: {trials: 3, space: {a: {low: 2, high: 1}}}\n", "`a`: `low <= high` must hold"),
        ("search: {trials: 3, space: {a: []}}\n", "`a`: The `choices` must contain one or more"),
        ("search: {trials: 3, space: {}}\n", "`space` has no option"),
        ("search: {trials: true, space: {a: [1]}}\n", "`trials` is True, but must be a whole number"),
        ("search: {trials: 3, seeds: 2, space: {a: [1]}}\n", "`seeds` has no meaning in a search"),
        ("search: {trials: 3, space: {a: [1]}}\nplot: bars\n", "`plot` has no meaning in a search"),
        ("grid: {a: [1], b: []}\n", "`b` has no values"),
        ("grid: {}\n", "`grid` has no option"),
        ("cells: {}\n", "The study `mine` has no cells"),
        ("grid: {a: [1]}\nplot: lines\n", "`plot` is 'lines', but must be one of bars, line, curves, spectrum"),
        ("grid: {a: [1]}\nequivalence_bound: wide\n", "`equivalence_bound` is 'wide', but must be a number"),
        ("grid: {a: [1]}\nequivalence_bound: -1\n", "`equivalence_bound` is -1.0, but must be a number"),
        ("search: {trials: 3, space: {a: [1]}}\nequivalence_bound: 1\n", "`equivalence_bound` has no meaning in a"),
        ("grid: {a: [1]}\nmetric: seconds\n", "`metric` is 'seconds', but must be a figure"),
        ("grid: {a: [1]}\nmetric: {x: 1}\n", "`metric` is"),
        ("search: {trials: 3, space: {a: [1]}}\nmetric: dev_step\n", "`metric` is 'dev_step'"),
        ("grid: {a: [1\n", "cannot be read"),
        ("!!python/object/apply:os.system ['exit 3']\n", "cannot be read"),
    ],
)
def test_an_unusable_file_fails_with_one_line(tmp_path, text, expected):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)

    message = str(error.value)
    assert message.startswith(str(tmp_path / "mine.yaml"))
    assert expected in message
    assert "\n" not in message


def test_a_study_declares_its_bound_of_equivalence(tmp_path):
    assert read(tmp_path, "grid: {a: [1]}\nequivalence_bound: 5e-1\n").equivalence_bound == 0.5
    assert read(tmp_path, "grid: {a: [1]}\n").equivalence_bound == 0.3


def test_a_study_or_a_search_declares_its_metric(tmp_path):
    study = read(tmp_path, "grid: {a: [1]}\nmetric: faq_mrr_at_10\n")
    assert study.metric == "faq_mrr_at_10"
    assert Study.from_dict(study.as_dict()).metric == "faq_mrr_at_10"
    assert read(tmp_path, "search: {trials: 3, space: {a: [1]}}\nmetric: bank_v_measure\n").metric == "bank_v_measure"
    assert read(tmp_path, "grid: {a: [1]}\n").metric == "dev_spearman"


def test_a_missing_file_fails(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_study_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["my grid.yaml", "_grid.yaml", "größe.yaml"])
def test_an_invalid_file_name_fails(tmp_path, name):
    with pytest.raises(InputError, match="so rename it: use letters"):
        read(tmp_path, "grid: {a: [1]}\n", name)


# Hostile files


def layers(first: str, deepest: int, entry) -> str:
    """Return nested aliases: each layer contains the one before ten times."""
    return first + "".join(entry(i, ", ".join([f"*a{i - 1}"] * 10)) for i in range(1, deepest))


BOMBS = {
    "lists": layers("grid:\n  x0: &a0 [1, 2]\n", 12, lambda i, below: f"  x{i}: &a{i} [{below}]\n"),
    "merged mappings": layers(
        "cells:\n  c0: &a0 {temperature: 1}\n", 12, lambda i, below: f"  c{i}: &a{i} {{<<: [{below}], x{i}: 1}}\n"
    ),
    "options": layers("grid: {x: [1]}\noptions:\n  x0: &a0 [1]\n", 12, lambda i, below: f"  x{i}: &a{i} [{below}]\n"),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_exponential_aliases_fail_fast(tmp_path, text):
    start = time.process_time()
    with pytest.raises(InputError, match="over 100,000 values with aliases resolved"):
        read(tmp_path, text)
    assert time.process_time() - start < 5


def test_an_alias_of_modest_size_is_resolved(tmp_path):
    study = read(tmp_path, "cells:\n  a: &a {temperature: 0.1}\n  b: {<<: *a, queue_size: 64}\n  c: *a\n")
    assert [dict(cell.options) for cell in study.cells] == [
        {"temperature": 0.1},
        {"temperature": 0.1, "queue_size": 64},
        {"temperature": 0.1},
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid:\n" + "".join(f"  x{i}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]\n" for i in range(9)), "1,000,000,000 cells"),
        ("grid: {x: [" + ", ".join(map(str, range(10_001))) + "]}", "10,001 cells, over the limit of 10,000"),
        ("grid: &a {x: *a}\n", "line 1: an alias contains itself"),
        ("grid: &a\n  x: [1, *a]\n", "an alias contains itself"),
        ("cells: {a: {x: 1}, b: {x: 2}, a: {x: 3}}\n", "line 1: `a` appears twice"),
        ("cells: {a: {x: !!set {1, 2}}}\n", "line 1: the tag !!set"),
        ("cells: {a: {x: !!binary aGk=}}\n", "line 1: the tag !!binary"),
        ("cells: {a: {x: " + "[" * 30 + "]" * 30 + "}}\n", "line 1: nested over 20 deep"),
        ("cells: {a: {x: " + "[" * 30_000, "cannot be read"),
        ("# " + "x" * 1_000_000 + "\ngrid: {x: [1]}\n", "over 1,000,000 characters"),
    ],
)
def test_an_excessive_file_fails_with_one_line(tmp_path, text, expected):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_dates_are_text(tmp_path):
    study = read(tmp_path, "cells: {a: {run_name: 2026-11-26}}")
    assert study.cells[0].options == {"run_name": "2026-11-26"}
    json.dumps(study.as_dict())


def test_labels_and_titles_cannot_steer_a_terminal(tmp_path):
    study = read(tmp_path, 'title: "\\e]0;x\\a \\u202eabc"\nquestion: |\n  One\n  line?\ncells: {"\\e[31mred": {}}')
    assert study.title == r"\x1b]0;x\x07 \u202eabc"
    assert study.question == "One line?"
    assert study.cells[0].label == r"\x1b[31mred"
    assert TrialResult("s", "\x1b[31mred", 0, "failed", reason="\x1b[2J").cell == study.cells[0].label
    persian, family = "می\u200cخواهم", "👩\u200d👧\u00a0x"
    assert [Cell(persian).row, Cell(family).row] == [persian, family]
