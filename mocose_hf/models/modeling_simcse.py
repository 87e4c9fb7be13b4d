"""SimCSE without labels, the baseline of the paper, in the same trainer (https://arxiv.org/abs/2104.08821)."""

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mocose_hf.models.configuration_base import ContrastiveConfig
from mocose_hf.models.encoder_mocose import MoCoSEModel
from mocose_hf.models.heads import build_pooler
from mocose_hf.models.loading import PretrainedEncoder
from mocose_hf.models.losses import contrastive_logits
from mocose_hf.models.modeling_base import ContrastiveModel, ContrastiveOutput, gather_ids, gather_keys
from mocose_hf.models.views import View


class SimCSEConfig(ContrastiveConfig):
    """Configure a `SimCSE`, which adds no field to those of all algorithms."""

    model_type = "mocose_simcse"


class SimCSEModel(MoCoSEModel):
    """The trained encoder of a `SimCSE`, which is a `MoCoSEModel` under a configuration of its own."""

    config_class = SimCSEConfig


class SimCSE(ContrastiveModel):
    """Contrast two passes of each sentence through one encoder, which differ only by dropout.

    Both passes carry gradient. During training, a new dense layer with tanh follows the pooled embedding, as
    `mlp_only_train` of the authors' recipe for BERT does. The negatives are the other sentences of the batch, of all
    processes, with their gradient.

    Modules:
        mocose: `MoCoSEModel`, the encoder.
        pooler: Linear (H, H), followed by tanh; without `config.use_pooler` the identity, without tanh.
    """

    config_class = SimCSEConfig
    algorithm = "simcse"
    collapse_remedies = "with a lower `learning_rate`, or a higher `encoder_dropout_prob`"

    def __init__(self, config: SimCSEConfig):
        super().__init__(config)
        self.pooler = build_pooler(config)
        self.post_init()

    @classmethod
    def from_encoder(cls, source: PretrainedEncoder, **config) -> "SimCSE":
        """Start a new training from an encoder in memory, with a new dense layer as the authors do."""
        return super().from_encoder(replace(source, pooler=None), **config)

    def encode_queries(self, view: View) -> Tensor:
        """Run encoder, dense layer, tanh and L2 norm. (B, H), float32."""
        embeddings = self.embed(self.mocose.encoder, view)  # (B, H)
        if self.config.use_pooler:
            embeddings = self.pooler(embeddings).tanh()  # (B, H)
        return F.normalize(embeddings.float(), dim=-1)

    def encode_keys(self, view: View) -> Tensor:
        """Run the same again, under other dropout masks and with gradient too."""
        return self.encode_queries(view)

    def contrast(self, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None = None) -> ContrastiveOutput:
        """Return the loss of eq. 1: queries (B, H) against the keys of all processes.

        Raises:
            ValueError: If `mask_same_sentence` is set and there are no `sentence_ids` (B,).
        """
        all_keys, labels = gather_keys(keys)  # (W·B, H), (B,)
        ids = gather_ids(sentence_ids) if self.config.mask_same_sentence else None
        no_rows = keys[:0]
        logits = contrastive_logits(queries, all_keys, no_rows, self.config.temperature, labels, sentence_ids=ids)
        return ContrastiveOutput(
            loss=F.cross_entropy(logits, labels),  # logits: (B, W·B)
            logits=logits,
            is_top1=logits.argmax(-1) == labels,
            labels=labels,
            query_embeddings=queries,
            key_embeddings=keys,
            sentence_ids=sentence_ids,
        )

    @classmethod
    def validate_settings(cls, config: SimCSEConfig, args) -> None:
        """Raise a `ValueError` if arguments steer a target or fill a queue."""
        super().validate_settings(config, args)
        if args.queue_prefill:
            raise ValueError("`queue_prefill` is true, but SimCSE has no queue; leave it out.")


AutoConfig.register(SimCSEConfig.model_type, SimCSEConfig, exist_ok=True)
AutoModel.register(SimCSEConfig, SimCSEModel, exist_ok=True)
AutoModelForPreTraining.register(SimCSEConfig, SimCSE, exist_ok=True)
