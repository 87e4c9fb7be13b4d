"""`--report_to`: each tracker gets the loss and the development score of a run."""

import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from builders import REPOSITORY, sentences

from mocose_hf.cli.main import dispatch
from mocose_hf.cli.train import prepare_process


@pytest.fixture
def command(encoder_dir, text_file, tmp_path) -> list[str]:
    pairs, made = tmp_path / "pairs.tsv", sentences(20, seed=3)
    pairs.write_text("".join(f"{i}\t{made[i]}\t{made[i + 10]}\n" for i in range(10)), encoding="utf-8")
    argv = ["train", "--model_name_or_path", encoder_dir, "--train_file", text_file, "--output_dir", tmp_path / "out"]
    argv += ["--validation_file", pairs, "--max_steps", 2, "--eval_steps", 1, "--logging_steps", 1, "--use_cpu"]
    return [*map(str, [*argv, "--per_device_train_batch_size", 4, "--queue_size", 8])]


def test_tensorboard_gets_loss_and_development_score(command, tmp_path, monkeypatch):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="the extra `tensorboard` is not installed"
    )
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    assert dispatch([*command, "--report_to", "tensorboard"]) == 0
    written = events.EventAccumulator(str(tmp_path / "logs"))
    written.Reload()
    assert [event.step for event in written.Scalars("train/loss")] == [1, 2]
    assert {event.step for event in written.Scalars("eval/dev_spearman")} >= {0, 1, 2}


def test_trackio_gets_loss_and_development_score(command, tmp_path):
    pytest.importorskip("trackio", reason="the extra `trackio` is not installed")
    options = [*command, "--report_to", "trackio", "--project", "mocose"]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": str(REPOSITORY)}
    program = "import sys; from mocose_hf.cli.main import dispatch; sys.exit(dispatch(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (database,) = Path(tmp_path / "trackio").glob("mocose*.db")
    with sqlite3.connect(database) as connection:
        logged = " ".join(str(row) for row in connection.execute("SELECT metrics FROM metrics"))
    assert "train/loss" in logged
    assert "eval/dev_spearman" in logged


@pytest.mark.slow
def test_a_run_shows_no_noise_of_its_libraries(command):
    program = "import sys; from mocose_hf.cli.main import dispatch; sys.exit(dispatch(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program, *command], env=environment, capture_output=True, text=True, check=True
    )
    for noise in ("Setting accelerator", "Writing model shards", "Loading weights"):
        assert noise not in done.stdout + done.stderr


def test_only_the_notice_about_the_cpu_is_hidden(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    logger = logging.getLogger("DeepSpeed")
    before = list(logger.filters)
    try:
        prepare_process()
        notice = "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it."
        assert not logger.filter(logging.makeLogRecord({"msg": notice}))
        assert logger.filter(logging.makeLogRecord({"msg": "the optimizer skipped a step"}))
        monkeypatch.setattr(sys, "argv", ["mocose", "train", "--deepspeed", "ds_configs/zero2.json"])
        assert logger.filter(logging.makeLogRecord({"msg": notice}))
    finally:
        logger.filters[:] = before
