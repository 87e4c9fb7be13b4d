"""Validate what a trainer receives: model, tokenizer, datasets, collator and optimizer, before training starts."""

import math
from numbers import Real

import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers.utils import logging

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.token_views import TokenViews
from mocose_hf.errors import InputError
from mocose_hf.evaluation.pairs import PAIR_METRICS, positive_score
from mocose_hf.models.encoder_checks import has_idle_parameters, validate_autocast, validate_encoder
from mocose_hf.models.encoding import encoder_max_length
from mocose_hf.models.loading import validate_tokenizer
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.prompts import PROMPT_ARGUMENTS
from mocose_hf.models.view_augmentation import Augmentation
from mocose_hf.models.views import takes_embeddings
from mocose_hf.parallel.collectives import any_process
from mocose_hf.training.training_args import MoCoSETrainingArguments
from mocose_hf.training.validation.transformers_options import validate_optimizer_name

logger = logging.get_logger(__name__)

_BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")


def validate_arguments(model, args, processing_class, data_collator) -> None:
    """Validate the main arguments of the trainer together.

    Raises:
        TypeError, ValueError: If they do not work together.
    """
    if not isinstance(model, ContrastiveModel):
        raise TypeError(
            f"MoCoSETrainer trains a MoCoSEForPreTraining or another ContrastiveModel, not a {type(model).__name__}; "
            "start with MoCoSEForPreTraining.from_encoder_pretrained(...)."
        )
    if not isinstance(args, MoCoSETrainingArguments):
        raise TypeError(f"MoCoSETrainer takes MoCoSETrainingArguments, not {type(args).__name__}.")
    if processing_class is None and data_collator is None:
        raise ValueError("MoCoSETrainer needs the tokenizer; give it as `processing_class`.")
    if processing_class is not None:
        validate_length(args, processing_class, model.config.encoder_config)
        validate_tokenizer(processing_class, model.mocose.encoder)
        validate_prompt(args, processing_class, model.config)
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs; start one for each with `accelerate launch`, or show it a single "
            "one by CUDA_VISIBLE_DEVICES."
        )
    if args.neftune_noise_alpha is not None and args.padding_free:
        raise ValueError(
            "`neftune_noise_alpha` scales its noise by the length of the batch, which `padding_free` changes; leave "
            "one of them out."
        )
    encoder = model.mocose.encoder
    if args.activation_checkpointing and not encoder.supports_gradient_checkpointing:
        raise ValueError(
            f"`activation_checkpointing` is not supported by {encoder.config.model_type} encoders; leave it out, or "
            "lower `per_device_train_batch_size` for memory."
        )
    if args.bf16 and args.device.type == "cpu" and not computes_bfloat16():
        logger.warning(
            "`bf16` will slow training down: this CPU has no instructions for bfloat16, and emulates them; leave it "
            "out."
        )
    model.validate_settings(model.config, args)
    validate_model(model)
    validate_encoder(encoder, model.config.pooling_mode)
    for option, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if getattr(args, option):
            validate_autocast(encoder, option, dtype)
    if args.world_size > 1 and has_idle_parameters(encoder):
        args.ddp_find_unused_parameters = True  # DDP otherwise waits for a gradient of every parameter


def computes_bfloat16() -> bool:
    """Return whether the CPU multiplies in bfloat16; true if this version of torch cannot tell (before 2.12)."""
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)
    return get_capabilities is None or any(get_capabilities().get(name) for name in _BFLOAT16_INSTRUCTIONS)


def validate_model(model) -> None:
    """Raise a `ValueError` if the target is trainable, or if a dtype would round the moving average away."""
    if model.mocose.adapter is not None and model.config.base_sha256 is None:
        raise ValueError(
            "The adapter has no known base, which checkpoints leave out; start with "
            "`from_encoder_pretrained(..., peft_config=...)`."
        )
    trainable = sum(parameter.requires_grad for parameter in model.frozen_parameters())
    if trainable:
        raise ValueError(
            f"{trainable} parameters of the target, or below an adapter, are trainable; call `model.freeze_target()` "
            "first."
        )
    for queue in model.queues():
        if queue.rows.dtype != queue.dtype:
            raise ValueError(
                f"The queue was cast to {queue.rows.dtype}, but `queue_dtype` makes it {queue.dtype}; load the model "
                "again, and leave its dtype alone."
            )
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ValueError(
            "All weights must be in float32 for training; load the model again without a `dtype`, and set `bf16` for "
            "speed."
        )


