"""The plots of studies: their content, that nothing is cut off, and that unusual studies can be drawn."""

import itertools
import math
import random
import sys
import warnings

import numpy as np
import pytest
from study_results import NASTY, SEEDS, all_studies, collapse_study, complete, decay_study, queue_study, spectrum_study

from mocose_hf.errors import InputError
from mocose_hf.study import Cell, Study, TrialResult

pytest.importorskip("matplotlib")

from matplotlib.collections import PathCollection

from mocose_hf.plotting import figure_bytes
from mocose_hf.study.analysis.analysis import analyse
from mocose_hf.study.metrics import describe_metric
from mocose_hf.study.paper_studies import PAPER_STUDIES
from mocose_hf.study.report.panels import near_limits
from mocose_hf.study.report.plots import study_figure

METRIC = describe_metric("dev_spearman")


@pytest.fixture(autouse=True)
def no_warnings(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it raises ImportError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(study, results):
    figure = study_figure(analyse(study, results))
    figure.draw_without_rendering()
    return figure


def study_of(cells, plot: str, **more) -> Study:
    return Study("s", "S", "Why?", more.pop("source", "Table 9"), cells, plot=plot, **more)


def legend_names(figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def tick_labels(axis) -> list:
    """Return the visible tick labels."""
    low, high = sorted(axis.get_view_interval())
    ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]


def texts_of(figure):
    """Yield all visible texts."""
    for axes in figure.axes:
        yield from (text for text in axes.texts if text.get_text())
        yield axes.title
        for axis in (axes.xaxis, axes.yaxis):
            yield from tick_labels(axis)
            yield axis.label
    for legend in figure.legends:
        yield from legend.get_texts()


# All plots


@pytest.mark.parametrize("number", range(4))
def test_no_text_is_cut_off(number):
    figure = drawn(*all_studies()[number])
    whole = figure.bbox.padded(2)
    for text in texts_of(figure):
        box = text.get_window_extent()
        if text.get_text():
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1, text


@pytest.mark.parametrize("number", range(4))
def test_tick_labels_do_not_overlap(number):
    figure = drawn(*all_studies()[number])
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            boxes = [label.get_window_extent() for label in tick_labels(axis)]
            for one, other in itertools.combinations(boxes, 2):
                assert not one.overlaps(other)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("number", range(4))
def test_the_same_study_gives_the_same_bytes(number, suffix):
    first, second = (figure_bytes(study_figure(analyse(*all_studies()[number])), suffix) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("plot", ["bars", "line", "curves", "spectrum"])
def test_without_a_complete_trial_nothing_is_drawn(plot):
    cells = [Cell("a", paper=70.0, x=1.0), Cell("b", x=2.0)]
    waiting = [TrialResult("s", "a", 1, "waiting"), complete("s", "b", 1, math.nan, curve=[(0, math.nan)])]
    assert study_figure(analyse(study_of(cells, plot), [])) is None
    assert study_figure(analyse(study_of(cells, plot), waiting)) is None


@pytest.mark.parametrize("plot", ["bars", "line", "curves", "spectrum"])
def test_one_seed_of_one_cell_is_drawn(plot):
    cells = [Cell("a", paper=70.0, x=1.0), Cell("b", x=2.0), Cell("c", paper=50.0)]
    for label in "abc":
        trial = complete("s", label, 1, 71.0, curve=[(0, 60.0), (5, math.nan), (10, 71.0)], spectrum=[3.0, 1.0])
        figure = drawn(study_of(cells, plot, default="b"), [trial])
        for axes in figure.axes:
            assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()


def test_a_study_may_ask_for_no_plot():
    assert study_figure(analyse(study_of([Cell("a")], ""), [complete("s", "a", 1, 70.0)])) is None


@pytest.mark.parametrize("number", range(4))
def test_a_missing_matplotlib_fails_with_one_line(number, monkeypatch):
    analysis = analyse(*all_studies()[number])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"^plots need matplotlib: pip install .*\[evaluation\]'$"):
        study_figure(analysis)


def test_cells_far_from_all_others_are_outside_the_limits():
    figures = {"default": 71.0, "a": 70.0, "b": 71.5, "c": 70.5, "far": 30.0}
    assert near_limits(figures, "default", METRIC) == (70.0, 71.5)
    assert near_limits({**figures, "far": 69.1}, "default", METRIC) == (69.1, 71.5)  # within two points
    assert near_limits({"default": 71.0, "far": 30.0}, "default", METRIC) == (30.0, 71.0)
    assert near_limits({"a": 71.0}, "default", METRIC) == (71.0, 71.0)
    assert near_limits({name: v for name, v in figures.items() if name != "default"}, "default", METRIC) == (
        70.0,
        71.5,
    )


def test_many_cells_are_named_below_panels_that_keep_their_height():
    cells = [Cell(f"a cell whose name is rather long, number {number}", x=number + 1.0) for number in range(16)]
    few = {}
    for shown in (cells[:2], cells):
        results = [
            complete("s", cell.label, 1, 70.0, curve=[(0, 60.0), (10, 71.0)], spectrum=[3.0, 1.0]) for cell in shown
        ]
        for plot in ("curves", "spectrum"):
            figure = drawn(study_of(shown, plot), results)
            height = figure.axes[0].get_window_extent().height
            whole, label = figure.bbox, figure.axes[0].yaxis.label.get_window_extent()
            assert whole.y0 <= label.y0 < label.y1 <= whole.y1
            assert height > 0.85 * few.setdefault(plot, height)
            if shown is cells:
                assert legend_names(figure) == [cell.label for cell in cells]
                assert figure.axes[0].get_legend() is None


# Bars


def bar_patches(axes) -> list:
    """Return the bars of a panel from top to bottom."""
    patches = [patch for container in axes.containers for patch in getattr(container, "patches", [])]
    return sorted(patches, key=lambda patch: patch.get_y())


def bars_of(axes) -> list[tuple[float, float]]:
    """Return the start and end of each bar from top to bottom."""
    return [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bar_patches(axes)]


def test_bars_grow_from_the_default():
    study, results = decay_study()
    analysis = analyse(study, results)
    ours, paper = drawn(study, results).axes
    default = analysis.default.score.mean
    means = [outcome.score.mean for outcome in analysis.cells if outcome.score]
    assert bars_of(ours) == [(pytest.approx(default), pytest.approx(mean)) for mean in means]
    cited = [outcome.cell.paper for outcome in analysis.cells if outcome.cell.paper is not None]
    assert bars_of(paper) == [(pytest.approx(76.49), pytest.approx(figure)) for figure in cited]


def test_rows_are_named_and_the_panels_aligned():
    figure = drawn(*decay_study())
    ours, paper = figure.axes
    labels = [tick.get_text().replace("\n", " ").replace("\\", "") for tick in ours.get_yticklabels()]
    assert labels[3] == "η = 0.85 (default)"
    assert labels[7] == NASTY
    assert labels[8] == "no target at all: the encoder itself, with gradient"
    assert ours.get_ylim() == paper.get_ylim()
    assert ours.get_ylim()[0] > ours.get_ylim()[1]  # the first row is on top
    assert ours.get_title() == "Here, development pairs\nmean ± sd over seeds"
    assert paper.get_title() == "Paper, Table 3\nas printed"


def test_a_cell_far_away_is_named_at_the_edge():
    figure = drawn(*decay_study())
    ours, paper = figure.axes
    far = analyse(*decay_study()).cells[7].score.mean
    assert [text.get_text() for text in ours.texts] == [f"◀ {far:.2f}", "no complete trial"]
    assert [text.get_text() for text in paper.texts] == ["◀ 24.00", "◀ 70.00"]
    assert ours.get_xlim()[0] > 60


def test_each_seed_is_a_dot_and_the_default_a_line():
    study, results = decay_study()
    ours, _ = drawn(study, results).axes
    dots = sorted(x for found in ours.findobj(PathCollection) for x, _ in found.get_offsets())
    near = [t.figures["dev_spearman"] for t in results if t.state == "complete" and t.cell != NASTY]
    assert dots == pytest.approx(sorted(near))
    line = next(line for line in ours.get_lines() if line.get_linestyle() == "--")
    assert line.get_xdata()[0] == pytest.approx(analyse(study, results).default.score.mean)


def test_columns_differ_in_colour_and_hatch_and_are_named():
    study, results = queue_study("bars")
    figure = drawn(study, results)
    ours = figure.axes[0]
    bars = bar_patches(ours)
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 5
    assert len({bar.get_hatch() for bar in bars}) == 5
    assert legend_names(figure)[:6] == [*(f"K = {k}" for k in (128, 256, 512, 1024, 4096)), "default: ¼, K = 512"]


def test_without_the_papers_figures_there_is_one_panel():
    cells = [Cell("a"), Cell("b")]
    results = [complete("s", label, seed, 70.0 + seed) for label in "ab" for seed in range(2)]
    for plot in ("bars", "line"):
        assert len(drawn(study_of(cells, plot), results).axes) == 1


def test_without_the_default_means_are_dots():
    cells = [Cell("a"), Cell("b"), Cell("c")]
    results = [complete("s", label, seed, 70.0 + seed) for label in "bc" for seed in range(2)]
    figure = drawn(study_of(cells, "bars"), results)
    assert bars_of(figure.axes[0]) == []
    assert legend_names(figure) == ["one seed"]


def band_of(axes) -> list[float] | None:
    """Return the limits of the grey band, None without a band."""
    bands = [patch for patch in axes.patches if patch.get_facecolor()[:3] == pytest.approx((239 / 255,) * 3)]
    return [bands[0].get_x(), bands[0].get_x() + bands[0].get_width()] if bands else None


def test_the_band_shows_the_minimum_detectable_difference_on_both_sides():
    study, results = decay_study()
    analysis = analyse(study, results)
    figure = drawn(study, results)
    default, margin = analysis.default.score.mean, analysis.detectable.minimum
    assert band_of(figure.axes[0]) == pytest.approx([default - margin, default + margin])
    assert legend_names(figure)[-1] == "below the minimum detectable difference"


def test_beside_a_default_that_is_not_trained_there_is_no_band():
    cells = [Cell("a"), Cell("b"), Cell("start", options={"baseline": "start"})]
    results = [complete("s", label, seed, 70.0 + seed * (label == "b")) for label in "ab" for seed in range(3)]
    results.append(complete("s", "start", 0, 60.0))
    assert band_of(drawn(study_of(cells, "bars"), results).axes[0]) is not None
    figure = drawn(study_of(cells, "bars", default="start"), results)
    assert band_of(figure.axes[0]) is None
    assert "below the minimum detectable difference" not in legend_names(figure)


def test_bars_without_a_column_are_named_none():
    cells = [Cell("none"), Cell("ε", "FGSM"), Cell("ε", "signs")]
    results = [complete("s", cell.label, 0, 70.0) for cell in cells]
    assert legend_names(drawn(study_of(cells, "bars"), results))[:3] == ["none", "FGSM", "signs"]


# Lines


def test_sizes_that_are_columns_make_a_line_for_each_row():
    """In Table 7 the rows are the initial parts of the queue, and the columns its sizes."""
    study = PAPER_STUDIES["table7"]
    results = [complete("table7", cell.label, 0, 70.0 + number / 20) for number, cell in enumerate(study.cells)]
    figure = drawn(study, results)
    for axes in figure.axes:
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 1]
        assert [list(line.get_xdata()) for line in lines] == [[128, 256, 512, 1024, 4096]] * 4
    assert list(lines[1].get_ydata()) == [75.92, 76.34, 77.30, 76.20, 50.42]
    assert legend_names(figure) == ["none", "¼", "½", "all", "default: ¼, K = 512"]


