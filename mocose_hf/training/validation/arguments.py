"""Validate the values of training arguments, before anything is built from them."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from numbers import Real

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from mocose_hf.data.text_augmentation import KEY_AUGMENTATIONS
from mocose_hf.errors import one_line
from mocose_hf.models.view_augmentation import VIEWS


@dataclass(frozen=True)
class _Range:
    """The values that some options may have; None is always allowed here.

    Args:
        description: The range in words, after the name of the option.
        contains: Whether a value is in the range.
        names: The options, separated by spaces.
    """

    description: str
    contains: Callable[[float], bool]
    names: str


_RANGES = (
    _Range("lies in [0, 1]", lambda value: 0 <= value <= 1, "ema_decay ema_decay_end repetition_rate"),
    _Range(
        "lies in [0, 1)",
        lambda value: 0 <= value < 1,
        "adam_beta1 adam_beta2 deletion_rate feature_cutoff token_cutoff",
    ),
    _Range("lies in (0, 1]", lambda value: 0 < value <= 1, "crop_share key_augmentation_rate"),
    _Range("lies in [0, 2**32)", lambda value: 0 <= value < 2**32, "seed data_seed"),
    _Range(
        "is at least 1",
        lambda value: 1 <= value < math.inf,
        "ema_schedule_steps per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps",
    ),
    _Range("is at least 3, a token between two marks", lambda value: 3 <= value < math.inf, "max_seq_length"),
    _Range("is at least 1, or -1 for no limit", lambda value: value == -1 or 1 <= value < math.inf, "max_steps"),
    _Range(
        "is at least 0",
        lambda value: 0 <= value < math.inf,
        "collapse_check_steps dataloader_num_workers queue_monitor_steps",
    ),
    _Range(
        "is a number, 0 or above",
        lambda value: 0 <= value < math.inf,
        "embedding_noise fgsm_epsilon head_learning_rate learning_rate max_grad_norm neftune_noise_alpha warmup_steps "
        "weight_decay",
    ),
    _Range(
        "is a number above 0",
        lambda value: 0 < value < math.inf,
        "adam_epsilon eval_steps logging_steps num_train_epochs save_steps",
    ),
)

_JSON_OPTIONS = (
    "accelerator_config",
    "activation_checkpointing_kwargs",
    "fsdp_config",
    "gradient_checkpointing_kwargs",
    "lr_scheduler_kwargs",
)

_FILE_OPTIONS = ("accelerator_config", "fsdp_config")
"""The JSON options that may name a file instead."""


def validate_values(args) -> None:
    """Validate numbers, JSON and key=value options, before transformers reads them.

    Raises:
        ValueError: If a value cannot be used; the message names the option in backticks.
    """
    for allowed in _RANGES:
        for name in allowed.names.split():
            value = getattr(args, name)
            is_valid = isinstance(value, Real) and allowed.contains(value)  # type: ignore[arg-type]
            if value is not None and not is_valid:
                raise ValueError(f"`{name}` {allowed.description}, but is {value!s:.60}.")
    for name in _JSON_OPTIONS:
        _validate_json(name, getattr(args, name))
    _validate_accelerator_config(args.accelerator_config)
    for pair in args.optim_args.split(",") if args.optim_args else []:
        if pair.count("=") != 1:
            raise ValueError(f"`optim_args` holds {pair[:60]!r}; write key=value,key=value.")


def validate_precision(args) -> None:
    """Validate the precision, before transformers reads it.

    Raises:
        ValueError: If the device does not support it; the message names the options to change.
    """
    on_cpu = args.use_cpu or not torch.accelerator.is_available()
    if args.fp16 and on_cpu:
        raise ValueError(
            "`fp16` needs a GPU, but this command computes on the CPU; leave it out, or set `bf16` and `use_cpu`."
        )
    for name in ("bf16", "bf16_full_eval"):
        if getattr(args, name) and not (args.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available()):
            if on_cpu:
                raise ValueError(
                    f"`{name}` finds no GPU; set `use_cpu` to compute in bfloat16 on the CPU, or leave it out."
                )
            raise ValueError(f"`{name}` is not supported by this GPU; leave it out.")


VIEW_CHANGES = (
    "crop_share",
    "deletion_rate",
    "repetition_rate",
    "position_shuffle",
    "token_cutoff",
    "feature_cutoff",
    "embedding_noise",
)
"""Options that change a view; `augment_view` names the view."""


def changes_a_view(args) -> bool:
    """Return whether any of `VIEW_CHANGES` has an effect."""
    return args.crop_share < 1.0 or any(getattr(args, name) for name in VIEW_CHANGES if name != "crop_share")


def validate_augmentations(args) -> None:
    """Validate the options of augmentations.

    Raises:
        ValueError: If a name is unknown, or a setting belongs to an augmentation that has no effect.
    """
    if args.prompt is not None and (args.query_prompt is not None or args.key_prompt is not None):
        raise ValueError(
            "`prompt` is put before every sentence, and `query_prompt` and `key_prompt` before those of one view; "
            "leave out `prompt`, or both of these."
        )
    if args.augment_view not in VIEWS:
        raise ValueError(f"`augment_view` is one of {', '.join(VIEWS)}, but is {args.augment_view!s:.40}.")
    if args.augment_view != "query" and not changes_a_view(args):
        raise ValueError(
            f"`augment_view` is {args.augment_view}, but none of {', '.join(VIEW_CHANGES)} is on; give one, or leave "
            "it out."
        )
    if args.key_augmentation is not None and args.key_augmentation not in KEY_AUGMENTATIONS:
        raise ValueError(
            f"`key_augmentation` is one of {', '.join(KEY_AUGMENTATIONS)}, but is {args.key_augmentation!s:.40}."
        )
    if args.fgsm_epsilon and args.fp16:
        raise ValueError("`fgsm_epsilon` needs gradients that `fp16` would round to 0; set `bf16` instead.")


SCHEDULES_BY_SCORE = ("reduce_lr_on_plateau", "greedy")
"""Learning rate schedules that follow `metric_for_best_model`."""


def follow_score(args) -> None:
    """Set `mode` of a schedule that follows a score: max if more of the score is better, else min.

    Raises:
        ValueError: If `lr_scheduler_kwargs` sets the opposite.
    """
    if args.lr_scheduler_type not in SCHEDULES_BY_SCORE:
        return
    mode = "max" if args.greater_is_better else "min"
    given = args.lr_scheduler_kwargs or {}
    if given.get("mode", mode) != mode:
        raise ValueError(
            f"`lr_scheduler_kwargs` sets mode to {given['mode']!s:.20}, but of `metric_for_best_model` "
            f"{args.metric_for_best_model} {'more' if mode == 'max' else 'less'} is better; leave mode out."
        )
    args.lr_scheduler_kwargs = given | {"mode": mode}


def validate_scheduler(args) -> None:
    """Validate the learning rate schedule by a few steps of a small one.

    Raises:
        ValueError: If it cannot be built or stepped with its arguments.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        scheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=1,
            num_training_steps=4,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )
        if isinstance(scheduler, LambdaLR):
            for _ in range(4):
                optimizer.step()
                scheduler.step()
    except Exception as error:  # each schedule raises other kinds on arguments that it cannot use
        raise ValueError(
            f"`lr_scheduler_type` {args.lr_scheduler_type.value} does not work with these `lr_scheduler_kwargs` "
            f"({one_line(error)}); give the arguments that this schedule takes."
        ) from error


