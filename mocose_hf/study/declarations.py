"""What a study is: cells of options that are run with the same seeds and set beside each other."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from mocose_hf.study.field_checks import check_fields, is_flag, is_mapping, is_number, is_text, list_of, optional
from mocose_hf.study.plain_text import visible
from mocose_hf.study.redaction import redact_options

BASELINE = "baseline"
"""The option of a cell that is not trained, one of `BASELINES`."""

BASELINES = ("start", "tfidf")
"""The encoder as it is, and TF-IDF of the sentences to train on."""


PLOTS = ("bars", "line", "curves", "spectrum", "")
"""How a study may be drawn."""

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a study may be called: its report's files bear its name."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: options of a run, where it stands, and what the paper found there.

    Args:
        row: Its row, as the table shows it.
        column: Its column, of a table of one column "".
        options: Options of `run_mocose.py` by name, which make it differ from its neighbours.
        paper: The paper's figure, None where it gives none.
        x: Its place on a plot's axis, None where it has none.
        optional: Whether it is left out, and said to be, where what its options ask for is not there.
    """

    row: str
    column: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    paper: float | None = None
    x: float | None = None
    optional: bool = False

    def __post_init__(self):
        for name in ("row", "column"):
            object.__setattr__(self, name, visible(str(getattr(self, name))))

    @property
    def label(self) -> str:
        """The name of the cell among those of its study."""
        return f"{self.row}, {self.column}" if self.column else self.row

    @property
    def is_fixed(self) -> bool:
        """Whether it is not trained, so that no seed has a say in its score, and it is run once."""
        return BASELINE in self.options


@dataclass(frozen=True)
class Study:
    """A question, and the cells whose scores answer it.

    Args:
        name: What it is called on the command line.
        title: What heads its table.
        question: One sentence that ends in a question mark.
        source: Where the paper asks it, such as "Table 3".
        cells: What is compared.
        default: The label of the cell that the others are tested against; that of the first one where "".
        options: Options of all cells, beneath their own.
        plot: How it is drawn: "bars" (one group a row), "line" (over `x`, a line for each column), "curves" (score
            over steps), "spectrum" or "" for no plot.
        x_label: What `x` is.
        equivalence_bound: The largest difference to the default, in points of Spearman × 100, that has no importance.
            A cell is equivalent to the default if its difference lies inside of ± this.
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

    def __post_init__(self):
        if not 0 < self.equivalence_bound < math.inf:
            raise ValueError(
                f"`equivalence_bound` is a number above 0, in points of Spearman × 100, not {self.equivalence_bound}."
            )
        for name in ("title", "question", "source", "default", "x_label"):
            object.__setattr__(self, name, visible(getattr(self, name)))
        labels = [cell.label for cell in self.cells]
        twice = {label for label, count in Counter(labels).items() if count > 1}
        if not labels:
            raise ValueError(f"The study `{self.name}` has no cells; give it one or more.")
        if twice:
            raise ValueError(f"The study `{self.name}` needs cells of different labels; given twice: {sorted(twice)}.")
        if self.plot not in PLOTS:
            raise ValueError(f'`plot` is one of {", ".join(filter(None, PLOTS))}, or "" for none, not {self.plot!r}.')
        if self.default and self.default not in labels:
            raise ValueError(
                f"The study `{self.name}` has no cell {self.default!r}, its default; name one of {labels}."
            )

    @property
    def default_label(self) -> str:
        """The label of the cell that the others are tested against."""
        return self.default or self.cells[0].label

    def options_of(self, cell: Cell) -> dict[str, object]:
        """Return all options of a cell: those of the study, and over them its own."""
        return dict(self.options) | dict(cell.options)

    def as_dict(self) -> dict:
        """Return it as JSON can hold it, with secrets masked."""
        cells = [asdict(cell) | {"options": redact_options(cell.options)} for cell in self.cells]
        return asdict(self) | {"cells": cells, "options": redact_options(self.options)}

    @classmethod
    def from_dict(cls, made: Mapping) -> "Study":
        """Make it of what `as_dict` gave, be it read from JSON and with more beside it.

        Earlier versions let studies of plots that there are none of begin; they are not drawn.

        Raises:
            ValueError: Naming what is missing or has another type.
        """
        check_fields(made, _STUDY_FIELDS, needed=("name", "title", "question", "source", "cells"))
        own = {f.name: made[f.name] for f in fields(cls) if f.name in made}
        if own.get("plot", "") not in PLOTS:
            own["plot"] = ""
        for cell in made["cells"]:
            check_fields(cell, _CELL_FIELDS, needed=("row",))
        cells = [Cell(**{name: cell[name] for name in _CELL_FIELDS if name in cell}) for cell in made["cells"]]
        return cls(**own | {"cells": cells})


_CELL_FIELDS = {
    "row": is_text,
    "column": is_text,
    "options": is_mapping,
    "paper": optional(is_number),
    "x": optional(is_number),
    "optional": is_flag,
}
_STUDY_FIELDS = {
    **dict.fromkeys(("name", "title", "question", "source", "default", "plot", "x_label"), is_text),
    "cells": list_of(is_mapping),
    "equivalence_bound": is_number,
    "options": is_mapping,
}
