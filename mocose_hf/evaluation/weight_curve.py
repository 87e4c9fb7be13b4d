"""The scores of merged encoders by the weight of the trained one: a table, files and a figure."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mocose_hf.evaluation.pairs import DEV_SPEARMAN
from mocose_hf.evaluation.score_tables import TASK_METRIC_TITLES, TITLES, Table
from mocose_hf.files import validate_suffix, write_text
from mocose_hf.plotting import line_style, new_axes, new_figure, save_figure, set_literal_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE_SUFFIXES = (".json", ".csv")

CurvePoint = tuple[float, dict[str, float]]
"""A weight and the scores of the encoder merged with it, by name."""

_MAIN_METRICS = ("precision_at_10", "ndcg_at_10")
"""The metric of a labelled and of a retrieval set that stands for the set."""


def main_metrics(metrics: Sequence[str], first: str | None) -> list[str]:
    """Return one metric for each development set and the mean of STS, the user's first measure first.

    Args:
        metrics: The names of all metrics that were scored.
        first: The name of the first measure; None if there are only tasks.
    """
    mains = [name for name in metrics if name == DEV_SPEARMAN or name.endswith(_MAIN_METRICS)]
    means = [name for name in metrics if name.startswith("sts_avg") and "without" not in name]
    # A single task has no mean.
    mains += means or [name for name in metrics if name.endswith("_spearman") and name.count("_") == 1]
    mains = list(dict.fromkeys(mains))
    return sorted(mains, key=lambda name: name != first)


def curve_table(points: Sequence[CurvePoint], metrics: Sequence[str], marks: dict[float, str]) -> Table:
    """Return the table of the curve: a line for each weight, a column for each metric.

    Args:
        points: Weights and scores.
        metrics: The names of the columns.
        marks: Words beside some of the weights, such as "start".
    """
    rows = [
        [f"{weight:g} {marks.get(weight, '')}".rstrip(), *(f"{scores[name]:.2f}" for name in metrics)]
        for weight, scores in points
    ]
    return "Merged encoders, × 100", ["weight", *map(metric_title, metrics)], rows


def write_scores(points: Sequence[CurvePoint], path: str | Path) -> None:
    """Write all scores of all weights into a .json or .csv file.

    Raises:
        InputError: If the name has another suffix.
    """
    rows = [{"weight": weight, **scores} for weight, scores in points]
    if validate_suffix(path, SCORE_SUFFIXES) == ".json":
        write_text(path, json.dumps(rows, indent=2) + "\n")
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def plot_curve(points: Sequence[CurvePoint], metrics: Sequence[str], path: str | Path) -> bool:
    """Draw each metric by weight, one panel a metric; all panels span as many points.

    Args:
        points: Weights and scores.
        metrics: The names of the metrics to draw.
        path: A .png or .svg file, which is replaced.

    Returns:
        Whether a figure was written, which needs two weights.

    Raises:
        InputError: If the name has another suffix or matplotlib is not installed.
    """
    return save_figure(_figure(points, metrics), path)


def _figure(points: Sequence[CurvePoint], metrics: Sequence[str]) -> "Figure | None":
    if len(points) < 2 or not metrics:
        return None
    figure = new_figure(width=6.4, height=0.6 + 1.9 * len(metrics))
    weights = [weight for weight, _ in points]
    columns = {name: [scores[name] for _, scores in points] for name in metrics}
    # One span for all, so that a point of loss looks as large as a point of gain.
    span = 1.6 * max(1.0, *(max(values) - min(values) for values in columns.values()))
    for number, (name, values) in enumerate(columns.items()):
        axes = new_axes(figure, len(metrics), 1, number + 1)
        axes.plot(weights, values, marker="o", **line_style(number))
        for weight, value in zip(weights, values, strict=True):
            axes.annotate(f"{value:.2f}", (weight, value), (0, 6), textcoords="offset points", ha="center")
        middle = (max(values) + min(values)) / 2
        axes.set_ylim(middle - span / 2, middle + span / 2)
        axes.margins(x=0.08)
        axes.set_xticks(weights)
        set_literal_text(axes.set_ylabel(""), metric_title(name).replace(" ", "\n", 1))
    axes.set_xlabel("weight of the trained encoder (0: start, 1: trained)")
    return figure


def metric_title(name: str) -> str:
    """Return the title of a metric in a table of several sets."""
    if name == DEV_SPEARMAN:
        return "pairs Spearman"
    if name.startswith("sts_avg"):
        return "STS mean" if name == "sts_avg_spearman" else f"STS mean of {name.split('_')[3]}"
    for end, title in TASK_METRIC_TITLES.items():
        if name.endswith(f"_{end}"):
            return f"{name.removesuffix(f'_{end}')} {title}"
    task = name.removesuffix("_spearman")
    return f"{TITLES.get(task, task.upper())} Spearman"
