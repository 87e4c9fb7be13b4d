"""Load encoders and tokenizers from plain, sentence-transformers and MoCoSE models, without running their code."""

import copy
import inspect
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
import transformers
from huggingface_hub.constants import ENDPOINT
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, DummyObject, cached_file, logging

from mocose_hf.errors import printable
from mocose_hf.files import content_sha256, file_sha256
from mocose_hf.models import adapters
from mocose_hf.models.configuration_base import ContrastiveConfig
from mocose_hf.models.dense_layer import DenseLayer
from mocose_hf.models.encoder_checks import validate_family, vocabulary_rows
from mocose_hf.models.encoding import MODEL_INPUTS
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.saved_files import make_tokenizer_portable
from mocose_hf.models.sentence_transformers_format import (
    SentenceTransformersLayout,
    read_json,
    read_layout,
)
from mocose_hf.parallel.deepspeed import whole_weights

logger = logging.get_logger(__name__)

_SAFETENSORS_ALONE = (
    f"no {SAFE_WEIGHTS_NAME} was found; weights in pickles, such as pytorch_model.bin, can run code and are not "
    "loaded: convert them in a throw-away environment by AutoModel.from_pretrained(old).save_pretrained(new), and "
    "AutoTokenizer likewise"
)


@dataclass
class PretrainedEncoder:
    """An encoder to start from.

    Args:
        encoder: In float32.
        pooler: The dense layer (H, H) of its own pooler, None if it has none or it was not trained.
        pooling_mode: The pooling of the model, or the default of `load_encoder` if it states none.
        settings: Its other embedding settings: fields of `ContrastiveConfig`, see `EMBEDDING_SETTINGS`.
        dense: The fixed dense layer behind its pooling, None if it has none.
        revision: Branch, tag or commit that it was loaded from; None for a directory or the default.
    """

    encoder: PreTrainedModel
    pooler: nn.Linear | None
    pooling_mode: str
    settings: dict[str, object] = field(default_factory=dict)
    dense: DenseLayer | None = None
    revision: str | None = None


@whole_weights()
def load_encoder(
    name_or_path: str, attn_implementation: str | None = None, default_pooling: str = "cls", **hub_options
) -> PretrainedEncoder:
    """Load the encoder of a plain, a sentence-transformers or a MoCoSE model, without running code that comes with it.

    Args:
        name_or_path: A directory or a hub id.
        attn_implementation: As in `AutoModel.from_pretrained`.
        default_pooling: The pooling of an encoder that states none, by default the paper's.
        hub_options: `revision` and `cache_dir`.

    Raises:
        OSError: If there are no weights in safetensors.
        ValueError: If the model needs code of its own, is no encoder of text, or lacks some of its weights.
    """
    revision = hub_options.get("revision")
    if (adapter := _read_adapter(name_or_path, hub_options)) is not None:
        return _load_adapted(name_or_path, adapter, attn_implementation, default_pooling, hub_options)
    config, layout, hub_options = _load_config(name_or_path, hub_options)
    pooling_mode, settings = default_pooling, {}
    if layout is not None:
        pooling_mode, settings = layout.pooling_mode, layout.embedding_settings()
        for warning in _layout_warnings(layout):
            logger.warning(printable(f"{name_or_path} {warning}"))
    options = {"dtype": torch.float32, "use_safetensors": True, **hub_options}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    with _explained_code_refusal(), _without_load_report():
        validate_family(config)
        _find_weight_files(name_or_path, config, hub_options)
        if layout is None and isinstance(config, ContrastiveConfig):
            model, info = AutoModelForPreTraining.from_pretrained(
                name_or_path, output_loading_info=True, trust_remote_code=False, **options
            )
            _validate_weights(model, [name for name in info["missing_keys"] if name.startswith("mocose.")])
            pooler = model.pooler if config.use_pooler else None
            dense = model.mocose.dense if config.dense_activation else None
            encoder = model.mocose.encoder
            if model.mocose.adapter is not None:
                encoder = _build_merged(encoder, model.mocose.adapter)
            encoder.config.name_or_path = name_or_path
            settings = config.embedding_settings
            return PretrainedEncoder(encoder, pooler, config.pooling_mode, settings, dense, revision)
        encoder, info = AutoModel.from_pretrained(
            name_or_path, output_loading_info=True, trust_remote_code=False, **options
        )
    _validate_takes_text(encoder)
    _validate_weights(encoder, [name for name in info["missing_keys"] if not name.startswith("pooler.")])
    pooler = pooler_dense(encoder)
    if any(name.startswith("pooler.") for name in info["missing_keys"]):
        pooler = None
    dense = None if layout is None else _load_dense(name_or_path, layout, encoder.config.hidden_size, hub_options)
    return PretrainedEncoder(encoder, pooler, pooling_mode, settings, dense, revision)


