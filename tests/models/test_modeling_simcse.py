"""SimCSE in the trainer, against a slow loop and against sentence-transformers' loss."""

from dataclasses import replace

import pytest
import torch
from builders import random_batch, tiny_bert_config
from processes import parallel_runs_agree
from safetensors.torch import load_file
from slow_simcse import simcse_model, slow_loss
from torch import nn
from trainers import make_trainer
from trajectories import follow
from transformers import AutoModel, AutoModelForPreTraining, BertModel

from mocose_hf import MoCoSEForPreTraining
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.loading import PretrainedEncoder
from mocose_hf.models.modeling_simcse import SimCSE, SimCSEConfig
from mocose_hf.models.view_augmentation import Augmentation
from mocose_hf.models.views import View


def test_trainer_follows_a_slow_loop(tmp_path):
    model = simcse_model(encoder_dropout_prob=0.0)
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    encoder = BertModel(model.config.encoder_config, add_pooling_layer=False)
    encoder.load_state_dict(model.mocose.encoder.state_dict())
    dense = nn.Linear(32, 32)
    dense.load_state_dict(model.pooler.state_dict())
    encoder.double(), dense.double()
    batches = [tuple(random_batch(seed, rows=5).values()) for seed in range(6)]

    optimizer = torch.optim.AdamW([*encoder.parameters(), *dense.parameters()], lr=1e-3, weight_decay=0.0)
    expected = []
    for input_ids, attention_mask in batches:
        passes = [encoder(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0] for _ in range(2)]
        loss = slow_loss(*(torch.tanh(dense(first_tokens)) for first_tokens in passes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    losses = follow(model, batches, tmp_path, weight_decay=0.0)

    assert losses == pytest.approx(expected, abs=1e-5)
    for ours, theirs in ((model.mocose.encoder, encoder), (model.pooler, dense)):
        theirs = dict(theirs.named_parameters())
        for name, value in ours.named_parameters():
            if "self.key.bias" not in name:  # its gradient is zero but for rounding, which Adam makes large
                torch.testing.assert_close(value.double(), theirs[name], atol=1e-5, rtol=0, msg=name)


def test_loss_and_gradient_are_those_of_sentence_transformers():
    losses = pytest.importorskip("sentence_transformers.losses")
    generator = torch.Generator().manual_seed(1)
    ours = [torch.randn(7, 32, generator=generator, requires_grad=True) for _ in range(2)]
    theirs = [view.detach().clone().requires_grad_() for view in ours]
    model = simcse_model()
    output = model.contrast(*(nn.functional.normalize(view, dim=-1) for view in ours))
    expected = losses.MultipleNegativesRankingLoss(model=None, scale=20.0).compute_loss_from_embeddings(theirs, None)
    torch.testing.assert_close(output.loss, expected, atol=1e-6, rtol=0)
    output.loss.backward()
    expected.backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=0)


def test_both_passes_have_dropout_masks_of_their_own_and_gradient():
    model = simcse_model(encoder_dropout_prob=0.1).train()
    batch = random_batch()
    output = model(**batch)
    assert not torch.equal(output.query_embeddings, output.key_embeddings)
    for passed in (output.query_embeddings, output.key_embeddings):
        gradient = torch.autograd.grad(passed[:, 0].sum(), model.get_input_embeddings().weight, retain_graph=True)[0]
        assert gradient.abs().sum() > 0
    calls = []
    model.mocose.encoder.register_forward_hook(lambda *_: calls.append(1))
    model(**batch).loss.backward()
    assert len(calls) == 2


def test_there_is_no_target_no_head_and_no_parameter_without_gradient():
    model = simcse_model().train()
    assert {name for name, _ in model.named_children()} == {"mocose", "pooler"}
    assert list(model.buffers()) == list(model.mocose.buffers())
    assert model.queues() == model.momentum_pairs() == []
    encoder = BertModel(model.config.encoder_config, add_pooling_layer=False)
    dense = 32 * 32 + 32
    assert model.num_parameters() == encoder.num_parameters() + dense
    model(**random_batch()).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_new_dense_layer_stands_over_the_encoder_whatever_pooler_it_has():
    encoder = BertModel(tiny_bert_config())
    with torch.no_grad():
        encoder.pooler.dense.bias.fill_(3.0)
    model = SimCSE.from_encoder(PretrainedEncoder(encoder, encoder.pooler.dense, "cls"))
    assert not model.pooler.bias.any()
    assert torch.equal(model.get_input_embeddings().weight, encoder.get_input_embeddings().weight)


def test_evaluation_leaves_the_dense_layer_out():
    model = simcse_model().eval()
    batch = random_batch()
    encoded = model.mocose(**batch)
    assert torch.equal(encoded.pooler_output, encoded.last_hidden_state[:, 0])


def test_the_log_has_no_metrics_of_a_target(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, simcse_model(), max_steps=2, logging_steps=1)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 2
    assert "contrastive_accuracy" in lines[0]
    assert not {"ema_decay", "queue_fill", "d_trace", "current_d_trace"} & lines[0].keys()


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"queue_size": 8}, "queue_size"),
        ({"num_predictor_layers": 1}, "num_predictor_layers"),
        ({"share_embeddings": True}, "share_embeddings"),
        ({"in_batch_negatives": False}, "in_batch_negatives"),
        ({"queue_window": "newest"}, "queue_window"),
        ({"relation_weight": 1.0}, "relation_weight"),
    ],
)
def test_options_of_target_and_queue_raise_an_error(config, name):
    with pytest.raises(ValueError, match=f"`{name}` is no field of SimCSEConfig"):
        simcse_model(**config)
    assert name not in SimCSEConfig.option_names()


