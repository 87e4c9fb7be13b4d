"""Tables of scores as text, Markdown, CSV and JSON."""

import csv
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from mocose_hf.evaluation.pairs import DEV_SPEARMAN
from mocose_hf.evaluation.sts import WITHOUT_DEV
from mocose_hf.evaluation.tasks import TASK_GROUPS, mean_name
from mocose_hf.files import replacing, write_text

RESULT_FILES = ("eval_results.json", "eval_results.csv", "eval_results.md")

SPECTRUM_TABLE, SPECTRUM_PLOT, RUN_PLOT = GEOMETRY_FILES = ("spectrum.csv", "spectrum.png", "alignment_uniformity.png")

TITLES = {"stsb": "STS-B", "sickr": "SICK-R"}
"""Titles of tasks in tables that are not the name in capitals."""

_GEOMETRY_METRICS = (
    "alignment",
    "alignment_all_pairs",
    "uniformity",
    "uniformity_positive_pairs",
    "effective_rank",
    "mean_cosine",
)

TASK_METRIC_TITLES = {
    "ndcg_at_10": "nDCG@10",
    "mrr_at_10": "MRR@10",
    "recall_at_1": "R@1",
    "recall_at_10": "R@10",
    "recall_at_100": "R@100",
    "precision_at_10": "P@10",
    "knn_accuracy_at_1": "kNN accuracy, k=1",
    "knn_accuracy_at_10": "k=10",
    "v_measure": "V-measure",
}
"""Titles of the metrics of retrieval and labelled texts in tables."""

_ENDINGS = {f"_{name}": title for name, title in TASK_METRIC_TITLES.items()} | {
    "_knn_accuracy_at_1": "kNN accuracy",
    "_knn_accuracy_at_10": "kNN accuracy, k = 10",
    "_spearman": "Spearman",
}

Row = tuple[str, dict[str, float]]
"""The name of the scored model, and its metrics by name."""

Table = tuple[str, list[str], list[list[str]]]
"""A title, the header, and rows of cells; the first column holds names."""


def tables(rows: Sequence[Row]) -> list[Table]:
    """Return the tables of STS, transfer and geometry that there are metrics for."""
    candidates = [
        _task_table(
            "STS: Spearman × 100", rows, "sts", {"": "spearman", "without STS-B dev": f"{WITHOUT_DEV}_spearman"}
        ),
        _task_table(
            "Transfer: accuracy in percent",
            rows,
            "transfer",
            {"dev": "dev_accuracy", "test": "test_accuracy"},
        ),
        _geometry_table(rows),
    ]
    return [table for table in candidates if table is not None]


