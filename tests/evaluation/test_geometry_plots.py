"""The figures: what their axes hold, and the files."""

import itertools
import math
import sys
import warnings

import pytest
import torch
from images import assert_is_png, assert_is_svg, refuse_pyplot

from mocose_hf.errors import InputError

pytest.importorskip("matplotlib")

from mocose_hf.evaluation.geometry_plots import (
    alignment_uniformity_figure,
    plot_alignment_uniformity,
    plot_spectrum,
    spectrum_figure,
)

SPECTRA = {
    "one": torch.tensor([9.0, 3.0, 1.0], dtype=torch.float64),
    "_two_$x$": torch.tensor([100.0, 5.0, 2.0, 0.5, 1e-14]),
}
HISTORY = [
    {"step": 20, "eval_dev_uniformity": -2.0, "eval_dev_alignment": 0.30, "eval_dev_spearman": 71.0},
    {"step": 5, "loss": 3.0},
    {"step": 0, "eval_dev_uniformity": -1.5, "eval_dev_alignment": 0.25},
    {"step": 10, "eval_dev_uniformity": math.nan, "eval_dev_alignment": 0.25},
    {"step": 15, "eval_dev_uniformity": -1.9},
    {"eval_dev_uniformity": -1.9, "eval_dev_alignment": 0.2},
    {"step": 10, "eval_dev_uniformity": -1.8, "eval_dev_alignment": 0.20},
    {"step": 20, "eval_dev_uniformity": -2.1, "eval_dev_alignment": 0.31},
    {"step": 20, "train_runtime": 3.0},
]


# The spectrum


def test_the_spectrum_holds_one_line_per_encoder():
    figure = spectrum_figure(SPECTRA)
    (axes,) = figure.axes
    one, two = axes.get_lines()
    assert list(one.get_xdata()) == [1, 2, 3]
    assert list(one.get_ydata()) == [9.0, 3.0, 1.0]
    assert list(two.get_xdata()) == [1, 2, 3, 4]  # without the rounding error
    assert list(two.get_ydata()) == [100.0, 5.0, 2.0, 0.5]
    assert one.get_color() != two.get_color()
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "Index of the singular value"
    assert axes.get_ylabel() == "Singular value (log scale)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "_two_$x$"]
    assert not any(text.get_parse_math() for text in axes.get_legend().get_texts())


def test_one_spectrum_is_named_above_it_and_not_in_a_legend():
    (axes,) = spectrum_figure({"alone": SPECTRA["one"]}).axes
    assert axes.get_legend() is None
    assert axes.get_title() == "alone"


def test_many_spectra_are_distinguished():
    (axes,) = spectrum_figure({f"encoder {i}": torch.tensor([3.0, 1.0 + i]) for i in range(20)}).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}) == 20


def test_a_spectrum_of_zeros_is_not_drawn(tmp_path):
    assert not plot_spectrum({}, tmp_path / "a.png")
    assert not plot_spectrum({"zeros": torch.zeros(3), "none": torch.zeros(0)}, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    (axes,) = spectrum_figure({"zeros": torch.zeros(3), "one": SPECTRA["one"]}).axes
    assert len(axes.get_lines()) == 1


# Alignment and uniformity


def test_the_way_of_a_run_is_in_order_of_steps():
    figure = alignment_uniformity_figure(HISTORY)
    axes, bar = figure.axes
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [-1.5, -1.8, -2.0]
    assert list(line.get_ydata()) == [0.25, 0.20, 0.30]
    (dots,) = axes.collections
    assert dots.get_offsets().tolist() == [[-1.5, 0.25], [-1.8, 0.20], [-2.0, 0.30]]
    assert list(dots.get_array()) == [0, 10, 20]
    assert "Uniformity" in axes.get_xlabel()
    assert "Alignment" in axes.get_ylabel()
    assert "lower is better" in axes.get_xlabel()
    assert "lower is better" in axes.get_ylabel()
    assert bar.get_ylabel() == "Optimizer step"
    assert [(text.get_text(), text.xy) for text in axes.texts] == [
        ("step 0", (-1.5, 0.25)),
        ("step 20", (-2.0, 0.30)),
    ]


def test_of_a_step_that_was_evaluated_twice_the_first_counts():
    """The second time it is the best checkpoint, loaded after the last step."""
    again = {"step": 20, "eval_dev_alignment": 0.9, "eval_dev_uniformity": -0.9}
    (line,) = alignment_uniformity_figure([*HISTORY, again]).axes[0].get_lines()
    assert line.get_ydata()[-1] == 0.30


@pytest.mark.parametrize("turn", range(8))
def test_the_labels_of_the_ends_stand_inside_and_clear_of_the_line(turn):
    signs = (1 - 2 * (turn & 1), 1 - 2 * (turn >> 1 & 1))
    points = [(-1.0, 0.1), (-0.4, 0.05), (0.1, 0.3), (0.5, 0.4)]
    made = []
    for step, point in enumerate(points):
        x, y = (sign * value for sign, value in zip(signs, point, strict=True))
        x, y = (y, x) if turn & 4 else (x, y)
        made.append({"step": 1000 * step, "eval_dev_uniformity": x, "eval_dev_alignment": y})
    figure = alignment_uniformity_figure(made)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    inside = axes.get_window_extent()
    line = axes.transData.transform(axes.get_lines()[0].get_xydata())
    for text in axes.texts:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1
        for start, end in itertools.pairwise(line):
            for share in torch.linspace(0, 1, 50).tolist():
                assert not box.contains(*(start + share * (end - start)))
    assert not axes.texts[0].get_window_extent().overlaps(axes.texts[1].get_window_extent())


def test_the_labels_of_one_place_stand_apart():
    made = [{"step": i, "eval_dev_uniformity": -1 - (i == 1), "eval_dev_alignment": 0.2} for i in range(3)]
    figure = alignment_uniformity_figure(made)
    figure.draw_without_rendering()
    first, last = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(last)


def test_one_point_has_one_label_and_no_bar():
    (axes,) = alignment_uniformity_figure(HISTORY[2:3]).axes
    assert [text.get_text() for text in axes.texts] == ["step 0"]


def test_an_empty_history_is_not_drawn(tmp_path):
    for history in ([], [{"step": 5, "loss": 3.0}], HISTORY[3:6]):
        assert not plot_alignment_uniformity(history, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


# Files


@pytest.mark.parametrize(("plot", "data"), [(plot_spectrum, SPECTRA), (plot_alignment_uniformity, HISTORY)])
def test_files_are_whole_and_the_same_each_time(tmp_path, monkeypatch, plot, data):
    refuse_pyplot(monkeypatch)
    for name, check in (("a.png", assert_is_png), ("a.svg", assert_is_svg), ("B.PNG", assert_is_png)):
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert plot(data, path)
        check(path)
        first = path.read_bytes()
        assert plot(data, str(path))
        assert path.read_bytes() == first


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.png.txt"])
def test_another_suffix_is_refused(tmp_path, name):
    for plot, data in (
        (plot_spectrum, SPECTRA),
        (plot_alignment_uniformity, HISTORY),
        (plot_alignment_uniformity, []),
    ):
        with pytest.raises(InputError, match=r"the name should end in \.png or \.svg; rename it\.$"):
            plot(data, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_matplotlib_is_reported_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for plot, data in ((plot_spectrum, SPECTRA), (plot_alignment_uniformity, HISTORY)):
        with pytest.raises(InputError, match=r"^plots need matplotlib: pip install .*\[evaluation\]'$"):
            plot(data, tmp_path / "a.png")
