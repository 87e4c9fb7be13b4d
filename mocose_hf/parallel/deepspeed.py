"""DeepSpeed ZeRO: all that the models, the trainer and the training arguments need of it.

Every process builds the whole model from the same random numbers; DeepSpeed's engine shards it when training begins.
All weights stay in float32, and bf16 means autocast, as it does without DeepSpeed. Only this module imports DeepSpeed,
and only if it is in use.
"""

import copy
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import deepspeed as integration

from mocose_hf.compat import announced_deepspeed_config
from mocose_hf.errors import InputError, install_command

_UNSUPPORTED = {
    "optimizer": "remove it, and set `learning_rate`, `weight_decay` and `optim`",
    "scheduler": "remove it, and set `lr_scheduler_type` and `warmup_steps`",
    "fp16.enabled": "remove it, and set `bf16`, which keeps the weights in float32",
    "bf16.enabled": 'write "auto", and set `bf16`, which keeps the weights in float32',
    "torch_autocast.enabled": 'write "auto", and set `bf16`',
    "tensor_parallel.autotp_size": "remove it, and shard the weights by ZeRO-3",
    "zero_optimization.offload_optimizer.device": "remove it, and raise `stage` or set `activation_checkpointing`",
    "zero_optimization.offload_param.device": "remove it, and use more GPUs or set `activation_checkpointing`",
    "zero_optimization.zero_hpz_partition_size": "remove it: the EMA moves primary shards alone",
    "zero_optimization.mics_shard_size": "remove it: the EMA moves primary shards alone",
    "zero_optimization.zero_quantized_weights": "remove it: the EMA needs weights in float32",
    "zero_optimization.zero_quantized_nontrainable_weights": "remove it: the EMA needs weights in float32",
}
"""Entries of a DeepSpeed configuration that are not supported, each with its remedy."""

_LAUNCH = "`accelerate launch --config_file configs/accelerate/zero2.yaml ...`"

CHECKPOINT_GLOBALS = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
"""The globals that pickles of a DeepSpeed checkpoint name beyond those that `torch.load` always allows (0.19.8)."""


@contextmanager
def whole_weights() -> Iterator[None]:
    """Build or load models with whole parameters inside, whatever DeepSpeed configuration is active.

    Once `TrainingArguments` for ZeRO-3 exist, transformers builds models under `deepspeed.zero.Init`. It shards the
    weights at once and draws them from other random numbers, and the target would be a copy of empty parameters.
    """
    config = announced_deepspeed_config()
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            integration.set_hf_deepspeed_config(config)


def validate_whole_weights(model: nn.Module) -> None:
    """Raise a `ValueError` if a model was built under `deepspeed.zero.Init`, outside `whole_weights`."""
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ValueError(
            f"{type(model).__name__} cannot be built in shards; call its constructor or `from_pretrained`, outside "
            "`deepspeed.zero.Init`."
        )


