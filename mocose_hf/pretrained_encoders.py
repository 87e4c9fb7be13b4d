"""Find encoder, pooler and pooling in whatever a training may start from."""

import copy
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from huggingface_hub.constants import ENDPOINT
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from mocose_hf.sentence_transformers_format import read_layout
from mocose_hf.zero import whole_weights

logger = logging.get_logger(__name__)


@dataclass
class PretrainedEncoder:
    """An encoder to start from.

    Args:
        encoder: In float32.
        pooler: The dense layer (H, H) of its own pooler, None where it has none or it was not trained.
        pooling_mode: The pooling it was made for; "cls", the paper's, where it says nothing.
    """

    encoder: PreTrainedModel
    pooler: nn.Linear | None
    pooling_mode: str


@whole_weights()
def load_encoder(name_or_path: str, attn_implementation: str | None = None, **hub_options) -> PretrainedEncoder:
    """Load the encoder of a plain, a sentence-transformers or a MoCoSE model.

    Args:
        name_or_path: A directory or a hub id.
        attn_implementation: As `AutoModel.from_pretrained` takes it.
        hub_options: `revision` and `cache_dir`.
    """
    hub_options = _usable(name_or_path, hub_options)
    options = {"dtype": torch.float32, **hub_options}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    layout = read_layout(name_or_path, **hub_options)
    pooling_mode = "cls"
    if layout is not None:
        pooling_mode = layout.pooling_mode
        if layout.encoder_folder:
            options["subfolder"] = layout.encoder_folder
        if layout.other_modules:
            logger.warning(
                f"{name_or_path} has modules beyond encoder and pooling, which are left out: "
                f"{', '.join(layout.other_modules)}."
            )
    else:
        config = AutoConfig.from_pretrained(name_or_path, **hub_options)
        if config.model_type == "mocose":
            model = AutoModelForPreTraining.from_pretrained(name_or_path, **options)
            return PretrainedEncoder(model.mocose.encoder, model.pooler, config.pooling_mode)
    encoder, info = AutoModel.from_pretrained(name_or_path, output_loading_info=True, **options)
    dense = pooler_dense(encoder)
    if any(name.startswith("pooler.") for name in info["missing_keys"]):
        dense = None
    return PretrainedEncoder(encoder, dense, pooling_mode)


def pooler_dense(encoder: PreTrainedModel) -> nn.Linear | None:
    """Return the dense layer of an encoder's own pooler, None where it has none."""
    pooler = getattr(encoder, "pooler", None)
    return pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)


def load_tokenizer(name_or_path: str, **hub_options):
    """Load the tokenizer of a model that `load_encoder` loads, with the model's own length limit.

    Raises:
        OSError: Where there is none; transformers makes one that knows special tokens alone.
    """
    hub_options = _usable(name_or_path, hub_options)
    layout = read_layout(name_or_path, **hub_options)
    options = dict(hub_options)
    if layout is not None and layout.encoder_folder:
        options["subfolder"] = layout.encoder_folder
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
    if layout is not None and layout.max_seq_length:
        tokenizer.model_max_length = layout.max_seq_length
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise OSError(f"no vocabulary of a tokenizer in {name_or_path}")
    return tokenizer


def _usable(name_or_path: str, hub_options: dict) -> dict:
    """Drop options that were not given and, where the hub's name cannot be resolved, look in the cache alone.

    The hub's client would otherwise try again for over a minute (huggingface_hub 2.4).
    """
    options = {name: value for name, value in hub_options.items() if value is not None}
    if not Path(name_or_path).is_dir() and not getproxies():
        try:
            socket.getaddrinfo(urlparse(ENDPOINT).hostname, None)
        except OSError:
            options["local_files_only"] = True
    return options


def save_tokenizer(tokenizer, directory) -> None:
    """Save a tokenizer without the padding and truncation of its last call, which its file would keep."""
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(directory)
