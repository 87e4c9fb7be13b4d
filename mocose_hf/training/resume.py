"""Resume a run only with the settings that make it end as it would have without the interruption."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from mocose_hf.compat import attention_of
from mocose_hf.data.fingerprints import dataset_fingerprint, tokenizer_fingerprint
from mocose_hf.data.streaming import InfiniteStream
from mocose_hf.errors import InputError, one_line
from mocose_hf.models.adapters import as_text
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.prompts import PROMPT_ARGUMENTS
from mocose_hf.parallel.collectives import gather_rows
from mocose_hf.parallel.deepspeed import checkpoint_globals, validate_deepspeed_checkpoint
from mocose_hf.training.checkpoint import (
    PREFIX,
    FoundCheckpoint,
    find_checkpoint,
    read_manifest,
    read_state,
    validate_complete,
    validate_parts,
    validate_pickles,
    validate_weights,
)
from mocose_hf.training.training_args import MoCoSETrainingArguments

DETERMINING_ARGUMENTS = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "augment_view",
    "bf16",
    "crop_share",
    "data_seed",
    "dataloader_drop_last",
    "deletion_rate",
    "ema_decay",
    "ema_decay_end",
    "ema_schedule",
    "ema_schedule_steps",
    *PROMPT_ARGUMENTS,
    "embedding_noise",
    "feature_cutoff",
    "fgsm_epsilon",
    "fp16",
    "gradient_accumulation_steps",
    "head_learning_rate",
    "key_augmentation",
    "key_augmentation_rate",
    "learning_rate",
    "lr_scheduler_kwargs",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_seq_length",
    "neftune_noise_alpha",
    "optim",
    "optim_args",
    "optim_target_modules",
    "padding_free",
    "position_shuffle",
    "queue_prefill",
    "repetition_rate",
    "seed",
    "tf32",
    "token_cutoff",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "train_sampling_strategy",
    "use_liger_kernel",
    "warmup_steps",
    "weight_decay",
)
"""The training arguments that determine where a run ends. All others may change between two parts of it."""

_ENVIRONMENT = ("device", "cpu_threads", "torch_version")
"""Entries that may change between two parts of a run, with a notice."""

_SOURCE_ENTRIES = {
    *("_name_or_path", "architectures", "dtype", "name_or_path", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id"),
}
"""Entries of an encoder's configuration that do not change what it computes.

