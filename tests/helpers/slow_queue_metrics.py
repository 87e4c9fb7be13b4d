"""Measures of the queue by loops."""

import math

NONE = float("-inf")


def slow_weights(logits, labels, groups, num_groups, query_ids, column_ids) -> dict:
    """Every figure of `weigh_negatives` by its definition, entry by entry."""
    rows, by_group, entropies, same_pull, counts = logits.tolist(), [0.0] * num_groups, [], 0.0, [0, 0, 0]
    loss = 0.0
    for i, row in enumerate(rows):
        total = math.fsum(math.exp(value) for value in row)
        negatives = [j for j in range(len(row)) if j != labels[i] and row[j] > NONE]
        loss -= row[labels[i]] - math.log(total)
        below = math.fsum(math.exp(row[j]) for j in negatives)
        if negatives:
            odds = [math.exp(row[j]) / below for j in negatives]
            entropies.append(math.exp(-math.fsum(p * math.log(p) for p in odds)))
        for j in negatives:
            pull = math.exp(row[j]) / total
            known = query_ids[i] >= 0 and column_ids[j] >= 0
            same = known and query_ids[i] == column_ids[j]
            counts = [counts[0] + 1, counts[1] + known, counts[2] + same]
            by_group[groups[j]] += pull
            same_pull += pull * same
    pulled = math.fsum(by_group)
    return {
        "shares": [share / pulled for share in by_group],
        "effective": sum(entropies) / len(entropies),
        "count": counts[0] / len(rows),
        "false_negative_rate": counts[2] / counts[1] if counts[1] else None,
        "false_negative_share": same_pull / pulled if counts[1] else None,
        "loss": loss / len(rows),
    }
