"""Run an encoder on a few tokens before training to find out whether it can embed sentences."""

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
"""Largest difference between two results that count as equal, as a fraction of the largest value."""

GPU_TOLERANCE = 1e-2
"""The same on other devices, because TF32 keeps three digits."""


@contextmanager
def probing(encoder: "PreTrainedModel") -> Iterator[None]:
    """Put an encoder into evaluation mode inside, with an attention that runs on any device and in any precision.

    Afterwards its modes, its attention and torch's random states are as before.
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
    """Put a model into evaluation mode inside, and restore the mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def validate_family(config: PreTrainedConfig) -> None:
    """Raise an error if a configuration is not that of an encoder of text alone.

    Raises:
        ValueError: If they have a decoder, or need a processor of images or sounds.
    """
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    if config.is_encoder_decoder:
        raise ValueError(f"`{config.model_type}` is an encoder-decoder, but MoCoSE needs an encoder; start from one.")
    if config.model_type in PROCESSOR_MAPPING_NAMES:
        raise ValueError(
            f"`{config.model_type}` takes more than text, so it needs a processor that no export contains; start "
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
            on random numbers, or is causal while `pooling_mode` is "cls".
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
                f"`{family}` lets padding change the embedding of a sentence, so it would depend on the batch; "
                " start from an encoder of another family."
            )
        _validate_attention(encoder, pooling_mode)
        encoder.train()
        _run(encoder, padded, mask)


@torch.no_grad()
def validate_autocast(encoder: "PreTrainedModel", option: str, dtype: torch.dtype) -> None:
    """Raise an error if an encoder fails under automatic mixed precision, as some families do.

    Args:
        encoder: An encoder in any mode, which does not change.
        option: The name of the training argument that asks for it.
        dtype: The autocast dtype.

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

    These are parameters that text alone does not use, and all parameters of an encoder that skips layers at random.
    """
    if getattr(encoder.config, "layerdrop", 0.0) > 0.0:
        return True
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    with torch.enable_grad(), probing(encoder):
        encoder.train()  # some families have no gradients in evaluation mode
        hidden = _run(encoder, _tokens(encoder, 4)[None])
        gradients = torch.autograd.grad(hidden.sum(), trainable, allow_unused=True)
    return any(gradient is None for gradient in gradients)


def _validate_attention(encoder: "PreTrainedModel", pooling_mode: str) -> None:
    """Raise an error if [CLS] pooling would ignore the sentence; warn if no token depends on another one.

    Args:
        encoder: In evaluation mode.
        pooling_mode: As `pool` takes it.
    """
    family = encoder.config.model_type
    first_sees_last, last_sees_first = _find_dependencies(encoder)
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


def _find_dependencies(encoder: "PreTrainedModel") -> tuple[bool, bool]:
    """Return whether the first of four tokens depends on the last one, and whether the last depends on the first.

    This uses the gradient, which is exactly 0 under masked attention. Values are unreliable, because a mixture of
    experts rounds them differently depending on the other tokens.
    """
    embeddings_seen = []

    def record(module: nn.Module, args: tuple, output) -> None:
        embeddings = output[0] if isinstance(output, tuple) else output
        if not embeddings.requires_grad:
            embeddings.requires_grad_()
        embeddings_seen.append(embeddings)

    hook = encoder.get_input_embeddings().register_forward_hook(record)
    try:
        for training in (False, True):  # the other mode is for families without gradients in evaluation mode
            encoder.train(training)
            try:
                return _depends(encoder, embeddings_seen, 0, 3), _depends(encoder, embeddings_seen, 3, 0)
            except (AssertionError, RuntimeError) as error:
                reason = one_line(error)
    finally:
        hook.remove()
        encoder.eval()
    raise ValueError(f"`{encoder.config.model_type}` gives no gradients ({reason}); start from another encoder.")


@torch.enable_grad()
def _depends(encoder: "PreTrainedModel", embeddings_seen: list[Tensor], token: int, other: int) -> bool:
    """Return whether the hidden state of a token depends on the embedding of another one.

    Args:
        encoder: An encoder with a hook that appends its word embeddings, (1, L, E), to `embeddings_seen`.
        embeddings_seen: The list that the hook fills.
        token, other: Indices of two of the four tokens.
    """
    embeddings_seen.clear()
    hidden = _run(encoder, _tokens(encoder, 4)[None])[0, token]  # (H,)
    weights = torch.arange(1.0, len(hidden) + 1, device=hidden.device)  # a norm would cancel equal weights
    (gradient,) = torch.autograd.grad((hidden * weights).sum(), embeddings_seen[0])
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
    """Return different token ids (count,), without that of padding if the vocabulary is large enough."""
    return (torch.arange(count, device=encoder.device) + padding_id(encoder) + 1) % vocabulary_rows(encoder)


def vocabulary_rows(encoder: "PreTrainedModel") -> int:
    """Return the number of token ids that an encoder has embeddings for.

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
    """Return the id of the padding token in an encoder's configuration, 0 if it has none."""
    return getattr(encoder.config, "pad_token_id", None) or 0


def without_cache(encoder: nn.Module) -> dict[str, bool]:
    """Return the option of a forward that stores no keys and values for generating text, as causal encoders do."""
    return {"use_cache": False} if "use_cache" in inspect.signature(encoder.forward).parameters else {}


def _is_close(first: Tensor, second: Tensor, scale: Tensor) -> bool:
    tolerance = CPU_TOLERANCE if first.device.type == "cpu" else GPU_TOLERANCE
    return bool((first - second).abs().max() <= tolerance * scale)
