"""Train an adapter of peft, such as LoRA, beside a frozen encoder: inject it, average it, merge it, save it.

Both branches share one copy of the base, the frozen encoder. The target owns only an average of the parameters that
the adapter trains, and runs the online encoder with these in their place. Only this module imports peft
(https://huggingface.co/docs/peft), and only if an adapter is in use.
"""

import copy
import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from mocose_hf.compat import mark_initialized
from mocose_hf.errors import InputError, install_command, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_NAME = "default"
"""The name that peft gives an adapter in the names of its parameters."""

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

ADAPTER_TYPES = ("IA3", "LOHA", "LOKR", "LORA")
"""The types of adapters that train, merge and save as the tests show. Prompts are no weights of the encoder."""

_PREFIX = "base_model.model."
"""What peft puts before each name in a file of weights."""

_NOT_STORED = ("auto_mapping", "inference_mode", "peft_version", "target_modules")

_UNSUPPORTED = {
    "megatron_config": "it imports a module by name",
    "layer_replication": "it changes the number of layers",
    "loftq_config": "it changes the base",
    "target_parameters": "the adapter must belong to modules",
    "trainable_token_indices": "the embeddings belong to the base",
    "arrow_config": "there is one adapter",
    "alora_invocation_tokens": "it changes with the text",
}
"""Fields of a configuration that are not supported, each with the reason."""

_INITIAL_VALUES = (True, False, "gaussian", "orthogonal")
"""Values of `init_lora_weights` that leave the base as it is."""


def require_peft() -> None:
    """Raise an `InputError` if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError(f"adapters need peft, which is not installed; run {install_command('peft')}.")


def describe_adapter(peft_config: Any) -> dict[str, object]:
    """Return the fields of a `peft.PeftConfig`, or of the dict that describes one, that differ from their defaults.

    Raises:
        ValueError: If the type of adapter or one of its fields is not supported.
    """
    require_peft()
    from peft import PeftConfig, PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = getattr(peft_config, "peft_type", None) or (peft_config or {}).get("peft_type")
    kind = str(getattr(kind, "value", kind))
    if kind not in ADAPTER_TYPES:
        raise ValueError(f"`peft_config` is of the type {kind:.40}; supported are {', '.join(ADAPTER_TYPES)}.")
    if not isinstance(peft_config, PeftConfig):
        known = {f.name for f in fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)])}
        unknown = sorted(name for name, value in peft_config.items() if name not in known and value)
        if unknown:
            raise ValueError(f"`peft_config` has an entry {unknown[0]:.40}, which is no field of {kind}; correct it.")
        try:
            peft_config = PeftConfig.from_peft_type(**{k: v for k, v in peft_config.items() if k in known})
        except (TypeError, ValueError) as error:
            raise ValueError(f"`peft_config` cannot be used ({one_line(error)}); correct that entry.") from error
    for name, reason in _UNSUPPORTED.items():
        if getattr(peft_config, name, None):
            raise ValueError(f"`{name}` of the adapter is not supported, because {reason}; leave it out.")
    initial = getattr(peft_config, "init_lora_weights", True)
    if initial not in _INITIAL_VALUES:
        raise ValueError(
            f"`init_lora_weights` is {initial!s:.40}, which changes the base; leave it out, or set it to gaussian."
        )
    values = {"peft_type": kind}
    for f in fields(peft_config):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        value = _as_json(getattr(peft_config, f.name))
        if f.name not in (*_NOT_STORED, "peft_type") and value != _as_json(default):
            values[f.name] = value
    targets = _as_json(peft_config.target_modules)
    return values | ({} if targets is None else {"target_modules": targets})


def _as_json(value: object) -> Any:
    """Return a value as JSON holds it; a set becomes a sorted list."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Adapter:
    """The adapter inside an encoder.

    Args:
        config: What `describe_adapter` returns, with the paths of the modules that it adapts as `target_modules`, so
            that another version of peft, or an encoder with a pooler, adapts the same ones.
        trained: The names of the parameters that it trains.
        base: The name in the plain encoder of each tensor that comes from there, by its name in the adapted one.
    """

    config: dict[str, object]
    trained: tuple[str, ...]
    base: dict[str, str]

    def frozen(self, encoder: nn.Module) -> list[Tensor]:
        """Return the parameters of an adapted encoder that no optimizer may change."""
        trained = {*self.trained}
        return [value for name, value in encoder.named_parameters() if name not in trained]

    def kept_names(self) -> list[str]:
        """Return the names in the adapted encoder of the tensors that training leaves as they are."""
        trained = {*self.trained}
        return [name for name in self.base if name not in trained]


