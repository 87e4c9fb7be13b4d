"""Fill the queue with keys of training sentences before the first step, instead of random rows."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from datasets import Dataset
from torch import Tensor

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.views import View, split_views


@torch.no_grad()
def prefill_queue(
    model, sentences: Dataset, collator: SentenceCollator, batch_size: int, seed: int, dtype: torch.dtype | None = None
) -> None:
    """Replace the rows of each queue of a model by the keys of randomly drawn sentences, with dropout off.

    The reverse queue gets the keys of the query view. If there are fewer sentences than slots, the rest stays empty.

    Args:
        model: A `MoCoSEForPreTraining` with a queue; its mode does not change.
        sentences: A dataset with columns `text` and `sentence_id`, and `key_text` for pairs.
        collator: Its collator, with neither augmentation nor token views.
        batch_size: Sentences per forward.
        seed: Seed of the draw; torch's global generator does not change.
        dtype: Autocast dtype; None for the dtype of the weights.
    """
    device = model.queue.rows.device
    encode = model.encode_keys if model.config.has_target else model.encode_queries
    for queue in model.queues():
        queue.clear()
    computing = torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()
    with computing, evaluation_mode(model):
        for view, key_view, ids in draw_views(sentences, collator, model.queue.size, batch_size, seed, device):
            for queue, encoded in zip(model.queues(), (key_view, view), strict=False):
                queue.enqueue(encode(encoded), ids)


def draw_views(
    sentences: Dataset, collator: SentenceCollator, size: int, batch_size: int, seed: int, device: torch.device
) -> Iterator[tuple[View, View, Tensor]]:
    """Yield query view, key view, which may be the same, and sentence ids (B,) of batches of drawn sentences.

    Args:
        sentences, collator, batch_size, seed: As for `prefill_queue`.
        size: Number of sentences to draw; all if there are fewer.
        device: Where the tensors go.
    """
    drawn = draw_sentences(len(sentences), size, seed)
    for start in range(0, len(drawn), batch_size):
        batch = collator([sentences[i] for i in drawn[start : start + batch_size]])
        batch = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        ids = batch.pop("sentence_ids")
        yield *split_views(batch), ids


def draw_sentences(count: int, size: int, seed: int) -> list[int]:
    """Return the numbers of the sentences that fill a queue of that size, of `count` sentences."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:size].tolist()
