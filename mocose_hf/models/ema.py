"""The momentum branch: the schedule of its decay, its update, and how far back the negatives reach."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def cosine_ema_decay(step: int, total_steps: int, start: float, end: float = 1.0) -> float:
    """Return the EMA decay η of one step, which rises from `start` to `end` along half a cosine.

    η_s = η_end − (η_end − η_start) · (cos(π s / S) + 1) / 2, and η_end from s = S on. This is the schedule of MoCoSE
    (https://arxiv.org/abs/2202.13093, section 3.2) with its horizon S as an argument; it goes back to BYOL
    (https://arxiv.org/abs/2006.07733, section 3.2).

    Args:
        step: s, counted from 1. The target moves with η_s before it encodes the batch of step s, that is, after
            optimizer step s − 1.
        total_steps: S, at least 1.
        start: η_start in [0, 1], the paper's η.
        end: η_end in [0, 1].

    Raises:
        ValueError: If a number is outside its range.

    Examples:
        >>> [round(cosine_ema_decay(step, total_steps=4, start=0.85), 3) for step in (1, 2, 3, 4)]
        [0.872, 0.925, 0.978, 1.0]
    """
    if total_steps < 1 or step < 1:
        raise ValueError(f"`step` and `total_steps` count from 1, but are {step} and {total_steps}.")
    if not (0.0 <= start <= 1.0 and 0.0 <= end <= 1.0):
        raise ValueError(f"An EMA decay lies in [0, 1], but `start` is {start} and `end` is {end}.")
    if step >= total_steps:
        return end
    return end - (end - start) * (math.cos(math.pi * step / total_steps) + 1.0) / 2.0


def maximum_traceable_distance(ema_decay: float, queue_size: int, batch_size: int) -> float:
    """Return d_trace = 1 / (1 − η) + K / B, in optimizer steps.

    The first term is the memory of the target, the second that of the queue. Their sum bounds how old the online
    branch can be that still influences a negative (https://arxiv.org/abs/2202.13093, section 5).

    Args:
        ema_decay: η in [0, 1]; at 1 the target never forgets and the distance is infinite.
        queue_size: K, the number of keys in the queue.
        batch_size: B, the number of keys that enter the queue in one optimizer step.

    Raises:
        ValueError: If a number is outside its range.

    Examples:
        >>> round(maximum_traceable_distance(ema_decay=0.85, queue_size=512, batch_size=64), 2)
        14.67
    """
    if not 0.0 <= ema_decay <= 1.0:
        raise ValueError(f"`ema_decay` lies in [0, 1], but is {ema_decay}.")
    if queue_size < 0 or batch_size < 1:
        raise ValueError(f"`queue_size` is at least 0 and `batch_size` at least 1, not {queue_size} and {batch_size}.")
    if ema_decay == 1.0:
        return math.inf
    return 1.0 / (1.0 - ema_decay) + queue_size / batch_size


def constant_distance_ema_decay(start: float, queue_size: int, num_filled: int, batch_size: int) -> float:
    """Return the EMA decay η that keeps the traceable distance constant while the queue grows.

    1 / (1 − η) + n / B = d_trace = 1 / (1 − η_1) + K / B (https://arxiv.org/abs/2202.13093, section 5), so
    η = 1 − 1 / (d_trace − n / B). It falls while the queue grows and equals η_1 once the queue is full.

    Args:
        start: η_1 in [0, 1].
        queue_size: K.
        num_filled: n, rows in use, at most K.
        batch_size: B, the number of keys that enter the queue in one optimizer step.

    Raises:
        ValueError: If a number is outside its range.

    Examples:
        >>> [constant_distance_ema_decay(0.75, queue_size=512, num_filled=n, batch_size=64) for n in (128, 512)]
        [0.9, 0.75]
    """
    if not 0 <= num_filled <= queue_size:
        raise ValueError(f"`num_filled` lies in [0, {queue_size}], the size of the queue, but is {num_filled}.")
    distance = maximum_traceable_distance(start, queue_size, batch_size)
    return 1.0 - 1.0 / (distance - num_filled / batch_size)


@torch.no_grad()
def update_ema(target: Iterable[Tensor], online: Iterable[Tensor], decay: float) -> None:
    """Move each target tensor in place to η · target + (1 − η) · online.

    This is the momentum update of MoCo (https://arxiv.org/abs/1911.05722, eq. 2). A decay of 0 copies the online
    tensors bit for bit and a decay of 1 changes nothing. The target keeps its own dtype, which should be float32: in
    bfloat16 the small differences round to zero and the target does not move.

    Args:
        target: θ_t, changed in place.
        online: θ_o, as many tensors of the same shapes in the same order.
        decay: η in [0, 1].

    Raises:
        ValueError: If the decay is outside its range or the numbers of tensors differ.

    Examples:
        >>> target, online = torch.tensor([1.0]), torch.tensor([0.0])
        >>> update_ema([target], [online], decay=0.75)
        >>> target
        tensor([0.7500])
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"`decay` lies in [0, 1], but is {decay}.")
    pairs = list(zip(target, online, strict=True))
    if not pairs or decay == 1.0:
        return
    targets = [t for t, _ in pairs]
    onlines = [o.detach().to(t.dtype) for t, o in pairs]
    if decay == 0.0:
        torch._foreach_copy_(targets, onlines)
    else:
        torch._foreach_lerp_(targets, onlines, 1.0 - decay)
