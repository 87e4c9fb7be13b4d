"""A study: cells of options that run with the same seeds, and the results of their trials."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mocose_hf.errors import escape_controls
from mocose_hf.study.field_checks import (
    is_flag,
    is_mapping,
    is_number,
    is_text,
    is_whole,
    list_of,
    mapping_of,
    optional,
    validate_fields,
)
from mocose_hf.study.redaction import redact_options

BASELINE = "baseline"
"""The option of a cell that is scored without training; its value is one of `BASELINES`."""

BASELINES = ("start", "tfidf")
"""The encoder before training, and TF-IDF fitted to the training sentences."""

PLOTS = ("bars", "line", "curves", "spectrum", "")

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Valid names of a study. The files of its report have the same name."""

STATES = ("complete", "failed", "running", "interrupted", "waiting")
"""States of a trial. An interrupted trial has lost its worker; the next run resumes it."""

SCORE = "dev_spearman"
"""The default metric: Spearman × 100 on the development pairs."""

_METRIC_NAME = re.compile(r"[\w.-]+")
NOT_METRICS = {"alarm_step", "dev_step", "seconds"}
"""Figures of a trial that describe the run and not the model, so that no study can rank by them."""

AS_GIVEN = "the options as given"
"""The cell of a search that sets nothing of the search space: the default that the other cells are compared with."""


def validate_metric(name: str) -> None:
    """Raise a `ValueError` if a name cannot be the metric of a study."""
    if not _METRIC_NAME.fullmatch(name) or name in NOT_METRICS:
        raise ValueError(
            f"`metric` is {name[:60]!r}, but must be a figure of a development or test set, such as {SCORE}, "
            "NAME_mrr_at_10 of a retrieval file or NAME_precision_at_10 of a label file."
        )


def printable_line(text: str) -> str:
    """Return text on one line, with every character escaped that could steer a terminal or reorder other text."""
    return escape_controls(re.sub(r"[\t\n\v\f\r]+", " ", text).strip())


@dataclass(frozen=True)
class Cell:
    """One cell of a study's table.

    Args:
        row: The label of its row.
        column: The label of its column, "" if the table has only one.
        options: The options of `run_mocose.py` that distinguish it from the other cells.
        paper: The paper's figure, None if the paper has none.
        x: Its position on the x-axis of a line plot, None if it has none.
        optional: Whether to skip it with a notice if its requirements are missing, instead of failing.
    """

    row: str
    column: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    paper: float | None = None
    x: float | None = None
    optional: bool = False

    def __post_init__(self):
        for name in ("row", "column"):
            object.__setattr__(self, name, printable_line(str(getattr(self, name))))

    @property
    def label(self) -> str:
        """Its unique name within the study."""
        return f"{self.row}, {self.column}" if self.column else self.row

    @property
    def is_fixed(self) -> bool:
        """Whether it is scored without training, so that its score does not depend on the seed."""
        return BASELINE in self.options


@dataclass(frozen=True)
class Study:
    """A question, and the cells whose scores answer it.

    Args:
        name: The name for the command line and for the report's files.
        title: The heading of its report.
        question: One sentence that ends in a question mark.
        source: The place in the paper, such as "Table 3".
        cells: The cells to compare.
        default: The label of the cell that the others are compared with; "" for the first cell.
        options: Options of all cells. Options of a cell override them.
        plot: "bars" (one group per row), "line" (score over `x`, one line per column), "curves" (score over optimizer
            steps), "spectrum" (singular values), or "" for no plot.
        x_label: The label of the x-axis of a line plot.
        equivalence_bound: The largest difference from the default that has no practical importance, in units of the
            metric. A cell is equivalent to the default if its difference lies within ± this bound.
        metric: The figure of a trial that ranks the cells: of a development set, such as "faq_mrr_at_10", or of a test
            set, such as "sts_avg_spearman". A development figure also selects the checkpoint of each run.
    """

    name: str
    title: str
    question: str
    source: str
    cells: Sequence[Cell]
    default: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    plot: str = "bars"
    x_label: str = ""
    equivalence_bound: float = 0.3
    metric: str = SCORE

    def __post_init__(self):
        if not 0 < self.equivalence_bound < math.inf:
            raise ValueError(
                f"`equivalence_bound` is {self.equivalence_bound}, but must be a number above 0, in units of the "
                "metric."
            )
        validate_metric(self.metric)
        for name in ("title", "question", "source", "default", "x_label"):
            object.__setattr__(self, name, printable_line(getattr(self, name)))
        labels = [cell.label for cell in self.cells]
        duplicates = sorted(label for label, count in Counter(labels).items() if count > 1)
        if not labels:
            raise ValueError(f"The study `{self.name}` has no cells; give it one or more.")
        if duplicates:
            raise ValueError(f"The study `{self.name}` has duplicate cell labels: {duplicates}. Rename one of each.")
        if self.plot not in PLOTS:
            raise ValueError(
                f'`plot` is {self.plot!r}, but must be one of {", ".join(filter(None, PLOTS))}, or "" for no plot.'
            )
        if self.default and self.default not in labels:
            raise ValueError(
                f"The default of the study `{self.name}` is {self.default!r}, which is not a cell; choose one of "
                f"{labels}."
            )

    @property
    def default_label(self) -> str:
        """The label of the cell that the others are compared with."""
        return self.default or self.cells[0].label

    def options_of(self, cell: Cell) -> dict[str, object]:
        """Return all options of a cell. Its own options override the study's."""
        return dict(self.options) | dict(cell.options)

    def as_dict(self) -> dict:
        """Return a mapping that JSON can hold, with secrets masked."""
        cells = [asdict(cell) | {"options": redact_options(cell.options)} for cell in self.cells]
        return asdict(self) | {"cells": cells, "options": redact_options(self.options)}

    @classmethod
    def from_dict(cls, stored: Mapping) -> "Study":
        """Build a study from the output of `as_dict`. Other keys are ignored.

        Raises:
            ValueError: If a field is missing or has another type.
        """
        validate_fields(stored, _STUDY_FIELDS, required=("name", "title", "question", "source", "cells"))
        for cell in stored["cells"]:
            validate_fields(cell, _CELL_FIELDS, required=("row",))
        cells = [Cell(**{name: cell[name] for name in _CELL_FIELDS if name in cell}) for cell in stored["cells"]]
        return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored} | {"cells": cells})


