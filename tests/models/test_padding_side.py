"""A sentence has one embedding, whatever the batch, the padding side and the packing."""

import copy
import json

import pytest
import torch
from builders import sentences, tiny_bert_config, tiny_model
from datasets import Dataset
from families import FAMILIES
from packing import CAN, loss_and_gradients, model_of
from sentence_transformers import SentenceTransformer
from tokenizers.processors import TemplateProcessing
from trainers import BATCH, make_trainer, scored_pairs, training_arguments
from transformers import AutoTokenizer, BertModel, LlamaTokenizer

from mocose_hf import MoCoSETrainer, load_tokenizer
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.errors import InputError
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.pooling import POOLING_MODES


@pytest.fixture
def left_tokenizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.init_kwargs["padding_side"] = "left"
    return tokenizer


def pad_left(tokenizer, texts: list[str]) -> dict[str, torch.Tensor]:
    batch = dict(tokenizer(texts, padding=True, padding_side="left", return_tensors="pt"))
    assert (batch["attention_mask"][:, 0] == 0).any()
    return batch


@pytest.mark.parametrize("pooling_mode", POOLING_MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_do_not_depend_on_padding_side_and_packing(tokenizer, left_tokenizer, family, pooling_mode):
    model, texts = model_of(family, pooling_mode=pooling_mode), sentences(6, seed=3)
    rows = [{"text": text} for text in texts]
    loss, gradients = loss_and_gradients(model, SentenceCollator(tokenizer)(rows))
    batches = [SentenceCollator(left_tokenizer)(rows), pad_left(tokenizer, texts)]
    if family in CAN:
        batches.append(SentenceCollator(left_tokenizer, first_position=model.allow_padding_free())(rows))
    for batch in batches:
        other_loss, other_gradients = loss_and_gradients(model, batch)
        assert other_loss == pytest.approx(loss, abs=1e-5)
        for one, other in zip(gradients, other_gradients, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling_mode", POOLING_MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_does_not_depend_on_batch_and_padding_side(tokenizer, left_tokenizer, family, pooling_mode):
    model, texts = model_of(family, pooling_mode=pooling_mode), sentences(7, seed=3)
    with torch.no_grad():
        alone = torch.cat([model.mocose(**tokenizer(text, return_tensors="pt")).pooler_output for text in texts])
        together = model.mocose(**pad_left(tokenizer, texts)).pooler_output
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    for batch_size in (1, 3, 7):
        found = model.encode(texts, left_tokenizer, batch_size=batch_size)
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_the_collator_pads_on_the_right_whatever_the_tokenizer_says(tokenizer, left_tokenizer):
    rows = [{"text": text, "key_text": text[::-1]} for text in sentences(5)]
    wanted, found = SentenceCollator(tokenizer)(rows), SentenceCollator(left_tokenizer)(rows)
    assert {"attention_mask", "key_attention_mask"} <= wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_hidden_states_stay_where_their_tokens_are(tokenizer):
    model, texts = tiny_model().mocose.eval(), sentences(6, seed=3)
    right, left = tokenizer(texts, padding=True, return_tensors="pt"), pad_left(tokenizer, texts)
    for names in (("input_ids", "attention_mask"), ("inputs_embeds", "attention_mask")):
        outputs = []
        for batch in (right, left):
            batch = dict(batch) | {"inputs_embeds": model.get_input_embeddings()(batch["input_ids"])}
            outputs.append(model(**{name: batch[name] for name in names}, output_hidden_states=True))
        for wanted, found in zip(outputs[0].hidden_states, outputs[1].hidden_states, strict=True):
            assert torch.equal(found[left["attention_mask"] == 1], wanted[right["attention_mask"] == 1])
        assert torch.equal(outputs[0].pooler_output, outputs[1].pooler_output)
        last = outputs[1].last_hidden_state
        assert torch.equal(last, outputs[1].hidden_states[-1])


def test_positions_of_the_users_own_are_left_alone(tokenizer):
    model, left = tiny_model(pooling_mode="mean").mocose.eval(), pad_left(tokenizer, sentences(6, seed=3))
    positions = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    found = model(**left, position_ids=positions).pooler_output
    torch.testing.assert_close(found, model(**left).pooler_output, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", [{}, {"padding_free": True}, {"token_cutoff": 0.2, "augment_view": "both"}])
def test_training_and_score_do_not_depend_on_the_padding_side(tmp_path, tokenizer, left_tokenizer, options):
    ends = []
    for given in (tokenizer, left_tokenizer):
        trainer = make_trainer(tmp_path, given, tiny_model(), pairs=scored_pairs(), max_steps=3, **options)
        trainer.train()
        ends.append((trainer.model.state_dict(), trainer.evaluate()["eval_dev_spearman"]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(ends[0][0][name], value) for name, value in ends[1][0].items())


def test_batches_of_a_collator_of_the_users_own_may_be_padded_on_the_left(tmp_path, tokenizer):
    ends = []
    for side in ("right", "left"):

        def collate(rows, side=side):
            return dict(tokenizer([row["text"] for row in rows], padding=True, padding_side=side, return_tensors="pt"))

        trainer = MoCoSETrainer(
            model=tiny_model(encoder_dropout_prob=0.0, head_dropout_prob=0.0),
            args=training_arguments(tmp_path, max_steps=2),
            train_dataset=Dataset.from_dict({"text": sentences(3 * BATCH)}),
            data_collator=collate,
        )
        trainer.train()
        ends.append(trainer.model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-6, rtol=0, msg=name)


def test_a_loaded_tokenizer_pads_on_the_right(tmp_path, left_tokenizer):
    left_tokenizer.save_pretrained(tmp_path)
    BertModel(tiny_bert_config()).save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "left"
    assert load_tokenizer(str(tmp_path)).padding_side == "right"


@pytest.mark.parametrize("pooling_mode", POOLING_MODES)
def test_the_export_pads_on_the_right(tmp_path, left_tokenizer, pooling_mode):
    model, texts = tiny_model(pooling_mode=pooling_mode).eval(), sentences(6)
    export_sentence_encoder(model, left_tokenizer, tmp_path)
    assert left_tokenizer.padding_side == "left"
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["padding_side"] == "right"
    encoder = SentenceTransformer(str(tmp_path), device="cpu")
    together = encoder.encode(texts, batch_size=6, convert_to_tensor=True)
    alone = torch.stack([encoder.encode(text, convert_to_tensor=True) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together, model.encode(texts, left_tokenizer), atol=1e-6, rtol=0)


def test_the_export_pads_on_the_right_if_the_class_of_the_tokenizer_pads_on_the_left(tmp_path):
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", "▁", "a", "b"])}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[], pad_token="<unk>")
    assert tokenizer.padding_side == "left"
    assert "padding_side" not in tokenizer.init_kwargs
    export_sentence_encoder(tiny_model(), tokenizer, tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).padding_side == "right"


def test_a_tokenizer_without_masks_gets_them(tmp_path, tokenizer):
    maskless = copy.deepcopy(tokenizer)
    maskless.model_input_names = maskless.init_kwargs["model_input_names"] = ["input_ids"]
    model, texts = tiny_model(pooling_mode="mean").eval(), sentences(6, seed=3)
    assert "attention_mask" not in maskless(texts)
    rows = [{"text": text} for text in texts]
    found, wanted = (SentenceCollator(given)(rows) for given in (maskless, tokenizer))
    assert torch.equal(found["attention_mask"], wanted["attention_mask"])
    assert torch.equal(model.encode(texts, maskless), model.encode(texts, tokenizer))
    export_sentence_encoder(model, maskless, tmp_path)
    encoder = SentenceTransformer(str(tmp_path), device="cpu")
    torch.testing.assert_close(encoder.encode(texts, convert_to_tensor=True), model.encode(texts, tokenizer))
    assert "attention_mask" in load_tokenizer(str(tmp_path)).model_input_names


@pytest.mark.parametrize("first_position", [None, 0])
def test_a_sentence_without_a_token_raises_an_error(tokenizer, first_position):
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert bare("\u200b")["input_ids"] == []
    with pytest.raises(InputError, match="finds no token in the sentence"):
        SentenceCollator(bare, first_position=first_position)([{"text": "a cat"}, {"text": "\u200b"}])
    with pytest.raises(InputError, match="finds no token in the sentence"):
        tiny_model().encode(["a cat", "\u200b"], bare)
