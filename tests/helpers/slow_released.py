"""A slow, plain reference of one training run as MoCoSE's released code does it (github.com/xbdxwyh/mocose).

The parts are those of `slow_reference`; what differs is what the released code does otherwise:

1. eta has a horizon of its own, and its cosine goes on beyond it.
2. Keys are not cut off: the gradient reaches the embeddings through the target too, and the target's projection,
   which AdamW therefore moves as well, with moments of its own.
3. The buffer holds as many random rows as the queue may have, whatever part of them is said to be in use. With f the
   fill, i the initial part and K the size: where f + i < K the loss sees the first f + i columns of the buffer, else
   all of it. Keys go in front, the batch's first row foremost, f grows by their number, and where f > K after that the
   buffer is cut to its first K rows. Where f is 0 the keys replace the buffer.
4. epsilon times the sign of the gradient of the batch before with respect to the online branch's word embeddings is
   added to the word embeddings of both branches; not where the shapes differ, on which the released code fails.
"""

import math

import torch
from slow_reference import (
    TARGET_PREFIXES,
    Parameters,
    adamw_step,
    contrastive_loss,
    layer_norm,
    predict,
    project,
    unit_length,
)
from torch import Tensor


def embed(parameters: Parameters, input_ids: Tensor, perturbation: Tensor | float) -> tuple[Tensor, Tensor]:
    """The word embeddings without perturbation, and what the encoder takes."""
    words = parameters["embeddings.word_embeddings.weight"][input_ids]
    words.retain_grad()
    positions = parameters["embeddings.position_embeddings.weight"][: input_ids.shape[1]]
    token_type = parameters["embeddings.token_type_embeddings.weight"][0]
    return words, layer_norm(parameters, "embeddings.LayerNorm", words + perturbation + positions + token_type)


def move(target: Parameters, online: Parameters, step: int, ema_start: float, ema_steps: int) -> None:
    """Replace each parameter of the target by that of the moving average."""
    eta = 1.0 - (1.0 - ema_start) * (math.cos(math.pi * step / ema_steps) + 1.0) / 2.0
    for name in target:
        target[name] = eta * target[name].detach() + (1.0 - eta) * online[name].detach()


def run(
    parameters: Parameters,
    batches: list[tuple[Tensor, Tensor]],
    buffer: Tensor,
    *,
    num_heads: int,
    queue_size: int,
    queue_init_size: int,
    temperature: float,
    ema_start: float,
    ema_steps: int,
    learning_rate: float,
    weight_decay: float,
    epsilon: float,
) -> dict:
    """Train for one step per batch, in float64; the arguments are those of `slow_reference.run`.

    Returns `losses`, `widths` (columns of the buffer that each step saw), `online`, `target` (moved once more, as a
    next step would begin) and `queue` (the whole buffer, newest first).
    """
    online = {name: value.double().clone().requires_grad_() for name, value in parameters.items()}
    target = {name: value.detach().clone() for name, value in online.items() if name.startswith(TARGET_PREFIXES)}
    projection = [name for name in target if name.startswith("projection.")]
    moments = tuple({name: torch.zeros_like(value.detach()) for name, value in online.items()} for _ in range(2))
    target_moments = tuple({name: torch.zeros_like(target[name]) for name in projection} for _ in range(2))
    queue, fill, stale = list(buffer.double()), queue_init_size, None
    losses, widths = [], []
    for step, (input_ids, attention_mask) in enumerate(batches, start=1):
        move(target, online, step, ema_start, ema_steps)
        for name in projection:
            target[name].requires_grad_()

        fits = stale is not None and stale.shape[:2] == input_ids.shape
        perturbation = epsilon * stale.sign() if fits else 0.0
        words, embedded = embed(online, input_ids, perturbation)
        queries = unit_length(predict(online, project(online, embedded, attention_mask, num_heads)))
        _, embedded = embed(online, input_ids, perturbation)
        keys = unit_length(project(target, embedded, attention_mask, num_heads))
        seen = queue[: fill + queue_init_size] if fill + queue_init_size < queue_size else queue
        loss = contrastive_loss(queries, keys, seen, temperature)
        loss.backward()
        stale = words.grad
        losses.append(loss.item())
        widths.append(len(seen))

        adamw_step(online, *moments, step, learning_rate, weight_decay)
        trained = {name: target[name] for name in projection}
        adamw_step(trained, *target_moments, step, learning_rate, weight_decay)
        target.update(trained)

        queue = list(keys.detach()) + (queue if fill else [])
        fill += len(keys)
        if fill > queue_size:
            queue = queue[:queue_size]
    move(target, online, len(batches) + 1, ema_start, ema_steps)
    return {
        "losses": losses,
        "widths": widths,
        "online": {name: value.detach() for name, value in online.items()},
        "target": target,
        "queue": torch.stack(queue),
    }
