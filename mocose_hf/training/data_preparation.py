"""Build what a training consumes: dataset, collator and view augmentation, from the trainer's arguments."""

from collections.abc import Mapping, Sequence

from datasets import Column, Dataset
from torch.utils.data import IterableDataset
from transformers.utils import logging

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import TEXT_COLUMNS, sample_rows, with_sentence_ids
from mocose_hf.data.streaming import SkipSeenCollator, as_stream
from mocose_hf.data.text_augmentation import TextAugmentation, build_key_augmentation
from mocose_hf.data.token_counts import SAMPLE_ROWS, TokenCounts, count_tokens
from mocose_hf.data.token_views import TokenViews
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.prompts import PROMPT_ARGUMENTS, prompt_options
from mocose_hf.models.view_augmentation import Augmentation
from mocose_hf.training.validation.inputs import (
    validate_augmentation,
    validate_collator,
    validate_drawn_sentences,
    validate_key_augmentation,
    validate_negatives,
    validate_queue_prefill,
    validate_train_dataset,
)

logger = logging.get_logger(__name__)


def build_augmentation(args, tokenizer, model) -> Augmentation | None:
    """Return the augmentation of tokens and embeddings that the training arguments ask for, None if they ask for none.

    Raises:
        ValueError: If it does not work with this tokenizer or encoder, or with other arguments.
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
    validate_augmentation(augmentation, args, tokenizer, model)
    return augmentation if augmentation.is_random or augmentation.fgsm_epsilon else None


def prepare_data(dataset, collator, args, tokenizer, model, key_augmentation: TextAugmentation | None = None):
    """Return the training set with sentence ids, and its collator.

    A list of sentences or rows becomes a `datasets.Dataset`, an iterable dataset becomes a stream.

    Args:
        dataset: The training set of the trainer.
        collator: The user's collator; None builds a `SentenceCollator`.
        args: The training arguments.
        tokenizer: The tokenizer, if there is one.
        model: The model.
        key_augmentation: The user's augmentation of the key text.

    Raises:
        ValueError: If these do not work together.
    """
    if isinstance(dataset, list | tuple | Column):
        dataset = dataset_from_list(list(dataset))
    validate_collator(collator, dataset, args)
    validate_key_augmentation(key_augmentation, collator, args)
    validate_negatives(dataset, collator, model)
    needs_text = collator is None
    if collator is None:
        collator = _build_collator(args, tokenizer, model, key_augmentation, packs=dataset is not None)
    elif any(getattr(args, name) is not None for name in PROMPT_ARGUMENTS):
        raise ValueError(
            "`prompt`, `query_prompt` and `key_prompt` are put before sentences by the trainer's own collator; leave "
            "out `data_collator`, or these."
        )
    elif model.config.default_prompt:
        logger.warning(
            f"The trainer's own collator puts the model's default prompt {model.config.default_prompt!r:.60} before "
            "each sentence; your collator must do so itself."
        )
    if args.queue_prefill:
        validate_queue_prefill(dataset, collator, model)
    if model.config.whitening:
        validate_drawn_sentences("whitening", dataset, collator)
    if isinstance(dataset, IterableDataset):
        return as_stream(dataset, args, needs_text), SkipSeenCollator(collator)
    validate_train_dataset(dataset, args, needs_text)
    return with_sentence_ids(dataset), collator


def _build_collator(args, tokenizer, model, key_augmentation: TextAugmentation | None, packs: bool):
    if key_augmentation is None and args.key_augmentation is not None:
        key_augmentation = build_key_augmentation(args.key_augmentation, args.key_augmentation_rate)
    token_views = TokenViews(args.crop_share, args.deletion_rate, args.repetition_rate)
    return SentenceCollator(
        tokenizer,
        args.max_seq_length,
        _allow_packing(model) if args.padding_free and packs else None,
        key_augmentation,
        args.seed,
        token_views if token_views.is_active else None,
        args.augment_view,
        **prompt_options(model.config, args.query_prompt, args.key_prompt),
    )


def _allow_packing(model: ContrastiveModel) -> int | None:
    """Prepare the model for packed batches and return the first position of a sentence; warn if it cannot pack."""
    first_position = model.allow_padding_free()
    if first_position is None:
        logger.warning(
            f"`padding_free` has no effect: the attention of {model.config.encoder_config.model_type} encoders does "
            "not take the bounds of sentences, so batches are padded."
        )
    return first_position


def dataset_from_list(rows: Sequence) -> Dataset:
    """Return a dataset with a column `text` from sentences, or with the columns of the rows.

    Raises:
        ValueError: If the list is empty or holds anything else.
    """
    if rows and all(isinstance(row, str) for row in rows):
        return Dataset.from_dict({"text": list(rows)})
    if rows and all(isinstance(row, Mapping) for row in rows):
        return Dataset.from_list([dict(row) for row in rows])
    other = next((row for row in rows if not isinstance(row, str | Mapping)), None)
    fault = "is empty" if not rows else f"holds {other!r:.60}" if other is not None else "mixes sentences and rows"
    raise ValueError(f"`train_dataset` is a list that {fault}; give sentences, or rows with `text`.")


def texts_of(rows) -> list[str]:
    """Return the sentences of rows with `text`, or of a list of sentences.

    Raises:
        ValueError: If an entry is no string.
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
            raise ValueError(f"Row {number} to embed has no text but {text!r:.60}; give a string.")
    return texts


def count_training_tokens(dataset, collator, args) -> TokenCounts | None:
    """Count truncated sentences and unknown tokens in a sample of the training set, and warn if there are many.

    Args:
        dataset: The training set, as `prepare_data` returns it.
        collator: Its collator.
        args: The training arguments.

    Returns:
        The counts; None if there is no text, or if the user's own collator tokenizes it.
    """
    collator = collator.collate if isinstance(collator, SkipSeenCollator) else collator
    if dataset is None or not isinstance(collator, SentenceCollator):
        return None
    rows, is_sample = sample_rows(dataset, SAMPLE_ROWS)
    rows = [row for row in rows if isinstance(row, dict)]
    texts = [row[name] for row in rows for name in TEXT_COLUMNS if isinstance(row.get(name), str) and row[name]]
    texts = [max(collator.prompt, collator.key_prompt, key=len) + text for text in texts]
    counts = count_tokens(texts, collator.tokenizer, args.max_seq_length, is_sample)
    if args.process_index == 0:
        for message in counts.warnings():
            logger.warning_once(message)
    return counts
