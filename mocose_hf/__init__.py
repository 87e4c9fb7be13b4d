"""MoCoSE on Hugging Face: train sentence embeddings by momentum contrast, and study what the negatives do."""

from importlib import import_module

from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.models.ema import cosine_ema_decay, maximum_traceable_distance, update_ema
from mocose_hf.models.encoder_mocose import MoCoSEModel
from mocose_hf.models.losses import info_nce_loss
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.version import __version__

AutoConfig.register(MoCoSEConfig.model_type, MoCoSEConfig, exist_ok=True)
AutoModel.register(MoCoSEConfig, MoCoSEModel, exist_ok=True)
AutoModelForPreTraining.register(MoCoSEConfig, MoCoSEForPreTraining, exist_ok=True)

# What only training needs is imported when it is first asked for: loading a trained model needs neither
# `datasets` nor `evaluate`.
_TRAINING = {
    "CollapseMonitor": "mocose_hf.training.callbacks.collapse_monitor",
    "CollapseError": "mocose_hf.errors",
    "MoCoSETrainer": "mocose_hf.training.trainer",
    "MoCoSETrainingArguments": "mocose_hf.training.training_args",
    "QueueMonitor": "mocose_hf.training.queue_monitor.callback",
    "SentenceCollator": "mocose_hf.data.collator",
    "SentenceStream": "mocose_hf.data.streaming",
    "export_sentence_encoder": "mocose_hf.export.sentence_encoder",
    "load_tokenizer": "mocose_hf.models.loading",
    "plot_queue_monitor": "mocose_hf.training.queue_monitor.plot",
    "read_sentences": "mocose_hf.data.sentences",
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
