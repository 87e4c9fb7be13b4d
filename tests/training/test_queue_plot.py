"""The figure of the queue's monitor: what its panels hold, and its file."""

import json
import sys

import pytest
from images import assert_is_png, assert_is_svg, refuse_pyplot

from mocose_hf import plot_queue_monitor
from mocose_hf.errors import InputError

pytest.importorskip("matplotlib")

from mocose_hf.training.queue_monitor.plot import queue_monitor_figure, read_queue_monitor


def record(step: int, **fields) -> dict:
    """A line of a queue of three bins of four rows, beside batches of four."""
    values = {
        "step": step,
        "queue_fill": 12,
        "initial_rows": 0,
        "first_ages": [1, 3, 5],
        "bin_width": 2,
        "rows_by_age": [4, 4, 4],
        "key_drift_by_age": [0.9, 0.8, 0.7],
        "sampled_by_age": [8, 8, 8],
        "batch_key_drift": 0.95,
        "gradient_share_by_age": [0.4, 0.3, 0.1],
        "queue_gradient_share": 0.8,
        "in_batch_gradient_share": 0.2,
        "initial_gradient_share": 0.0,
        "effective_negatives": 9.0,
        "negatives": 15.0,
        "false_negative_rate": 0.02,
        "false_negative_gradient_share": 0.05,
        "d_trace": 9.5,
        "current_d_trace": 10.0 * step,
    }
    return values | fields


RECORDS = [record(step) for step in range(10, 130, 10)]


def write(folder, records) -> str:
    path = folder / "queue_monitor.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    return str(path)


def panels(records) -> dict:
    return {axes.get_title(): axes for axes in queue_monitor_figure(records).axes}


def points(axes, number=0) -> list[tuple]:
    return [tuple(point) for point in axes.lines[number].get_xydata().tolist()]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_some_steps_from_the_first_to_the_last_have_lines_by_age():
    made = panels(RECORDS)
    assert list(made) == [
        "Drift of the keys",
        "Gradient by age",
        "",  # the bar of steps
        "Gradient by source",
        "Effective negatives",
        "Maximum traceable distance",
        "False negatives by sentence id",
    ]
    assert len(made["Drift of the keys"].lines) == 6
    assert len(made["Gradient by age"].lines) == 6 + 1
    assert len({tuple(line.get_color()) for line in made["Drift of the keys"].lines}) == 6
    labels = [label.get_text() for label in made[""].get_yticklabels()]
    assert labels == ["10", "30", "50", "80", "100", "120"]
    assert made[""].get_ylabel() == "Optimizer step"


def test_a_line_by_age_holds_the_middle_of_each_bin_and_the_batch_at_age_0():
    made = panels([record(7)])
    assert points(made["Drift of the keys"]) == [(0.0, 0.95), (1.5, 0.9), (3.5, 0.8), (5.5, 0.7)]
    assert points(made["Gradient by age"]) == [(1.5, 0.4), (3.5, 0.3), (5.5, 0.1)]
    assert points(made["Gradient by age"], 1) == [(1.5, 4 / 15), (3.5, 4 / 15), (5.5, 4 / 15)]
    assert made["Gradient by age"].lines[1].get_linestyle() == "--"
    assert made["Gradient by age"].get_ylim()[0] == 0


def test_bins_of_few_sampled_keys_are_drawn_as_one_dot():
    made = panels([record(7, sampled_by_age=[2, 6, 3])])
    age, drift = (2 * 1.5 + 6 * 3.5) / 8, (2 * 0.9 + 6 * 0.8) / 8
    (_, (found_age, found_drift)) = points(made["Drift of the keys"])
    assert (found_age, found_drift) == (pytest.approx(age), pytest.approx(drift))
    oldest = panels([record(7, sampled_by_age=[2, 6, 4])])
    assert points(oldest["Drift of the keys"])[-1] == (5.5, pytest.approx(0.7))
    alone = panels([record(7, sampled_by_age=[1, 1, 0], batch_key_drift=None, key_drift_by_age=[0.9, 0.7, None])])
    assert points(alone["Drift of the keys"]) == [(2.5, pytest.approx(0.8))]


def test_bins_without_rows_are_not_drawn():
    made = panels([record(7, rows_by_age=[4, 4, 0], key_drift_by_age=[0.9, 0.8, None], sampled_by_age=[8, 8, 0])])
    assert [age for age, _ in points(made["Drift of the keys"])] == [0, 1.5, 3.5]
    assert [age for age, _ in points(made["Gradient by age"])] == [1.5, 3.5]


