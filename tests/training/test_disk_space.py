"""A disk that is too small is reported before the first step."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from trainers import make_trainer, training_arguments

from mocose_hf.errors import InputError
from mocose_hf.training.checkpoint import validate_disk_space

MODEL, MOMENTS, SMALL = 4 * (10 + 6 + 5) + 8, 2 * 4 * 10, 32 << 20


CHECKPOINT = MODEL + MOMENTS + SMALL


class Model(torch.nn.Module):
    """Ten trained and six frozen float32 weights, five float32 rows and one int64 in buffers; one weight is shared."""

    def __init__(self):
        super().__init__()
        self.trained = torch.nn.Parameter(torch.zeros(2, 5))
        self.shared = self.trained
        self.frozen = torch.nn.Parameter(torch.zeros(6), requires_grad=False)
        self.register_buffer("rows", torch.zeros(5, 1))
        self.register_buffer("num_filled", torch.zeros((), dtype=torch.int64))
        self.mocose = SimpleNamespace(adapter=None)


@pytest.fixture
def disk(monkeypatch):
    """Set how many bytes are free; tells which directories were asked."""
    told = SimpleNamespace(free=0, asked=[])

    def usage(path):
        told.asked.append(path)
        return SimpleNamespace(total=10**15, used=0, free=told.free)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return told


def needed(disk, output_dir, max_steps: int, **fields) -> int:
    """Return the least free space that is enough."""
    args = training_arguments(output_dir, **fields)
    low, high = 0, 1 << 40
    while low < high:
        disk.free = (low + high) // 2
        try:
            validate_disk_space(args, Model(), max_steps)
            high = disk.free
        except InputError:
            low = disk.free + 1
    return low


STEPS = {"save_strategy": "steps", "save_steps": 4}


@pytest.mark.parametrize(
    ("limit", "count"),
    [(1, 2), (2, 3), (3, 3), (9, 3), (None, 3), (0, 3), (-1, 3)],
)
def test_room_is_for_those_that_stay_and_the_one_being_written(tmp_path, disk, limit, count):
    assert needed(disk, tmp_path, 11, **STEPS, save_total_limit=limit) == count * CHECKPOINT + 2 * MODEL


def test_checkpoints_that_are_there_need_no_room_again(tmp_path, disk):
    for step in (4, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "manifest.json").write_text("{}")
    for limit, count in ((2, 1), (None, 3), (1, 1)):
        assert needed(disk, tmp_path, 20, **STEPS, save_total_limit=limit) in (
            count * CHECKPOINT + 2 * MODEL,
            (count + 1) * CHECKPOINT + 2 * MODEL,
        )


def test_broken_checkpoints_give_no_room_as_nothing_deletes_them(tmp_path, disk):
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert needed(disk, tmp_path, 40, **STEPS, save_total_limit=2) == 3 * CHECKPOINT + 2 * MODEL


@pytest.mark.parametrize(
    ("max_steps", "fields", "count"),
    [
        (10, {"save_strategy": "no"}, 1),
        (10, {"save_strategy": "no", "num_train_epochs": 9}, 1),
        (3, {"save_strategy": "steps", "save_steps": 4}, 1),
        (11, {"save_strategy": "steps", "save_steps": 4}, 3),
        (12, {"save_strategy": "steps", "save_steps": 4}, 3),
        (7, {"save_strategy": "steps", "save_steps": 0.3}, 3),
        (10, {"save_strategy": "steps", "save_steps": 0.5}, 2),
        (10, {"save_strategy": "steps", "save_steps": 0.01}, 10),
        (21, {"save_strategy": "epoch", "num_train_epochs": 3}, 3),
        (18, {"save_strategy": "epoch", "num_train_epochs": 2.5}, 3),
    ],
)
def test_room_is_for_every_checkpoint_to_come_and_one_more_at_most(tmp_path, disk, max_steps, fields, count):
    least = needed(disk, tmp_path, max_steps, **fields, save_total_limit=None)
    assert least in [n * CHECKPOINT + 2 * MODEL for n in (count, count + 1)]


def test_the_disk_of_the_nearest_directory_that_exists_is_asked(tmp_path, disk, monkeypatch):
    disk.free = 1 << 50
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for output_dir in (tmp_path / "a" / "b" / "c", "a/b", "a"):
        disk.asked.clear()
        validate_disk_space(training_arguments(output_dir), Model(), 3)
        assert [(tmp_path / path).resolve() for path in disk.asked] == [tmp_path / "a"]


def test_the_message_says_on_one_line_what_is_free_and_what_is_needed(tmp_path, disk):
    disk.free = 12_400_000
    with pytest.raises(InputError) as caught:
        validate_disk_space(training_arguments(tmp_path, **STEPS, save_total_limit=2), Model(), 100)
    assert str(caught.value) == (
        f"`output_dir` {tmp_path}: 12 MB are free, but the checkpoints and the model of this run take 101 MB; free "
        "some, name another directory, or lower `save_total_limit`."
    )


def test_training_on_a_full_disk_is_refused_before_its_first_step(tmp_path, tokenizer, disk):
    trainer = make_trainer(tmp_path / "out", tokenizer, save_strategy="steps", save_steps=1)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(InputError, match="0 MB are free"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    disk.free = 1 << 50
    assert trainer.train().global_step == 6
