"""Fit the dense layer of a model to whiten the embeddings of training sentences, before the first step."""

import torch
from datasets import Dataset
from torch import Tensor

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.dense_layer import WHITENING_SENTENCES
from mocose_hf.models.encoder_checks import evaluation_mode
from mocose_hf.parallel.collectives import broadcast
from mocose_hf.training.queue_prefill import draw_views


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
    dense = model.mocose.dense
    drawn = draw_views(sentences, collator, WHITENING_SENTENCES, batch_size, seed, model.mocose.device)
    rows: list[Tensor] = []
    with evaluation_mode(model):
        for view, key_view, _ in drawn:
            views = [view] if key_view is view else [view, key_view]
            rows += [model.embed(model.mocose.encoder, each) for each in views]
    dense.whiten(torch.cat(rows), model.config.whitening)
    for value in (dense.weight, dense.bias):
        broadcast(value)