def inject(encoder: "PreTrainedModel", config: Mapping[str, object]) -> Adapter:
    """Put an adapter into an encoder, in place, and freeze all other parameters.

    Args:
        encoder: A plain encoder.
        config: What `describe_adapter` returns.

    Raises:
        ValueError: If peft cannot put it there.
    """
    require_peft()
    from peft import PeftConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = {id(value): name for name, value in encoder.state_dict(keep_vars=True).items()}
    plain_modules = {id(module) for module in encoder.modules()}
    try:
        inject_adapter_in_model(PeftConfig.from_peft_type(**copy.deepcopy(dict(config))), encoder, ADAPTER_NAME)
    except ValueError as error:
        raise ValueError(
            f"the adapter does not fit `{encoder.config.model_type}` ({one_line(error)}); name the modules to adapt, "
            "or all-linear, as `target_modules`."
        ) from error
    for module in encoder.modules():
        if id(module) not in plain_modules:
            mark_initialized(module)
    state = encoder.state_dict(keep_vars=True)
    layers: dict[str, Any] = {
        name: module for name, module in encoder.named_modules() if isinstance(module, BaseTunerLayer)
    }
    resolved = {"target_modules": sorted(layers)}
    if "feedforward_modules" in config:  # of IA3
        resolved["feedforward_modules"] = sorted(name for name in layers if layers[name].is_feedforward)
    return Adapter(
        config=dict(config) | resolved,
        trained=tuple(name for name, value in encoder.named_parameters() if value.requires_grad),
        base={name: plain[id(value)] for name, value in state.items() if id(value) in plain},
    )


class AdapterAverage(nn.Module):
    """The encoder of the target: an average of what the adapter trains, on the base of the online encoder.

    Its parameters have the names that they have in the online encoder, which runs with them in the place of its own.

    Args:
        encoder: The online encoder, with the adapter inside. It is not a submodule of this one.
        adapter: That adapter.
    """

    def __init__(self, encoder: "PreTrainedModel", adapter: Adapter):
        super().__init__()
        self._online = (encoder,)  # a tuple hides it from `modules`
        self._names = adapter.trained
        for name in adapter.trained:
            path, _, last = name.rpartition(".")
            module: nn.Module = self
            for part in path.split("."):
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(last, nn.Parameter(torch.empty_like(encoder.get_parameter(name))))

    @property
    def online(self) -> "PreTrainedModel":
        """The online encoder."""
        return self._online[0]

    @property
    def config(self):
        """The configuration of the encoder."""
        return self.online.config

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings, which belong to the base."""
        return self.online.get_input_embeddings()

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each parameter of the average with the online one that it follows."""
        return [(self.get_parameter(name), self.online.get_parameter(name)) for name in self._names]

    def forward(self, *args, **kwargs):
        """Run the online encoder with the averaged adapter; arguments and result are those of the encoder."""
        return functional_call(self.online, dict(self.named_parameters()), args, kwargs, tie_weights=False)


