"""Options of a configuration file that have no effect because a typed option overrides what they belong to."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial

from mocose_hf.cli.arguments import LORA_OPTIONS
from mocose_hf.models.modeling_base import TARGET_ARGUMENTS
from mocose_hf.models.queue_weighting import parse_window
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.training.validation.arguments import VIEW_CHANGES, changes_a_view

_OF_THE_QUEUE = ("queue_window", "queue_window_softness", "queue_half_life", "queue_centroids")
_OF_A_HUB_DATASET = ("dataset_name", "dataset_config_name", "dataset_split", "dataset_revision")


@dataclass(frozen=True)
class _Rule:
    """Options that have no effect under a condition.

    Args:
        names: The options.
        causes: Options that decide about it; one of them must be an override.
        is_idle: Whether the options have no effect, given the values of all options.
        reason: Why, after "because".
    """

    names: tuple[str, ...]
    causes: tuple[str, ...]
    is_idle: Callable[[Namespace], bool]
    reason: str


def _has_edges(window: str) -> bool:
    try:
        return parse_window(window) != parse_window("all")
    except ValueError:
        return True


def _contrasts_queue(values: Namespace) -> bool:
    return values.queue_weight > 0.0 or (values.in_batch_weight > 0.0 and values.in_batch_queue != "none")


def _without_evaluation(values: Namespace) -> bool:
    return str(getattr(values.eval_strategy, "value", values.eval_strategy)) == "no"


def _needs_one_source_of_pairs(values: Namespace) -> bool:
    return not values.eval_tasks and not values.report_test_selection


def _has_algorithm(algorithm: str, values: Namespace) -> bool:
    return values.algorithm == algorithm


def _algorithm_rules() -> list[_Rule]:
    """Make one rule for each algorithm, of the options that it lacks."""
    names = {name for kind in ALGORITHMS.values() for name in kind.model.config_class.option_names()}
    names |= {name for kind in ALGORITHMS.values() for name in kind.arguments_left_out}
    fixed = {"released": {*_OF_THE_QUEUE, "ema_schedule", "ema_decay_end", "ema_schedule_steps"}}
    return [
        _Rule(
            tuple(sorted(name for name in names if kind.lacks(name) or name in fixed.get(algorithm, ()))),
            ("algorithm",),
            partial(_has_algorithm, algorithm),
            f"the algorithm {algorithm} does not use it",
        )
        for algorithm, kind in ALGORITHMS.items()
    ]


_RULES = [
    *_algorithm_rules(),
    _Rule(
        (*LORA_OPTIONS, "merge_adapter"), ("use_peft",), lambda values: not values.use_peft, "no adapter is trained"
    ),
    _Rule(
        ("share_embeddings",),
        ("use_peft",),
        lambda values: values.use_peft,
        "with an adapter both branches share the whole frozen encoder",
    ),
    _Rule(
        ("augment_view",),
        VIEW_CHANGES,
        lambda values: not changes_a_view(values),
        f"none of {', '.join(VIEW_CHANGES)} is on",
    ),
    _Rule(
        ("queue_init_size", *_OF_THE_QUEUE),
        ("queue_size",),
        lambda values: values.queue_size == 0,
        "there is no queue",
    ),
    _Rule(
        ("queue_init_size",),
        ("queue_size",),
        lambda values: values.queue_init_size is not None and values.queue_init_size > values.queue_size,
        "it is larger than the queue, which now starts with a quarter of its size",
    ),
    _Rule(
        ("queue_prefill",),
        ("queue_size",),
        lambda values: values.queue_size == 0,
        "there is no queue",
    ),
    _Rule(
        ("relation_temperature", "relation_target_temperature"),
        ("relation_weight",),
        lambda values: values.relation_weight == 0.0,
        "there is no relation term",
    ),
    _Rule(
        ("reshaping_whitening", "reshaping_smoothing", "reshaping_temperature"),
        ("reshaping_weight",),
        lambda values: values.reshaping_weight == 0.0,
        "there is no reshaping term",
    ),
    _Rule(
        ("reshaping_temperature",),
        ("reshaping_smoothing",),
        lambda values: values.reshaping_smoothing == 0.0,
        "the reshaping term does not smooth",
    ),
    _Rule(
        ("queue_positive_weight", "queue_positive_similarity"),
        ("queue_positives",),
        lambda values: values.queue_positives == 0,
        "the queue gives no positives",
    ),
    _Rule(
        ("temperature",),
        ("queue_weight", "in_batch_weight"),
        lambda values: values.queue_weight == values.in_batch_weight == 0.0,
        "the loss has no contrastive term",
    ),
    _Rule(
        ("in_batch_negatives",),
        ("queue_weight",),
        lambda values: values.queue_weight == 0.0,
        "there is no momentum term",
    ),
    _Rule(
        ("queue_positives", "queue_positive_weight", "queue_positive_similarity"),
        ("queue_weight", "in_batch_weight", "in_batch_queue", "queue_size"),
        lambda values: values.queue_size == 0 or not _contrasts_queue(values),
        "no term of the loss contrasts with the queue",
    ),
    _Rule(
        TARGET_ARGUMENTS,
        ("queue_weight", "relation_weight", "reshaping_weight", "in_batch_queue"),
        lambda v: v.queue_weight == v.relation_weight == v.reshaping_weight == 0.0 and v.in_batch_queue != "target",
        "there is no target",
    ),
    _Rule(
        ("in_batch_queue",),
        ("in_batch_weight", "queue_size"),
        lambda values: values.in_batch_weight == 0.0 or values.queue_size == 0,
        "there is no in-batch term, or no queue",
    ),
    _Rule(
        ("negative_column",),
        ("in_batch_weight",),
        lambda values: values.in_batch_weight == 0.0,
        "there is no in-batch term",
    ),
    _Rule(
        ("queue_window_softness",),
        ("queue_window",),
        lambda values: not _has_edges(values.queue_window),
        "the whole queue counts",
    ),
    _Rule(
        ("projection_dim",),
        ("num_projection_layers",),
        lambda values: values.num_projection_layers == 0,
        "there is no projection head",
    ),
    _Rule(
        ("ema_decay_end", "ema_schedule_steps"),
        ("ema_schedule",),
        lambda values: values.ema_schedule == "constant_distance",
        "`ema_schedule` constant_distance does not use it",
    ),
    _Rule(
        ("stop_on_collapse",),
        ("collapse_check_steps",),
        lambda values: values.collapse_check_steps == 0,
        "`collapse_check_steps` is 0",
    ),
    _Rule(
        ("load_best_model_at_end", "report_test_selection"),
        ("eval_strategy",),
        _without_evaluation,
        "there is no evaluation during training",
    ),
    _Rule(("fp16",), ("bf16",), lambda values: values.bf16, "`bf16` is given instead"),
    _Rule(("bf16",), ("fp16",), lambda values: values.fp16, "`fp16` is given instead"),
    _Rule(("fp16_full_eval",), ("bf16_full_eval",), lambda v: v.bf16_full_eval, "`bf16_full_eval` is given instead"),
    _Rule(("bf16_full_eval",), ("fp16_full_eval",), lambda v: v.fp16_full_eval, "`fp16_full_eval` is given instead"),
    _Rule(("fp16", "tf32"), ("use_cpu",), lambda values: values.use_cpu, "it needs a GPU and `use_cpu` is true"),
    _Rule(_OF_A_HUB_DATASET, ("train_file",), lambda values: bool(values.train_file), "`train_file` is given instead"),
    _Rule(
        ("encoding",),
        ("dataset_name",),
        lambda v: bool(v.dataset_name) and not (v.validation_file or v.retrieval_file or v.label_file),
        "it is for `train_file` and development files",
    ),
    _Rule(("train_file",), ("dataset_name",), lambda v: bool(v.dataset_name), "`dataset_name` is given instead"),
    _Rule(
        ("validation_file",),
        ("senteval_dir",),
        lambda values: bool(values.senteval_dir) and _needs_one_source_of_pairs(values),
        "`senteval_dir` is given instead",
    ),
    _Rule(
        ("senteval_dir",),
        ("validation_file",),
        lambda values: bool(values.validation_file) and _needs_one_source_of_pairs(values),
        "`validation_file` is given instead",
    ),
]

_ARGUMENTS_OF = {"lr_scheduler_kwargs": "lr_scheduler_type", "optim_args": "optim"}
"""Options that hold the arguments of a choice, and the option that makes the choice."""


def find_idle(values: Namespace, in_file: Mapping[str, str], overrides: Set[str]) -> dict[str, str]:
    """Return the options of a configuration file that an override makes idle, each with the reason.

    Args:
        values: The value of each option, overrides included.
        in_file: Name and value, as written, of each option of the file, overridden ones included.
        overrides: Names of the options that were typed.
    """
    candidates = in_file.keys() - overrides
    found: dict[str, str] = {}
    for rule in _RULES:
        if overrides & {*rule.causes} and rule.is_idle(values):
            found |= {name: rule.reason for name in rule.names if name in candidates and name not in found}
    for name, choice in _ARGUMENTS_OF.items():
        chosen = getattr(getattr(values, choice), "value", getattr(values, choice))
        if name in candidates and choice in overrides and str(chosen) != in_file.get(choice):
            found[name] = f"`{choice}` is {chosen}"
    return found
