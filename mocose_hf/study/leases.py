"""Who runs which trial, and whether it is still there."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from optuna.trial import FrozenTrial

HEARTBEAT_TIMEOUT = 900.0
"""Seconds after which a worker on another machine that has not been heard of is taken for dead."""

Key = tuple[str, tuple[int, ...]]
"""The label of a cell, and the seeds that one trial runs it with."""

Wanted = Callable[[str, int], bool]
"""Whether a worker is to run a cell, by its label, with a seed."""


@dataclass
class Lease:
    """A trial that this worker runs.

    Args:
        number: Its number.
        cell: The label of its cell.
        seeds: Those that have no result yet and are wanted of this worker.
        parameters: What it sets of a search's space.
        left: Its other seeds that have no result yet.
        last_beat: When the other workers last heard of this one.
    """

    number: int
    cell: str
    seeds: tuple[int, ...]
    parameters: dict[str, object]
    left: tuple[int, ...] = ()
    last_beat: float = 0.0


def this_worker() -> dict[str, object]:
    """Return what tells this process from all others, on this machine and elsewhere."""
    process = psutil.Process(os.getpid())
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def is_dead(trial: FrozenTrial) -> bool:
    """Return whether the worker of a running trial is gone from this machine, or silent on another one."""
    worker, alive = trial.user_attrs.get("worker"), trial.user_attrs.get("alive")
    if alive is None:  # claimed at this moment, or by one that died right then
        alive = trial.datetime_start.timestamp()
    if worker is not None and worker["host"] == socket.gethostname():
        try:
            return psutil.Process(worker["pid"]).create_time() != worker["started"]
        except psutil.NoSuchProcess:
            return True
    return time.time() - alive > HEARTBEAT_TIMEOUT
