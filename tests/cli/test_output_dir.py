"""Nothing is overwritten unasked, and a disk that is too small is told before the first step."""

import pytest

from mocose_hf.cli.output_dir import clear_output_dir, validate_output_dir, validate_results_dir
from mocose_hf.errors import InputError


def refusal(output_dir, overwrite=False, resume_wanted=False) -> str:
    with pytest.raises(InputError) as caught:
        validate_output_dir(output_dir, overwrite, resume_wanted)
    said = str(caught.value)
    assert said.startswith(f"--output_dir {output_dir}: ")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("resume_wanted", [True, False])
def test_a_missing_or_empty_directory_is_free_to_use(tmp_path, overwrite, resume_wanted, monkeypatch):
    validate_output_dir(tmp_path, overwrite, resume_wanted)
    validate_output_dir(tmp_path / "new" / "deeper", overwrite, resume_wanted)
    monkeypatch.chdir(tmp_path)
    validate_output_dir("new", overwrite, resume_wanted)
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
def test_existing_files_are_overwritten_only_if_asked(tmp_path, name):
    (tmp_path / name).mkdir()
    said = refusal(tmp_path)
    assert all(part in said for part in ("not empty", "--resume_from_checkpoint true", "--overwrite_output_dir"))
    validate_output_dir(tmp_path, overwrite=True, resume_wanted=False)
    assert (tmp_path / name).is_dir()


def test_what_a_run_left_that_was_killed_early_may_stand_there_for_resuming(tmp_path):
    for name in ("checkpoint-3", "checkpoint-20", "runs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    for name in ("queue_monitor.jsonl", "queue_monitor.png"):
        (tmp_path / name).write_text("x")
    validate_output_dir(tmp_path, overwrite=False, resume_wanted=True)


@pytest.mark.parametrize("name", ["model.safetensors", "checkpoint-best", "sentence_encoder", "checkpoint-３"])
def test_resuming_without_a_checkpoint_among_other_things_is_refused_by_name(tmp_path, name):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / name).mkdir()
    said = refusal(tmp_path, resume_wanted=True)
    assert f"holds {name}, but no complete checkpoint" in said
    validate_output_dir(tmp_path, overwrite=True, resume_wanted=True)


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


@pytest.mark.parametrize("name", ["eval_results.json", "eval_results.md", "spectrum.csv", "alignment_uniformity.png"])
def test_scores_of_an_earlier_evaluation_are_kept_unless_asked_otherwise(tmp_path, name):
    validate_results_dir(tmp_path, overwrite=False)
    validate_results_dir(tmp_path / "new", overwrite=False)
    (tmp_path / name).write_text("earlier")
    with pytest.raises(InputError) as raised:
        validate_results_dir(tmp_path, overwrite=False)
    assert str(raised.value) == (
        f"--output_dir {tmp_path}: holds {name} of an earlier evaluation; give another directory, or "
        "--overwrite_output_dir true."
    )
    validate_results_dir(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "earlier"


def test_scores_cannot_be_written_into_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is a file; name a directory"):
        validate_results_dir(tmp_path / "file", overwrite=True)
    with pytest.raises(InputError, match=r"cannot be made"):
        validate_results_dir(tmp_path / ("x" * 300), overwrite=True)


def test_a_new_run_leaves_no_scores_and_no_queue_monitor_of_the_one_before(tmp_path):
    for name in ("eval_results.json", "spectrum.png", "queue_monitor.jsonl", "queue_monitor.png", "notes.txt"):
        (tmp_path / name).write_text("earlier")
    clear_output_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