def test_distances_that_are_rows_make_a_line_for_each_batch_size():
    study = PAPER_STUDIES["figure3"]
    results = [complete("figure3", cell.label, 0, 70.0) for cell in study.cells]
    assert legend_names(drawn(study, results))[:3] == ["B = 64", "B = 128", "B = 256"]


def test_a_line_for_each_column_over_x():
    study, results = queue_study()
    analysis = analyse(study, results)
    figure = drawn(study, results)
    ours, paper = figure.axes
    lines = [line for line in paper.get_lines() if len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in lines] == [[128, 256, 512, 1024, 4096]] * 4
    assert list(lines[2].get_ydata()) == [76.16, 76.39, 76.94, 76.57, 38.74]
    last = [line for line in ours.get_lines() if len(line.get_xdata()) > 1][3]
    assert list(last.get_xdata()) == [128, 256, 512, 1024]  # one cell has no score
    means = [o.score.mean for o in analysis.cells if o.cell.column == "all" and o.score]
    assert list(last.get_ydata()) == means
    assert legend_names(figure) == ["none", "¼", "½", "all", "default: K = 512, ¼"]
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(styles) == 4
    assert ours.get_xscale() == "log"
    assert [tick.get_text() for tick in ours.get_xticklabels()] == ["128", "256", "512", "1024", "4096"]
    assert ours.get_xlabel() == "queue size K"