def local_values(pairs: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the values that this process holds of each pair of equally sharded parameters.

    Without ZeRO-3 these are the parameters themselves. Under ZeRO-3 they are the shards (flat, of ⌈numel / W⌉ or a few
    more elements), which are saved and gathered from. If both whole tensors are resident, as small ones always are,
    they are yielded too, because forward reads them. An element-wise change of all values needs no communication.
    """
    for first, second in pairs:
        if not hasattr(first, "ds_tensor"):
            yield first, second
            continue
        yield first.ds_tensor, second.ds_tensor
        if first.ds_status.name == "AVAILABLE":
            if second.ds_status.name != "AVAILABLE":
                first.partition()  # drop the whole tensor; the next forward gathers it again
            elif first.data_ptr() != first.ds_tensor.data_ptr():  # with one process, the shard is the whole
                yield first.data, second.data


def whole_shape(parameter: Tensor) -> torch.Size:
    """Return the shape of a parameter before any sharding."""
    return getattr(parameter, "ds_shape", parameter.shape)


def whole_model(trainer) -> Any:
    """Return the trainer's model with whole weights for saving or export; every process must call this.

    Under ZeRO-3 it is a copy on the CPU, and None on all processes except the first. Otherwise it is the model itself.
    """
    model = trainer.model
    if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return model
    state_dict = trainer.accelerator.get_state_dict(trainer.deepspeed)
    if not trainer.is_world_process_zero():
        return None
    with torch.random.fork_rng(devices=[]):
        copied = type(model)(copy.deepcopy(model.config))
    copied.load_state_dict(state_dict)
    return copied


def validate_deepspeed_checkpoint(checkpoint: str | Path, args) -> None:
    """Raise an error if a run cannot resume from a checkpoint because of DeepSpeed.

    Args:
        checkpoint: The folder that Trainer wrote.
        args: `MoCoSETrainingArguments` of the run.

    Raises:
        InputError: If the checkpoint needs other settings of DeepSpeed or another number of processes.
    """
    latest = Path(checkpoint) / "latest"  # names the folder that DeepSpeed reads
    if not args.deepspeed:
        if latest.is_file():
            raise InputError(f"{checkpoint}: was written under DeepSpeed; set `deepspeed` as then.")
        return
    if not latest.is_file():
        raise InputError(f"{checkpoint}: was written without DeepSpeed; leave out `deepspeed`.")
    folder = latest.read_text(encoding="utf-8").strip()
    if Path(folder).name != folder or not (Path(checkpoint) / folder).is_dir():
        raise InputError(f"{latest}: names no folder of its checkpoint; resume from a checkpoint that you wrote.")
    files = sorted((Path(checkpoint) / folder).glob("*.pt"))
    was_sharded = any(file.name.startswith("zero_") and file.name.endswith("_model_states.pt") for file in files)
    if was_sharded != args.hf_deepspeed_config.is_zero3():
        stage = "ZeRO-3" if was_sharded else "a stage below 3"
        raise InputError(f"{checkpoint}: was written under {stage}; set `deepspeed` as then.")
    processes = sum(file.name.endswith("_optim_states.pt") for file in files)
    if processes not in (0, args.world_size):
        raise InputError(
            f"{checkpoint}: was written by {processes} processes, but now there are {args.world_size}; "
            f"start {processes}."
        )


def checkpoint_globals(args) -> list:
    """Return the globals that files of a checkpoint may name: `CHECKPOINT_GLOBALS` under DeepSpeed, else none.

    DeepSpeed unpickles its files without restriction (0.19.8), so the trainer first reads them with this restriction.
    """
    if not args.deepspeed:
        return []
    names = [dotted.rpartition(".") for dotted in CHECKPOINT_GLOBALS]
    return [getattr(import_module(module), name) for module, _, name in names]


def validate_deepspeed_arguments(args) -> None:
    """Raise an error for settings of DeepSpeed that cannot work, and adopt those of accelerate's launcher.

    Call this before `TrainingArguments.__post_init__`, which reads the configuration and joins the processes.

    Raises:
        ValueError: If DeepSpeed is missing, or its configuration contradicts the arguments or is not supported.
    """
    if args.deepspeed is None and _launched_with_deepspeed():
        args.deepspeed = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
        if args.deepspeed in (None, "none"):
            raise ValueError(
                "ACCELERATE_USE_DEEPSPEED is set, as by `accelerate launch --use_deepspeed`, without a configuration; "
                "set `deepspeed` to a file, or unset it."
            )
    if not args.deepspeed:
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError(f"`deepspeed` is set, but not installed; run `{install_command('deepspeed')}`.")
    if "LOCAL_RANK" not in os.environ:
        raise ValueError(f"`deepspeed` needs a launcher that gives each process its rank; start with {_LAUNCH}.")
    if not (args.use_cpu or torch.accelerator.is_available()):
        raise ValueError("`deepspeed` is set, but there is no GPU; set `use_cpu` to train on the CPU.")
    is_path = isinstance(args.deepspeed, str) and not args.deepspeed.startswith("{")
    name = args.deepspeed if is_path else "`deepspeed`"
    config = _read_config(args.deepspeed, name)
    stage = _entry(config, "zero_optimization.stage")
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"{name}: `zero_optimization.stage` is 0, 1, 2 or 3, not {stage}; ds_configs/ has examples.")
    for entry, remedy in _UNSUPPORTED.items():
        value = _entry(config, entry)
        if not _is_off(value):
            raise ValueError(f"{name}: `{entry}` is not supported; {remedy}.")
    if stage == 3 and _entry(config, "zero_optimization.stage3_gather_16bit_weights_on_model_save") is not True:
        raise ValueError(
            f"{name}: `zero_optimization.stage3_gather_16bit_weights_on_model_save` must be true, or no checkpoint "
            "has weights to load; add it."
        )
    if args.use_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _skip_unused_build()


def keep_weights_in_float32(args) -> None:
    """Make bf16 mean autocast under DeepSpeed too, with weights, gradients and communication in float32.

    DeepSpeed's own `bf16` would round online weights, target and queue to bfloat16. Call this after
    `TrainingArguments.__post_init__`.

    Raises:
        ValueError: If the configuration contradicts the other arguments.
    """
    if args.deepspeed_plugin is None:
        return
    if args.mixed_precision not in ("no", "bf16"):
        raise ValueError(f"`{args.mixed_precision}` is not supported under DeepSpeed; set `bf16` instead.")
    if args.hf_deepspeed_config.mismatches:
        differences = ", ".join(line.removeprefix("- ") for line in args.hf_deepspeed_config.mismatches)
        raise ValueError(
            f'The DeepSpeed configuration differs from the arguments ({differences}); write "auto" there.'
        )
    config = args.hf_deepspeed_config.config
    config["bf16"] = {"enabled": False}  # accelerate would switch it on if it were missing
    config["torch_autocast"] = {
        "enabled": args.mixed_precision == "bf16",
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }


def _launched_with_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def _read_config(config: str | dict, name: str) -> dict:
    if isinstance(config, str):
        try:
            config = json.loads(config if config.startswith("{") else Path(config).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"{name}: cannot be read as a DeepSpeed configuration; give a JSON file.") from None
        except ValueError as error:
            raise ValueError(f"{name}: not valid JSON ({error}); correct it, or start from ds_configs/.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name}: a DeepSpeed configuration is a JSON object; start from ds_configs/.")
    return config


def _entry(config: dict, dotted: str):
    value = config
    for name in dotted.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _is_off(value) -> bool:
    return value is False or value in (None, "auto", "none") or (type(value) is int and value <= 1)


def _skip_unused_build() -> None:
    """Keep DeepSpeed from compiling its shared-memory operation when it first runs on a CPU.

    The compilation takes minutes and needs a compiler, and only inference uses the result (0.19.8, comm/torch.py).
    """
    import deepspeed.ops

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