@dataclass(frozen=True)
class TrialResult:
    """The result of one cell with one seed.

    Args:
        study: The name of the study.
        cell: The label of the cell.
        seed: The seed.
        state: One of `STATES`.
        figures: Figures by name. A complete trial has the figures of all development and test sets, `dev_step` (the
            step of the best checkpoint), `last_…` and `start_…` of the development figure that selects checkpoints,
            `alarm_step` if the embeddings collapsed, and `seconds`.
        curve: The optimizer step and development score of each evaluation.
        spectrum: Singular values of the embeddings in descending order; empty if the study does not plot them.
        reason: One line that says why the trial failed.
        options: All options of the run by name, with secrets masked.
        pair_scores, pair_cosines: The gold score and the cosine of each development pair, from the checkpoint that
            `SCORE` comes from; empty if the cosines are unknown.
    """

    study: str
    cell: str
    seed: int
    state: str
    figures: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    spectrum: list[float] = field(default_factory=list)
    reason: str = ""
    options: dict[str, object] = field(default_factory=dict)
    pair_scores: list[float] = field(default_factory=list)
    pair_cosines: list[float] = field(default_factory=list)

    def __post_init__(self):
        for name in ("cell", "reason"):
            object.__setattr__(self, name, printable_line(getattr(self, name)))
        object.__setattr__(self, "options", redact_options(self.options))

    def as_dict(self) -> dict:
        """Return a mapping that JSON can hold."""
        return asdict(self)

    def as_json(self) -> str:
        """Return JSON for a human reader: the long lists of pairs take one line each."""
        content = self.as_dict()
        pairs = {name: content.pop(name) for name in ("pair_scores", "pair_cosines")}
        lines = [f'  "{name}": {json.dumps(figures)}' for name, figures in pairs.items()]
        return ",\n".join([json.dumps(content, indent=2).removesuffix("\n}"), *lines]) + "\n}\n"

    @classmethod
    def from_dict(cls, stored: dict) -> "TrialResult":
        """Build a result from the output of `as_dict`, also after a round trip through JSON.

        Raises:
            ValueError: If a field is missing or has another type.
        """
        validate_fields(stored, _RESULT_FIELDS, required=("study", "cell", "seed", "state"))
        if stored["state"] == "complete" and not any(map(is_number, stored.get("figures", {}).values())):
            raise ValueError("a complete trial needs a number among its `figures`")
        if len(stored.get("pair_scores", [])) != len(stored.get("pair_cosines", [])):
            raise ValueError("`pair_scores` and `pair_cosines` have different lengths")
        curve = [(int(step), float(score)) for step, score in stored.get("curve", [])]
        return cls(**{name: stored[name] for name in _RESULT_FIELDS if name in stored} | {"curve": curve})


@dataclass(frozen=True)
class StudyData:
    """A study and everything that its report shows.

    Args:
        study: The study.
        results: Its trials in any order and state, waiting ones included.
        settings: What all trials have in common according to the storage, by name.
        skipped: Labels of optional cells whose requirements were missing.
    """

    study: Study
    results: Sequence[TrialResult]
    settings: Mapping[str, object] = field(default_factory=dict)
    skipped: Sequence[str] = ()


def _is_curve_point(value: Any) -> bool:
    return list_of(is_number)(value) and len(value) == 2 and is_whole(value[0])


_CELL_FIELDS = {
    "row": is_text,
    "column": is_text,
    "options": is_mapping,
    "paper": optional(is_number),
    "x": optional(is_number),
    "optional": is_flag,
}
_STUDY_FIELDS = {
    **dict.fromkeys(("name", "title", "question", "source", "default", "plot", "x_label", "metric"), is_text),
    "cells": list_of(is_mapping),
    "equivalence_bound": is_number,
    "options": is_mapping,
}
_RESULT_FIELDS = {
    "study": is_text,
    "cell": is_text,
    "seed": is_whole,
    "state": lambda value: value in STATES,
    "figures": mapping_of(optional(is_number)),
    "curve": list_of(_is_curve_point),
    "spectrum": list_of(is_number),
    "reason": is_text,
    "options": is_mapping,
    "pair_scores": list_of(is_number),
    "pair_cosines": list_of(is_number),
}