`Trainer` overwrites the ids by those of the tokenizer when training begins, and a missing `pad_token_id` too.
"""

_LONGEST_VALUE = 60


@dataclass(frozen=True)
class ResumePoint:
    """The starting point of a training.

    Args:
        checkpoint: The validated checkpoint to resume from; None for a fresh start.
        notices: Sentences to print about it.
    """

    checkpoint: str | None
    notices: list[str]


def describe_run(
    args: MoCoSETrainingArguments,
    model: ContrastiveModel,
    train_dataset,
    max_steps: int,
    tokenizer=None,
    data_collator=None,
) -> dict[str, object]:
    """Return, by option name, everything that must stay the same over all parts of a run, and its environment."""
    run = {name: _as_json(getattr(args, name)) for name in DETERMINING_ARGUMENTS}
    run |= {name: _as_json(getattr(model.config, name)) for name in model.config.option_names()}
    run |= {name: value for name, value in _text_settings(model.config).items() if value}
    run |= {name: value for name, value in _adapter_settings(model.config).items() if value}
    run["algorithm"] = model.algorithm
    run["attn_implementation"] = attention_of(model.mocose.encoder)
    run["max_steps"] = max_steps
    run["global_batch_size"] = args.global_batch_size
    run["training_data"] = dataset_fingerprint(train_dataset)
    run["tokenizer"] = tokenizer_fingerprint(tokenizer)
    run["data_collator"] = _collator_name(data_collator)
    if isinstance(train_dataset, InfiniteStream):
        run["shuffle_buffer_size"] = train_dataset.shuffle_buffer_size
    run["device"] = args.device.type
    run["cpu_threads"] = torch.get_num_threads() if args.device.type == "cpu" else None
    run["torch_version"] = str(torch.__version__)
    run["world_size"] = args.world_size
    return run


def _text_settings(config) -> dict[str, object]:
    """Return the settings by which the model changes text before it encodes it."""
    excluded = bool(config.default_prompt) and not config.include_prompt
    return {"do_lower_case": config.do_lower_case, "default_prompt": config.default_prompt, "exclude_prompt": excluded}


def _adapter_settings(config) -> dict[str, object]:
    """Return the adapter that is trained, and the fingerprint of the frozen encoder under it."""
    return {"peft_config": as_text(config.peft_config), "base_sha256": config.base_sha256}


def resolve_resume_checkpoint(
    wanted: str | bool | FoundCheckpoint | None,
    run: dict[str, object],
    args: MoCoSETrainingArguments,
    model: ContrastiveModel,
) -> ResumePoint:
    """Find the checkpoint to resume from, the same one on all processes, and validate all of it.

    Args:
        wanted: As `find_checkpoint` takes it, or its result, whose files are not hashed a second time.
        run: `describe_run` of the part that is about to start.
        args: The training arguments.
        model: The model that is about to be trained.

    Raises:
        InputError: If the run cannot resume from it.
    """
    if isinstance(wanted, FoundCheckpoint):
        found, notices = wanted, []
    else:
        found = find_checkpoint(args.output_dir, wanted)
        notices = [f"Skipped {reason}." for reason in found.skipped]
    step = -1 if found.path is None else read_state(found.path).global_step
    steps = gather_rows(torch.tensor([step], device=args.device)).tolist()
    if len(set(steps)) > 1:
        raise InputError(
            f"{args.output_dir}: the processes find different checkpoints, of the steps {steps}; give them one shared "
            "directory."
        )
    if found.path is not None:
        validate_deepspeed_checkpoint(found.path, args)
        notices += compare_runs(found.path, run)
        for path in (found.path, *_find_best(found.path, args)):
            validate_deepspeed_checkpoint(path, args)
            validate_parts(path)
            validate_weights(model, path)
            validate_encoder_config(model, path)
            validate_pickles(path, allowed=checkpoint_globals(args))
    return ResumePoint(found.path, notices)


def _find_best(checkpoint: str, args: MoCoSETrainingArguments) -> list[str]:
    """Return the folders, other than the checkpoint itself, from which `Trainer` may load the best weights."""
    state = read_state(checkpoint)
    if not args.load_best_model_at_end or state.best_global_step is None:
        return []
    in_output_dir = Path(args.output_dir) / f"{PREFIX}{state.best_global_step}"
    places = {Path(place) for place in (state.best_model_checkpoint, in_output_dir) if place and Path(place).is_dir()}
    others = [str(place) for place in places if place.resolve() != Path(checkpoint).resolve()]
    for place in others:
        validate_complete(place)
    return others


def compare_runs(checkpoint: str | Path, run: dict[str, object]) -> list[str]:
    """Compare the run of a checkpoint with the part that is about to start.

    The number of processes and the device may change. A streamed file may change too: somebody may have repaired a
    row that could not be read.

    Args:
        checkpoint: A complete checkpoint.
        run: `describe_run` of the part that is about to start.

    Returns:
        Sentences about changes after which the end may differ; empty if the run continues bit for bit.

    Raises:
        InputError: If the training text or an option differs; the message has the values of each option.
    """
    before = read_manifest(checkpoint)
    if run["training_data"] is None:
        raise InputError(
            f"{checkpoint}: cannot tell whether the training set is the one of that run; give it an attribute "
            "`fingerprint`, a string that changes with its rows, before a run starts."
        )
    changed_text = before.get("training_data") != run["training_data"]
    if changed_text and "shuffle_buffer_size" not in run:
        raise InputError(
            f"{checkpoint}: was trained on other text than is given now; repeat that run's text, or start a new run "
            f"from its weights with `model_name_or_path` {checkpoint}."
        )
    names = sorted((before.keys() | run.keys()) - {*_ENVIRONMENT, "world_size", "training_data"})
    changed = [
        f"`{name[:_LONGEST_VALUE]}` was {str(before.get(name))[:_LONGEST_VALUE]} and is {run.get(name)} now"
        for name in names
        if before.get(name) != run.get(name)
    ]
    if changed:
        raise InputError(
            f"{checkpoint}: {'; '.join(changed)}; repeat that run's options, or start a new run from its weights with "
            f"`model_name_or_path` {checkpoint}."
        )
    notices = []
    if changed_text:
        notices.append(
            "The stream has changed. Training skips as many rows as before, and ends equal to the bit only if nothing "
            "but later rows has changed."
        )
    for name in _ENVIRONMENT:
        if before.get(name, run[name]) != run[name]:
            notices.append(
                f"{checkpoint}: `{name}` was {before[name]} and is {run[name]} now. Random numbers or rounding may "
                "differ from here on, so the end may no longer be equal bit for bit."
            )
    if before.get("world_size") != run["world_size"]:
        notices.append(
            f"{checkpoint} was made by {before.get('world_size')} processes and is resumed by {run['world_size']}. "
            "Sentences, schedule, queue and optimizer continue unchanged; dropout masks and the last digits of sums "
            "differ from here on, so the end is no longer equal bit for bit."
        )
    return notices


def validate_encoder_config(model: ContrastiveModel, checkpoint: str | Path) -> None:
    """Raise an `InputError` if the encoder was configured differently when the checkpoint was made.

    The weights come from the checkpoint, so an encoder of the same shapes would resume with, say, another number of
    attention heads or another dropout.
    """
    try:
        config = type(model.config).from_pretrained(checkpoint)
    except Exception as error:  # transformers raises many kinds on files that it does not expect
        raise InputError(f"{checkpoint}: config.json cannot be read ({one_line(error)}).") from error
    then, now = config.encoder_config.to_dict(), model.config.encoder_config.to_dict()
    ignored = _SOURCE_ENTRIES | ({"pad_token_id"} if now.get("pad_token_id") is None else set())
    for name in sorted((then.keys() | now.keys()) - ignored):
        if then.get(name) != now.get(name):
            raise InputError(
                f"{checkpoint}: `{name}` of the encoder was {str(then.get(name))[:_LONGEST_VALUE]} and is "
                f"{str(now.get(name))[:_LONGEST_VALUE]} now; start from the encoder of that run."
            )


def restore_callback_states(callbacks: Iterable[TrainerCallback], state: TrainerState) -> None:
    """Restore, in place, the attributes that the checkpoint holds for each `ExportableState` among the callbacks.

    transformers replaces the callbacks instead, and only with `restore_callback_states_from_checkpoint`. It also fails
    at the next save if the checkpoint lacks a callback, so this enters the callback's current state.

    Args:
        callbacks: The callbacks of the resumed run. The arguments that they were constructed with stay.
        state: The state as read from the checkpoint.
    """
    groups: dict[str, list[ExportableState]] = {}
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            groups.setdefault(type(callback).__name__, []).append(callback)
    for name, group in groups.items():
        saved = state.stateful_callbacks.get(name)
        if saved is None:
            fresh = [callback.state() for callback in group]
            state.stateful_callbacks[name] = fresh[0] if len(fresh) == 1 else fresh
            continue
        saved = saved if isinstance(saved, list) else [saved]
        for callback, entry in zip(group, saved[-len(group) :], strict=False):  # each save appends to the list
            attributes = entry.get("attributes", {})
            for attribute in callback.state()["attributes"].keys() & attributes.keys():
                setattr(callback, attribute, attributes[attribute])


def _collator_name(collator) -> str | None:
    """Return the name of a collator's class or function, and of its augmentation."""
    collator = getattr(collator, "collate", collator)  # of a stream
    if collator is None:
        return None
    parts = (collator, getattr(collator, "key_augmentation", None))
    return " with ".join(getattr(part, "__qualname__", type(part).__qualname__) for part in parts if part is not None)


def _as_json(value):
    """Return a value as JSON returns it after a round trip."""
    value = getattr(value, "value", value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
