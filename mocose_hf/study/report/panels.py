"""What the plots of studies share: a panel for our figures, one for the paper's, and the legend below them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mocose_hf.plotting import INK, new_axes, set_literal_text
from mocose_hf.study.analysis.analysis import Analysis
from mocose_hf.study.metrics import Metric
from mocose_hf.study.report.tables import paper_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEGEND_WIDTH = 13
"""Characters per row of the legend, for each inch of the figure's width."""

_LEGEND_ROW = 0.19
"""Height of a row of the legend, in inches."""

_FAR = 4
"""A cell is far if its distance from the default is over this many times the median distance."""
_NEVER_FAR = 2.0
"""A cell within this distance from the default is never far, in points of a figure × 100."""


def new_panels(figure: "Figure", analysis: Analysis, share: str) -> "tuple[Axes, Axes | None]":
    """Add a panel for our figures and, to its right, one for the paper's.

    Args:
        figure: An empty figure.
        analysis: The study.
        share: The axis that both panels share, "x" or "y". The other axis is separate, because the paper's figures
            come from another encoder.

    Returns:
        Both panels; None instead of the second if the paper has no figures.
    """
    has_paper = any(outcome.cell.paper is not None for outcome in analysis.cells)
    ours = new_axes(figure, 1, 1 + has_paper, 1)
    ours.set_title(f"Here, {analysis.metric.phrase}\nmean ± sd over seeds", fontsize=10, color=INK, parse_math=False)
    if not has_paper:
        return ours, None
    engine: Any = figure.get_layout_engine()
    engine.set(wspace=0.06)  # otherwise the outer tick labels of the two panels touch
    paper = new_axes(figure, 1, 2, 2, **{f"share{share}": ours})
    paper.set_title(f"{paper_name(analysis)}\nas printed", fontsize=10, color=INK, parse_math=False)
    return ours, paper


def near_limits(figures: Mapping[str, float], default: str, metric: Metric) -> tuple[float, float]:
    """Return the lowest and the highest figure that are not far from the default's.

    Otherwise a cell that does not learn at all would compress all others into one line. Far cells are named at the
    edge of the panel instead of being drawn to scale.

    Args:
        figures: The figure of each cell, at least one.
        default: The label of the default; without a figure, the median of the cells takes its place.
        metric: The metric of the study.
    """
    centre = figures.get(default, float(np.median(list(figures.values()))))
    distances = [abs(value - centre) for label, value in figures.items() if label != default] or [0.0]
    reach = max(_NEVER_FAR * 10.0 ** (2 - metric.decimals), _FAR * float(np.median(distances)))
    near = [value for value in figures.values() if abs(value - centre) <= reach] if len(figures) > 2 else []
    near = near or list(figures.values())
    return min(near), max(near)


def plain(name: str) -> str:
    """Return a name with its dollar signs escaped, so that matplotlib does not read it as mathematics."""
    return name.replace("$", r"\$")


def legend_below(figure: "Figure", handles: Sequence, names: Sequence[str], room: int = 2) -> None:
    """Add a legend below all panels, in as many columns as fit.

    The figure grows with the rows of the legend, so that the panels keep their height.

    Args:
        figure: The figure.
        handles: The lines and markers.
        names: What they mean.
        room: The number of rows that fit without growing.
    """
    if not handles:
        return
    longest = max(len(name) for name in names) + 8  # with the sample of the line
    columns = max(1, min(len(names), int(_LEGEND_WIDTH * figure.get_figwidth()) // longest))
    numbers = [str(i) for i in range(len(handles))]  # matplotlib skips names that start with "_"
    legend = figure.legend(
        handles,
        numbers,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        handlelength=3.2,
        fontsize=9,
    )
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * max(0, rows - room))
    for text, name in zip(legend.get_texts(), names, strict=True):
        set_literal_text(text, name)
