"""SimCSE by loops."""

import torch
from builders import tiny_bert_config

from mocose_hf.models.modeling_simcse import SimCSE, SimCSEConfig


def simcse_model(seed: int = 0, encoder: dict | None = None, **config) -> SimCSE:
    torch.manual_seed(seed)
    return SimCSE(SimCSEConfig(encoder_config=tiny_bert_config(**(encoder or {})), **config))


def slow_loss(queries, keys, temperature: float = 0.05) -> torch.Tensor:
    """The loss of eq. 1 of the paper, as loops: the mean of −log of the share of each sentence's own second pass."""
    total = torch.zeros((), dtype=queries.dtype)
    for row, query in enumerate(queries):
        cosines = [query @ key / (query.norm() * key.norm()) for key in keys]
        powers = [torch.exp(cosine / temperature) for cosine in cosines]
        total = total - torch.log(powers[row] / sum(powers))
    return total / len(queries)
