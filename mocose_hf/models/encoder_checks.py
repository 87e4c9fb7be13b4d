"""Run an encoder on a few tokens to find out whether it can embed sentences, before it is trained."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from mocose_hf.compat import attention_of, set_attention, supports_sdpa
from mocose_hf.errors import one_line

if TYPE_CHECKING:  # importing it takes seconds, and configurations need only `validate_family`
    from transformers import PreTrainedModel

logger = logging.get_logger(__name__)

CPU_TOLERANCE = 1e-4
"""Largest difference between two results that count as equal, as a share of the largest value."""

GPU_TOLERANCE = 1e-2
"""The same on other devices, where TF32 keeps three digits."""


@contextmanager
def probing(encoder: "PreTrainedModel") -> Iterator[None]:
    """Let an encoder run in evaluation mode inside, on any device and in any precision; put it back afterwards.

    Its modes, its attention and torch's random states are then as before. Flash and flex attention give way to one
    that runs everywhere.
    """
    before = attention_of(encoder)
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluation_mode(encoder):
        if any(kind in str(before) for kind in ("flash", "flex", "paged")):
            set_attention(encoder, "sdpa" if supports_sdpa(encoder) else "eager")
        try:
            yield
        finally:
            set_attention(encoder, before)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside, and each of its modules back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def validate_family(config: PreTrainedConfig) -> None:
    """Raise an error if models of a configuration are no encoders of text alone, without building one.

    Raises:
        ValueError: If they have a decoder, or need a processor of images or sounds.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    if config.is_encoder_decoder:
        raise ValueError(f"`{config.model_type}` is an encoder-decoder, but MoCoSE needs an encoder; start from one.")
    if config.model_type in PROCESSOR_MAPPING_NAMES:
        raise ValueError(
            f"`{config.model_type}` takes more than text, so it needs a processor that an export does not hold; start "
            "from an encoder of text alone."
        )


@torch.no_grad()
def validate_encoder(encoder: "PreTrainedModel", pooling_mode: str) -> None:
    """Raise an error if an encoder cannot give each sentence one embedding under a pooling mode.

    The encoder runs on a few short sentences: alone, padded, in training mode, and with another last token. Its
    weights, modes and torch's random state stay as they are.

    Args:
        encoder: An encoder with weights, on any device.
        pooling_mode: As `pool` takes it.

    Raises:
        ValueError: If the encoder needs more than tokens, returns no embedding of each token, depends on padding or
            on chance, or is causal while `pooling_mode` is "cls".
    """
    family = encoder.config.model_type
    tokens = _tokens(encoder, 7)  # (7,)
    short = tokens[None, :4]
    with probing(encoder):
        alone = _run(encoder, short)
        if alone is None or alone.shape != (1, 4, encoder.config.hidden_size):
            shape = "no last hidden state" if alone is None else f"a last hidden state of shape {tuple(alone.shape)}"
            raise ValueError(
                f"`{family}` returns {shape} for 4 tokens, but pooling needs one embedding of width "
                f"{encoder.config.hidden_size} for each token; start from another encoder."
            )
        scale = alone.abs().max()
        if not scale.isfinite():
            raise ValueError(f"`{family}` returns embeddings that are not finite; check the weights of the encoder.")
        if not _is_close(alone, _run(encoder, short), scale):
            raise ValueError(
                f"`{family}` embeds the same sentence differently each time, even without dropout; set its random "
                "seed in config.json if it has one, such as `hash_seed`, or start from another encoder."
            )
        padded = torch.stack([torch.cat([short[0], tokens.new_full((3,), padding_id(encoder))]), tokens])  # (2, 7)
        mask = torch.ones_like(padded)
        mask[0, 4:] = 0
        if not _is_close(alone, _run(encoder, padded, mask)[:1, :4], scale):
            raise ValueError(
                f"`{family}` lets padding change the embedding of a sentence, so a sentence would have another "
                "embedding in each batch; start from an encoder of another family."
            )
        _check_sight(encoder, pooling_mode)
        encoder.train()
        _run(encoder, padded, mask)


@torch.no_grad()
def validate_autocast(encoder: "PreTrainedModel", option: str, dtype: torch.dtype) -> None:
    """Raise an error if an encoder fails under automatic mixed precision, as some families do.

    Args:
        encoder: In any mode, which is kept.
        option: The name of the option that asks for it.
        dtype: What to compute in.

    Raises:
        ValueError: With the encoder's own reason.
    """
    tokens = torch.stack([_tokens(encoder, 4)] * 2)
    mask = torch.ones_like(tokens)
    mask[0, 2:] = 0
    try:
        with probing(encoder), torch.autocast(encoder.device.type, dtype=dtype):
            _run(encoder, tokens, mask)
    except ValueError as error:
        raise ValueError(f"`{option}` cannot be used, leave it out: {error}") from error


