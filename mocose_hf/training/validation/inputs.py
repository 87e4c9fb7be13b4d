"""What cannot be trained, refused before training starts."""

import math
import time
from collections.abc import Mapping, Sequence
from numbers import Real

import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers.utils import logging

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import sample_rows, with_sentence_ids
from mocose_hf.data.streaming import SkipSeenCollator, as_stream
from mocose_hf.data.text_augmentation import TextAugmentation, build_key_augmentation
from mocose_hf.data.token_counts import SAMPLE_ROWS, TokenCounts, count_tokens
from mocose_hf.data.token_views import TokenViews
from mocose_hf.errors import InputError
from mocose_hf.evaluation.pairs import PAIR_METRICS, positive_score
from mocose_hf.models.encoder_checks import has_idle_parameters, validate_autocast, validate_encoder
from mocose_hf.models.encoding import encoder_max_length
from mocose_hf.models.loading import validate_tokenizer
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.prompts import prompt_options
from mocose_hf.models.view_augmentation import Augmentation
from mocose_hf.models.views import takes_embeddings
from mocose_hf.training.training_args import MoCoSETrainingArguments
from mocose_hf.training.validation.transformers_options import check_named_optimizer

logger = logging.get_logger(__name__)


def check_arguments(model, args, processing_class, data_collator) -> None:
    """Raise a `TypeError` or `ValueError` where what a trainer is given cannot be trained with."""
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
        check_length(args, processing_class, model.config.encoder_config)
        validate_tokenizer(processing_class, model.mocose.encoder)
        check_prompt(args, processing_class, model.config)
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs; start one for each with `accelerate launch`, or show it a single "
            "one by CUDA_VISIBLE_DEVICES."
        )
    if data_collator is not None and args.padding_free:
        raise ValueError("`padding_free` packs by the trainer's own collator; leave out `data_collator`, or this.")
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
    if args.bf16 and args.device.type == "cpu":
        slower = bfloat16_slowdown()
        if slower > 1.5:
            logger.warning(
                f"`bf16` will slow training down: this CPU multiplies matrices about {slower:.0f} times slower in "
                "bfloat16 than in float32, as it has no instructions for it; leave it out."
            )
    model.validate_settings(model.config, args)
    check_model(model)
    validate_encoder(encoder, model.config.pooling_mode)
    for option, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if getattr(args, option):
            validate_autocast(encoder, option, dtype)
    if args.world_size > 1 and has_idle_parameters(encoder):
        args.ddp_find_unused_parameters = True  # DDP otherwise waits for a gradient of every parameter


def check_length(args, tokenizer, encoder_config) -> None:
    """Raise a `ValueError` where sentences would be longer than tokenizer and encoder allow."""
    longest = encoder_max_length(tokenizer, encoder_config)
    if longest is not None and args.max_seq_length > longest:
        raise ValueError(f"`max_seq_length` is {args.max_seq_length}, but the encoder takes {longest}; lower it.")


def check_prompt(args, tokenizer, config) -> None:
    """Raise a `ValueError` if the default prompt leaves no room for sentences, and warn if it may be cut off."""
    taken = len(tokenizer(config.default_prompt)["input_ids"]) if config.default_prompt else 0
    if taken >= args.max_seq_length:
        raise ValueError(
            f"`max_seq_length` is {args.max_seq_length}, but the model's default prompt "
            f"{config.default_prompt_name!r:.60} alone takes {taken} tokens; raise it."
        )
    if taken and getattr(tokenizer, "truncation_side", "right") == "left":
        logger.warning(
            "The tokenizer cuts long sentences on the left, where the model's default prompt stands, so they lose it; "
            "set its `truncation_side` to right."
        )


def check_optimizer(args, optimizers=(None, None), optimizer_cls_and_kwargs=None, **options) -> None:
    """Raise a `ValueError` if the optimizer cannot be built, or would ignore an argument that is meant for it."""
    if optimizers[0] is None and optimizer_cls_and_kwargs is None and not args.deepspeed:
        check_named_optimizer(args)
    if args.head_learning_rate is not None and optimizers[0] is not None:
        raise ValueError(
            "`head_learning_rate` is for the optimizer that the trainer builds; leave it out, or give your own "
            "optimizer groups of parameters."
        )


