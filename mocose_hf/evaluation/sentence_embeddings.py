"""Embed each sentence once, whatever number of tasks it stands in and of processes there are."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.parallel.collectives import gather_rows, process_count, process_index

_ROUNDING = 1e-6
"""Distance on the unit sphere that rounding in float32 can make between equal embeddings of different batches."""

_ROWS_AT_ONCE = 4096


class SentenceEmbeddings:
    """The embeddings of different sentences; called with N of them, repeated or not, it returns theirs, (N, H).

    Args:
        sentences: M different sentences.
        matrix: (M, H) float32, their embeddings.
        similarity_fn_name: How the model compares embeddings, as `pair_similarities` takes it.
    """

    def __init__(self, sentences: Sequence[str], matrix: Tensor, similarity_fn_name: str = "cosine"):
        self.matrix = matrix
        self.similarity_fn_name = similarity_fn_name
        self._rows = {sentence: row for row, sentence in enumerate(sentences)}

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Return their embeddings, (N, H) float32."""
        return self.matrix[[self._rows[sentence] for sentence in sentences]]


def embed(
    model, tokenizer, sentences: Iterable[str], *, needs_spread: bool = False, **encode_options
) -> SentenceEmbeddings:
    """Embed the different ones among the sentences; with W processes each embeds a W-th of them.

    All processes must give the same sentences, and all are returned all embeddings.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`, such as `MoCoSEModel`.
        tokenizer: The model's tokenizer.
        sentences: In any order, repeated or not.
        needs_spread: Whether embeddings of one direction are an error, as nothing can be ranked by them.
        encode_options: As `encode` takes them.

    Raises:
        FloatingPointError: If an embedding is not finite, or if the embeddings of different sentences all have one
            direction and `needs_spread`; on all processes.
    """
    different = list(dict.fromkeys(sentences))
    share, row_of = _share(different, process_index(), process_count())
    embeddings = model.encode(share, tokenizer, **encode_options)
    if process_count() > 1:
        embeddings = gather_rows(embeddings.to(model.device)).cpu()[row_of]
    bad = int((~embeddings.isfinite().all(dim=-1)).sum())
    if bad:
        raise FloatingPointError(
            f"The embeddings of {bad:,} of {len(different):,} sentences are not finite, so there is nothing to score; "
            "use another checkpoint, or float32."
        )
    if needs_spread and len(different) > 1 and _have_one_direction(embeddings):
        raise FloatingPointError(
            f"All {len(different):,} sentences have the same embedding, so there is nothing to score: no correlation "
            "with a constant is a number; use another checkpoint, or another `pooling_mode`."
        )
    similarity_fn_name = getattr(getattr(model, "config", None), "similarity_fn_name", "cosine")
    return SentenceEmbeddings(different, embeddings, similarity_fn_name)


def _have_one_direction(embeddings: Tensor) -> bool:
    """Return whether the rows (N, H) differ in direction by no more than rounding errors."""
    first = F.normalize(embeddings[:1], dim=-1)
    return all(
        bool(((F.normalize(rows, dim=-1) - first).norm(dim=-1) <= _ROUNDING).all())
        for rows in embeddings.split(_ROWS_AT_ONCE)
    )


def _share(sentences: list[str], index: int, count: int) -> tuple[list[str], Tensor | None]:
    """Return what one of several processes embeds, and in which of all processes' rows each sentence is found.

    Sentences are dealt out by length, so that shares take the same time. The last may be dealt twice: all shares are
    of one size, as ZeRO-3 asks for the same number of forwards on all processes.
    """
    if count == 1:
        return sentences, None
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]), reverse=True)
    order += order[-1:] * (-len(order) % count)
    size = len(order) // count
    row_of = torch.empty(len(sentences), dtype=torch.long)
    for place, i in enumerate(order):
        row_of[i] = place % count * size + place // count
    return [sentences[i] for i in order[index::count]], row_of