def validate_finite_weights(model, args, step: int) -> None:
    """Raise a `FloatingPointError`, on all processes, if a weight or queued key is not finite."""
    weights = (getattr(parameter, "ds_tensor", parameter) for parameter in model.parameters())
    # The sum of unit rows is finite if they are. Testing each row would need memory for as many again.
    sums = (queue.rows.sum() for queue in model.queues())
    is_bad = not all(value.isfinite().all() for value in (*weights, *sums))
    if any_process(is_bad, args.device):
        raise FloatingPointError(
            f"A weight or a queued key is not finite after step {step}; lower `learning_rate` "
            "or `weight_decay`. Earlier checkpoints are good."
        )


def validate_length(args, tokenizer, encoder_config) -> None:
    """Raise a `ValueError` if `max_seq_length` exceeds what tokenizer and encoder allow."""
    longest = encoder_max_length(tokenizer, encoder_config)
    if longest is not None and args.max_seq_length > longest:
        raise ValueError(f"`max_seq_length` is {args.max_seq_length}, but the encoder takes {longest}; lower it.")


def validate_prompt(args, tokenizer, config) -> None:
    """Raise a `ValueError` if a prompt of the training leaves no room for sentences; warn if it may be truncated."""
    default = f"the model's default prompt {config.default_prompt_name!r:.60}"
    prompts = {default: config.default_prompt} | {f"`{name}`": getattr(args, name) for name in PROMPT_ARGUMENTS}
    length = 0
    for name, prompt in prompts.items():
        tokens = len(tokenizer(prompt)["input_ids"]) if prompt else 0
        if tokens >= args.max_seq_length:
            raise ValueError(
                f"`max_seq_length` is {args.max_seq_length}, but {name} alone takes {tokens} tokens; raise it."
            )
        length = max(length, tokens)
    if length and getattr(tokenizer, "truncation_side", "right") == "left":
        logger.warning(
            "The tokenizer truncates long sentences on the left, and so cuts off the model's default prompt; set its "
            "`truncation_side` to right."
        )


def validate_optimizer(args, optimizers=(None, None), optimizer_cls_and_kwargs=None, **options) -> None:
    """Raise a `ValueError` if the optimizer cannot be built, or if an argument for it would have no effect."""
    if optimizers[0] is None and optimizer_cls_and_kwargs is None and not args.deepspeed:
        validate_optimizer_name(args)
    if args.head_learning_rate is not None and optimizers[0] is not None:
        raise ValueError(
            "`head_learning_rate` is for the optimizer that the trainer builds; leave it out, or give your own "
            "optimizer groups of parameters."
        )


def validate_model_init(args, optimizers=(None, None), **options) -> None:
    """Raise a `TypeError` or `ValueError` if a trainer cannot build its models with these arguments."""
    if not isinstance(args, MoCoSETrainingArguments):
        raise TypeError(f"MoCoSETrainer takes MoCoSETrainingArguments, not {type(args).__name__}.")
    if any(part is not None for part in optimizers):
        raise ValueError("`optimizers` are those of one model, but `model_init` makes several; leave out one of them.")


