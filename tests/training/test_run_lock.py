"""One run at a time in an output directory; a dead process holds nothing."""

import os
import signal
import subprocess
import sys

import pytest
from builders import REPOSITORY
from trainers import make_trainer, training_arguments
from transformers import TrainerCallback

from mocose_hf.errors import InputError
from mocose_hf.training.run_lock import lock_directory, lock_output_dir

HOLD = """
import os, sys, time
from mocose_hf.training.run_lock import lock_directory
with lock_directory(sys.argv[1]):
    if "fork" in sys.argv and os.fork() == 0:  # as a worker of a data loader
        print(os.getpid(), flush=True)
        time.sleep(600)
        os._exit(0)
    if "fork" not in sys.argv:
        print(os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start_holder(tmp_path):
    """Start another process that holds the directory; return it and the number that it or its child prints."""
    started = []

    def start(*options):
        command = [sys.executable, "-c", HOLD, str(tmp_path), *options]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        started.append((process, int(process.stdout.readline())))
        return started[-1]

    yield start
    for process, number in started:
        process.kill()
        process.wait()
        if number != process.pid:
            os.kill(number, signal.SIGKILL)


def refusal(folder) -> str:
    with pytest.raises(InputError) as caught, lock_directory(folder):
        pass
    return str(caught.value)


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path, start_holder):
    process, number = start_holder()
    said = refusal(tmp_path)
    assert said.startswith(
        f"`output_dir` {tmp_path}: another run (process {number}) is writing there; wait for its end"
    )
    assert "\n" not in said
    process.kill()
    process.wait()
    with lock_directory(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_worker_that_outlives_its_process_holds_nothing(tmp_path, start_holder):
    process, worker = start_holder("fork")
    refusal(tmp_path)
    process.kill()
    process.wait()
    os.kill(worker, 0)  # still alive
    with lock_directory(tmp_path):
        pass


def test_one_process_may_hold_a_directory_again_and_under_another_name(tmp_path):
    link = tmp_path / "link"
    (tmp_path / "out").mkdir()
    link.symlink_to(tmp_path / "out")
    with lock_directory(tmp_path / "out"):
        with lock_directory(link):
            pass
        command = [sys.executable, "-c", HOLD, str(link)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
        assert f"another run (process {os.getpid()}) is writing there" in done.stderr


def test_a_file_system_without_locks_gives_a_warning(tmp_path, told, monkeypatch):
    def no_locks(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("mocose_hf.training.run_lock.fcntl.flock", no_locks)
    with lock_directory(tmp_path):
        assert "cannot be locked ([Errno 95] Operation not supported); start no second run" in told.text


def test_training_holds_its_output_directory(tmp_path, tokenizer, start_holder):
    start_holder()
    trainer = make_trainer(tmp_path, tokenizer)
    with pytest.raises(InputError, match="another run"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_training_gives_its_output_directory_back(tmp_path, tokenizer):
    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            command = [sys.executable, "-c", HOLD, str(tmp_path)]
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
            refused.append(f"process {os.getpid()}" in done.stderr)

    refused = []
    make_trainer(tmp_path, tokenizer, max_steps=1, callbacks=[Look()]).train()
    assert refused == [True]
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.kill()
    process.wait()


def test_a_directory_that_another_run_filled_meanwhile_is_refused(tmp_path):
    args = training_arguments(tmp_path)
    with lock_output_dir(tmp_path, args, must_be_empty=True):
        pass
    with lock_output_dir(tmp_path / "none", args, must_be_empty=True):
        pass
    (tmp_path / "checkpoint-3").mkdir()
    said = "another run has written checkpoint-3 there since this command began"
    with pytest.raises(InputError, match=said), lock_output_dir(tmp_path, args, must_be_empty=True):
        pass
    with lock_output_dir(tmp_path, args):
        pass


def test_the_command_is_refused_while_another_process_writes_there(tmp_path, encoder_dir, start_holder):
    start_holder()
    options = ["--model_name_or_path", str(encoder_dir), "--train_file", "none.txt", "--output_dir", str(tmp_path)]
    for more in (["--overwrite_output_dir", "true"], ["--resume_from_checkpoint", "true"]):
        done = subprocess.run(
            [sys.executable, "run_mocose.py", *options, *more, "--use_cpu", "true"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"run_mocose.py: --output_dir {tmp_path}: another run (process")
    assert list(tmp_path.iterdir()) == []
