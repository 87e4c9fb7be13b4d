"""Embed each sentence once, whatever number of tasks it stands in and of processes there are."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mocose_hf.distributed import gather_rows, process_count, process_index


class SentenceEmbeddings:
    """The embeddings of different sentences; called with N of them, repeated or not, it returns theirs, (N, H).

    Args:
        sentences: M different sentences.
        matrix: (M, H) float32, their embeddings.
    """

    def __init__(self, sentences: Sequence[str], matrix: Tensor):
        self.matrix = matrix
        self._rows = {sentence: row for row, sentence in enumerate(sentences)}

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Return their embeddings, (N, H) float32."""
        return self.matrix[[self._rows[sentence] for sentence in sentences]]


def embed(model, tokenizer, sentences: Iterable[str], **encode_options) -> SentenceEmbeddings:
    """Embed the different ones among the sentences; with W processes each embeds a W-th of them.

    All processes must give the same sentences, and all are returned all embeddings.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`, such as `MoCoSEModel`.
        tokenizer: The model's tokenizer.
        sentences: In any order, repeated or not.
        encode_options: As `encode` takes them.

    Raises:
        FloatingPointError: Where an embedding is not finite, on all processes.
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
    return SentenceEmbeddings(different, embeddings)


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
