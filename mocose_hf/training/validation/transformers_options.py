"""Which options of transformers' `TrainingArguments` and `Trainer` are supported; all others raise an error.

`tools/write_options.py` writes them to docs/command-line.md. A test compares them with the installed transformers.
"""

from copy import copy
from dataclasses import MISSING, fields

import torch
from transformers import Trainer

from mocose_hf.errors import one_line

_AS_DOCUMENTED = """
activation_checkpointing_kwargs bf16 bf16_full_eval dataloader_multiprocessing_context dataloader_num_workers
dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_bucket_cap_mb
ddp_static_graph ddp_timeout debug deepspeed disable_tqdm eval_strategy fp16 fp16_full_eval full_determinism
gradient_accumulation_steps hub_model_id hub_private_repo hub_token learning_rate load_best_model_at_end log_level
log_level_replica log_on_each_node logging_first_step logging_steps logging_strategy lr_scheduler_kwargs
max_grad_norm max_steps output_dir per_device_eval_batch_size per_device_train_batch_size project run_name
save_on_each_node save_strategy seed tf32 torch_compile torch_compile_backend torch_compile_mode
torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id use_cpu warmup_steps weight_decay
""".split()  # noqa: SIM905

SUPPORTED = dict.fromkeys(_AS_DOCUMENTED, "") | {
    "accelerator_config": "entries that would change the batches fail",
    "activation_checkpointing": "if the encoder supports it",
    "adam_beta1": "with optimizers of the Adam kind",
    "adam_beta2": "with optimizers of the Adam kind",
    "adam_epsilon": "with optimizers of the Adam kind",
    "data_seed": "order of the sentences",
    "dataloader_drop_last": "default true",
    "dataloader_in_order": "false fails with several workers",
    "ddp_broadcast_buffers": "default false; all processes fill their queues alike",
    "ddp_find_unused_parameters": "default false",
    "do_eval": "command line: score the finished model on `eval_tasks`",
    "do_train": "command line: must agree with whether there is text to train on",
    "eval_delay": "the evaluation of the start is not delayed",
    "eval_on_start": "default: true with `load_best_model_at_end`; the start is then a candidate for the best",
    "eval_steps": "with `eval_strategy` steps",
    "gradient_checkpointing": "the old name of `activation_checkpointing`",
    "gradient_checkpointing_kwargs": "the old name of `activation_checkpointing_kwargs`",
    "greater_is_better": "default: by the name of the metric",
    "hub_revision": "branch to push to",
    "include_num_input_tokens_seen": "tokens of the query view",
    "local_rank": "set by launchers",
    "lr_scheduler_type": "reduce_lr_on_plateau and greedy follow `metric_for_best_model` and need evaluations",
    "metric_for_best_model": "any score of an evaluation, with or without `eval_`; default: dev_spearman",
    "neftune_noise_alpha": "not with `padding_free`",
    "num_train_epochs": "no meaning for streams",
    "optim": "schedule-free optimizers are scored, saved and exported at their averaged weights",
    "optim_args": "fails if the optimizer takes none or ignores an entry",
    "optim_target_modules": "GaLore and APOLLO only",
    "push_to_hub": "the finished model, once",
    "report_to": "default none; the extras `tensorboard` and `trackio` bring these two",
    "restore_callback_states_from_checkpoint": "always done, in place",
    "resume_from_checkpoint": "command line; from Python it is an argument of `train`",
    "save_steps": "default: `eval_steps` with development pairs, else 500",
    "save_total_limit": "the best checkpoint always stays",
    "skip_memory_metrics": "false adds memory figures to the training metrics",
    "train_sampling_strategy": "random and sequential; group_by_length and batch_rebalance fail",
}
"""Fields that work as transformers documents them, with a remark if there is something to know."""

_NO_PREDICTIONS = "evaluation scores sentence embeddings and gathers no predictions of a model"
_NO_LABELS = "the contrastive loss has no labels"

