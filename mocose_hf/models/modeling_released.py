"""MoCoSE as its authors' code trains it, where that departs from their paper.

Source: https://github.com/xbdxwyh/mocose (MIT), for BERT on transformers 4.4; nothing of it is repeated here. What
differs, and what of it is restored elsewhere, stands in docs/differences.md. The rest of the package knows none of
this: command line scripts come here by `mocose_hf.models.registry`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from mocose_hf.models.configuration_mocose import MoCoSEConfig, OneTermConfig
from mocose_hf.models.encoder_mocose import MoCoSEModel
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.views import View

EMA_STEPS = 15_000
"""The horizon of the schedule of η, whatever the length of the run."""


_OF_THE_QUEUE = ("queue_window", "queue_window_softness", "queue_half_life", "queue_centroids")
"""Options that choose among the rows of the queue."""


def queue_slots(max_rows: int, fill_at_start: int) -> int:
    """Return the slots of a `ReleasedQueue`: the most rows that the loss ever sees, and one to tell that it did."""
    return 2 * max_rows - fill_at_start + 1 if max_rows else 0


class ReleasedMoCoSEConfig(OneTermConfig):
    """Configure a `ReleasedMoCoSE`: as `MoCoSEConfig`, and the step of the stale perturbation."""

    model_type = "mocose_released"

    use_pooler: bool = True
    stale_fgsm_epsilon: float = field(
        default=5e-9,
        metadata={
            "help": "Step ε by which word embeddings go along the sign of the batch before's gradient, at least 0, 0 "
            "for none (released: 5e-9)."
        },
    )

    @property
    def queue_slots(self) -> int:
        """Rows that the queue has room for; see `queue_slots`."""
        return queue_slots(self.queue_size, self.queue_init_size)

    def _check_values(self) -> None:
        self._check_absent("the released code has no such option")
        super()._check_values()
        for name in _OF_THE_QUEUE:
            if getattr(self, name) != getattr(MoCoSEConfig, name):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but the released code has its own rule of which rows count; "
                    "leave it out, or train by the algorithm mocose."
                )
        if not 0.0 <= self.stale_fgsm_epsilon < float("inf"):
            raise ValueError(f"`stale_fgsm_epsilon` is a number of at least 0, but is {self.stale_fgsm_epsilon}.")


class ReleasedQueue(NegativeQueue):
    """Hold K random rows from the start, and let the loss see as many as the released code does.

    That code counts a fill f, `init_size` at first and B more after each batch. With I for `init_size` the loss sees

    * the newest f + I rows while that is below K, so 2I random ones in the first step;
    * then all that is there, the K random rows behind the keys: f + K − I, which is more than K;
    * and the newest K from when f is above K on.

    Where I is 0 the first keys take the place of all random rows. Within a batch the first row counts as the newest.
    All of it follows from the number of slots in use, so there is no state beyond that of `NegativeQueue`; `size` is
    the number of slots, `queue_slots(K, I)`.

    Args:
        max_rows: K ≥ 0.
        dim: D ≥ 1.
        fill_at_start: I, at most K.
        dtype: As `NegativeQueue` takes it.
    """

    def __init__(self, max_rows: int, dim: int, fill_at_start: int, dtype: torch.dtype = torch.float32):
        super().__init__(queue_slots(max_rows, fill_at_start), dim, init_size=max_rows, dtype=dtype)
        self.max_rows, self.fill_at_start = max_rows, fill_at_start

    def width(self) -> int:
        """Return how many of the newest rows the loss sees now."""
        keys = int(self.num_filled) - self.max_rows
        fill = keys + self.fill_at_start
        if fill > self.max_rows:
            return self.max_rows
        if self.fill_at_start == 0 or fill + self.fill_at_start < self.max_rows:
            return fill + self.fill_at_start
        return self.max_rows + keys

    def enqueue(self, keys: Tensor, sentence_ids: Tensor | None = None, step: int = 0) -> None:
        """Put keys in front, the first row foremost; otherwise as `NegativeQueue.enqueue`."""
        super().enqueue(keys.flip(0), None if sentence_ids is None else sentence_ids.flip(0), step)

    def newest_first(self) -> Tensor:
        """Return the slots that the loss sees, newest first: (width,) int64."""
        return super().newest_first()[: self.width()]

    def log_weights(self, *policy) -> Tensor:
        """Return what is added to the logits of `rows`: (size,) float32, 0 where the loss sees the slot, else −∞.

        The policies of `NegativeQueue.log_weights` have no say here.
        """
        log_weights = torch.full((self.size,), float("-inf"), device=self.rows.device)
        return log_weights.index_fill_(0, self.newest_first(), 0.0)

    @torch.no_grad()
    def set_initial_rows(self, rows: Tensor) -> None:
        """Start anew with rows (K, D), newest first and L2-normalised, in place of the random ones.

        Raises:
            ValueError: Where the shape or a norm does not fit.
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
      projection head, which therefore both the optimizer and the EMA move.
    * The queue is a `ReleasedQueue`.
    * η runs along its cosine over `EMA_STEPS` steps whatever the run's length, and falls again beyond them.
    * "FGSM": in training, ε times the sign of the gradient that the batch before had with respect to the word
      embeddings of the online branch is added to the word embeddings of both branches. The first batch has none, and
      neither has one of another shape than the batch before, on which the released code fails; the batch after it has.
      The gradient is no part of a checkpoint, so neither has the first batch after one: a run that goes on from there
      is exact only where ε is 0.

    With several processes keys, and their gradient, go to all of them, where the released code knows one process.
    """

    config_class = ReleasedMoCoSEConfig
    algorithm = "released"

    def __init__(self, config: ReleasedMoCoSEConfig):
        super().__init__(config)
        self._stale_sign: Tensor | None = None  # (B, L, H) of the batch before

    @staticmethod
    def build_queue(config: ReleasedMoCoSEConfig) -> ReleasedQueue:
        """Build the queue with all its random rows."""
        queue_dtype = getattr(torch, config.queue_dtype)
        return ReleasedQueue(config.queue_size, config.embedding_dim, config.queue_init_size, queue_dtype)

    @staticmethod
    def validate_settings(config: ReleasedMoCoSEConfig, args) -> None:
        """Raise a `ValueError` where arguments ask for what the released code has a constant or no place for."""
        other_end = args.ema_decay_end != 1.0 or args.ema_schedule_steps not in (None, EMA_STEPS)
        if other_end or args.ema_schedule != "cosine":
            raise ValueError(
                f"The released schedule of η ends at 1 after {EMA_STEPS} steps, whatever `ema_schedule`, "
                "`ema_decay_end` and `ema_schedule_steps` say; leave them out, or take the algorithm mocose."
            )
        if args.queue_prefill:
            raise ValueError(
                "`queue_prefill` is true, but the released code starts with random rows; leave it out, or take the "
                "algorithm mocose."
            )
        if args.deepspeed:
            raise ValueError(
                "`deepspeed` would undo the EMA of the target's projection head, which the optimizer trains too here; "
                "leave it out."
            )
        changes = ("token_cutoff", "feature_cutoff", "embedding_noise", "fgsm_epsilon")
        given = [name for name in changes if getattr(args, name)]
        if given and config.stale_fgsm_epsilon:
            raise ValueError(
                f"`{given[0]}` changes word embeddings before `stale_fgsm_epsilon` could; leave out the first, or set "
                "the second to 0."
            )
        if args.padding_free and config.stale_fgsm_epsilon:
            raise ValueError(
                "`padding_free` gives nearly every batch a shape of its own, so `stale_fgsm_epsilon` would do "
                "nothing; leave out the first, or set the second to 0."
            )

    def ema_decay_at(self, step: int, total_steps: int, start: float, end: float) -> float:
        """Return η_s = 1 − (1 − η_1)(cos(π s / `EMA_STEPS`) + 1)/2; `total_steps` and `end` have no say."""
        return 1.0 - (1.0 - start) * (math.cos(math.pi * step / EMA_STEPS) + 1.0) / 2.0

    def frozen_parameters(self) -> list[Tensor]:
        """Return what the target owns but for its projection head."""
        trained = {id(parameter) for parameter in self.target["projection_head"].parameters()}
        return [parameter for parameter in super().frozen_parameters() if id(parameter) not in trained]

    def set_initial_queue(self, rows: Tensor) -> None:
        """Start the queue with rows (K, D), newest first and L2-normalised; its fill is `queue_init_size` again."""
        self.queue.set_initial_rows(rows)

    def encode_queries(self, *view, **named) -> Tensor:
        """Run the online branch on perturbed word embeddings, and keep the sign of their gradient for the next batch.

        Arguments and result are those of `MoCoSEForPreTraining.encode_queries`.
        """
        with self._perturbed(self.mocose.get_input_embeddings(), keep_sign=True):
            return super().encode_queries(*view, **named)

    def encode_keys(self, *view, **named) -> Tensor:
        """Run the target branch as `MoCoSEForPreTraining.encode_keys`, but with gradient and perturbation."""
        target = self.target
        with self._perturbed(target["encoder"].get_input_embeddings(), keep_sign=False):
            pooled = self._embed(target["encoder"], View(*view, **named))  # (B, H)
        return F.normalize(target["projection_head"](target["pooler"](pooled)).float(), dim=-1)

    @contextmanager
    def _perturbed(self, embeddings: nn.Module, keep_sign: bool) -> Iterator[None]:
        """Let the word embeddings be looked up with the perturbation inside."""
        if not (self.training and self.config.stale_fgsm_epsilon):
            yield
            return
        sign = self._stale_sign  # the backward of this batch will put its own in the place

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
