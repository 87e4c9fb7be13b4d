"""Run the tiny training on one and on two processes, and compare what they end with."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from builders import HELPERS, REPOSITORY
from safetensors.torch import load_file


def parallel_runs_agree(folder: Path, encoder_dir: Path, algorithm: str) -> None:
    """Assert that an algorithm ends in the same model on two processes as on one with the same global batches."""
    runs_agree(folder, encoder_dir, {"algorithm": algorithm})


def runs_agree(folder: Path, encoder_dir: Path, changes: dict) -> None:
    """Assert the same of a run with these changes, as `train_on_processes.py` takes them."""
    script = HELPERS / "train_on_processes.py"
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", str(script)]
        arguments = [str(encoder_dir), str(folder / str(processes)), str(16 // processes), json.dumps(changes)]
        subprocess.run(
            [sys.executable, *launcher, *arguments], check=True, cwd=REPOSITORY, capture_output=True, timeout=240
        )
    one = load_file(folder / "1" / "rank0.safetensors")
    first, second = (load_file(folder / "2" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert (one["processes"].item(), first["processes"].item()) == (1, 2)
    assert first["steps"].item() == one["steps"].item() == 20
    assert one.keys() == first.keys() == second.keys()
    for name in one.keys() - {"processes"}:
        torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=0, msg=name)
        assert torch.equal(first[name], second[name]), name
