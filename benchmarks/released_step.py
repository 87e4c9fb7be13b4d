"""MoCoSE's training step as its authors released it, rewritten in plain torch to compare its time.

It is the algorithm of https://github.com/xbdxwyh/mocose for BERT-like encoders, without optimisation: cosines of
broadcast tensors, a graph through the target, a queue that is concatenated and sliced, and weights updated one by one.
It omits three parts that would only add to the cost of a step: the perturbation of embeddings by the gradient of the
previous batch ("FGSM"), the growth of the queue (here it is full from the start), and every augmentation but dropout.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ReleasedMoCoSE(nn.Module):
    """Both branches and the queue; each forward in training moves the target before it, and the queue after it.

    The embedding layer is shared. Keys carry gradient into it, and into the target's projection, which therefore both
    the optimizer and the EMA move; the target's other layers are moved by the EMA alone.

    Args:
        encoder: A BERT-like encoder with a module `embeddings`; the dense layer of its pooler is used if it has one.
        queue_size: K ≥ 1, the rows of the queue, random unit vectors at first.
        temperature: τ.
        ema_decay: η of the first step, which rises along half a cosine over `ema_steps` steps.
        ema_steps: S, the schedule's horizon, whatever the run's length.
        dropout: Dropout of the heads.
    """

    def __init__(
        self,
        encoder: nn.Module,
        queue_size: int = 512,
        temperature: float = 0.05,
        ema_decay: float = 0.85,
        ema_steps: int = 15_000,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.temperature, self.ema_decay, self.ema_steps, self.steps = temperature, ema_decay, ema_steps, 0
        width = encoder.config.hidden_size
        dense = getattr(getattr(encoder, "pooler", None), "dense", None)
        encoder.pooler = None
        self.encoder = encoder
        self.pooler = nn.Linear(width, width) if dense is None else dense
        self.projection = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(dropout))
        self.predictor = nn.Sequential(
            nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, width), nn.Tanh()
        )
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_encoder.embeddings = encoder.embeddings
        self.target_pooler = copy.deepcopy(self.pooler).requires_grad_(False)
        self.target_projection = copy.deepcopy(self.projection)
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, width), dim=-1))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return `loss` and `logits` (B, B + K) of one batch, two views of which differ by dropout alone."""
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            tokens["token_type_ids"] = token_type_ids
        self.move_target()
        first_states = self.encoder(**tokens).last_hidden_state[:, 0]
        queries = self.predictor(self.projection(self.pooler(first_states)))  # (B, D)
        first_states = self.target_encoder(**tokens).last_hidden_state[:, 0]
        keys = self.target_projection(self.target_pooler(first_states))  # (B, D), with gradient

        candidates = torch.cat([keys, self.queue])  # (B + K, D)
        logits = F.cosine_similarity(queries[:, None, :], candidates[None, :, :], dim=-1) / self.temperature
        loss = F.cross_entropy(logits, torch.arange(len(queries), device=logits.device))
        self.queue = torch.cat([keys.detach().to(self.queue.dtype), self.queue])[: len(self.queue)]
        return {"loss": loss, "logits": logits}

    @torch.no_grad()
    def move_target(self) -> None:
        """Move each weight of the target to η · target + (1 − η) · online, a new tensor each."""
        self.steps += 1
        eta = 1.0 - (1.0 - self.ema_decay) * (math.cos(math.pi * self.steps / self.ema_steps) + 1.0) / 2.0
        for target, online in (
            (self.target_encoder, self.encoder),
            (self.target_pooler, self.pooler),
            (self.target_projection, self.projection),
        ):
            for p, q in zip(target.parameters(), online.parameters(), strict=True):
                if p is not q:
                    p.data = eta * p.data + (1.0 - eta) * q.data
