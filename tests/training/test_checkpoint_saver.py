"""What was just saved is complete, and stays whatever becomes of older checkpoints."""

import shutil
from pathlib import Path

from checkpoint_folders import RUN, complete, steps_in, unfinished

from mocose_hf.errors import SaveError
from mocose_hf.training.callbacks.checkpoint_saver import CheckpointSaver
from mocose_hf.training.checkpoint import find_corruption
from mocose_hf.training.train_metrics import TrainMetrics


def keeper_that_saved(parent: Path, step: int, limit: int) -> CheckpointSaver:
    """Save as the trainer does."""
    keeper = CheckpointSaver(TrainMetrics())
    keeper.begin(RUN, limit)
    keeper.start(parent / f"checkpoint-{step}", writes=True)
    unfinished(parent, step)
    return keeper


class Saving:
    should_save = True
    best_model_checkpoint = None


def test_what_was_just_saved_stays_where_later_steps_of_another_run_lie(tmp_path):
    complete(tmp_path, 10, 20)
    keeper_that_saved(tmp_path, 3, limit=2).on_save(Saving(), Saving(), Saving())
    assert find_corruption(tmp_path / "checkpoint-3") is None


def test_what_was_just_saved_stays_where_an_older_one_cannot_be_deleted(tmp_path, monkeypatch):
    complete(tmp_path, 1)
    keeper = keeper_that_saved(tmp_path, 2, limit=1)
    remove = shutil.rmtree

    def busy(path, *args, **options):
        if Path(path).name == "checkpoint-1":
            raise OSError(39, "Directory not empty")
        remove(path, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", busy)
    try:
        keeper.on_save(Saving(), Saving(), Saving())
    except OSError as error:
        keeper.failure(error)
    assert find_corruption(tmp_path / "checkpoint-2") is None


def test_a_checkpoint_that_cannot_be_written_is_removed_and_the_one_before_named(tmp_path):
    complete(tmp_path, 1, 2)
    failure = keeper_that_saved(tmp_path, 3, limit=1).failure(OSError(28, "No space\nleft on device"))
    assert isinstance(failure, SaveError)
    assert str(failure).startswith(
        f"{tmp_path / 'checkpoint-3'}: cannot be written ([Errno 28] No space left on device)"
    )
    assert f"{tmp_path / 'checkpoint-2'} is complete" in str(failure)
    assert steps_in(tmp_path) == [1, 2]
    assert CheckpointSaver(TrainMetrics()).failure(OSError("of something else")) is None
