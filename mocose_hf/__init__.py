"""MoCoSE on Hugging Face: train sentence embeddings by momentum contrast, and study what the negatives do."""

from importlib import import_module

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mocose_hf.configuration_mocose import MoCoSEConfig
from mocose_hf.encoder_mocose import MoCoSEModel
from mocose_hf.losses import info_nce_loss
from mocose_hf.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.momentum import cosine_ema_decay, maximum_traceable_distance, update_ema
from mocose_hf.negative_queue import NegativeQueue
from mocose_hf.version import __version__

AutoConfig.register(MoCoSEConfig.model_type, MoCoSEConfig, exist_ok=True)
AutoModel.register(MoCoSEConfig, MoCoSEModel, exist_ok=True)
AutoModelForPreTraining.register(MoCoSEConfig, MoCoSEForPreTraining, exist_ok=True)

# What only training needs is imported when it is first asked for: loading a trained model needs neither
# `datasets` nor `evaluate`.
_TRAINING = {
    "CollapseAlarm": "mocose_hf.callbacks",
    "CollapseError": "mocose_hf.errors",
    "MoCoSETrainer": "mocose_hf.trainer",
    "MoCoSETrainingArguments": "mocose_hf.training_args",
    "QueueTelemetry": "mocose_hf.queue_telemetry",
    "SentenceCollator": "mocose_hf.data",
    "SentenceStream": "mocose_hf.streaming",
    "export_sentence_encoder": "mocose_hf.export",
    "load_tokenizer": "mocose_hf.pretrained_encoders",
    "plot_queue_telemetry": "mocose_hf.evaluation.queue_plots",
    "read_sentences": "mocose_hf.data",
}

__all__ = [
    "MoCoSEConfig",
    "MoCoSEForPreTraining",
    "MoCoSEModel",
    "NegativeQueue",
    "__version__",
    "cosine_ema_decay",
    "info_nce_loss",
    "maximum_traceable_distance",
    "update_ema",
    *_TRAINING,
]


def __getattr__(name: str):
    if name in _TRAINING:
        return getattr(import_module(_TRAINING[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
