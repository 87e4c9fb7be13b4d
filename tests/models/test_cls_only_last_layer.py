"""The last layer works on first tokens alone and gives what the whole layer gives for them."""

import copy

import pytest
import torch
from builders import random_batch, sentences, tiny_bert_config, tiny_model
from families import FAMILIES, SMALL_WITH_FEED_FORWARD
from packing import both_batches, loss_and_gradients, model_of
from transformers import AutoModel, BertModel, BigBirdConfig, CamembertConfig, Data2VecTextConfig, ErnieConfig

from mocose_hf.models.cls_only_last_layer import FIRST_TOKENS, prepare_last_layer

CAN = ["bert", "roberta", "xlm-roberta", "distilbert", "electra"]
MORE = {config.model_type: config for config in (CamembertConfig, Data2VecTextConfig, ErnieConfig)}


def count_rows(model, batch) -> list[int]:
    """Return how many tokens reach the last layer's feed-forward part in each branch."""
    rows = []
    hooks = [
        encoder.encoder.layer[-1].intermediate.register_forward_hook(
            lambda module, args, output: rows.append(output.shape[:-1].numel())
        )
        for encoder in (model.mocose.encoder, model.target["encoder"])
    ]
    model(**batch)
    for hook in hooks:
        hook.remove()
    return rows


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_can(family):
    assert prepare_last_layer(AutoModel.from_config(FAMILIES[family]())) == (family in CAN)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_the_whole_layer(tokenizer, family):
    model = model_of(family, pooling_mode="cls")
    first = model.allow_padding_free()
    padded, packed = both_batches(tokenizer, model, first or 0)
    for batch in (padded, packed) if first is not None else (padded,):
        model.only_first_token = False
        loss, gradients = loss_and_gradients(model, batch)
        model.only_first_token = True
        trimmed_loss, trimmed_gradients = loss_and_gradients(model, batch)
        assert trimmed_loss == pytest.approx(loss, abs=1e-5)
        for one, other in zip(gradients, trimmed_gradients, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", MORE)
def test_first_tokens_of_further_families_are_those_of_the_whole_layer(family):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(MORE[family](**SMALL_WITH_FEED_FORWARD)).eval()
    assert prepare_last_layer(encoder)
    batch = random_batch()
    whole = encoder(**batch).last_hidden_state[:, :1]
    first_alone = encoder(**batch, **{FIRST_TOKENS: torch.zeros(1, dtype=torch.long)}).last_hidden_state
    torch.testing.assert_close(first_alone, whole, atol=1e-5, rtol=0)


def test_layers_that_work_in_chunks_or_blocks_are_left_alone():
    chunked = tiny_bert_config(chunk_size_feed_forward=7)
    assert not prepare_last_layer(BertModel(chunked))
    assert not prepare_last_layer(AutoModel.from_config(BigBirdConfig(**SMALL_WITH_FEED_FORWARD)))
    model = tiny_model(encoder={"chunk_size_feed_forward": 7}).eval()
    assert model(**random_batch(length=7)).loss.isfinite()


def test_one_token_a_sentence_reaches_the_last_feed_forward_part(tokenizer):
    model = tiny_model().eval()
    batch = random_batch(rows=4, length=7)
    assert count_rows(model, batch) == [4, 4]
    model.only_first_token = False
    assert count_rows(model, batch) == [28, 28]
    model.only_first_token = True
    model.allow_padding_free()
    _, packed = both_batches(tokenizer, model, 0, sentences(5, seed=3))
    assert count_rows(model, packed) == [5, 5]


@pytest.mark.parametrize("pooling_mode", ["mean", "max"])
def test_other_poolings_get_all_tokens(pooling_mode):
    assert count_rows(tiny_model(pooling_mode=pooling_mode).eval(), random_batch(rows=4, length=7)) == [28, 28]


def test_the_encoder_a_user_calls_gives_all_tokens():
    model = tiny_model().eval()
    assert model.mocose(**random_batch(rows=4, length=7)).last_hidden_state.shape == (4, 7, 32)


def test_an_error_in_the_layer_leaves_nothing_for_the_next_call():
    encoder = BertModel(tiny_bert_config()).eval()
    assert prepare_last_layer(encoder)
    batch = random_batch()
    whole = encoder(**batch).last_hidden_state

    def fail(module, args):
        raise RuntimeError("out of memory")

    hook = encoder.encoder.layer[-1].intermediate.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoder(**batch, **{FIRST_TOKENS: torch.zeros(1, dtype=torch.long)})
    hook.remove()
    assert torch.equal(encoder(**batch).last_hidden_state, whole)


def test_a_decoder_is_left_alone():
    assert not prepare_last_layer(BertModel(tiny_bert_config(is_decoder=True)))


def test_a_copied_model_chooses_by_itself():
    model = tiny_model().eval()
    copied = copy.deepcopy(model)
    batch = random_batch()
    assert torch.equal(copied(**batch).loss, model(**batch).loss)
    assert count_rows(copied, batch) == [4, 4]
