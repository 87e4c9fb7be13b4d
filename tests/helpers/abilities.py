"""Find out what a family of encoders can do, each ability by trying it on a tiny model."""

import torch
from builders import sentences
from decoders import DECODERS
from families import FAMILIES

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.encoder_checks import validate_encoder
from mocose_hf.models.views import takes_embeddings

ABILITIES = ("[CLS] pooling", "`padding_free`", "token changes", "`activation_checkpointing`", "dropout")
"""The columns of the table in docs/families.md, beside the family."""


def tiny_family_model(family: str, **config):
    """Return a tiny model of a family, with mean pooling unless `config` says otherwise."""
    torch.manual_seed(0)
    settings = {"pooling_mode": "mean", "queue_size": 8, "queue_init_size": 8} | config
    return MoCoSEForPreTraining(MoCoSEConfig(encoder_config=(FAMILIES | DECODERS)[family](), **settings))


def find_abilities(family: str, tokenizer) -> list[str]:
    """Return what a family can do, in the order of `ABILITIES`: yes, no or a value."""
    model = tiny_family_model(family)
    encoder = model.mocose.encoder
    dropouts = model.config.encoder_dropouts
    return [
        _yes(_allows_cls(encoder)),
        _yes(model.allow_padding_free() is not None),
        _yes(takes_embeddings(tiny_family_model(family).mocose.encoder)),
        _yes(_checkpoints(family, tokenizer)),
        f"{max(dropouts.values()):g}" if dropouts else "none",
    ]


def _allows_cls(encoder) -> bool:
    try:
        validate_encoder(encoder, "cls")
    except ValueError as error:
        if "`pooling_mode` is cls" not in str(error):
            raise
        return False
    return True


def _checkpoints(family: str, tokenizer) -> bool:
    """Return whether activation checkpointing works and gives the same loss."""
    model = tiny_family_model(family, encoder_dropout_prob=0.0, head_dropout_prob=0.0).train()
    batch = SentenceCollator(tokenizer)([{"text": text} for text in sentences(4)])
    loss = model(**batch).loss
    try:
        model.gradient_checkpointing_enable()
        again = model(**batch).loss
        again.backward()
    except ValueError:
        return False
    assert abs(again.item() - loss.item()) < 1e-5
    return True


def _yes(ability: bool) -> str:
    return "yes" if ability else "no"