def has_idle_parameters(encoder: "PreTrainedModel") -> bool:
    """Return whether some trainable parameters of an encoder can be without gradient in a training step.

    These are parameters that play no part for text alone, and all those of an encoder that skips layers at random.
    """
    if getattr(encoder.config, "layerdrop", 0.0) > 0.0:
        return True
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    with torch.enable_grad(), probing(encoder):
        encoder.train()  # some families have no gradients in evaluation mode
        hidden = _run(encoder, _tokens(encoder, 4)[None])
        gradients = torch.autograd.grad(hidden.sum(), trainable, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _check_sight(encoder: "PreTrainedModel", pooling_mode: str) -> None:
    """Raise an error if [CLS] pooling would ignore the sentence; warn if no token depends on another one.

    Args:
        encoder: In evaluation mode.
        pooling_mode: As `pool` takes it.
    """
    family = encoder.config.model_type
    first_sees_last, last_sees_first = _first_and_last_sight(encoder)
    if not first_sees_last and pooling_mode == "cls":
        raise ValueError(
            f"`pooling_mode` is cls, but the first token of this `{family}` encoder does not depend on the tokens "
            "after it, as in all causal models, so every sentence would get the same embedding; set `pooling_mode` to "
            "mean or lasttoken."
        )
    if not first_sees_last and not last_sees_first:
        logger.warning(
            f"No token of this `{family}` encoder depends on another token: its attention returns zeros. This is how "
            "some families start without pretrained weights, and how `mra` behaves without its CUDA kernels."
        )


def _first_and_last_sight(encoder: "PreTrainedModel") -> tuple[bool, bool]:
    """Return whether the first of four tokens depends on the last one, and the last one on the first one.

    The gradient tells: it is 0 exactly where attention is masked. Values would not, as a mixture of experts rounds
    them differently with each other token.
    """
    looked_up = []

    def note(module: nn.Module, args: tuple, output) -> None:
        embeddings = output[0] if isinstance(output, tuple) else output
        if not embeddings.requires_grad:
            embeddings.requires_grad_()
        looked_up.append(embeddings)

    hook = encoder.get_input_embeddings().register_forward_hook(note)
    try:
        for training in (False, True):  # the other mode is for families without gradients in evaluation mode
            encoder.train(training)
            try:
                return _depends(encoder, looked_up, 0, 3), _depends(encoder, looked_up, 3, 0)
            except (AssertionError, RuntimeError) as error:
                reason = one_line(error)
    finally:
        hook.remove()
        encoder.eval()
    raise ValueError(f"`{encoder.config.model_type}` gives no gradients ({reason}); start from another encoder.")


@torch.enable_grad()
def _depends(encoder: "PreTrainedModel", looked_up: list[Tensor], token: int, other: int) -> bool:
    """Return whether the hidden state of a token depends on the embedding of another one.

    Args:
        encoder: It appends what it looks up to `looked_up`.
        looked_up: Results of the encoder's look-ups, each (1, L, E).
        token, other: Places among four tokens.
    """
    looked_up.clear()
    hidden = _run(encoder, _tokens(encoder, 4)[None])[0, token]  # (H,)
    weights = torch.arange(1.0, len(hidden) + 1, device=hidden.device)  # all alike would be cancelled by a norm
    (gradient,) = torch.autograd.grad((hidden * weights).sum(), looked_up[0])
    return bool(gradient.flatten(0, -2)[other].any())


def _run(encoder: "PreTrainedModel", tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Return the last hidden state (B, L, H) for tokens (B, L), None if the encoder returns none.

    Raises:
        ValueError: If the encoder fails on tokens alone, with its own reason.
    """
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens) if mask is None else mask}
    if "token_type_ids" in inspect.signature(encoder.forward).parameters:
        batch["token_type_ids"] = torch.zeros_like(tokens)
    try:
        return getattr(encoder(**batch, return_dict=True), "last_hidden_state", None)
    except Exception as error:  # each family fails in its own way
        mode = "training" if encoder.training else "evaluation"
        raise ValueError(
            f"`{encoder.config.model_type}` fails on a batch of short sentences in {mode} mode "
            f"({type(error).__name__}: {one_line(error)}); change its config.json, or start from another encoder."
        ) from error


def _tokens(encoder: "PreTrainedModel", count: int) -> Tensor:
    """Return different token ids (count,), none of them that of padding if the vocabulary is large enough."""
    return (torch.arange(count, device=encoder.device) + padding_id(encoder) + 1) % vocabulary_rows(encoder)


def vocabulary_rows(encoder: "PreTrainedModel") -> int:
    """Return how many token ids an encoder has embeddings for.

    Raises:
        ValueError: If the encoder has no table of token embeddings.
    """
    try:
        return len(encoder.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError) as error:
        raise ValueError(
            f"`{encoder.config.model_type}` has no table of token embeddings; start from an encoder of another family."
        ) from error


def padding_id(encoder: "PreTrainedModel") -> int:
    """Return the token id that an encoder's configuration gives to padding, 0 if it gives none."""
    return getattr(encoder.config, "pad_token_id", None) or 0


def _is_close(first: Tensor, second: Tensor, scale: Tensor) -> bool:
    tolerance = CPU_TOLERANCE if first.device.type == "cpu" else GPU_TOLERANCE
    return bool((first - second).abs().max() <= tolerance * scale)
