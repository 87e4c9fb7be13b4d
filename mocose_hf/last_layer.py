"""Let only the first token of each sentence through the last layer, where nothing else is asked of it.

With [CLS] pooling, all that a training step takes from the encoder is the first token of each sentence. Its last
layer has to see all tokens up to the attention, but what follows, three quarters of a layer's multiplications, works
on each token alone. Hooks choose the rows there, so no code of the encoder is repeated.
"""

import inspect

from torch import Tensor, nn
from transformers import PreTrainedModel

FIRST_TOKENS = "first_tokens"
"""The option of the encoder's forward that switches it on: (N,) int64, places of first tokens along dimension 1."""


def prepare_last_layer(encoder: PreTrainedModel) -> bool:
    """Make an encoder take the option `first_tokens`; return whether it can.

    With it, its last hidden state holds the rows of these tokens alone: (B, 1, H) for the place 0 of a padded batch,
    (1, B, H) for those of a packed row. It can where its last layer is a module of its own that is built as BERT's or
    DistilBERT's: after attention comes a module that adds the residual, and then nothing that mixes tokens.
    """
    for path, entry, arguments in _LAYOUTS:
        try:
            layer = encoder.get_submodule(path)[-1]
            attention, module = layer.get_submodule("attention"), layer.get_submodule(entry)
        except (AttributeError, TypeError, IndexError):
            continue
        passes_on = _takes_options(encoder) and _takes_options(attention)
        if passes_on and _parameters(module) == arguments and not getattr(encoder.config, "is_decoder", False):
            choice = _Choice()
            attention.register_forward_pre_hook(choice.hear, with_kwargs=True)
            module.register_forward_pre_hook(choice.choose)
            return True
    return False


_LAYOUTS = (
    ("encoder.layer", "attention.output", ["hidden_states", "input_tensor"]),
    ("transformer.layer", "sa_layer_norm", ["input"]),
)
"""Where the layers are, which module of a layer follows the mixing of tokens by `attention`, and what that takes."""


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _takes_options(module: nn.Module) -> bool:
    """Whether it hands options on that it does not know."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(module.forward).parameters.values())


class _Choice:
    """Hooks inside one layer, so that a layer that is run again for its gradient does the same again."""

    def __init__(self):
        self._first_tokens: Tensor | None = None

    def hear(self, attention: nn.Module, args: tuple, options: dict) -> None:
        self._first_tokens = options.get(FIRST_TOKENS)

    def choose(self, module: nn.Module, args: tuple) -> tuple | None:
        if self._first_tokens is None:
            return None
        return tuple(states.index_select(1, self._first_tokens) for states in args)
