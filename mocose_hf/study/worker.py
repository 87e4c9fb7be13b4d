"""A worker: takes one trial after the other from the storage until none is left."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mocose_hf.errors import InputError
from mocose_hf.study.declarations import BASELINE, Cell, Study
from mocose_hf.study.leases import Key, Lease
from mocose_hf.study.provenance import ENCODER, EQUIVALENCE_BOUND, OF_CELL, OF_DISPLAY
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.results import SCORE, TrialResult
from mocose_hf.study.searches import AS_GIVEN
from mocose_hf.study.study_file import Search
from mocose_hf.study.trial_runner import TrialRunner
from mocose_hf.study.trial_store import TrialStore
from mocose_hf.training.callbacks.preemption import TrainingInterrupted

_OF_A_PLACE = {
    "cache_dir",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dataset_name",
    "label_file",
    "model_name_or_path",
    "output_dir",
    "retrieval_file",
    "senteval_dir",
    "train_file",
    "use_cpu",
    "validation_file",
}
"""Options that may differ between workers on different machines; content is compared by its digest."""


class Worker:
    """Run what a study still wants, beside other workers on the same storage.

    Args:
        study: What is run.
        seeds: With which seeds each cell is.
        options: Options of `run_mocose.py` that all cells have in common; a study's own options give way to them, a
            cell's do not.
        folder: Where each trial gets a folder of its own.
        say: Called with what is to be told.
        cells: Labels of the cells to run, all of a study where None.
        keep_models: Whether checkpoints stay when a trial is done.
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
        self._chosen = None if cells is None else set(cells)
        self._options = dict(study.options) | dict(options)
        self._cells: dict[str, dict[str, object]] = {}
        self._left_out: list[str] = []
        spectrum = isinstance(study, Study) and study.plot == "spectrum"
        self._runner = TrialRunner(study.name, self._options, Path(folder) / study.name, spectrum, keep_models)

    def check(self) -> None:
        """Check all cells that are to be run, and read what they need; nothing is written.

        The cell that the others are tested against is looked at in any case: its data and encoder are the study's.

        Raises:
            InputError: Where an option cannot be used.
        """
        if isinstance(self._study, Study):
            self._runner.check({self._default: self._cell(self._default).options})
            self._cells = {cell.label: dict(cell.options) for cell in self._runnable(self._study.cells)}
        else:
            self._runner.check_names(self._study.space)
            self._cells = {AS_GIVEN: {}}
        self._runner.check(self._cells)

    def prepare(self, store: TrialStore, retry_failed: bool = False) -> None:
        """Enter those trials that are not there yet, after `check`.

        Raises:
            InputError: Where the storage's study of this name is another one.
        """
        store.describe(self._in_common())
        store.declare(self._about(store.about()))
        for cell, _ in store.requeue_stale():
            self._say(f"{self._study.name}: {cell} goes on, whose worker died.")
        keys = self._keys(store.seeds())
        self._pairs = {(cell, seed) for cell, seeds in keys for seed in seeds}
        if retry_failed:
            store.retry_failed(self._is_wanted)
        store.enter(keys, {label: redact_options(options) for label, options in self._cells.items()})
        self._store = store

    def work(self) -> list[TrialResult]:
        """Run trials until none is left to take, after `prepare`; return the results of all, of other workers too.

        Raises:
            TrainingInterrupted: After SIGTERM or SIGINT; the trial waits for the next worker, which goes on with it.
        """
        while (claim := self._next()) is not None:
            options = self._cells.get(claim.cell, claim.parameters)
            for seed in claim.seeds:
                self._say(f"{self._study.name}: {claim.cell}, seed {seed}: begun.")
                try:
                    result = self._runner.run(claim.cell, options, seed, lambda c=claim: self._store.beat(c))
                except (TrainingInterrupted, KeyboardInterrupt):
                    self._store.release(claim)
                    raise
                self._store.record(claim, result)
                self._tell(result)
            self._store.requeue_stale()
        return self._store.results()

    def _keys(self, there: Mapping[str, Sequence[int]]) -> list[Key]:
        """Return the trials there are to be: each cell with one seed after the other, in a search with all at once.

        Args:
            there: The seeds of trials that were entered before, for each cell: one that is not trained keeps its own.
        """
        if isinstance(self._study, Search):
            return [(cell, self._seeds) for cell in self._cells]
        keys = []
        for seed in self._seeds:
            for cell, options in self._cells.items():
                if BASELINE not in options:
                    keys.append((cell, (seed,)))
                elif seed == self._seeds[0]:
                    keys.append((cell, (*there.get(cell, ()), seed)[:1]))
        return keys

    def _is_wanted(self, cell: str, seed: int) -> bool:
        """Return whether this worker is to run a cell with a seed; of a search, whatever setting was drawn."""
        return seed in self._seeds if isinstance(self._study, Search) else (cell, seed) in self._pairs

    def _next(self) -> Lease | None:
        if isinstance(self._study, Study):
            return self._store.claim(self._is_wanted)
        return self._store.ask(self._study.space, self._seeds, self._study.trials)

    @property
    def _default(self) -> str:
        return self._study.default_label

    def _cell(self, label: str) -> Cell:
        return next(cell for cell in self._study.cells if cell.label == label)

    def _runnable(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that are chosen, but for optional ones that cannot be run here, which are told."""
        chosen = [cell for cell in cells if self._is_chosen(cell.label)]
        return [cell for cell in chosen if not cell.optional or self._can_run(cell)]

    def _is_chosen(self, label: str) -> bool:
        return self._chosen is None or label in self._chosen

    def _can_run(self, cell: Cell) -> bool:
        try:
            self._runner.check({cell.label: cell.options})
        except InputError as error:
            self._say(f"Left out: {error}")
            self._left_out.append(cell.label)
            return False
        return True

    def _in_common(self) -> dict[str, object]:
        """Return what all workers of this study must have in common; a search also its space.

        Secrets are masked, so workers may use different ones.
        """
        free = _OF_A_PLACE | OF_DISPLAY
        options = {name: str(value) for name, value in redact_options(self._options).items() if name not in free}
        encoder = str(self._options.get("model_name_or_path", ""))
        base = self._runner.digests(self._default if isinstance(self._study, Study) else AS_GIVEN)
        run = {ENCODER: Path(encoder).name or encoder, **base}
        if isinstance(self._study, Search):
            return run | options | {f"space of {name}": repr(values) for name, values in self._study.space.items()}
        cells = {
            cell.label: {name: str(value) for name, value in redact_options(cell.options).items()}
            for cell in self._study.cells
        }
        options |= {f"{OF_CELL}{label}": of_cell for label, of_cell in cells.items()}
        options[EQUIVALENCE_BOUND] = f"{self._study.equivalence_bound:g}"
        for label in self._cells:
            own = {name: digest for name, digest in self._runner.digests(label).items() if digest != base[name]}
            if own:
                options[f"{OF_CELL}{label}, its own data"] = own
        return run | options

    def _about(self, before: Mapping[str, object]) -> dict[str, object]:
        """Return how the study is declared, and which optional cells were left out by the last worker to try them."""
        if isinstance(self._study, Search):
            return {name: getattr(self._study, name) for name in ("name", "title", "question")}
        earlier = [label for label in before.get("left_out", ()) if not self._is_chosen(label)]
        return self._study.as_dict() | {"left_out": [*earlier, *self._left_out]}

    def _tell(self, result: TrialResult) -> None:
        name = f"{self._study.name}: {result.cell}, seed {result.seed}"
        if result.state == "complete":
            self._say(f"{name}: {result.figures[SCORE]:.2f} on the development pairs.")
        else:
            self._say(f"{name}: failed: {result.reason}")
