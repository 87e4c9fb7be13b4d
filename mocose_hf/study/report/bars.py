"""Cells as bars that grow from the default, so that their length is the difference to it."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mocose_hf.plotting import COLOURS, INK, MARKERS, new_figure
from mocose_hf.study.analysis.analysis import Analysis, CellOutcome
from mocose_hf.study.report.panels import SCORE_LABEL, legend_below, near_limits, new_panels, plain
from mocose_hf.study.report.tables import column_name, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oooo")
_THICKNESS = 0.78
_GAP = 0.7
_LABEL_WIDTH = 30
_GREY_NOTE = {"va": "center", "color": "#6E6E6E", "fontsize": 8}
_LINE = 0.68
"""Height of a line of a label, in bars."""


@dataclass(frozen=True)
class _Panel:
    """One side of the plot: figures by label, the default's, and how far the axis reaches."""

    axes: "Axes"
    figures: Mapping[str, float]
    baseline: float | None
    low: float
    high: float


def bars_figure(made: Analysis) -> "Figure | None":
    """Draw a group for each row and a bar for each column, beside them those of the paper.

    Bars begin at the default: a bar from 0 would hide what differs, one from anywhere else would be of no meaning.
    Cells that are far from all others are drawn to the edge with their figure beside them. The grey band reaches the
    noise floor to both sides of the default: the smallest difference that one comparison would tell.

    Returns:
        None where no cell has a score.
    """
    if not any(outcome.score for outcome in made.cells):
        return None
    rows = list(dict.fromkeys(outcome.cell.row for outcome in made.cells))
    columns = list(dict.fromkeys(outcome.cell.column for outcome in made.cells))
    labels = [_row_name(made, row) for row in rows]
    longest = max(label.count("\n") + 1 for label in labels)
    group = max(len(columns) + (_GAP if len(columns) > 1 else 0.25), _LINE * longest)
    places = {o.cell.label: rows.index(o.cell.row) * group + columns.index(o.cell.column) for o in made.cells}
    figure = new_figure(width=8.4, height=1.7 + 0.27 * group * len(rows))
    ours, paper = new_panels(figure, made, share="y")
    default = made.study.default_label
    means = {outcome.cell.label: outcome.score.mean for outcome in made.cells if outcome.score}
    _draw_ours(_panel(ours, means, default), made, places, columns)
    if paper is not None:
        theirs = {o.cell.label: o.cell.paper for o in made.cells if o.cell.paper is not None}
        _draw_paper(_panel(paper, theirs, default), made, places, columns)
        paper.tick_params(labelleft=False)
    for axes in filter(None, (ours, paper)):
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(SCORE_LABEL)
    centres = [i * group + (len(columns) - 1) / 2 for i in range(len(rows))]
    ours.set_yticks(centres, labels)
    ours.set_ylim(centres[-1] + group / 2, centres[0] - group / 2)
    legend_below(figure, *_legend(made, columns))
    return figure


def _panel(axes: "Axes", figures: Mapping[str, float], default: str) -> _Panel:
    return _Panel(axes, figures, figures.get(default), *near_limits(figures, default))


def _draw_ours(panel: _Panel, made: Analysis, places: Mapping[str, float], columns: Sequence[str]) -> None:
    axes = panel.axes
    inside = [panel.low, panel.high]
    if _has_band(made):
        reach = made.floor.smallest_difference
        axes.axvspan(panel.baseline - reach, panel.baseline + reach, color="#EFEFEF", zorder=0, linewidth=0)
        inside += [panel.baseline - reach, panel.baseline + reach]
    for outcome in made.cells:
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


def _draw_paper(panel: _Panel, made: Analysis, places: Mapping[str, float], columns: Sequence[str]) -> None:
    for outcome in made.cells:
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
    """Draw the bar of a cell from the default's figure to its own, or to the edge with the figure beside it.

    Where there is no default to begin at, a dot takes its place.
    """
    value = panel.figures[outcome.cell.label]
    fill = _fill(columns.index(outcome.cell.column))
    if panel.baseline is not None:
        # The limits of the axis cut a bar off that reaches beyond them.
        panel.axes.barh(place, value - panel.baseline, _THICKNESS, left=panel.baseline, **fill)
    elif panel.low <= value <= panel.high:
        panel.axes.scatter(value, place, s=60, color=fill["facecolor"], marker=MARKERS[0], zorder=2)
    if not panel.low <= value <= panel.high:
        is_low = value < panel.low
        panel.axes.annotate(
            f"◀ {number(value)}" if is_low else f"{number(value)} ▶",
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


def _fill(number_of_column: int) -> dict[str, object]:
    return {
        "facecolor": COLOURS[number_of_column % len(COLOURS)],
        "hatch": _HATCHES[number_of_column % len(_HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
        "zorder": 2,
    }


def _has_band(made: Analysis) -> bool:
    """Whether the noise floor says something of comparisons with the default, which training alone gives seeds."""
    return made.floor is not None and made.default.score is not None and not made.default.cell.is_fixed


def _row_name(made: Analysis, row: str) -> str:
    is_default = not made.has_columns and row == made.study.default_label
    return plain(textwrap.fill(f"{row} (default)" if is_default else row, _LABEL_WIDTH))


def _legend(made: Analysis, columns: Sequence[str]) -> tuple[list, list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, names = [], []
    if made.has_columns:
        handles += [Patch(**_fill(i)) for i in range(len(columns))]
        names += map(column_name, columns)
    if made.default.score is not None or made.default.cell.paper is not None:
        handles.append(Line2D([], [], color=INK, linewidth=1.1, linestyle="--"))
        names.append(f"default: {made.study.default_label}")
    handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor="white", markersize=4, linestyle=""))
    names.append("a seed")
    if _has_band(made):
        handles.append(Patch(color="#EFEFEF"))
        names.append("within the noise floor")
    return handles, names