def _load_dense(
    name_or_path: str, layout: SentenceTransformersLayout, width: int, hub_options: dict
) -> DenseLayer | None:
    """Load the dense layer of a sentence-transformers model, None if it has none.

    Raises:
        OSError: If its weights are not in safetensors.
        ValueError: If they have other shapes than (H, H) and (H,).
    """
    if layout.dense_activation is None:
        return None
    path = _find_dense(name_or_path, layout, hub_options)
    state = {name.removeprefix("linear."): value.float() for name, value in load_file(path).items()}
    dense = DenseLayer(width, layout.dense_activation)
    state.setdefault("bias", dense.bias)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != {name: tuple(value.shape) for name, value in dense.state_dict().items()}:
        raise ValueError(f"{path}: has {shapes}, but a weight ({width}, {width}) is needed; fetch the model again")
    dense.load_state_dict(state)
    return dense


def _find_dense(name_or_path: str, layout: SentenceTransformersLayout, hub_options: dict) -> str:
    """Return the local path of the weights of a model's dense layer.

    Raises:
        OSError: If they are not in safetensors.
    """
    options = {name: value for name, value in hub_options.items() if name != "subfolder"}
    file = f"{layout.dense_folder}/{SAFE_WEIGHTS_NAME}"
    path = cached_file(name_or_path, file, _raise_exceptions_for_missing_entries=False, **options)
    if path is None:
        raise OSError(f"{layout.dense_folder}: {_SAFETENSORS_ALONE}")
    return path


def build_encoder(config: ContrastiveConfig) -> PreTrainedModel:
    """Build the encoder of a configuration without its own pooler, which MoCoSE replaces, and without an adapter."""
    return _build_plain(config.encoder_config)


def _build_plain(encoder_config: PreTrainedConfig) -> PreTrainedModel:
    with whole_weights():
        encoder = AutoModel.from_config(encoder_config, trust_remote_code=False)
    return _without_pooler(encoder)


def _without_pooler(encoder: PreTrainedModel) -> PreTrainedModel:
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = nn.Identity()  # some families would call None
    return encoder


def _build_merged(encoder: PreTrainedModel, adapter: adapters.Adapter) -> PreTrainedModel:
    """Return a plain encoder with the weights of an adapted one, the adapter merged into them."""
    weights = adapters.merged_weights(encoder, adapter)
    plain = _build_plain(encoder.config)
    plain.load_state_dict({name: value for name, value in weights.items() if not name.startswith("pooler.")})
    return plain


def _read_adapter(name_or_path: str, hub_options: dict) -> dict | None:
    """Return the configuration of an adapter of peft; None for a model of another kind, an encoder with one included.

    Raises:
        ValueError: If it names no base.
    """
    hub_options = _usable_hub_options(name_or_path, hub_options)
    if _has(name_or_path, "config.json", hub_options) or not _has(name_or_path, adapters.CONFIG_FILE, hub_options):
        return None
    config = read_json(name_or_path, adapters.CONFIG_FILE, hub_options)
    if not isinstance(config, dict) or not isinstance(config.get("base_model_name_or_path"), str):
        raise ValueError(f"its {adapters.CONFIG_FILE} names no `base_model_name_or_path`; enter the encoder below it")
    return config


def _base_of(name_or_path: str, adapter: dict, hub_options: dict) -> tuple[str, dict]:
    """Return name and hub options of the encoder below an adapter.

    Raises:
        ValueError: If that is an adapter too.
    """
    base, options = adapter["base_model_name_or_path"], {**hub_options, "revision": adapter.get("revision")}
    if _read_adapter(base, options) is not None:
        raise ValueError(f"its base {base} is an adapter too; merge the two, and name the result as the base")
    return base, options


