"""Tables of scores for a terminal, a paper and a program."""

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
"""Names of tasks in tables, where they are not the name in capitals."""

GEOMETRY_FIGURES = (
    "alignment",
    "alignment_all_pairs",
    "uniformity",
    "uniformity_positive_pairs",
    "effective_rank",
    "mean_cosine",
)

_DEVELOPMENT_FIGURES = {
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
"""The figures of retrieval and of labelled texts, and their names in tables."""

Row = tuple[str, dict[str, float]]
"""What was scored, and its figures by name."""

Table = tuple[str, list[str], list[list[str]]]
"""A title, the heads of the columns, and rows of cells; the first column holds names."""


def tables(rows: Sequence[Row]) -> list[Table]:
    """Make a table of STS, of transfer and of geometry of what was scored, each where there are figures for it."""
    made = [
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
    return [table for table in made if table is not None]


def text_table(table: Table) -> str:
    """Draw a table in a frame, for a terminal."""
    title, head, rows = table
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    line = "+".join(["", *("-" * (width + 2) for width in widths), ""])

    def drawn(cells: list[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{cell:>{width}}" for cell, width in others) + " |"

    return "\n".join([title, line, drawn(head), line, *map(drawn, rows), line])


def markdown_table(table: Table) -> str:
    """Write a table in Markdown, for a paper or a model card."""
    title, head, rows = table
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    cells = ([html.escape(cell, quote=False).replace("|", "\\|") for cell in line] for line in lines)
    return f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


def development_tables(rows: Sequence[Row]) -> list[Table]:
    """Make a table of scores on development pairs, and one for each retrieval task and each set of labelled texts."""
    pairs = [row for row in rows if DEV_SPEARMAN in row[1]]
    made = [development_table(pairs)] if pairs else []
    for task in dict.fromkeys(task for _, metrics in rows for task in map(_development_task, metrics) if task):
        figures = [figure for figure in _DEVELOPMENT_FIGURES if any(f"{task}_{figure}" in m for _, m in rows)]
        body = [[scored, *(_percent(metrics.get(f"{task}_{f}")) for f in figures)] for scored, metrics in rows]
        made.append((f"{task}, × 100", ["", *(_DEVELOPMENT_FIGURES[figure] for figure in figures)], body))
    return made


def _development_task(name: str) -> str | None:
    """Return the task that a figure belongs to, None if it is one of pairs."""
    ends = [figure for figure in _DEVELOPMENT_FIGURES if name.endswith(f"_{figure}")]
    return name.removesuffix(f"_{max(ends, key=len)}") if ends else None


def development_table(rows: Sequence[Row]) -> Table:
    """Make a table of scores on development pairs."""
    figures = {DEV_SPEARMAN: "Spearman × 100", "dev_alignment": "alignment", "dev_uniformity": "uniformity"}
    return "Development pairs", ["", *figures.values()], _body(rows, figures)


def write_results(
    folder: str | Path, rows: Sequence[Row], made: Sequence[Table], result: dict[str, object] | None = None
) -> None:
    """Write `eval_results.json`, `.csv` and `.md` into an existing folder.

    Args:
        folder: Where to.
        rows: What was scored, a row each of the CSV.
        made: The tables of the Markdown.
        result: The content of the JSON file: figures by name; those of the last row where None.
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
    text = "\n\n".join(map(markdown_table, made))
    write_text(folder / "eval_results.md", text + "\n")


def write_spectrum(path: str | Path, singular_values: Tensor) -> None:
    """Write singular values (K,) as a CSV of their number, from 1, and value."""
    lines = [f"{number},{value!r}" for number, value in enumerate(singular_values.double().tolist(), start=1)]
    write_text(path, "\n".join(["number,singular_value", *lines]) + "\n")


def _task_table(title: str, rows: Sequence[Row], group: str, figures: dict[str, str]) -> Table | None:
    tasks = TASK_GROUPS[group]
    there = {task for _, metrics in rows for task in tasks for f in figures.values() if f"{task}_{f}" in metrics}
    if not there:
        return None
    head = ["", *(TITLES.get(task, task.upper()) for task in tasks)]
    averaged = len(there) > 1
    head += ["Avg." if len(there) == len(tasks) else f"Avg. of {len(there)}"] * averaged
    body = []
    for scored, metrics in rows:
        for part, figure in figures.items():
            names = [f"{task}_{figure}" for task in tasks] + [mean_name(group, figure, len(there))] * averaged
            if any(name in metrics for name in names):
                body.append([f"{scored}, {part}" if part else scored, *(_percent(metrics.get(n)) for n in names)])
    return title, head, body


def _geometry_table(rows: Sequence[Row]) -> Table | None:
    rows = [(scored, metrics) for scored, metrics in rows if "mean_cosine" in metrics]
    names = [name for name in GEOMETRY_FIGURES if any(name in metrics for _, metrics in rows)]
    head = ["", *(name.replace("_", " ") for name in names)]
    return ("Geometry on STS-B dev", head, _body(rows, names)) if rows else None


def _body(rows: Sequence[Row], names: Iterable[str]) -> list[list[str]]:
    return [[scored, *(f"{metrics[n]:.4f}" if n in metrics else "-" for n in names)] for scored, metrics in rows]


def _without_nan(value):
    """Put null, which all programs read, in place of NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
