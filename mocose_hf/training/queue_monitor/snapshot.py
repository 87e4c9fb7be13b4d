"""One look at the queue of negatives: what a model, its outputs and the training sentences tell of it."""

import math
from contextlib import nullcontext

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
"""Keys that are encoded again, for each sentence that a device takes in an optimizer step."""

_BATCH_PART = 5
"""One in so many of them is a key of the batch."""

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_DIGITS = 7
_SAME_LOSS = 1e-2


class TrainingSentences:
    """The texts that keys are made of, found by their ids.

    Args:
        dataset: With columns `sentence_id` and `text`, or `key_text`, which then is what the target sees. A row whose
            id another row has too is not known.
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest input in tokens.
        prompt_options: `prompt` and `include_prompt`, as `SentenceCollator` takes them.
    """

    def __init__(self, dataset: Dataset, tokenizer, max_seq_length: int, **prompt_options):
        ids = np.asarray(dataset.with_format("numpy")["sentence_id"][:])
        ids, first, counts = np.unique(ids, return_index=True, return_counts=True)
        self._ids, self._rows = (torch.from_numpy(column[counts == 1]) for column in (ids, first))
        column = "key_text" if "key_text" in dataset.column_names else "text"
        self._texts = dataset.with_format(None).select_columns([column])
        self._collator = SentenceCollator(tokenizer, max_seq_length, **prompt_options)

    def known(self, ids: Tensor) -> Tensor:
        """Return which of the ids (N,) name one row: (N,) bool."""
        places = torch.searchsorted(self._ids, ids.cpu()).clamp(max=len(self._ids) - 1)
        return (self._ids[places] == ids.cpu()).to(ids.device) if len(self._ids) else torch.zeros_like(ids).bool()

    @torch.no_grad()
    def encode(self, ids: Tensor, model: MoCoSEForPreTraining, batch_size: int, dtype: torch.dtype | None) -> Tensor:
        """Return the keys that the target gives the sentences now, with dropout off: (N, D) float32.

        Args:
            ids: (N,) int64, all known.
            model: Its modes and its state are left as they are.
            batch_size: Sentences per forward.
            dtype: What to compute in where it is not that of the weights.
        """
        rows = self._rows[torch.searchsorted(self._ids, ids.cpu())].tolist()
        (texts,) = self._texts[rows].values()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # batches of about equal length
        keys = model.queue.rows.new_empty(len(texts), model.queue.dim, dtype=torch.float32)
        device = keys.device
        computing = torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()
        with computing, evaluation_mode(model.target):
            for start in range(0, len(order), batch_size):
                some = order[start : start + batch_size]
                batch = BatchEncoding(self._collator([{"text": texts[i]} for i in some])).to(device)
                keys[some] = model.encode_keys(View(**batch))
        return keys


def find_sentences(
    dataset, tokenizer, max_seq_length: int, **prompt_options
) -> tuple[TrainingSentences | None, str | None]:
    """Return the sentences of a training set, or None and why their keys cannot be made again."""
    if tokenizer is None:
        return None, "there is no tokenizer to encode sentences again with"
    if not isinstance(dataset, Dataset):
        return None, "the training set is a stream, whose sentences cannot be looked up"
    missing = [name for name in ("text", "sentence_id") if name not in dataset.column_names]
    if missing:
        return None, f"the training set has no column `{missing[0]}`"
    return TrainingSentences(dataset, tokenizer, max_seq_length, **prompt_options), None