@torch.no_grad()
def merged_weights(encoder: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Return the weights of the plain encoder that computes what an adapted one does, up to rounding.

    Args:
        encoder: The adapted encoder, which stays as it is.
        adapter: Its adapter.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    state = encoder.state_dict()
    weights = {plain: state[name] for name, plain in adapter.base.items()}
    for path, module in encoder.named_modules():
        if isinstance(module, BaseTunerLayer):
            merged: Any = copy.deepcopy(module)
            merged.merge(adapter_names=[ADAPTER_NAME])
            values = {f"{path}.{name}": value for name, value in merged.state_dict().items()}
        elif isinstance(module, ModulesToSaveWrapper):
            trained = module.modules_to_save[ADAPTER_NAME].state_dict()
            values = {f"{path}.original_module.{name}": value for name, value in trained.items()}
        else:
            continue
        weights |= {adapter.base[name]: value for name, value in values.items() if name in adapter.base}
    return weights


@torch.no_grad()
def scale_adapter(encoder: nn.Module, share: float) -> None:
    """Multiply the change that a LoRA makes to each weight by `share`, in place.

    Raises:
        ValueError: If it has parameters other than the two factors, whose change is not proportional to them.
    """
    others = [name for name, value in encoder.named_parameters() if value.requires_grad and ".lora_" not in name]
    if others:
        raise ValueError(f"`{others[0]}` is no factor of a LoRA, so the adapter cannot be scaled.")
    for name, value in encoder.named_parameters():
        if ".lora_B." in name or ".lora_embedding_B." in name:
            value.mul_(share)


def fingerprint_base(encoder: nn.Module, adapter: Adapter, is_plain: bool = False) -> str:
    """Return the SHA-256 (hex) of the tensors of the base that training leaves as they are.

    Args:
        encoder: The adapted encoder, or the plain one.
        adapter: The adapter.
        is_plain: Whether it is the plain one.
    """
    state, digest = encoder.state_dict(), hashlib.sha256()
    for name in sorted(adapter.kept_names()):
        value = state[adapter.base[name] if is_plain else name].detach().cpu().contiguous()
        digest.update(f"{adapter.base[name]} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def copy_base(weights: Mapping[str, Tensor], encoder: nn.Module, adapter: Adapter) -> None:
    """Copy the weights of a plain encoder to the base inside an adapted one."""
    state = encoder.state_dict()
    for name in adapter.kept_names():
        state[name].copy_(weights[adapter.base[name]])


def save_adapter(encoder: "PreTrainedModel", adapter: Adapter, directory: str | Path) -> None:
    """Write an adapter in peft's format, which `PeftModel`, `AutoModel` and `SentenceTransformer` load."""
    from peft import PeftConfig, get_peft_model_state_dict

    config = PeftConfig.from_peft_type(**copy.deepcopy(adapter.config))
    state = get_peft_model_state_dict(encoder, state_dict=encoder.state_dict(), adapter_name=ADAPTER_NAME)
    weights = {f"{_PREFIX}{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(weights, Path(directory) / WEIGHTS_FILE, metadata={"format": "pt"})
    config.inference_mode = True
    config.save_pretrained(str(directory))


def load_adapter(encoder: "PreTrainedModel", config: dict, weights_file: str | Path) -> Adapter:
    """Put an adapter that was saved in peft's format into a plain encoder.

    Args:
        encoder: The encoder, changed in place.
        config: The content of `adapter_config.json`.
        weights_file: The file in safetensors.

    Raises:
        ValueError: If configuration and weights do not fit each other or the encoder.
    """
    from peft import set_peft_model_state_dict

    adapter = inject(encoder, describe_adapter(config))
    state = {name.removeprefix(_PREFIX): value for name, value in load_file(weights_file).items()}
    before = encoder.state_dict().keys()
    try:
        result: Any = set_peft_model_state_dict(encoder, state, adapter_name=ADAPTER_NAME)
    except RuntimeError as error:
        raise ValueError(f"{WEIGHTS_FILE} does not fit {CONFIG_FILE} ({one_line(error)}); fetch both again") from error
    missing = sorted({*adapter.trained} & {*result.missing_keys})
    unexpected = sorted({*result.unexpected_keys} - {*before})
    if missing or unexpected:
        word = f"lacks `{missing[0]}`" if missing else f"holds `{unexpected[0]}`, which the encoder does not have"
        raise ValueError(f"{WEIGHTS_FILE} {word}; fetch the adapter again, with the base that it was trained on")
    return adapter


def read_peft_model(model: Any) -> tuple["PreTrainedModel", dict[str, object], dict[str, Tensor]]:
    """Return what a `peft.PeftModel` around an encoder holds.

    Args:
        model: The model, which stays as it is.

    Returns:
        The adapted encoder, what `describe_adapter` returns, and the encoder's weights by the names that `inject`
        gives them, without those of its own pooler.

    Raises:
        TypeError: If it is no such model.
        ValueError: If it has several adapters, or one that is not supported.
    """
    require_peft()
    from peft import PeftModel
    from transformers import PreTrainedModel

    if not isinstance(model, PeftModel) or not isinstance(model.get_base_model(), PreTrainedModel):
        raise TypeError(f"Give a name, a path or a PeftModel around an encoder, not a {type(model).__name__}.")
    if len(model.peft_config) != 1:
        raise ValueError(
            f"The PeftModel has the adapters {', '.join(model.peft_config)}; keep one by `delete_adapter`."
        )
    ((name, config),) = model.peft_config.items()
    encoder = model.get_base_model()
    state = {
        re.sub(rf"\.{re.escape(name)}(?=\.|$)", f".{ADAPTER_NAME}", part): value
        for part, value in encoder.state_dict().items()
        if not part.startswith("pooler.")
    }
    return encoder, describe_adapter(config), state


def as_text(config: Mapping[str, object] | None) -> str | None:
    """Return the configuration of an adapter as one line of JSON, without the name of its base."""
    if config is None:
        return None
    kept = {name: value for name, value in config.items() if name not in ("base_model_name_or_path", "revision")}
    return json.dumps(kept, sort_keys=True)
