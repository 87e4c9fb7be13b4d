"""SimCSE without labels, the baseline of the paper, in the same trainer (https://arxiv.org/abs/2104.08821)."""

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mocose_hf.models.configuration_mocose import OneTermConfig
from mocose_hf.models.encoder_mocose import MoCoSEModel
from mocose_hf.models.loading import PretrainedEncoder
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining, validate_no_target_arguments
from mocose_hf.models.views import View


class SimCSEConfig(OneTermConfig):
    """Configure a `SimCSE`: the fields of `MoCoSEConfig` that are not of heads, target and queue.

    Raises:
        ValueError: Also where one of the others is given another value than the one that leaves its part out.
    """

    model_type = "mocose_simcse"

    projection_dim: int | None = None
    num_projection_layers: int = 0
    num_predictor_layers: int = 0
    head_dropout_prob: float = 0.0
    in_batch_negatives: bool = True
    queue_size: int = 0
    queue_init_size: int = 0
    queue_dtype: str = "float32"
    share_embeddings: bool = False

    def _check_values(self) -> None:
        self._check_absent("SimCSE has no heads, target and queue")
        super()._check_values()


class SimCSEModel(MoCoSEModel):
    """The trained encoder of a `SimCSE`, which is a `MoCoSEModel` under a configuration of its own."""

    config_class = SimCSEConfig


class SimCSE(MoCoSEForPreTraining):
    """Contrast two passes of each sentence through one encoder, which differ by dropout alone.

    Both passes carry gradient. Over the pooled embedding stands a new dense layer with tanh, in training alone, as
    with `mlp_only_train` of the authors' recipe for BERT. The negatives are the other sentences of the batch, of all
    processes, with their gradient; the loss is that of eq. 4 of the paper.

    Modules:
        mocose: `MoCoSEModel`, the encoder.
        pooler: Linear (H, H), followed by tanh; the identity, without tanh, if not `config.use_pooler`.
        projection_head, predictor, target, queue: Empty.
    """

    config_class = SimCSEConfig
    algorithm = "simcse"
    collapse_remedies = "with a lower `learning_rate`, or a higher `encoder_dropout_prob`"

    @staticmethod
    def build_target(config: SimCSEConfig) -> nn.ModuleDict:
        """Build nothing: the encoder is its own target."""
        return nn.ModuleDict()

    @classmethod
    def from_encoder(cls, source: PretrainedEncoder, **config) -> "SimCSE":
        """Start a new training from an encoder in memory, with a dense layer drawn anew as the authors do."""
        return super().from_encoder(replace(source, pooler=None), **config)

    @staticmethod
    def validate_settings(config: SimCSEConfig, args) -> None:
        """Raise a `ValueError` if arguments steer a target or fill a queue."""
        validate_no_target_arguments(args, "SimCSE")
        if args.queue_prefill:
            raise ValueError("`queue_prefill` is true, but SimCSE has no queue; leave it out.")

    def encode_queries(self, *view, **named) -> Tensor:
        """Run encoder, dense layer, tanh and L2 norm. (B, H), float32; the arguments are those of `View`.

        Without `use_pooler` the dense layer and the tanh are left out.
        """
        embeddings = self._embed(self.mocose.encoder, View(*view, **named))  # (B, H)
        if self.config.use_pooler:
            embeddings = self.pooler(embeddings).tanh()  # (B, H)
        return F.normalize(embeddings.float(), dim=-1)

    def encode_keys(self, *view, **named) -> Tensor:
        """Run the same again, under other dropout masks and with gradient too."""
        return self.encode_queries(*view, **named)


AutoConfig.register(SimCSEConfig.model_type, SimCSEConfig, exist_ok=True)
AutoModel.register(SimCSEConfig, SimCSEModel, exist_ok=True)
AutoModelForPreTraining.register(SimCSEConfig, SimCSE, exist_ok=True)
