"""Fit the dense layer of a model to whiten the embeddings of training sentences, before the first step."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from torch import Tensor

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.dense_layer import WHITENING_SENTENCES
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.models.views import View, split_views
from mocose_hf.parallel.collectives import broadcast
from mocose_hf.training.queue_prefill import draw_sentences


@torch.no_grad()
def whiten_embeddings(model, sentences: Dataset, collator: SentenceCollator, batch_size: int, seed: int) -> None:
    """Whiten by `config.whitening`; the embeddings are computed in float32 with dropout off.

    Of pairs, both texts count. All processes end with the layer of the first one.

    Args:
        model: A model with a `whitening` above 0; its mode does not change.
        sentences: A dataset with columns `text` and `sentence_id`, and `key_text` for pairs.
        collator: Its collator, with neither augmentation nor token views.
        batch_size: Sentences per forward.
        seed: Seed of the draw; torch's global generator does not change.
    """
    drawn = draw_sentences(len(sentences), WHITENING_SENTENCES, seed)
    device, dense = model.mocose.device, model.mocose.dense
    rows: list[Tensor] = []
    with evaluation_mode(model):
        for start in range(0, len(drawn), batch_size):
            batch = collator([sentences[i] for i in drawn[start : start + batch_size]])
            batch = {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}
            batch.pop("sentence_ids")
            rows += [model.embed(model.mocose.encoder, view) for view in _different(*split_views(batch))]
    dense.whiten(torch.cat(rows), model.config.whitening)
    for value in (dense.weight, dense.bias):
        broadcast(value)


def _different(view: View, key_view: View) -> Iterator[View]:
    yield view
    if key_view is not view:
        yield key_view
