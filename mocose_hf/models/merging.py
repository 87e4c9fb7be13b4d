"""Average the weights of two encoders of one architecture (WiSE-FT, https://arxiv.org/abs/2109.01903)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from mocose_hf.errors import InputError
from mocose_hf.models.loading import PretrainedEncoder

_SAME_FIELDS = ("model_type", "num_attention_heads", "hidden_act", "position_embedding_type")
"""Fields of a configuration that change what an encoder computes, but not the shape of its weights."""


@torch.no_grad()
def interpolate(module: nn.Module, start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> None:
    """Set the parameters of a module to a point on the line between two sets of weights.

    Args:
        module: Its parameters of the names in `start` are overwritten.
        start: The parameters at share 0, by name.
        end: The parameters at share 1, by name; those of `module` itself are allowed.
        share: The place on the line, in [0, 1]; at 0 and 1 the result is bit-equal to `start` and `end`.
    """
    for name, origin in start.items():
        parameter = module.get_parameter(name)
        parameter.copy_(torch.lerp(origin.to(parameter.device), end[name].to(parameter.device), share))


class EncoderMerger:
    """Two encoders, and a third one that holds any average of their weights.

    Pooling, prompts and all other settings are those of the trained encoder, and so is a fixed dense layer.

    Args:
        start: The encoder at weight 0.
        trained: The encoder at weight 1. Its modules hold the average.

    Raises:
        InputError: If the encoders have different architectures.
    """

    def __init__(self, start: PretrainedEncoder, trained: PretrainedEncoder):
        _validate_same_architecture(start.encoder, trained.encoder)
        self._modules = [(trained.encoder, *map(_parameters, (start.encoder, trained.encoder)))]
        if start.pooler is not None and trained.pooler is not None:
            self._modules.append((trained.pooler, *map(_parameters, (start.pooler, trained.pooler))))

    def set_weight(self, weight: float) -> None:
        """Set the modules of the trained encoder to `(1 - weight) · start + weight · trained`."""
        for module, start, trained in self._modules:
            interpolate(module, trained, start, 1.0 - weight)  # in this order as `merge_with_start` does it


def validate_same_vocabulary(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> None:
    """Raise an `InputError` if two tokenizers give the same row of the word embeddings to different words."""
    if first.get_vocab() != second.get_vocab():
        raise InputError("the two encoders have different vocabularies; give an encoder and one trained from it.")


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of the parameters, without the encoder's own pooler, which only one of two encoders may have."""
    named = module.named_parameters()
    return {name: parameter.detach().clone() for name, parameter in named if not name.startswith("pooler.")}


def _validate_same_architecture(start: nn.Module, trained: nn.Module) -> None:
    differences = [
        f"`{name}` is {first} and {second}"
        for name in _SAME_FIELDS
        if (first := getattr(start.config, name, None)) != (second := getattr(trained.config, name, None))
    ]
    shapes = [{name: tuple(p.shape) for name, p in _parameters(encoder).items()} for encoder in (start, trained)]
    for name in sorted({*shapes[0], *shapes[1]}):
        first, second = (shape.get(name, "missing") for shape in shapes)
        if first != second:
            differences.append(f"{name} is {first} and {second}")
    if differences:
        raise InputError(
            f"the two encoders have different architectures ({differences[0]}), so their weights have no average; "
            "give an encoder and one trained from it."
        )
