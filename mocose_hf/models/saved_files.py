"""Make saved configurations, weights and tokenizers portable to other machines, users and transformers releases."""

import json
from pathlib import Path

_TOKENIZER_FILE = "tokenizer_config.json"
_MACHINE_ENTRIES = ("backend", "is_local", "local_files_only")
"""Entries that describe how the tokenizer was loaded on this machine; no release of transformers needs them."""


def make_tokenizer_portable(directory: str | Path) -> None:
    """Rewrite a saved tokenizer_config.json so that transformers 4 reads it and it does not describe this machine.

    transformers 5 names its base class `TokenizersBackend` and writes `extra_special_tokens` as a list. Release 4
    knows neither; release 5 also reads the older names.
    """
    path = Path(directory) / _TOKENIZER_FILE
    if not path.is_file():
        return
    config = _read(path)
    for name in _MACHINE_ENTRIES:
        config.pop(name, None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    _write(path, config)


def make_config_portable(directory: str | Path) -> None:
    """Add the names under which transformers 4 looks for rotary embeddings to a saved config.json.

    Release 4 ignores `rope_parameters` and `layer_types` of release 5 and would silently use its defaults.
    """
    path = Path(directory) / "config.json"
    config = _read(path)
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
    for layers, name in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        if isinstance(rope.get(layers), dict) and "rope_theta" in rope[layers]:
            config[name] = rope[layers]["rope_theta"]
    layers = config.get("layer_types")
    if config.get("model_type") == "modernbert" and layers and layers.count("full_attention") > 1:
        config.setdefault("global_attn_every_n_layers", layers.index("full_attention", 1))
    _write(path, config)


def equalize_file_modes(directory: str | Path) -> None:
    """Give weights the file mode of config.json beside them; safetensors lets only the owner read them."""
    directory = Path(directory)
    config = directory / "config.json"
    if config.is_file():
        for weights in directory.glob("*.safetensors"):
            weights.chmod(config.stat().st_mode & 0o777)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
