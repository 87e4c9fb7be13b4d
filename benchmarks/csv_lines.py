"""Append lines to the CSV file of a benchmark that resumes."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path


def append_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    """Append lines by column name; a new file gets the names of the first one as its header.

    Args:
        path: The CSV file, created if it does not exist.
        lines: At least one; all have the same columns in the same order.
    """
    lines = list(lines)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(lines)
