"""Draw the figure of a run's queue of negatives from the lines of the queue monitor."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mocose_hf.errors import InputError, one_line
from mocose_hf.plotting import COLOURS, INK, Style, new_axes, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUEUE_MONITOR_FILES = ("queue_monitor.jsonl", "queue_monitor.png")
"""The lines that `QueueMonitor` writes, and their figure."""

_MOST_LINES = 6
"""Steps that are drawn as a line of their own, from the first to the last."""

_LEAST_KEYS = 8
"""Minimum keys for a point of drift. A single key shows more of dropout than of age."""

_LEAST_SHARE = 0.01
"""Height of a panel in which all values are 0."""


def plot_queue_monitor(lines: str | Path, path: str | Path) -> bool:
    """Draw drift and gradient by the age of keys, and their course over the steps of a run.

    Args:
        lines: A `queue_monitor.jsonl`, as `mocose_hf.QueueMonitor` writes it.
        path: A .png or .svg file; an existing one is replaced.

    Returns:
        Whether it was drawn; it is not if there are no lines.

    Raises:
        InputError: If the lines cannot be read, the file name ends otherwise, or matplotlib is missing.
    """
    return save_figure(queue_monitor_figure(read_queue_monitor(lines)), path)


def read_queue_monitor(path: str | Path) -> list[dict]:
    """Return the records in a file of the queue monitor, in the order of its lines.

    Raises:
        InputError: If the file cannot be read, or a line is no record.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); give a {QUEUE_MONITOR_FILES[0]}.") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: is not JSON ({one_line(error)}); delete the line.") from error
        if record is not None and not (isinstance(record, dict) and isinstance(record.get("step"), int)):
            raise InputError(f"{path}, line {number}: is no record of a step; delete the line.")
        records += [] if record is None else [record]
    return records


def queue_monitor_figure(records: Sequence[Mapping]) -> "Figure | None":
    """Return the figure of `plot_queue_monitor`, None if there are no records."""
    if not records:
        return None
    figure = new_figure(width=12.0, height=6.6)
    shown = _spread(records)
    drift = _panel(figure, 1, "Drift of the keys", "Age of the key (optimizer steps)", "Cosine to its current key")
    pull = _panel(figure, 2, "Gradient by age", "Age of the key (optimizer steps)", "Share of the gradient")
    _draw_by_age(drift, shown, _drift_by_age)
    _draw_by_age(pull, shown, _gradient_by_age)
    _draw_uniform_share(pull, shown[-1])
    _draw_colour_bar(figure, shown, [axes for axes in (drift, pull) if axes.lines])

    parts = _panel(figure, 3, "Gradient by source", "Optimizer step", "Share of the gradient")
    sources = {"Queue": "queue_gradient_share", "Batch": "in_batch_gradient_share"}
    sources |= {"Random initial rows": "initial_gradient_share"} if any(r.get("initial_rows") for r in records) else {}
    _draw_over_steps(parts, records, sources, highest=1.0)
    effective = _panel(figure, 4, "Effective negatives", "Optimizer step", "Negatives of a query")
    _draw_over_steps(effective, records, {"Effective": "effective_negatives", "All": "negatives"})
    distance = _panel(figure, 5, "Maximum traceable distance", "Optimizer step", "Optimizer steps (log scale)")
    distances = {"Current": "current_d_trace", "At the start (paper)": "d_trace"}
    _draw_over_steps(distance, records, distances, logarithmic=True)
    false = _panel(figure, 6, "False negatives by sentence id", "Optimizer step", "Share")
    shares = {"Share of pairs": "false_negative_rate", "Share of gradient": "false_negative_gradient_share"}
    _draw_over_steps(false, records, shares)
    false.yaxis.set_major_formatter(_percent)
    return figure


def _spread(records: Sequence[Mapping]) -> list[Mapping]:
    """Return a few records, evenly spaced, including the first and the last."""
    places = np.linspace(0, len(records) - 1, min(_MOST_LINES, len(records))).round().astype(int)
    return [records[place] for place in places]


