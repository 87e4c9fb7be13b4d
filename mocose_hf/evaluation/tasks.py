"""The registry of evaluation tasks: read tasks by name, and score all of them on the same embeddings."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mocose_hf.errors import InputError, install_command
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
"""The tasks that a group name stands for."""

_AVERAGED = (("sts", "spearman"), ("transfer", "dev_accuracy"), ("transfer", "test_accuracy"))
"""Groups, and the metric of their tasks that is averaged."""


class Task(Protocol):
    """A task that is scored on the embeddings of its sentences."""

    name: str

    def sentences(self) -> list[str]:
        """Return all sentences, with or without repetitions."""

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Return metrics by name; `embeddings` returns the embeddings (N, H) of N sentences."""


def read_tasks(
    wanted: Sequence[str], senteval_dir: str | Path | None, allow_partial_tasks: bool = False
) -> tuple[list[Task], list[str]]:
    """Read tasks from a folder in SentEval's layout, or load them from the hub if there is none.

    Args:
        wanted: Names of tasks and groups in `TASK_GROUPS`.
        senteval_dir: The folder; None for the hub, which has no transfer tasks.
        allow_partial_tasks: Whether files may have another number of examples than published.

    Returns:
        The tasks in the order of `TASK_GROUPS`, and the names of tasks of wanted groups whose files are missing.

    Raises:
        InputError: If a task is unknown, the files of a task wanted by name or of a whole group are missing, or files
            cannot be used.
    """
    names, missing = [], []
    known = [name for group in TASK_GROUPS.values() for name in group]
    for word in wanted:
        if word not in TASK_GROUPS and word not in known:
            raise InputError(f"`eval_tasks` {word[:40]}: unknown; choose of {', '.join([*TASK_GROUPS, *known[:-1]])}.")
    for group, members in TASK_GROUPS.items():
        absent = [name for name in members if group in wanted and not _exists(name, senteval_dir)]
        if members and len(absent) == len(members):
            raise InputError(f"`eval_tasks` {group}: {senteval_dir} has none of its files; check `senteval_dir`.")
        missing += absent
        names += [name for name in members if name in wanted or (group in wanted and name not in absent)]
    _validate_libraries(names)
    tasks = [_read(name, senteval_dir, allow_partial_tasks) for name in names]
    years = [task for task in tasks if isinstance(task, STSTask) and task.name in STS_YEARS]
    selection = _selection_pairs(tasks, senteval_dir, allow_partial_tasks) if years else None
    for task in years:
        task.selection = selection
    return tasks, missing


def embed_tasks(model, tokenizer, tasks: Sequence[Task], **encode_options) -> SentenceEmbeddings:
    """Embed each sentence of all tasks once, see `embed`; all processes must call it."""
    return embed(model, tokenizer, (text for task in tasks for text in task.sentences()), **encode_options)


def score_tasks(
    tasks: Sequence[Task], embeddings: SentenceEmbeddings, show_progress: bool = False
) -> dict[str, float]:
    """Return the metrics of all tasks and their `averages`; only the first process scores transfer tasks."""
    metrics: dict[str, float] = {}
    for task in tasks:
        if process_index() == 0 or not isinstance(task, TransferTask):  # these take minutes
            metrics |= task.score(embeddings, show_progress=show_progress)
    return metrics | averages(metrics)


def averages(metrics: dict[str, float]) -> dict[str, float]:
    """Return the mean Spearman over STS tasks, and dev and test accuracy over transfer tasks.

    `sts_avg_spearman`, `transfer_avg_dev_accuracy` and `transfer_avg_test_accuracy` are means over all seven tasks. A
    mean over two to six tasks has their number in its name, as `sts_avg_of_4_spearman`.
    `sts_avg_without_stsb_dev_spearman` excludes STS-B's development pairs from STS12 to STS16.
    """
    means = {}
    for group, metric in _AVERAGED:
        names = (f"{task}_{metric}" for task in TASK_GROUPS[group])
        values = [metrics[name] for name in names if name in metrics]
        if len(values) > 1:
            means[mean_name(group, metric, len(values))] = sum(values) / len(values)
    return means | _average_without_selection_pairs(metrics)


def _average_without_selection_pairs(metrics: dict[str, float]) -> dict[str, float]:
    """Return the mean Spearman over STS tasks, without STS-B's development pairs in STS12 to STS16."""
    metric = f"{WITHOUT_DEV}_spearman"
    values = [metrics.get(f"{task}_{metric}", metrics.get(f"{task}_spearman")) for task in STS_TASKS]
    values = [value for value in values if value is not None]
    if len(values) < 2 or not any(f"{task}_{metric}" in metrics for task in STS_TASKS):
        return {}
    return {mean_name("sts", metric, len(values)): sum(values) / len(values)}


def mean_name(group: str, metric: str, count: int) -> str:
    """Return the name of the mean of a metric over `count` tasks of a group."""
    return f"{group}_avg_{metric}" if count == len(TASK_GROUPS[group]) else f"{group}_avg_of_{count}_{metric}"


def _selection_pairs(tasks: Sequence[Task], senteval_dir: str | Path | None, allow_partial_tasks: bool):
    """Return STS-B's development pairs, which come from STS12 to STS16; None if they are not available."""
    for task in tasks:
        if isinstance(task, STSTask) and task.name == "stsb":
            return task.development
    if senteval_dir is None or not sts_files("stsb", senteval_dir)[0].exists():
        return None
    return read_stsb(senteval_dir, "dev", allow_partial_tasks)


def _exists(name: str, senteval_dir: str | Path | None) -> bool:
    return senteval_dir is None or any(path.exists() for path in _files(name, senteval_dir))


def _files(name: str, senteval_dir: str | Path) -> list[Path]:
    if name in TRANSFER_TASKS:
        return transfer_files(name, senteval_dir)
    if name in (GEOMETRY, "stsb"):
        development, test = sts_files("stsb", senteval_dir)
        return [development] if name == GEOMETRY else [test]
    return sts_files(name, senteval_dir)


def _read(name: str, senteval_dir: str | Path | None, allow_partial_tasks: bool) -> Task:
    if name in TRANSFER_TASKS:
        if senteval_dir is None:
            raise InputError(f"`eval_tasks` {name}: is not on the hub; give `senteval_dir`.")
        return read_transfer_task(name, senteval_dir, allow_partial_tasks)
    if name == GEOMETRY:
        pairs = load_sts_task("stsb").development if senteval_dir is None else None
        return GeometryTask(read_stsb(senteval_dir, "dev", allow_partial_tasks) if pairs is None else pairs)
    return load_sts_task(name) if senteval_dir is None else read_sts_task(name, senteval_dir, allow_partial_tasks)


def _validate_libraries(names: Sequence[str]) -> None:
    needed = {"sklearn": TRANSFER_TASKS, "matplotlib": (GEOMETRY,)}
    for library, tasks in needed.items():
        if set(tasks) & set(names) and importlib.util.find_spec(library) is None:
            raise InputError(
                f"`eval_tasks` {next(name for name in names if name in tasks)}: needs {library}, which is not "
                f"installed; run {install_command('evaluation')}."
            )