def _load_adapted(
    name_or_path: str, adapter: dict, attn_implementation: str | None, default_pooling: str, hub_options: dict
) -> PretrainedEncoder:
    """Load the encoder below an adapter, and merge the adapter into it."""
    adapters.require_peft()
    base, base_options = _base_of(name_or_path, adapter, hub_options)
    source = load_encoder(base, attn_implementation, default_pooling, **base_options)
    layout, hub_options = locate_encoder(name_or_path, hub_options)
    weights = cached_file(
        name_or_path, adapters.WEIGHTS_FILE, _raise_exceptions_for_missing_entries=False, **hub_options
    )
    if weights is None:
        raise OSError(f"no {adapters.WEIGHTS_FILE} was found; weights in pickles can run code and are not loaded")
    adapted = _without_pooler(source.encoder)
    encoder = _build_merged(adapted, adapters.load_adapter(adapted, adapter, weights))
    encoder.config.name_or_path = name_or_path
    pooling_mode, settings, dense = source.pooling_mode, source.settings, source.dense
    if layout is not None:
        pooling_mode, settings = layout.pooling_mode, layout.embedding_settings()
        dense = _load_dense(name_or_path, layout, encoder.config.hidden_size, hub_options)
    return PretrainedEncoder(encoder, source.pooler, pooling_mode, settings, dense, hub_options.get("revision"))


def _layout_warnings(layout: SentenceTransformersLayout) -> Iterator[str]:
    """Yield a warning for each setting of a sentence-transformers model that is not used, or not everywhere."""
    if layout.other_modules:
        yield (
            f"has modules beyond encoder, pooling and normalisation, which training, scores and export leave out: "
            f"{', '.join(layout.other_modules)}."
        )
    if layout.other_settings:
        yield f"has unsupported settings, so its embeddings may differ: {'; '.join(layout.other_settings)}."
    if layout.default_prompt_name is None and any(layout.prompts.values()):
        names = ", ".join(name for name, prompt in layout.prompts.items() if prompt)
        yield (
            f"has the prompts {names}, but no default, so training uses none; give `prompt`, or `query_prompt` and "
            "`key_prompt`, to train with some."
        )
    if layout.truncate_dim is not None:
        yield (
            f"keeps {layout.truncate_dim} dimensions (`truncate_dim`); scores and `encode` do too, training uses all."
        )
    if layout.similarity_fn_name != "cosine":
        yield (
            f"compares embeddings by {layout.similarity_fn_name} (`similarity_fn_name`); scores on pairs do too, "
            "training and all other scores use the cosine."
        )


def load_encoder_config(name_or_path: str, **hub_options) -> PreTrainedConfig:
    """Load the configuration of the encoder that `load_encoder` would load, without its weights.

    Raises:
        OSError, ValueError: As `load_encoder` raises them.
    """
    if (adapter := _read_adapter(name_or_path, hub_options)) is not None:
        base, options = _base_of(name_or_path, adapter, hub_options)
        return load_encoder_config(base, **options)
    config, *_ = _load_config(name_or_path, hub_options)
    return config.encoder_config if isinstance(config, ContrastiveConfig) else config


def states_pooling(name_or_path: str, **hub_options) -> bool:
    """Return whether a model says how its tokens are pooled; a plain language model does not.

    Raises:
        OSError, ValueError: As `load_encoder` raises them.
    """
    config, layout, _ = _load_config(name_or_path, hub_options)
    return layout is not None or isinstance(config, ContrastiveConfig)


def is_plain_encoder(name_or_path: str, **hub_options) -> bool:
    """Return whether `AutoModel` alone loads an encoder by this name: no adapter and no MoCoSE model, at the root."""
    if _read_adapter(name_or_path, hub_options) is not None:
        return False
    config, layout, _ = _load_config(name_or_path, hub_options)
    return not isinstance(config, ContrastiveConfig) and not (layout is not None and layout.encoder_folder)


def encoder_files(name_or_path: str, **hub_options) -> list[Path]:
    """Return the local paths of the configuration and weights that `load_encoder` reads.

    Raises:
        OSError, ValueError: As `load_encoder` raises them.
    """
    if (adapter := _read_adapter(name_or_path, hub_options)) is not None:
        base, base_options = _base_of(name_or_path, adapter, hub_options)
        hub_options = _usable_hub_options(name_or_path, hub_options)
        names = [adapters.CONFIG_FILE, adapters.WEIGHTS_FILE]
        own = [Path(cached_file(name_or_path, name, **hub_options)) for name in names]
        return own + encoder_files(base, **base_options)
    config, layout, hub_options = _load_config(name_or_path, hub_options)
    names = ["config.json", *dict.fromkeys(_find_weight_files(name_or_path, config, hub_options))]
    files = [cached_file(name_or_path, name, **hub_options) for name in names]
    if layout is not None and layout.dense_activation is not None:
        files.append(_find_dense(name_or_path, layout, hub_options))
    return [Path(file) for file in files]


