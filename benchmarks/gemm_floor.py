"""The lower bound of a training step: its matrix products alone.

Every implementation of a padded step of momentum contrast multiplies these matrices. Their time alone, with separate
weights for each layer and preallocated results, is a lower bound unless products are saved or become faster.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Model types with the layer that is counted here: Q, K, V, O and a feed-forward part of two layers."""


@dataclass
class Product:
    """One product, (m, k) × (k, n), or a batch of them, with the tensor of its result."""

    left: Tensor
    right: Tensor
    out: Tensor

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each term of each element."""
        return 2 * self.out.numel() * self.left.shape[-1]

    def run(self) -> None:
        """Multiply."""
        multiply: Callable = torch.mm if self.left.ndim == 2 else torch.bmm
        multiply(self.left, self.right, out=self.out)


class GemmFloor:
    """The products of one step, forward of both branches and backward of the online one, in their order.

    Encoder layers, pooler, one projection layer and two predictor layers, all of the encoder's width, and logits over
    the batch and the queue. Keys carry no gradient, so the logits have one product in the backward, and the others,
    each with gradients for both factors, two.

    Args:
        config: Configuration of an encoder whose `model_type` is in `BERT_LIKE`.
        batch_size: B, sentences.
        length: L, tokens of each, padding included.
        queue_size: K.
        device, dtype: Of all tensors.

    Raises:
        ValueError: If the products of such an encoder are not known.
    """

    def __init__(
        self,
        config,
        batch_size: int,
        length: int,
        queue_size: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        if config.model_type not in BERT_LIKE:
            raise ValueError(f"The floor is known for {', '.join(BERT_LIKE)}, not for {config.model_type}.")
        self._options = {"device": device, "dtype": dtype}
        self._memory: dict[tuple, Tensor] = {}
        self._forward: list[Product] = []
        self._backward: list[list[Product]] = []
        width = config.hidden_size
        for online in (True, False):
            for _ in range(config.num_hidden_layers):
                self._add_layer(config, batch_size, length, online)
            for _ in range(4 if online else 2):  # pooler, projection; online also the predictor's two
                self._add_linear(batch_size, width, width, online)
        self._add_logits(batch_size, batch_size + queue_size, width)
        self.products = self._forward + [product for part in reversed(self._backward) for product in part]

    @property
    def flops(self) -> int:
        """Floating-point operations of one step."""
        return sum(product.flops for product in self.products)

    def run(self) -> None:
        """Multiply everything once."""
        for product in self.products:
            product.run()

    def _add_layer(self, config, batch_size: int, length: int, online: bool) -> None:
        tokens, width, inner = batch_size * length, config.hidden_size, config.intermediate_size
        heads = config.num_attention_heads
        for _ in "QKV":
            self._add_linear(tokens, width, width, online)
        matrices, head_width = batch_size * heads, width // heads
        self._add_batched(matrices, length, head_width, length, online)  # scores = Q Kᵀ
        self._add_batched(matrices, length, length, head_width, online)  # context = weights V
        self._add_linear(tokens, width, width, online)
        self._add_linear(tokens, width, inner, online)
        self._add_linear(tokens, inner, width, online)

    def _add_linear(self, rows: int, inputs: int, outputs: int, online: bool) -> None:
        """Add y = x Wᵀ and, for the online branch, dx = dy W and dW = dyᵀ x."""
        weight = self._new(outputs, inputs)
        x, y_gradient = self._read(rows, inputs), self._read(rows, outputs)
        self._forward.append(Product(x, weight.T, self._written(rows, outputs)))
        if online:
            x_gradient = Product(y_gradient, weight, self._written(rows, inputs))
            weight_gradient = Product(y_gradient.T, x, self._new(outputs, inputs))
            self._backward.append([x_gradient, weight_gradient])

    def _add_batched(self, matrices: int, m: int, k: int, n: int, online: bool) -> None:
        """Add y = a b and, for the online branch, da = dy bᵀ and db = aᵀ dy."""
        a, b, y_gradient = self._read(matrices, m, k), self._read(matrices, k, n), self._read(matrices, m, n)
        self._forward.append(Product(a, b, self._written(matrices, m, n)))
        if online:
            a_gradient = Product(y_gradient, b.transpose(1, 2), self._written(matrices, m, k))
            b_gradient = Product(a.transpose(1, 2), y_gradient, self._written(matrices, k, n))
            self._backward.append([a_gradient, b_gradient])

    def _add_logits(self, queries: int, candidates: int, width: int) -> None:
        """Add logits = q cᵀ and dq = dlogits c; candidates take no gradient."""
        c = self._new(candidates, width)
        self._forward.append(Product(self._read(queries, width), c.T, self._written(queries, candidates)))
        self._backward.append([Product(self._read(queries, candidates), c, self._written(queries, width))])

    def _new(self, *shape: int) -> Tensor:
        return torch.randn(shape, **self._options)

    def _read(self, *shape: int) -> Tensor:
        """Return the one tensor of this shape that products read activations and their gradients from."""
        return self._shared("read", shape)

    def _written(self, *shape: int) -> Tensor:
        """Return the one tensor of this shape that products write activations and their gradients to."""
        return self._shared("written", shape)

    def _shared(self, use: str, shape: tuple[int, ...]) -> Tensor:
        if (use, shape) not in self._memory:
            self._memory[use, shape] = self._new(*shape)
        return self._memory[use, shape]


def encoder_forward_flops(config, batch_size: int, length: int) -> int:
    """Return the floating-point operations of the matrix products of one padded forward of the encoder."""
    tokens, width, inner = batch_size * length, config.hidden_size, config.intermediate_size
    linear = 2 * tokens * (4 * width * width + 2 * width * inner)
    attention = 2 * 2 * tokens * length * width
    return config.num_hidden_layers * (linear + attention)