def test_the_run_is_drawn_over_all_its_steps():
    records = [*RECORDS, {key: value for key, value in record(130).items() if key != "current_d_trace"}]
    made = panels(records)
    steps = [float(r["step"]) for r in records]
    source = made["Gradient by source"]
    assert points(source) == [(step, 0.8) for step in steps]
    assert points(source, 1) == [(step, 0.2) for step in steps]
    assert len(source.lines) == 2
    assert source.get_ylim() == (0, 1)
    effective = made["Effective negatives"]
    assert [points(effective, n) for n in (0, 1)] == [[(step, value) for step in steps] for value in (9.0, 15.0)]
    distance = made["Maximum traceable distance"]
    assert points(distance) == [(step, 10 * step) for step in steps[:-1]]  # it has no end at η = 1
    assert points(distance, 1) == [(step, 9.5) for step in steps]
    assert distance.get_yscale() == "log"
    false = made["False negatives by sentence id"]
    assert [points(false, n) for n in (0, 1)] == [[(step, value) for step in steps] for value in (0.02, 0.05)]


def test_random_initial_rows_have_a_line_if_there_were_any():
    made = panels([record(10, initial_rows=4, initial_gradient_share=0.1), record(20)])
    assert points(made["Gradient by source"], 2) == [(10.0, 0.1), (20.0, 0.0)]


def test_a_panel_without_figures_says_so():
    left = ("step", "negatives", "effective_negatives", "in_batch_gradient_share", "first_ages", "rows_by_age")
    bare = {name: [] if name in left[4:] else record(5)[name] for name in left}
    made = panels([bare, bare | {"step": 10}])
    for title in ("Drift of the keys", "Gradient by age", "Maximum traceable distance"):
        assert texts(made[title]) == ["not measured"]
    assert points(made["Gradient by source"]) == [(5.0, 0.2), (10.0, 0.2)]
    assert "" not in made  # no bar of steps
    only_ages = panels([record(5, gradient_share_by_age=None)])
    assert texts(only_ages["Gradient by age"]) == ["not measured"]
    assert len(only_ages["Drift of the keys"].lines) == 1


def test_a_panel_of_zeros_starts_at_its_foot():
    zeros = {"false_negative_rate": 0.0, "false_negative_gradient_share": 0.0}
    bottom, top = panels([record(1, **zeros), record(2, **zeros)])["False negatives by sentence id"].get_ylim()
    assert bottom == 0
    assert top > 0


@pytest.mark.parametrize("records", [RECORDS, RECORDS[:1]])
def test_the_files_are_figures_and_the_same_each_time(tmp_path, monkeypatch, records):
    refuse_pyplot(monkeypatch)
    lines = write(tmp_path, records)
    for suffix, is_figure in (("png", assert_is_png), ("svg", assert_is_svg)):
        first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
        assert plot_queue_monitor(lines, first)
        assert plot_queue_monitor(lines, second)
        is_figure(first)
        assert first.read_bytes() == second.read_bytes()


def test_no_lines_are_not_drawn(tmp_path):
    assert not plot_queue_monitor(write(tmp_path, []), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"step": 1}\n{"step": 2, "que', "line 2: is not JSON"),
        (b'{"step": 1}\n\n[1]\n', "line 3: is no record of a step; delete the line."),
        (b'{"step": "a"}\n', "line 1: is no record of a step"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_lines_that_cannot_be_parsed_are_reported_by_their_number(tmp_path, text, said):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(text)
    with pytest.raises(InputError) as raised:
        plot_queue_monitor(path, tmp_path / "a.png")
    assert said in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_another_suffix_and_a_missing_matplotlib_are_reported(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"nothing\.jsonl: cannot be read"):
        plot_queue_monitor(tmp_path / "nothing.jsonl", tmp_path / "a.png")
    lines = write(tmp_path, RECORDS)
    with pytest.raises(InputError, match=r"a\.pdf: the name should end in \.png or \.svg"):
        plot_queue_monitor(lines, tmp_path / "a.pdf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(read_queue_monitor(lines)) == len(RECORDS)
    with pytest.raises(InputError, match=r"^plots need matplotlib: pip install .*\[evaluation\]'$"):
        plot_queue_monitor(lines, tmp_path / "a.png")
