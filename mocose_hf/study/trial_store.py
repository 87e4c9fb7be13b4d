"""The trials of a study in an optuna storage, which several workers and machines may share.

A trial is one cell with one seed or, in a search, with all seeds. It waits, is claimed by one worker, and ends
complete or failed. What a worker held that died is told by the worker's own process, or by its silence, and waits
again under a new number. Where two trials hold one seed of a cell, as workers that start at one moment may enter
them, that of the lower number runs it.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

from optuna import create_study, load_study
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from mocose_hf.errors import InputError, one_line
from mocose_hf.study.declarations import Study
from mocose_hf.study.field_checks import check_fields, is_mapping, is_number, is_text, is_whole, list_of
from mocose_hf.study.leases import Key, Lease, Wanted, is_dead, this_worker
from mocose_hf.study.parameters import as_begun, distributions, parameters
from mocose_hf.study.provenance import differences
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.results import SCORE, TrialResult

MOST_ATTEMPTS = 3
"""Workers that may die in a trial before it is taken to kill them."""

_HEARTBEAT = 30.0
_RUN, _ABOUT = "run", "about"
_DROPPED = "dropped"
_RESULT = "result of seed "
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def _any(cell: str, seed: int) -> bool:
    return True


def _is_ours(attributes: Mapping[str, object]) -> bool:
    return _RUN in attributes or _ABOUT in attributes


class TrialStore:
    """The trials of one study.

    Args:
        storage: As `open_storage` gives it.
        name: The study's name.
    """

    def __init__(self, storage: BaseStorage, name: str):
        self.name, self._storage, self._study = name, storage, None

    def describe(self, run: Mapping[str, object]) -> None:
        """Make the study, or find it, and refuse one that was made to run something else.

        Args:
            run: What all workers must have in common, by name, as JSON can hold it; see `differences`.

        Raises:
            InputError: Naming what differs, with its value then and now; also if the study of this name is of another
                program, or damaged.
        """
        try:
            self._study = create_study(
                study_name=self.name, storage=self._storage, direction="maximize", load_if_exists=True
            )
        except Exception as error:
            raise self._damaged(one_line(error)) from error
        self._check()
        trials = self._study.get_trials(deepcopy=False)  # before the attributes, which another worker sets first
        attributes = self._study.user_attrs
        if not _is_ours(attributes) and (attributes or trials):
            raise InputError(
                f"the study {self.name} of this storage was made by another program; give another --storage."
            )
        run = redact_options(run)
        before = redact_options(self._study.user_attrs.get(_RUN, run))  # earlier versions stored secrets as given
        if other := differences(before, run):
            changed = (
                f"`{name}` was {str(before.get(name))[:60]} and is {str(run.get(name))[:60]} now" for name in other[:3]
            )
            raise InputError(
                f"the study {self.name} of this storage was begun otherwise: {'; '.join(changed)}; repeat its "
                "options, or give another --storage."
            )
        self._study.set_user_attr(_RUN, before | run)

    def declare(self, about: Mapping[str, object]) -> None:
        """Keep what a report needs to know besides; the last worker's counts."""
        self._study.set_user_attr(_ABOUT, dict(about))

    def load(self) -> None:
        """Find a study that is there.

        Raises:
            InputError: If it is damaged.
        """
        try:
            self._study = load_study(study_name=self.name, storage=self._storage)
        except Exception as error:
            raise self._damaged(one_line(error)) from error
        self._check(declared=True)

    @property
    def is_ours(self) -> bool:
        """Whether this package made the study: a storage may hold other optuna studies too."""
        return _is_ours(self._study.user_attrs)

    def run(self) -> dict[str, object]:
        """Return what all its workers have in common, with secrets masked."""
        return redact_options(self._study.user_attrs.get(_RUN, {}))

    def about(self) -> dict[str, object]:
        """Return what a report needs to know besides."""
        return self._study.user_attrs.get(_ABOUT, {})

    def enter(self, keys: Iterable[Key], options: Mapping[str, Mapping[str, object]]) -> None:
        """Let those trials wait that no live or finished one stands for; of some seeds, those that are left.

        Args:
            keys: Which there are to be.
            options: The options of each cell, by its label; what varies among them are the trial's parameters.
        """
        there = self.seeds()
        spread = as_begun(distributions(options), self._study.get_trials(deepcopy=False))
        for cell, seeds in keys:
            if left := tuple(seed for seed in seeds if seed not in there.get(cell, ())):
                own = parameters(options[cell], spread)
                self._add((cell, left), own, {name: spread[name] for name in own})

    def seeds(self) -> dict[str, list[int]]:
        """Return the seeds that there are trials of, for each cell that has any."""
        there: dict[str, list[int]] = {}
        for trial in self._standing():
            cell, seeds = _key(trial)
            there.setdefault(cell, []).extend(seeds)
        return there

    def claim(self, wanted: Wanted = _any) -> Lease | None:
        """Take the first waiting trial that has a seed which is wanted; None where none is left to take."""
        while True:
            trials = self._standing()
            holders: dict[tuple[str, int], int] = {}
            for trial in trials:
                cell, seeds = _key(trial)
                for seed in seeds:
                    holders.setdefault((cell, seed), trial.number)
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            claims = [(trial, self._claimed(trial, wanted, holders)) for trial in waiting]
            if not any(claim.seeds or not claim.left for _, claim in claims):
                return None
            for trial, claim in claims:
                if claim.seeds:
                    if self._take(trial):
                        return claim
                elif not claim.left:
                    self._drop(trial, "entered twice")

    def ask(self, space: Mapping[str, BaseDistribution], seeds: Sequence[int], most: int) -> Lease | None:
        """Take a waiting trial or, while there are fewer than `most`, draw one from the space by optuna's TPE sampler.

        A setting that was tried with fewer seeds is run with those that are left before another is drawn.

        Args:
            space: What each option may be.
            seeds: The seeds that each setting is run with.
            most: Number of settings of the search, each counted once.
        """
        while True:
            self._add_seeds(seeds)
            claim = self.claim(lambda _, seed: seed in seeds)
            drawn = self._num_settings()
            if claim is not None or drawn >= most:
                return claim
            # The draw depends on what has been tried alone, so a search by one worker can be repeated.
            self._study.sampler = TPESampler(seed=drawn, constant_liar=True)
            trial = self._study.ask(dict(space))
            label = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
            if label in self.seeds():
                self._end(trial.number, TrialState.FAIL)  # counted, so that a small space comes to an end
                continue
            # The cell is set last: with it, the trial stands for itself, and other workers read the rest.
            self._set(trial.number, seeds=list(seeds), worker=this_worker(), alive=time.time(), cell=label)
            return Lease(trial.number, label, tuple(seeds), dict(trial.params))

    def beat(self, claim: Lease) -> None:
        """Tell the other workers, now and then, that this one is alive."""
        now = time.time()
        if now - claim.last_beat >= _HEARTBEAT:
            claim.last_beat = now
            self._set(claim.number, alive=now)

    def record(self, claim: Lease, result: TrialResult) -> None:
        """Keep the result of one seed; when all seeds have theirs, the trial ends complete, or failed if one did.

        Where seeds are left that were not wanted, it waits for a worker that wants them.
        """
        self._set(claim.number, **{f"{_RESULT}{result.seed}": result.as_dict()})
        claim.seeds = tuple(seed for seed in claim.seeds if seed != result.seed)
        if claim.seeds:
            return
        if claim.left:
            self._let_wait_again(self._trial(claim.number), "its other seeds were not wanted", attempts=0)
            return
        self._finish(claim.number)

    def release(self, claim: Lease) -> None:
        """Let a trial that was told to stop wait again, at no cost of its attempts."""
        self._let_wait_again(self._trial(claim.number), "told to stop", attempts=0)

    def requeue_stale(self) -> list[Key]:
        """Let those trials wait again whose worker is dead, and return them; too often dead, they fail."""
        revived = []
        for trial in self._standing():
            if trial.state != TrialState.RUNNING or not is_dead(trial):
                continue
            claim = self._claimed(trial)
            if not claim.seeds:  # it died after its last result
                self._finish(trial.number)
                continue
            if trial.user_attrs.get("attempt", 1) < MOST_ATTEMPTS:
                if self._let_wait_again(trial, "its worker died", attempts=1):
                    revived.append(_key(trial))
                continue
            reason = f"{MOST_ATTEMPTS} workers died in it, as of too little memory"
            for seed in claim.seeds:
                self.record(claim, TrialResult(self.name, claim.cell, seed, "failed", reason=reason))
        return revived

    def retry_failed(self, wanted: Wanted = _any) -> None:
        """Let those trials wait again that failed for a reason of their own and have a seed that is wanted."""
        for trial in self._standing():
            cell, seeds = _key(trial)
            if trial.state == TrialState.FAIL and any(wanted(cell, seed) for seed in seeds):
                self._add(_key(trial), trial.params, trial.distributions, instead_of=trial.number)

    def results(self) -> list[TrialResult]:
        """Return a result for each cell and seed, those that wait or run among them, in the order of entry.

        What a worker holds that is dead is "interrupted", until `requeue_stale` lets it wait.
        """
        made: dict[Key, TrialResult] = {}
        for trial in self._standing():
            cell, seeds = _key(trial)
            kept = {result.seed: result for result in _results(trial)}
            dead = trial.state == TrialState.RUNNING and is_dead(trial)
            state = "interrupted" if dead else _STATES[trial.state]
            for seed in seeds:
                result = kept.get(seed) or TrialResult(self.name, cell, seed, state)
                made.setdefault((cell, seed), result)
        return list(made.values())

    def _check(self, declared: bool = False) -> None:
        """Check all that the storage holds of this study, so that nothing fails on it when the trials are done.

        Args:
            declared: Whether to check what `declare` stored too, which a run writes anew.

        Raises:
            InputError: Naming the trial and the attribute that cannot be used.
        """
        place = ""
        try:
            attributes, trials = self._study.user_attrs, self._study.get_trials(deepcopy=False)
            if not self.is_ours:
                return
            check_fields(attributes, {_RUN: is_mapping, _ABOUT: is_mapping}, needed=())
            check_fields(attributes.get(_ABOUT, {}), {"left_out": list_of(is_text)}, needed=())
            if declared and _ABOUT in attributes:
                _check_declared(attributes[_ABOUT])
            for trial in trials:
                place = f"trial {trial.number}: "
                _check_trial(trial)
        except Exception as error:  # optuna raises errors of many kinds for rows that it did not write
            raise self._damaged(f"{place}{one_line(error)}") from error

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"the study {self.name} of this storage cannot be read ({why}); restore the storage from a copy, or give "
            "another one."
        )

    def _standing(self) -> list[FrozenTrial]:
        """Return the trials that stand for themselves, in the order of their numbers."""
        trials = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("instead_of") for trial in trials}
        return [
            t for t in trials if "cell" in t.user_attrs and _DROPPED not in t.user_attrs and t.number not in replaced
        ]

    def _claimed(
        self, trial: FrozenTrial, wanted: Wanted = _any, holders: Mapping[tuple[str, int], int] | None = None
    ) -> Lease:
        """Return what a worker would run of a trial: seeds without result that no other trial holds."""
        done = {result.seed for result in _results(trial)}
        cell, seeds = _key(trial)
        open_ = [s for s in seeds if s not in done and (holders is None or holders[cell, s] == trial.number)]
        own = tuple(seed for seed in open_ if wanted(cell, seed))
        left = tuple(seed for seed in open_ if seed not in own)
        return Lease(trial.number, cell, own, dict(trial.params), left)

    def _add_seeds(self, seeds: Sequence[int]) -> None:
        """Enter the settings that were tried with fewer seeds once more, with those that are left."""
        there = self.seeds()
        settings = {_key(trial)[0]: trial for trial in self._standing()}
        for cell, trial in settings.items():
            if left := tuple(seed for seed in seeds if seed not in there[cell]):
                self._add((cell, left), trial.params, trial.distributions)

    def _num_settings(self) -> int:
        """Return how many settings were drawn: those with trials, and draws of what had been drawn before."""
        trials = [t for t in self._study.get_trials(deepcopy=False) if _DROPPED not in t.user_attrs]
        named = {_key(trial)[0] for trial in trials if "cell" in trial.user_attrs}
        return len(named) + sum("cell" not in trial.user_attrs for trial in trials)

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
        """Take a waiting trial; false where another worker was faster."""
        try:
            taken = self._end(trial.number, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if taken:
            self._set(trial.number, worker=this_worker(), alive=time.time())
        return taken

    def _let_wait_again(self, trial: FrozenTrial, why: str, attempts: int) -> bool:
        """End a trial and enter another for it with its results; false where another worker has done so."""
        if not self._drop(trial, why):
            return False
        kept = {name: value for name, value in trial.user_attrs.items() if name.startswith(_RESULT)}
        attempt = trial.user_attrs.get("attempt", 1) + attempts
        self._add(_key(trial), trial.params, trial.distributions, attempt=attempt, **kept)
        return True

    def _finish(self, number: int) -> None:
        """End a trial whose seeds all have their results."""
        results = _results(self._trial(number))
        if all(kept.state == "complete" for kept in results):
            self._end(number, TrialState.COMPLETE, [sum(kept.figures[SCORE] for kept in results) / len(results)])
        else:
            self._end(number, TrialState.FAIL)

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


_SEARCH_FIELDS = {"name": is_text, "title": is_text, "question": is_text}
_WORKER_FIELDS = {"host": is_text, "pid": is_whole, "started": is_number}
_TRIAL_FIELDS = {
    "cell": is_text,
    "seeds": lambda value: list_of(is_whole)(value) and len(value) > 0,
    "worker": is_mapping,
    "alive": is_number,
    "attempt": is_whole,
    "instead_of": is_whole,
    _DROPPED: is_text,
}


def _check_declared(about: Mapping[str, object]) -> None:
    if "cells" in about:
        Study.from_dict(about)
    else:
        check_fields(about, _SEARCH_FIELDS, needed=_SEARCH_FIELDS)


def _check_trial(trial: FrozenTrial) -> None:
    attributes = trial.user_attrs
    check_fields(attributes, _TRIAL_FIELDS, needed=("seeds",) if "cell" in attributes else ())
    if "worker" in attributes:
        check_fields(attributes["worker"], _WORKER_FIELDS, needed=_WORKER_FIELDS)
    if trial.state == TrialState.RUNNING and trial.datetime_start is None and "alive" not in attributes:
        raise ValueError("it runs, but has no time of its start")
    for name, value in attributes.items():
        if name.startswith(_RESULT):
            result = TrialResult.from_dict(value)
            if result.cell != attributes.get("cell") or result.seed not in attributes["seeds"]:
                raise ValueError(f"`{name}` is of the cell {result.cell[:60]!r} with seed {result.seed}")


def _key(trial: FrozenTrial) -> Key:
    return trial.user_attrs["cell"], tuple(trial.user_attrs["seeds"])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _results(trial: FrozenTrial) -> list[TrialResult]:
    return [TrialResult.from_dict(value) for name, value in trial.user_attrs.items() if name.startswith(_RESULT)]
