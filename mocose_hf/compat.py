"""Private attributes of other libraries that have no public equivalent, each with the reason and the version checked.

Hooks that transformers documents for subclasses of its models, such as `_tied_weights_keys`, are not listed here.
"""

from __future__ import annotations

import argparse
import atexit
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def attention_of(model: PreTrainedModel) -> str | None:
    """Return the name of a model's attention implementation.

    transformers 5.23 has a public setter, `set_attn_implementation`, but no getter. Replace this once it has one.
    """
    return model.config._attn_implementation


def set_attention(model: PreTrainedModel, name: str | None) -> None:
    """Set the name of a model's attention implementation without the checks of `set_attn_implementation`.

    transformers 5.23 checks that a flash attention is installed, which it need not be to restore a name or to probe a
    model. Replace this once the setter can skip the check.
    """
    model.config._attn_implementation = name


def can_set_attention(model: PreTrainedModel) -> bool:
    """Return whether a model lets transformers choose its attention; `set_attn_implementation` only warns (5.23)."""
    return model._can_set_attn_implementation()


def supports_sdpa(model: PreTrainedModel) -> bool:
    """Return whether a model can use the attention `sdpa`; transformers 5.23 declares it by a private attribute."""
    return model._supports_sdpa


def mark_initialized(module: nn.Module) -> None:
    """Keep transformers from drawing the weights of a module anew when a model around it is complete.

    transformers 5.23 reads this attribute, which it sets itself after it has loaded or drawn weights.
    """
    module._is_hf_initialized = True  # type: ignore[assignment]


def announced_deepspeed_config():
    """Return the DeepSpeed configuration that transformers builds models under, None if there is none.

    transformers 5.23 has `set_hf_deepspeed_config` and `unset_hf_deepspeed_config`, but no getter. Replace this once
    it has one.
    """
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    return None if reference is None else reference()


def run_exit_functions() -> None:
    """Run the functions registered with `atexit`, as multiprocessing does; Python 3.13 has no public way."""
    atexit._run_exitfuncs()


def parser_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of a parser; Python 3.13 has no public way to list them."""
    return parser._actions