def encoder_sha256(name_or_path: str, **hub_options) -> str:
    """Return the SHA-256 (hex) of an encoder's weights, configuration, pooling and vocabulary.

    Args:
        name_or_path: A directory or a hub id, as for `load_encoder`.
        hub_options: `revision` and `cache_dir`.

    Raises:
        OSError, ValueError: If the encoder cannot be loaded.
    """
    files = encoder_files(name_or_path, **hub_options)
    tokenizer = load_tokenizer(name_or_path, **hub_options)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    layout, _ = locate_encoder(name_or_path, hub_options)
    return content_sha256([[file_sha256(path) for path in files], layout, vocabulary])


def pooler_dense(encoder: PreTrainedModel) -> nn.Linear | None:
    """Return the dense layer of an encoder's own pooler, None if it has none."""
    pooler = getattr(encoder, "pooler", None)
    return pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)


def load_tokenizer(name_or_path: str, **hub_options):
    """Load the tokenizer of a model that `load_encoder` loads, with the model's own length limit and lower-casing.

    A tokenizer without a padding token pads with the token that ends a sentence, in saved copies too.

    Raises:
        OSError: If there is none; transformers would create one that knows only special tokens.
        ValueError: If it needs code of its own, has no token to pad with, or its length limit is no number above 0.
    """
    layout, hub_options = locate_encoder(name_or_path, hub_options)
    _validate_tokenizer_class(name_or_path, hub_options)
    with _explained_code_refusal():
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False, **hub_options)
    if layout is not None and layout.max_seq_length:
        tokenizer.model_max_length = layout.max_seq_length
    if layout is not None and layout.do_lower_case:
        tokenizer = lower_case(tokenizer)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise OSError(f"no vocabulary of a tokenizer in {name_or_path}")
    longest: Any = tokenizer.model_max_length
    if not isinstance(longest, Real) or not float(longest) > 0:
        raise ValueError(
            f"its `model_max_length` is {longest!r:.60}, but a number above 0 is needed; correct that entry"
        )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                "its tokenizer has no `pad_token`, but batches are padded; add one to tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token  # the mask, not the token, tells what is padding
        logger.warning_once(
            printable(f"The tokenizer of {name_or_path} has no `pad_token`, so {tokenizer.eos_token} pads batches.")
        )
    fix_padding(tokenizer)
    return tokenizer


def fix_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a tokenizer pad on the right and return attention masks, in saved copies too.

    Encoders count absolute positions from the left, and without a mask they treat padding as tokens.
    """
    tokenizer.padding_side = "right"
    if "attention_mask" not in tokenizer.model_input_names:
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
    for name in ("padding_side", "model_input_names"):
        tokenizer.init_kwargs[name] = getattr(tokenizer, name)  # only these arguments are saved


def validate_tokenizer(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> None:
    """Raise an error if a tokenizer does not fit an encoder.

    Raises:
        ValueError: If the encoder has no embedding for one of its tokens, or it returns more than tokens.
    """
    extra = tokenizer(["a"]).keys() & (inspect.signature(encoder.forward).parameters.keys() - set(MODEL_INPUTS))
    if extra:
        raise ValueError(
            f"the tokenizer also returns `{min(extra)}`, which this package does not pass on to `"
            f"{encoder.config.model_type}`; start from an encoder of another family"
        )
    rows = vocabulary_rows(encoder)
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        raise ValueError(
            f"the tokenizer has tokens up to id {highest}, but the encoder's embedding has {rows} rows; use the "
            "tokenizer that was saved with the encoder"
        )


def _usable_hub_options(name_or_path: str, hub_options: dict) -> dict:
    """Return the options that are not None; without a connection to the hub, use only the cache.

    If the hub's name cannot be resolved, its client would retry for over a minute (huggingface_hub 2.4).
    """
    options = {name: value for name, value in hub_options.items() if value is not None}
    if not Path(name_or_path).is_dir() and not getproxies():
        try:
            socket.getaddrinfo(urlparse(ENDPOINT).hostname, None)
        except OSError:
            options["local_files_only"] = True
    return options


def locate_encoder(name_or_path: str, hub_options: dict) -> tuple[SentenceTransformersLayout | None, dict]:
    """Return the layout of a sentence-transformers model, else None, and the hub options that locate its encoder."""
    hub_options = _usable_hub_options(name_or_path, hub_options)
    layout = read_layout(name_or_path, **hub_options)
    if layout is not None and layout.encoder_folder:
        hub_options["subfolder"] = layout.encoder_folder
    return layout, hub_options


def _load_config(
    name_or_path: str, hub_options: dict
) -> tuple[PreTrainedConfig, SentenceTransformersLayout | None, dict]:
    """Return the configuration of an encoder, the model's layout, and the hub options that locate the encoder."""
    layout, hub_options = locate_encoder(name_or_path, hub_options)
    with _explained_code_refusal():
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, **hub_options)
    return config, layout, hub_options


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Silence the table of missing weights that transformers prints; `_validate_weights` checks them."""
    reporter = logging.get_logger("transformers.modeling_utils")

    def is_other(record) -> bool:
        return "LOAD REPORT" not in str(record.msg)

    reporter.addFilter(is_other)  # another level would make it print other tables
    try:
        yield
    finally:
        reporter.removeFilter(is_other)


@contextmanager
def _explained_code_refusal() -> Iterator[None]:
    """Replace the advice of transformers to allow a model's own code by an error that says what to do."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            "it needs Python code that comes with it, which is not run; start from a model type that is part of "
            "transformers"
        ) from error


