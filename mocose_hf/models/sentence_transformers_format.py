"""Read and write the directory layout of sentence-transformers.

Layout: https://sbert.net/docs/sentence_transformer/usage/custom_models.html. This module does not need the package,
which a training machine need not have installed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from mocose_hf.errors import one_line
from mocose_hf.models.configuration_base import EMBEDDING_SETTINGS, SIMILARITY_FUNCTIONS
from mocose_hf.models.dense_layer import DenseLayer

_LEGACY_POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


ENCODER_FILES = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Possible names of the settings file of the module `Transformer`, in the order that sentence-transformers tries."""

MODEL_FILE = "config_sentence_transformers.json"

_DEFAULTS = {
    "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "model_type": "SentenceTransformer",
}
"""Settings that change the embedding unless they have this value."""

_TEXT_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
_WITHOUT_EFFECT = {"unpad_inputs", "query_length", "document_length", "query_expansion", "trust_remote_code"}
"""Settings of `Transformer` that do not change what `encode` returns."""


_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
}
"""The activations of a module `Dense` that `DenseLayer` has too."""


@dataclass(frozen=True)
class SentenceTransformersLayout:
    """The location of the encoder of a sentence-transformers model, and its embedding settings.

    Args:
        encoder_folder: Folder of the encoder inside the model, "" for the model's own.
        pooling_mode: Its pooling: cls, mean, max, or a name that `ContrastiveConfig` does not support.
        max_seq_length: Longest input in tokens, None for the tokenizer's own.
        other_modules: Classes of modules beyond encoder, pooling and normalisation, which change the embedding.
        do_lower_case: Whether text is lower-cased before it is tokenised.
        normalize: Whether embeddings are scaled to length 1.
        include_prompt: Whether the tokens of a prompt are pooled.
        prompts: Text to put before a sentence, by name.
        default_prompt_name: The prompt that `encode` uses by default, None for none.
        truncate_dim: Number of leading dimensions that are kept, None for all.
        similarity_fn_name: How embeddings are compared, one of `SIMILARITY_FUNCTIONS`.
        other_settings: Unsupported settings that change the embedding, with their values.
        dense_activation: The activation of a dense layer (H, H) behind the pooling, None if there is no such layer.
        dense_folder: Folder of that layer inside the model.
    """

    encoder_folder: str
    pooling_mode: str
    max_seq_length: int | None
    other_modules: tuple[str, ...]
    do_lower_case: bool = False
    normalize: bool = False
    include_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    similarity_fn_name: str = "cosine"
    other_settings: tuple[str, ...] = ()
    dense_activation: str | None = None
    dense_folder: str = ""

    def embedding_settings(self) -> dict[str, object]:
        """Return the settings that `ContrastiveConfig` has fields for, by the name of the field."""
        return {name: getattr(self, name) for name in EMBEDDING_SETTINGS}


def read_layout(name_or_path: str, **hub_options) -> SentenceTransformersLayout | None:
    """Read the layout of a local directory or hub model; None if it is not one of sentence-transformers.

    The classes of its modules are compared by name and never imported.

    Args:
        hub_options: `revision` and `cache_dir`, as `from_pretrained` takes them.

    Raises:
        ValueError: If one of its files is malformed, or no module is a `Transformer`.
    """
    modules = read_json(name_or_path, "modules.json", hub_options)
    if modules is None:
        return None
    _validate_modules(modules, name_or_path)
    settings_found: dict[str, Any] = {"pooling_mode": "mean"}
    seen: list[str] = []
    others: list[str] = []
    unknown: list[str] = []
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind in ("Transformer", "Pooling", "Normalize") and not module["type"].startswith("sentence_transformers."):
            unknown.append(f"class {module['type']} (read as {kind})")
        if kind == "Normalize" and "Pooling" in seen:
            settings = _read_object(name_or_path, f"{module['path']}/config.json", hub_options)
            names = [settings.get(f"module_{part}_name") or "sentence_embedding" for part in ("input", "output")]
            if names == ["sentence_embedding"] * 2:
                settings_found["normalize"] = True
            else:
                unknown.append(f"Normalize of {' to '.join(names)}")
        elif kind == "Transformer" and kind not in seen:
            settings_found["encoder_folder"] = module["path"]
            settings_found |= _encoder_settings(name_or_path, module["path"], hub_options, unknown)
        elif kind == "Pooling" and kind not in seen:
            settings = _read_object(name_or_path, f"{module['path']}/config.json", hub_options)
            settings_found["pooling_mode"] = _pooling_mode(settings)
            settings_found["include_prompt"] = settings.get("include_prompt", True)
        elif kind == "Dense" and seen[-1:] == ["Pooling"]:
            settings = _read_object(name_or_path, f"{module['path']}/config.json", hub_options)
            activation = _dense_activation(settings)
            if activation is None:
                others.append(kind)
            else:
                settings_found |= {"dense_activation": activation, "dense_folder": module["path"]}
        else:
            others.append(kind)
        seen.append(kind)
    if "Transformer" not in seen:
        raise ValueError(f"its modules are {', '.join(seen) or 'none'}, but a `Transformer` is needed; start from one")
    settings_found |= _model_settings(name_or_path, hub_options, unknown)
    return SentenceTransformersLayout(other_modules=tuple(others), other_settings=tuple(unknown), **settings_found)