class QueueSnapshot:
    """The queue as the batch of one optimizer step sees it.

    Args:
        model: Before the keys of the batch enter the queue.
        args: The training arguments.
        step: The optimizer step, counted from 1.
    """

    def __init__(self, model: MoCoSEForPreTraining, args, step: int):
        self.model, self.queue, self.args, self.step = model, model.queue, args, step
        self.groups = Groups(
            AgeBins.of_queue(self.queue.size, args.global_batch_size * args.gradient_accumulation_steps)
        )
        self.of_slots = self.groups.of_slots(self.queue.enqueued_at, step)  # (K,)
        self.slots = self.queue.newest_first()
        self.slots = self.slots[self.of_slots[self.slots] < self.groups.initial]  # those that have an age
        self.left_out: dict[str, str] = {}

    def ages(self) -> dict:
        """Return how old the rows of the queue are."""
        bins = self.groups.bins
        rows = torch.bincount(self.of_slots[self.of_slots >= 0], minlength=self.groups.count).tolist()
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
        """Compare a sample of the stored keys, and of the batch's, with keys of the same sentences made now."""
        queue, args = self.queue, self.args
        slots = self.slots[sentences.known(queue.row_ids[self.slots])]
        if not len(slots):
            if queue.size:
                self.left_out["key_drift"] = "no key in the queue is of a sentence that can be looked up"
            return {}
        per_step = args.local_batch_size * args.gradient_accumulation_steps
        sampled = min(MOST_SAMPLED, SAMPLED_PER_SENTENCE * per_step)
        ids = -torch.ones_like(outputs.labels) if outputs.sentence_ids is None else outputs.sentence_ids
        batch = spread_evenly(torch.arange(len(ids), device=ids.device), sampled // _BATCH_PART)
        slots = spread_evenly(slots, sampled - len(batch))
        known = sentences.known(ids[batch])
        stored = torch.cat([queue.rows[slots].float(), outputs.key_embeddings[batch].float()])
        dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        # As many on each process, which ZeRO-3 needs: where a sentence of the batch is not known, another one.
        wanted = torch.cat([queue.row_ids[slots], ids[batch].where(known, queue.row_ids[slots[0]])])
        now = sentences.encode(wanted, self.model, args.local_batch_size, dtype)
        cosines = F.cosine_similarity(stored, now, dim=-1).cpu().double()  # (S,)
        of_queue, of_batch = cosines[: len(slots)], cosines[len(slots) :][known.cpu()]
        means, numbers = means_by_group(of_queue, self.of_slots[slots], self.groups.bins.count)
        return {
            "key_drift": of_queue.mean().item(),
            "key_drift_by_age": means,
            "sampled_by_age": numbers,
            "batch_key_drift": of_batch.mean().item() if len(of_batch) else None,
        }

    def gradient(self, outputs: ContrastiveOutput) -> dict:
        """Measure how the loss of the batch pulls at its negatives."""
        config = self.model.config
        if config.queue_weight == config.in_batch_weight == 0.0:
            self.left_out["gradient"] = "the relation term has no negatives"
            return {}
        if config.queue_positives:
            self.left_out["gradient"] = "keys of the queue are positives too"
            return {}
        queries, large = len(outputs.labels), outputs.logits is None
        in_batch = queries if large else queries * self.args.world_size
        of_queue = self.queue.size if large else outputs.logits.shape[1] - in_batch
        weights = self._weigh(outputs, in_batch, of_queue)
        if large and self.args.world_size > 1:
            self.left_out["in_batch"] = "keys of the other processes are not held beside a queue of this size"
        elif large and not math.isclose(weights.loss, outputs.loss.item(), rel_tol=_SAME_LOSS):
            self.left_out["gradient"] = "the loss is not that of all rows of the queue"
            return {}
        if of_queue != self.queue.size:
            reason = f"the loss took {of_queue} negatives from the queue, not its {self.queue.size} slots"
            self.left_out["gradient_share_by_age"] = reason
        return _gradient_figures(weights, self.groups, of_queue > 0, by_age=of_queue == self.queue.size)

    def _weigh(self, outputs: ContrastiveOutput, in_batch: int, of_queue: int) -> NegativeWeights:
        """Weigh the negatives of a batch, C = `in_batch` keys and N = `of_queue` of the queue."""
        queue, groups, labels = self.queue, self.groups, outputs.labels
        if outputs.logits is None:
            config, labels = self.model.config, torch.arange(in_batch, device=labels.device)
            batch = (outputs.query_embeddings, outputs.key_embeddings)
            rows, log_weights = self.model.queue_candidates(self.queue)
            chunks = recomputed_columns(*batch, rows, log_weights, config.temperature, config.in_batch_negatives)
            own = (batch[0].float() * batch[1].float()).sum(-1) / config.temperature
        else:
            chunks = negative_columns(outputs.logits, labels)
            own = outputs.logits.gather(1, labels[:, None])[:, 0]
        by_slot = of_queue == queue.size
        unknown = labels.new_full((in_batch + of_queue,), -1)
        query_ids = unknown[:1].expand(len(labels)) if outputs.sentence_ids is None else outputs.sentence_ids
        of_columns, ids = unknown.clone(), unknown
        of_columns[:in_batch] = groups.batch
        of_columns[in_batch:] = self.of_slots if by_slot else groups.other
        ids[labels] = query_ids
        if by_slot:
            ids[in_batch:] = queue.row_ids
        return weigh_negatives(chunks, own, of_columns, groups.count, query_ids, ids)


def _gradient_figures(weights: NegativeWeights, groups: Groups, has_queue: bool, by_age: bool) -> dict:
    """Name the figures of the negatives."""
    figures = {
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


def shortened(value):
    """Return a record with its numbers to as many digits as float32 tells apart."""
    if isinstance(value, dict):
        return {name: shortened(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shortened(part) for part in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