UNSUPPORTED = {
    "auto_find_batch_size": "a run started over midway keeps its queue; lower `per_device_train_batch_size`",
    "average_tokens_across_devices": "the loss is a mean over sentences, not over tokens",
    "batch_eval_metrics": _NO_PREDICTIONS,
    "do_predict": "call `predict`, or score tasks with `eval_tasks`",
    "enable_jit_checkpoint": "SIGTERM already ends a run when its step is done and saved",
    "eval_accumulation_steps": _NO_PREDICTIONS,
    "eval_do_concat_batches": _NO_PREDICTIONS,
    "eval_use_gather_object": _NO_PREDICTIONS,
    "fsdp": "FSDP is not supported; set `deepspeed` to ds_configs/zero3.json, which shards as FSDP does",
    "fsdp_config": "FSDP is not supported; set `deepspeed` to ds_configs/zero3.json, which shards as FSDP does",
    "hub_always_push": "the finished model is pushed once",
    "hub_strategy": "checkpoints hold pickles, which are not to be shared",
    "ignore_data_skip": "a resumed run must see each sentence once",
    "include_for_metrics": _NO_PREDICTIONS,
    "label_names": _NO_LABELS,
    "label_smoothing_factor": _NO_LABELS,
    "length_column_name": "sentences are not grouped by length; set `padding_free`, which leaves out padding",
    "liger_kernel_config": "there are no Liger kernels for these encoders",
    "logging_nan_inf_filter": "a loss that is not finite ends the run",
    "parallelism_config": "each process holds the whole model; set `deepspeed` to shard it",
    "prediction_loss_only": _NO_PREDICTIONS,
    "remove_unused_columns": "the collator needs the text columns",
    "save_only_model": "a run cannot resume from weights alone",
    "use_cache": "an encoder generates no text",
    "use_liger_kernel": "there are no Liger kernels for these encoders",
}
"""Fields that would have no effect or do harm, with the reason. Any value but the default raises an error."""

TRAINER_SUPPORTED = {
    "model": "a `MoCoSEForPreTraining`; or give `model_init`",
    "args": "`MoCoSETrainingArguments`",
    "data_collator": "default: tokenises, and pads or packs",
    "train_dataset": "rows with `text`, or a list of sentences",
    "eval_dataset": "scored pairs, or a dict of several",
    "processing_class": "the tokenizer",
    "model_init": "a new model for each training and each trial of `hyperparameter_search`",
    "callbacks": "the state of an `ExportableState` is part of a checkpoint",
    "optimizers": "not with `head_learning_rate` or `model_init`",
    "optimizer_cls_and_kwargs": "",
}
"""Arguments of the trainer that work as transformers documents them, with a remark."""

TRAINER_UNSUPPORTED = {
    "compute_loss_func": "the loss is that of the model; override `contrast` of the model",
    "compute_metrics": f"{_NO_PREDICTIONS}; override `evaluate`, which returns the scores by name",
    "preprocess_logits_for_metrics": _NO_PREDICTIONS,
}
"""Arguments of the trainer that would have no effect, with the reason. Any value but None raises an error."""

_GROUPED = ("group_by_length", "batch_rebalance")
_TAKE_NO_OPTIM_ARGS = ("adafactor", "adamw_torch", "adamw_torch_fused", "adamw_torch_npu_fused", "adamw_torch_xla")
_TAKE_TARGET_MODULES = ("galore", "apollo")
_TAKE_THE_MODEL = (*_TAKE_TARGET_MODULES, "lomo", "adalomo")


