"""The terms that the loss of a batch can be made of, beside the one of the paper.

The loss is a weighted sum of four terms. Each takes its positives and its in-batch negatives from one branch:

* The momentum term contrasts online queries with the keys of the target and the queue, which holds past keys of the
  target (MoCoSE, eq. 4 of https://arxiv.org/abs/2202.13093).
* The in-batch term contrasts the online embeddings of one view with those of the other, with gradient through both
  (SimCSE, eq. 4 of https://arxiv.org/abs/2104.08821; MultipleNegativesRankingLoss of sentence-transformers).
* The relation term gives a query the similarities to the queue that the target gives its key, made sharper or softer
  (ReSSL, eq. 4 of https://arxiv.org/abs/2107.09282). It pushes no pair of sentences apart by itself.
* The reshaping term draws a query to its key as the queue reshapes it: softly whitened (as in
  https://arxiv.org/abs/2103.15316), or smoothed over its neighbours (mean shift, https://arxiv.org/abs/2105.07269).

Past keys can be negatives of the in-batch term too: those of the target (ESimCSE, eq. 7 of
https://arxiv.org/abs/2109.04380) or those of the online branch (cross-batch memory, section 3.2 of
https://arxiv.org/abs/1912.06798). Each branch encodes each view at most once, whatever the terms.
"""

from torch import Tensor

from mocose_hf.models.views import View


def combine_terms(model, view: View, key_view: View, sentence_ids: Tensor | None):
    """Return the weighted sum of the terms of `model.config`.

    Args:
        model: A `MoCoSEForPreTraining`.
        view, key_view: The two views of the batch.
        sentence_ids: (B,) int64.

    Returns:
        `MoCoSEOutput`. `logits`, `is_top1` and `labels` are those of the momentum term from the query view to
        the key view or, without that term, of the in-batch term or, without both, of the keys of the batch alone.
    """
    config = model.config
    queries = model.encode_queries(**vars(view))  # (B, D)
    others = model.encode_queries(**vars(key_view)) if config.encodes_both_views_online else None  # (B, D)
    if config.has_target:
        keys = model.encode_keys(**vars(key_view))  # (B, D)
        reverse_keys = model.encode_keys(**vars(view)) if config.symmetric_loss else None  # (B, D)
    else:
        keys, reverse_keys = others.detach(), queries.detach()  # (B, D)

    # One entry for each direction: queries, keys of the target, online embeddings of the other view, queue.
    directions = [(queries, keys, others, model.queue)]
    if config.symmetric_loss:
        directions.append((others, reverse_keys, queries, model.reverse_queue))

    def momentum(queries, keys, others, queue):
        return model.info_nce(queries, keys, sentence_ids, queue, config.in_batch_negatives)

    def in_batch(queries, keys, others, queue):
        return model.info_nce(queries, others, sentence_ids, queue if config.in_batch_queue != "none" else None)

    def relation(queries, keys, others, queue):
        output = model.info_nce(queries.detach(), keys, sentence_ids, None)
        output.loss = model.relation_loss(queries, keys, sentence_ids, queue)
        return output

    def reshaping(queries, keys, others, queue):
        output = model.info_nce(queries.detach(), keys, sentence_ids, None)
        output.loss = model.reshaping_loss(queries, keys, sentence_ids, queue)
        return output

    weighted = [
        (config.queue_weight, momentum),
        (config.in_batch_weight, in_batch),
        (config.relation_weight, relation),
        (config.reshaping_weight, reshaping),
    ]
    output, loss = None, 0.0
    for weight, term in weighted:
        if weight > 0.0:
            outputs = [term(*direction) for direction in directions]
            loss = loss + weight * sum(part.loss for part in outputs) / len(outputs)
            output = output or outputs[0]
    output.loss = loss
    output.query_embeddings, output.key_embeddings = queries, keys
    output.reverse_key_embeddings = reverse_keys if config.symmetric_loss else None
    return output
