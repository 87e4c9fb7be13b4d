"""Losses of queue policies by loops."""

import math
from fractions import Fraction

import torch
from slow_losses import slow_loss_and_gradient

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
RANGES = {
    "all": [(0, 1)],
    "newest": [(0, HALF)],
    "middle": [(QUARTER, 3 * QUARTER)],
    "oldest": [(HALF, 1)],
    "without_middle": [(0, QUARTER), (3 * QUARTER, 1)],
    "0-0.25,0.5-0.75": [(0, QUARTER), (HALF, 3 * QUARTER)],
    "0.1-0.3": [(Fraction(1, 10), Fraction(3, 10))],
    "2/3-1": [(Fraction(2, 3), 1)],
}


def slow_counts(window: str, fill: int) -> list[bool]:
    """Whether the row of each rank lies in one of the ranges, by exact fractions."""
    return [any(a * fill <= rank < b * fill for a, b in RANGES[window]) for rank in range(fill)]


def slow_weights(window: str, fill: int, softness: float) -> list[float]:
    """What the row of each rank counts, by logistics written out; those that would overflow are at their end."""

    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0

    weights = []
    for rank in range(fill):
        weight = 0.0
        for a, b in RANGES[window]:
            before, after = math.ceil(a * fill), math.ceil(b * fill)
            rise = 1.0 if a == 0 else logistic((rank + 0.5 - before) / (fill * softness))
            fall = 0.0 if b == 1 else logistic((rank + 0.5 - after) / (fill * softness))
            weight += rise - fall
        weights.append(weight)
    return weights


BATCH_IDS = [3, -1, 5, 3]


TEMPERATURE = 0.5  # at which all candidates have a say


def slow_loss_of_a_policy(queries, keys, entries, policy: dict, ids=BATCH_IDS, temperature=TEMPERATURE):
    """Loss and gradient, query by query, of the candidates that each query has left and what they count."""
    window, softness = policy.get("queue_window", "all"), policy.get("queue_window_softness", 0.0)
    weights = slow_weights(window, len(entries), softness) if softness else slow_counts(window, len(entries))
    if "queue_half_life" in policy:
        ages = [entries[0][1] - step for _, step, _ in entries]
        weights = [w * 0.5 ** (age / policy["queue_half_life"]) for w, age in zip(weights, ages, strict=True)]
    masks = policy.get("mask_same_sentence", False)
    losses, gradients = [], []
    for i, own_id in enumerate(ids):

        def is_own(number, own_id=own_id):
            return masks and own_id != -1 and number == own_id

        others = [j for j in range(len(keys)) if j != i and not is_own(ids[j])]
        if not policy.get("in_batch_negatives", True):
            others = []
        left = [(row, w) for (row, _, number), w in zip(entries, weights, strict=True) if w and not is_own(number)]
        negatives = torch.tensor([row for row, _ in left]).reshape(-1, queries.shape[1])
        loss, gradient = slow_loss_and_gradient(
            queries[[i]], keys[[i, *others]], negatives, temperature, weights=[w for _, w in left]
        )
        losses.append(loss)
        gradients.append(gradient)
    return sum(losses) / len(losses), torch.cat(gradients) / len(losses)
