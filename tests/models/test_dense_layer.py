"""The fixed dense layer behind the pooling, and whitening."""

import json

import pytest
import torch
from builders import sentences, tiny_bert_config, tiny_model, write_tokenizer
from torch import nn
from trainers import make_trainer, training_arguments
from transformers import BertModel

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, load_tokenizer
from mocose_hf.data.streaming import SentenceStream
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.dense_layer import DenseLayer
from mocose_hf.models.loading import encoder_sha256, load_encoder
from mocose_hf.models.modeling_simcse import SimCSE
from mocose_hf.training.queue_prefill import draw_sentences

NO_HEADS = {"use_pooler": False, "num_projection_layers": 0, "num_predictor_layers": 0}


def skewed(count: int = 400, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(width, width, generator=generator))[0] * torch.arange(1, width + 1)
    return 3.0 + torch.randn(count, width, generator=generator) @ mixing


@pytest.mark.parametrize("degree", [0.0, 0.5, 1.0])
def test_whitening_equalises_the_variances_by_its_degree_and_keeps_the_length(degree):
    rows, dense = skewed(), DenseLayer(6)
    dense.whiten(rows, degree)
    white = dense(rows)
    torch.testing.assert_close(white.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    before, after = (torch.linalg.eigvalsh(torch.cov(part.T, correction=0)) for part in (rows, white))
    expected = before ** (1 - degree)
    torch.testing.assert_close(after, expected * before.sum() / expected.sum(), rtol=1e-3, atol=1e-4)


def test_whitening_a_white_embedding_changes_nothing_and_composes_with_an_earlier_layer():
    rows, dense = skewed(), DenseLayer(6)
    dense.weight.copy_(torch.diag(torch.arange(6.0, 0.0, -1.0)))
    dense.whiten(dense(rows), 1.0)
    white = dense(rows)
    dense.whiten(white, 1.0)
    torch.testing.assert_close(dense(rows), white, atol=1e-3, rtol=1e-3)


def test_a_layer_with_an_activation_cannot_be_whitened():
    with pytest.raises(ValueError, match=r"whitening.*tanh.*set it to 0"):
        DenseLayer(6, "tanh").whiten(skewed(), 1.0)


@pytest.mark.parametrize("kind", [MoCoSEForPreTraining, SimCSE])
def test_training_starts_with_the_whitened_embedding_of_the_training_text_and_keeps_the_layer(
    tmp_path, tokenizer, encoder_dir, kind
):
    model = kind.from_encoder_pretrained(encoder_dir, pooling_mode="mean", whitening=0.5)
    text = sentences(40)
    plain = load_encoder(str(encoder_dir), default_pooling="mean")
    given = MoCoSEForPreTraining.from_encoder(plain).encode(text, tokenizer)
    drawn = given[draw_sentences(40, 4096, 3)].double()
    trainer = make_trainer(tmp_path, tokenizer, model, count=40, seed=3, learning_rate=0.0, max_steps=1)
    trainer.train()
    found = model.encode(text, tokenizer)
    variances, axes = torch.linalg.eigh(torch.cov(drawn.T, correction=0))
    variances = variances.clamp(min=1e-4 * float(variances.max()))
    expected = (given.double() - drawn.mean(0)) @ axes @ torch.diag(variances**-0.25) @ axes.T
    similarity = nn.functional.cosine_similarity(found.double(), expected)
    torch.testing.assert_close(similarity, torch.ones(40, dtype=torch.float64), atol=1e-4, rtol=0)
    layer = {name: value.clone() for name, value in model.mocose.dense.state_dict().items()}

    model.save_pretrained(tmp_path / "whole")
    again = kind.from_pretrained(tmp_path / "whole")
    assert torch.equal(again.encode(text, tokenizer), found)
    trainer = make_trainer(tmp_path / "more", tokenizer, again, count=40, learning_rate=1e-2, max_steps=2)
    again.config.whitening = 0.0
    trainer.train()
    assert all(torch.equal(value, layer[name]) for name, value in again.mocose.dense.state_dict().items())
    assert not torch.equal(again.encode(text, tokenizer), found)


def test_both_branches_and_the_first_queue_see_the_whitened_embedding(tmp_path, tokenizer, encoder_dir):
    options = NO_HEADS | {"encoder_dropout_prob": 0.0, "queue_size": 8, "mask_same_sentence": True}
    model = MoCoSEForPreTraining.from_encoder_pretrained(encoder_dir, pooling_mode="mean", whitening=1.0, **options)
    make_trainer(tmp_path, tokenizer, model, max_steps=1, learning_rate=0.0, queue_prefill=True, ema_decay=1.0).train()
    batch = tokenizer(sentences(4), padding=True, return_tensors="pt")
    output = model.eval()(**batch, sentence_ids=torch.arange(4))
    expected = nn.functional.normalize(model.encode(sentences(4), tokenizer), dim=-1)
    for embeddings in (output.query_embeddings, output.key_embeddings):
        torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    prefilled = nn.functional.normalize(model.encode(sentences(24), tokenizer), dim=-1)
    nearest = (model.queue.stored_keys() @ prefilled.T).max(1).values
    torch.testing.assert_close(nearest, torch.ones(8), atol=1e-4, rtol=0)


def test_a_resumed_run_keeps_the_layer_and_ends_in_the_same_bits(tmp_path, tokenizer):
    def train(folder, **more):
        model = tiny_model(whitening=0.75, pooling_mode="mean")
        trainer = make_trainer(folder, tokenizer, model, save_strategy="steps", save_steps=2, max_steps=4, **more)
        return model, trainer

    whole, trainer = train(tmp_path / "whole")
    trainer.train()
    rest, trainer = train(tmp_path / "rest")
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(value, rest.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("normalize", [False, True])
def test_the_export_is_the_same_encoder_in_sentence_transformers_and_as_a_new_start(tmp_path, tokenizer, normalize):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = tiny_model(pooling_mode="mean", dense_activation="identity", normalize=normalize, **NO_HEADS)
    text = sentences(9)
    model.mocose.dense.whiten(torch.randn(50, 32), 1.0)
    expected = model.encode(text, tokenizer)
    export_sentence_encoder(model, tokenizer, tmp_path)
    modules = [module["path"] for module in json.loads((tmp_path / "modules.json").read_text())]
    assert modules == ["", "1_Pooling", "2_Dense", *(["3_Normalize"] if normalize else [])]
    loaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    torch.testing.assert_close(torch.as_tensor(loaded.encode(text)), expected, atol=1e-5, rtol=1e-4)

    source = load_encoder(str(tmp_path))
    again = MoCoSEForPreTraining.from_encoder(source, **NO_HEADS)
    torch.testing.assert_close(again.encode(text, tokenizer), expected)
    before = encoder_sha256(str(tmp_path))
    again.mocose.dense.bias += 1.0
    export_sentence_encoder(again, tokenizer, tmp_path)
    assert encoder_sha256(str(tmp_path)) != before


def test_the_tanh_layer_of_an_encoder_is_kept(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules

    write_tokenizer(tmp_path / "bert")
    torch.manual_seed(1)
    BertModel(tiny_bert_config()).save_pretrained(tmp_path / "bert")
    transformer = modules.Transformer(str(tmp_path / "bert"))
    parts = [transformer, modules.Pooling(32), modules.Dense(32, 32), modules.Normalize()]
    original = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    original.save(str(tmp_path / "model"))
    source = load_encoder(str(tmp_path / "model"))
    assert source.dense.activation == "tanh"
    found = MoCoSEForPreTraining.from_encoder(source).encode(sentences(5), load_tokenizer(str(tmp_path / "model")))
    torch.testing.assert_close(found, torch.as_tensor(original.encode(sentences(5))), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="dense layer with tanh"):
        MoCoSEForPreTraining.from_encoder(source, whitening=0.5)


def test_a_dense_module_that_changes_the_width_is_left_out_with_a_warning(tmp_path, tokenizer, caplog):
    model = tiny_model(pooling_mode="mean", dense_activation="identity", **NO_HEADS)
    export_sentence_encoder(model, tokenizer, tmp_path)
    file = tmp_path / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"out_features": 16}))
    assert load_encoder(str(tmp_path)).dense is None
    assert "Dense" in caplog.text


def test_whitening_needs_sentences_to_draw_from(tmp_path, tokenizer):
    file = tmp_path / "text.txt"
    file.write_text("\n".join(sentences(24)), encoding="utf-8")
    args = training_arguments(tmp_path / "out", max_steps=1)
    with pytest.raises(ValueError, match="`whitening` draws sentences at random"):
        MoCoSETrainer(tiny_model(whitening=0.5), args, SentenceStream(str(file)), processing_class=tokenizer)
