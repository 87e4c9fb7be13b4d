"""What a launcher sets through the environment is part of the run."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from builders import REPOSITORY, sentences
from trainers import make_trainer, training_arguments

from mocose_hf.parallel.launcher import _is_launcher
from mocose_hf.training.checkpoint import checkpoints, find_corruption, read_manifest

PRECISION, COMPILER = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"


ACCELERATE = ("-m", "accelerate.commands.accelerate_cli", "launch", "--cpu")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def test_precision_of_the_launcher_is_recorded_used_and_compared_on_resume(tmp_path, tokenizer, monkeypatch):
    fields = {"save_strategy": "steps", "save_steps": 3}
    left_open = fields | {"use_cpu": torch.accelerator.is_available()}  # the launcher alone chooses bf16
    monkeypatch.setenv(PRECISION, "bf16")
    first = make_trainer(tmp_path, tokenizer, **left_open)
    first.train()
    assert first.accelerator.mixed_precision == "bf16"
    assert read_manifest(tmp_path / "checkpoint-3")["bf16"] is True

    monkeypatch.setenv(PRECISION, "no")
    with pytest.raises(ValueError, match="`bf16` was True and is False now"):
        make_trainer(tmp_path, tokenizer, **fields).train(resume_from_checkpoint=True)
    make_trainer(tmp_path, tokenizer, bf16=True, **fields).train(resume_from_checkpoint=True)


def test_precision_of_the_command_goes_before_that_of_the_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv(PRECISION, "fp16")
    args = training_arguments(tmp_path, bf16=True)
    assert (args.bf16, args.fp16, args.mixed_precision) == (True, False, "bf16")
    with pytest.raises(ValueError, match="`fp16` needs a GPU"):  # the launcher's fp16 arrives as the command's does
        training_arguments(tmp_path, use_cpu=True)


def test_a_precision_that_is_not_supported_raises_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv(PRECISION, "fp8")
    with pytest.raises(ValueError, match="--mixed_precision fp8, which is not supported; give no, bf16 or fp16"):
        training_arguments(tmp_path)


def test_compilation_of_the_launcher_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv(COMPILER, "AOT_EAGER")
    args = training_arguments(tmp_path)
    assert (args.torch_compile, args.torch_compile_backend) == (True, "aot_eager")
    monkeypatch.setenv(COMPILER, "NO")
    assert not training_arguments(tmp_path).torch_compile


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "/usr/bin/accelerate", "launch", "run_mocose.py"], True),
        (["python", "-m", "torch.distributed.run", "run_mocose.py"], True),
        (["python", "-m", "accelerate.commands.launch", "run_mocose.py"], True),
        (["/usr/bin/torchrun", "run_mocose.py"], True),
        (["bash", "-c", "accelerate launch run_mocose.py"], False),
        (["python", "scheduler.py"], False),
    ],
)
def test_a_launcher_is_known_by_its_command_line(monkeypatch, words, expected):
    """A shell is none: a run that was started with `nohup` outlives it."""
    line = "\0".join(words).encode() + b"\0"
    monkeypatch.setattr("mocose_hf.parallel.launcher.Path.read_bytes", lambda path: line)
    assert _is_launcher(1) is expected


def options_of_a_run(folder, encoder_dir) -> list[str]:
    (folder / "texts.txt").write_text("\n".join(sentences(200)) + "\n", encoding="utf-8")
    options = ["--model_name_or_path", str(encoder_dir), "--train_file", str(folder / "texts.txt")]
    options += ["--output_dir", str(folder / "out"), "--use_cpu", "true", "--per_device_train_batch_size", "4"]
    return [*options, "--queue_size", "16", "--queue_init_size", "4", "--disable_tqdm", "true"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel tells of a dead parent on Linux alone")
@pytest.mark.parametrize(("launcher", "number"), [(ACCELERATE, signal.SIGTERM), (TORCHRUN, signal.SIGKILL)])
def test_a_training_is_saved_and_ends_when_its_launcher_is_gone(tmp_path, encoder_dir, launcher, number):
    options = [*options_of_a_run(tmp_path, encoder_dir), "--num_train_epochs", "1000", "--logging_steps", "1"]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, *launcher, "run_mocose.py", *options]
        run = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
    said = ""
    deadline = time.monotonic() + 200
    while "  loss " not in said and time.monotonic() < deadline:
        time.sleep(0.1)
        said = (tmp_path / "log").read_text()
    trainings = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    assert run.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(trainings, timeout=120)
    for process in alive:
        process.kill()
    said = (tmp_path / "log").read_text()
    assert alive == [], said
    assert said.count("ended training after step") == 1
    assert [find_corruption(path) for path in checkpoints(tmp_path / "out")] == [None]


@pytest.mark.slow
def test_processes_report_a_mistake_once(tmp_path, encoder_dir):
    options = [*options_of_a_run(tmp_path, encoder_dir), "--max_seq_length", "4000"]
    command = [sys.executable, *TORCHRUN, "run_mocose.py", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 1  # the launcher's own
    assert done.stderr.count("run_mocose.py: --max_seq_length is 4000") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "out").exists()