def test_the_band_is_a_standard_deviation_wide():
    study, results = queue_study()
    outcome = next(o for o in analyse(study, results).cells if o.cell.label == "K = 256, ¼")
    ours = drawn(study, results).axes[0]
    band = ours.collections[2].get_paths()[0].vertices  # of the second line, after band and dots of the first
    heights = sorted({round(y, 6) for x, y in band if x == 256})
    score = outcome.score
    assert heights == pytest.approx([score.mean - score.sd, score.mean + score.sd], abs=1e-5)


def test_figures_far_below_are_named_at_the_foot():
    figure = drawn(*queue_study())
    far = [o.score.mean for o in analyse(*queue_study()).cells if o.cell.x == 4096 and o.score]
    low, high = min(far), max(far)
    assert [text.get_text() for text in figure.axes[0].texts] == [f"▼ {low:.2f} to {high:.2f}"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["▼ 38.74 to 50.42"]
    assert figure.axes[0].get_ylim()[0] > 70
    for axes in figure.axes:
        box, inside = axes.texts[0].get_window_extent(), axes.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1


def test_a_cell_without_x_is_a_level_line():
    cells = [Cell(f"{x:g}", paper=76.0, x=x) for x in (1e-9, 5e-9, 5e-8)] + [Cell("none", paper=76.26)]
    results = [complete("s", cell.label, 1, 70.0 + i) for i, cell in enumerate(cells)]
    figure = drawn(study_of(cells, "line", default="none", x_label="ε"), results)
    ours, paper = figure.axes
    assert list(ours.get_lines()[-1].get_ydata()) == [73.0, 73.0]
    assert list(paper.get_lines()[-1].get_ydata()) == [76.26, 76.26]
    assert legend_names(figure) == ["none (default)"]
    assert [tick.get_text() for tick in ours.get_xticklabels()] == ["1e-9", "5e-9", "5e-8"]


def test_close_values_of_x_leave_labels_out():
    cells = [Cell(f"{x}", x=x) for x in (5.0, 7.67, 8.0, 8.67, 21.0)]
    results = [complete("s", cell.label, 1, 70.0) for cell in cells]
    (axes,) = drawn(study_of(cells, "line"), results).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "7.67", "", "", "21"]