def validate_augmentation(augmentation: Augmentation, args, tokenizer, model) -> None:
    """Raise a `ValueError` if an augmentation does not work with this tokenizer, encoder or other arguments."""
    if augmentation.needs_special_ids and tokenizer is None:
        raise ValueError(
            "`position_shuffle`, `token_cutoff` and `feature_cutoff` leave special tokens alone, which the tokenizer "
            "names; give it as `processing_class`."
        )
    if augmentation.changes_embeddings and not takes_embeddings(model.mocose.encoder):
        raise ValueError(
            "`token_cutoff`, `feature_cutoff`, `embedding_noise` and `fgsm_epsilon` change word embeddings, which "
            f"{model.config.encoder_config.model_type} encoders do not take in the place of tokens; leave them out."
        )
    adapter = model.mocose.adapter
    if adapter is not None and augmentation.changes_embeddings:
        embeddings = {id(parameter) for parameter in model.mocose.get_input_embeddings().parameters()}
        if any(id(model.mocose.encoder.get_parameter(name)) in embeddings for name in adapter.trained):
            raise ValueError(
                "`token_cutoff`, `feature_cutoff`, `embedding_noise` and `fgsm_epsilon` change word embeddings, which "
                "the adapter trains; leave them out, or leave the embeddings to the base."
            )
    checkpointing = (args.activation_checkpointing and args.activation_checkpointing_kwargs) or {}
    if augmentation.fgsm_epsilon and checkpointing.get("use_reentrant"):
        raise ValueError(
            "`fgsm_epsilon` asks for gradients that reentrant activation checkpointing cannot give; leave out "
            "`use_reentrant`, which is false by default."
        )


def validate_key_augmentation(key_augmentation, collator, args) -> None:
    """Raise a `ValueError` if the augmentation of the key text is given twice, or has no effect."""
    if key_augmentation is None and args.key_augmentation is None:
        if args.key_augmentation_rate != MoCoSETrainingArguments.key_augmentation_rate:
            raise ValueError("`key_augmentation_rate` is of a `key_augmentation` typos or synonyms; name one.")
        return
    if key_augmentation is not None and args.key_augmentation is not None:
        raise ValueError(
            "`key_augmentation` is given to the trainer and named in its arguments; leave out one of the two."
        )
    if collator is not None:
        raise ValueError(
            "`key_augmentation` is done by the trainer's own collator; leave out `data_collator`, or this."
        )


def validate_negatives(dataset, collator, model) -> None:
    """Raise a `ValueError` if the dataset has hard negatives, but no term of the loss takes them."""
    has_negatives = "negative_text" in (getattr(dataset, "column_names", None) or [])
    if has_negatives and collator is None and not model.config.takes_hard_negatives:
        raise ValueError(
            f"The training set has hard negatives (`negative_text`), but this {model.algorithm} loss has no in-batch "
            "term to contrast them; raise `in_batch_weight` of a MoCoSEConfig above 0, or remove the column."
        )


def validate_collator(collator, dataset, args) -> None:
    """Raise a `ValueError` if the user's collator does not tokenize, or replaces one that an argument needs."""
    if collator is None:
        return
    if args.padding_free:
        raise ValueError("`padding_free` packs by the trainer's own collator; leave out `data_collator`, or this.")
    modules = (getattr(owner, "__module__", "") for owner in (type(collator), collator))
    of_transformers = any(str(module).startswith("transformers.") for module in modules)
    if of_transformers and "input_ids" not in (getattr(dataset, "column_names", None) or []):
        name = getattr(collator, "__name__", type(collator).__name__)
        raise ValueError(
            f"`data_collator` {name} needs rows of tokens, but these are of text; leave it out: the trainer's own "
            "collator tokenises and pads, or packs with `padding_free`."
        )
    if TokenViews(args.crop_share, args.deletion_rate, args.repetition_rate).is_active:
        raise ValueError(
            "`crop_share`, `deletion_rate` and `repetition_rate` are applied by the trainer's own collator; leave out "
            "`data_collator`, or these."
        )


def validate_train_dataset(dataset, args, needs_text: bool) -> None:
    """Raise a `ValueError` if a training set that is no stream has no text, or too few rows for a batch."""
    if dataset is None:
        return
    columns = getattr(dataset, "column_names", None)
    if needs_text and columns is not None and "text" not in columns:
        raise ValueError(f"The training set has no column `text`, only {', '.join(columns)}; rename one.")
    if args.dataloader_drop_last and len(dataset) < args.global_batch_size:
        raise ValueError(
            f"The training set has {len(dataset)} rows, but one batch takes {args.global_batch_size}; "
            "give more or lower `per_device_train_batch_size`."
        )
    remainder = len(dataset) % args.global_batch_size
    if remainder and not args.dataloader_drop_last and args.world_size > 1:
        # accelerate fills the last batch with rows of the first, which would be false negatives of each other
        raise ValueError(
            f"`dataloader_drop_last` is false, but {args.world_size} processes cannot share the last batch of "
            f"{remainder} rows exactly ({len(dataset)} rows, {args.global_batch_size} a batch); leave it out, train "
            f"on one process, or give a multiple of {args.global_batch_size} rows."
        )


