"""What training may change in the tokens and the word embeddings of a view, beside dropout.

Nothing here is part of a saved model: `MoCoSEForPreTraining.forward` asks for it in training mode alone, and every
random choice comes from torch's generator of the tokens' device, which a checkpoint keeps. Nothing waits for a GPU.

Sources: cut-off and token shuffling are those of ConSERT (https://arxiv.org/abs/2105.11741, section 3.2), the fast
gradient sign method (FGSM) is eq. 1 of section 4 of https://arxiv.org/abs/1412.6572, and MoCoSE
(https://arxiv.org/abs/2202.13093, sections 3.1 and 5) compares them. Here each sentence has choices of its own, and
the gradient of FGSM is that of the very batch.
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
"""Which views random augmentations may apply to."""


@dataclass(frozen=True)
class Augmentation:
    """What is changed in a batch, in this order: places of tokens, tokens cut off, features cut off, noise, FGSM.

    Args:
        special_ids: Token ids that are never moved or cut off, such as those of [CLS], [SEP] and padding; all other
            tokens are ordinary ones.
        position_shuffle: Whether the ordinary tokens of a sentence change places at random.
        token_cutoff: Share in [0, 1) of a sentence's ordinary tokens whose word embedding becomes 0.
        feature_cutoff: Share in [0, 1) of the features that become 0 in all ordinary tokens of a sentence.
        embedding_noise: ε ≥ 0; each number of a word embedding goes up or down by it at random.
        view: Which view all of these apply to, one of `VIEWS`; on both they are drawn apart.
        fgsm_epsilon: ε ≥ 0, size of the FGSM step, always of the query view; 0 for none.
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
        """Whether ordinary tokens must be told from the others."""
        return bool(self.position_shuffle or self.token_cutoff or self.feature_cutoff)

    @property
    def changes_embeddings(self) -> bool:
        """Whether the encoder is given embeddings in the place of tokens."""
        return bool(self.token_cutoff or self.feature_cutoff or self.embedding_noise or self.fgsm_epsilon)

    @property
    def is_random(self) -> bool:
        """Whether there is anything that applies to `view`."""
        return self.needs_special_ids or bool(self.embedding_noise)

    def views(
        self, query: View, key: View, query_encoder: PreTrainedModel, key_encoder: PreTrainedModel
    ) -> tuple[View, View]:
        """Return the views of both branches, augmented where `view` says so."""
        if self.is_random and self.view != "key":
            query = self.augment(query, query_encoder)
        if self.is_random and self.view != "query":
            key = self.augment(key, key_encoder)  # with gradient, for subclasses whose keys carry one
        return query, key

    def augment(self, view: View, encoder: PreTrainedModel) -> View:
        """Return a view with places, cut-offs and noise drawn for it; that of the argument stays as it is.

        Args:
            view: Padded or packed.
            encoder: The one whose word embeddings are taken.
        """
        places = _Places.of(view)
        ordinary = places.ordinary(view, self.special_ids)  # (B, L)
        if self.position_shuffle:
            shuffled = shuffle(places.pad(view.input_ids), ordinary)  # (B, L)
            view = replace(view, input_ids=places.unpad(shuffled))
        if not (self.token_cutoff or self.feature_cutoff or self.embedding_noise):
            return view
        embeddings = embed_tokens(encoder, view)  # (B, L, E) or (1, T, E)
        if self.token_cutoff:
            cut = draw_share(ordinary, self.token_cutoff)  # (B, L)
            embeddings = embeddings.masked_fill(places.unpad(cut).unsqueeze(-1), 0.0)
        if self.feature_cutoff:
            features = ordinary.new_ones(len(ordinary), embeddings.shape[-1])
            cut = draw_share(features, self.feature_cutoff)  # (B, E)
            of_tokens = places.of_sentences(cut)  # (B, 1, E) or (1, T, E)
            embeddings = embeddings.masked_fill(places.unpad(ordinary).unsqueeze(-1) & of_tokens, 0.0)
        if self.embedding_noise:
            embeddings = embeddings + self.embedding_noise * random_signs(embeddings)
        return replace(view, inputs_embeds=embeddings)


