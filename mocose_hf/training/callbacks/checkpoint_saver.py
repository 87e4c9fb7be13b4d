"""When a training saves, and that what it saves is complete before anything older goes."""

from contextlib import suppress
from pathlib import Path

from transformers import TrainerCallback

from mocose_hf.errors import SaveError, one_line
from mocose_hf.parallel.collectives import wait_for_all
from mocose_hf.training.callbacks.preemption import at_epoch_edge
from mocose_hf.training.checkpoint import (
    checkpoints,
    find_corruption,
    remove_checkpoint,
    rotate_checkpoints,
    step_of,
    write_manifest,
)
from mocose_hf.training.train_metrics import TrainMetrics


class CheckpointSaver(TrainerCallback):
    """Complete each checkpoint that `Trainer` writes, then delete those beyond `save_total_limit`.

    At the last step of an epoch, and of the run, the save waits for the log and the evaluation that the epoch's end
    brings, or a run that goes on from there would be without them.

    Args:
        step_log: Saved with each checkpoint.
    """

    def __init__(self, step_log: TrainMetrics):
        self._train_metrics = step_log
        self._run: dict = {}
        self._limit: int | None = None
        self._waits_for_epoch_end = False
        self._saving: Path | None = None

    def begin(self, run: dict, limit: int | None) -> None:
        """Begin a training: what its checkpoints say of it, and how many of them stay."""
        self._run, self._limit = run, limit
        self._waits_for_epoch_end, self._saving = False, None

    def start(self, checkpoint: Path, writes: bool) -> None:
        """Clear the place for a checkpoint before any process writes to it."""
        self._saving = checkpoint
        if writes:
            remove_checkpoint(checkpoint)
        wait_for_all()

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        epoch_ends = at_epoch_edge(state) or state.global_step >= state.max_steps
        self._waits_for_epoch_end = control.should_save and epoch_ends
        if self._waits_for_epoch_end:
            control.should_save = False

    def on_epoch_end(self, args, state, control, **kwargs):  # noqa: D102
        if self._waits_for_epoch_end:
            self._waits_for_epoch_end, control.should_save = False, True

    def on_save(self, args, state, control, **kwargs):  # noqa: D102
        wait_for_all()
        if args.should_save:
            self._train_metrics.save(self._saving)
            write_manifest(self._saving, self._run)
        saved, self._saving = self._saving, None
        if args.should_save:
            rotate_checkpoints(saved.parent, self._limit, state.best_model_checkpoint, newest=saved)

    def failure(self, error: Exception) -> SaveError | None:
        """Return what to say of an error while a checkpoint was written, None where it is of another kind.

        What was written of that checkpoint is removed, as the space may be needed.
        """
        if self._saving is None:
            return None
        broken, self._saving = self._saving, None
        with suppress(OSError):  # whatever is left has no manifest and is written again
            remove_checkpoint(broken)
        complete = [path for path in checkpoints(broken.parent) if find_corruption(path) is None]
        safe = f"{max(complete, key=step_of)} is complete" if complete else "there is none before it"
        return SaveError(
            f"{broken}: cannot be written ({one_line(error)}); {safe}: put the cause right, such as a full disk, and "
            "go on with --resume_from_checkpoint true."
        )
