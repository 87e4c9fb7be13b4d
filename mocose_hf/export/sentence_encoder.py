"""Export a trained model as a plain sentence encoder that loads without this package."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModel

from mocose_hf.models import adapters
from mocose_hf.models.encoding import longest_input
from mocose_hf.models.loading import pooler_dense, save_tokenizer
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.saved_files import equalize_file_modes, make_config_portable
from mocose_hf.models.sentence_transformers_format import write_layout
from mocose_hf.parallel.deepspeed import whole_weights

WHOLE_MODEL = "mocose"
"""The folder inside the output directory that holds the whole model: encoder, heads, target and queue."""

ENCODER_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
"""The files of an exported encoder, as patterns, beside the settings of sentence-transformers and the tokenizer."""

ADAPTER_FILES = (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE)
"""The files that an exported adapter has in their place."""


def save_model_and_encoder(
    model: ContrastiveModel,
    tokenizer,
    output_dir: str | Path,
    only_encoder: bool = False,
    merge_adapter: bool = True,
) -> None:
    """Write the plain encoder to the root of a directory and the whole model to its folder `WHOLE_MODEL`.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        output_dir: Created if it does not exist; files of an earlier model are replaced.
        only_encoder: Whether to leave out the whole model.
        merge_adapter: As in `export_sentence_encoder`.
    """
    output_dir = Path(output_dir)
    if not only_encoder:
        whole = output_dir / WHOLE_MODEL
        model.save_pretrained(whole)
        equalize_file_modes(whole)
        save_tokenizer(tokenizer, whole)
    export_sentence_encoder(model, tokenizer, output_dir, merge_adapter)


@torch.no_grad()
def export_sentence_encoder(
    model: ContrastiveModel, tokenizer, directory: str | Path, merge_adapter: bool = True
) -> Path:
    """Write the online encoder as a directory that `AutoModel`, `pipeline` and `SentenceTransformer` load.

    `SentenceTransformer` returns the embeddings of `MoCoSEModel.encode`, with its pooling, prompts, normalisation and
    limits. If the encoder's class has a pooler, it gets the trained dense layer. Without `use_pooler` no such layer is
    trained, and the export has no pooler. A fixed dense layer behind the pooling is a module of its own, which only
    `SentenceTransformer` applies.

    Args:
        model: The trained model.
        tokenizer: Its tokenizer.
        directory: Created if it does not exist; files of an earlier export are replaced.
        merge_adapter: Whether an adapter is merged into the weights. Otherwise it is written in peft's format, which
            `SentenceTransformer`, `AutoModel` and `PeftModel` load on top of its base. Without an adapter this has no
            effect.

    Returns:
        The directory.

    Raises:
        ValueError: If an adapter would be written to the directory of its base.
    """
    directory, config = Path(directory), model.config
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = lower_case(tokenizer) if config.do_lower_case else tokenizer
    if model.mocose.adapter is None or merge_adapter:
        _remove(directory, ADAPTER_FILES)
        _save_plain_encoder(model, directory)
    else:
        base = str(config.peft_config.get("base_model_name_or_path"))
        if Path(base).is_dir() and Path(base).resolve() == directory.resolve():
            raise ValueError(f"{directory} holds the base of the adapter; name another directory for the adapter.")
        _remove(directory, ENCODER_FILES)
        described = replace(model.mocose.adapter, config=config.peft_config)  # with the name of the base
        adapters.save_adapter(model.mocose.encoder, described, directory)
    equalize_file_modes(directory)
    save_tokenizer(tokenizer, directory)
    settings = config.embedding_settings | {"max_seq_length": longest_input(tokenizer, config)}
    settings["dense"] = model.mocose.dense if settings.pop("dense_activation") else None
    write_layout(directory, config.pooling_mode, config.hidden_size, **settings)
    return directory


def _remove(directory: Path, patterns: tuple[str, ...]) -> None:
    """Remove the files of the other form of an encoder."""
    for pattern in patterns:
        for file in directory.glob(pattern):
            file.unlink()


def _save_plain_encoder(model: ContrastiveModel, directory: Path) -> None:
    config = model.config
    with whole_weights():
        encoder = AutoModel.from_config(config.encoder_config, trust_remote_code=False)
    loaded = encoder.load_state_dict(model.mocose.plain_weights(), strict=False)
    misfits = [name for name in loaded.missing_keys if not name.startswith("pooler.")] + loaded.unexpected_keys
    if misfits:
        raise RuntimeError(f"The plain encoder does not take these weights: {', '.join(misfits)}.")
    dense = pooler_dense(encoder)
    if dense is not None and config.use_pooler:
        dense.load_state_dict(model.pooler.state_dict())
    weights = encoder.state_dict()
    if not config.use_pooler:  # the pooler of the encoder is untrained and random
        weights = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    encoder.save_pretrained(directory, state_dict=weights)
    make_config_portable(directory)
