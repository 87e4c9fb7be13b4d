"""Runs of the command that are killed, told to stop or restarted end as if nothing had been."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from builders import HELPERS, REPOSITORY
from interruptions import GLOBAL_BATCH, make_inputs, same_end

from mocose_hf.training.checkpoint import MANIFEST, checkpoints

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{REPOSITORY}/tests/helpers:{REPOSITORY}"}


def interrupt(*arguments: str) -> str:
    script = [sys.executable, str(HELPERS / "interruptions.py")]
    result = subprocess.run(
        [*script, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=1500, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow
def test_a_run_that_is_killed_twice_and_one_that_is_asked_to_stop_end_in_the_same_bits():
    assert "2 of 2 end bit for bit" in interrupt("kill", "--runs", "2")
    assert "2 of 2 end bit for bit" in interrupt("terminate", "--runs", "2", "--processes", "2", "--one_rank")


@pytest.mark.long
def test_20_runs_killed_at_random_moments_end_in_the_same_bits():
    said = interrupt("kill", "--runs", "20")
    assert "20 of 20 end bit for bit" in said
    assert int(said.split("; ")[-1].split()[0]) >= 5, "hardly any kill came inside a save"


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        ("--processes", "1"),
        ("--processes", "1", "--workers", "2"),
        ("--processes", "2"),
        ("--processes", "2", "--one_rank"),
        ("--processes", "2", "--workers", "2", "--times", "2"),
    ],
    ids=" ".join,
)
def test_10_runs_asked_to_stop_at_random_moments_end_in_the_same_bits(options):
    assert "10 of 10 end bit for bit" in interrupt("terminate", "--runs", "10", *options)


@pytest.mark.slow
def test_a_launcher_restarts_a_run_whose_worker_was_killed_and_it_ends_in_the_same_bits(tmp_path):
    options = [*make_inputs(tmp_path), "--per_device_train_batch_size", str(GLOBAL_BATCH // 2), "--output_dir"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "--max-restarts", "1", str(REPOSITORY / "run_mocose.py"), *options]
    subprocess.run([*command, str(tmp_path / "whole")], env=ENVIRONMENT, capture_output=True, check=True, timeout=240)

    broken = tmp_path / "broken"
    # without it a restarted worker may read where its dead peer listened: https://github.com/pytorch/pytorch/issues/135712
    environment = ENVIRONMENT | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([*command, str(broken)], env=environment, stdout=log, stderr=log)
        while run.poll() is None and not any((path / MANIFEST).is_file() for path in checkpoints(broken)):
            time.sleep(0.01)
        worker = psutil.Process(run.pid).children()[-1]
        worker.send_signal(signal.SIGKILL)
        try:
            code = run.wait(timeout=240)
        finally:
            run.terminate()
    said = (tmp_path / "log").read_text()
    assert code == 0, said[-3000:]
    assert "Signal 9 (SIGKILL)" in said or "exitcode: -9" in said
    assert f"Resuming from {broken}" in said
    assert same_end(tmp_path / "whole", broken) == []
