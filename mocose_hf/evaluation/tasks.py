"""Which tasks there are, reading those that are wanted, and scoring them all on embeddings made once."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mocose_hf.errors import InputError
from mocose_hf.evaluation.geometry import GeometryTask
from mocose_hf.evaluation.sentence_embeddings import SentenceEmbeddings, embed
from mocose_hf.evaluation.senteval_transfer import TRANSFER_TASKS, TransferTask, read_transfer_task, transfer_files
from mocose_hf.evaluation.sts import (
    STS_TASKS,
    STS_YEARS,
    WITHOUT_DEV,
    STSTask,
    load_sts_task,
    read_sts_task,
    read_stsb,
    sts_files,
)
from mocose_hf.parallel.collectives import process_index

GEOMETRY = "geometry"

TASK_GROUPS = {"sts": STS_TASKS, "transfer": TRANSFER_TASKS, GEOMETRY: (GEOMETRY,)}
"""The tasks that go by one name together."""

_AVERAGED = (("sts", "spearman"), ("transfer", "dev_accuracy"), ("transfer", "test_accuracy"))
"""Groups, and the figure of each of their tasks that is averaged."""


class Task(Protocol):
    """What can be scored on embeddings of its sentences."""

    name: str

    def sentences(self) -> list[str]:
        """Return all sentences, repeated or not."""

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Return figures by name; `embeddings` returns those of N sentences, (N, H)."""


def read_tasks(
    wanted: Sequence[str], senteval_dir: str | Path | None, check_counts: bool = True
) -> tuple[list[Task], list[str]]:
    """Read tasks from a folder in SentEval's layout, or load them from the hub where there is none.

    Args:
        wanted: Names of tasks and of `TASK_GROUPS`.
        senteval_dir: That folder; None for the hub, which has no transfer tasks.
        check_counts: Whether files of other than the published numbers of examples are refused.

    Returns:
        The tasks in the order of `TASK_GROUPS`, and the names of those that were wanted as part of a group and whose
        files are not there.

    Raises:
        InputError: Where a task is unknown, one wanted by its own name or a whole group is not there, or its files
            cannot be used.
    """
    names, missing = [], []
    known = [name for group in TASK_GROUPS.values() for name in group]
    for word in wanted:
        if word not in TASK_GROUPS and word not in known:
            raise InputError(f"--eval_tasks {word[:40]}: unknown; choose of {', '.join([*TASK_GROUPS, *known[:-1]])}.")
    for group, members in TASK_GROUPS.items():
        absent = [name for name in members if group in wanted and not _is_there(name, senteval_dir)]
        if members and len(absent) == len(members):
            raise InputError(f"--eval_tasks {group}: {senteval_dir} has none of its files; check --senteval_dir.")
        missing += absent
        names += [name for name in members if name in wanted or (group in wanted and name not in absent)]
    _check_libraries(names)
    tasks = [_read(name, senteval_dir, check_counts) for name in names]
    years = [task for task in tasks if isinstance(task, STSTask) and task.name in STS_YEARS]
    selection = _selection_pairs(tasks, senteval_dir, check_counts) if years else None
    for task in years:
        task.selection = selection
    return tasks, missing


def embed_tasks(model, tokenizer, tasks: Sequence[Task], **encode_options) -> SentenceEmbeddings:
    """Embed the sentences of all tasks, each once, as `embed` does; all processes must call it."""
    return embed(model, tokenizer, (text for task in tasks for text in task.sentences()), **encode_options)


def score_tasks(
    tasks: Sequence[Task], embeddings: SentenceEmbeddings, show_progress: bool = False
) -> dict[str, float]:
    """Return the figures of all tasks and their `averages`; all processes but the first leave out transfer tasks."""
    metrics = {}
    for task in tasks:
        if process_index() == 0 or not isinstance(task, TransferTask):  # which take minutes, and give one result
            metrics |= task.score(embeddings, show_progress=show_progress)
    return metrics | averages(metrics)


