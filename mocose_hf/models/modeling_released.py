"""MoCoSE as its authors' code trains it, where that differs from their paper.

Source: https://github.com/xbdxwyh/mocose (MIT), for BERT on transformers 4.4; no code of it is repeated here.
docs/differences.md lists the differences. Nothing else in the package depends on this module; the command line finds
it by `mocose_hf.models.registry`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mocose_hf.models.configuration_base import option
from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.models.encoder_mocose import MoCoSEModel
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.views import View

EMA_STEPS = 15_000
"""The horizon S of the schedule of η, whatever the length of the run."""


def queue_slots(max_rows: int, init_size: int) -> int:
    """Return the slots of a `ReleasedQueue`: the most rows that the loss ever sees, and one to know that it did."""
    return 2 * max_rows - init_size + 1 if max_rows else 0


class ReleasedMoCoSEConfig(MoCoSEConfig):
    """Configure a `ReleasedMoCoSE`: as `MoCoSEConfig`, plus the step of the stale perturbation."""

    model_type = "mocose_released"
    fixed_options = (
        "use_pooler",
        "queue_window",
        "queue_window_softness",
        "queue_half_life",
        "queue_centroids",
        "queue_positives",
        "queue_positive_weight",
        "queue_positive_similarity",
        "queue_weight",
        "in_batch_weight",
        "in_batch_queue",
        "relation_weight",
        "relation_temperature",
        "relation_target_temperature",
        "reshaping_weight",
        "reshaping_whitening",
        "reshaping_smoothing",
        "reshaping_temperature",
        "symmetric_loss",
    )

    stale_fgsm_epsilon: float = option(
        5e-9,
        "Step ε that moves word embeddings along the sign of the previous batch's gradient, 0 or above; 0 for none "
        "(released: 5e-9).",
    )

    @property
    def queue_slots(self) -> int:
        """Number of rows that the queue has room for; see `queue_slots`."""
        return queue_slots(self.queue_size, self.queue_init_size)

    def _validate_values(self) -> None:
        super()._validate_values()
        self._validate_not_negative("stale_fgsm_epsilon")
        if self.peft_config is not None:
            raise ValueError(
                "`peft_config` freezes the word embeddings, which the released code trains through the keys too; "
                "leave it out, or use the algorithm mocose."
            )


class ReleasedQueue(NegativeQueue):
    """Hold K random rows from the start, and let the loss see as many rows as the released code does.

    That code counts a fill f, which starts at I = `initial_fill` and grows by B with each batch. The loss sees

    * the newest f + I rows while that is below K, so 2I random rows in the first step;
    * then all rows, with the K random rows behind the keys: f + K − I, which is more than K;
    * the newest K rows once f is above K.

    If I is 0, the first keys replace all random rows. Within a batch, the first row counts as the newest. All of this
    follows from the number of filled slots, so there is no state beyond that of `NegativeQueue`. `size` is the number
    of slots, `queue_slots(K, I)`.

    Args:
        max_rows: K ≥ 0.
        dim: D ≥ 1.
        initial_fill: I, at most K.
        dtype: As in `NegativeQueue`.
    """

    def __init__(self, max_rows: int, dim: int, initial_fill: int, dtype: torch.dtype = torch.float32):
        super().__init__(queue_slots(max_rows, initial_fill), dim, init_size=max_rows, dtype=dtype)
        self.max_rows, self.initial_fill = max_rows, initial_fill

    def width(self) -> int:
        """Return how many of the newest rows the loss sees now."""
        num_keys = int(self.num_filled) - self.max_rows
        fill = num_keys + self.initial_fill
        if fill > self.max_rows:
            return self.max_rows
        if self.initial_fill == 0 or fill + self.initial_fill < self.max_rows:
            return fill + self.initial_fill
        return self.max_rows + num_keys

    def enqueue(self, keys: Tensor, sentence_ids: Tensor | None = None, step: int = 0) -> None:
        """Put keys in front, the first row as the newest; otherwise as `NegativeQueue.enqueue`."""
        super().enqueue(keys.flip(0), None if sentence_ids is None else sentence_ids.flip(0), step)

    def newest_first(self) -> Tensor:
        """Return the slots that the loss sees, newest first: (width,) int64."""
        return super().newest_first()[: self.width()]

    def log_weights(self, *policy) -> Tensor:
        """Return what is added to the logits of `rows`: (size,) float32, 0 if the loss sees the slot, else −∞.

        The policies of `NegativeQueue.log_weights` have no effect here.
        """
        log_weights = torch.full((self.size,), float("-inf"), device=self.rows.device)
        return log_weights.index_fill_(0, self.newest_first(), 0.0)

    @torch.no_grad()
    def set_initial_rows(self, rows: Tensor) -> None:
        """Replace the random rows by rows (K, D), newest first and L2-normalised, and forget all keys.

        Raises:
            ValueError: If the shape or a norm does not fit.
        """
        if rows.shape != (self.max_rows, self.dim):
            raise ValueError(f"The queue starts with ({self.max_rows}, {self.dim}) rows, not {tuple(rows.shape)}.")
        if not torch.allclose(rows.float().norm(dim=-1), torch.ones(len(rows), device=rows.device), atol=1e-3):
            raise ValueError("The rows that the queue starts with are not of length 1; normalise them.")
        for name, value in self.initial_state().items():
            getattr(self, name).copy_(value)
        self.rows[: self.max_rows] = rows.flip(0).to(self.rows)


class ReleasedMoCoSEModel(MoCoSEModel):
    """The trained encoder of a `ReleasedMoCoSE`, which is a `MoCoSEModel` under a configuration of its own."""

    config_class = ReleasedMoCoSEConfig


class ReleasedMoCoSE(MoCoSEForPreTraining):
    """Train as the released code does.

    * Keys carry gradient: through the frozen layers of the target into the shared embeddings, and into the target's
      projection head, which both the optimizer and the EMA therefore move.
    * The queue is a `ReleasedQueue`.
    * η follows its cosine over `EMA_STEPS` steps whatever the run's length, and falls again beyond them.
    * "FGSM": in training, ε times a sign is added to the word embeddings of both branches. It is the sign of the
      gradient of the previous batch with respect to the word embeddings of the online branch. The first batch has
      none, and neither does a batch whose shape differs from the previous one; the released code fails on those. The
      gradient is not part of a checkpoint, so a resumed run is exact only if ε is 0.

    With several processes, keys and their gradient go to all of them; the released code supports one process.
    """

    config_class = ReleasedMoCoSEConfig
    algorithm = "released"
    queue: ReleasedQueue
    target: nn.ModuleDict

    def __init__(self, config: ReleasedMoCoSEConfig):
        super().__init__(config)
        self._stale_sign: Tensor | None = None  # (B, L, H) of the batch before

    @staticmethod
    def build_queue(config: ReleasedMoCoSEConfig) -> ReleasedQueue:
        """Build the queue with all its random rows."""
        queue_dtype = getattr(torch, config.queue_dtype)
        return ReleasedQueue(config.queue_size, config.embedding_dim, config.queue_init_size, queue_dtype)

    @classmethod
    def validate_settings(cls, config: ReleasedMoCoSEConfig, args) -> None:
        """Raise a `ValueError` if arguments contradict a constant of the released code or have no place in it."""
        super().validate_settings(config, args)
        if (
            args.ema_decay_end != 1.0
            or args.ema_schedule_steps not in (None, EMA_STEPS)
            or args.ema_schedule != "cosine"
        ):
            raise ValueError(
                f"The released schedule of η ends at 1 after {EMA_STEPS} steps, whatever `ema_schedule`, "
                "`ema_decay_end` and `ema_schedule_steps` say; leave them out, or use the algorithm mocose."
            )
        if args.queue_prefill:
            raise ValueError(
                "`queue_prefill` is true, but the released code starts with random rows; leave it out, or use the "
                "algorithm mocose."
            )
        if args.deepspeed:
            raise ValueError(
                "`deepspeed` would undo the EMA of the target's projection head, which the optimizer trains too here; "
                "leave it out."
            )
        if not config.stale_fgsm_epsilon:
            return
        for name in ("token_cutoff", "feature_cutoff", "embedding_noise", "fgsm_epsilon"):
            if getattr(args, name):
                raise ValueError(
                    f"`{name}` changes word embeddings before `stale_fgsm_epsilon` could; leave out the first, or set "
                    "the second to 0."
                )
        if args.padding_free:
            raise ValueError(
                "`padding_free` gives nearly every batch a shape of its own, so `stale_fgsm_epsilon` would do "
                "nothing; leave out the first, or set the second to 0."
            )

    def ema_decay_at(self, step: int, total_steps: int, start: float, end: float) -> float:
        """Return η_s = 1 − (1 − η_1)(cos(π s / `EMA_STEPS`) + 1)/2; `total_steps` and `end` have no effect."""
        return 1.0 - (1.0 - start) * (math.cos(math.pi * step / EMA_STEPS) + 1.0) / 2.0

    def frozen_parameters(self) -> list[Tensor]:
        """Return the parameters of the target except those of its projection head."""
        trained = {id(parameter) for parameter in self.target["projection_head"].parameters()}
        return [parameter for parameter in super().frozen_parameters() if id(parameter) not in trained]

    def set_initial_queue(self, rows: Tensor) -> None:
        """Start the queue with rows (K, D), newest first and L2-normalised; its fill is `queue_init_size` again."""
        self.queue.set_initial_rows(rows)

    def encode_queries(self, view: View) -> Tensor:
        """Run the online branch on perturbed word embeddings, and keep the sign of their gradient for the next batch.

        Returns:
            (B, D), as `MoCoSEForPreTraining.encode_queries`.
        """
        with self._perturbed_lookup(self.mocose.get_input_embeddings(), keep_sign=True):
            return super().encode_queries(view)

    def encode_keys(self, view: View) -> Tensor:
        """Run the target branch as `MoCoSEForPreTraining.encode_keys`, but with gradient and perturbation."""
        target = self.target
        encoder: Any = target["encoder"]
        with self._perturbed_lookup(encoder.get_input_embeddings(), keep_sign=False):
            pooled = self.embed(encoder, view)  # (B, H)
        return F.normalize(target["projection_head"](target["pooler"](pooled)).float(), dim=-1)

    @contextmanager
    def _perturbed_lookup(self, embeddings: nn.Module, keep_sign: bool) -> Iterator[None]:
        """Add the perturbation to each look-up of word embeddings inside."""
        if not (self.training and self.config.stale_fgsm_epsilon):
            yield
            return
        sign = self._stale_sign  # the backward pass of this batch replaces the attribute

        def perturb(module: nn.Module, inputs: tuple, embedded: Tensor) -> Tensor:
            if keep_sign and embedded.requires_grad:
                embedded.register_hook(self._keep_sign)
            fits = sign is not None and sign.shape == embedded.shape
            return embedded + self.config.stale_fgsm_epsilon * sign if fits else embedded

        handle = embeddings.register_forward_hook(perturb)
        try:
            yield
        finally:
            handle.remove()

    def _keep_sign(self, gradient: Tensor) -> None:
        # Under fp16 a gradient may overflow, which skips the step; its sign must not make the next one's NaN.
        self._stale_sign = gradient.detach().nan_to_num().sign()


AutoConfig.register(ReleasedMoCoSEConfig.model_type, ReleasedMoCoSEConfig, exist_ok=True)
AutoModel.register(ReleasedMoCoSEConfig, ReleasedMoCoSEModel, exist_ok=True)
AutoModelForPreTraining.register(ReleasedMoCoSEConfig, ReleasedMoCoSE, exist_ok=True)
