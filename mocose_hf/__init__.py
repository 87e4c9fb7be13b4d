"""MoCoSE on Hugging Face: train sentence embeddings by momentum contrast, and study what the negatives do.

The public names below load on first use. A model that `save_pretrained` wrote opens with `AutoModel.from_pretrained`
after `import mocose_hf`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mocose_hf.lazy import lazy_attributes, run_after_import
from mocose_hf.version import __version__

if TYPE_CHECKING:
    from mocose_hf.data.collator import SentenceCollator
    from mocose_hf.data.sentences import read_sentences
    from mocose_hf.data.streaming import SentenceStream
    from mocose_hf.errors import CollapseError
    from mocose_hf.export.sentence_encoder import export_sentence_encoder
    from mocose_hf.models.configuration_mocose import MoCoSEConfig
    from mocose_hf.models.ema import cosine_ema_decay, maximum_traceable_distance, update_ema
    from mocose_hf.models.encoder_mocose import MoCoSEModel
    from mocose_hf.models.loading import load_tokenizer
    from mocose_hf.models.losses import info_nce_loss
    from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
    from mocose_hf.models.negative_queue import NegativeQueue
    from mocose_hf.training.callbacks.collapse_monitor import CollapseMonitor
    from mocose_hf.training.queue_monitor.callback import QueueMonitor
    from mocose_hf.training.queue_monitor.plot import plot_queue_monitor
    from mocose_hf.training.trainer import MoCoSETrainer
    from mocose_hf.training.training_args import MoCoSETrainingArguments

_MODULES = {
    "CollapseError": "errors",
    "CollapseMonitor": "training.callbacks.collapse_monitor",
    "MoCoSEConfig": "models.configuration_mocose",
    "MoCoSEForPreTraining": "models.modeling_mocose",
    "MoCoSEModel": "models.encoder_mocose",
    "MoCoSETrainer": "training.trainer",
    "MoCoSETrainingArguments": "training.training_args",
    "NegativeQueue": "models.negative_queue",
    "QueueMonitor": "training.queue_monitor.callback",
    "SentenceCollator": "data.collator",
    "SentenceStream": "data.streaming",
    "cosine_ema_decay": "models.ema",
    "export_sentence_encoder": "export.sentence_encoder",
    "info_nce_loss": "models.losses",
    "load_tokenizer": "models.loading",
    "maximum_traceable_distance": "models.ema",
    "plot_queue_monitor": "training.queue_monitor.plot",
    "read_sentences": "data.sentences",
    "update_ema": "models.ema",
}
"""The module of each public name, below `mocose_hf`."""

__all__ = ["__version__", *_MODULES]

# The configuration registers itself with AutoConfig, and its first instance registers the models with AutoModel.
run_after_import(
    "transformers.models.auto.configuration_auto", lambda: import_module("mocose_hf.models.configuration_mocose")
)

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
