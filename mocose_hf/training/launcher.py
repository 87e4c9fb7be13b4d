"""What a launcher such as `accelerate launch` or `torchrun` sets, and that its processes end with it."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from mocose_hf.training.callbacks.preemption import LAUNCHER_DIED

_PRECISION = "ACCELERATE_MIXED_PRECISION"
_COMPILER = "ACCELERATE_DYNAMO_"

_LAUNCHERS = ("accelerate", "accelerate-launch", "torchrun", "torch.distributed.run", "torch.distributed.launch")
_PR_SET_PDEATHSIG = 1


def adopt_launcher_settings(args) -> None:
    """Copy into the training arguments what `accelerate launch` sets for the run and they leave open.

    `Accelerator` reads the variables itself, so without the copy a run would train in one precision and record
    another. Call this before `TrainingArguments.__post_init__`.

    Args:
        args: `MoCoSETrainingArguments`; `bf16`, `fp16`, `use_cpu` and the `torch_compile` fields may change.

    Raises:
        ValueError: If the launcher asks for a precision that the trainer does not support.
    """
    precision = os.environ.get(_PRECISION, "no").lower()
    if precision not in ("no", "bf16", "fp16"):
        raise ValueError(
            f"`accelerate launch` asks for --mixed_precision {precision[:20]}, which is not supported; give no, bf16 "
            "or fp16."
        )
    if precision != "no" and not (args.bf16 or args.fp16):
        setattr(args, precision, True)
        if not torch.accelerator.is_available():
            args.use_cpu = True  # as `Accelerator` does; transformers refuses `bf16` without it
    backend = os.environ.get(f"{_COMPILER}BACKEND", "no").lower()
    if backend != "no" and not (args.torch_compile or args.torch_compile_backend or args.torch_compile_mode):
        args.torch_compile, args.torch_compile_backend = True, backend
        args.torch_compile_mode = os.environ.get(f"{_COMPILER}MODE", "default")


def end_with_launcher() -> None:
    """Ask the kernel for `LAUNCHER_DIED` to this process when its launcher dies; Linux only.

    `accelerate launch` (1.15) of one process hands no SIGTERM on, and neither does a killed launcher of any kind, so
    the training would run on, out of sight.
    """
    parent = os.getppid()
    if not sys.platform.startswith("linux") or not _is_launcher(parent):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, LAUNCHER_DIED)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), LAUNCHER_DIED)


def _is_launcher(process: int) -> bool:
    """Return whether the command line of a process is that of a launcher, be it a program or a module."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return any(Path(word).name in _LAUNCHERS or word.startswith("accelerate.commands") for word in words[:4])
