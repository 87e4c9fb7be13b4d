"""What the plots of studies share: a panel of ours, one of the paper's, and the legend below them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mocose_hf.plotting import INK, new_axes, write_as_it_is
from mocose_hf.study.analysis.analysis import Analysis
from mocose_hf.study.report.tables import paper_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCORE_LABEL = "Spearman × 100"

_LEGEND_WIDTH = 13
"""Characters of a row of the legend, for each inch of a figure."""

_LEGEND_ROW = 0.19
"""Height of a row of the legend, inches."""

_FAR = 4
"""Times the median distance to the default, beyond which a cell is named at the edge and not drawn to scale."""
_NEVER_FAR = 2.0
"""Points of Spearman × 100 from the default within which a cell always is."""


def new_panels(figure: "Figure", made: Analysis, share: str) -> "tuple[Axes, Axes | None]":
    """Return the panel of our figures and, right of it, that of the paper's, None where it gives none.

    Args:
        figure: An empty figure.
        made: The study.
        share: The axis that both have in common, "x" or "y"; the other one is of their own, as the paper's figures
            are of another encoder.
    """
    has_paper = any(outcome.cell.paper is not None for outcome in made.cells)
    ours = new_axes(figure, 1, 1 + has_paper, 1)
    ours.set_title("Here, development pairs\nmean ± sd over seeds", fontsize=10, color=INK)
    if not has_paper:
        return ours, None
    figure.get_layout_engine().set(wspace=0.06)  # or the outer tick labels of two axes touch
    paper = new_axes(figure, 1, 2, 2, **{f"share{share}": ours})
    paper.set_title(f"{plain(paper_name(made))}\nas printed", fontsize=10, color=INK)
    return ours, paper


def near_limits(figures: Mapping[str, float], default: str) -> tuple[float, float]:
    """Return the lowest and the highest of the figures that are not far from the default's.

    A cell that does not learn at all would else press all others into one line.

    Args:
        figures: Figure of each cell, at least one.
        default: Name of the cell that the others are compared with; their median where it has no figure.
    """
    centre = figures.get(default, float(np.median(list(figures.values()))))
    distances = [abs(value - centre) for label, value in figures.items() if label != default] or [0.0]
    reach = max(_NEVER_FAR, _FAR * float(np.median(distances)))
    near = [value for value in figures.values() if abs(value - centre) <= reach] if len(figures) > 2 else []
    near = near or list(figures.values())
    return min(near), max(near)


def plain(name: str) -> str:
    """Return a name such that matplotlib shows its marks and takes none for mathematics."""
    return name.replace("$", r"\$")


def legend_below(figure: "Figure", handles: Sequence, names: Sequence[str], room: int = 2) -> None:
    """Write what lines and marks mean below all panels, in as many columns as there is room for.

    The figure grows by its rows, so that the panels keep their height.

    Args:
        figure: The figure.
        handles, names: What is explained.
        room: Number of rows that the figure's height has room for.
    """
    if not handles:
        return
    longest = max(len(name) for name in names) + 8  # and the sample of the line
    columns = max(1, min(len(names), int(_LEGEND_WIDTH * figure.get_figwidth()) // longest))
    numbers = [str(i) for i in range(len(handles))]  # a legend leaves out names that start with "_"
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
        write_as_it_is(text, name)
