"""Measure the queue of negatives at one optimizer step, from the model, its outputs and the training sentences."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import BatchEncoding

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.models.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.models.views import View
from mocose_hf.training.queue_monitor.metrics import (
    AgeBins,
    Groups,
    NegativeWeights,
    means_by_group,
    negative_columns,
    recomputed_columns,
    spread_evenly,
    weigh_negatives,
)

MOST_SAMPLED = 256
SAMPLED_PER_SENTENCE = 3
"""Keys that are encoded again, for each sentence that a device processes in an optimizer step."""

_BATCH_PART = 5
"""One in this many of them is a key of the batch."""

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_DIGITS = 7
_SAME_LOSS = 1e-2


class TrainingSentences:
    """The texts of keys, found by their sentence ids.

    Args:
        dataset: A dataset with columns `sentence_id` and `text`, and `key_text` if the target sees another text. Rows
            that share an id are unknown.
        tokenizer: A tokenizer of transformers.
        max_seq_length: Maximum tokens of an input.
        prompt_options: `prompt`, `key_prompt` and `include_prompt`, as `SentenceCollator` takes them.
    """

    def __init__(self, dataset: Dataset, tokenizer, max_seq_length: int, **prompt_options):
        ids = np.asarray(dataset.with_format("numpy")["sentence_id"][:])
        ids, first, counts = np.unique(ids, return_index=True, return_counts=True)
        self._ids, self._rows = (torch.from_numpy(column[counts == 1]) for column in (ids, first))
        column = "key_text" if "key_text" in dataset.column_names else "text"
        self._texts = dataset.with_format(None).select_columns([column])
        self._collator = SentenceCollator(tokenizer, max_seq_length, **prompt_options)

    def known(self, ids: Tensor) -> Tensor:
        """Return which of the ids (N,) belong to exactly one row: (N,) bool."""
        places = torch.searchsorted(self._ids, ids.cpu()).clamp(max=len(self._ids) - 1)
        return (self._ids[places] == ids.cpu()).to(ids.device) if len(self._ids) else torch.zeros_like(ids).bool()

    @torch.no_grad()
    def encode(self, ids: Tensor, model: MoCoSEForPreTraining, batch_size: int, dtype: torch.dtype | None) -> Tensor:
        """Return the current keys of the sentences, with dropout off: (N, D) float32.

        Args:
            ids: (N,) int64, all known.
            model: The model; its modes and its state do not change.
            batch_size: Sentences per forward.
            dtype: Autocast dtype; None for the dtype of the weights.
        """
        rows = self._rows[torch.searchsorted(self._ids, ids.cpu())].tolist()
        (texts,) = self._texts[rows].values()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # sentences of similar length share a batch
        keys = model.queue.rows.new_empty(len(texts), model.queue.dim, dtype=torch.float32)
        device = keys.device
        computing = torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()
        with computing, evaluation_mode(model):
            for start in range(0, len(order), batch_size):
                chunk = order[start : start + batch_size]
                batch = BatchEncoding(self._collator([{"text": texts[i]} for i in chunk])).to(device)
                keys[chunk] = model.encode_keys(View(**batch))
        return keys


def find_sentences(
    dataset, tokenizer, max_seq_length: int, **prompt_options
) -> tuple[TrainingSentences | None, str | None]:
    """Return the sentences of a training set, or None and the reason why they cannot be encoded again."""
    if tokenizer is None:
        return None, "there is no tokenizer to encode sentences again"
    if not isinstance(dataset, Dataset):
        return None, "the training set is a stream, whose sentences cannot be looked up"
    missing = [name for name in ("text", "sentence_id") if name not in dataset.column_names]
    if missing:
        return None, f"the training set has no column `{missing[0]}`"
    return TrainingSentences(dataset, tokenizer, max_seq_length, **prompt_options), None


class QueueSnapshot:
    """The queue as the batch of one optimizer step sees it.

    Args:
        model: The model, before the keys of the batch enter its queue.
        args: The training arguments.
        step: The optimizer step, counted from 1.

    Attributes:
        skipped: Names of what could not be measured, with the reason.
    """

    def __init__(self, model: MoCoSEForPreTraining, args, step: int):
        self.model, self.queue, self.args, self.step = model, model.queue, args, step
        self.groups = Groups(
            AgeBins.of_queue(self.queue.size, args.global_batch_size * args.gradient_accumulation_steps)
        )
        self.slot_groups = self.groups.of_slots(self.queue.enqueued_at, step)  # (K,)
        self.slots = self.queue.newest_first()
        self.slots = self.slots[self.slot_groups[self.slots] < self.groups.initial]  # slots with an age
        self.skipped: dict[str, str] = {}

    def ages(self) -> dict:
        """Return the ages of the rows of the queue."""
        bins = self.groups.bins
        rows = torch.bincount(self.slot_groups[self.slot_groups >= 0], minlength=self.groups.count).tolist()
        ages = (self.step - self.queue.enqueued_at[self.slots]).sort().values.tolist()
        return {
            "step": self.step,
            "queue_fill": int(self.queue.num_filled),
            "initial_rows": rows[self.groups.initial],
            "first_ages": bins.first_ages(),
            "bin_width": bins.width,
            "rows_by_age": rows[: bins.count],
            "age_quantiles": [ages[round(q * (len(ages) - 1))] for q in _QUANTILES] if ages else None,
        }

    def drift(self, outputs: ContrastiveOutput, sentences: TrainingSentences) -> dict:
        """Compare a sample of stored keys, and of the batch's own, with the current keys of the same sentences."""
        queue, args = self.queue, self.args
        slots = self.slots[sentences.known(queue.row_ids[self.slots])]
        if not len(slots):
            if queue.size:
                self.skipped["key_drift"] = "no key in the queue is of a sentence that can be looked up"
            return {}
        per_step = args.local_batch_size * args.gradient_accumulation_steps
        sampled = min(MOST_SAMPLED, SAMPLED_PER_SENTENCE * per_step)
        ids = -torch.ones_like(outputs.labels) if outputs.sentence_ids is None else outputs.sentence_ids
        batch = spread_evenly(torch.arange(len(ids), device=ids.device), sampled // _BATCH_PART)
        slots = spread_evenly(slots, sampled - len(batch))
        known = sentences.known(ids[batch])
        stored = torch.cat([queue.rows[slots].float(), outputs.key_embeddings[batch].float()])
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        # ZeRO-3 needs equal numbers on all processes: an unknown sentence of the batch is replaced by a known one.
        wanted = torch.cat([queue.row_ids[slots], ids[batch].where(known, queue.row_ids[slots[0]])])
        now = sentences.encode(wanted, self.model, args.local_batch_size, dtype)
        cosines = F.cosine_similarity(stored, now, dim=-1).cpu().double()  # (S,)
        queue_cosines, batch_cosines = cosines[: len(slots)], cosines[len(slots) :][known.cpu()]
        means, counts = means_by_group(queue_cosines, self.slot_groups[slots], self.groups.bins.count)
        return {
            "key_drift": queue_cosines.mean().item(),
            "key_drift_by_age": means,
            "sampled_by_age": counts,
            "batch_key_drift": batch_cosines.mean().item() if len(batch_cosines) else None,
        }

    def gradient(self, outputs: ContrastiveOutput) -> dict:
        """Measure how the gradient of the batch's loss spreads over its negatives."""
        config = self.model.config
        if config.queue_weight == config.in_batch_weight == 0.0:
            self.skipped["gradient"] = "the relation term has no negatives"
            return {}
        if config.queue_positives:
            self.skipped["gradient"] = "keys of the queue are positives too"
            return {}
        if outputs.num_hard_negatives:
            self.skipped["gradient"] = "hard negatives of the batch are candidates too"
            return {}
        queries, is_chunked = len(outputs.labels), outputs.logits is None
        in_batch = queries if is_chunked else queries * self.args.world_size
        from_queue = self.queue.size if is_chunked else outputs.logits.shape[1] - in_batch
        weights = self._weigh(outputs, in_batch, from_queue)
        if is_chunked and self.args.world_size > 1:
            self.skipped["in_batch"] = "keys of the other processes are not held beside a queue of this size"
        elif is_chunked and not math.isclose(weights.loss, outputs.loss.item(), rel_tol=_SAME_LOSS):
            self.skipped["gradient"] = "the loss does not contrast all rows of the queue"
            return {}
        if from_queue != self.queue.size:
            reason = f"the loss took {from_queue} negatives from the queue, not its {self.queue.size} slots"
            self.skipped["gradient_share_by_age"] = reason
        return _gradient_figures(weights, self.groups, from_queue > 0, by_age=from_queue == self.queue.size)

    def _weigh(self, outputs: ContrastiveOutput, in_batch: int, from_queue: int) -> NegativeWeights:
        """Weigh the negatives of a batch: C = `in_batch` keys and N = `from_queue` of the queue."""
        queue, groups, labels = self.queue, self.groups, outputs.labels
        if outputs.logits is None:
            config, labels = self.model.config, torch.arange(in_batch, device=labels.device)
            batch = (outputs.query_embeddings, outputs.key_embeddings)
            rows, log_weights = self.model.queue_candidates(self.queue)
            chunks = recomputed_columns(*batch, rows, log_weights, config.temperature, config.in_batch_negatives)
            positive_logits = (batch[0].float() * batch[1].float()).sum(-1) / config.temperature
        else:
            chunks = negative_columns(outputs.logits, labels)
            positive_logits = outputs.logits.gather(1, labels[:, None])[:, 0]
        by_slot = from_queue == queue.size
        unknown = labels.new_full((in_batch + from_queue,), -1)
        query_ids = unknown[:1].expand(len(labels)) if outputs.sentence_ids is None else outputs.sentence_ids
        column_groups, column_ids = unknown.clone(), unknown
        column_groups[:in_batch] = groups.batch
        column_groups[in_batch:] = self.slot_groups if by_slot else groups.other
        column_ids[labels] = query_ids
        if by_slot:
            column_ids[in_batch:] = queue.row_ids
        return weigh_negatives(chunks, positive_logits, column_groups, groups.count, query_ids, column_ids)


def _gradient_figures(weights: NegativeWeights, groups: Groups, has_queue: bool, by_age: bool) -> dict:
    """Return the entries of a record about the negatives."""
    figures: dict[str, Any] = {
        "effective_negatives": weights.effective,
        "negatives": weights.count,
        "false_negative_rate": weights.false_negative_rate,
        "false_negative_gradient_share": weights.false_negative_share,
    }
    if weights.shares is not None:
        shares = weights.shares.tolist()
        figures["in_batch_gradient_share"] = shares[groups.batch]
        if has_queue:
            figures["queue_gradient_share"] = sum(shares) - shares[groups.batch]
        if has_queue and by_age:
            figures["initial_gradient_share"] = shares[groups.initial]
            figures["gradient_share_by_age"] = shares[: groups.bins.count]
    return figures


def is_finite(value) -> bool:
    """Return whether every number in a record is finite."""
    if isinstance(value, (dict, list)):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def shorten(value):
    """Return a record with its numbers rounded to the digits of float32."""
    if isinstance(value, dict):
        return {name: shorten(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shorten(part) for part in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