def check_model_init(args, optimizers=(None, None), **options) -> None:
    """Raise a `TypeError` or `ValueError` if a trainer cannot build its models with these arguments."""
    if not isinstance(args, MoCoSETrainingArguments):
        raise TypeError(f"MoCoSETrainer takes MoCoSETrainingArguments, not {type(args).__name__}.")
    if any(part is not None for part in optimizers):
        raise ValueError("`optimizers` are those of one model, but `model_init` makes several; leave out one of them.")


def texts_of(rows) -> list[str]:
    """Return the sentences of rows with `text`, or of a list of sentences.

    Raises:
        ValueError: If one is no string.
    """
    columns = getattr(rows, "column_names", None)
    if columns is not None and "text" not in columns:
        raise ValueError(f"The rows to embed have no column `text`, only {', '.join(columns)}; rename one.")
    if isinstance(rows, Dataset):
        texts = list(rows["text"])
    else:
        texts = [row.get("text") if isinstance(row, Mapping) else row for row in rows]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"Row {number} of what is to be embedded has no text but {text!r:.60}; give a string.")
    return texts


def check_metric(metric: str, metrics: dict[str, float]) -> None:
    """Check the score that selects the best checkpoint.

    Args:
        metric: `metric_for_best_model` without `eval_`.
        metrics: What an evaluation gives.

    Raises:
        InputError: If it is not among them.
        FloatingPointError: If it is not a finite number.
    """
    if f"eval_{metric}" in metrics:
        value = metrics[f"eval_{metric}"]
        if not math.isfinite(value):
            raise FloatingPointError(
                f"`metric_for_best_model` {metric:.60} is {value}, so no checkpoint can be selected by it; choose "
                "another, or use an earlier checkpoint."
            )
        return
    names = [name.removeprefix("eval_") for name in metrics if not name.endswith(("runtime", "_per_second"))]
    raise InputError(
        f"`metric_for_best_model` {metric:.60}: is not scored with these development pairs; choose one of "
        f"{', '.join(names)}."
    )


def bfloat16_slowdown(size: int = 256, repeats: int = 3) -> float:
    """Return how many times longer the CPU takes for a product of square matrices in bfloat16 than in float32.

    Args:
        size: Rows and columns.
        repeats: Products of each kind, of which the fastest counts.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(size, size, dtype=dtype)
        times = []
        for _ in range(repeats + 1):  # the first one sets things up
            start = time.perf_counter()
            matrix @ matrix
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times[1:])
    return seconds[torch.bfloat16] / seconds[torch.float32]


def make_augmentation(args, tokenizer, model) -> Augmentation | None:
    """Return what the training arguments change in tokens and embeddings, None where that is nothing.

    Raises:
        ValueError: Where it cannot be done with this tokenizer and encoder, or together with other arguments.
    """
    names = ("cls", "sep", "bos", "eos", "pad")
    ids = {getattr(tokenizer, f"{name}_token_id", None) for name in names} - {None}
    augmentation = Augmentation(
        special_ids=tuple(sorted(ids)),
        position_shuffle=args.position_shuffle,
        token_cutoff=args.token_cutoff,
        feature_cutoff=args.feature_cutoff,
        embedding_noise=args.embedding_noise,
        view=args.augment_view,
        fgsm_epsilon=args.fgsm_epsilon,
    )
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
    checkpointing = (args.activation_checkpointing and args.activation_checkpointing_kwargs) or {}
    if augmentation.fgsm_epsilon and checkpointing.get("use_reentrant"):
        raise ValueError(
            "`fgsm_epsilon` asks for gradients that reentrant activation checkpointing cannot give; leave out "
            "`use_reentrant`, which is false by default."
        )
    return augmentation if augmentation.is_random or augmentation.fgsm_epsilon else None


def _key_augmentation(given: TextAugmentation | None, args, collator) -> TextAugmentation | None:
    """Return what makes the key view's text: what the trainer was given, or what its arguments name."""
    if given is None and args.key_augmentation is None:
        if args.key_augmentation_rate != MoCoSETrainingArguments.key_augmentation_rate:
            raise ValueError("`key_augmentation_rate` is of a `key_augmentation` typos or synonyms; name one.")
        return None
    if given is not None and args.key_augmentation is not None:
        raise ValueError(
            "`key_augmentation` is given to the trainer and named in its arguments; leave out one of the two."
        )
    if collator is not None:
        raise ValueError(
            "`key_augmentation` is done by the trainer's own collator; leave out `data_collator`, or this."
        )
    return given or build_key_augmentation(args.key_augmentation, args.key_augmentation_rate)


