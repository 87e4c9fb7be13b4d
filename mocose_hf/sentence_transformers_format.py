"""The directory layout of sentence-transformers: what we honour when we read one and write when we export one.

Layout: https://sbert.net/docs/sentence_transformer/usage/custom_models.html. Read here rather than with the package,
because a training machine need not have it installed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import cached_file

from mocose_hf.errors import one_line

_LEGACY_POOLING_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class SentenceTransformersLayout:
    """Where the encoder of a sentence-transformers model lies and how its embeddings are made.

    Args:
        encoder_folder: Folder of the encoder inside the model, "" for the model's own.
        pooling_mode: The pooling it was made for: cls, mean, max, or another name that `MoCoSEConfig` refuses.
        max_seq_length: Longest input in tokens, None for the tokenizer's own.
        other_modules: Classes of modules beyond encoder, pooling and normalisation, which change the embedding.
    """

    encoder_folder: str
    pooling_mode: str
    max_seq_length: int | None
    other_modules: tuple[str, ...]


def read_layout(name_or_path: str, **hub_options) -> SentenceTransformersLayout | None:
    """Read the layout of a local directory or hub model; None where it is not one of sentence-transformers.

    The classes of its modules are compared by name and never imported.

    Args:
        hub_options: `revision` and `cache_dir`, as `from_pretrained` takes them.

    Raises:
        ValueError: Where one of its files is not as it should be.
    """
    modules = read_json(name_or_path, "modules.json", hub_options)
    if modules is None:
        return None
    _check_modules(modules, name_or_path)
    encoder_folder, pooling_mode, others = "", "mean", []
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        if kind == "Transformer":
            encoder_folder = module["path"]
        elif kind == "Pooling":
            pooling_mode = _pooling_mode(_read_object(name_or_path, f"{module['path']}/config.json", hub_options))
        elif kind != "Normalize":
            others.append(kind)
    length_file = f"{encoder_folder}/sentence_bert_config.json"
    max_seq_length = _read_object(name_or_path, length_file, hub_options).get("max_seq_length")
    return SentenceTransformersLayout(encoder_folder, pooling_mode, max_seq_length, tuple(others))


def read_json(name_or_path: str, filename: str, hub_options: dict):
    """Return what a JSON file of a local directory or hub model holds, None where there is no such file."""
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


def write_layout(directory: str | Path, pooling_mode: str, hidden_size: int, max_seq_length: int | None) -> None:
    """Turn the directory of a plain encoder into one that `SentenceTransformer` loads with this pooling.

    The files are those of sentence-transformers 2 to 5, which version 6 reads too; without them it would assume mean
    pooling.
    """
    directory = Path(directory)
    classes = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(classes.items())
    ]
    pooling = {"word_embedding_dimension": hidden_size}
    pooling |= {name: mode == pooling_mode for name, mode in _LEGACY_POOLING_MODES.items()}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    _write_json(directory / "modules.json", modules)
    _write_json(directory / "1_Pooling" / "config.json", pooling)
    _write_json(directory / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False})
    _write_json(directory / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})


def _check_modules(modules, name_or_path: str) -> None:
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
