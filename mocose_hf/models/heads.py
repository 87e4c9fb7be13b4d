"""Pooler, projection head and predictor (https://arxiv.org/abs/2202.13093, section 3.1 and Table 4)."""

from torch import nn

from mocose_hf.models.configuration_base import ContrastiveConfig
from mocose_hf.models.configuration_mocose import MoCoSEConfig


def build_pooler(config: ContrastiveConfig) -> nn.Module:
    """Build the dense layer (H, H) on the pooled embedding, or the identity without `use_pooler`."""
    return nn.Linear(config.hidden_size, config.hidden_size) if config.use_pooler else nn.Identity()


def build_projection_head(config: MoCoSEConfig) -> nn.Sequential:
    """Build P layers of Linear, LayerNorm and Dropout from H to D; P = 0 is the identity."""
    width = config.hidden_size
    layers = [_head_layer(config, width, width) for _ in range(config.num_projection_layers - 1)]
    if config.num_projection_layers > 0:
        layers.append(_head_layer(config, width, config.embedding_dim))
    return nn.Sequential(*layers)


def build_predictor(config: MoCoSEConfig) -> nn.Sequential:
    """Build M − 1 layers of Linear, LayerNorm and Dropout on D, then Linear and tanh; M = 0 is the identity."""
    dim = config.embedding_dim
    layers = [_head_layer(config, dim, dim) for _ in range(config.num_predictor_layers - 1)]
    if config.num_predictor_layers > 0:
        layers.append(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()))
    return nn.Sequential(*layers)


def _head_layer(config: MoCoSEConfig, in_features: int, out_features: int) -> nn.Sequential:
    eps = getattr(config.encoder_config, "layer_norm_eps", 1e-12)
    return nn.Sequential(
        nn.Linear(in_features, out_features),
        nn.LayerNorm(out_features, eps=eps),
        nn.Dropout(config.head_dropout_prob),
    )