def _find_weight_files(name_or_path: str, config: PreTrainedConfig, hub_options: dict) -> list[str]:
    """Return the names of the files of weights, which must be in safetensors.

    `use_safetensors` alone does not ensure that (transformers 5.23): an index may name shards that are pickles, and
    the pickle of a hub model is converted by a bot, whose result is loaded without a check.

    Raises:
        OSError: If there are no weights in safetensors.
        ValueError: If the configuration asks for code on the hub, or the model is an adapter.
    """
    for part in _parts(config):
        for name in ("attn_implementation", "experts_implementation"):
            value = getattr(part, f"_{name}", None)
            if "/" in str(value):
                raise ValueError(
                    f"its configuration asks for {name}: {value}, which is code on the hub; remove that entry"
                )
    if _has(name_or_path, adapters.CONFIG_FILE, hub_options):
        raise ValueError("it is an adapter of another model; merge the two, and start from the result")
    named = getattr(config, "transformers_weights", None)
    names = [named] if named else [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME]
    files = [name for name in names if _has(name_or_path, name, hub_options)][:1]
    if files and files[0].endswith(".index.json"):
        index = read_json(name_or_path, files[0], hub_options)
        shards = index.get("weight_map") if isinstance(index, dict) else None
        files = list(shards.values()) if isinstance(shards, dict) else []
    if not files or not all(str(name).endswith(".safetensors") for name in files):
        raise OSError(_SAFETENSORS_ALONE)
    return [str(name) for name in files]


def _validate_takes_text(encoder: PreTrainedModel) -> None:
    """Raise a `ValueError` for a model of images or sounds."""
    if "input_ids" not in inspect.signature(encoder.forward).parameters:
        raise ValueError(
            f"`{encoder.config.model_type}` takes `{encoder.main_input_name}`, but an encoder of text is needed; "
            "start from one"
        )


def _validate_weights(model: PreTrainedModel, missing: list[str]) -> None:
    """Raise a `ValueError` if files lack parameters, which transformers would draw at random.

    Buffers have constant values, so files of other versions may lack some of them or hold more.
    """
    missing = sorted(set(missing) & {name for name, _ in model.named_parameters()})
    if missing:
        raise ValueError(
            f"its weights lack {len(missing)} of those that config.json asks for, the first is `{missing[0]}`; "
            "fetch or save config and weights again, together"
        )


def _validate_tokenizer_class(name_or_path: str, hub_options: dict) -> None:
    """Raise a `ValueError` if `tokenizer_class` names something else, which transformers would load all the same."""
    config, _ = PreTrainedConfig.get_config_dict(name_or_path, **hub_options)
    for content in (config, read_json(name_or_path, "tokenizer_config.json", hub_options)):
        named = content.get("tokenizer_class") if isinstance(content, dict) else None
        kind = getattr(transformers, str(named), None)
        is_tokenizer = isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerBase)
        if kind is not None and not is_tokenizer and not isinstance(kind, DummyObject):
            raise ValueError(f"its `tokenizer_class` is {named}, which is no tokenizer; fetch the model again")


def _has(name_or_path: str, filename: str, hub_options: dict) -> bool:
    return cached_file(name_or_path, filename, _raise_exceptions_for_missing_entries=False, **hub_options) is not None


def _parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            yield from _parts(part)


def save_tokenizer(tokenizer, directory) -> None:
    """Save a tokenizer for transformers 4 and 5: it pads on the right and forgets the settings of its last call."""
    tokenizer = copy.deepcopy(tokenizer)
    fix_padding(tokenizer)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(directory)
    make_tokenizer_portable(directory)