def validate_options(args) -> None:
    """Validate the options that would have no effect.

    Args:
        args: Training arguments before transformers has processed them.

    Raises:
        ValueError: If one is set; the message has the reason and, if there is one, the remedy.
    """
    for field in fields(args):
        if field.name in UNSUPPORTED and field.name != "parallelism_config":  # `validate_loading` checks it
            default = field.default if field.default_factory is MISSING else field.default_factory()
            value = getattr(args, field.name)
            if value != default and (value or default):
                shown = str(default).lower() if isinstance(default, bool) else f"`{default}`"
                raise ValueError(f"`{field.name}` must stay {shown}: {UNSUPPORTED[field.name]}.")
    strategy = getattr(args.train_sampling_strategy, "value", args.train_sampling_strategy)
    if strategy in _GROUPED:
        raise ValueError(
            f"`train_sampling_strategy` {strategy} is not supported: it needs the tokens of all sentences before "
            "training; leave it out, and set `padding_free` to leave out padding."
        )
    if args.dataloader_persistent_workers and args.dataloader_num_workers == 0:
        raise ValueError(
            "`dataloader_persistent_workers` needs workers; set `dataloader_num_workers`, or leave it out."
        )
    if args.save_strategy == "best" and args.eval_strategy == "no":
        raise ValueError("`save_strategy` best needs evaluations; set `eval_strategy`, or another `save_strategy`.")
    optimizer = getattr(args.optim, "value", args.optim)
    if args.optim_args and optimizer in _TAKE_NO_OPTIM_ARGS:
        raise ValueError(
            f"`optim_args` has no effect with `optim` {optimizer}; leave it out, or name another `optim`."
        )
    if args.optim_target_modules and not str(optimizer).startswith(_TAKE_TARGET_MODULES):
        raise ValueError(
            f"`optim_target_modules` has no effect with `optim` {optimizer}; leave it out, or name one of GaLore or "
            "APOLLO."
        )


def validate_optimizer_name(args) -> None:
    """Build the optimizer that `optim` names for a dummy parameter, so that a missing library shows at once.

    Raises:
        ValueError: If it cannot be built, or an entry of `optim_args` has no effect.
    """
    name = getattr(args.optim, "value", args.optim)
    entries = args.optim_args.split(",") if args.optim_args else []
    if any(entry.partition("=")[0].strip() == "weight_decay" for entry in entries):
        raise ValueError("`optim_args` holds weight_decay, which has no effect there; set `weight_decay` instead.")
    needs_model = str(name).startswith(_TAKE_THE_MODEL)
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        if not needs_model:
            kind([torch.nn.Parameter(torch.zeros(1))], **options)
    except Exception as error:  # each library raises other kinds
        if needs_model and not isinstance(error, ImportError):
            return  # its library is there, but it needs a model
        named = f"`optim` {name}" + (f" with `optim_args` {args.optim_args!s:.60}" if entries else "")
        raise ValueError(
            f"{named} cannot be built ({one_line(error)}); install what it needs, or choose another."
        ) from error
    for index, entry in enumerate(entries):
        if _is_ignored(args, entries, index, options):
            raise ValueError(
                f"`optim_args` holds {entry.strip()[:60]}, which has no effect with `optim` {name}; leave it out."
            )


def _is_ignored(args, entries: list[str], index: int, options: dict[str, object]) -> bool:
    """Return whether another value of one entry of `optim_args` gives the optimizer the same options."""
    key, _, value = entries[index].partition("=")
    try:
        other = str(int(value) + 1 if value.strip().lstrip("-").isdigit() else float(value) + 1)
    except ValueError:
        other = "false" if value.strip().lower() in ("true", "1", "yes") else "true"
    changed = copy(args)
    changed.optim_args = ",".join([*entries[:index], f"{key}={other}", *entries[index + 1 :]])
    try:
        return Trainer.get_optimizer_cls_and_kwargs(changed)[1] == options
    except Exception:  # the entry was read
        return False


def validate_trainer_options(options: dict[str, object]) -> None:
    """Validate the arguments that the trainer passes on to `transformers.Trainer`.

    Args:
        options: The arguments by name.

    Raises:
        TypeError, ValueError: If one is unknown or would have no effect.
    """
    for name, value in options.items():
        if name in TRAINER_UNSUPPORTED and value is not None:
            raise ValueError(f"`{name}` is not supported: {TRAINER_UNSUPPORTED[name]}.")
        if name not in TRAINER_SUPPORTED and name not in TRAINER_UNSUPPORTED:
            raise TypeError(f"MoCoSETrainer has no argument `{name[:40]}`; see help(MoCoSETrainer).")
