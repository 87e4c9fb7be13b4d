"""Save checkpoints: complete each one before any older one is deleted."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers import TrainerCallback, TrainerState

from mocose_hf.errors import SaveError, one_line
from mocose_hf.evaluation.checkpoint_selection import scores_by_step
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

    At the last step of an epoch, and of the run, the checkpoint is saved after the log line and the evaluation at the
    end of the epoch. Otherwise a run that resumes from it would lack both.

    Args:
        train_metrics: The means since the last log line; saved with each checkpoint.
    """

    def __init__(self, train_metrics: TrainMetrics):
        self._train_metrics = train_metrics
        self._run: dict = {}
        self._limit: int | None = None
        self._waits_for_epoch_end = False
        self._saving: Path | None = None

    @contextmanager
    def saving(self, args, run: dict) -> Iterator[None]:
        """Delete old checkpoints in place of `Trainer` inside a `with` block.

        `Trainer` would delete them before the new one is complete, so `save_total_limit` is None inside the block.

        Args:
            args: The training arguments.
            run: The description of the run, stored in each manifest.

        Raises:
            SaveError: If an error interrupts the writing of a checkpoint. The part that was written is deleted.
        """
        self._run, self._limit = run, args.save_total_limit
        self._waits_for_epoch_end, self._saving = False, None
        args.save_total_limit = None
        try:
            yield
        except Exception as error:
            if self._saving is None:
                raise
            raise self._clean_up(error) from error
        finally:
            args.save_total_limit = self._limit

    def start(self, checkpoint: Path, writes: bool) -> None:
        """Delete what is in the place of a checkpoint, before any process writes to it."""
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
        update_best_checkpoint(args, state, self._saving)
        wait_for_all()
        if args.should_save:
            self._train_metrics.save(self._saving)
            write_manifest(self._saving, self._run)
        saved, self._saving = self._saving, None
        if args.should_save:
            rotate_checkpoints(saved.parent, self._limit, state.best_model_checkpoint, newest=saved)

    def _clean_up(self, error: Exception) -> SaveError:
        """Delete the incomplete checkpoint, as its space may be needed, and return the error to raise."""
        broken, self._saving = self._saving, None
        with suppress(OSError):  # without a manifest, what is left of it does not count
            remove_checkpoint(broken)
        complete = [path for path in checkpoints(broken.parent) if find_corruption(path) is None]
        safe = f"{max(complete, key=step_of)} is complete" if complete else "there is none before it"
        return SaveError(
            f"{broken}: cannot be written ({one_line(error)}); {safe}: fix the cause, such as a full disk, and resume "
            "with `resume_from_checkpoint` true."
        )


def update_best_checkpoint(args, state: TrainerState, checkpoint: str | Path) -> None:
    """Make a checkpoint the best one if its step scored better than the best one so far.

    `Trainer` remembers the best evaluation, but no checkpoint if that step was not saved.
    """
    if not args.load_best_model_at_end:
        return
    scores = scores_by_step(state.log_history, args.best_metric)
    score, best = scores.get(step_of(checkpoint)), state.best_model_checkpoint
    best_score = None if best is None else scores.get(step_of(best))
    sign = 1 if args.greater_is_better else -1
    if score is not None and (best_score is None or sign * score > sign * best_score):
        state.best_model_checkpoint = str(checkpoint)
