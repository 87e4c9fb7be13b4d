"""Encode sentences outside training."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers.tokenization_utils_base import LARGE_INTEGER

from mocose_hf.errors import InputError
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.prompts import count_prompt_tokens, resolve_prompt


@torch.no_grad()
def encode(
    model,
    sentences: list[str],
    tokenizer,
    *,
    batch_size: int = 128,
    max_seq_length: int | None = None,
    normalize: bool = False,
    prompt: str | None = None,
    prompt_name: str | None = None,
    autocast_dtype: torch.dtype | None = None,
    show_progress: bool = False,
) -> Tensor:
    """Embed sentences with dropout off, in batches of similar length, and return them in the given order.

    It uses the embedding settings of the configuration: lower-casing, default prompt, normalisation and number of
    dimensions. `SentenceTransformer.encode` of the exported model gives the same embeddings.

    Args:
        model: A `MoCoSEModel`; its mode does not change.
        sentences: N texts.
        tokenizer: The tokenizer saved with the model.
        batch_size: Sentences per forward.
        max_seq_length: Longest input in tokens; None for `longest_input`.
        normalize: Whether to scale each embedding to length 1 at the end, even if the model itself does not.
        prompt, prompt_name: As in `resolve_prompt`; the model's default prompt if both are None.
        autocast_dtype: The autocast dtype, such as `torch.bfloat16`; None for the dtype of the weights.
        show_progress: Whether to show a progress bar.

    Returns:
        (N, H) float32, on the CPU; only the first `truncate_dim` dimensions if the configuration sets it.

    Raises:
        TypeError: If one sentence is given instead of a list.
        InputError: If a sentence has no token.
    """
    if isinstance(sentences, str):
        raise TypeError("`encode` takes a list of sentences; put the sentence into a list.")
    config = model.config
    tokenizer = lower_case(tokenizer) if config.do_lower_case else tokenizer
    max_seq_length = max_seq_length or longest_input(tokenizer, config)
    prompt = resolve_prompt(config, prompt, prompt_name)
    options = {}
    if prompt and not config.include_prompt:
        options["prompt_length"] = count_prompt_tokens(tokenizer, prompt, max_seq_length)
    tokens = _tokenize(tokenizer, [prompt + sentence for sentence in sentences], max_seq_length)
    order = sorted(range(len(sentences)), key=lambda i: len(tokens[i]["input_ids"]), reverse=True)
    embeddings = torch.empty(len(sentences), config.hidden_size)
    computing = torch.autocast(model.device.type, dtype=autocast_dtype) if autocast_dtype else nullcontext()
    progress = tqdm(total=len(order), desc="Encoding", disable=None if show_progress else True)
    with computing, evaluation_mode(model), progress:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad([tokens[i] for i in rows], return_tensors="pt", **PADDING)
            embeddings[rows] = model(**batch.to(model.device), **options).pooler_output.float().cpu()
            progress.update(len(rows))
    if config.normalize:
        embeddings = F.normalize(embeddings, dim=-1)
    embeddings = embeddings[:, : config.truncate_dim]
    return F.normalize(embeddings, dim=-1) if normalize else embeddings


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