def _dense_activation(settings: dict) -> str | None:
    """Return the activation of a module `Dense`, None if `DenseLayer` cannot do what the module does."""
    own = {"in_features", "out_features", "bias", "activation_function"}
    names = [settings.get(f"module_{part}_name") for part in ("input", "output")]
    is_usual = all(name in (None, "sentence_embedding") for name in names)
    rest = {name for name, value in settings.items() if name not in own and not name.startswith("module_") and value}
    width = settings.get("in_features")
    if not is_usual or rest or not isinstance(width, int) or settings.get("out_features") != width:
        return None
    return _ACTIVATIONS.get(str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")))


def _encoder_settings(name_or_path: str, folder: str, hub_options: dict, unknown: list[str]) -> dict[str, Any]:
    """Return the settings of a module `Transformer`; unsupported ones are added to `unknown`."""
    for name in ENCODER_FILES:
        settings = _read_object(name_or_path, f"{folder}/{name}", hub_options)
        if settings:
            break
    known: dict[str, Any] = {
        "max_seq_length": _number(settings, "max_seq_length", name_or_path),
        "do_lower_case": bool(settings.get("do_lower_case")),
    }
    modalities = settings.pop("modality_config", None)
    if isinstance(modalities, dict) and modalities.get("text", _TEXT_FORWARD) != _TEXT_FORWARD:
        unknown.append(f"modality_config text {modalities['text']}")
    rest = {name: value for name, value in settings.items() if name not in _WITHOUT_EFFECT | known.keys() and value}
    unknown += _unusual(rest) + [f"{name} {value}" for name, value in rest.items() if name not in _DEFAULTS]
    return known


def _model_settings(name_or_path: str, hub_options: dict, unknown: list[str]) -> dict[str, object]:
    """Return the settings of the whole model; unsupported ones are added to `unknown`.

    Raises:
        ValueError: If a prompt is not text or the default one is not among them.
    """
    settings = _read_object(name_or_path, MODEL_FILE, hub_options)
    unknown += _unusual({"model_type": settings.get("model_type")})
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str | None) for p in prompts.values()):
        raise ValueError(f"{name_or_path}/{MODEL_FILE}: `prompts` is not an object of names and texts; correct it.")
    prompts = {name: prompt for name, prompt in prompts.items() if prompt is not None}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ValueError(
            f"{name_or_path}/{MODEL_FILE}: `default_prompt_name` is {default!r:.60}, but the prompts are "
            f"{', '.join(prompts) or 'none'}; correct one of the two."
        )
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in SIMILARITY_FUNCTIONS:
        unknown.append(f"similarity_fn_name {similarity}")
        similarity = "cosine"
    return {
        "prompts": prompts,
        "default_prompt_name": default,
        "truncate_dim": _number(settings, "truncate_dim", f"{name_or_path}/{MODEL_FILE}"),
        "similarity_fn_name": similarity,
    }


def _unusual(settings: dict) -> list[str]:
    """Return the settings that differ from `_DEFAULTS`, each with its value."""
    given = {name: settings.get(name) for name in _DEFAULTS}
    return [f"{name} {value}" for name, value in given.items() if value not in (None, _DEFAULTS[name])]


