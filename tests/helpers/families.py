"""Small encoders of several families."""

from builders import tiny_bert_config
from transformers import (
    AlbertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

SMALL = {"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


SMALL_WITH_FEED_FORWARD = SMALL | {"intermediate_size": 48}


FAMILIES = {
    "bert": lambda: tiny_bert_config(),
    "roberta": lambda: RobertaConfig(**SMALL_WITH_FEED_FORWARD),
    "xlm-roberta": lambda: XLMRobertaConfig(**SMALL_WITH_FEED_FORWARD),
    "distilbert": lambda: DistilBertConfig(vocab_size=120, dim=32, n_layers=2, n_heads=2, hidden_dim=48),
    "mpnet": lambda: MPNetConfig(**SMALL_WITH_FEED_FORWARD),
    "electra": lambda: ElectraConfig(**SMALL_WITH_FEED_FORWARD, embedding_size=16),
    "albert": lambda: AlbertConfig(**SMALL_WITH_FEED_FORWARD, embedding_size=16),
    "deberta-v2": lambda: DebertaV2Config(
        **SMALL_WITH_FEED_FORWARD,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    ),
    "modernbert": lambda: ModernBertConfig(**SMALL_WITH_FEED_FORWARD, pad_token_id=0, local_attention=8),
}


CHECKPOINTING_FAMILIES = [name for name in FAMILIES if name not in ("albert", "mpnet")]