def averages(metrics: dict[str, float]) -> dict[str, float]:
    """Return the mean Spearman over STS tasks, and dev and test accuracy over transfer tasks.

    `sts_avg_spearman`, `transfer_avg_dev_accuracy` and `transfer_avg_test_accuracy` are means over all seven; over
    fewer, from two on, the name says how many, as in `sts_avg_of_4_spearman`. `sts_avg_without_stsb_dev_spearman` has
    STS12 to STS16 without STS-B's development pairs.
    """
    means = {}
    for group, figure in _AVERAGED:
        names = (f"{task}_{figure}" for task in TASK_GROUPS[group])
        values = [metrics[name] for name in names if name in metrics]
        if len(values) > 1:
            means[mean_name(group, figure, len(values))] = sum(values) / len(values)
    return means | _average_without_selection_pairs(metrics)


def _average_without_selection_pairs(metrics: dict[str, float]) -> dict[str, float]:
    """Return the mean Spearman over STS tasks, of STS12 to STS16 without STS-B's development pairs."""
    figure = f"{WITHOUT_DEV}_spearman"
    values = [metrics.get(f"{task}_{figure}", metrics.get(f"{task}_spearman")) for task in STS_TASKS]
    values = [value for value in values if value is not None]
    if len(values) < 2 or not any(f"{task}_{figure}" in metrics for task in STS_TASKS):
        return {}
    return {mean_name("sts", figure, len(values)): sum(values) / len(values)}


def mean_name(group: str, figure: str, count: int) -> str:
    """Return what the mean of a figure over `count` tasks of a group is called."""
    return f"{group}_avg_{figure}" if count == len(TASK_GROUPS[group]) else f"{group}_avg_of_{count}_{figure}"


def _selection_pairs(tasks: Sequence[Task], senteval_dir: str | Path | None, check_counts: bool):
    """Return STS-B's development pairs, which were taken out of STS12 to STS16, None if they are not at hand."""
    for task in tasks:
        if task.name == "stsb":
            return task.development
    if senteval_dir is None or not sts_files("stsb", senteval_dir)[0].exists():
        return None
    return read_stsb(senteval_dir, "dev", check_counts)


def _is_there(name: str, senteval_dir: str | Path | None) -> bool:
    return senteval_dir is None or any(path.exists() for path in _files(name, senteval_dir))


def _files(name: str, senteval_dir: str | Path) -> list[Path]:
    if name in TRANSFER_TASKS:
        return transfer_files(name, senteval_dir)
    if name in (GEOMETRY, "stsb"):
        development, test = sts_files("stsb", senteval_dir)
        return [development] if name == GEOMETRY else [test]
    return sts_files(name, senteval_dir)


def _read(name: str, senteval_dir: str | Path | None, check_counts: bool) -> Task:
    if name in TRANSFER_TASKS:
        if senteval_dir is None:
            raise InputError(f"--eval_tasks {name}: is read from SentEval's files alone; give --senteval_dir.")
        return read_transfer_task(name, senteval_dir, check_counts)
    if name == GEOMETRY:
        pairs = load_sts_task("stsb").development if senteval_dir is None else None
        return GeometryTask(read_stsb(senteval_dir, "dev", check_counts) if pairs is None else pairs)
    return load_sts_task(name) if senteval_dir is None else read_sts_task(name, senteval_dir, check_counts)


def _check_libraries(names: Sequence[str]) -> None:
    needed = {"sklearn": TRANSFER_TASKS, "matplotlib": (GEOMETRY,)}
    for library, tasks in needed.items():
        if set(tasks) & set(names) and importlib.util.find_spec(library) is None:
            raise InputError(
                f"--eval_tasks {next(name for name in names if name in tasks)}: needs {library}, which is not "
                "installed; run pip install 'mocose_hf[evaluation]'."
            )