def prepare_data(dataset, collator, args, tokenizer, model, key_augmentation=None):
    """Return dataset and collator as training takes them, checked.

    A list of sentences or of rows becomes a `datasets.Dataset`, an iterable dataset a stream.
    """
    if isinstance(dataset, list | tuple):
        dataset = dataset_of_list(dataset)
    _check_collator(collator, dataset)
    needs_text = collator is None
    key_augmentation = _key_augmentation(key_augmentation, args, collator)
    token_views = TokenViews(args.crop_share, args.deletion_rate, args.repetition_rate)
    if token_views.is_active and collator is not None:
        raise ValueError(
            "`crop_share`, `deletion_rate` and `repetition_rate` are applied by the trainer's own collator; leave out "
            "`data_collator`, or these."
        )
    if collator is None:
        first_position = _first_position(model) if args.padding_free and dataset is not None else None
        collator = SentenceCollator(
            tokenizer,
            args.max_seq_length,
            first_position,
            key_augmentation,
            args.seed,
            token_views if token_views.is_active else None,
            args.augment_view,
            **prompt_options(model.config),
        )
    elif model.config.default_prompt:
        logger.warning(
            f"The model's default prompt {model.config.default_prompt!r:.60} is put before sentences by the trainer's "
            "own collator; yours must do so itself."
        )
    if args.queue_prefill:
        _check_prefill(dataset, collator, model)
    if isinstance(dataset, IterableDataset):
        return as_stream(dataset, args, needs_text), SkipSeenCollator(collator)
    columns = getattr(dataset, "column_names", None)
    if needs_text and columns is not None and "text" not in columns:
        raise ValueError(f"The training set has no column `text`, only {', '.join(columns)}; rename one.")
    if dataset is not None and args.dataloader_drop_last and len(dataset) < args.global_batch_size:
        raise ValueError(
            f"The training set has {len(dataset)} rows, but one batch takes {args.global_batch_size}; "
            "give more or lower `per_device_train_batch_size`."
        )
    if dataset is not None and not args.dataloader_drop_last and args.world_size > 1:
        _check_last_batch(len(dataset), args)
    return with_sentence_ids(dataset), collator


def dataset_of_list(rows: Sequence) -> Dataset:
    """Return a dataset with a column `text` from sentences, or one with their columns from rows.

    Raises:
        ValueError: If the list is empty or holds anything else.
    """
    if rows and all(isinstance(row, str) for row in rows):
        return Dataset.from_dict({"text": list(rows)})
    if rows and all(isinstance(row, Mapping) for row in rows):
        return Dataset.from_list([dict(row) for row in rows])
    found = next((row for row in rows if not isinstance(row, str | Mapping)), None)
    what = "is empty" if not rows else f"holds {found!r:.60}" if found is not None else "mixes sentences and rows"
    raise ValueError(f"`train_dataset` is a list that {what}; give sentences, or rows with `text`.")


def _check_collator(collator, dataset) -> None:
    """Refuse a collator of transformers for rows without tokens: it pads, and does not tokenise."""
    of_transformers = str(getattr(type(collator), "__module__", "")).startswith("transformers.")
    of_transformers = of_transformers or str(getattr(collator, "__module__", "")).startswith("transformers.")
    columns = getattr(dataset, "column_names", None) or []
    if collator is not None and of_transformers and "input_ids" not in columns:
        name = getattr(collator, "__name__", type(collator).__name__)
        raise ValueError(
            f"`data_collator` {name} needs rows of tokens, but these are of text; leave it out: the trainer's own "
            "collator tokenises and pads, or packs with `padding_free`."
        )