def validate_queue_prefill(dataset, collator, model) -> None:
    """Raise a `ValueError` if there is no queue to fill, or nothing to draw its sentences from."""
    if not (model.queue and model.queue.size):
        raise ValueError("`queue_prefill` is true, but `queue_size` is 0; raise it, or leave `queue_prefill` out.")
    validate_drawn_sentences("queue_prefill", dataset, collator)
    config = model.config
    contrasts_queue = config.queue_weight > 0.0 or config.in_batch_queue != "none"
    if contrasts_queue and not (config.mask_same_sentence or config.queue_positives):
        logger.warning(
            "`queue_prefill` fills the queue with keys of sentences that later become queries, so a sentence may be "
            "its own negative; set `mask_same_sentence`."
        )


def validate_drawn_sentences(option: str, dataset, collator) -> None:
    """Raise a `ValueError` if an option cannot draw sentences from the training set."""
    if isinstance(dataset, IterableDataset):
        raise ValueError(f"`{option}` draws sentences at random, which a stream does not allow; leave it out.")
    if not isinstance(collator, SentenceCollator):
        raise ValueError(f"`{option}` needs the trainer's own collator; leave out `data_collator`, or this.")


def validate_development_pairs(eval_dataset, metric: str | None) -> None:
    """Validate development pairs; a dataset of another type is not checked.

    Args:
        eval_dataset: A `datasets.Dataset` of scored pairs, or a dict of several.
        metric: The score that selects the best checkpoint, without `eval_`; None if nothing is selected.

    Raises:
        ValueError: If columns are missing, scores are no numbers or all equal, or the metric is not scored.
    """
    sets = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    names = []
    for name, pairs in sets.items():
        place = f"`eval_dataset` {name}".rstrip()
        if isinstance(pairs, str | list | tuple):
            raise ValueError(
                f"{place} is a {type(pairs).__name__}; give a `datasets.Dataset` of score, sentence1, sentence2."
            )
        if not isinstance(pairs, Dataset):
            return
        missing = [column for column in ("score", "sentence1", "sentence2") if column not in pairs.column_names]
        if missing:
            raise ValueError(
                f"{place} has no column `{missing[0]}`, only {', '.join(pairs.column_names)}; rename one. It holds "
                "scored pairs: score, sentence1, sentence2."
            )
        scores = list(pairs["score"])
        if not all(isinstance(score, Real) and math.isfinite(score) for score in scores) or len(set(scores)) < 2:
            raise ValueError(f"{place} needs scores that are numbers and not all the same, to correlate with.")
        prefix = f"{name}_" if name else ""
        has_positive = any(score > positive_score(scores) for score in scores)
        names += [f"{prefix}{figure}" for figure in PAIR_METRICS if has_positive or figure != "dev_alignment"]
    if metric is not None and metric not in names:
        remedy = "; it needs pairs scored above 4 of 5" if metric.endswith("dev_alignment") else ""
        raise ValueError(
            f"`metric_for_best_model` {metric:.60}: is not scored with these development pairs{remedy}; choose one of "
            f"{', '.join(names)}."
        )


def validate_metric(metric: str, metrics: dict[str, float]) -> None:
    """Validate the score that selects the best checkpoint.

    Args:
        metric: `metric_for_best_model` without `eval_`.
        metrics: The metrics of an evaluation.

    Raises:
        InputError: If it is not among them.
        FloatingPointError: If it is not a finite number.
    """
    value = metrics.get(f"eval_{metric}")
    if value is None:
        names = [name.removeprefix("eval_") for name in metrics if not name.endswith(("runtime", "_per_second"))]
        raise InputError(
            f"`metric_for_best_model` {metric:.60}: is not scored with these development pairs; choose one of "
            f"{', '.join(names)}."
        )
    if not math.isfinite(value):
        raise FloatingPointError(
            f"`metric_for_best_model` {metric:.60} is {value}, so no checkpoint can be selected by it; choose "
            "another, or use an earlier checkpoint."
        )