def _panel(figure: "Figure", place: int, title: str, across: str, up: str) -> "Axes":
    axes = new_axes(figure, 2, 3, place)
    axes.set_title(title, color=INK, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return axes


def _column(record: Mapping, name: str) -> np.ndarray:
    """Return the values of the bins, NaN if there are none."""
    values = np.asarray(record.get(name) or [], dtype=float)
    return values if len(values) else np.full(len(record.get("first_ages") or []), np.nan)


def _ages(record: Mapping) -> np.ndarray:
    """Return the middle of each bin."""
    return _column(record, "first_ages") + (record.get("bin_width", 1) - 1) / 2


def _drift_by_age(record: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Return ages and drift; bins with few keys are merged with their neighbours. The batch's own keys have age 0."""
    columns = (_ages(record), _column(record, "key_drift_by_age"), _column(record, "sampled_by_age"))
    points = [] if record.get("batch_key_drift") is None else [(0.0, record["batch_key_drift"])]
    age = drift = keys = 0.0
    for middle, value, sampled in zip(*columns, strict=True):
        if sampled > 0 and np.isfinite(value):
            age, drift, keys = age + sampled * middle, drift + sampled * value, keys + sampled
        if keys >= _LEAST_KEYS:
            points.append((age / keys, drift / keys))
            age = drift = keys = 0.0
    if keys >= _LEAST_KEYS / 2 or (keys and len(points) < 2):  # the oldest keys, fewer than for the other points
        points.append((age / keys, drift / keys))
    ages, values = np.asarray(points, dtype=float).reshape(-1, 2).T
    return ages, values


def _gradient_by_age(record: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Return the ages of the bins that hold rows, and their shares of the gradient."""
    shares = _column(record, "gradient_share_by_age")
    held = np.isfinite(shares) & (_column(record, "rows_by_age") > 0)
    return _ages(record)[held], shares[held]


def _draw_by_age(axes: "Axes", records: Sequence[Mapping], points_of: Callable) -> None:
    """Draw a line for each record, from dark to light in the order of steps."""
    for number, record in enumerate(records):
        ages, values = points_of(record)
        if len(ages):
            colour = _colours(len(records))(number)
            axes.plot(ages, values, color=colour, linewidth=1.6, marker="o", markersize=3.5)
    axes.locator_params(axis="x", integer=True)
    _label_if_empty(axes)


def _draw_uniform_share(axes: "Axes", record: Mapping) -> None:
    """Draw the share of each bin if all negatives of a query had the same gradient."""
    ages, rows = _ages(record), _column(record, "rows_by_age")
    if record.get("negatives") and len(_gradient_by_age(record)[0]):
        options: Style = {"color": INK, "linestyle": "--", "linewidth": 1.2}
        axes.plot(ages, np.where(rows > 0, rows, np.nan) / record["negatives"], label="Equal gradients", **options)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8, loc="upper right")


def _colours(count: int):
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0, 0.92, count)))


def _draw_colour_bar(figure: "Figure", records: Sequence[Mapping], places: Sequence["Axes"]) -> None:
    """Draw the colour bar of the steps beside the panels by age."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if not places:
        return
    count = len(records)
    scale = ScalarMappable(Normalize(-0.5, count - 0.5), _colours(count))
    bar = figure.colorbar(scale, ax=places[-1], pad=0.02, aspect=30, ticks=range(count))
    bar.ax.set_yticklabels([f"{record['step']:,}" for record in records])
    bar.set_label("Optimizer step")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def _draw_over_steps(
    axes: "Axes",
    records: Sequence[Mapping],
    names: Mapping[str, str],
    highest: float | None = None,
    logarithmic: bool = False,
) -> None:
    """Draw a line over the steps for each of several values, all but the first dashed."""
    for number, (label, name) in enumerate(names.items()):
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        if points:
            options: Style = {
                "color": COLOURS[number],
                "linestyle": "--" if number else "-",
                "linewidth": 1.6,
            }
            axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=3, clip_on=False, **options)
    _label_if_empty(axes)
    if not axes.lines:
        return
    axes.legend(frameon=False, fontsize=8)
    axes.locator_params(axis="x", integer=True)
    if logarithmic:
        from matplotlib.ticker import LogFormatter, LogLocator

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(LogFormatter(minor_thresholds=(np.inf, np.inf)))
        axes.yaxis.set_minor_formatter("")
        return
    top = max(float(np.max(np.asarray(line.get_ydata(), dtype=float))) for line in axes.lines)
    axes.set_ylim(0, highest or 1.08 * top or _LEAST_SHARE)


def _label_if_empty(axes: "Axes") -> None:
    if not axes.lines:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=INK)
        axes.set_xticks([])
        axes.set_yticks([])


def _percent(value: float, _) -> str:
    return f"{100 * value:.3g} %"
