"""Bars that start at the default, so that their length is the difference from it."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mocose_hf.plotting import COLOURS, INK, MARKERS, Style, new_figure
from mocose_hf.study.analysis.analysis import Analysis, CellOutcome
from mocose_hf.study.metrics import Metric, describe_metric
from mocose_hf.study.report.panels import legend_below, near_limits, new_panels, plain
from mocose_hf.study.report.tables import column_name, number
from mocose_hf.study.study import SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo")
_THICKNESS = 0.78
_GAP = 0.7
_LABEL_WIDTH = 30
_GREY_NOTE: Style = {"va": "center", "color": "#6E6E6E", "fontsize": 8}
_LINE = 0.68
"""Height of a line of a label, in units of a bar."""


@dataclass(frozen=True)
class _Panel:
    """One panel: its figures by label, the default's figure, the limits of its axis, and its metric."""

    axes: "Axes"
    figures: Mapping[str, float]
    baseline: float | None
    low: float
    high: float
    metric: Metric


def bars_figure(analysis: Analysis) -> "Figure | None":
    """Draw a group per row and a bar per column, with the paper's figures in a second panel.

    Bars start at the default: a bar from 0 would hide the differences, and any other start would be arbitrary. Cells
    far from the others reach the edge of the panel, with their figure beside them. The grey band shows the minimum
    detectable difference on both sides of the default.

    Returns:
        None if no cell has a score.
    """
    if not any(outcome.score for outcome in analysis.cells):
        return None
    rows = list(dict.fromkeys(outcome.cell.row for outcome in analysis.cells))
    columns = list(dict.fromkeys(outcome.cell.column for outcome in analysis.cells))
    labels = [_row_name(analysis, row) for row in rows]
    longest = max(label.count("\n") + 1 for label in labels)
    group = max(len(columns) + (_GAP if len(columns) > 1 else 0.25), _LINE * longest)
    places = {o.cell.label: rows.index(o.cell.row) * group + columns.index(o.cell.column) for o in analysis.cells}
    figure = new_figure(width=8.4, height=1.7 + 0.27 * group * len(rows))
    ours, paper = new_panels(figure, analysis, share="y")
    default = analysis.study.default_label
    means = {outcome.cell.label: outcome.score.mean for outcome in analysis.cells if outcome.score}
    _draw_ours(_panel(ours, means, default, analysis.metric), analysis, places, columns)
    if paper is not None:
        theirs = {o.cell.label: o.cell.paper for o in analysis.cells if o.cell.paper is not None}
        _draw_paper(_panel(paper, theirs, default, describe_metric(SCORE)), analysis, places, columns)
        paper.tick_params(labelleft=False)
    for axes in filter(None, (ours, paper)):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(plain(analysis.metric.unit if axes is ours else "Spearman × 100"))
    centres = [i * group + (len(columns) - 1) / 2 for i in range(len(rows))]
    ours.set_yticks(centres, labels)
    ours.set_ylim(centres[-1] + group / 2, centres[0] - group / 2)
    legend_below(figure, *_legend(analysis, columns))
    return figure


def _panel(axes: "Axes", figures: Mapping[str, float], default: str, metric: Metric) -> _Panel:
    return _Panel(axes, figures, figures.get(default), *near_limits(figures, default, metric), metric)


def _draw_ours(panel: _Panel, analysis: Analysis, places: Mapping[str, float], columns: Sequence[str]) -> None:
    axes = panel.axes
    inside = [panel.low, panel.high]
    if _has_band(analysis):
        margin = analysis.detectable.minimum
        axes.axvspan(panel.baseline - margin, panel.baseline + margin, color="#EFEFEF", zorder=0, linewidth=0)
        inside += [panel.baseline - margin, panel.baseline + margin]
    for outcome in analysis.cells:
        place = places[outcome.cell.label]
        if outcome.score is None:
            axes.text(0.02, place, "no complete trial", transform=axes.get_yaxis_transform(), **_GREY_NOTE)
            continue
        _bar(panel, outcome, place, columns)
        if not panel.low <= outcome.score.mean <= panel.high:
            continue
        scores = list(outcome.scores.values())
        if outcome.score.sd is not None:
            axes.errorbar(outcome.score.mean, place, xerr=outcome.score.sd, color=INK, capsize=3, linewidth=1.3)
            inside += [outcome.score.mean - outcome.score.sd, outcome.score.mean + outcome.score.sd]
        axes.scatter(scores, [place] * len(scores), s=13, color="white", edgecolors=INK, linewidths=0.8, zorder=4)
        inside += scores
    _set_limits(panel, inside)


