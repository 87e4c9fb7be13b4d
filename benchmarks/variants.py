"""Names of the variants that the benchmarks measure, and the defaults for a machine.

    mocose | mnrl | cached_mnrl | released | gemm_floor, followed by any of these in this order:
    _padding_free  _all_rows  _checkpointed               mocose only
    _lora  _lora_dropout                                  mocose only; a LoRA without and with dropout
    _bf16                                                 bfloat16 autocast; bfloat16 tensors for gemm_floor
    _kN                                                   a queue of N rows; not for mnrl and cached_mnrl
    _bN                                                   a batch of N sentences

Examples are `mocose_padding_free_bf16` and `released_k4096`. The names `loading`, `loading_2_workers`, `encoding` and
`encoding_file_order` measure throughput without training.
"""

import re
from dataclasses import dataclass, replace

import torch

QUEUE_SIZE = 512
"""The default K, as in the paper."""

ENCODER_FORWARDS = {"mocose": 4, "released": 5, "mnrl": 6, "cached_mnrl": 8}
"""Cost of a padded step in forwards of the encoder; the gradient of each factor of a product counts as one."""

THROUGHPUTS = ("loading", "loading_2_workers", "encoding_file_order", "encoding")

STEPS = ("mocose", "mocose_padding_free", "mocose_all_rows", "mnrl", "cached_mnrl", "released", "gemm_floor")
BF16_STEPS = ("mocose_bf16", "mocose_padding_free_bf16", "mnrl_bf16", "released_bf16", "gemm_floor_bf16")
QUEUE_SIZES = ("mocose_k4096", "mocose_k65536")
BATCH_SIZES = ("mocose_b32", "mnrl_b32", "mocose_b128", "mnrl_b128")

_FLAGS = ("padding_free", "all_rows", "checkpointed", "lora", "dropout", "bf16")

_NAME = re.compile(
    r"(?:(?P<momentum>mocose)(?P<padding_free>_padding_free)?(?P<all_rows>_all_rows)?"
    r"(?P<checkpointed>_checkpointed)?(?:(?P<lora>_lora)(?P<dropout>_dropout)?)?|(?P<other>[a-z_]+?))"
    r"(?P<bf16>_bf16)?(?:_k(?P<queue_size>[1-9]\d*))?(?:_b(?P<batch_size>[1-9]\d*))?"
)


@dataclass(frozen=True)
class Variant:
    """A kind of training step, or its matrix products alone.

    Args:
        recipe: mocose, mnrl, cached_mnrl, released or gemm_floor.
        padding_free: Whether batches are packed.
        all_rows: Whether the last encoder layer also computes unused rows.
        checkpointed: Whether activations are recomputed instead of stored.
        lora: Whether an adapter of rank 16 on every linear layer is trained instead of the encoder; needs peft.
        dropout: Whether that adapter has a dropout of 0.05.
        bf16: Whether the step computes in bfloat16.
        queue_size: K, None for `QUEUE_SIZE`.
        batch_size: B, None for the batch size of the command.
    """

    recipe: str
    padding_free: bool = False
    all_rows: bool = False
    checkpointed: bool = False
    lora: bool = False
    dropout: bool = False
    bf16: bool = False
    queue_size: int | None = None
    batch_size: int | None = None

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Return the variant of a name.

        Raises:
            ValueError: If there is no variant of that name.
        """
        match = _NAME.fullmatch(name)
        recipe = match and (match["momentum"] or match["other"])
        if recipe not in (*ENCODER_FORWARDS, "gemm_floor") or (match["queue_size"] and recipe.endswith("mnrl")):
            raise ValueError(f"`{name}` is no variant; the usual ones are {', '.join(usual_names())}.")
        sizes = {size: int(match[size]) if match[size] else None for size in ("queue_size", "batch_size")}
        flags = {flag: match[flag] is not None for flag in _FLAGS}
        return cls(recipe, **flags, **sizes)

    @property
    def encoder_forwards(self) -> int:
        """The cost of a padded step in forwards of the encoder; frozen weights have no gradient."""
        return ENCODER_FORWARDS[self.recipe] - self.lora

    @property
    def name(self) -> str:
        """The name that `parse` takes."""
        flags = "".join(f"_{flag}" for flag in _FLAGS if getattr(self, flag))
        queue = f"_k{self.queue_size}" if self.queue_size else ""
        batch = f"_b{self.batch_size}" if self.batch_size else ""
        return self.recipe + flags + queue + batch

    def base(self, recipe: str) -> str:
        """Return the name of the plain variant of a recipe with the same precision and batch size."""
        return replace(Variant(recipe), bf16=self.bf16, batch_size=self.batch_size).name


def usual_names() -> tuple[str, ...]:
    """Return the names that are measured if machine and encoder support them."""
    return STEPS + BF16_STEPS + QUEUE_SIZES + BATCH_SIZES + THROUGHPUTS


def validate_name(name: str) -> str:
    """Return the name in its usual form; raise a `ValueError` if it is unknown."""
    return name if name in THROUGHPUTS else Variant.parse(name).name


def has_bf16(use_cpu: bool) -> bool:
    """Return whether the processor multiplies in bfloat16; torch emulates it at a hundredth of the speed."""
    if use_cpu:
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cuda.is_bf16_supported(including_emulation=False)


def default_names(use_cpu: bool, bert_like: bool) -> tuple[list[str], dict[str, list[str]]]:
    """Return the names to measure on this machine, and the skipped names by reason."""
    left_out = {}
    if not has_bf16(use_cpu):
        left_out["this processor has no bfloat16 instructions"] = list(BF16_STEPS)
    if not bert_like:
        floors = [name for name in usual_names() if name.startswith("gemm_floor")]
        left_out["the matrix products of this encoder are not known"] = floors
    missing = {name for names in left_out.values() for name in names}
    return [name for name in usual_names() if name not in missing], left_out
