"""What a run must have in common with the checkpoint it goes on from, to end where it would have ended."""

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from mocose_hf.compat import attention_of
from mocose_hf.data.fingerprints import dataset_fingerprint, tokenizer_fingerprint
from mocose_hf.data.streaming import InfiniteStream
from mocose_hf.errors import InputError, one_line
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.parallel.collectives import gather_rows
from mocose_hf.parallel.deepspeed import checkpoint_globals, validate_deepspeed_checkpoint
from mocose_hf.training.checkpoint import (
    PREFIX,
    check_parts,
    check_pickles,
    check_weights,
    find_checkpoint,
    read_manifest,
    read_state,
    require_complete,
)
from mocose_hf.training.training_args import MoCoSETrainingArguments

_ARGUMENTS = (
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
"""The training arguments that steer where a run ends; all others may change between two parts of it."""

_ENVIRONMENT = ("device", "cpu_threads", "torch_version")
"""What a run may change between two parts with a notice."""

_OF_A_FILE = {"_name_or_path", "architectures", "dtype", "name_or_path", "torch_dtype", "transformers_version"}
"""Entries of an encoder's configuration that say where it was loaded from, not what it computes."""

_LONGEST_VALUE = 60


def describe_run(
    args: MoCoSETrainingArguments,
    model: ContrastiveModel,
    train_dataset,
    max_steps: int,
    tokenizer=None,
    data_collator=None,
) -> dict[str, object]:
    """Return what must stay the same over all parts of a run, by the names of its options, and what it runs on."""
    described = {name: _plain(getattr(args, name)) for name in _ARGUMENTS}
    described |= {name: _plain(getattr(model.config, name)) for name in model.config.option_names()}
    described |= {name: value for name, value in _text_settings(model.config).items() if value}
    described["algorithm"] = model.algorithm
    described["attn_implementation"] = attention_of(model.mocose.encoder)
    described["max_steps"] = max_steps
    described["global_batch_size"] = args.global_batch_size
    described["training_data"] = dataset_fingerprint(train_dataset)
    described["tokenizer"] = tokenizer_fingerprint(tokenizer)
    described["data_collator"] = _collator_name(data_collator)
    if isinstance(train_dataset, InfiniteStream):
        described["shuffle_buffer_size"] = train_dataset.shuffle_buffer_size
    described["device"] = args.device.type
    described["cpu_threads"] = torch.get_num_threads() if args.device.type == "cpu" else None
    described["torch_version"] = str(torch.__version__)
    described["world_size"] = args.world_size
    return described


def _text_settings(config) -> dict[str, object]:
    """Return what the model does to text before it sees it, by name; nothing of it unless it is set."""
    excluded = bool(config.default_prompt) and not config.include_prompt
    return {"do_lower_case": config.do_lower_case, "default_prompt": config.default_prompt, "exclude_prompt": excluded}


def resolve_resume_checkpoint(
    wanted: str | bool | None, run: dict[str, object], args: MoCoSETrainingArguments, model: ContrastiveModel
) -> tuple[str | None, list[str]]:
    """Find the checkpoint to go on from and check all of it; the same one on all processes.

    Args:
        wanted: As `find_checkpoint` takes it.
        run: `describe_run` of the part that is about to start.
        args: The training arguments.
        model: The model that is about to be trained.

    Returns:
        The checkpoint, None for a fresh start; and what is to be said of it, a line each.

    Raises:
        InputError: Where it cannot be gone on from.
    """
    found = find_checkpoint(args.output_dir, wanted)
    said = [f"Passed over {reason}." for reason in found.skipped]
    step = -1 if found.path is None else read_state(found.path).global_step
    steps = gather_rows(torch.tensor([step], device=args.device)).tolist()
    if len(set(steps)) > 1:
        raise InputError(
            f"{args.output_dir}: the processes find different checkpoints, of the steps {steps}; give them one shared "
            "directory."
        )
    if found.path is not None:
        validate_deepspeed_checkpoint(found.path, args)
        change = check_same_run(found.path, run)
        said += [change] if change else []
        for path in (found.path, *_best_so_far(found.path, args)):
            validate_deepspeed_checkpoint(path, args)
            check_parts(path)
            check_weights(model, path)
            check_encoder_config(model, path)
            check_pickles(path, allowed=checkpoint_globals(args))
    return found.path, said


def _best_so_far(checkpoint: str, args: MoCoSETrainingArguments) -> list[str]:
    """Return where `Trainer` may look for the best checkpoint at the end, of what is there and is not the same one."""
    state = read_state(checkpoint)
    if not args.load_best_model_at_end or state.best_global_step is None:
        return []
    here = Path(args.output_dir) / f"{PREFIX}{state.best_global_step}"
    places = {Path(place) for place in (state.best_model_checkpoint, here) if place and Path(place).is_dir()}
    others = [str(place) for place in places if place.resolve() != Path(checkpoint).resolve()]
    for place in others:
        require_complete(place)
    return others


def check_same_run(checkpoint: str | Path, run: dict[str, object]) -> str | None:
    """Refuse to go on with other data or options; return what is no longer exact, None where all is.

    Another number of processes or another device is allowed, and so is a change of a streamed file, in which a row
    that could not be read may have been mended.

    Args:
        checkpoint: A complete one.
        run: `describe_run` of the part that is about to start.

    Raises:
        InputError: Naming each option with its value then and now.
    """
    before = read_manifest(checkpoint)
    if run["training_data"] is None:
        raise InputError(
            f"{checkpoint}: cannot tell whether the training set is the one of that run; give it an attribute "
            "`fingerprint`, a string that changes with its rows, before a run starts."
        )
    other_text = before.get("training_data") != run["training_data"]
    if other_text and "shuffle_buffer_size" not in run:
        raise InputError(
            f"{checkpoint}: was trained on other text than is given now; repeat that run's text, or start a new run "
            f"from its weights with --model_name_or_path {checkpoint}."
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
            f"--model_name_or_path {checkpoint}."
        )
    said = []
    if other_text:
        said.append(
            "The stream is not the one it was: its rows are counted as if it were, and the end is equal to the bit "
            "only where nothing but rows still to come has changed."
        )
    for name in _ENVIRONMENT:
        if before.get(name, run[name]) != run[name]:
            said.append(
                f"{checkpoint}: `{name}` was {before[name]} and is {run[name]} now: random numbers or rounding may "
                "differ from here on, so the end may no longer be equal bit for bit."
            )
    if before.get("world_size") != run["world_size"]:
        said.append(
            f"{checkpoint} was made by {before.get('world_size')} processes and goes on with {run['world_size']}: "
            "sentences, schedule, queue and optimizer go on as they were; the dropout masks and the last digits of "
            "sums differ from here on, so the end is no longer equal bit for bit."
        )
    return " ".join(said) or None


def restore_callback_states(callbacks: Iterable[TrainerCallback], state: TrainerState) -> None:
    """Give each `ExportableState` among the callbacks the attributes that the checkpoint holds for it, in place.

    transformers replaces the callbacks, and only with `restore_callback_states_from_checkpoint`. It also fails at the
    next save if the checkpoint does not know a callback, so its present state is entered here.

    Args:
        callbacks: Those of the resumed run. What they were constructed with stays.
        state: As read from the checkpoint.
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
        for callback, entry in zip(group, saved[-len(group) :], strict=False):  # each save adds to a list
            attributes = entry.get("attributes", {})
            for attribute in callback.state()["attributes"].keys() & attributes.keys():
                setattr(callback, attribute, attributes[attribute])


def check_encoder_config(model: ContrastiveModel, checkpoint: str | Path) -> None:
    """Raise an `InputError` if the encoder was configured differently when the checkpoint was made.

    The weights come from the checkpoint, so an encoder of the same shapes would resume with, say, another number of
    attention heads or another dropout.
    """
    try:
        config = type(model.config).from_pretrained(checkpoint)
    except Exception as error:  # transformers raises many kinds on files that it does not expect
        raise InputError(f"{checkpoint}: config.json cannot be read ({one_line(error)}).") from error
    then, now = config.encoder_config.to_dict(), model.config.encoder_config.to_dict()
    for name in sorted((then.keys() | now.keys()) - _OF_A_FILE):
        if then.get(name) != now.get(name):
            raise InputError(
                f"{checkpoint}: `{name}` of the encoder was {str(then.get(name))[:_LONGEST_VALUE]} and is "
                f"{str(now.get(name))[:_LONGEST_VALUE]} now; start from the encoder of that run."
            )


def _collator_name(collator) -> str | None:
    """Return the name of a collator's class or function, and of its augmentation."""
    collator = getattr(collator, "collate", collator)  # of a stream
    if collator is None:
        return None
    parts = (collator, getattr(collator, "key_augmentation", None))
    return " with ".join(getattr(part, "__qualname__", type(part).__qualname__) for part in parts if part is not None)


def _plain(value):
    """Return a value as JSON gives it back."""
    value = getattr(value, "value", value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
