"""How optuna stores a study and its trials: cells and seeds, workers, results and parameters."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from mocose_hf.study.field_checks import is_mapping, is_number, is_text, is_whole, list_of, validate_fields
from mocose_hf.study.study import Study, TrialResult

HEARTBEAT_TIMEOUT = 900.0
"""Seconds without a heartbeat after which a worker on another machine counts as dead."""

DROPPED = "dropped"
"""The attribute of a trial that another trial replaces; its value is the reason."""

RESULT_PREFIX = "result of seed "
"""The attribute that holds the result of one seed starts with this."""

Key = tuple[str, tuple[int, ...]]
"""The label of a cell, and the seeds that one trial runs it with."""

Wanted = Callable[[str, int], bool]
"""Whether a worker should run a cell (label) with a seed."""


@dataclass
class Lease:
    """A trial that this worker runs.

    Args:
        number: The number of the trial.
        cell: The label of its cell.
        seeds: The seeds without a result that this worker should run.
        parameters: The values that a search has drawn.
        other_seeds: The seeds without a result that this worker should not run.
        last_heartbeat: The time of the last heartbeat in the storage.
    """

    number: int
    cell: str
    seeds: tuple[int, ...]
    parameters: dict[str, object]
    other_seeds: tuple[int, ...] = ()
    last_heartbeat: float = 0.0


def this_worker() -> dict[str, object]:
    """Return a description of this process that no other process on any machine shares."""
    process = psutil.Process(os.getpid())
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def has_dead_worker(trial: FrozenTrial) -> bool:
    """Return whether the worker of a running trial has ended on this machine, or is silent on another machine."""
    worker, heartbeat = trial.user_attrs.get("worker"), trial.user_attrs.get("alive")
    if heartbeat is None:  # a worker has just claimed it, or died right after the claim
        heartbeat = trial.datetime_start.timestamp()
    if worker is not None and worker["host"] == socket.gethostname():
        try:
            return psutil.Process(worker["pid"]).create_time() != worker["started"]
        except psutil.NoSuchProcess:
            return True
    return time.time() - heartbeat > HEARTBEAT_TIMEOUT


def key_of(trial: FrozenTrial) -> Key:
    """Return the cell and the seeds of a trial."""
    return trial.user_attrs["cell"], tuple(trial.user_attrs["seeds"])


def results_of(trial: FrozenTrial) -> list[TrialResult]:
    """Return the results that a trial has so far."""
    return [TrialResult.from_dict(value) for name, value in trial.user_attrs.items() if name.startswith(RESULT_PREFIX)]


def validate_declaration(declaration: Mapping[str, object]) -> None:
    """Check the stored declaration of a study or a search.

    Raises:
        ValueError: If a field cannot be used.
    """
    if "cells" in declaration:
        Study.from_dict(declaration)
    else:
        validate_fields(declaration, _SEARCH_FIELDS, required=("name", "title", "question"))


def validate_trial(trial: FrozenTrial) -> None:
    """Check the stored attributes of a trial.

    Raises:
        ValueError: If an attribute cannot be used.
    """
    attributes = trial.user_attrs
    validate_fields(attributes, _TRIAL_FIELDS, required=("seeds",) if "cell" in attributes else ())
    if "worker" in attributes:
        validate_fields(attributes["worker"], _WORKER_FIELDS, required=_WORKER_FIELDS)
    if trial.state == TrialState.RUNNING and trial.datetime_start is None and "alive" not in attributes:
        raise ValueError("it is running, but its start time is missing")
    for name, value in attributes.items():
        if name.startswith(RESULT_PREFIX):
            result = TrialResult.from_dict(value)
            if result.cell != attributes.get("cell") or result.seed not in attributes["seeds"]:
                raise ValueError(f"`{name}` belongs to the cell {result.cell[:60]!r} with seed {result.seed}")


def varying_options(options: Mapping[str, Mapping[str, object]]) -> dict[str, CategoricalDistribution]:
    """Return each option that differs between cells, with all its values.

    Args:
        options: The options of each cell, by its label.
    """
    names = dict.fromkeys(name for cell_options in options.values() for name in cell_options)
    values = {name: list(dict.fromkeys(_plain(cell.get(name)) for cell in options.values())) for name in names}
    return {name: CategoricalDistribution(choices) for name, choices in values.items() if len(choices) > 1}


def keep_stored_distributions(
    varying: Mapping[str, CategoricalDistribution], trials: Iterable[FrozenTrial]
) -> dict[str, CategoricalDistribution]:
    """Return the distribution of each option; the one that a stored trial has takes precedence.

    Optuna does not allow a distribution to change within a study. A value that a later cell adds is therefore missing
    from the parameters of its trial. This has no effect on the run, because the cell holds all its options.
    """
    stored = {name: distribution for trial in trials for name, distribution in trial.distributions.items()}
    return {name: stored.get(name, distribution) for name, distribution in varying.items()}


def parameters_of(
    cell_options: Mapping[str, object], varying: Mapping[str, CategoricalDistribution]
) -> dict[str, object]:
    """Return the varying options of a cell, None for those that it does not set.

    Values that are not in the distribution are skipped.
    """
    values = {name: _plain(cell_options.get(name)) for name in varying}
    return {name: value for name, value in values.items() if value in varying[name].choices}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


_SEARCH_FIELDS = {"name": is_text, "title": is_text, "question": is_text, "metric": is_text}
_WORKER_FIELDS = {"host": is_text, "pid": is_whole, "started": is_number}
_TRIAL_FIELDS = {
    "cell": is_text,
    "seeds": lambda value: list_of(is_whole)(value) and len(value) > 0,
    "worker": is_mapping,
    "alive": is_number,
    "attempt": is_whole,
    "instead_of": is_whole,
    DROPPED: is_text,
}
