"""Packed batches give what padded ones give, in every family that can take them."""

import math

import pytest
import torch
from builders import random_batch, sentences, tiny_bert_config, tiny_model
from datasets import Dataset
from families import FAMILIES, SMALL_WITH_FEED_FORWARD
from packing import CAN, CANNOT, both_batches, loss_and_gradients, model_of
from resuming import run
from same_state import differences
from torch.utils._python_dispatch import TorchDispatchMode
from trainers import make_trainer, scored_pairs, training_arguments
from transformers import AutoModel, BertModel, FNetConfig, SplinterConfig, XmodConfig

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, MoCoSEModel, MoCoSETrainer
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.sequence_packing import (
    ATTENTION,
    Packing,
    bounds_for_attention,
    find_first_position,
    padding_free_attention,
)

LENGTHS = [3, 1, 5, 2]


def packing(lengths: list[int] = LENGTHS) -> Packing:
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    return Packing.of(bounds, max(lengths), sum(lengths))


def test_packing_puts_each_token_at_the_place_of_a_loop():
    made = packing()
    assert made.starts.tolist() == [0, 3, 4, 9]
    assert made.mask.sum(1).tolist() == LENGTHS
    slots = [row * 5 + place for row, length in enumerate(LENGTHS) for place in range(length)]
    assert made.slots.tolist() == slots
    rows = torch.arange(1.0, 12)[:, None]
    padded = made.pad(rows)
    assert padded[..., 0].tolist() == [[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 9], [10, 11, 0, 0, 0]]
    assert torch.equal(made.mask, padded[..., 0] > 0)
    assert torch.equal(made.unpad(padded), rows)


def test_gradients_of_padding_and_unpadding_are_those_of_indexing():
    made = packing()
    rows = torch.randn(11, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made.pad, (rows,))
    padded = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made.unpad, (padded,))


@pytest.mark.parametrize("window", [None, 1, 2, 3, 9])
def test_attention_is_that_of_a_loop_over_the_sentences(window):
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 1, 2, 11, 4, dtype=torch.float64)
    module = torch.nn.Module()
    found, weights = padding_free_attention(
        module, query, key, value, None, packing=packing(), sliding_window=window, scaling=0.5, is_causal=False
    )
    assert weights is None
    assert found.shape == (1, 11, 2, 4)
    start = 0
    for length in LENGTHS:
        for head in range(2):
            for i in range(start, start + length):
                near = [j for j in range(start, start + length) if window is None or abs(i - j) < window]
                scores = [math.exp(0.5 * float(query[0, head, i] @ key[0, head, j])) for j in near]
                mean = sum(s * value[0, head, j] for s, j in zip(scores, near, strict=True)) / sum(scores)
                torch.testing.assert_close(found[0, i, head], mean)
        start += length