def validate_loading(args) -> None:
    """Validate that batches are the same with any number of processes, and after a resume.

    Raises:
        ValueError: If an option changes them.
    """
    if args.parallelism_config is not None:
        raise ValueError(
            "`parallelism_config` is not supported: each process trains on rows of its own; leave it out."
        )
    loading = args.accelerator_config
    if not loading.use_seedable_sampler:
        raise ValueError(
            "`accelerator_config` sets use_seedable_sampler to false, but then a resumed run sees other batches; "
            "leave it out."
        )
    if args.dataloader_num_workers > 1 and not args.dataloader_in_order:
        raise ValueError(
            "`dataloader_in_order` is false, but then batches come in an order of chance; leave it out, or set "
            "`dataloader_num_workers` to 1 or less."
        )
    if not (loading.dispatch_batches or loading.split_batches) or args.world_size == 1:
        return
    if loading.dispatch_batches:
        raise ValueError(
            "`accelerator_config` sets dispatch_batches, which joins batches that are padded to different lengths; "
            "leave it out, and each process makes its own batches."
        )
    if args.train_batch_size % args.world_size:
        raise ValueError(
            f"`accelerator_config` sets split_batches, but {args.world_size} processes cannot share a "
            f"`per_device_train_batch_size` of {args.train_batch_size} equally; give a multiple of {args.world_size}."
        )


def _validate_json(name: str, value) -> None:
    """Raise a `ValueError` if a value is no JSON object and cannot name a file."""
    if value is None or isinstance(value, dict) or (name in _FILE_OPTIONS and not _looks_like_json(value)):
        return
    wanted = f"write a JSON object, such as '{{\"key\": 1}}'{', or a file' if name in _FILE_OPTIONS else ''}"
    try:
        parsed = json.loads(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"`{name}` is not valid JSON ({one_line(error)}); {wanted}.") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"`{name}` is JSON, but no object; {wanted}.")


def _looks_like_json(value) -> bool:
    return isinstance(value, str) and value.lstrip()[:1] in ("{", "[")


def _validate_accelerator_config(value) -> None:
    """Raise a `ValueError` if a file cannot be read, or accelerate does not know an entry."""
    if value is None or isinstance(value, AcceleratorConfig):
        return
    try:
        if isinstance(value, str):
            value = json.loads(value) if _looks_like_json(value) else AcceleratorConfig.from_json_file(value)
        config = value if isinstance(value, AcceleratorConfig) else AcceleratorConfig(**value)
    except (OSError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"`accelerator_config` cannot be used ({one_line(error)}); write a JSON object of the fields of "
            "transformers' AcceleratorConfig, or the path of a file that holds one."
        ) from error
    for name, entry in asdict(config).items():
        takes_dict = name == "gradient_accumulation_kwargs"
        if not (isinstance(entry, dict | type(None)) if takes_dict else _is_boolean(entry)):
            raise ValueError(f"`accelerator_config` sets {name} to {str(entry)[:60]!r}; correct that entry.")


def _is_boolean(value) -> bool:
    """Return whether a value is true, false or None, or the word for one; transformers converts words."""
    return str(value).lower() in ("true", "false", "none")
