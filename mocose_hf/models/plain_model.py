"""The smallest model around an encoder, to embed text, to score or to export it."""

from mocose_hf.models.loading import PretrainedEncoder
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining


def build_plain_model(source: PretrainedEncoder) -> MoCoSEForPreTraining:
    """Build a model without heads, target and queue; its pooler is the encoder's own, if it has one.

    Args:
        source: The encoder; its weights are copied.

    Raises:
        ValueError: If the pooling of the encoder is unknown.
        RuntimeError: If its sizes do not fit.
    """
    unused = {"num_projection_layers": 0, "num_predictor_layers": 0, "queue_size": 0, "queue_weight": 0.0}
    return MoCoSEForPreTraining.from_encoder(
        source, use_pooler=source.pooler is not None, in_batch_weight=1.0, **unused
    )