@pytest.mark.parametrize("pooling_mode", ["cls", "mean", "max"])
@pytest.mark.parametrize("family", CAN)
def test_packed_and_padded_batches_give_one_loss_and_one_gradient(tokenizer, family, pooling_mode):
    model = model_of(family, pooling_mode=pooling_mode)
    first = model.allow_padding_free()
    assert first is not None
    padded, packed = both_batches(tokenizer, model, first)
    loss, gradients = loss_and_gradients(model, padded)
    packed_loss, packed_gradients = loss_and_gradients(model, packed)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    for one, other in zip(gradients, packed_gradients, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_sentences_longer_than_a_local_attention_window_give_one_loss(tokenizer):
    """ModernBERT's layers of local attention see 4 tokens to either side here."""
    model = model_of("modernbert", pooling_mode="mean")
    first = model.allow_padding_free()
    texts = [" ".join(sentences(3, seed=s)) for s in range(4)]
    padded, packed = both_batches(tokenizer, model, first, texts)
    assert packed["max_length_q"] > 12
    assert loss_and_gradients(model, packed)[0] == pytest.approx(loss_and_gradients(model, padded)[0], abs=1e-5)


@pytest.mark.parametrize("family", sorted(CANNOT))
def test_a_family_that_cannot_is_left_as_it_was(family):
    encoder = AutoModel.from_config(FAMILIES[family]())
    before = encoder.config._attn_implementation
    assert find_first_position(encoder) is None
    assert encoder.config._attn_implementation == before
    assert encoder.training


@pytest.mark.parametrize("kind", [FNetConfig, SplinterConfig, XmodConfig], ids=lambda kind: kind.model_type)
def test_a_family_that_fails_in_its_own_way_is_left_as_it_was(kind):
    encoder = AutoModel.from_config(kind(**SMALL_WITH_FEED_FORWARD))
    encoder.embeddings.eval()
    before = encoder.config._attn_implementation
    assert find_first_position(encoder) is None
    assert encoder.config._attn_implementation == before
    assert (encoder.training, encoder.embeddings.training) == (True, False)


def test_an_encoder_of_few_positions_is_still_asked():
    assert find_first_position(BertModel(tiny_bert_config(max_position_embeddings=4))) == 0
    assert find_first_position(BertModel(tiny_bert_config(max_position_embeddings=2))) is None


def test_flash_attention_stays_and_gets_the_bounds(tokenizer):
    encoder = AutoModel.from_config(FAMILIES["roberta"]())
    encoder.config._attn_implementation = "flash_attention_2"
    assert find_first_position(encoder) == 2
    assert encoder.config._attn_implementation == "flash_attention_2"
    bounds = torch.tensor([0, 3, 4, 9, 11])
    given = bounds_for_attention(encoder, bounds, packing())
    assert set(given) == {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k"}
    assert (given["max_length_q"], given["cu_seq_lens_k"].dtype) == (5, torch.int32)


def test_no_operation_on_a_packed_row_squares_its_length(tokenizer):
    """As a mask over all tokens of the batch would, which ModernBERT's local attention asks for."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            for made in output if isinstance(output, tuple) else (output,):
                if isinstance(made, torch.Tensor):
                    self.elements = max(self.elements, made.numel())
            return output

    for family in ("bert", "modernbert"):
        model = model_of(family)
        first = model.allow_padding_free()
        packed = SentenceCollator(tokenizer, first_position=first)([{"text": text} for text in sentences(60, seed=3)])
        tokens = packed["input_ids"].numel()
        with Largest() as largest, torch.no_grad():
            model(**packed)
        assert largest.elements < tokens**2 / 2


def test_an_encoder_that_lets_sentences_see_each_other_is_found_out(monkeypatch):
    """Such as one that builds its own attention in spite of what it says of itself."""
    monkeypatch.setattr("mocose_hf.models.sequence_packing.bounds_for_attention", lambda *args: {})
    encoder = BertModel(tiny_bert_config())
    assert find_first_position(encoder) is None
    assert encoder.config._attn_implementation == "sdpa"


def test_key_views_of_other_lengths_are_packed_apart(tokenizer):
    model = model_of("roberta")
    first = model.allow_padding_free()
    texts, key_texts = sentences(5, seed=3), [" ".join(sentences(2, seed=s)) for s in range(5)]
    rows = [
        {"text": t, "key_text": k, "sentence_id": i} for i, (t, k) in enumerate(zip(texts, key_texts, strict=True))
    ]
    packed = SentenceCollator(tokenizer, first_position=first)(rows)
    assert packed["key_input_ids"].shape != packed["input_ids"].shape
    padded = SentenceCollator(tokenizer)(rows)
    for name in ("", "key_"):
        padded[f"{name}input_ids"].masked_fill_(padded[f"{name}attention_mask"] == 0, 1)
    expected, found = model(**padded), model(**packed)
    torch.testing.assert_close(found.key_embeddings, expected.key_embeddings, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=0)
    assert found.sentence_ids.tolist() == list(range(5))


def test_padded_batches_still_give_the_same_bits(tokenizer):
    model = model_of("bert")
    before = model(**random_batch()).query_embeddings
    model.allow_padding_free()
    assert model.mocose.encoder.config._attn_implementation == ATTENTION
    assert torch.equal(model(**random_batch()).query_embeddings, before)


def test_a_packed_batch_without_allow_padding_free_raises_an_error(tokenizer):
    model = model_of("bert")
    packed = SentenceCollator(tokenizer, first_position=0)([{"text": t} for t in sentences(4)])
    with pytest.raises(ValueError, match=r"is sdpa; call `model\.allow_padding_free"):
        model(**packed)


def test_compiled_graphs_give_the_same_loss(tokenizer):
    """Graphs are captured and run as they are; a graph may not hear the hooks of the last layer."""
    model = model_of("bert")
    first = model.allow_padding_free()
    compiled = torch.compile(model, backend="eager")
    for seed in (3, 4):
        for batch in both_batches(tokenizer, model, first, sentences(6, seed=seed)):
            torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_ends_with_the_same_weights_as_on_padded_batches(tmp_path, tokenizer, accumulation):
    def train(name: str, padding_free: bool) -> MoCoSEForPreTraining:
        model = tiny_model(encoder_dropout_prob=0.0, head_dropout_prob=0.0)
        trainer = make_trainer(
            tmp_path / name,
            tokenizer,
            model,
            padding_free=padding_free,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
        )
        trainer.train()
        assert ("cu_seq_lens_q" in next(iter(trainer.get_train_dataloader()))) == padding_free
        return model

    padded, packed = train("padded", False).state_dict(), train("packed", True).state_dict()
    for name, value in padded.items():
        torch.testing.assert_close(packed[name], value, atol=1e-5, rtol=0, msg=name)


def test_what_is_saved_and_scored_knows_nothing_of_packing(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, padding_free=True, pairs=scored_pairs())
    trainer.train()
    scored = trainer.evaluate()["eval_dev_spearman"]
    trainer.save_model(str(tmp_path / "saved"))
    assert ATTENTION not in (tmp_path / "saved" / "config.json").read_text()
    model = MoCoSEModel.from_pretrained(tmp_path / "saved").eval()
    assert model.encoder.config._attn_implementation == "sdpa"
    assert torch.equal(model.encode(sentences(3), tokenizer), trainer.model.encode(sentences(3), tokenizer))
    assert scored == pytest.approx(
        make_trainer(tmp_path, tokenizer, trainer.model, pairs=scored_pairs()).evaluate()["eval_dev_spearman"]
    )


def test_a_killed_run_on_packed_batches_ends_in_the_same_bits(tmp_path, tokenizer):
    whole = run(tmp_path / "whole", tokenizer, padding_free=True)
    resumed = run(tmp_path / "resumed", tokenizer, kills=[(6,)], padding_free=True)
    last = f"checkpoint-{whole.state.max_steps}"
    assert resumed.state.max_steps == whole.state.max_steps
    assert differences(tmp_path / "whole" / last, tmp_path / "resumed" / last) == []


def test_a_family_that_cannot_says_so_and_pads(tmp_path, tokenizer, told):
    torch.manual_seed(0)
    config = MoCoSEConfig(encoder_config=FAMILIES["mpnet"](), queue_size=16, queue_init_size=4)
    trainer = make_trainer(tmp_path, tokenizer, MoCoSEForPreTraining(config), padding_free=True)
    assert "`padding_free` has no effect: the attention of mpnet encoders" in told.text
    assert "attention_mask" in next(iter(trainer.get_train_dataloader()))
    trainer.train()


def test_a_collator_of_the_users_own_is_not_overruled(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="`padding_free` packs by the trainer's own collator"):
        MoCoSETrainer(
            model=tiny_model(),
            args=training_arguments(tmp_path, padding_free=True),
            train_dataset=Dataset.from_dict({"text": sentences(24)}),
            data_collator=SentenceCollator(tokenizer),
        )


def test_noise_that_depends_on_the_length_of_the_batch_raises_an_error(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="`neftune_noise_alpha` scales its noise by the length of the batch"):
        make_trainer(tmp_path, tokenizer, padding_free=True, neftune_noise_alpha=5.0)
    make_trainer(tmp_path, tokenizer, neftune_noise_alpha=5.0)
