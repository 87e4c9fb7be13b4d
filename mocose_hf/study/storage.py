"""The trials of a study in an optuna storage, which several workers and machines may share.

A trial is one cell with one seed or, in a search, with all seeds. It waits, is claimed by one worker, and ends
complete or failed. What a worker held that died is told by the worker's own process, or by its silence, and waits
again under a new number. Of two trials of one cell and seeds, which workers that start at one moment may enter, the
lower number is the one that is run.
"""

import os
import socket
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from optuna import create_study, get_all_study_names, load_study
from optuna import logging as optuna_logging
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from mocose_hf.errors import InputError, one_line
from mocose_hf.study.results import SCORE, TrialResult

SILENCE = 900.0
"""Seconds after which a worker on another machine that has not been heard of is taken for dead."""

MOST_ATTEMPTS = 3
"""Workers that may die in a trial before it is taken to kill them."""

_HEARTBEAT = 30.0
OF_CELL = "cell "
"""How the names begin of what a study keeps of its cells."""

_RUN, _ABOUT = "run", "about"
_DROPPED = "dropped"
_RESULT = "result of seed "
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}

Key = tuple[str, tuple[int, ...]]
"""The label of a cell, and the seeds that one trial runs it with."""


@dataclass
class Claim:
    """A trial that this worker runs: one cell, and the seeds of it that have no result yet."""

    number: int
    cell: str
    seeds: tuple[int, ...]
    parameters: dict[str, object]
    last_beat: float = 0.0


