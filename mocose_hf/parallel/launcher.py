"""Settings that a launcher such as `accelerate launch` or `torchrun` passes on, and the end of its processes."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

LAUNCHER_DIED = getattr(signal, "SIGUSR2", None)
"""The signal that the kernel sends when the launcher dies, see `end_with_launcher`. Windows has no such signal."""

_PRECISION = "ACCELERATE_MIXED_PRECISION"
_COMPILER = "ACCELERATE_DYNAMO_"

_LAUNCHERS = ("accelerate", "accelerate-launch", "torchrun", "torch.distributed.run", "torch.distributed.launch")
_PR_SET_PDEATHSIG = 1


def adopt_launcher_settings(args) -> None:
    """Copy the settings of `accelerate launch` into training arguments that are at their defaults.

    `Accelerator` reads the environment variables itself. Without the copy, a run would train in one precision and
    record another. Call this before `TrainingArguments.__post_init__`.

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
            args.use_cpu = True  # as `Accelerator` does; transformers rejects `bf16` without it
    backend = os.environ.get(f"{_COMPILER}BACKEND", "no").lower()
    if backend != "no" and not (args.torch_compile or args.torch_compile_backend or args.torch_compile_mode):
        args.torch_compile, args.torch_compile_backend = True, backend
        args.torch_compile_mode = os.environ.get(f"{_COMPILER}MODE", "default")


def end_with_launcher() -> None:
    """Ask the kernel to send `LAUNCHER_DIED` to this process when its launcher dies; Linux only.

    `accelerate launch` (1.15) does not forward SIGTERM to a single process, and no killed launcher forwards anything.
    The training would continue unnoticed.
    """
    parent = os.getppid()
    if not sys.platform.startswith("linux") or not _is_launcher(parent):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, LAUNCHER_DIED)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), LAUNCHER_DIED)


def _is_launcher(process: int) -> bool:
    """Return whether a process runs a launcher, as a program or as a module."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return any(Path(word).name in _LAUNCHERS or word.startswith("accelerate.commands") for word in words[:4])
