"""A worker: runs the trials of a study one after another until none is left."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mocose_hf.errors import InputError, TrainingInterrupted
from mocose_hf.study.metrics import describe_metric
from mocose_hf.study.provenance import (
    CELL_PREFIX,
    DISPLAY_OPTIONS,
    ENCODER,
    EQUIVALENCE_BOUND,
    LOCATION_OPTIONS,
    METRIC,
)
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.study import AS_GIVEN, BASELINE, SCORE, Cell, Study, TrialResult
from mocose_hf.study.study_file import Search
from mocose_hf.study.trial_records import Key, Lease
from mocose_hf.study.trial_runner import TrialRunner
from mocose_hf.study.trial_store import TrialStore


class Worker:
    """Run the remaining trials of a study, beside other workers on the same storage.

    Args:
        study: The study or search to run.
        seeds: The seeds of each cell.
        options: Options of `run_mocose.py` for all cells. They override the study's options; a cell's options
            override them.
        folder: The parent of the folders of the trials.
        say: Called with each line for the user.
        cells: The labels of the cells to run; None for all.
        keep_models: Whether to keep the checkpoints of finished trials.
    """

    def __init__(
        self,
        study: Study | Search,
        seeds: Sequence[int],
        options: Mapping[str, object],
        folder: str | Path,
        say: Callable[[str], None],
        cells: Sequence[str] | None = None,
        keep_models: bool = False,
    ):
        self._study, self._seeds, self._say = study, tuple(dict.fromkeys(seeds)), say
        self._selected = None if cells is None else set(cells)
        self._options = dict(study.options) | dict(options)
        self._cells: dict[str, dict[str, object]] = {}
        self._skipped: list[str] = []
        spectrum = isinstance(study, Study) and study.plot == "spectrum"
        self._metric = describe_metric(study.metric)
        self._runner = TrialRunner(
            study.name, self._options, Path(folder) / study.name, spectrum, keep_models, study.metric
        )

    def validate(self) -> None:
        """Check the options of all cells to run, and read their data. This writes nothing.

        The default cell is always checked, because its data and encoder identify the study.

        Raises:
            InputError: If an option cannot be used.
        """
        if isinstance(self._study, Study):
            default = self._study.default_label
            cell = next(cell for cell in self._study.cells if cell.label == default)
            self._runner.validate({default: cell.options})
            self._cells = {cell.label: dict(cell.options) for cell in self._runnable(self._study.cells)}
        else:
            self._runner.validate_space(self._study.space)
            self._cells = {AS_GIVEN: {}}
        self._runner.validate(self._cells)

    def prepare(self, store: TrialStore, retry_failed: bool = False) -> None:
        """Enqueue the trials that do not exist yet. Call `validate` first.

        Raises:
            InputError: If the storage has another study of this name.
        """
        store.begin(self._settings())
        store.declare(self._declaration(store.declaration()))
        for cell, _ in store.requeue_stale():
            self._say(f"{self._study.name}: {cell}: the worker died; the trial resumes.")
        keys = self._keys(store.seeds())
        self._wanted = {(cell, seed) for cell, seeds in keys for seed in seeds}
        if retry_failed:
            store.retry_failed(self._is_wanted)
        store.enqueue(keys, {label: redact_options(options) for label, options in self._cells.items()})
        self._store = store

    def work(self) -> list[TrialResult]:
        """Run trials until none is left. Call `prepare` first.

        Returns:
            The results of all trials, those of other workers included.

        Raises:
            TrainingInterrupted: After SIGTERM or SIGINT. The trial returns to the queue, and the next worker resumes
                it.
        """
        while (lease := self._next()) is not None:
            options = self._cells.get(lease.cell, lease.parameters)
            for seed in lease.seeds:
                self._say(f"{self._study.name}: {lease.cell}, seed {seed}: started.")
                try:
                    result = self._runner.run(lease.cell, options, seed, partial(self._store.heartbeat, lease))
                except (TrainingInterrupted, KeyboardInterrupt):
                    self._store.release(lease)
                    raise
                self._store.record(lease, result)
                self._report(result)
            self._store.requeue_stale()
        return self._store.results()

    def _keys(self, existing: Mapping[str, Sequence[int]]) -> list[Key]:
        """Return the trials that should exist: a search runs all seeds of a cell in one trial, a study one seed.

        Args:
            existing: The seeds of existing trials by cell. A cell without training keeps its existing seed.
        """
        if isinstance(self._study, Search):
            return [(cell, self._seeds) for cell in self._cells]
        keys: list[Key] = []
        for seed in self._seeds:
            for cell, options in self._cells.items():
                if BASELINE not in options:
                    keys.append((cell, (seed,)))
                elif seed == self._seeds[0]:
                    keys.append((cell, (*existing.get(cell, ()), seed)[:1]))
        return keys

    def _is_wanted(self, cell: str, seed: int) -> bool:
        """Return whether this worker should run a cell with a seed. A search runs every setting that it has drawn."""
        return seed in self._seeds if isinstance(self._study, Search) else (cell, seed) in self._wanted

    def _next(self) -> Lease | None:
        if isinstance(self._study, Study):
            return self._store.claim(self._is_wanted)
        return self._store.claim_or_draw(self._study.space, self._seeds, self._study.trials)

    def _runnable(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the selected cells. Optional cells whose requirements are missing are skipped with a notice."""
        selected = [cell for cell in cells if self._is_selected(cell.label)]
        return [cell for cell in selected if not cell.optional or self._can_run(cell)]

    def _is_selected(self, label: str) -> bool:
        return self._selected is None or label in self._selected

    def _can_run(self, cell: Cell) -> bool:
        try:
            self._runner.validate({cell.label: cell.options})
        except InputError as error:
            self._say(f"Skipped: {error}")
            self._skipped.append(cell.label)
            return False
        return True

    def _settings(self) -> dict[str, object]:
        """Return what all workers of this study must have in common.

        Secrets are masked, so workers may use different ones.
        """
        local = LOCATION_OPTIONS | DISPLAY_OPTIONS
        options = {name: str(value) for name, value in redact_options(self._options).items() if name not in local}
        encoder = str(self._options.get("model_name_or_path", ""))
        digests = self._runner.digests(self._study.default_label if isinstance(self._study, Study) else AS_GIVEN)
        settings: dict[str, object] = {ENCODER: Path(encoder).name or encoder, **digests, **options}
        if self._study.metric != SCORE:
            settings[METRIC] = self._study.metric
        if isinstance(self._study, Search):
            return settings | {f"space of {name}": repr(values) for name, values in self._study.space.items()}
        for cell in self._study.cells:
            cell_options = redact_options(cell.options)
            settings[f"{CELL_PREFIX}{cell.label}"] = {name: str(value) for name, value in cell_options.items()}
        settings[EQUIVALENCE_BOUND] = f"{self._study.equivalence_bound:g}"
        for label in self._cells:
            own = {name: digest for name, digest in self._runner.digests(label).items() if digest != digests[name]}
            if own:
                settings[f"{CELL_PREFIX}{label}, its own data"] = own
        return settings

    def _declaration(self, before: Mapping[str, Any]) -> dict[str, object]:
        """Return the declaration of the study, and the optional cells that the last worker to try them skipped."""
        if isinstance(self._study, Search):
            return {name: getattr(self._study, name) for name in ("name", "title", "question", "metric")}
        earlier = [label for label in before.get("left_out", ()) if not self._is_selected(label)]
        return self._study.as_dict() | {"left_out": [*earlier, *self._skipped]}

    def _report(self, result: TrialResult) -> None:
        name = f"{self._study.name}: {result.cell}, seed {result.seed}"
        if result.state == "complete":
            score = result.figures.get(self._metric.name, math.nan)
            self._say(f"{name}: {self._metric.title}, {self._metric.unit}: {score:.{self._metric.decimals}f}.")
        else:
            self._say(f"{name}: failed: {result.reason}")
