"""`mocose train --dry_run`: it says what the run needs, and leaves nothing behind."""

import re
import tempfile

import pytest
from builders import WORDS, sentences

from mocose_hf.cli.main import dispatch
from mocose_hf.training.base_trainer import BaseTrainer


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An output directory that does not exist, and the folder of temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return tmp_path / "out", temporary


@pytest.fixture
def train(encoder_dir, text_file, folders):
    def run(*options: object, code: int = 0) -> None:
        argv = ["train", "--model_name_or_path", encoder_dir, "--train_file", text_file, "--output_dir", folders[0]]
        argv += ["--use_cpu", "--per_device_train_batch_size", 4, "--queue_size", 8, "--dry_run", *options]
        assert dispatch([*map(str, argv)]) == code

    return run


def shown(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^  (\w[\w, ]*\w)  +(.+)$", printed.partition("Dry run")[2], re.MULTILINE))


def test_it_foresees_the_run_and_leaves_nothing(train, folders, capsys, tmp_path):
    labels = tmp_path / "bank.tsv"
    rows = [f"{text}\t{WORDS.index(text.split()[0]) % 3}" for text in sentences(40, seed=3)]
    labels.write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    train("--label_file", labels, "--max_steps", 60, "--eval_steps", 20)
    lines = shown(capsys.readouterr().out)
    assert lines["steps"].startswith("60 of ")
    assert lines["evaluations"].startswith("5 of ")  # the start, three during the run, the finished model
    assert re.match(r"\d+ s, ", lines["time foreseen"])
    assert re.fullmatch(r"[\d,]+ MB at most, [\d,]+ MB are free", lines["disk"])
    assert re.fullmatch(r"[\d,]+ MB of the process", lines["memory, highest"])
    assert not folders[0].exists()
    assert not any(folders[1].iterdir())


def test_epochs_count_the_steps_of_the_whole_run(train, folders, capsys):
    train("--num_train_epochs", 3)
    assert shown(capsys.readouterr().out)["steps"].startswith("15 of ")  # 22 sentences, batches of four
    assert not folders[0].exists()


def test_a_failure_leaves_nothing_either(train, folders, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(BaseTrainer, "train", fail)
    train(code=1)
    assert not folders[0].exists()
    assert not any(folders[1].iterdir())


def test_it_finds_what_would_stop_the_run(train, folders, capsys, monkeypatch):
    folders[0].mkdir()
    (folders[0] / "notes.txt").write_text("kept", encoding="utf-8")
    train(code=2)
    assert "is not empty" in capsys.readouterr().err
    (folders[0] / "notes.txt").unlink()
    monkeypatch.setattr("mocose_hf.cli.dry_run.needed_disk_space", lambda *_: 10**18)
    train("--max_steps", 4, code=2)
    captured = capsys.readouterr()
    assert "the run takes up to" in captured.err
    assert "steps" in shown(captured.out)
    assert not any(folders[0].iterdir())


def test_it_needs_a_training(encoder_dir, capsys):
    assert dispatch(["evaluate", str(encoder_dir), "--dry_run", "--eval_tasks", "sts"]) == 2
    assert "--dry_run tries a training" in capsys.readouterr().err