def check_development_pairs(eval_dataset, metric: str | None) -> None:
    """Check development pairs before training.

    Args:
        eval_dataset: A `datasets.Dataset` of scored pairs or a dict of several; of anything else nothing is known.
        metric: The score that selects the best checkpoint, without `eval_`; None if nothing is selected.

    Raises:
        ValueError: If columns are missing, scores are no different numbers, or the metric is not scored.
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
        remedy = ""
        if metric.endswith("dev_alignment"):
            remedy = "; it needs pairs scored above 4 of 5"
        raise ValueError(
            f"`metric_for_best_model` {metric:.60}: is not scored with these development pairs{remedy}; choose one of "
            f"{', '.join(names)}."
        )


def count_training_tokens(dataset, collator, args) -> TokenCounts | None:
    """Count cut sentences and unknown tokens in a sample of the training set, and warn if there are many.

    Args:
        dataset: The training set as `prepare_data` returns it.
        collator: Its collator.
        args: The training arguments.

    Returns:
        None if there is no text, or a collator of the user's tokenises it.
    """
    collator = collator.collate if isinstance(collator, SkipSeenCollator) else collator
    if dataset is None or not isinstance(collator, SentenceCollator):
        return None
    rows, is_sample = sample_rows(dataset, SAMPLE_ROWS)
    rows = [row for row in rows if isinstance(row, dict)]
    texts = [row[name] for row in rows for name in ("text", "key_text") if isinstance(row.get(name), str)]
    texts = [collator.prompt + text for text in texts]
    counts = count_tokens(texts, collator.tokenizer, args.max_seq_length, is_sample)
    if args.process_index == 0:
        for message in counts.warnings():
            logger.warning_once(message)
    return counts


def _check_prefill(dataset, collator, model) -> None:
    """Refuse `queue_prefill` if there is no queue or nothing to draw its sentences from."""
    if not (model.queue and model.queue.size):
        raise ValueError("`queue_prefill` is true, but `queue_size` is 0; raise it, or leave `queue_prefill` out.")
    if isinstance(dataset, IterableDataset):
        raise ValueError("`queue_prefill` draws sentences at random, which a stream does not allow; leave it out.")
    if not isinstance(collator, SentenceCollator):
        raise ValueError("`queue_prefill` needs the trainer's own collator; leave out `data_collator`, or this.")
    config = model.config
    contrasts_queue = config.queue_weight > 0.0 or config.in_batch_queue != "none"
    if contrasts_queue and not (config.mask_same_sentence or config.queue_positives):
        logger.warning(
            "`queue_prefill` puts keys of sentences into the queue that are still to come as queries, so a sentence "
            "may be its own negative; set `mask_same_sentence`."
        )


def _check_last_batch(rows: int, args) -> None:
    """Refuse a last batch that accelerate would fill with rows of the first, false negatives of each other."""
    left = rows % args.global_batch_size
    if left:
        raise ValueError(
            f"`dataloader_drop_last` is false, but {args.world_size} processes cannot share the last batch of {left} "
            f"rows exactly ({rows} rows, {args.global_batch_size} a batch); leave it out, train on one process, or "
            f"give a multiple of {args.global_batch_size} rows."
        )


def _first_position(model: ContrastiveModel) -> int | None:
    """Prepare the model for packed batches; tell where its family cannot take them."""
    first = model.allow_padding_free()
    if first is None:
        logger.warning(
            f"`padding_free` is left aside: {model.config.encoder_config.model_type} encoders do not let their "
            "attention be told where sentences begin and end, so batches are padded."
        )
    return first


def check_model(model) -> None:
    """Refuse a model whose target would be trained or whose moving average would be rounded away."""
    trainable = sum(parameter.requires_grad for parameter in model.frozen_parameters())
    if trainable:
        raise ValueError(f"{trainable} parameters of the target are trainable; call `model.freeze_target()` first.")
    for queue in model.queues():
        found, wanted = queue.rows.dtype, queue.dtype
        if found != wanted:
            raise ValueError(
                f"The queue was cast to {found}, but `queue_dtype` makes it {wanted}; load the model again, and leave "
                "its dtype alone."
            )
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ValueError(
            "All weights must be in float32 for training; load the model again without a `dtype`, and set `bf16` for "
            "speed."
        )
