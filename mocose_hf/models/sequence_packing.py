"""Batches without padding: all sentences of a batch in one row, each with its own positions and bounds.

All layers except attention work on each token separately, so they run on the packed row unchanged. Attention needs the
bounds of the sentences. Flash attention of transformers takes them. For all other encoders this module registers an
attention that pads only queries, keys and values (https://huggingface.co/docs/transformers/attention_interface).
"""

import inspect
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.generic import is_flash_attention_requested

from mocose_hf.compat import attention_of, can_set_attention, set_attention, supports_sdpa
from mocose_hf.models.encoder_checks import evaluation_mode, padding_id, vocabulary_rows

ATTENTION = "padding_free_sdpa"
"""The name of the attention that this module registers."""


@dataclass(frozen=True)
class Packing:
    """The positions of the tokens of a packed row in the padded batch (B, L).

    Args:
        starts: (B,) int64, the index of each sentence's first token in the row.
        slots: (T,) int64, the index of each token in the padded batch, flattened to B·L.
        mask: (B, L) bool, which entries of the padded batch are tokens.
        longest: L, the number of tokens of the longest sentence.
    """

    starts: Tensor
    slots: Tensor
    mask: Tensor
    longest: int

    @classmethod
    def of(cls, cu_seq_lens: Tensor, longest: int, num_tokens: int) -> "Packing":
        """Build it from the bounds, on their device and without a synchronisation.

        Args:
            cu_seq_lens: (B + 1,) integers, the index of each sentence's first token, then T.
            longest: L.
            num_tokens: T.
        """
        bounds = cu_seq_lens.long()
        starts, ends = bounds[:-1], bounds[1:]
        places = torch.arange(num_tokens, device=bounds.device)
        sentence = torch.searchsorted(ends, places, right=True)  # (T,)
        mask = torch.arange(longest, device=bounds.device) < (ends - starts)[:, None]
        return cls(starts, sentence * longest + places - starts[sentence], mask, longest)

    def attention_mask(self, sliding_window: int | None, is_causal: bool = False) -> Tensor:
        """Return which keys a query attends to, (B, 1, 1 or L, L) bool.

        Args:
            sliding_window: Distance from which tokens do not attend to each other; None for no limit.
            is_causal: Whether a query attends only to itself and the keys before it.
        """
        mask = self.mask[:, None, None]
        places = torch.arange(self.longest, device=self.slots.device)
        distances = places[:, None] - places  # (L, L), of a key before its query
        if is_causal:
            mask = mask & (distances >= 0)
        if sliding_window is not None and self.longest > sliding_window:
            mask = mask & (distances.abs() < sliding_window)
        return mask

    def pad(self, rows: Tensor) -> Tensor:
        """Return (T, …) as (B, L, …), with zeros as padding."""
        padded = _Scatter.apply(rows, self.slots, self.mask.numel())
        return padded.view(*self.mask.shape, *rows.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """Return (B, L, …) as (T, …)."""
        return _Gather.apply(padded.flatten(0, 1), self.slots)


class _Scatter(torch.autograd.Function):
    """Write rows into their slots. Its gradient is faster than torch's, which accumulates; so is that of `_Gather`."""

    @staticmethod
    def forward(ctx, rows, slots, size):
        ctx.save_for_backward(slots)
        return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, slots, rows)

    @staticmethod
    def backward(ctx, gradient):
        (slots,) = ctx.saved_tensors
        return gradient.index_select(0, slots), None, None


class _Gather(torch.autograd.Function):
    """Read rows from their slots, which all differ."""

    @staticmethod
    def forward(ctx, padded, slots):
        ctx.save_for_backward(slots)
        ctx.size = len(padded)
        return padded.index_select(0, slots)

    @staticmethod
    def backward(ctx, gradient):
        (slots,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.size, *gradient.shape[1:]).index_copy_(0, slots, gradient), None


