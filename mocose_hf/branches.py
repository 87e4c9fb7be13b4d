"""Run the encoder of one branch on its view of a batch, padded or packed, up to the sentence embedding."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from mocose_hf.last_layer import FIRST_TOKENS
from mocose_hf.padding_free import Packing, bounds_for_attention
from mocose_hf.pooling import pool


@dataclass
class View:
    """The tokens that one branch sees of a batch.

    Args:
        input_ids, attention_mask, token_type_ids: (B, L); packed (1, T), and no mask.
        position_ids: Of a packed view, (1, T) int64, each token's position in its sentence.
        cu_seq_lens_q: Of a packed view, (B + 1,) int32, the place of each first token in the row, and at the end T.
        max_length_q: Of a packed view, the tokens of the longest sentence.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    cu_seq_lens_q: Tensor | None = None
    max_length_q: int | None = None


def embed_view(
    encoder: PreTrainedModel, view: View, pooling_mode: str, takes_token_types: bool, first_tokens_alone: bool
) -> Tensor:
    """Return the pooled embeddings of a view, (B, H).

    Args:
        encoder: The encoder of the branch.
        view: What it sees.
        pooling_mode: As `pool` takes it.
        takes_token_types: Whether the encoder is given `token_type_ids`.
        first_tokens_alone: Whether its last layer, prepared by `prepare_last_layer`, computes no more than first
            tokens; for the pooling mode "cls".
    """
    options = {"attention_mask": view.attention_mask}
    if takes_token_types:
        options["token_type_ids"] = view.token_type_ids
    packing = None
    if view.cu_seq_lens_q is not None:
        packing = Packing.of(view.cu_seq_lens_q, view.max_length_q, view.input_ids.shape[1])
        options |= {"position_ids": view.position_ids} | bounds_for_attention(encoder, view.cu_seq_lens_q, packing)
    if first_tokens_alone:
        options[FIRST_TOKENS] = view.input_ids.new_zeros(1) if packing is None else packing.starts
    hidden = encoder(input_ids=view.input_ids, return_dict=True, **options)
    hidden = hidden.last_hidden_state  # (B, L, H), of a packed row (1, T, H), of first tokens (B, 1, H), (1, B, H)
    if first_tokens_alone:
        if hidden.shape[1] != len(options[FIRST_TOKENS]):  # the hooks were not heard, as in some compiled graphs
            hidden = hidden.index_select(1, options[FIRST_TOKENS])
        return hidden.flatten(0, 1)
    if packing is None:
        return pool(hidden, view.attention_mask, pooling_mode)
    return pool(packing.pad(hidden[0]), packing.mask, pooling_mode)
