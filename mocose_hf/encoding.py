"""Turn sentences into embeddings outside training."""

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm


@torch.no_grad()
def encode(
    model,
    sentences: list[str],
    tokenizer,
    *,
    batch_size: int = 128,
    max_seq_length: int | None = None,
    normalize: bool = False,
    show_progress: bool = False,
) -> Tensor:
    """Embed sentences with dropout off, in batches of similar length, in the order given.

    Args:
        model: A `MoCoSEModel`; it is left in the mode it was in.
        sentences: N texts.
        tokenizer: The tokenizer saved with the model.
        batch_size: Sentences per forward.
        max_seq_length: Longest input in tokens; that of `encoder_max_length` where None.
        normalize: Whether to scale each embedding to length 1.
        show_progress: Whether to show a bar.

    Returns:
        (N, H) float32, on the CPU.

    Raises:
        TypeError: Where one sentence is given instead of a list.
    """
    if isinstance(sentences, str):
        raise TypeError("`encode` takes a list of sentences; put the one sentence into a list.")
    was_training = model.training
    model.eval()
    max_seq_length = max_seq_length or encoder_max_length(tokenizer, model.config.encoder_config)
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]), reverse=True)
    embeddings = torch.empty(len(sentences), model.config.hidden_size)
    try:
        for start in tqdm(range(0, len(order), batch_size), desc="Encoding", disable=None if show_progress else True):
            rows = order[start : start + batch_size]
            batch = tokenizer(
                [sentences[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=max_seq_length,
                return_tensors="pt",
            ).to(model.device)
            embeddings[rows] = model(**batch).pooler_output.float().cpu()
    finally:
        model.train(was_training)
    return F.normalize(embeddings, dim=-1) if normalize else embeddings


def encoder_max_length(tokenizer, encoder_config) -> int:
    """Return the longest input in tokens that tokenizer and encoder both allow."""
    limits = [tokenizer.model_max_length]
    positions = getattr(encoder_config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa and its kin count positions from the padding index on, so that many are never used.
        offset = (encoder_config.pad_token_id or 0) + 1 if encoder_config.model_type in _OFFSET_POSITIONS else 0
        limits.append(positions - offset)
    return min(limits)


_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet"}
