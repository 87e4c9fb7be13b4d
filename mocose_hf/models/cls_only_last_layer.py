"""Let only the first token of each sentence through the last layer, where nothing else is asked of it.

With [CLS] pooling, all that a training step takes from the encoder is the first token of each sentence. Its last
layer has to see all tokens up to the attention, but what follows, three quarters of a layer's multiplications, works
on each token alone. Hooks choose the rows there, so no code of the encoder is repeated.
"""

from torch import Tensor, nn
from transformers import PreTrainedModel

FIRST_TOKENS = "first_tokens"
"""The option of the encoder's forward that switches it on: (N,) int64, places of first tokens along dimension 1."""

_BERT_LAYERS = ("encoder.layer", "attention.output")

_LAYOUTS = {
    "bert": _BERT_LAYERS,
    "camembert": _BERT_LAYERS,
    "data2vec-text": _BERT_LAYERS,
    "distilbert": ("transformer.layer", "sa_layer_norm"),
    "electra": _BERT_LAYERS,
    "ernie": _BERT_LAYERS,
    "roberta": _BERT_LAYERS,
    "xlm-roberta": _BERT_LAYERS,
}
"""By model type, where the layers are, and the module of a layer that follows the mixing of tokens by `attention`.

From there on a layer of these works on each token alone, and nothing comes after the last one.
"""


def prepare_last_layer(encoder: PreTrainedModel) -> bool:
    """Make an encoder take the option `first_tokens`; return whether it is one of those that can.

    With it, its last hidden state holds the rows of these tokens alone: (B, 1, H) for the place 0 of a padded batch,
    (1, B, H) for those of a packed row.
    """
    config = encoder.config
    in_chunks = getattr(config, "chunk_size_feed_forward", 0) > 1  # which asks for numbers of tokens that it divides
    if config.model_type not in _LAYOUTS or getattr(config, "is_decoder", False) or in_chunks:
        return False
    layers, after_attention = _LAYOUTS[config.model_type]
    layer = encoder.get_submodule(layers)[-1]
    choice = _Choice()
    layer.attention.register_forward_pre_hook(choice.hear, with_kwargs=True)
    layer.get_submodule(after_attention).register_forward_pre_hook(choice.choose)
    return True


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
