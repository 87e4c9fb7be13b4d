"""Embed each sentence once, in however many tasks it occurs, and share the work among processes."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.parallel.collectives import gather_rows, process_count, process_index

QUERY, DOCUMENT = "query", "document"
"""The roles of texts in retrieval, for which models such as E5 have prompts of their own."""

_ROLE_PROMPTS = {QUERY: ("query",), DOCUMENT: ("document", "passage", "corpus")}
"""Names of the prompts of each role, as sentence-transformers looks them up; the first one that the model has."""

RoleTexts = Mapping[str | None, Iterable[str]]
"""Texts by role; None for texts that get the model's default prompt."""

_ROUNDING = 1e-6
"""Distance on the unit sphere that rounding in float32 can make between equal embeddings of different batches."""

_BLOCK_ROWS = 4096


class SentenceEmbeddings:
    """The embeddings of different sentences; called with N of them, repeated or not, it returns (N, H).

    Args:
        sentences: M different sentences.
        matrix: (M, H) float32, their embeddings.
        similarity_fn_name: How the model compares embeddings, as `pair_similarities` takes it.
        roles: The embeddings of texts that were embedded with the prompt of a role, by role.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        matrix: Tensor,
        similarity_fn_name: str = "cosine",
        roles: "Mapping[str, SentenceEmbeddings] | None" = None,
    ):
        self.matrix = matrix
        self.similarity_fn_name = similarity_fn_name
        self._rows = {sentence: row for row, sentence in enumerate(sentences)}
        self._roles = roles or {}

    def __call__(self, sentences: Sequence[str], role: str | None = None) -> Tensor:
        """Return the embeddings of N sentences in a role, (N, H) float32."""
        if role in self._roles:
            return self._roles[role](sentences)
        return self.matrix[[self._rows[sentence] for sentence in sentences]]


def embed(
    model, tokenizer, sentences: Iterable[str] | RoleTexts, *, needs_spread: bool = False, **encode_options
) -> SentenceEmbeddings:
    """Embed each different sentence once; each of W processes embeds 1/W of them.

    All processes must pass the same sentences, and all get all embeddings.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`, such as `MoCoSEModel`.
        tokenizer: The model's tokenizer.
        sentences: In any order, repeated or not; by role if they have roles. A role without a prompt in the model
            gets the default prompt.
        needs_spread: Whether embeddings that all have one direction are an error, because they rank nothing.
        encode_options: As `encode` takes them.

    Raises:
        FloatingPointError: On all processes, if an embedding is not finite, or if the embeddings of different
            sentences all have one direction and `needs_spread` is true.
    """
    role_texts = sentences if isinstance(sentences, Mapping) else {None: sentences}
    by_prompt: dict[str | None, dict[str, None]] = {None: {}}
    prompts = {role: _role_prompt(model, role) for role in role_texts}
    for role, texts in role_texts.items():
        by_prompt.setdefault(prompts[role], {}).update(dict.fromkeys(texts))
    parts = {
        prompt: _embed_with_prompt(model, tokenizer, list(texts), prompt, needs_spread, encode_options)
        for prompt, texts in by_prompt.items()
        if texts or len(by_prompt) == 1
    }
    similarity_fn_name = getattr(getattr(model, "config", None), "similarity_fn_name", "cosine")
    embeddings = {
        prompt: SentenceEmbeddings(list(by_prompt[prompt]), matrix, similarity_fn_name)
        for prompt, matrix in parts.items()
    }
    roles = {role: embeddings[prompt] for role, prompt in prompts.items() if prompt is not None and prompt in parts}
    matrix = parts[None] if None in parts else next(iter(parts.values()))[:0]
    return SentenceEmbeddings(list(by_prompt[None]), matrix, similarity_fn_name, roles)


def _role_prompt(model, role: str | None) -> str | None:
    """Return the name of the model's prompt for a role, None for the default prompt."""
    prompts = getattr(getattr(model, "config", None), "prompts", None) or {}
    return next((name for name in _ROLE_PROMPTS.get(role, ()) if name in prompts), None)


def _embed_with_prompt(model, tokenizer, sentences, prompt_name, needs_spread, encode_options) -> Tensor:
    share, row_of = _share(sentences, process_index(), process_count())
    prompt = {} if prompt_name is None else {"prompt_name": prompt_name}
    embeddings = model.encode(share, tokenizer, **encode_options, **prompt)
    if process_count() > 1:
        embeddings = gather_rows(embeddings.to(model.device)).cpu()[row_of]
    bad = int((~embeddings.isfinite().all(dim=-1)).sum())
    if bad:
        raise FloatingPointError(
            f"The embeddings of {bad:,} of {len(sentences):,} sentences are not finite, so there is nothing to score; "
            "use another checkpoint, or float32."
        )
    if needs_spread and len(sentences) > 1 and _have_one_direction(embeddings):
        raise FloatingPointError(
            f"All {len(sentences):,} sentences have the same embedding, so there is nothing to score: no correlation "
            "with a constant is a number; use another checkpoint, or another `pooling_mode`."
        )
    return embeddings


def _have_one_direction(embeddings: Tensor) -> bool:
    """Return whether the rows (N, H) differ in direction only by rounding errors."""
    first = F.normalize(embeddings[:1], dim=-1)
    return all(
        bool(((F.normalize(rows, dim=-1) - first).norm(dim=-1) <= _ROUNDING).all())
        for rows in embeddings.split(_BLOCK_ROWS)
    )


def _share(sentences: list[str], index: int, count: int) -> tuple[list[str], Tensor | None]:
    """Return the sentences that one process embeds, and the row of each sentence in the gathered embeddings.

    Sentences are dealt out by length, so that all shares take the same time. The last sentence may be dealt repeatedly
    to make all shares equally long: ZeRO-3 needs the same number of forwards on all processes.
    """
    if count == 1:
        return sentences, None
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]), reverse=True)
    order += order[-1:] * (-len(order) % count)
    size = len(order) // count
    row_of = torch.empty(len(sentences), dtype=torch.long)
    for position, i in enumerate(order):
        row_of[i] = position % count * size + position // count
    return [sentences[i] for i in order[index::count]], row_of
