"""A checkpoint is complete or passed over, and nothing in it runs."""

import json
import os
import shutil
from pathlib import Path

import pytest
from checkpoint_folders import RUN, SHARD, complete, steps_in, unfinished

from mocose_hf.errors import InputError
from mocose_hf.training import checkpoint as checkpointing
from mocose_hf.training.checkpoint import (
    MANIFEST,
    WEIGHTS_FILE,
    checkpoints,
    find_checkpoint,
    find_corruption,
    read_manifest,
    remove_checkpoint,
    rotate_checkpoints,
    step_of,
    write_manifest,
)


def edit_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_complete_checkpoint_gives_back_its_run(tmp_path):
    folder = complete(tmp_path, 3)
    assert find_corruption(folder) is None
    assert read_manifest(folder) == RUN
    files = json.loads((folder / MANIFEST).read_text())["files"]
    assert files.keys() == {"trainer_state.json", WEIGHTS_FILE, SHARD}
    assert files[SHARD] == {
        "size": 5,
        "sha256": "df3598cd66f1bb5bc4e2c17be89b7c7ecf0c81e53939f471a6b72db8d139edae",
    }


def test_the_manifest_appears_in_one_piece_after_all_else(tmp_path, monkeypatch):
    folder = unfinished(tmp_path, 3)
    flushed = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.append(os.fstat(handle).st_ino), fsync(handle)))

    def replaced(path, target):
        inodes = {file.stat().st_ino for file in folder.rglob("*") if file.is_file()}
        assert len(inodes) == 4
        assert inodes <= set(flushed)
        assert json.loads(path.read_text())["run"] == RUN
        assert not (folder / MANIFEST).exists()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replaced)
    write_manifest(folder, RUN)
    assert [path.name for path in folder.glob(f"{MANIFEST}*")] == [MANIFEST]
    assert flushed[-2:] == [folder.stat().st_ino, tmp_path.stat().st_ino]


def test_a_save_that_fails_on_the_way_leaves_no_manifest(tmp_path, monkeypatch):
    folder = unfinished(tmp_path, 3)

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(folder, RUN)
    assert "did not finish" in find_corruption(folder)


def test_a_missing_directory_or_manifest_is_reported(tmp_path):
    assert find_corruption(tmp_path / "nowhere") == "no such directory"
    assert find_corruption(unfinished(tmp_path, 3)) == "it has no manifest.json, so its save did not finish"


STATE = {"trainer_state.json": {"size": 18, "sha256": "0"}}
FOREIGN = {
    "nothing": "",
    "cut off": '{"run": {}, "fil',
    "garbled": "\x00\x01{}",
    "list": "[]",
    "null": "null",
    "number": "7",
    "word": '"trainer_state.json"',
    "no files": '{"run": {}}',
    "no run": json.dumps({"files": STATE}),
    "run of another kind": json.dumps({"run": [], "files": STATE}),
    "files null": '{"run": {}, "files": null}',
    "files a list": '{"run": {}, "files": ["trainer_state.json"]}',
    "files a word": '{"run": {}, "files": "trainer_state.json"}',
    "no file": '{"run": {}, "files": {}}',
    "entry null": '{"run": {}, "files": {"trainer_state.json": null}}',
    "entry a list": '{"run": {}, "files": {"trainer_state.json": []}}',
    "entry empty": '{"run": {}, "files": {"trainer_state.json": {}}}',
    "size a word": '{"run": {}, "files": {"trainer_state.json": {"size": "18", "sha256": "0"}}}',
    "no sha256": '{"run": {}, "files": {"trainer_state.json": {"size": 18}}}',
    "deep": "[" * 200_000,
    "name too long": json.dumps({"run": {}, "files": {"n" * 5000: {"size": 0, "sha256": "0"}} | STATE}),
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_manifest_that_is_none_is_a_reason_and_no_crash(tmp_path, text):
    folder = complete(tmp_path, 1, 3)
    (folder / MANIFEST).write_text(text)
    assert isinstance(find_corruption(folder), str)
    found = find_checkpoint(tmp_path, True)
    assert found.path == str(tmp_path / "checkpoint-1")
    assert len(found.skipped) == 1
    assert "\n" not in found.skipped[0]


def test_a_manifest_in_another_encoding_is_a_reason_and_no_crash(tmp_path):
    folder = complete(tmp_path, 3)
    (folder / MANIFEST).write_bytes((folder / MANIFEST).read_text().encode("utf-16"))
    assert "cannot be read" in find_corruption(folder)


def test_a_manifest_may_say_more_than_is_known(tmp_path):
    folder = complete(tmp_path, 3)
    edit_manifest(folder, lambda manifest: manifest.update(version=2))
    assert find_corruption(folder) is None


@pytest.mark.parametrize("name", ["trainer_state.json", WEIGHTS_FILE, SHARD])
def test_a_lost_longer_shorter_or_changed_file_is_named(tmp_path, name):
    file = complete(tmp_path, 3) / name
    content = file.read_bytes()
    changed = bytes([content[0] ^ 1]) + content[1:]
    cases = {content + b"x": "instead of", content[:-1]: "instead of", b"": "instead of", changed: "has changed"}
    for other, said in cases.items():
        file.write_bytes(other)
        reason = find_corruption(tmp_path / "checkpoint-3")
        assert reason.startswith(name)
        assert said in reason
    file.unlink()
    assert find_corruption(tmp_path / "checkpoint-3") == f"{name} is missing"
    file.mkdir()
    assert find_corruption(tmp_path / "checkpoint-3") == f"{name} is missing"


def test_a_file_that_the_disk_does_not_give_back_is_passed_over(tmp_path, monkeypatch):
    complete(tmp_path, 1, 3)
    read = checkpointing.file_entry

    def entry(path, **options):
        if path.parent.name == "checkpoint-3":
            raise OSError(5, "Input/output error")
        return read(path, **options)

    monkeypatch.setattr(checkpointing, "file_entry", entry)
    assert find_checkpoint(tmp_path, True).path == str(tmp_path / "checkpoint-1")


@pytest.mark.parametrize("name", ["../outside", "global_step3/../../outside", "{absolute}"])
def test_a_manifest_that_vouches_for_files_elsewhere_is_none(tmp_path, name):
    folder = complete(tmp_path, 3)
    outside = tmp_path / "outside"
    outside.write_bytes(b"shard")
    name = name.format(absolute=outside)
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: manifest["files"][SHARD]}))
    assert find_corruption(folder) is not None