def _draw_paper(panel: _Panel, analysis: Analysis, places: Mapping[str, float], columns: Sequence[str]) -> None:
    for outcome in analysis.cells:
        if outcome.cell.paper is None:
            continue
        _bar(panel, outcome, places[outcome.cell.label], columns)
        if panel.low <= outcome.cell.paper <= panel.high:
            panel.axes.scatter(
                outcome.cell.paper,
                places[outcome.cell.label],
                s=26,
                marker="D",
                color="white",
                edgecolors=INK,
                zorder=4,
            )
    _set_limits(panel, [panel.low, panel.high])


def _bar(panel: _Panel, outcome: CellOutcome, place: float, columns: Sequence[str]) -> None:
    """Draw a bar from the default's figure to the cell's, or to the edge with the figure beside it.

    Without a default, a dot replaces the bar.
    """
    value = panel.figures[outcome.cell.label]
    fill = _fill(columns.index(outcome.cell.column))
    if panel.baseline is not None:
        # The limits of the axis cut off a bar that reaches beyond them.
        panel.axes.barh(place, value - panel.baseline, _THICKNESS, left=panel.baseline, **fill)
    elif panel.low <= value <= panel.high:
        panel.axes.scatter(value, place, s=60, color=fill["facecolor"], marker=MARKERS[0], zorder=2)
    if not panel.low <= value <= panel.high:
        is_low, text = value < panel.low, number(value, panel.metric.decimals)
        panel.axes.annotate(
            f"◀ {text}" if is_low else f"{text} ▶",
            (0 if is_low else 1, place),
            xycoords=panel.axes.get_yaxis_transform(),
            xytext=(4 if is_low else -4, 0),
            textcoords="offset points",
            ha="left" if is_low else "right",
            va="center",
            fontsize=8,
            color=INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            zorder=5,
        )


def _set_limits(panel: _Panel, inside: Sequence[float]) -> None:
    low, high = min(inside), max(inside)
    margin = 0.06 * (high - low) or 1.0
    far = [value for value in panel.figures.values() if not panel.low <= value <= panel.high]
    room = 0.2 * (high - low)  # for the figure of a cell at the edge
    left = room if any(value < panel.low for value in far) else margin
    right = room if any(value > panel.high for value in far) else margin
    panel.axes.set_xlim(low - left, high + right)
    if panel.baseline is not None:
        panel.axes.axvline(panel.baseline, color=INK, linewidth=1.1, linestyle="--", zorder=3)


def _fill(number_of_column: int) -> Style:
    return {
        "facecolor": COLOURS[number_of_column % len(COLOURS)],
        "hatch": _HATCHES[number_of_column % len(_HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
        "zorder": 2,
    }


def _has_band(analysis: Analysis) -> bool:
    """Return whether the minimum detectable difference applies to comparisons with the default."""
    return (
        analysis.detectable is not None and analysis.default.score is not None and not analysis.default.cell.is_fixed
    )


def _row_name(analysis: Analysis, row: str) -> str:
    is_default = not analysis.has_columns and row == analysis.study.default_label
    return plain(textwrap.fill(f"{row} (default)" if is_default else row, _LABEL_WIDTH))


def _legend(analysis: Analysis, columns: Sequence[str]) -> tuple[list, list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    names: list[str] = []
    if analysis.has_columns:
        handles += [Patch(**_fill(i)) for i in range(len(columns))]
        names += map(column_name, columns)
    if analysis.default.score is not None or analysis.default.cell.paper is not None:
        handles.append(Line2D([], [], color=INK, linewidth=1.1, linestyle="--"))
        names.append(f"default: {analysis.study.default_label}")
    handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor="white", markersize=4, linestyle=""))
    names.append("one seed")
    if _has_band(analysis):
        handles.append(Patch(color="#EFEFEF"))
        names.append("below the minimum detectable difference")
    return handles, names