def text_table(table: Table) -> str:
    """Return a table as text with a frame, for a terminal."""
    title, head, rows = table
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = "+".join(["", *("-" * (width + 2) for width in widths), ""])

    def format_row(cells: list[str]) -> str:
        (name, name_width), *values = zip(cells, widths, strict=True)
        return f"| {name:<{name_width}} | " + " | ".join(f"{cell:>{width}}" for cell, width in values) + " |"

    return "\n".join([title, line, format_row(head), line, *map(format_row, rows), line])


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, for a paper or a model card."""
    title, head, rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    cells = ([html.escape(cell, quote=False).replace("|", "\\|") for cell in line] for line in lines)
    return f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


def development_tables(rows: Sequence[Row]) -> list[Table]:
    """Return a table of the development pairs, and one of each retrieval and label task."""
    pairs = [row for row in rows if DEV_SPEARMAN in row[1]]
    tables = [development_table(pairs)] if pairs else []
    for task in dict.fromkeys(task for _, metrics in rows for task in map(_development_task, metrics) if task):
        names = [name for name in TASK_METRIC_TITLES if any(f"{task}_{name}" in metrics for _, metrics in rows)]
        body = [[scored, *(_percent(metrics.get(f"{task}_{name}")) for name in names)] for scored, metrics in rows]
        tables.append((f"{task}, × 100", ["", *(TASK_METRIC_TITLES[name] for name in names)], body))
    return tables


def _development_task(name: str) -> str | None:
    """Return the task that a metric belongs to, None if it is a metric of pairs."""
    ends = [metric for metric in TASK_METRIC_TITLES if name.endswith(f"_{metric}")]
    return name.removesuffix(f"_{max(ends, key=len)}") if ends else None


def development_table(rows: Sequence[Row]) -> Table:
    """Return a table of scores on development pairs."""
    titles = {DEV_SPEARMAN: "Spearman × 100", "dev_alignment": "alignment", "dev_uniformity": "uniformity"}
    return "Development pairs", ["", *titles.values()], _body(rows, titles)


def write_results(
    folder: str | Path, rows: Sequence[Row], markdown_tables: Sequence[Table], result: dict[str, object] | None = None
) -> None:
    """Write `eval_results.json`, `.csv` and `.md` into an existing folder.

    Args:
        folder: The folder.
        rows: The rows of the CSV file.
        markdown_tables: The tables of the Markdown file.
        result: The content of the JSON file; the metrics of the last row if None.
    """
    folder = Path(folder)
    result = {f"eval_{name}": value for name, value in rows[-1][1].items()} if result is None else result
    text = json.dumps(_without_nan(result), indent=2)
    write_text(folder / "eval_results.json", text + "\n")
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    csv_file = folder / "eval_results.csv"
    with replacing(csv_file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["scored", *(f"eval_{name}" for name in names)])
        writer.writerows([scored, *(metrics.get(name, "") for name in names)] for scored, metrics in rows)
    text = "\n\n".join(map(markdown_table, markdown_tables))
    write_text(folder / "eval_results.md", text + "\n")


def write_spectrum(path: str | Path, singular_values: Tensor) -> None:
    """Write singular values (K,) as a CSV of number (from 1) and value."""
    lines = [f"{number},{value!r}" for number, value in enumerate(singular_values.double().tolist(), start=1)]
    write_text(path, "\n".join(["number,singular_value", *lines]) + "\n")


def measure_label(name: str) -> str:
    """Return the name of a measure as people write it: `dev_spearman` as "Spearman (dev)"."""
    known = {"dev_spearman": "Spearman (dev)", "dev_alignment": "alignment", "dev_uniformity": "uniformity"}
    if name in known:
        return known[name]
    for ending, written in _ENDINGS.items():
        if name.endswith(ending):
            return f"{written} ({name.removesuffix(ending)})"
    return name.replace("_", " ")


def _task_table(title: str, rows: Sequence[Row], group: str, parts: dict[str, str]) -> Table | None:
    tasks = TASK_GROUPS[group]
    scored_tasks = {task for _, metrics in rows for task in tasks for m in parts.values() if f"{task}_{m}" in metrics}
    if not scored_tasks:
        return None
    head = ["", *(TITLES.get(task, task.upper()) for task in tasks)]
    has_mean = len(scored_tasks) > 1
    head += ["Avg." if len(scored_tasks) == len(tasks) else f"Avg. of {len(scored_tasks)}"] * has_mean
    body = []
    for scored, metrics in rows:
        for part, metric in parts.items():
            names = [f"{task}_{metric}" for task in tasks] + [mean_name(group, metric, len(scored_tasks))] * has_mean
            if any(name in metrics for name in names):
                body.append([f"{scored}, {part}" if part else scored, *(_percent(metrics.get(n)) for n in names)])
    return title, head, body


def _geometry_table(rows: Sequence[Row]) -> Table | None:
    rows = [(scored, metrics) for scored, metrics in rows if "mean_cosine" in metrics]
    names = [name for name in _GEOMETRY_METRICS if any(name in metrics for _, metrics in rows)]
    head = ["", *(name.replace("_", " ") for name in names)]
    return ("Geometry on STS-B dev", head, _body(rows, names)) if rows else None


def _body(rows: Sequence[Row], names: Iterable[str]) -> list[list[str]]:
    return [[scored, *(f"{metrics[n]:.4f}" if n in metrics else "-" for n in names)] for scored, metrics in rows]


def _without_nan(value):
    """Replace NaN, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