def padding_free_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **options,
) -> tuple[Tensor, None]:
    """Attend within each sentence of a packed row; without `packing`, attend as `sdpa` of transformers does.

    Args:
        module: The attention layer; with its attribute `is_causal`, tokens attend only to those before them.
        query, key, value: (1, heads, T, head size).
        attention_mask: Not used for a packed row.
        packing: The packing of the row.
        sliding_window: Distance from which tokens do not attend to each other; layers of local attention pass it.
        options: Further options of transformers' attention functions.

    Returns:
        (1, T, heads, head size), and None for the weights.
    """
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    padded = [packing.pad(states[0].transpose(0, 1)).transpose(1, 2) for states in (query, key, value)]
    is_causal = getattr(module, "is_causal", False)
    if is_causal and not getattr(module.config, "is_causal", True):
        is_causal = False
        sliding_window = sliding_window and sliding_window + 1  # transformers' switch includes the edge (5.23)
    mask = packing.attention_mask(sliding_window, is_causal)
    output, _ = sdpa_attention_forward(module, *padded, mask, **options)  # (B, L, heads, head size)
    return packing.unpad(output)[None], None


AttentionInterface.register(ATTENTION, padding_free_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def bounds_for_attention(encoder: PreTrainedModel, cu_seq_lens: Tensor, packing: Packing) -> dict:
    """Return the arguments of an encoder's forward that tell its attention the bounds of a packed row.

    Raises:
        ValueError: If its attention would attend across sentences.
    """
    attention = attention_of(encoder)
    if attention == ATTENTION:
        # transformers passes on a mask of four dimensions; without one, it may build one of T² elements.
        return {"packing": packing, "attention_mask": packing.mask.new_ones(1, 1, 1, 1)}
    if is_flash_attention_requested(requested_attention_implementation=attention):
        bounds, longest = cu_seq_lens.int(), packing.longest
        return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}
    raise ValueError(
        f"A packed batch needs an attention that knows the bounds of its sentences, but the encoder's is {attention}; "
        "call `model.allow_padding_free()` first."
    )


@torch.no_grad()
def find_first_position(encoder: PreTrainedModel) -> int | None:
    """Return the position at which a packed sentence starts, None if the encoder cannot take packed sentences.

    It can if transformers chooses its attention, `sdpa` included, and it embeds short sentences the same way packed
    and padded. Positions start at 0, or after the padding position as in RoBERTa. The encoder then uses the attention
    of this module, or keeps its flash attention, which takes bounds too. Otherwise its attention does not change.
    """
    before = attention_of(encoder)
    takes_positions = "position_ids" in inspect.signature(encoder.forward).parameters
    if not (takes_positions and can_set_attention(encoder) and supports_sdpa(encoder)):
        return None  # some families without `sdpa` cap their scores, which this attention would leave out
    first = None
    try:
        with evaluation_mode(encoder):
            encoder.set_attn_implementation(ATTENTION)
            starts = (0, padding_id(encoder) + 1)
            first = next((start for start in starts if _embeds_packed_as_padded(encoder, start)), None)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # each family fails in its own way
        pass
    finally:
        if first is None or is_flash_attention_requested(requested_attention_implementation=before):
            set_attention(encoder, before)
    return first


def _embeds_packed_as_padded(encoder: PreTrainedModel, first_position: int) -> bool:
    """Return whether an encoder without dropout embeds packed sentences as it embeds padded ones."""
    device, padding = encoder.device, padding_id(encoder)
    limit = getattr(encoder.config, "max_position_embeddings", None) or 0
    # Some families raise an error if a packed row is longer than their longest sentence.
    pairs = limit // 5 + 1 if limit <= _MOST_POSITIONS_TRIED else 1
    lengths = [3, 2] * pairs
    bounds = torch.tensor([0, *accumulate(lengths)], device=device)
    packing = Packing.of(bounds, longest=3, num_tokens=5 * pairs)
    tokens = (torch.arange(5, device=device) + padding + 1) % vocabulary_rows(encoder)
    positions = torch.tensor([0, 1, 2, 0, 1], device=device) + first_position
    tokens, positions = tokens.repeat(pairs), positions.repeat(pairs)  # (T,)
    padded = torch.full(packing.mask.shape, padding, device=device)
    padded[packing.mask] = tokens
    expected = encoder(input_ids=padded, attention_mask=packing.mask.long()).last_hidden_state[packing.mask]
    options = bounds_for_attention(encoder, bounds, packing)
    output = encoder(input_ids=tokens[None], position_ids=positions[None], **options).last_hidden_state[0]
    return torch.allclose(output, expected, rtol=1e-3, atol=1e-3)


_MOST_POSITIONS_TRIED = 1024
