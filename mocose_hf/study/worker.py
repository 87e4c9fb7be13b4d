"""A worker: takes one trial after the other from the storage until none is left."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mocose_hf.errors import InputError
from mocose_hf.preemption import TrainingInterrupted
from mocose_hf.study.declarations import BASELINE, Cell, Study
from mocose_hf.study.results import SCORE, TrialResult
from mocose_hf.study.searches import AS_GIVEN
from mocose_hf.study.storage import OF_CELL, Claim, Key, TrialStore
from mocose_hf.study.study_file import Search
from mocose_hf.study.trial import TrialRunner

_OF_A_PLACE = {
    "cache_dir",
    "dataloader_num_workers",
    "dataset_name",
    "model_name_or_path",
    "output_dir",
    "senteval_dir",
    "train_file",
    "use_cpu",
    "validation_file",
}
"""Options that may differ between workers on different machines."""


class Worker:
    """Run what a study still wants, beside other workers on the same storage.

    Args:
        store: The study's trials.
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
        store: TrialStore,
        study: Study | Search,
        seeds: Sequence[int],
        options: Mapping[str, object],
        folder: str | Path,
        say: Callable[[str], None],
        cells: Sequence[str] | None = None,
        keep_models: bool = False,
    ):
        self._store, self._study, self._seeds, self._say = store, study, tuple(seeds), say
        self._wanted = None if cells is None else set(cells)
        self._options = dict(study.options) | dict(options)
        spectrum = isinstance(study, Study) and study.plot == "spectrum"
        self._runner = TrialRunner(study.name, self._options, Path(folder) / study.name, spectrum, keep_models)

    def prepare(self, retry_failed: bool = False) -> None:
        """Check all cells, and enter those trials that are not there yet.

        Raises:
            InputError: Where an option cannot be used, or the storage's study of this name is another one.
        """
        if isinstance(self._study, Study):
            cells = {cell.label: dict(cell.options) for cell in self._runnable(self._study.cells)}
        else:
            cells = {AS_GIVEN: {}}
        self._runner.check(cells)
        self._store.describe(self._in_common(), self._about())
        for cell, _ in self._store.revive():
            self._say(f"{self._study.name}: {cell} goes on, whose worker died.")
        if retry_failed:
            self._store.retry_failed()
        self._store.enter(self._keys(cells), cells)
        self._cells = cells

    def work(self) -> list[TrialResult]:
        """Run trials until none is left to take; return the results of all, of other workers too.

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
            self._store.revive()
        return self._store.results()

    def _keys(self, cells: Mapping[str, Mapping[str, object]]) -> list[Key]:
        """Return the trials there are to be: each cell with one seed after the other, in a search with all at once."""
        if isinstance(self._study, Search):
            return [(cell, self._seeds) for cell in cells]
        first = self._seeds[0]
        return [(c, (seed,)) for seed in self._seeds for c in cells if seed == first or BASELINE not in cells[c]]

    def _next(self) -> Claim | None:
        if isinstance(self._study, Study):
            return self._store.claim(self._cells)
        return self._store.ask(self._study.space, self._seeds, self._study.trials)

    def _runnable(self, cells: Sequence[Cell]) -> list[Cell]:
        """Return the cells that are wanted, but for optional ones that cannot be run here, which are told."""
        wanted = [cell for cell in cells if self._wanted is None or cell.label in self._wanted]
        return [cell for cell in wanted if not cell.optional or self._can_run(cell)]

    def _can_run(self, cell: Cell) -> bool:
        try:
            self._runner.check({cell.label: cell.options})
        except InputError as error:
            self._say(f"Left out: {error}")
            return False
        return True

    def _in_common(self) -> dict[str, object]:
        """Return what all workers of this study must have in common; a search also its space."""
        options = {name: str(value) for name, value in self._options.items() if name not in _OF_A_PLACE}
        encoder = str(self._options.get("model_name_or_path", ""))
        run = {"encoder": Path(encoder).name or encoder, "sentences": self._runner.data_sha256()}
        if isinstance(self._study, Search):
            options |= {f"space of {name}": repr(values) for name, values in self._study.space.items()}
        else:
            cells = {cell.label: {n: str(v) for n, v in cell.options.items()} for cell in self._study.cells}
            options |= {f"{OF_CELL}{label}": of_cell for label, of_cell in cells.items()}
        return run | options

    def _about(self) -> dict[str, object]:
        """Return how the study is declared."""
        if isinstance(self._study, Study):
            return self._study.as_dict()
        return {name: getattr(self._study, name) for name in ("name", "title", "question")}

    def _tell(self, result: TrialResult) -> None:
        name = f"{self._study.name}: {result.cell}, seed {result.seed}"
        if result.state == "complete":
            self._say(f"{name}: {result.figures[SCORE]:.2f} on the development pairs.")
        else:
            self._say(f"{name}: failed: {result.reason}")
