"""Names of tasks, which begin the names of their metrics."""

import re
from pathlib import Path


def task_name(path: str | Path) -> str:
    """Return the name of the task in a file or folder: `My-Set.tsv.gz` gives `my_set`."""
    stem = Path(path).resolve().name.lower()
    stem = re.sub(r"(\.(csv|tsv|jsonl|parquet|gz))+$", "", stem)
    return re.sub(r"\W+", "_", stem).strip("_") or "task"
