"""The view that one branch has of a batch, padded or packed, and its encoding to sentence embeddings."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mocose_hf.models.cls_only_last_layer import FIRST_TOKENS
from mocose_hf.models.encoder_checks import padding_id, probing, vocabulary_rows, without_cache
from mocose_hf.models.pooling import exclude_prompt, first_tokens, pool, rotate_rows
from mocose_hf.models.sequence_packing import Packing, bounds_for_attention


@dataclass
class View:
    """The tokens that one branch sees of a batch.

    Args:
        input_ids, attention_mask, token_type_ids: (B, L); packed (1, T), and no mask.
        position_ids: Of a packed view, (1, T) int64, each token's position in its sentence.
        cu_seq_lens_q: Of a packed view, (B + 1,) int32, the index of each sentence's first token, then T.
        max_length_q: Of a packed view, the number of tokens of the longest sentence.
        inputs_embeds: (B, L, E) or (1, T, E), embeddings that replace the tokens' own word embeddings, before
            positions and normalisation; None for the tokens' own.
        prompt_length: Number of tokens at the start of each sentence that are not pooled; None to pool all.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    cu_seq_lens_q: Tensor | None = None
    max_length_q: int | None = None
    inputs_embeds: Tensor | None = None
    prompt_length: int | None = None

    def padded_right(self) -> "View":
        """Return the view with padding on the right, which encoders with absolute positions need."""
        if self.attention_mask is None:
            return self
        starts = first_tokens(self.attention_mask)  # (B,)
        names = ("input_ids", "attention_mask", "token_type_ids", "inputs_embeds")
        rows = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        rotated: dict[str, Any] = {name: rotate_rows(values, starts) for name, values in rows.items()}
        return replace(self, **rotated)


@dataclass
class HardNegatives:
    """The hard negatives of a batch: N ≤ B texts, at most one for each row.

    Args:
        view: Their tokens. Further texts after the first N do not count.
        rows: (N,) int64, the row of the batch that each belongs to.
        ids: (N,) int64, compared with `positive_ids` by `mask_same_sentence`; −1 equals nothing.
        positive_ids: (B,) int64, of what is positive for each query.
    """

    view: View
    rows: Tensor
    ids: Tensor | None = None
    positive_ids: Tensor | None = None

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> "HardNegatives | None":
        """Return the hard negatives from the entries `negative_…` and `positive_ids` of a collated batch, or None.

        Raises:
            TypeError: If there is any other entry.
        """
        if not batch:
            return None
        entries = {name.removeprefix("negative_"): value for name, value in batch.items()}
        own = {name: entries.pop(name) for name in ("rows", "ids", "positive_ids") if name in entries}
        return cls(View(**entries), **own)


def split_views(batch: Mapping[str, Any]) -> tuple[View, View]:
    """Return the query view and the key view of a collated batch without `sentence_ids`; the key view may be equal.

    Hard negatives are left out.
    """
    own: dict[str, Any] = {}
    key: dict[str, Any] = {}
    for name, value in batch.items():
        if name.startswith("negative_") or name == "positive_ids":
            continue
        (key if name.startswith("key_") else own)[name.removeprefix("key_")] = value
    view = View(**own)
    return view, View(**key) if key else view


def embed_tokens(encoder: PreTrainedModel, view: View) -> Tensor:
    """Return the word embeddings of a view's tokens, (B, L, E) or (1, T, E), as the encoder would look them up."""
    return encoder.get_input_embeddings()(view.input_ids)


def embed_view(
    encoder: PreTrainedModel, view: View, pooling_mode: str, takes_token_types: bool, first_tokens_only: bool
) -> Tensor:
    """Return the pooled embeddings of a view, (B, H).

    Args:
        encoder: The encoder of the branch.
        view: Its view, padded on either side or packed.
        pooling_mode: As in `pool`.
        takes_token_types: Whether the encoder takes `token_type_ids`.
        first_tokens_only: Whether its last layer, prepared by `prepare_last_layer`, computes only first tokens; for
            the pooling mode "cls".
    """
    view = view.padded_right()
    options: dict[str, Any] = {"attention_mask": view.attention_mask}
    if takes_token_types:
        options["token_type_ids"] = view.token_type_ids
    packing = None
    if view.cu_seq_lens_q is not None:
        packing = Packing.of(view.cu_seq_lens_q, view.max_length_q, view.input_ids.shape[1])
        options |= {"position_ids": view.position_ids} | bounds_for_attention(encoder, view.cu_seq_lens_q, packing)
    if first_tokens_only:
        options[FIRST_TOKENS] = view.input_ids.new_zeros(1) if packing is None else packing.starts
    options |= without_cache(encoder)
    name = "input_ids" if view.inputs_embeds is None else "inputs_embeds"
    hidden = encoder(**{name: getattr(view, name)}, return_dict=True, **options)
    hidden = hidden.last_hidden_state  # (B, L, H), of a packed row (1, T, H), of first tokens (B, 1, H), (1, B, H)
    if first_tokens_only:
        if hidden.shape[1] != len(options[FIRST_TOKENS]):  # some compiled graphs skip the hooks
            hidden = hidden.index_select(1, options[FIRST_TOKENS])
        return hidden.flatten(0, 1)
    if packing is None:
        return pool(hidden, exclude_prompt(view.attention_mask, view.prompt_length, hidden), pooling_mode)
    padded = packing.pad(hidden[0])  # (B, L, H)
    return pool(padded, exclude_prompt(packing.mask, view.prompt_length, padded), pooling_mode)


@torch.no_grad()
def takes_embeddings(encoder: PreTrainedModel) -> bool:
    """Return whether an encoder gives the same output for tokens and for their word embeddings, padded on the right.

    Encoders that derive positions from the padding token, such as RoBERTa, do so for such batches. Encoders that take
    no embeddings, or scale them, do not.
    """
    if "inputs_embeds" not in inspect.signature(encoder.forward).parameters:
        return False
    padding = padding_id(encoder)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], device=encoder.device)
    tokens = (torch.arange(6, device=encoder.device).view(2, 3) + padding + 1) % vocabulary_rows(encoder)
    tokens = tokens.masked_fill(mask == 0, padding)
    try:
        with probing(encoder):
            expected = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state[mask.bool()]
            embeddings = embed_tokens(encoder, View(tokens))
            output = encoder(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state[mask.bool()]
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # each family fails in its own way
        return False
    return torch.allclose(output, expected, rtol=1e-3, atol=1e-3)
