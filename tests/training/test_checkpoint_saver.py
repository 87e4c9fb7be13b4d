"""What was just saved is complete, and stays whatever becomes of older checkpoints."""

import shutil
from pathlib import Path

import pytest
from checkpoint_folders import RUN, complete, steps_in, unfinished

from mocose_hf.errors import SaveError
from mocose_hf.training.callbacks.checkpoint_saver import CheckpointSaver
from mocose_hf.training.checkpoint import find_corruption
from mocose_hf.training.train_metrics import TrainMetrics


class Saving:
    """Arguments and state of the trainer."""

    should_save = True
    load_best_model_at_end = False
    best_model_checkpoint = None

    def __init__(self, limit: int):
        self.save_total_limit = limit


def write(saver: CheckpointSaver, parent: Path, step: int) -> None:
    """Write a checkpoint as the trainer does, all but its manifest."""
    saver.start(parent / f"checkpoint-{step}", writes=True)
    unfinished(parent, step)


def test_a_new_checkpoint_is_kept_beside_later_steps_of_another_run(tmp_path):
    complete(tmp_path, 10, 20)
    saver, saving = CheckpointSaver(TrainMetrics()), Saving(2)
    with saver.saving(saving, RUN):
        assert saving.save_total_limit is None
        write(saver, tmp_path, 3)
        saver.on_save(saving, saving, saving)
    assert saving.save_total_limit == 2
    assert find_corruption(tmp_path / "checkpoint-3") is None


def test_a_new_checkpoint_is_kept_if_an_older_one_cannot_be_deleted(tmp_path, monkeypatch):
    complete(tmp_path, 1)
    saver, saving = CheckpointSaver(TrainMetrics()), Saving(1)
    remove = shutil.rmtree

    def busy(path, *args, **options):
        if Path(path).name == "checkpoint-1":
            raise OSError(39, "Directory not empty")
        remove(path, *args, **options)

    monkeypatch.setattr(shutil, "rmtree", busy)
    with saver.saving(saving, RUN):
        write(saver, tmp_path, 2)
        saver.on_save(saving, saving, saving)
    assert find_corruption(tmp_path / "checkpoint-2") is None


def test_a_checkpoint_that_cannot_be_written_is_removed_and_the_one_before_named(tmp_path):
    complete(tmp_path, 1, 2)
    saver, saving = CheckpointSaver(TrainMetrics()), Saving(1)
    with pytest.raises(SaveError) as caught, saver.saving(saving, RUN):  # noqa: PT012
        write(saver, tmp_path, 3)
        raise OSError(28, "No space\nleft on device")
    assert saving.save_total_limit == 1
    assert str(caught.value).startswith(
        f"{tmp_path / 'checkpoint-3'}: cannot be written ([Errno 28] No space left on device)"
    )
    assert f"{tmp_path / 'checkpoint-2'} is complete" in str(caught.value)
    assert steps_in(tmp_path) == [1, 2]


def test_an_error_of_something_else_is_raised_as_it_is():
    saver = CheckpointSaver(TrainMetrics())
    with pytest.raises(OSError, match="of something else"), saver.saving(Saving(1), RUN):
        raise OSError("of something else")
