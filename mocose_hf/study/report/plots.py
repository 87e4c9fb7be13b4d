"""The plot of a study: its cells beside the paper's, scores over optimizer steps, or singular values."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mocose_hf.evaluation.geometry_plots import spectrum_figure
from mocose_hf.plotting import INK, MARKERS, Style, line_style, new_axes, new_figure
from mocose_hf.study.analysis.analysis import Analysis, CellOutcome
from mocose_hf.study.metrics import Metric, describe_metric
from mocose_hf.study.report.bars import bars_figure
from mocose_hf.study.report.panels import legend_below, near_limits, new_panels, plain
from mocose_hf.study.report.tables import column_name, number
from mocose_hf.study.study import SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG_AXIS_RATIO = 8
"""The ratio of the largest to the smallest x from which the axis is logarithmic."""

_MAX_TICKS = 9

_MAX_NAMES_INSIDE = 5
"""Names in a legend that fit inside a panel of singular values."""

_CHARACTER_WIDTH = 0.022
"""Width of a character of a tick label, relative to the panel."""


def study_figure(analysis: Analysis) -> "Figure | None":
    """Draw the plot that a study declares; return None if it declares none or there is nothing to draw.

    Raises:
        InputError: If matplotlib is missing.
    """
    if analysis.study.plot == "":
        return None
    drawn = {"bars": bars_figure, "line": line_figure, "curves": curves_figure, "spectrum": _spectrum}
    return drawn[analysis.study.plot](analysis)


def line_figure(analysis: Analysis) -> "Figure | None":
    """Draw scores over x: a line per column or row with a band of one sd over seeds, beside the paper's.

    A cell without x is a horizontal line.

    Returns:
        None if no cell has a score.
    """
    if not any(outcome.score for outcome in analysis.cells):
        return None
    figure = new_figure(width=8.4, height=4.2)
    ours, paper = new_panels(figure, analysis, share="x")
    handles, names, lines = [], [], _lines(analysis)
    for index, (name, outcomes) in enumerate(lines.items()):
        style: Style = line_style(index) | {"marker": MARKERS[index % len(MARKERS)], "linewidth": 1.6}
        scored = [outcome for outcome in outcomes if outcome.score]
        (handle,) = ours.plot(*_points(scored, lambda outcome: outcome.score.mean), **style)
        _draw_spread(ours, scored, style["color"], alpha=0.16 if len(lines) < 3 else 0.09)
        if paper is not None:
            cited = [outcome for outcome in outcomes if outcome.cell.paper is not None]
            paper.plot(*_points(cited, lambda outcome: outcome.cell.paper), **style, markerfacecolor="white")
        if name or len(lines) > 1:
            handles.append(handle)
            names.append(column_name(name))
    for index, outcome in enumerate((o for o in analysis.cells if o.cell.x is None), start=len(lines)):
        style = {"color": line_style(index)["color"], "linestyle": ":", "linewidth": 1.8}
        handles.append(_level(ours, outcome.score.mean if outcome.score else None, style))
        if paper is not None:
            _level(paper, outcome.cell.paper, style)
        names.append(f"{outcome.cell.label} (default)" if outcome.is_default else outcome.cell.label)
    _mark_default(analysis, ours, paper, handles, names)
    for axes in filter(None, (ours, paper)):
        _finish_x(axes, analysis)
    _cut_off(ours, analysis, {o.cell.label: _drawn(o) for o in analysis.cells if o.score}, analysis.metric)
    if paper is not None:
        drawn = {o.cell.label: [o.cell.paper] for o in analysis.cells if o.cell.paper is not None}
        _cut_off(paper, analysis, drawn, describe_metric(SCORE))
    ours.set_ylabel(plain(analysis.metric.unit))
    legend_below(figure, handles, names)
    return figure


def curves_figure(analysis: Analysis) -> "Figure | None":
    """Draw development scores over optimizer steps: each seed faintly, their mean, and a cross at a collapse alarm.

    The mean covers the steps at which all seeds of a cell were evaluated.

    Returns:
        None if no trial has a curve.
    """
    if not any(_curve(trial) for trial in analysis.trials):
        return None
    from matplotlib.lines import Line2D

    figure = new_figure(width=7.2, height=4.4)
    axes = new_axes(figure)
    handles, names = [], []
    alarmed = False
    for index, outcome in enumerate(analysis.cells):
        curves = [(trial, _curve(trial)) for trial in outcome.trials if _curve(trial)]
        if not curves:
            continue
        style = line_style(index)
        for trial, curve in curves:
            axes.plot(*zip(*curve.items(), strict=True), color=style["color"], linewidth=0.8, alpha=0.4)
            alarmed |= _mark_alarm(axes, trial.figures.get("alarm_step"), curve)
        steps = sorted(set.intersection(*(set(curve) for _, curve in curves)))
        means = [float(np.mean([curve[step] for _, curve in curves])) for step in steps]
        marks: Style = {
            "marker": MARKERS[index % len(MARKERS)],
            "markevery": max(1, len(steps) // 8),
            "markersize": 5,
        }
        handles += axes.plot(steps, means, linewidth=2, **style, **marks)
        names.append(outcome.cell.label)
    if alarmed:
        handles.append(Line2D([], [], color=INK, marker="X", markersize=9, markeredgecolor="white", linestyle=""))
        names.append("collapse alarm")
    axes.margins(x=0.02)
    axes.set_xlabel("Optimizer step")
    axes.set_ylabel(
        plain(
            f"{analysis.curve_metric.unit}, {analysis.curve_metric.title[:1].lower()}{analysis.curve_metric.title[1:]}"
        )
    )
    legend_below(figure, handles, names)
    return figure


def _spectrum(analysis: Analysis) -> "Figure | None":
    """Draw the mean singular values over the seeds of each cell. A long legend moves below the panel."""
    figure = spectrum_figure({outcome.cell.label: outcome.mean_spectrum() for outcome in analysis.cells})
    if figure is None or (legend := figure.axes[0].get_legend()) is None:
        return figure
    names = [text.get_text() for text in legend.get_texts()]
    if len(names) > _MAX_NAMES_INSIDE:
        legend.remove()
        legend_below(figure, figure.axes[0].get_lines(), names, room=0)
    return figure


def _lines(analysis: Analysis) -> dict[str, list[CellOutcome]]:
    """Return the cells of each line, sorted by x: a line per row if every column has its own x, otherwise per column.

    In Table 7 the columns are queue sizes, so each row becomes a line.
    """
    with_x = [outcome for outcome in analysis.cells if outcome.cell.x is not None]
    pairs = {(outcome.cell.column, outcome.cell.x) for outcome in with_x}
    by_row = len(pairs) == len({column for column, _ in pairs}) == len({x for _, x in pairs}) > 1
    lines: dict[str, list[CellOutcome]] = {}
    for outcome in with_x:
        lines.setdefault(outcome.cell.row if by_row else outcome.cell.column, []).append(outcome)
    return {name: sorted(outcomes, key=lambda outcome: outcome.cell.x) for name, outcomes in lines.items()}


def _points(outcomes: Sequence[CellOutcome], figure) -> tuple[list[float], list[float]]:
    return [outcome.cell.x for outcome in outcomes], [figure(outcome) for outcome in outcomes]


def _draw_spread(axes: "Axes", outcomes: Sequence[CellOutcome], colour: str, alpha: float) -> None:
    """Draw a band of one standard deviation, and a dot per seed."""
    sds = [outcome.score.sd or 0.0 for outcome in outcomes]
    xs, means = _points(outcomes, lambda outcome: outcome.score.mean)
    axes.fill_between(
        xs, np.subtract(means, sds), np.add(means, sds), color=colour, alpha=alpha, linewidth=0, zorder=1
    )
    dots = [(outcome.cell.x, score) for outcome in outcomes for score in outcome.scores.values()]
    if dots:
        places, scores = zip(*dots, strict=True)
        axes.scatter(places, scores, s=9, color=colour, alpha=0.55, linewidths=0, zorder=2)


def _drawn(outcome: CellOutcome) -> list[float]:
    """Return all numbers that a plot draws for a cell, its mean first."""
    sd = outcome.score.sd or 0.0
    return [outcome.score.mean, outcome.score.mean - sd, outcome.score.mean + sd, *outcome.scores.values()]


def _level(axes: "Axes", height: float | None, style: Mapping[str, Any]):
    from matplotlib.lines import Line2D

    return Line2D([], [], **style) if height is None else axes.axhline(height, **style)


def _mark_default(analysis: Analysis, ours: "Axes", paper: "Axes | None", handles: list, names: list[str]) -> None:
    """Draw a ring around the default."""
    from matplotlib.lines import Line2D

    ring: Style = {
        "marker": "o",
        "markersize": 13,
        "markerfacecolor": "none",
        "markeredgecolor": INK,
        "linestyle": "",
    }
    default = analysis.default
    if default.cell.x is None:
        return
    if default.score is not None:
        ours.plot([default.cell.x], [default.score.mean], **ring)
    if paper is not None and default.cell.paper is not None:
        paper.plot([default.cell.x], [default.cell.paper], **ring)
    handles.append(Line2D([], [], **ring))
    names.append(f"default: {default.cell.label}")


def _cut_off(axes: "Axes", analysis: Analysis, drawn: Mapping[str, Sequence[float]], metric: Metric) -> None:
    """Limit the y-axis to the cells near the default, and write the figures of far cells at the edge.

    Args:
        axes: The panel.
        analysis: The study.
        drawn: For each cell its figure, followed by all other numbers that are drawn for it.
        metric: The metric of the panel.
    """
    figures = {label: values[0] for label, values in drawn.items()}
    low, high = near_limits(figures, analysis.study.default_label, metric)
    far = [o.cell for o in analysis.cells if not low <= figures.get(o.cell.label, low) <= high]
    if not far:
        return
    inside = [value for label, figure in figures.items() if low <= figure <= high for value in drawn[label]]
    margin = 0.12 * (max(inside) - min(inside)) or 1.0
    is_below = [figures[cell.label] < low for cell in far]
    room_below, room_above = (2 if any(is_below) else 1), (1 if all(is_below) else 2)  # for the names
    axes.set_ylim(min(inside) - margin * room_below, max(inside) + margin * room_above)
    for x, below in dict.fromkeys(zip([cell.x for cell in far], is_below, strict=True)):
        found = [figures[c.label] for c, is_low in zip(far, is_below, strict=True) if (c.x, is_low) == (x, below)]
        ends = dict.fromkeys(number(end, metric.decimals) for end in (min(found), max(found)))
        axes.annotate(
            f"{'▼' if below else '▲'} {' to '.join(ends)}",
            (0.5 if x is None else x, 0 if below else 1),
            xycoords=axes.transAxes if x is None else axes.get_xaxis_transform(),
            xytext=(0, 4 if below else -4),
            textcoords="offset points",
            ha=_side(x, analysis),
            va="bottom" if below else "top",
            fontsize=8,
            color=INK,
            zorder=5,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )


def _side(x: float | None, analysis: Analysis) -> str:
    """Return the horizontal alignment that keeps a text at x within the panel."""
    values = [outcome.cell.x for outcome in analysis.cells if outcome.cell.x is not None]
    if x is None or min(values) == max(values) or min(values) < x < max(values):
        return "center"
    return "right" if x == max(values) else "left"


def _finish_x(axes: "Axes", analysis: Analysis) -> None:
    """Label the x-axis, with a tick at each value if there are few."""
    values = sorted({outcome.cell.x for outcome in analysis.cells if outcome.cell.x is not None})
    axes.set_xlabel(plain(analysis.study.x_label))
    if not values:
        axes.set_xticks([])
        return
    if values[0] > 0 and values[-1] / values[0] >= _LOG_AXIS_RATIO:
        axes.set_xscale("log")
    if len(values) <= _MAX_TICKS:
        axes.set_xticks(values, _tick_labels(values, is_log=axes.get_xscale() == "log"))
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="x", labelsize=8.5)


def _tick_labels(values: Sequence[float], is_log: bool) -> list[str]:
    """Return a label for each value, "" if it would overlap the one before."""
    places = np.log(values) if is_log else np.array(values)
    places = (places - places[0]) / (places[-1] - places[0] or 1.0)
    labels, last, taken = [], "", -1.0
    for value, place in zip(values, places, strict=True):
        label = f"{value:g}".replace("e-0", "e-").replace("e+0", "e+")
        has_room = place - taken >= _CHARACTER_WIDTH * ((len(label) + len(last)) / 2 + 0.7)
        labels.append(label if has_room else "")
        if has_room:
            last, taken = label, place
    return labels


def _curve(trial) -> dict[int, float]:
    return {step: score for step, score in trial.curve if np.isfinite(score)}


def _mark_alarm(axes: "Axes", step: float | None, curve: Mapping[int, float]) -> bool:
    """Draw a cross where the embeddings collapsed; return whether they did."""
    if step is None or not np.isfinite(step):
        return False
    steps = sorted(curve)
    height = float(np.interp(step, steps, [curve[at] for at in steps]))
    axes.scatter([step], [height], marker="X", s=90, color=INK, edgecolors="white", zorder=5)
    return True