def open_storage(url: str) -> BaseStorage:
    """Open a storage that optuna's `RDBStorage` takes, such as sqlite:///runs/study.db; make it where it is not there.

    Raises:
        InputError: Where it cannot be opened.
    """
    optuna_logging.set_verbosity(optuna_logging.ERROR)
    shown = url
    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 120}} if sqlite else None)
        if sqlite:
            _make_transactions_whole(storage.engine)
    except (SQLAlchemyError, OptunaError, ImportError, OSError, ValueError) as error:
        raise InputError(
            f"--storage {shown}: cannot be opened ({one_line(error)}); give a URL such as sqlite:///runs/study.db."
        ) from error
    return storage


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of the studies of a storage, in the order of the alphabet."""
    return sorted(get_all_study_names(storage))


class TrialStore:
    """The trials of one study.

    Args:
        storage: As `open_storage` gives it.
        name: The study's name.
    """

    def __init__(self, storage: BaseStorage, name: str):
        self.name, self._storage, self._study = name, storage, None

    def describe(self, run: Mapping[str, object], about: Mapping[str, object]) -> None:
        """Make the study, or find it, and refuse one that was made to run something else.

        Args:
            run: What all workers must have in common, by name, as JSON can hold it. What is named after `OF_CELL` is
                of a cell, which may come or go.
            about: What a report needs to know besides; the last worker's counts.

        Raises:
            InputError: Naming what differs, with its value then and now.
        """
        self._study = create_study(
            study_name=self.name, storage=self._storage, direction="maximize", load_if_exists=True
        )
        before = self._study.user_attrs.get(_RUN, dict(run))
        names = before.keys() | run.keys()
        other = {name for name in names if before.get(name) != run.get(name)}
        other -= {name for name in other if name.startswith(OF_CELL) and not (name in before and name in run)}
        if other:
            changed = (
                f"`{name}` was {str(before.get(name))[:60]} and is {str(run.get(name))[:60]} now"
                for name in sorted(other)[:3]
            )
            raise InputError(
                f"the study {self.name} of this storage was begun otherwise: {'; '.join(changed)}; repeat its "
                "options, or give another --storage."
            )
        self._study.set_user_attr(_RUN, before | dict(run))
        self._study.set_user_attr(_ABOUT, dict(about))

    def load(self) -> None:
        """Find a study that is there."""
        self._study = load_study(study_name=self.name, storage=self._storage)

    def run(self) -> dict[str, object]:
        """Return what all its workers have in common."""
        return self._study.user_attrs.get(_RUN, {})

    def about(self) -> dict[str, object]:
        """Return what a report needs to know besides."""
        return self._study.user_attrs.get(_ABOUT, {})

    def enter(self, keys: Iterable[Key], options: Mapping[str, Mapping[str, object]]) -> None:
        """Let those trials wait that no live or finished one stands for.

        Args:
            keys: Which there are to be.
            options: The options of each cell, by its label; what varies among them are the trial's parameters.
        """
        there = {_key(trial) for trial in self._standing()}
        spread = _distributions(options)
        for key in keys:
            if key not in there:
                self._add(key, _parameters(options[key[0]], spread), spread)

    def claim(self, cells: Container[str] | None = None) -> Claim | None:
        """Take the first waiting trial, of these cells where they are given; None where none is left to take."""
        while True:
            trials = self._standing()
            first: dict[Key, int] = {}
            for trial in trials:
                first.setdefault(_key(trial), trial.number)
            waiting = [t for t in trials if t.state == TrialState.WAITING and (cells is None or _key(t)[0] in cells)]
            if not waiting:
                return None
            for trial in waiting:
                if first[_key(trial)] != trial.number:
                    self._drop(trial, "entered twice")
                elif self._take(trial):
                    return self._claimed(trial)

    def ask(self, space: Mapping[str, BaseDistribution], seeds: Sequence[int], most: int) -> Claim | None:
        """Take a waiting trial or, while there are fewer than `most`, draw one from the space by optuna's TPE sampler.

        Args:
            space: What each option may be.
            seeds: The seeds that each setting is run with.
            most: Number of settings of the search, each counted once.
        """
        while True:
            claim = self.claim()
            drawn = [t for t in self._study.get_trials(deepcopy=False) if _DROPPED not in t.user_attrs]
            if claim is not None or len(drawn) >= most:
                return claim
            # The draw depends on what has been tried alone, so a search by one worker can be repeated.
            self._study.sampler = TPESampler(seed=len(drawn), constant_liar=True)
            trial = self._study.ask(dict(space))
            label = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
            if any(_key(other)[0] == label for other in self._standing()):
                self._end(trial.number, TrialState.FAIL)  # counted, so that a small space comes to an end
                continue
            self._set(trial.number, cell=label, seeds=list(seeds), worker=_this_worker(), alive=time.time())
            return Claim(trial.number, label, tuple(seeds), dict(trial.params))

    def beat(self, claim: Claim) -> None:
        """Tell the other workers, now and then, that this one is alive."""
        now = time.time()
        if now - claim.last_beat >= _HEARTBEAT:
            claim.last_beat = now
            self._set(claim.number, alive=now)

    def record(self, claim: Claim, result: TrialResult) -> None:
        """Keep the result of one seed; when all seeds have theirs, the trial ends complete, or failed if one did."""
        self._set(claim.number, **{f"{_RESULT}{result.seed}": result.as_dict()})
        claim.seeds = tuple(seed for seed in claim.seeds if seed != result.seed)
        if claim.seeds:
            return
        results = _results(self._trial(claim.number))
        if all(kept.state == "complete" for kept in results):
            score = sum(kept.figures[SCORE] for kept in results) / len(results)
            self._end(claim.number, TrialState.COMPLETE, [score])
        else:
            self._end(claim.number, TrialState.FAIL)

    def release(self, claim: Claim) -> None:
        """Let a trial that was told to stop wait again, at no cost of its attempts."""
        self._let_wait_again(self._trial(claim.number), "told to stop", attempts=0)

    def revive(self) -> list[Key]:
        """Let those trials wait again whose worker is dead, and return them; too often dead, they fail."""
        revived = []
        for trial in self._standing():
            if trial.state != TrialState.RUNNING or not _is_dead(trial):
                continue
            if trial.user_attrs.get("attempt", 1) < MOST_ATTEMPTS:
                if self._let_wait_again(trial, "its worker died", attempts=1):
                    revived.append(_key(trial))
                continue
            reason = f"{MOST_ATTEMPTS} workers died in it, as of too little memory"
            claim = self._claimed(trial)
            for seed in claim.seeds:
                self.record(claim, TrialResult(self.name, claim.cell, seed, "failed", reason=reason))
        return revived

    def retry_failed(self) -> None:
        """Let those trials wait again that failed for a reason of their own."""
        for trial in self._standing():
            if trial.state == TrialState.FAIL:
                self._add(_key(trial), trial.params, trial.distributions, instead_of=trial.number)

    def results(self) -> list[TrialResult]:
        """Return a result for each cell and seed, those that wait or run among them, in the order of entry."""
        made: dict[Key, TrialResult] = {}
        for trial in self._standing():
            cell, seeds = _key(trial)
            kept = {result.seed: result for result in _results(trial)}
            for seed in seeds:
                result = kept.get(seed) or TrialResult(self.name, cell, seed, _STATES[trial.state])
                made.setdefault((cell, seed), result)
        return list(made.values())

    def _standing(self) -> list[FrozenTrial]:
        """Return the trials that stand for themselves, in the order of their numbers."""
        trials = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("instead_of") for trial in trials}
        return [
            t for t in trials if "cell" in t.user_attrs and _DROPPED not in t.user_attrs and t.number not in replaced
        ]

    def _claimed(self, trial: FrozenTrial) -> Claim:
        done = {result.seed for result in _results(trial)}
        cell, seeds = _key(trial)
        return Claim(trial.number, cell, tuple(seed for seed in seeds if seed not in done), dict(trial.params))

    def _add(self, key: Key, parameters, distributions, **attributes) -> None:
        cell, seeds = key
        self._study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=dict(parameters),
                distributions=dict(distributions),
                user_attrs={"cell": cell, "seeds": list(seeds), **attributes},
            )
        )

    def _take(self, trial: FrozenTrial) -> bool:
        """Claim a waiting trial; false where another worker was faster."""
        try:
            taken = self._end(trial.number, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if taken:
            self._set(trial.number, worker=_this_worker(), alive=time.time())
        return taken

    def _let_wait_again(self, trial: FrozenTrial, why: str, attempts: int) -> bool:
        """End a trial and enter another for it with its results; false where another worker has done so."""
        if not self._drop(trial, why):
            return False
        kept = {name: value for name, value in trial.user_attrs.items() if name.startswith(_RESULT)}
        attempt = trial.user_attrs.get("attempt", 1) + attempts
        self._add(_key(trial), trial.params, trial.distributions, attempt=attempt, **kept)
        return True

    def _drop(self, trial: FrozenTrial, why: str) -> bool:
        try:
            self._set(trial.number, **{_DROPPED: why})
            return self._end(trial.number, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _set(self, number: int, **attributes) -> None:
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(self._id(number), name, value)

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self._storage.set_trial_state_values(self._id(number), state, values)

    def _id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)


def _key(trial: FrozenTrial) -> Key:
    return trial.user_attrs["cell"], tuple(trial.user_attrs["seeds"])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _results(trial: FrozenTrial) -> list[TrialResult]:
    return [TrialResult.from_dict(value) for name, value in trial.user_attrs.items() if name.startswith(_RESULT)]


def _distributions(options: Mapping[str, Mapping[str, object]]) -> dict[str, CategoricalDistribution]:
    """Return, for each option that is not the same in all cells, the values it takes."""
    names = dict.fromkeys(name for of_cell in options.values() for name in of_cell)
    spread = {name: list(dict.fromkeys(_plain(of.get(name)) for of in options.values())) for name in names}
    return {name: CategoricalDistribution(values) for name, values in spread.items() if len(values) > 1}


def _parameters(of_cell: Mapping[str, object], spread: Mapping[str, object]) -> dict[str, object]:
    return {name: _plain(of_cell.get(name)) for name in spread}


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _this_worker() -> dict[str, object]:
    process = psutil.Process(os.getpid())
    return {"host": socket.gethostname(), "pid": process.pid, "started": process.create_time()}


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial is gone from this machine, or silent on another one."""
    worker, alive = trial.user_attrs.get("worker"), trial.user_attrs.get("alive")
    if alive is None:  # claimed at this moment, or by one that died right then
        alive = trial.datetime_start.timestamp()
    if worker is not None and worker["host"] == socket.gethostname():
        try:
            return psutil.Process(worker["pid"]).create_time() != worker["started"]
        except psutil.NoSuchProcess:
            return True
    return time.time() - alive > SILENCE


def _make_transactions_whole(engine) -> None:
    """Let no other process write between a transaction's first look and its end.

    Python's sqlite3 begins a transaction at its first write, so two workers could both see a trial waiting. The cure
    is SQLAlchemy's (https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, on transactions of pysqlite).
    """

    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection, _):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
