"""The terms that the loss of a batch can be made of, beside the one of the paper.

The loss is a weighted sum of four terms. Each takes its positives and its in-batch negatives from one branch:

* The momentum term contrasts online queries with the keys of the target and the queue, which holds past keys of the
  target (MoCoSE, eq. 4 of https://arxiv.org/abs/2202.13093).
* The in-batch term contrasts the online embeddings of one view with those of the other, with gradient through both
  (SimCSE, eq. 4 of https://arxiv.org/abs/2104.08821; MultipleNegativesRankingLoss of sentence-transformers). Hard
  negatives of the batch join the negatives of every query, but not those of the reverse direction.
* The relation term gives a query the similarities to the queue that the target gives its key, made sharper or softer
  (ReSSL, eq. 4 of https://arxiv.org/abs/2107.09282). It pushes no pair of sentences apart by itself.
* The reshaping term draws a query to its key as the queue reshapes it: softly whitened (as in
  https://arxiv.org/abs/2103.15316), or smoothed over its neighbours (mean shift, https://arxiv.org/abs/2105.07269).

Past keys can be negatives of the in-batch term too: those of the target (ESimCSE, eq. 7 of
https://arxiv.org/abs/2109.04380) or those of the online branch (cross-batch memory, section 3.2 of
https://arxiv.org/abs/1912.06798). Each branch encodes each view at most once, whatever the terms.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mocose_hf.models.losses import contrastive_logits, relation_loss, reshape_keys, reshaping_loss, same_sentence
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.views import HardNegatives
from mocose_hf.parallel.collectives import gather_rows, gather_rows_with_gradient


def combine_terms(
    model, view: Any, key_view: Any, sentence_ids: Tensor | None, negatives: Sequence[HardNegatives] = ()
) -> ContrastiveOutput:
    """Return the weighted sum of the terms of `model.config`.

    Args:
        model: A `MoCoSEForPreTraining`, or another `QueueContrast` with `encode_queries` and `encode_keys`.
        view, key_view: The two views of the batch, such as a `View`, as these two methods take them.
        sentence_ids: (B,) int64.
        negatives: The hard negatives of the in-batch term, of which each query can have several.

    Returns:
        The output, whose `logits`, `is_top1` and `labels` are those of the momentum term from the query view to the
        key view. Without that term they are those of the in-batch term; without both, of the keys of the batch alone.
    """
    config = model.config
    queries = model.encode_queries(view)  # (B, D)
    others = model.encode_queries(key_view) if config.encodes_both_views_online else None  # (B, D)
    if config.has_target:
        keys = model.encode_keys(key_view)  # (B, D)
        reverse_keys = model.encode_keys(view) if config.symmetric_loss else None  # (B, D)
    else:
        keys, reverse_keys = others.detach(), queries.detach()  # (B, D)

    # One entry for each direction: queries, keys of the target, online embeddings of the other view, queue, and the
    # logits of hard negatives.
    columns = [hard_negative_logits(model, queries, part) for part in negatives]  # (B, W·B) each
    hard_logits = torch.cat(columns, dim=1) if columns else None
    directions = [(queries, keys, others, model.queue, hard_logits)]
    if config.symmetric_loss:
        directions.append((others, reverse_keys, queries, model.reverse_queue, None))

    def momentum_term(queries, keys, others, queue, hard_logits):
        return model.info_nce(queries, keys, sentence_ids, queue, config.in_batch_negatives)

    def in_batch_term(queries, keys, others, queue, hard_logits):
        queue = queue if config.in_batch_queue != "none" else None
        return model.info_nce(queries, others, sentence_ids, queue, hard_logits=hard_logits)

    def relation_term(queries, keys, others, queue, hard_logits):
        output = model.info_nce(queries.detach(), keys, sentence_ids, None)
        output.loss = relate_to_queue(model, queries, keys, sentence_ids, queue)
        return output

    def reshaping_term(queries, keys, others, queue, hard_logits):
        output = model.info_nce(queries.detach(), keys, sentence_ids, None)
        output.loss = reshape_by_queue(model, queries, keys, sentence_ids, queue)
        return output

    weighted_terms = [
        (config.queue_weight, momentum_term),
        (config.in_batch_weight, in_batch_term),
        (config.relation_weight, relation_term),
        (config.reshaping_weight, reshaping_term),
    ]
    output, loss = None, 0.0
    for weight, term in weighted_terms:
        if weight > 0.0:
            outputs = [term(*direction) for direction in directions]
            loss = loss + weight * sum(part.loss for part in outputs) / len(outputs)
            output = output or outputs[0]
    output.loss = loss
    output.query_embeddings, output.key_embeddings = queries, keys
    output.reverse_key_embeddings = reverse_keys if config.symmetric_loss else None
    return output


def hard_negative_logits(model, queries: Tensor, negatives: HardNegatives) -> Tensor:
    """Return the logits of queries (B, D) with the hard negatives of all processes, which the online branch encodes.

    Returns:
        (B, W·B), a column for each row of the global batch; −∞ if it has no hard negative, or if `mask_same_sentence`
        finds that this is a positive of the query. Hard negatives get gradient.

    Raises:
        ValueError: If `mask_same_sentence` is set and there are no ids.
    """
    config, rows = model.config, negatives.rows
    encoded = model.encode_queries(negatives.view)[: len(rows)]  # (N, D)
    embeddings = torch.zeros_like(queries).index_copy(0, rows, encoded)  # (B, D)
    embeddings = gather_rows_with_gradient(embeddings)  # (W·B, D)
    is_blank = torch.ones(len(queries), dtype=torch.uint8, device=queries.device).index_fill(0, rows, 0)  # (B,)
    is_excluded = gather_rows(is_blank).bool()  # (W·B,)
    if config.mask_same_sentence:
        if negatives.ids is None or negatives.positive_ids is None:
            raise ValueError(
                "`mask_same_sentence` needs `negative_ids` and `positive_ids` of each batch with hard negatives; give "
                "them, or leave it out."
            )
        ids = torch.full_like(negatives.positive_ids, -1).index_copy(0, rows, negatives.ids)  # (B,)
        is_excluded = is_excluded | same_sentence(negatives.positive_ids, gather_rows(ids))  # (B, W·B)
    logits = contrastive_logits(queries, queries[:0], embeddings, config.temperature)  # (B, W·B)
    return logits.masked_fill(is_excluded, float("-inf"))


def relate_to_queue(model, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None, queue: NegativeQueue) -> Tensor:
    """Return the relation term of queries and keys (B, D) over the rows of a queue; see `losses.relation_loss`.

    Raises:
        ValueError: If there are no `sentence_ids` (B,), by which a sentence's own rows are excluded.
    """
    config = model.config
    rows, log_weights, is_own = _rows_of_others(model, sentence_ids, queue, "relation_weight")
    temperatures = (config.relation_temperature, config.relation_target_temperature)
    return relation_loss(queries, keys, rows, *temperatures, is_own, log_weights)


def reshape_by_queue(
    model, queries: Tensor, keys: Tensor, sentence_ids: Tensor | None, queue: NegativeQueue
) -> Tensor:
    """Return the reshaping term of queries and keys (B, D) over the rows of a queue; see `losses.reshape_keys`.

    Raises:
        ValueError: If there are no `sentence_ids` (B,), by which a sentence's own rows are excluded.
    """
    config = model.config
    rows, log_weights, is_own = _rows_of_others(model, sentence_ids, queue, "reshaping_weight")
    shape = (config.reshaping_whitening, config.reshaping_smoothing, config.reshaping_temperature)
    return reshaping_loss(queries, reshape_keys(keys, rows, is_own, *shape, log_weights))


def _rows_of_others(
    model, sentence_ids: Tensor | None, queue: NegativeQueue, option: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows of a queue (N, D), the log of their weights (N,), and which are the query's own (B, N)."""
    if sentence_ids is None:
        raise ValueError(f"`{option}` needs the `sentence_ids` of each batch; give them, or set it to 0.")
    return *model.queue_candidates(queue), same_sentence(sentence_ids, queue.row_ids)
