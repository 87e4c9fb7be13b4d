"""Figures of an embedding space: singular values, and the path of a run through alignment and uniformity."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mocose_hf.evaluation.geometry import ROUNDING
from mocose_hf.plotting import (
    INK,
    line_style,
    new_axes,
    new_figure,
    save_figure,
    set_literal_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PLACEMENTS = [(across, up) for up in ("bottom", "top") for across in ("center", "left", "right")]
_CLEARANCE = 4
"""Pixels between a label and the line, at 100 pixels per inch."""

_DOTS_PER_SEGMENT = 20


def plot_spectrum(spectra: Mapping[str, Tensor], path: str | Path) -> bool:
    """Draw the singular values of embedding matrices by index, one line per encoder, as in the paper's Figure 7.

    See https://arxiv.org/abs/2202.13093. The y axis is logarithmic, so the length of the embeddings only shifts a
    curve, and a steep end stays visible beside a peak at the start.

    Args:
        spectra: The singular values of each encoder by its name, largest first, as of `singular_values`.
        path: A .png or .svg file, which is replaced.

    Returns:
        Whether there is a singular value above 0 to draw.

    Raises:
        InputError: If the name has another suffix or matplotlib is not installed.
    """
    return save_figure(spectrum_figure(spectra), path)


def plot_alignment_uniformity(history: Iterable[Mapping], path: str | Path) -> bool:
    """Draw the path of a run through the plane of uniformity and alignment; lower left is better.

    As in Wang & Isola 2020 (https://arxiv.org/abs/2005.10242) and SimCSE (https://arxiv.org/abs/2104.08821).

    Args:
        history: Entries of `trainer.state.log_history`. Those with finite `step`, `eval_dev_alignment` and
            `eval_dev_uniformity` are drawn in order of their steps. The first entry of a step counts, because the best
            checkpoint may be evaluated after the last step.
        path: As in `plot_spectrum`.

    Returns:
        Whether there is such an entry.

    Raises:
        InputError: As `plot_spectrum`.
    """
    return save_figure(alignment_uniformity_figure(history), path)


def spectrum_figure(spectra: Mapping[str, Tensor | Sequence[float]]) -> "Figure | None":
    """Return the figure of `plot_spectrum`, None if there is nothing to draw."""
    lines = {name: _above_rounding([float(v) for v in values]) for name, values in spectra.items()}
    lines = {name: values for name, values in lines.items() if values}
    if not lines:
        return None
    figure = new_figure(width=6.4, height=4.0)
    axes = new_axes(figure)
    handles = []
    for number, values in enumerate(lines.values()):
        handles += axes.plot(
            range(1, len(values) + 1),
            values,
            **line_style(number),
            linewidth=1.8,
            marker="o",  # only at the first value, which the steep start would hide
            markevery=[0],
            markersize=5,
        )
    axes.set_yscale("log")
    axes.margins(x=0.02)
    axes.set_xlabel("Index of the singular value")
    axes.set_ylabel("Singular value (log scale)")
    if len(lines) > 1:
        # Labels are set afterwards, because a legend omits labels that start with "_".
        legend = axes.legend(handles, [str(i) for i in range(len(handles))], frameon=False, handlelength=3.2)
        for text, name in zip(legend.get_texts(), lines, strict=True):
            set_literal_text(text, name)
    else:
        set_literal_text(axes.title, next(iter(lines)))
    return figure


def alignment_uniformity_figure(history: Iterable[Mapping]) -> "Figure | None":
    """Return the figure of `plot_alignment_uniformity`, None if there is nothing to draw."""
    points = _points(history)
    if not points:
        return None
    steps, across, up = zip(*points, strict=True)
    figure = new_figure(width=6.4, height=4.8)
    axes = new_axes(figure)
    axes.plot(across, up, color="#9A9A9A", linewidth=1.0, zorder=1)
    dots = axes.scatter(
        across, up, c=steps, cmap="viridis", s=36, edgecolors=INK, linewidths=0.5, zorder=2, clip_on=False
    )
    axes.margins(0.12)
    axes.set_xlabel("Uniformity  (← lower is better: more even)")
    axes.set_ylabel("Alignment  (← lower is better: closer)")
    if len(points) > 1:
        bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=30)
        bar.set_label("Optimizer step")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    _label_ends(figure, axes, points)
    return figure


def _points(history: Iterable[Mapping]) -> list[tuple[float, float, float]]:
    """Return step, uniformity and alignment of the entries that have them, in order of steps."""
    points: dict[float, tuple] = {}
    for entry in history:
        point = tuple(entry.get(name) for name in ("step", "eval_dev_uniformity", "eval_dev_alignment"))
        if all(isinstance(value, (int, float)) and math.isfinite(value) for value in point):
            points.setdefault(point[0], point)
    return [points[step] for step in sorted(points)]


def _label_ends(figure: "Figure", axes, points: Sequence[tuple[float, float, float]]) -> None:
    """Label the first and the last point with their steps, where the label hides least of the line."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()  # computes the layout that labels are measured in
    window = axes.get_window_extent()
    line = _dots_along(axes.transData.transform([point[1:] for point in points]))
    label_boxes: list = []
    for step, *point in dict.fromkeys((points[0], points[-1])):
        label = axes.annotate(
            f"step {step:,}",
            point,
            xytext=(0, 0),
            textcoords="offset points",
            color=INK,
            fontweight="bold",
            path_effects=[withStroke(linewidth=3, foreground="white")],
            zorder=3,
        )

        def hidden_dots(placement, label=label) -> float:
            _place_label(label, *placement)
            box = label.get_window_extent()
            outside = box.x0 < window.x0 or box.x1 > window.x1 or box.y0 < window.y0 or box.y1 > window.y1
            overlaps = outside or any(box.overlaps(other) for other in label_boxes)
            return math.inf if overlaps else sum(box.padded(_CLEARANCE).contains(*dot) for dot in line)

        _place_label(label, *min(_PLACEMENTS, key=hidden_dots))
        label_boxes.append(label.get_window_extent())


def _place_label(label, across: str, up: str) -> None:
    """Place a label beside its point."""
    label.set(ha=across, va=up)
    label.set_position((0, 8 if up == "bottom" else -8))


def _dots_along(corners: np.ndarray) -> np.ndarray:
    """Return closely spaced points on the line through the corners, (N, 2)."""
    along = np.linspace(0, len(corners) - 1, 1 + (len(corners) - 1) * _DOTS_PER_SEGMENT)
    return np.stack([np.interp(along, range(len(corners)), axis) for axis in corners.T], axis=1)


def _above_rounding(values: list[float]) -> list[float]:
    """Return the values above rounding errors."""
    floor = ROUNDING * max(values, default=0.0)
    return [value for value in values if value > floor]