def test_a_subfolder_is_part_of_the_checkpoint_whatever_its_files_are_called(tmp_path):
    folder = unfinished(tmp_path, 3)
    inner = folder / "global_step3" / MANIFEST
    inner.write_text("{}")
    write_manifest(folder, RUN)
    inner.unlink()
    assert find_corruption(folder) == f"global_step3/{MANIFEST} is missing"


@pytest.mark.parametrize("wanted", [True, "True", "true", "TRUE"])
def test_true_finds_the_newest_complete_one_and_says_what_it_passed_over(tmp_path, wanted):
    complete(tmp_path, 2, 9, 10, 100)
    (tmp_path / "checkpoint-100" / MANIFEST).unlink()
    (tmp_path / "checkpoint-10" / SHARD).unlink()
    found = find_checkpoint(tmp_path, wanted)
    assert found.path == str(tmp_path / "checkpoint-9")
    assert [line.partition(": ")[0] for line in found.skipped] == [
        str(tmp_path / f"checkpoint-{n}") for n in (100, 10)
    ]


@pytest.mark.parametrize("wanted", [False, "False", "false", None, ""])
def test_false_and_nothing_start_anew(tmp_path, wanted):
    complete(tmp_path, 2)
    found = find_checkpoint(tmp_path, wanted)
    assert (found.path, found.skipped) == (None, [])


def test_true_without_a_complete_one_starts_anew(tmp_path):
    assert find_checkpoint(tmp_path / "nowhere", True).path is None
    unfinished(tmp_path, 4)
    found = find_checkpoint(tmp_path, True)
    assert found.path is None
    assert len(found.skipped) == 1


def test_one_is_found_by_any_name_it_has(tmp_path, monkeypatch):
    folder = complete(tmp_path, 2, 5, 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    for name in (folder, f"{folder}/", "checkpoint-3", "./checkpoint-3/", "link"):
        found = find_checkpoint(tmp_path, str(name))
        assert Path(found.path).resolve() == folder
        assert found.skipped == []


def test_a_named_one_that_is_not_complete_is_refused_in_one_line(tmp_path):
    complete(tmp_path, 2)
    named = unfinished(tmp_path, 4)
    for path, reason in ((named, "no manifest.json"), (tmp_path / "checkpoint-8", "no such directory")):
        with pytest.raises(InputError, match=reason) as caught:
            find_checkpoint(tmp_path, str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_only_folders_with_a_step_in_their_name_are_checkpoints(tmp_path):
    complete(tmp_path, 3)
    for name in (
        "checkpoint-best",
        "checkpoint-５",
        "checkpoint-",
        "checkpoint--4",
        "checkpoint-9 ",
        "checkpoint-1e3",
    ):
        shutil.copytree(tmp_path / "checkpoint-3", tmp_path / name)
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3"]
    assert find_checkpoint(tmp_path, True).path == str(tmp_path / "checkpoint-3")
    assert step_of(tmp_path / "checkpoint-３") == step_of("checkpoint-best") == -1
    assert step_of("run/checkpoint-12/") == 12


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (None, None, [1, 2, 3, 10]),
        (0, None, [1, 2, 3, 10]),
        (-1, None, [1, 2, 3, 10]),
        (1, None, [10]),
        (2, None, [3, 10]),
        (3, None, [2, 3, 10]),
        (9, None, [1, 2, 3, 10]),
        (1, 1, [1, 10]),
        (2, 1, [1, 10]),
        (3, 1, [1, 3, 10]),
        (1, 10, [10]),
        (2, 10, [3, 10]),
        (1, 99, [10]),
        (2, 99, [3, 10]),
    ],
)
def test_the_oldest_go_and_the_newest_and_the_best_stay(tmp_path, limit, best, left):
    complete(tmp_path, 1, 2, 3, 10)
    rotate_checkpoints(tmp_path, limit, None if best is None else tmp_path / f"checkpoint-{best}")
    assert steps_in(tmp_path) == left


def test_what_is_not_complete_is_neither_counted_nor_deleted(tmp_path):
    complete(tmp_path, 2, 4, 6)
    for step in (1, 5, 9):
        unfinished(tmp_path, step)
    rotate_checkpoints(tmp_path, 2, None)
    assert steps_in(tmp_path) == [1, 4, 5, 6, 9]


def test_a_place_is_cleared_before_it_is_written_to(tmp_path):
    folder = complete(tmp_path, 1, 3)
    remove_checkpoint(folder)
    assert steps_in(tmp_path) == [1]
    remove_checkpoint(folder)
    assert steps_in(tmp_path) == [1]


def test_deleting_a_link_leaves_what_it_points_to(tmp_path):
    elsewhere = complete(tmp_path / "elsewhere", 1)
    complete(tmp_path / "here", 2, 3)
    (tmp_path / "here" / "checkpoint-1").symlink_to(elsewhere)
    rotate_checkpoints(tmp_path / "here", 1, None)
    assert not (tmp_path / "here" / "checkpoint-2").exists()
    assert find_corruption(elsewhere) is None
