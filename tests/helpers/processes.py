"""Start the processes of a distributed run, and compare what the tiny training ends with on one and on two."""

import json
import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path

import torch
from builders import HELPERS
from safetensors.torch import load_file

PRELOADED = ["mocose_hf.training.trainer", "mocose_hf.models.registry", "datasets", "builders"]
"""What the server of processes imports once; each import of these takes seconds."""


def start_processes(script: str, count: int, *arguments, log_folder: Path, timeout: float = 240) -> None:
    """Run a script of this folder on `count` processes that find each other as those of a launcher do.

    The processes are forks of a server that has the libraries loaded, because the start of `torchrun` and of each
    process takes longer than most tests. The launchers have tests of their own.

    Args:
        script: Name of the file.
        count: Number of processes.
        arguments: Arguments of the script.
        log_folder: Where each process writes its output, `log-N.txt`.
        timeout: Seconds until all must have ended.
    """
    log_folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    logs = [log_folder / f"log-{rank}.txt" for rank in range(count)]
    environments = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        for rank in range(count)
    ]
    command = [str(HELPERS / script), *map(str, arguments)]
    processes = [
        context.Process(target=_run, args=(command, environment, log))
        for environment, log in zip(environments, logs, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
    outputs = [log.read_text(encoding="utf-8", errors="replace")[-3000:] for log in logs]
    assert [process.exitcode for process in processes] == [0] * count, "\n".join(outputs)


def _run(command: list[str], environment: dict[str, str], log: Path) -> None:
    """Become the process of a launcher: run a script as the main module, with its output in a file."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def parallel_runs_agree(folder: Path, encoder_dir: Path, algorithm: str) -> None:
    """Assert that an algorithm ends in the same model on two processes as on one with the same global batches."""
    runs_agree(folder, encoder_dir, {"algorithm": algorithm})


def runs_agree(folder: Path, encoder_dir: Path, changes: dict) -> None:
    """Assert the same of a run with these changes, as `train_on_processes.py` takes them."""
    for processes in (1, 2):
        own = folder / str(processes)
        arguments = (encoder_dir, own, 16 // processes, json.dumps(changes))
        start_processes("train_on_processes.py", processes, *arguments, log_folder=own)
    one = load_file(folder / "1" / "rank0.safetensors")
    first, second = (load_file(folder / "2" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert (one["processes"].item(), first["processes"].item()) == (1, 2)
    assert first["steps"].item() == one["steps"].item() == 20
    assert one.keys() == first.keys() == second.keys()
    for name in one.keys() - {"processes"}:
        torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=0, msg=name)
        assert torch.equal(first[name], second[name]), name