class _Places(NamedTuple):
    """Where the tokens of a view are, so that a packed row can be seen as the padded batch (B, L) that it stands for.

    Args:
        packing: Of a packed view; None for a padded one.
    """

    packing: Packing | None

    @classmethod
    def of(cls, view: View) -> "_Places":
        if view.cu_seq_lens_q is None:
            return cls(None)
        return cls(Packing.of(view.cu_seq_lens_q, view.max_length_q, view.input_ids.shape[1]))

    def pad(self, tokens: Tensor) -> Tensor:
        """Turn (1, T) into (B, L); leave (B, L) as it is."""
        return tokens if self.packing is None else self.packing.pad(tokens[0])

    def unpad(self, padded: Tensor) -> Tensor:
        """Turn (B, L) into (1, T) where the view is packed."""
        return padded if self.packing is None else self.packing.unpad(padded)[None]

    def of_sentences(self, values: Tensor) -> Tensor:
        """Turn what belongs to sentences, (B, E), into what fits their tokens, (B, 1, E) or (1, T, E)."""
        if self.packing is None:
            return values[:, None]
        return values.index_select(0, self.packing.slots // self.packing.longest)[None]

    def ordinary(self, view: View, special_ids: tuple[int, ...]) -> Tensor:
        """Return which places of the padded batch hold ordinary tokens, (B, L) bool."""
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
    """Permute the ordinary tokens of each sentence among their places, each permutation as likely as any other.

    This is the same as to leave the tokens and permute their positions: an encoder sees a set of pairs of token and
    position, which is the same either way, and pooling does not ask for the order of the pairs, as [CLS] stays. Done
    to the tokens it needs no position ids and works where positions are relative.

    Args:
        tokens: (B, L) int64.
        ordinary: (B, L) bool, which of them may move.
    """
    # The ordinary ones come first in both orders: as they stand, and at random. The others meet themselves.
    places = (~ordinary).byte().argsort(dim=1, stable=True)  # (B, L)
    drawn = _random_order(ordinary)
    return tokens.scatter(1, places, tokens.gather(1, drawn))


def draw_share(candidates: Tensor, share: float) -> Tensor:
    """Draw a share p of the candidates of each row, (B, N) bool, all subsets of one size being equally likely.

    Of n candidates ⌊p·n + u⌋ are drawn, u uniform in [0, 1) for each row, so p·n are expected, whatever n is.

    Args:
        candidates: (B, N) bool.
        share: p in [0, 1).
    """
    wanted = candidates.sum(1) * share  # (B,) float
    whole = wanted.floor()
    count = whole + (torch.rand_like(wanted) < wanted - whole)  # (B,)
    ranks = _random_order(candidates).argsort(dim=1)  # (B, N), each candidate's place in the order
    return candidates & (ranks < count[:, None])


def random_signs(like: Tensor) -> Tensor:
    """Draw −1 or 1, equally likely, for each number of a tensor."""
    return (torch.rand_like(like) < 0.5).to(like.dtype) * 2 - 1


def _random_order(first: Tensor) -> Tensor:
    """Return the columns of each row, (B, N) int64: those marked in `first` at random, then the others as they are."""
    draws = torch.rand(first.shape, device=first.device).masked_fill(~first, 2.0)
    return draws.argsort(dim=1, stable=True)


def contrast_under_attack(model, query: View, key: View, sentence_ids: Tensor | None, epsilon: float):
    """Contrast the query view at x + ε·sign(∇ₓ loss), x being its word embeddings, as `model.forward` does at x.

    The gradient is that of this very batch: the keys are computed once, and both passes of the online branch draw the
    same dropout masks, those that a forward without FGSM would draw. It is taken with respect to the embeddings alone,
    so no gradient of a parameter is added to. The step is done in the embeddings' own float32, bf16 or not, and what
    it changes is no more than their last digit where ε is near 1e-9, and nothing where it is smaller.

    Args:
        model: A `MoCoSEForPreTraining`.
        query, key, sentence_ids: The views of the batch and its sentences' ids.
        epsilon: ε above 0.

    Returns:
        What `model.contrast` returns.
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
    """Return the states of torch's generators that a forward on this device draws from: the CPU's, and its own."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(*_which(device)))
    return states


def set_random_states(device: torch.device, states: list[Tensor]) -> None:
    """Set what `random_states` returned for this device."""
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], *_which(device))


def _which(device: torch.device) -> tuple[torch.device, ...]:
    """Return the device as an argument, where there can be more than one of its kind."""
    return () if device.type == "mps" else (device,)