# Curves


def test_curves_have_each_seed_their_mean_and_the_alarm():
    study, results = collapse_study()
    figure = drawn(study, results)
    (axes,) = figure.axes
    lines = axes.get_lines()
    assert len(lines) == 3 * (3 + 1)
    seeds, mean = lines[:3], lines[3]
    for line, trial in zip(seeds, results, strict=False):
        assert list(zip(line.get_xdata(), line.get_ydata(), strict=True)) == trial.curve
    assert list(mean.get_ydata()) == pytest.approx(np.mean([line.get_ydata() for line in seeds], axis=0))
    assert mean.get_linewidth() > seeds[0].get_linewidth()
    crosses = [offset for collection in axes.collections for offset in collection.get_offsets().tolist()]
    assert [x for x, _ in crosses] == [260, 270, 280]
    curve = dict(results[6].curve)
    assert crosses[0][1] == pytest.approx(0.8 * curve[250] + 0.2 * curve[300])
    assert legend_names(figure) == ["with predictor", "without predictor", "symmetric, η = 0", "collapse alarm"]


def test_the_mean_is_of_the_steps_that_all_seeds_have():
    curves = (
        [(0, 60.0), (10, 62.0), (20, 64.0)],
        [(0, 61.0), (10, math.nan), (20, 66.0)],
        [(0, 62.0), (20, 68.0), (30, 1.0)],
    )
    results = [complete("s", "a", seed, 70.0, curve=curve) for seed, curve in zip(SEEDS, curves, strict=True)]
    figure = drawn(study_of([Cell("a")], "curves"), results)
    mean = figure.axes[0].get_lines()[3]
    assert list(mean.get_xdata()) == [0, 20]
    assert list(mean.get_ydata()) == [61.0, 66.0]
    assert "collapse alarm" not in legend_names(figure)


