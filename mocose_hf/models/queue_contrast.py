"""InfoNCE against the keys of a batch and a queue of past keys, under the policies of a `MoCoSEConfig`."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.models.configuration_mocose import CHUNKED_FROM, MoCoSEConfig
from mocose_hf.models.losses import chunked_info_nce_loss, contrastive_logits, multi_positive_loss, nearest_rows
from mocose_hf.models.modeling_base import ContrastiveOutput, gather_ids, gather_keys
from mocose_hf.models.negative_queue import NegativeQueue
from mocose_hf.models.queue_centroids import find_centroids


class QueueContrast:
    """Contrast queries with keys and queues, for a module that has a `config`, a `queue` and a `reverse_queue`."""

    config: MoCoSEConfig
    queue: NegativeQueue
    reverse_queue: NegativeQueue | None

    def info_nce(
        self,
        queries: Tensor,
        keys: Tensor,
        sentence_ids: Tensor | None,
        queue: NegativeQueue | None,
        in_batch_negatives: bool = True,
        hard_logits: Tensor | None = None,
    ) -> ContrastiveOutput:
        """Return one InfoNCE term: queries (B, D) against the keys of all processes and the rows of a queue.

        Args:
            queries, keys: (B, D), L2-normalised. If the keys carry gradient, those of all processes keep it.
            sentence_ids: (B,) int64.
            queue: The source of further negatives; None for none.
            in_batch_negatives: Whether the keys of other rows are negatives.
            hard_logits: (B, H), the logits of hard negatives; None for none.

        Raises:
            ValueError: If `mask_same_sentence` or `queue_positives` is set and there are no `sentence_ids`.
        """
        config = self.config
        all_keys, labels = gather_keys(keys)  # (W·B, D), (B,)
        rows, log_weights = (keys[:0], None) if queue is None else self.queue_candidates(queue)  # (N, D), (N,)
        has_positives = config.queue_positives > 0 and len(rows) > 0
        ids = gather_ids(sentence_ids, queue) if config.mask_same_sentence or has_positives else None
        candidates = (all_keys, rows, config.temperature, labels, in_batch_negatives)
        if len(rows) >= CHUNKED_FROM and hard_logits is None and not keys.requires_grad:  # no gradient to keys
            logits = None
            loss, is_top1 = chunked_info_nce_loss(queries, *candidates, log_weights=log_weights, sentence_ids=ids)
        else:
            logits = contrastive_logits(
                queries, *candidates, log_weights=log_weights, sentence_ids=ids
            )  # (B, W·B + N)
            if hard_logits is not None:
                before, after = logits.tensor_split([len(all_keys)], dim=1)
                logits = torch.cat([before, hard_logits, after], dim=1)  # (B, W·B + H + N)
            is_top1 = logits.argmax(-1) == labels
            if has_positives:
                loss = self._multi_positive_loss(logits, keys, rows, labels)
            else:
                loss = F.cross_entropy(logits, labels)
        return ContrastiveOutput(
            loss=loss,
            logits=logits,
            is_top1=is_top1,
            labels=labels,
            query_embeddings=queries,
            key_embeddings=keys,
            sentence_ids=sentence_ids,
            num_hard_negatives=None if hard_logits is None else hard_logits.shape[1],
        )

    def _multi_positive_loss(self, logits: Tensor, keys: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        """Return the loss with the queue rows (N, D) nearest to each key (B, D) as further positives."""
        config, first = self.config, logits.shape[1] - len(rows)
        is_excluded = logits[:, first:] == float("-inf")  # (B, N)
        nearest, is_positive = nearest_rows(
            keys, rows, config.queue_positives, is_excluded, config.queue_positive_similarity
        )
        return multi_positive_loss(logits, labels, nearest + first, is_positive, config.queue_positive_weight)

    def queue_candidates(self, queue: NegativeQueue) -> tuple[Tensor, Tensor]:
        """Return the negatives that a queue provides under the policies of the configuration.

        Returns:
            The slots or, with `queue_centroids`, their centroids, (N, D), and the log of each one's weight, (N,)
            float32, −∞ if it is no negative.
        """
        config = self.config
        log_weights = queue.log_weights(config.queue_window, config.queue_window_softness, config.queue_half_life)
        if config.queue_centroids:
            return find_centroids(queue.rows, log_weights, config.queue_centroids)
        return queue.rows, log_weights
