"""A fixed dense layer behind the pooling, which is part of the sentence embedding, and whitening, which fits one.

sentence-transformers calls such a layer `Dense`. No optimizer changes it, and all branches share it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocose_hf.models.losses import whitening_matrix

ACTIVATIONS = ("identity", "tanh")

WHITENING_SENTENCES = 4096
"""Number of training sentences whose embeddings whitening is fitted to."""


class DenseLayer(nn.Module):
    """x Wᵀ + b, then an activation; the identity until it is loaded or fitted.

    Args:
        width: H, of input and output.
        activation: One of `ACTIVATIONS`.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, activation: str = "identity"):
        super().__init__()
        self.activation = activation
        self.width = width
        for name, value in self.initial_state().items():
            self.register_buffer(name, value)

    def initial_state(self) -> dict[str, Tensor]:
        """Return the buffers of the identity by name: `weight` (H, H) and `bias` (H,)."""
        return {"weight": torch.eye(self.width), "bias": torch.zeros(self.width)}

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings (B, H) behind the layer, in float32 also under autocast."""
        with torch.autocast(device_type=embeddings.device.type, enabled=False):
            output = F.linear(embeddings.float(), self.weight, self.bias)
        return output.tanh() if self.activation == "tanh" else output

    @torch.no_grad()
    def whiten(self, embeddings: Tensor, degree: float) -> None:
        """Compose the layer with a map that whitens what it returns, as `whitening_matrix` does.

        The mean of the squared length of centred embeddings stays as it is.

        Args:
            embeddings: (N, H), what the layer returned for N sentences.
            degree: w in [0, 1]: 0 only subtracts the mean, 1 whitens fully.

        Raises:
            ValueError: If the layer has an activation, because the result would be no dense layer.
        """
        if self.activation != "identity":
            raise ValueError(
                f"`whitening` cannot follow the dense layer of this encoder, whose activation is {self.activation}; "
                "set it to 0."
            )
        rows = embeddings.double()
        mean = rows.mean(dim=0)  # (H,)
        covariance = torch.cov(rows.T, correction=0)  # (H, H)
        matrix = whitening_matrix(covariance, degree)  # (H, H), symmetric
        matrix *= (covariance.trace() / (matrix @ covariance @ matrix).trace()).sqrt()
        self.weight.copy_(matrix @ self.weight.double())
        self.bias.copy_((self.bias.double() - mean) @ matrix)
