"""Settings that a launcher gives through environment variables."""

import os

import torch

_PRECISION = "ACCELERATE_MIXED_PRECISION"
_COMPILER = "ACCELERATE_DYNAMO_"


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