def test_the_curve_of_a_failed_trial_is_drawn():
    """For example, a run that stopped when its embeddings collapsed."""
    trial = TrialResult("s", "a", 1, "failed", {"alarm_step": 15.0}, [(0, 60.0), (20, 20.0)], reason="collapsed")
    figure = drawn(study_of([Cell("a")], "curves"), [trial])
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[15.0, 30.0]]


# Spectra


def test_a_spectrum_is_the_mean_of_the_seeds():
    study, results = spectrum_study()
    results[1] = TrialResult(**vars(results[1]) | {"spectrum": [v / 2 for v in results[0].spectrum[:50]]})
    (axes,) = drawn(study, results).axes
    first, *others = axes.get_lines()
    assert len(others) == 2
    assert axes.get_yscale() == "log"
    assert list(first.get_ydata()) == pytest.approx([0.75 * v for v in results[0].spectrum[:50]])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["start", "SimCSE", "MoCoSE"]


def test_a_spectrum_with_a_nan_is_not_drawn():
    study, results = spectrum_study()
    results[0].spectrum[3] = math.nan
    assert len(drawn(study, results).axes[0].get_lines()) == 2


# Many


def test_random_studies_are_drawn():
    """Mixtures of missing cells, seeds, paper figures and values of x."""
    draw = random.Random(11)
    for plot in ("bars", "line") * 6:
        columns = draw.choice([[""], ["u", "v"], ["u", "v", "w"]])
        cells = [
            Cell(
                f"row {row}",
                column,
                paper=draw.choice([None, draw.uniform(20, 80)]),
                x=draw.choice([None, float(row), 10.0**-row]),
            )
            for row in range(draw.randint(1, 4))
            for column in columns
        ]
        results = [
            complete("s", cell.label, seed, draw.choice([draw.uniform(70, 71), draw.uniform(0, 100), 70.0]))
            for cell in cells
            for seed in range(draw.randint(0, 3))
        ]
        results.append(complete("s", cells[0].label, 99, 70.0))
        figure = drawn(study_of(cells, plot, default=draw.choice(cells).label, source=""), results)
        assert figure.axes[0].get_title().startswith("Here")
