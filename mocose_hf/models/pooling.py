"""From token embeddings to one sentence embedding."""

import torch
from torch import Tensor

POOLING_MODES = ("cls", "mean", "max", "lasttoken")


def pool(token_embeddings: Tensor, attention_mask: Tensor | None, mode: str) -> Tensor:
    """Pool token embeddings (B, L, H) to sentence embeddings (B, H).

    Args:
        token_embeddings: (B, L, H), the encoder's last hidden state.
        attention_mask: (B, L), 1 for tokens and 0 for padding on either side; None if there is no padding.
        mode: "cls" for the first token, "lasttoken" for the last one, "mean" or "max" over all tokens. Padding never
            counts. All modes equal those of sentence-transformers' `Pooling` bit for bit
            (https://sbert.net/docs/package_reference).

    Raises:
        ValueError: If there is no such mode.
    """
    if mode not in POOLING_MODES:
        raise ValueError(f"`pooling_mode` is one of {', '.join(POOLING_MODES)}, not {mode!r}.")
    if attention_mask is None:
        attention_mask = token_embeddings.new_ones(token_embeddings.shape[:2])
    if mode in ("cls", "lasttoken"):
        indices = first_tokens(attention_mask) if mode == "cls" else last_tokens(attention_mask)  # (B,)
        return token_embeddings.take_along_dim(indices[:, None, None], dim=1).squeeze(1)
    mask = attention_mask.unsqueeze(-1).expand(token_embeddings.shape)
    if mode == "mean":
        # In half precision, the token count of a long sentence would be rounded.
        dtype = torch.promote_types(token_embeddings.dtype, torch.float32)
        mask = mask.to(token_embeddings.dtype)
        total = (token_embeddings * mask).sum(1, dtype=dtype)  # (B, H)
        return (total / mask.sum(1, dtype=dtype).clamp(min=1e-9)).to(token_embeddings.dtype)
    return token_embeddings.masked_fill(mask == 0, float("-inf")).max(1).values


def first_tokens(attention_mask: Tensor) -> Tensor:
    """Return the index of each row's first token, (B,) int64, for a mask (B, L); 0 if the row has none."""
    return attention_mask.int().argmax(1)


def last_tokens(attention_mask: Tensor) -> Tensor:
    """Return the index of each row's last token, (B,) int64, for a mask (B, L); L − 1 if the row has none."""
    return attention_mask.shape[1] - 1 - attention_mask.int().flip(1).argmax(1)


def rotate_rows(rows: Tensor, starts: Tensor) -> Tensor:
    """Rotate each row of (B, L, …) so that the entry at `starts` (B,) comes first; negative starts undo it.

    With the indices of the first tokens, this moves padding from the left to the right. Rows that are padded on the
    right do not change.
    """
    length = rows.shape[1]
    indices = (torch.arange(length, device=rows.device) + starts[:, None]) % length  # (B, L)
    return rows.take_along_dim(indices.view(*indices.shape, *[1] * (rows.ndim - 2)), dim=1)


def exclude_prompt(attention_mask: Tensor | None, prompt_length: int | None, tokens: Tensor) -> Tensor | None:
    """Return the mask of the tokens to pool, (B, L), without the prompt at the start of each row.

    Args:
        attention_mask: (B, L), padded on the right; None if there is no padding.
        prompt_length: Number of tokens of the prompt, including special tokens before it; None or 0 to pool all.
        tokens: (B, L, …), for shape and device.
    """
    if not prompt_length:
        return attention_mask
    after = torch.arange(tokens.shape[1], device=tokens.device) >= prompt_length  # (L,)
    return after.expand(tokens.shape[:2]) if attention_mask is None else attention_mask.bool() & after
