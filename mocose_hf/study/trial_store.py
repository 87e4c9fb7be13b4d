"""The trials of a study in an optuna storage, which several workers and machines can share.

A trial is one cell with one seed or, in a search, with all seeds. A trial waits, one worker claims it, and it ends
complete or failed. If a worker dies, its trial waits again under a new number: on the same machine the worker's
process id shows this, on another machine the missing heartbeat. Workers that start at the same moment may enqueue the
same seed of a cell twice; the trial with the lower number runs it.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna import create_study, load_study
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from mocose_hf.errors import InputError, one_line
from mocose_hf.study.field_checks import is_mapping, is_text, list_of, validate_fields
from mocose_hf.study.metrics import describe_metric
from mocose_hf.study.provenance import find_differences
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.study import SCORE, TrialResult
from mocose_hf.study.trial_records import (
    DROPPED,
    RESULT_PREFIX,
    Key,
    Lease,
    Wanted,
    has_dead_worker,
    keep_stored_distributions,
    key_of,
    parameters_of,
    results_of,
    this_worker,
    validate_declaration,
    validate_trial,
    varying_options,
)

MAX_ATTEMPTS = 3
"""Workers that may die in a trial before it counts as the cause and fails."""

_HEARTBEAT_INTERVAL = 30.0
_SETTINGS, _DECLARATION = "run", "about"
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def _any(cell: str, seed: int) -> bool:
    return True


def _is_ours(attributes: Mapping[str, object]) -> bool:
    return _SETTINGS in attributes or _DECLARATION in attributes


class TrialStore:
    """The trials of one study.

    Args:
        storage: The storage, from `open_storage`.
        name: The name of the study.
        metric: The figure that ranks its cells.
    """

    def __init__(self, storage: BaseStorage, name: str, metric: str = SCORE):
        self.name, self._storage = name, storage
        self._study: Any = None  # an optuna study, once `begin` or `load` has found it
        self._metric = describe_metric(metric)

    def begin(self, settings: Mapping[str, object]) -> None:
        """Create the study, or find it and compare its settings.

        Args:
            settings: What all workers must have in common, by name, as JSON can hold it; see `find_differences`.

        Raises:
            InputError: If the study has other settings, is damaged, or belongs to another program.
        """
        try:
            direction = "maximize" if self._metric.greater_is_better else "minimize"
            self._study = create_study(
                study_name=self.name, storage=self._storage, direction=direction, load_if_exists=True
            )
        except Exception as error:
            raise self._damaged(one_line(error)) from error
        self._validate()
        trials = self._study.get_trials(deepcopy=False)  # before the attributes, which another worker sets first
        attributes = self._study.user_attrs
        if not _is_ours(attributes) and (attributes or trials):
            raise InputError(
                f"the study {self.name} of this storage belongs to another program; give another --storage."
            )
        settings = redact_options(settings)
        before = attributes.get(_SETTINGS, settings)
        if different := find_differences(before, settings):
            changed = (
                f"`{name}` was {str(before.get(name))[:60]} and is {str(settings.get(name))[:60]} now"
                for name in different[:3]
            )
            raise InputError(
                f"the study {self.name} of this storage began with other settings: {'; '.join(changed)}; repeat its "
                "options, or give another --storage."
            )
        self._study.set_user_attr(_SETTINGS, before | settings)

    def declare(self, declaration: Mapping[str, object]) -> None:
        """Store the declaration of the study for its report. The last worker's declaration wins."""
        self._study.set_user_attr(_DECLARATION, dict(declaration))

    def load(self) -> None:
        """Find a study that exists.

        Raises:
            InputError: If it is damaged.
        """
        try:
            self._study = load_study(study_name=self.name, storage=self._storage)
        except Exception as error:
            raise self._damaged(one_line(error)) from error
        self._validate(declared=True)

    def settings(self) -> dict[str, object]:
        """Return what all workers have in common, with secrets masked."""
        return redact_options(self._study.user_attrs.get(_SETTINGS, {}))

    def declaration(self) -> dict[str, Any]:
        """Return the declaration of the study, empty before the first worker stored it."""
        return self._study.user_attrs.get(_DECLARATION, {})

    def enqueue(self, keys: Iterable[Key], options: Mapping[str, Mapping[str, object]]) -> None:
        """Add the trials that do not exist yet. Of a trial with several seeds, only the missing seeds are added.

        Args:
            keys: The trials that should exist.
            options: The options of each cell, by its label. Those that differ become the parameters of the trials.
        """
        existing = self.seeds()
        varying = keep_stored_distributions(varying_options(options), self._study.get_trials(deepcopy=False))
        for cell, seeds in keys:
            if missing := tuple(seed for seed in seeds if seed not in existing.get(cell, ())):
                parameters = parameters_of(options[cell], varying)
                self._add((cell, missing), parameters, {name: varying[name] for name in parameters})

    def seeds(self) -> dict[str, list[int]]:
        """Return the seeds of all trials, by cell."""
        seeds_by_cell: dict[str, list[int]] = {}
        for trial in self._current_trials():
            cell, seeds = key_of(trial)
            seeds_by_cell.setdefault(cell, []).extend(seeds)
        return seeds_by_cell

    def claim(self, wanted: Wanted = _any) -> Lease | None:
        """Claim the first waiting trial that has a wanted seed; return None if there is none."""
        while True:
            trials = self._current_trials()
            holders: dict[tuple[str, int], int] = {}
            for trial in trials:
                cell, seeds = key_of(trial)
                for seed in seeds:
                    holders.setdefault((cell, seed), trial.number)
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            leases = [(trial, self._lease(trial, wanted, holders)) for trial in waiting]
            if not any(lease.seeds or not lease.other_seeds for _, lease in leases):
                return None
            for trial, lease in leases:
                if lease.seeds:
                    if self._take(trial):
                        return lease
                elif not lease.other_seeds:
                    self._drop(trial, "enqueued twice")

    def claim_or_draw(
        self, space: Mapping[str, BaseDistribution], seeds: Sequence[int], max_settings: int
    ) -> Lease | None:
        """Claim a waiting trial, or draw a new setting from the search space with optuna's TPE sampler.

        The missing seeds of existing settings run before the search draws another one.

        Args:
            space: The distribution of each option.
            seeds: The seeds of each setting.
            max_settings: The number of settings of the search.

        Returns:
            None if no trial waits and all settings are drawn.
        """
        while True:
            self._enqueue_missing_seeds(seeds)
            lease = self.claim(lambda _, seed: seed in seeds)
            drawn = self._num_settings()
            if lease is not None or drawn >= max_settings:
                return lease
            # The draw depends only on the earlier trials, so a search by one worker can be repeated.
            self._study.sampler = TPESampler(seed=drawn, constant_liar=True)
            trial = self._study.ask(dict(space))
            label = ", ".join(f"{name} {_short(value)}" for name, value in trial.params.items())
            if label in self.seeds():
                self._end(trial.number, TrialState.FAIL)  # it counts as drawn, so that a small space is exhausted
                continue
            # Other workers see the trial once it has a cell, so the cell is set last.
            self._set(trial.number, seeds=list(seeds), worker=this_worker(), alive=time.time(), cell=label)
            return Lease(trial.number, label, tuple(seeds), dict(trial.params))

    def heartbeat(self, lease: Lease) -> None:
        """Tell the other workers that this one is alive, at most every 30 seconds."""
        now = time.time()
        if now - lease.last_heartbeat >= _HEARTBEAT_INTERVAL:
            lease.last_heartbeat = now
            self._set(lease.number, alive=now)

    def record(self, lease: Lease, result: TrialResult) -> None:
        """Store the result of one seed. The trial ends once all its seeds have results, and fails if one failed.

        If seeds remain that this worker should not run, the trial waits for another worker.
        """
        self._set(lease.number, **{f"{RESULT_PREFIX}{result.seed}": result.as_dict()})
        lease.seeds = tuple(seed for seed in lease.seeds if seed != result.seed)
        if lease.seeds:
            return
        if lease.other_seeds:
            self._requeue(self._trial(lease.number), "its other seeds were not wanted", attempts=0)
            return
        self._finish(lease.number)

    def release(self, lease: Lease) -> None:
        """Return an interrupted trial to the queue. This does not count as an attempt."""
        self._requeue(self._trial(lease.number), "interrupted", attempts=0)

    def requeue_stale(self) -> list[Key]:
        """Return the trials of dead workers to the queue; fail those in which `MAX_ATTEMPTS` workers have died."""
        requeued = []
        for trial in self._current_trials():
            if trial.state != TrialState.RUNNING or not has_dead_worker(trial):
                continue
            lease = self._lease(trial)
            if not lease.seeds:  # the worker died after its last result
                self._finish(trial.number)
                continue
            if trial.user_attrs.get("attempt", 1) < MAX_ATTEMPTS:
                if self._requeue(trial, "its worker died", attempts=1):
                    requeued.append(key_of(trial))
                continue
            reason = f"{MAX_ATTEMPTS} workers died in it, perhaps because memory ran out"
            for seed in lease.seeds:
                self.record(lease, TrialResult(self.name, lease.cell, seed, "failed", reason=reason))
        return requeued

    def retry_failed(self, wanted: Wanted = _any) -> None:
        """Enqueue the failed trials that have a wanted seed once more."""
        for trial in self._current_trials():
            cell, seeds = key_of(trial)
            if trial.state == TrialState.FAIL and any(wanted(cell, seed) for seed in seeds):
                self._add(key_of(trial), trial.params, trial.distributions, instead_of=trial.number)

    def results(self) -> list[TrialResult]:
        """Return a result for each cell and seed in the order of the trials, unfinished ones included.

        The state of a trial whose worker is dead is "interrupted" until `requeue_stale`.
        """
        results: dict[tuple[str, int], TrialResult] = {}
        for trial in self._current_trials():
            cell, seeds = key_of(trial)
            finished = {result.seed: result for result in results_of(trial)}
            is_stale = trial.state == TrialState.RUNNING and has_dead_worker(trial)
            state = "interrupted" if is_stale else _STATES[trial.state]
            for seed in seeds:
                results.setdefault((cell, seed), finished.get(seed) or TrialResult(self.name, cell, seed, state))
        return list(results.values())

    def _validate(self, declared: bool = False) -> None:
        """Check everything that the storage holds of this study, so that no later step fails on it.

        Args:
            declared: Whether to check the declaration too, which a run overwrites.

        Raises:
            InputError: If a trial or an attribute cannot be used.
        """
        place = ""
        try:
            attributes, trials = self._study.user_attrs, self._study.get_trials(deepcopy=False)
            if not _is_ours(attributes):
                return
            validate_fields(attributes, {_SETTINGS: is_mapping, _DECLARATION: is_mapping}, required=())
            validate_fields(attributes.get(_DECLARATION, {}), {"left_out": list_of(is_text)}, required=())
            if declared and _DECLARATION in attributes:
                validate_declaration(attributes[_DECLARATION])
            for trial in trials:
                place = f"trial {trial.number}: "
                validate_trial(trial)
        except Exception as error:  # optuna raises errors of many kinds for rows that it did not write
            raise self._damaged(f"{place}{one_line(error)}") from error

    def _damaged(self, reason: str) -> InputError:
        return InputError(
            f"the study {self.name} of this storage cannot be read ({reason}); restore the storage from a copy, or "
            "give another one."
        )

    def _current_trials(self) -> list[FrozenTrial]:
        """Return the trials that no other trial has replaced, by number."""
        trials = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("instead_of") for trial in trials}
        return [
            t for t in trials if "cell" in t.user_attrs and DROPPED not in t.user_attrs and t.number not in replaced
        ]

    def _lease(
        self, trial: FrozenTrial, wanted: Wanted = _any, holders: Mapping[tuple[str, int], int] | None = None
    ) -> Lease:
        """Return the lease of a trial: its seeds without a result, except those that another trial holds."""
        done = {result.seed for result in results_of(trial)}
        cell, seeds = key_of(trial)
        pending = [s for s in seeds if s not in done and (holders is None or holders[cell, s] == trial.number)]
        own = tuple(seed for seed in pending if wanted(cell, seed))
        others = tuple(seed for seed in pending if seed not in own)
        return Lease(trial.number, cell, own, dict(trial.params), others)

    def _enqueue_missing_seeds(self, seeds: Sequence[int]) -> None:
        """Add the seeds that existing settings have not run with."""
        existing = self.seeds()
        settings = {key_of(trial)[0]: trial for trial in self._current_trials()}
        for cell, trial in settings.items():
            if missing := tuple(seed for seed in seeds if seed not in existing[cell]):
                self._add((cell, missing), trial.params, trial.distributions)

    def _num_settings(self) -> int:
        """Return how many settings a search has drawn; a draw of an existing setting counts too."""
        trials = [t for t in self._study.get_trials(deepcopy=False) if DROPPED not in t.user_attrs]
        cells = {key_of(trial)[0] for trial in trials if "cell" in trial.user_attrs}
        return len(cells) + sum("cell" not in trial.user_attrs for trial in trials)

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
        """Take a waiting trial; return False if another worker was faster."""
        try:
            is_taken = self._end(trial.number, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if is_taken:
            self._set(trial.number, worker=this_worker(), alive=time.time())
        return is_taken

    def _requeue(self, trial: FrozenTrial, reason: str, attempts: int) -> bool:
        """Replace a trial with a waiting one that keeps its results; return False if another worker has done so."""
        if not self._drop(trial, reason):
            return False
        results = {name: value for name, value in trial.user_attrs.items() if name.startswith(RESULT_PREFIX)}
        attempt = trial.user_attrs.get("attempt", 1) + attempts
        self._add(key_of(trial), trial.params, trial.distributions, attempt=attempt, **results)
        return True

    def _finish(self, number: int) -> None:
        """End a trial whose seeds all have results."""
        results = results_of(self._trial(number))
        scores = [result.figures.get(self._metric.name) for result in results if result.state == "complete"]
        if len(scores) == len(results) and None not in scores:
            self._end(number, TrialState.COMPLETE, [sum(scores) / len(scores)])
        else:
            self._end(number, TrialState.FAIL)

    def _drop(self, trial: FrozenTrial, reason: str) -> bool:
        try:
            self._set(trial.number, **{DROPPED: reason})
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


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
