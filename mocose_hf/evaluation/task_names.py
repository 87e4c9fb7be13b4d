"""Names of figures after the file that they were measured on."""

import re
from pathlib import Path


def task_name(path: str | Path) -> str:
    """Return the name of a file or folder without suffixes as a part of a metric's name: `My-Set.tsv.gz`: `my_set`."""
    stem = Path(path).resolve().name.lower()
    stem = re.sub(r"(\.(csv|tsv|jsonl|parquet|gz))+$", "", stem)
    return re.sub(r"\W+", "_", stem).strip("_") or "task"
