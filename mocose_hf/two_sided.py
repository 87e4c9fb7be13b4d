"""Train the online branch on both views of a batch: the in-batch term and the symmetric loss.

The loss is a weighted sum of two terms. Each takes its positives and its in-batch negatives from one branch:

* The momentum term contrasts online queries with the keys of the target and the queue, which holds past keys of the
  target (MoCoSE, eq. 4 of https://arxiv.org/abs/2202.13093).
* The in-batch term contrasts the online embeddings of one view with those of the other, with gradient through both
  (SimCSE, eq. 4 of https://arxiv.org/abs/2104.08821; MultipleNegativesRankingLoss of sentence-transformers).

Past keys can be negatives of the in-batch term too: those of the target (ESimCSE, eq. 7 of
https://arxiv.org/abs/2109.04380) or those of the online branch (cross-batch memory, section 3.2 of
https://arxiv.org/abs/1912.06798). Each branch encodes each view at most once, whatever the terms.
"""

from torch import Tensor

from mocose_hf.branches import View


def contrast_both_views(model, view: View, key_view: View, sentence_ids: Tensor | None):
    """Return the weighted sum of the terms of `model.config`.

    Args:
        model: A `MoCoSEForPreTraining` whose configuration has `in_batch_weight` above 0 or `symmetric_loss`.
        view, key_view: The two views of the batch.
        sentence_ids: (B,) int64.

    Returns:
        `MoCoSEOutput`. `logits`, `own_key_nearest` and `labels` are those of the momentum term from the query view to
        the key view or, without that term, of the in-batch term.
    """
    config = model.config
    queries = model.encode_queries(**vars(view))  # (B, D)
    others = model.encode_queries(**vars(key_view))  # (B, D)
    keys, reverse_keys = others.detach(), queries.detach()  # (B, D)
    if config.has_target:
        keys = model.encode_keys(**vars(key_view))  # (B, D)
        reverse_keys = model.encode_keys(**vars(view)) if config.symmetric_loss else None  # (B, D)

    def average(term: str) -> tuple:
        """Return the first direction of a term and its loss, averaged over the directions."""
        directions = [(queries, keys if term == "momentum" else others, model.queue)]
        if config.symmetric_loss:
            directions.append((others, reverse_keys if term == "momentum" else queries, model.reverse_queue))
        with_queue = term == "momentum" or config.in_batch_queue != "none"
        in_batch_negatives = term == "in-batch" or config.in_batch_negatives
        outputs = [
            model.info_nce(left, right, sentence_ids, queue if with_queue else None, in_batch_negatives)
            for left, right, queue in directions
        ]
        return outputs[0], sum(output.loss for output in outputs) / len(outputs)

    weights = {"momentum": config.queue_weight, "in-batch": config.in_batch_weight}
    terms = [(weight, *average(term)) for term, weight in weights.items() if weight > 0.0]
    output = terms[0][1]
    output.loss = sum(weight * loss for weight, _, loss in terms)
    output.key_embeddings = keys
    output.reverse_key_embeddings = reverse_keys if config.symmetric_loss else None
    return output