def test_arguments_of_a_target_raise_an_error(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"`ema_decay` is 0\.5, but this simcse loss has no target"):
        make_trainer(tmp_path, tokenizer, simcse_model(), ema_decay=0.5)


def test_a_saved_model_loads_again_and_its_plain_encoder_too(tmp_path, tokenizer):
    model = simcse_model().eval()
    model.save_pretrained(tmp_path / "whole")
    export_sentence_encoder(model, tokenizer, tmp_path / "plain")
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path / "whole")
    assert type(loaded) is SimCSE
    state = load_file(tmp_path / "whole" / "model.safetensors")
    assert not [name for name in state if name.startswith(("target.", "predictor.", "projection_head."))]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    batch = random_batch()
    wanted = model.mocose(**batch)
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "whole").eval()(**batch).pooler_output, wanted[1])
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "plain").eval()(**batch)[0], wanted[0])


def test_packed_batches_give_the_loss_of_padded_ones(tmp_path, tokenizer):
    ends = []
    for padding_free in (False, True):
        model = simcse_model(encoder_dropout_prob=0.0)
        fields = {"max_steps": 2, "logging_steps": 1, "padding_free": padding_free}
        trainer = make_trainer(tmp_path, tokenizer, model, **fields)
        trainer.train()
        ends.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


def test_collapse_remedies_of_simcse_name_no_target():
    assert "ema_decay" in MoCoSEForPreTraining.collapse_remedies
    assert "ema_decay" not in SimCSE.collapse_remedies


def test_an_augmented_second_pass_carries_gradient_into_the_word_embeddings(monkeypatch):
    model = simcse_model().train()
    model.augmentation = Augmentation(embedding_noise=1e-3, view="key")
    first_pass = model.encode_queries
    queries = []

    def without_gradient_in_the_first_pass(view):
        queries.append(first_pass(view))
        return queries[-1].detach() if len(queries) == 1 else queries[-1]

    monkeypatch.setattr(model, "encode_queries", without_gradient_in_the_first_pass)
    model(**random_batch()).loss.backward()
    assert len(queries) == 2
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_the_attack_leaves_both_passes_their_gradient():
    """Its gradient equals that of training on the perturbed embeddings; dropout is off."""
    model = simcse_model(encoder_dropout_prob=0.0).train()
    batch = random_batch()
    point = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    view = View(batch["input_ids"], batch["attention_mask"])
    keys = model.encode_keys(view)
    clean = model.contrast(model.encode_queries(replace(view, inputs_embeds=point)), keys.detach()).loss
    (gradient,) = torch.autograd.grad(clean, point)
    moved = model.get_input_embeddings()(batch["input_ids"]) + 1e-2 * gradient.sign()
    model.contrast(model.encode_queries(replace(view, inputs_embeds=moved)), keys).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    model.augmentation = Augmentation(fgsm_epsilon=1e-2)
    output = model(**batch)
    output.loss.backward()
    assert output.loss > clean
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_weights_of_two_processes_equal_those_of_one(tmp_path, encoder_dir):
    parallel_runs_agree(tmp_path, encoder_dir, "simcse")
