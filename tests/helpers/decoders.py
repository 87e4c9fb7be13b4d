"""Small causal models of the families that are common as sentence encoders."""

import torch
from builders import WORDS
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

_SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,  # large enough that a wrong attention shows in the embeddings
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 3,
}
_LOCAL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
_QWEN = _SIZES | _LOCAL | {"use_sliding_window": True, "max_window_layers": 0}

DECODERS = {
    "llama": lambda: LlamaConfig(**_SIZES),
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**_QWEN),
    "qwen3": lambda: Qwen3Config(**_QWEN),
    "gemma": lambda: GemmaConfig(**_SIZES),
    "gemma2": lambda: Gemma2Config(**_SIZES | _LOCAL),
    "gemma3_text": lambda: Gemma3TextConfig(**_SIZES | _LOCAL),
}
"""Configurations by model type; those with a sliding window have one that is shorter than a sentence."""

BIDIRECTIONAL = {
    "llama": lambda: LlamaConfig(**_SIZES, is_causal=False),
    "mistral": lambda: MistralConfig(**_SIZES, sliding_window=4, is_causal=False),
    "qwen2": lambda: Qwen2Config(**_QWEN, is_causal=False),
    "qwen3": lambda: Qwen3Config(**_QWEN, is_causal=False),
    "gemma": lambda: GemmaConfig(**_SIZES, is_causal=False),
    "gemma3_text": lambda: Gemma3TextConfig(
        **_SIZES, layer_types=_LOCAL["layer_types"], sliding_window=8, use_bidirectional_attention=True
    ),
}
"""Configurations of models whose attention transformers makes bidirectional."""


def save_decoder(directory, config, tokenizer) -> str:
    """Save a model with its language head, as most checkpoints are, and a tokenizer without a padding token."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    decoder_tokenizer(tokenizer).save_pretrained(directory)
    return str(directory)


def decoder_tokenizer(tokenizer, **special) -> PreTrainedTokenizerFast:
    """Return a tokenizer without padding token, and without any token before or after a sentence."""
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert len(WORDS) < backend.get_vocab_size()
    options = {"eos_token": "[SEP]", "unk_token": "[UNK]", "model_max_length": 40, "padding_side": "left"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options | special)
