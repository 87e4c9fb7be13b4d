"""What a launcher sets through the environment is part of the run."""

import pytest
import torch
from test_trainer import make_trainer, training_arguments

from mocose_hf.checkpointing import read_manifest

PRECISION, COMPILER = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND"


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


def test_a_precision_that_is_not_supported_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(PRECISION, "fp8")
    with pytest.raises(ValueError, match="--mixed_precision fp8, which is not supported; give no, bf16 or fp16"):
        training_arguments(tmp_path)


def test_compilation_of_the_launcher_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv(COMPILER, "AOT_EAGER")
    args = training_arguments(tmp_path)
    assert (args.torch_compile, args.torch_compile_backend) == (True, "aot_eager")
    monkeypatch.setenv(COMPILER, "NO")
    assert not training_arguments(tmp_path).torch_compile
