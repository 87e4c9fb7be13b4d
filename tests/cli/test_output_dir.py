"""Nothing is overwritten unasked, and a disk that is too small is told before the first step."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from trainers import make_trainer, training_arguments

from mocose_hf.cli.output_dir import check_output_dir, check_results_dir, check_space, clear_output_dir
from mocose_hf.errors import InputError

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
            check_space(args, Model(), max_steps)
            high = disk.free
        except InputError:
            low = disk.free + 1
    return low


def refusal(output_dir, overwrite=False, resume_wanted=False) -> str:
    with pytest.raises(InputError) as caught:
        check_output_dir(output_dir, overwrite, resume_wanted)
    said = str(caught.value)
    assert said.startswith(f"--output_dir {output_dir}: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("resume_wanted", [True, False])
def test_a_missing_or_empty_directory_is_free_to_use(tmp_path, overwrite, resume_wanted, monkeypatch):
    check_output_dir(tmp_path, overwrite, resume_wanted)
    check_output_dir(tmp_path / "new" / "deeper", overwrite, resume_wanted)
    monkeypatch.chdir(tmp_path)
    check_output_dir("new", overwrite, resume_wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("resume_wanted", [True, False])
def test_a_file_is_no_directory_nor_is_anything_below_it(tmp_path, overwrite, resume_wanted):
    file = tmp_path / "file"
    file.write_text("kept")
    assert "is a file; name a directory" in refusal(file, overwrite, resume_wanted)
    assert f"{file} is a file; name a directory" in refusal(file / "a" / "b", overwrite, resume_wanted)
    assert file.read_text() == "kept"


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "checkpoint-3", "runs"])
def test_what_is_there_is_written_over_only_where_asked(tmp_path, name):
    (tmp_path / name).mkdir()
    said = refusal(tmp_path)
    assert all(part in said for part in ("not empty", "--resume_from_checkpoint true", "--overwrite_output_dir"))
    check_output_dir(tmp_path, overwrite=True, resume_wanted=False)
    assert (tmp_path / name).is_dir()


def test_what_a_run_left_that_was_killed_early_may_stand_there_for_resuming(tmp_path):
    for name in ("checkpoint-3", "checkpoint-20", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    for name in ("queue_monitor.jsonl", "queue_monitor.png"):
        (tmp_path / name).write_text("x")
    check_output_dir(tmp_path, overwrite=False, resume_wanted=True)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint-best", "sentence_encoder", "checkpoint-３"])
def test_resuming_without_a_checkpoint_among_other_things_is_refused_by_name(tmp_path, name):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / name).mkdir()
    said = refusal(tmp_path, resume_wanted=True)
    assert f"holds {name}, but no complete checkpoint" in said
    check_output_dir(tmp_path, overwrite=True, resume_wanted=True)


def test_a_file_named_as_a_checkpoint_is_none(tmp_path):
    (tmp_path / "checkpoint-7").write_text("mine")
    assert "holds checkpoint-7" in refusal(tmp_path, resume_wanted=True)


def test_clearing_removes_checkpoints_and_export_and_nothing_else(tmp_path):
    for name in ("checkpoint-3", "checkpoint-12", "sentence_encoder", "runs", "checkpoint-best", "my-checkpoint-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    for name in ("notes.txt", "checkpoint-7", "model.safetensors"):
        (tmp_path / name).write_text("x")
    clear_output_dir(tmp_path)
    left = {"runs", "checkpoint-best", "my-checkpoint-3", "notes.txt", "checkpoint-7", "model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == left
    clear_output_dir(tmp_path / "nowhere")


def test_clearing_leaves_what_a_link_points_to(tmp_path):
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    elsewhere.mkdir()
    here.mkdir()
    (elsewhere / "file").write_text("x")
    (here / "checkpoint-3").symlink_to(elsewhere)
    clear_output_dir(here)
    assert (elsewhere / "file").read_text() == "x"


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
        check_space(training_arguments(output_dir), Model(), 3)
        assert [(tmp_path / path).resolve() for path in disk.asked] == [tmp_path / "a"]


def test_the_message_says_on_one_line_what_is_free_and_what_is_needed(tmp_path, disk):
    disk.free = 12_400_000
    with pytest.raises(InputError) as caught:
        check_space(training_arguments(tmp_path, **STEPS, save_total_limit=2), Model(), 100)
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


@pytest.mark.parametrize("name", ["eval_results.json", "eval_results.md", "spectrum.csv", "alignment_uniformity.png"])
def test_scores_of_an_earlier_evaluation_are_kept_unless_told(tmp_path, name):
    check_results_dir(tmp_path, overwrite=False)
    check_results_dir(tmp_path / "new", overwrite=False)
    (tmp_path / name).write_text("earlier")
    with pytest.raises(InputError) as raised:
        check_results_dir(tmp_path, overwrite=False)
    assert str(raised.value) == (
        f"--output_dir {tmp_path}: holds {name} of an earlier evaluation; give another directory, or "
        "--overwrite_output_dir true."
    )
    check_results_dir(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "earlier"


def test_scores_cannot_be_written_into_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a file; name a directory"):
        check_results_dir(tmp_path / "file", overwrite=True)
    with pytest.raises(InputError, match=r"cannot be made"):
        check_results_dir(tmp_path / ("x" * 300), overwrite=True)


def test_a_new_run_leaves_no_scores_and_no_queue_monitor_of_the_one_before(tmp_path):
    for name in ("eval_results.json", "spectrum.png", "queue_monitor.jsonl", "queue_monitor.png", "notes.txt"):
        (tmp_path / name).write_text("earlier")
    clear_output_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
