"""Augmentations of the tokens and the word embeddings of a view, besides dropout.

They are not part of a saved model; `ContrastiveModel.forward` applies them in training mode only. Every random choice
comes from torch's generator of the tokens' device, which is part of a checkpoint. No function synchronises a GPU.

Sources: cut-off and token shuffling are those of ConSERT (https://arxiv.org/abs/2105.11741, section 3.2), the fast
gradient sign method (FGSM) is eq. 1 of section 4 of https://arxiv.org/abs/1412.6572, and MoCoSE
(https://arxiv.org/abs/2202.13093, sections 3.1 and 5) compares them. Here the choices are drawn for each sentence, and
FGSM uses the gradient of the same batch.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mocose_hf.models.pooling import exclude_prompt
from mocose_hf.models.sequence_packing import Packing
from mocose_hf.models.views import View, embed_tokens

VIEWS = ("query", "key", "both")
"""The views that random augmentations can apply to."""


@dataclass(frozen=True)
class Augmentation:
    """The changes of a batch, in this order: shuffled positions, token cut-off, feature cut-off, noise, FGSM.

    Args:
        special_ids: Token ids that are never moved or cut off, such as those of [CLS], [SEP] and padding. All other
            tokens are ordinary tokens.
        position_shuffle: Whether the ordinary tokens of a sentence are permuted at random.
        token_cutoff: Fraction in [0, 1) of a sentence's ordinary tokens whose word embedding becomes 0.
        feature_cutoff: Fraction in [0, 1) of the features that become 0 in all ordinary tokens of a sentence.
        embedding_noise: ε ≥ 0, added to or subtracted from each number of a word embedding at random.
        view: The view that all of these apply to, one of `VIEWS`; for both, each view has its own draws.
        fgsm_epsilon: ε ≥ 0, size of the FGSM step on the query view; 0 for none.
    """

    special_ids: tuple[int, ...] = ()
    position_shuffle: bool = False
    token_cutoff: float = 0.0
    feature_cutoff: float = 0.0
    embedding_noise: float = 0.0
    view: str = "query"
    fgsm_epsilon: float = 0.0

    @property
    def needs_special_ids(self) -> bool:
        """Whether a change distinguishes ordinary tokens from special ones."""
        return bool(self.position_shuffle or self.token_cutoff or self.feature_cutoff)

    @property
    def changes_embeddings(self) -> bool:
        """Whether the encoder gets embeddings instead of tokens."""
        return bool(self.token_cutoff or self.feature_cutoff or self.embedding_noise or self.fgsm_epsilon)

    @property
    def is_random(self) -> bool:
        """Whether there is a random change, which applies to `view`."""
        return self.needs_special_ids or bool(self.embedding_noise)

    def views(
        self, query: View, key: View, query_encoder: PreTrainedModel, key_encoder: PreTrainedModel
    ) -> tuple[View, View]:
        """Return the views of both branches, with those selected by `view` augmented."""
        if self.is_random and self.view != "key":
            query = self.augment(query, query_encoder)
        if self.is_random and self.view != "query":
            key = self.augment(key, key_encoder)  # with gradient, because SimCSE's keys carry it
        return query, key

    def negative_view(self, view: View, encoder: PreTrainedModel) -> View:
        """Return the view of hard negatives, augmented as keys are, so that only the text differs."""
        return self.augment(view, encoder) if self.is_random and self.view != "query" else view

    def augment(self, view: View, encoder: PreTrainedModel) -> View:
        """Return an augmented copy of a view.

        Args:
            view: Padded or packed.
            encoder: The encoder whose word embeddings are changed.
        """
        layout = _Layout.of(view)
        ordinary = layout.ordinary(view, self.special_ids)  # (B, L)
        if self.position_shuffle:
            shuffled = shuffle(layout.pad(view.input_ids), ordinary)  # (B, L)
            view = replace(view, input_ids=layout.unpad(shuffled))
        if not (self.token_cutoff or self.feature_cutoff or self.embedding_noise):
            return view
        embeddings = embed_tokens(encoder, view)  # (B, L, E) or (1, T, E)
        if self.token_cutoff:
            cut = draw_fraction(ordinary, self.token_cutoff)  # (B, L)
            embeddings = embeddings.masked_fill(layout.unpad(cut).unsqueeze(-1), 0.0)
        if self.feature_cutoff:
            features = ordinary.new_ones(len(ordinary), embeddings.shape[-1])
            cut = draw_fraction(features, self.feature_cutoff)  # (B, E)
            is_cut = layout.expand_to_tokens(cut)  # (B, 1, E) or (1, T, E)
            embeddings = embeddings.masked_fill(layout.unpad(ordinary).unsqueeze(-1) & is_cut, 0.0)
        if self.embedding_noise:
            embeddings = embeddings + self.embedding_noise * random_signs(embeddings)
        return replace(view, inputs_embeds=embeddings)


class _Layout(NamedTuple):
    """Convert between a view, padded or packed, and the padded batch (B, L).

    Args:
        packing: The packing of a packed view; None for a padded one.
    """

    packing: Packing | None

    @classmethod
    def of(cls, view: View) -> "_Layout":
        if view.cu_seq_lens_q is None:
            return cls(None)
        return cls(Packing.of(view.cu_seq_lens_q, view.max_length_q, view.input_ids.shape[1]))

    def pad(self, tokens: Tensor) -> Tensor:
        """Return tokens (1, T) of a packed view as (B, L); those of a padded view unchanged."""
        return tokens if self.packing is None else self.packing.pad(tokens[0])

    def unpad(self, padded: Tensor) -> Tensor:
        """Return (B, L) as (1, T) if the view is packed, else unchanged."""
        return padded if self.packing is None else self.packing.unpad(padded)[None]

    def expand_to_tokens(self, values: Tensor) -> Tensor:
        """Return values of sentences, (B, E), in a shape that broadcasts to their tokens, (B, 1, E) or (1, T, E)."""
        if self.packing is None:
            return values[:, None]
        return values.index_select(0, self.packing.slots // self.packing.longest)[None]

    def ordinary(self, view: View, special_ids: tuple[int, ...]) -> Tensor:
        """Return which entries of the padded batch are ordinary tokens, (B, L) bool."""
        tokens = self.pad(view.input_ids)
        if self.packing is not None:
            ordinary = self.packing.mask.clone()
        elif view.attention_mask is not None:
            ordinary = view.attention_mask.bool()
        else:
            ordinary = torch.ones_like(tokens, dtype=torch.bool)
        if view.prompt_length:
            ordinary = exclude_prompt(ordinary, view.prompt_length, tokens)
        for number in special_ids:
            ordinary = ordinary & (tokens != number)
        return ordinary


def shuffle(tokens: Tensor, ordinary: Tensor) -> Tensor:
    """Permute the ordinary tokens of each sentence; all permutations are equally likely.

    This equals a permutation of their positions: an encoder sees the same set of pairs of token and position, and
    pooling does not depend on the order of the pairs, because [CLS] does not move. Permuting tokens needs no position
    ids and also works with relative positions.

    Args:
        tokens: (B, L) int64.
        ordinary: (B, L) bool, which tokens may move.
    """
    # Ordinary tokens come first in both orders, the given and the random one. All others map to themselves.
    given_order = (~ordinary).byte().argsort(dim=1, stable=True)  # (B, L)
    random_order = _random_order(ordinary)
    return tokens.scatter(1, given_order, tokens.gather(1, random_order))


def draw_fraction(candidates: Tensor, fraction: float) -> Tensor:
    """Draw a fraction p of the candidates of each row, (B, N) bool; all subsets of a size are equally likely.

    Of n candidates it draws ⌊p·n + u⌋, with u uniform in [0, 1) for each row, so the expected number is p·n.

    Args:
        candidates: (B, N) bool.
        fraction: p in [0, 1).
    """
    expected = candidates.sum(1) * fraction  # (B,) float
    floor = expected.floor()
    count = floor + (torch.rand_like(expected) < expected - floor)  # (B,)
    ranks = _random_order(candidates).argsort(dim=1)  # (B, N), each candidate's rank in the order
    return candidates & (ranks < count[:, None])


def random_signs(like: Tensor) -> Tensor:
    """Draw −1 or 1, equally likely, for each number of a tensor."""
    return (torch.rand_like(like) < 0.5).to(like.dtype) * 2 - 1


def _random_order(first: Tensor) -> Tensor:
    """Return the columns of each row, (B, N) int64: those in `first` in random order, then the others in order."""
    draws = torch.rand(first.shape, device=first.device).masked_fill(~first, 2.0)
    return draws.argsort(dim=1, stable=True)


def contrast_under_attack(model, query: View, key: View, sentence_ids: Tensor | None, epsilon: float):
    """Contrast the query view at x + ε·sign(∇ₓ loss), with x its word embeddings, as `model.forward` does at x.

    The gradient is that of the same batch: the keys are computed once, and both passes of the online branch draw the
    same dropout masks, which are those of a forward without FGSM. It is taken only with respect to the embeddings, so
    no parameter's gradient changes. The step is made in float32, even with bf16. With ε near 1e-9 it changes at most
    the last digit of an embedding, with a smaller ε nothing.

    Args:
        model: A `ContrastiveModel`.
        query, key, sentence_ids: The views of the batch and its sentences' ids.
        epsilon: ε above 0.

    Returns:
        The output of `model.contrast`.
    """
    device = query.input_ids.device
    embeddings = query.inputs_embeds
    if embeddings is None:
        embeddings = embed_tokens(model.mocose.encoder, query)  # (B, L, E) or (1, T, E)
    before_queries = random_states(device)
    with torch.enable_grad():
        point = embeddings.detach().requires_grad_()
        queries = model.encode_queries(replace(query, inputs_embeds=point))
        keys = model.encode_keys(key)
        before_contrast = random_states(device)
        loss = model.contrast(queries, keys.detach(), sentence_ids).loss  # keys do not depend on the point
        (gradient,) = torch.autograd.grad(loss, point)
    set_random_states(device, before_queries)
    moved = replace(query, inputs_embeds=embeddings + epsilon * gradient.sign())
    queries = model.encode_queries(moved)
    set_random_states(device, before_contrast)
    return model.contrast(queries, keys, sentence_ids)


def random_states(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that a forward on this device uses: the CPU's and the device's."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(*_device_argument(device)))
    return states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Restore the states that `random_states` returned for this device."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], *_device_argument(device))


def _device_argument(device: torch.device) -> tuple[torch.device, ...]:
    """Return the device as an argument, unless its kind has only one device."""
    return () if device.type == "mps" else (device,)
