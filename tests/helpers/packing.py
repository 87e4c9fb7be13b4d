"""Padded and packed batches of the same sentences."""

import torch
from builders import sentences
from families import FAMILIES

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining
from mocose_hf.data.collator import SentenceCollator

CANNOT = {"mpnet", "deberta-v2"}


CAN = [name for name in FAMILIES if name not in CANNOT]


def model_of(family: str, **config) -> MoCoSEForPreTraining:
    torch.manual_seed(0)
    settings = {"queue_size": 16, "queue_init_size": 16} | config
    return MoCoSEForPreTraining(MoCoSEConfig(encoder_config=FAMILIES[family](), **settings)).eval()


def both_batches(tokenizer, model, first_position: int, texts=None, **options) -> tuple[dict, dict]:
    """The same sentences padded, with the padding of the family, and packed."""
    rows = [{"text": text} for text in texts or sentences(6, seed=3)]
    padded = SentenceCollator(tokenizer, **options)(rows)
    padding = model.config.encoder_config.pad_token_id or 0
    padded["input_ids"] = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, padding)
    assert (padded["attention_mask"] == 0).any()
    return padded, SentenceCollator(tokenizer, first_position=first_position, **options)(rows)


def loss_and_gradients(model, batch: dict) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