def _number(settings: dict, name: str, place: str) -> int | None:
    value = settings.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(
            f"{place}: `{name}` is {value!r:.60}, but a whole number above 0 is needed; correct that entry."
        )
    return value


def read_json(name_or_path: str, filename: str, hub_options: dict):
    """Return the content of a JSON file of a local directory or hub model, None if there is no such file."""
    path = cached_file(
        name_or_path,
        filename,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub_options,
    )
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({one_line(error)}); fetch the model again.") from error


def write_layout(
    directory: str | Path,
    pooling_mode: str,
    hidden_size: int,
    max_seq_length: int | None,
    *,
    do_lower_case: bool = False,
    normalize: bool = False,
    include_prompt: bool = True,
    prompts: Mapping[str, str] | None = None,
    default_prompt_name: str | None = None,
    truncate_dim: int | None = None,
    similarity_fn_name: str = "cosine",
    dense: DenseLayer | None = None,
) -> None:
    """Turn the directory of a plain encoder into one that `SentenceTransformer` loads with these settings.

    The files are those of sentence-transformers 2 to 5, which version 6 reads too. Without them it would assume mean
    pooling.

    Args:
        directory: The directory of an encoder.
        pooling_mode, max_seq_length: As in `SentenceTransformersLayout`, like all arguments below.
        hidden_size: H, the width of the pooled embedding.
        dense: The dense layer behind the pooling, None for none.
    """
    directory = Path(directory)
    kinds = ["Pooling", *(["Dense"] if dense is not None else []), *(["Normalize"] if normalize else [])]
    classes = {"": "Transformer"} | {f"{place}_{kind}": kind for place, kind in enumerate(kinds, start=1)}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(classes.items())
    ]
    pooling = {"word_embedding_dimension": hidden_size, "include_prompt": include_prompt}
    pooling |= {name: mode == pooling_mode for name, mode in _LEGACY_POOLING_MODES.items()}
    model: dict[str, object] = {"similarity_fn_name": similarity_fn_name}
    if prompts:
        model |= {"prompts": dict(prompts), "default_prompt_name": default_prompt_name}
    if truncate_dim is not None:
        model["truncate_dim"] = truncate_dim
    (directory / "1_Pooling").mkdir(exist_ok=True)
    _write_json(directory / "modules.json", modules)
    _write_json(directory / "1_Pooling" / "config.json", pooling)
    encoder = {"max_seq_length": max_seq_length, "do_lower_case": do_lower_case}
    _write_json(directory / "sentence_bert_config.json", encoder)
    _write_json(directory / MODEL_FILE, model)
    if dense is not None:
        _write_dense(directory / "2_Dense", dense)


def _write_dense(folder: Path, dense: DenseLayer) -> None:
    """Write a dense layer as a module `Dense`."""
    folder.mkdir(exist_ok=True)
    names = {activation: name for name, activation in _ACTIVATIONS.items()}
    settings = {"in_features": dense.width, "out_features": dense.width, "bias": True}
    _write_json(folder / "config.json", settings | {"activation_function": names[dense.activation]})
    state = {f"linear.{name}": value.detach().cpu().contiguous() for name, value in dense.state_dict().items()}
    save_file(state, folder / SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def _validate_modules(modules, name_or_path: str) -> None:
    for module in modules if isinstance(modules, list) else [modules]:
        if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in ("path", "type")):
            raise ValueError(f"{name_or_path}/modules.json: not a list of `path` and `type`; fetch the model again.")
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise ValueError(
                f"{name_or_path}/modules.json: {module['path']} lies outside the model; fetch the model again."
            )


def _pooling_mode(config: dict) -> str:
    modes = config.get("pooling_mode") or [mode for name, mode in _LEGACY_POOLING_MODES.items() if config.get(name)]
    modes = [modes] if isinstance(modes, str) else list(modes)
    return "+".join(modes) or "mean"


def _read_object(name_or_path: str, filename: str, hub_options: dict) -> dict:
    content = read_json(name_or_path, filename.lstrip("/"), hub_options)
    if not isinstance(content, (dict, type(None))):
        raise ValueError(f"{name_or_path}/{filename}: not a JSON object; fetch the model again.")
    return content or {}


def _write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
