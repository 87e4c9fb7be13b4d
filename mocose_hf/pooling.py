"""From token embeddings to one sentence embedding."""

import torch
from torch import Tensor


def pool(token_embeddings: Tensor, attention_mask: Tensor | None, mode: str) -> Tensor:
    """Pool token embeddings (B, L, H) to sentence embeddings (B, H).

    Args:
        token_embeddings: (B, L, H), the encoder's last hidden state, padded on the right.
        attention_mask: (B, L), 1 for tokens and 0 for padding; all tokens where None.
        mode: "cls" for the first token, "mean" or "max" over the tokens that are no padding. All agree to the last
            bit with the module `Pooling` of sentence-transformers (https://sbert.net/docs/package_reference).
    """
    if mode == "cls":
        return token_embeddings[:, 0]
    if attention_mask is None:
        attention_mask = token_embeddings.new_ones(token_embeddings.shape[:2])
    mask = attention_mask.unsqueeze(-1).expand(token_embeddings.shape)
    if mode == "mean":
        # Sums of half-precision numbers are taken in float32, or the count of a long sentence would be rounded.
        dtype = torch.promote_types(token_embeddings.dtype, torch.float32)
        mask = mask.to(token_embeddings.dtype)
        total = (token_embeddings * mask).sum(1, dtype=dtype)  # (B, H)
        return (total / mask.sum(1, dtype=dtype).clamp(min=1e-9)).to(token_embeddings.dtype)
    if mode == "max":
        return token_embeddings.masked_fill(mask == 0, float("-inf")).max(1).values
    raise ValueError(f"`pooling_mode` is cls, mean or max, not {mode!r}.")
