"""Encode sentences outside training."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers.tokenization_utils_base import LARGE_INTEGER

from mocose_hf.errors import InputError, one_line
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.prompts import count_prompt_tokens, resolve_prompt


@torch.no_grad()
def encode(
    model,
    sentences: str | Sequence[str],
    tokenizer=None,
    *,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 128,
    show_progress_bar: bool = False,
    convert_to_numpy: bool = False,
    convert_to_tensor: bool | None = None,
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    max_seq_length: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Any:
    """Embed sentences with dropout off, in batches of similar length, and return them in the given order.

    It uses the embedding settings of the configuration: lower-casing, default prompt, normalisation and number of
    dimensions. The options are those of `SentenceTransformer.encode`, which gives the same embeddings for the exported
    model, but an array by default instead of a tensor.

    Args:
        model: A `MoCoSEModel`; its mode does not change.
        sentences: N texts, or one.
        tokenizer: The tokenizer saved with the model; None to load it from where the model was loaded.
        prompt_name, prompt: As in `resolve_prompt`; the model's default prompt if both are None.
        batch_size: Sentences per forward.
        show_progress_bar: Whether to show a progress bar.
        convert_to_numpy: Whether to return a numpy array, unless `convert_to_tensor` is true.
        convert_to_tensor: Whether to return one tensor. If this and `convert_to_numpy` are false, the result is a list
            of tensors. None is true unless `convert_to_numpy` is.
        normalize_embeddings: Whether to scale each embedding to length 1 at the end, even if the model does not.
        truncate_dim: Number of leading dimensions; None for that of the configuration.
        max_seq_length: Longest input in tokens; None for `longest_input`.
        autocast_dtype: The autocast dtype, such as `torch.bfloat16`; None for the dtype of the weights.

    Returns:
        (N, H) float32, on the CPU; (H,) for a single text.

    Raises:
        InputError: If a sentence has no token, or there is no tokenizer.
    """
    is_single = isinstance(sentences, str)
    texts: list[str] = [sentences] if isinstance(sentences, str) else list(sentences)
    config = model.config
    tokenizer = _own_tokenizer(model) if tokenizer is None else tokenizer
    tokenizer = lower_case(tokenizer) if config.do_lower_case else tokenizer
    max_seq_length = max_seq_length or longest_input(tokenizer, config)
    prompt = resolve_prompt(config, prompt, prompt_name)
    options = {}
    if prompt and not config.include_prompt:
        options["prompt_length"] = count_prompt_tokens(tokenizer, prompt, max_seq_length)
    tokens = _tokenize(tokenizer, [prompt + text for text in texts], max_seq_length)
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]["input_ids"]), reverse=True)
    embeddings = torch.empty(len(texts), config.hidden_size)
    computing = torch.autocast(model.device.type, dtype=autocast_dtype) if autocast_dtype else nullcontext()
    progress = tqdm(total=len(order), desc="Encoding", disable=None if show_progress_bar else True)
    with computing, evaluation_mode(model), progress:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad([tokens[i] for i in rows], return_tensors="pt", **PADDING)
            embeddings[rows] = model(**batch.to(model.device), **options).pooler_output.float().cpu()
            progress.update(len(rows))
    if config.normalize:
        embeddings = F.normalize(embeddings, dim=-1)
    embeddings = embeddings[:, : config.truncate_dim if truncate_dim is None else truncate_dim]
    if normalize_embeddings:
        embeddings = F.normalize(embeddings, dim=-1)
    if convert_to_tensor or (convert_to_tensor is None and not convert_to_numpy):
        return embeddings[0] if is_single else embeddings
    if convert_to_numpy:
        return embeddings.numpy()[0] if is_single else embeddings.numpy()
    return embeddings[0] if is_single else list(embeddings)


def _own_tokenizer(model):
    """Return the tokenizer of the directory or the hub id that a model was loaded from.

    Raises:
        InputError: If there is none.
    """
    from mocose_hf.models.loading import load_tokenizer  # which imports this module

    source = model.config.name_or_path
    try:
        if not source:
            raise OSError("the model was not loaded")
        return load_tokenizer(source)
    except (OSError, ValueError) as error:
        raise InputError(
            f"`encode` finds no tokenizer at {source or 'the source of the model'} ({one_line(error)}); give it as "
            "`tokenizer`."
        ) from error


def _tokenize(tokenizer, sentences: list[str], max_seq_length: int | None) -> list[dict[str, list[int]]]:
    """Return the unpadded tokens of each sentence, so that sentences can be sorted by length before batching."""
    if not sentences:
        return []
    options = {"truncation": max_seq_length is not None, "max_length": max_seq_length}
    columns = model_inputs(tokenizer(list(sentences), return_attention_mask=True, **options))
    validate_tokens(columns["input_ids"], sentences)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def longest_input(tokenizer, config) -> int | None:
    """Return the longest input of a model in tokens: the smallest limit of configuration, tokenizer and encoder."""
    limits = (config.max_seq_length, encoder_max_length(tokenizer, config.encoder_config))
    return min((limit for limit in limits if limit is not None), default=None)


def model_inputs(columns: Mapping) -> dict:
    """Return the columns of a tokenizer's output that models of this package take."""
    return {name: columns[name] for name in MODEL_INPUTS if name in columns}


def validate_tokens(rows: Iterable[Sequence[int] | Tensor], sentences: Sequence[str]) -> None:
    """Raise an error if a sentence has no token, because it would have no embedding.

    Args:
        rows: The tokens of each sentence, or its mask.
        sentences: Their texts.

    Raises:
        InputError: If there is such a sentence; the message quotes the first one.
    """
    for row, sentence in zip(rows, sentences, strict=True):
        if not (row.any() if isinstance(row, Tensor) else len(row)):
            raise InputError(f"The tokenizer finds no token in the sentence {sentence!r:.80}; remove it.")


PADDING = {"padding": True, "padding_side": "right", "return_attention_mask": True}
"""The padding of all batches, whatever the tokenizer's own settings are."""

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""The columns that a tokenizer may pass to the models of this package."""


def encoder_max_length(tokenizer, encoder_config) -> int | None:
    """Return the longest input in tokens that tokenizer and encoder both allow, None if neither has a limit."""
    limits = [tokenizer.model_max_length]
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if positions and positions > 0:
        if encoder_config.model_type in OFFSET_POSITIONS:
            padding = getattr(encoder_config, "pad_token_id", None) or 0
            positions -= OFFSET_POSITIONS[encoder_config.model_type] or padding + 1
        limits.append(positions)
    longest = min(limits)
    return longest if longest < NO_LIMIT else None


NO_LIMIT = LARGE_INTEGER
"""In transformers, a `model_max_length` of at least this means no limit."""

OFFSET_POSITIONS: dict[str, int | None] = {
    "camembert": None,
    "data2vec-text": None,
    "esm": None,
    "ibert": None,
    "lilt": None,
    "longformer": None,
    "luke": None,
    "mpnet": 2,
    "roberta": None,
    "roberta-prelayernorm": None,
    "xlm-roberta": None,
    "xlm-roberta-xl": None,
    "xmod": None,
}
"""Number of positions that a family never uses, because it counts from after padding; None for `pad_token_id` + 1."""
