import subprocess
import sys

import pytest
import torch
from builders import random_batch, sentences, tiny_bert_config, tiny_model
from families import CHECKPOINTING_FAMILIES, FAMILIES
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    BertModel,
    T5Config,
)

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, MoCoSEModel, info_nce_loss
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.views import View

UNPACKED = ("deberta-v2", True)


def differing(first: dict, second: dict) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.fixture(scope="module")
def saved_families(tmp_path_factory):
    """Each family's model saved after its target and queue have moved, with its outputs before."""
    folder = tmp_path_factory.mktemp("families")
    for name, encoder_config in FAMILIES.items():
        torch.manual_seed(1)
        config = MoCoSEConfig(encoder_config=encoder_config(), queue_size=12, queue_init_size=4, pooling_mode="mean")
        model = MoCoSEForPreTraining(config)
        with torch.no_grad():
            for parameter in model.mocose.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.update_target(0.5)
        model.queue.enqueue(torch.nn.functional.normalize(torch.randn(5, 32), dim=-1), torch.arange(5), step=1)
        model.save_pretrained(folder / name)
        model.eval()
        batch = random_batch()
        with torch.no_grad():
            output, embedded = model(**batch), model.mocose(**batch)
        expected = {"logits": output.logits, "loss": output.loss, "pooler_output": embedded.pooler_output}
        state = {n: v for n, v in model.state_dict().items() if not n.startswith("target.encoder.embeddings.")}
        save_file(expected | state, folder / f"{name}.expected.safetensors")
    return folder


FRESH_PROCESS = """
import sys
sys.path.insert(0, "tests/helpers")
import torch
from pathlib import Path
from builders import random_batch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining
import mocose_hf

for directory in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
    expected = load_file(f"{directory}.expected.safetensors")
    light, light_info = AutoModel.from_pretrained(directory, output_loading_info=True)
    whole, whole_info = AutoModelForPreTraining.from_pretrained(directory, output_loading_info=True)
    assert type(light) is mocose_hf.MoCoSEModel and type(whole) is mocose_hf.MoCoSEForPreTraining
    assert not any(info[k] for info in (light_info, whole_info) for k in ("missing_keys", "unexpected_keys"))
    batch = random_batch()
    with torch.no_grad():
        output, embedded = whole.eval()(**batch), light.eval()(**batch)
    found = {"logits": output.logits, "loss": output.loss, "pooler_output": embedded.pooler_output}
    found |= whole.state_dict()
    different = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    sys.stdout.write(f"{directory.name} {different}\\n")
"""


@pytest.mark.slow
def test_nine_families_load_in_a_fresh_process_bit_for_bit(saved_families):
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(saved_families)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{name} []" for name in sorted(FAMILIES)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_starts_from_its_saved_encoder_and_trains(family, tmp_path):
    torch.manual_seed(2)
    encoder = AutoModel.from_config(FAMILIES[family]()).eval()
    encoder.save_pretrained(tmp_path)
    model = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path), queue_size=8, queue_init_size=4).eval()
    batch = random_batch()
    with torch.no_grad():
        expected = encoder(**batch).last_hidden_state
        assert torch.equal(model.mocose(**batch).last_hidden_state, expected)
        assert torch.equal(model.mocose(**batch).pooler_output, expected[:, 0])
    model.train()(**batch).loss.backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p, _ in model.momentum_pairs())


def test_output_has_the_promised_shapes_norms_and_loss():
    model = tiny_model(projection_dim=24).eval()
    batch = random_batch()
    output = model(**batch, sentence_ids=torch.arange(4))
    assert output.logits.shape == (4, 4 + 16)
    assert output.logits.isfinite().sum(1).tolist() == [4 + 4] * 4  # the queue has 16 slots, of which 4 are filled
    assert output.query_embeddings.shape == output.key_embeddings.shape == (4, 24)
    for embeddings in (output.query_embeddings, output.key_embeddings):
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(4))
    assert output.query_embeddings.requires_grad
    assert not output.key_embeddings.requires_grad
    assert output.sentence_ids.tolist() == [0, 1, 2, 3]
    expected = info_nce_loss(output.query_embeddings, output.key_embeddings, model.queue.stored_keys(), 0.05)
    torch.testing.assert_close(output.loss, expected)


def test_logits_are_of_the_keys_and_then_of_the_slots_of_the_queue():
    model = tiny_model(queue_size=6).eval()
    for step in (1, 2, 3):  # the ring is half way round for the second time
        model.queue.enqueue(torch.nn.functional.normalize(torch.randn(3, 32), dim=-1), step=step)
        output = model(**random_batch())
        of_keys, of_queue = output.logits.split([4, 6], dim=1)
        torch.testing.assert_close(of_keys, output.query_embeddings @ output.key_embeddings.T / 0.05)
        newest_first = output.query_embeddings @ model.queue.stored_keys().T / 0.05
        torch.testing.assert_close(of_queue[:, model.queue.newest_first()], newest_first)


@pytest.mark.parametrize("chunked_from", [1, 1000])
def test_an_empty_queue_gives_the_loss_and_the_gradient_of_the_batch_alone(monkeypatch, chunked_from):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", chunked_from)
    empty, without = (tiny_model(queue_size=size, queue_init_size=0).eval() for size in (7, 0))
    without.load_state_dict({n: v for n, v in empty.state_dict().items() if "queue" not in n}, strict=False)
    losses = [model(**random_batch()).loss for model in (empty, without)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    for (name, one), other in zip(empty.named_parameters(), without.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=name, atol=1e-5, rtol=1e-5)


def test_forward_changes_no_state():
    model = tiny_model().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = model(**random_batch()), model(**random_batch())
    assert torch.equal(first.logits, second.logits)
    model.train()(**random_batch()).loss.backward()
    assert differing(before, model.state_dict()) == []


def test_key_view_sees_its_own_tokens_if_given():
    model = tiny_model().eval()
    query, key = random_batch(0), random_batch(1, length=9)
    both = model(**query, **{f"key_{name}": value for name, value in key.items()})
    assert torch.equal(both.query_embeddings, model(**query).query_embeddings)
    assert torch.equal(both.key_embeddings, model(**key).key_embeddings)


def test_branches_differ_by_dropout_alone_at_the_start():
    model = tiny_model(num_predictor_layers=0)
    batch = random_batch()
    noisy = model.train()(**batch)
    assert (noisy.query_embeddings - noisy.key_embeddings).abs().max() > 1e-3
    quiet = model.eval()(**batch)
    torch.testing.assert_close(quiet.query_embeddings, quiet.key_embeddings)


def test_target_of_a_new_model_is_a_frozen_copy_of_the_online_branch():
    model = tiny_model()
    assert all(torch.equal(target, online) for target, online in model.momentum_pairs())
    assert not any(target.requires_grad for target, _ in model.momentum_pairs())
    assert all(online.requires_grad for _, online in model.momentum_pairs())


def test_update_target_moves_by_the_decay():
    model = tiny_model()
    before = [target.clone() for target, _ in model.momentum_pairs()]
    with torch.no_grad():
        for _, online in model.momentum_pairs():
            online.add_(1.0)
    model.update_target(0.75)
    for old, (target, online) in zip(before, model.momentum_pairs(), strict=True):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * online)
    model.update_target(0.0)
    assert all(torch.equal(target, online) for target, online in model.momentum_pairs())


def test_embeddings_are_one_layer_for_both_branches_and_trained_by_the_online_one_alone():
    model = tiny_model()
    assert model.target["encoder"].embeddings is model.mocose.encoder.embeddings
    model(**random_batch()).loss.backward()
    assert model.mocose.encoder.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("share", [True, False])
def test_embedding_sharing_survives_saving(tmp_path, share):
    model = tiny_model(share_embeddings=share)
    model.save_pretrained(tmp_path)
    loaded = MoCoSEForPreTraining.from_pretrained(tmp_path)
    shared = loaded.target["encoder"].embeddings is loaded.mocose.encoder.embeddings
    assert shared == share
    with torch.no_grad():
        loaded.mocose.encoder.embeddings.word_embeddings.weight.add_(1.0)
    online = loaded.mocose.encoder.embeddings.word_embeddings.weight
    target = loaded.target["encoder"].embeddings.word_embeddings.weight
    assert torch.equal(online, target) == share
    loaded.update_target(0.0)
    assert torch.equal(online, target)


def test_target_is_frozen_after_from_pretrained(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    for loaded in (MoCoSEForPreTraining.from_pretrained(tmp_path), AutoModelForPreTraining.from_pretrained(tmp_path)):
        assert not any(target.requires_grad for target, _ in loaded.momentum_pairs())
        assert all(p.requires_grad for p in loaded.mocose.parameters())


def test_weights_stay_in_float32_whatever_dtype_is_asked_for(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = MoCoSEForPreTraining.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {v.dtype for v in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert differing(model.state_dict(), loaded.state_dict()) == []
    assert MoCoSEModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, "auto"])
def test_a_queue_in_bfloat16_stays_so_through_saving_and_loading(tmp_path, dtype):
    model = tiny_model(queue_dtype="bfloat16")
    model.queue.enqueue(torch.nn.functional.normalize(torch.randn(5, 32), dim=-1), torch.arange(5), step=1)
    for folder in (tmp_path / "first", tmp_path / "second"):
        model.save_pretrained(folder)
        assert load_file(folder / "model.safetensors")["queue.rows"].dtype == torch.bfloat16
        loaded = MoCoSEForPreTraining.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype}))
        assert loaded.queue.rows.dtype == torch.bfloat16
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        assert differing(model.state_dict(), loaded.state_dict()) == []
        model = loaded


def test_a_queue_in_bfloat16_is_drawn_anew_if_a_light_checkpoint_has_none(tmp_path):
    tiny_model(queue_dtype="bfloat16").mocose.save_pretrained(tmp_path)
    rows = MoCoSEForPreTraining.from_pretrained(tmp_path).queue.rows
    assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(rows[:4].float().norm(dim=-1), torch.ones(4), atol=2**-8, rtol=0)


@pytest.mark.parametrize("chunked_from", [1, 1000])
def test_the_loss_over_a_queue_in_bfloat16_is_that_of_its_rounded_rows_in_float32(monkeypatch, chunked_from):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", chunked_from)
    model = tiny_model(queue_dtype="bfloat16").eval()
    output = model(**random_batch())
    assert output.loss.dtype == torch.float32
    rows = model.queue.stored_keys().float()
    expected = info_nce_loss(output.query_embeddings, output.key_embeddings, rows, 0.05)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_loss_and_embeddings_are_float32_under_bfloat16_autocast():
    model = tiny_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**random_batch())
    assert {output.loss.dtype, output.query_embeddings.dtype, output.key_embeddings.dtype} == {torch.float32}
    output.loss.backward()


def test_whole_model_from_a_light_checkpoint_has_a_fresh_queue_and_a_target_that_is_a_copy(tmp_path):
    tiny_model().mocose.save_pretrained(tmp_path)
    loaded = MoCoSEForPreTraining.from_pretrained(tmp_path)
    assert all(torch.equal(target, online) for target, online in loaded.momentum_pairs())
    negatives = loaded.queue.stored_keys()
    assert negatives.shape == (4, 32)
    torch.testing.assert_close(negatives.norm(dim=-1), torch.ones(4))
    assert (int(loaded.queue.pointer), int(loaded.queue.num_filled)) == (4, 4)
    assert loaded.queue.row_ids.tolist() == [-1] * 16
    assert all(torch.isfinite(v).all() for v in loaded.state_dict().values())


def test_checkpoint_holds_each_shared_tensor_once(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert not [name for name in names if name.startswith("target.encoder.embeddings.")]
    assert "mocose.encoder.embeddings.word_embeddings.weight" in names


def test_pooler_starts_from_the_encoders_own(tmp_path):
    torch.manual_seed(4)
    encoder = BertModel(tiny_bert_config())
    encoder.save_pretrained(tmp_path)
    model = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path))
    assert torch.equal(model.pooler.weight, encoder.pooler.dense.weight)
    assert torch.equal(model.target["pooler"].weight, encoder.pooler.dense.weight)


def test_new_training_from_a_mocose_directory_takes_encoder_pooler_and_pooling(tmp_path):
    old = tiny_model(pooling_mode="max")
    old.save_pretrained(tmp_path)
    new = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path), queue_size=8, queue_init_size=8)
    assert differing(old.mocose.state_dict(), new.mocose.state_dict()) == []
    assert torch.equal(old.pooler.weight, new.pooler.weight)
    assert new.config.pooling_mode == "max"
    assert new.queue.size == 8


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_heads_have_the_configured_number_of_layers(layers):
    model = tiny_model(num_projection_layers=layers, num_predictor_layers=layers)
    linears = [
        sum(isinstance(m, torch.nn.Linear) for m in head.modules())
        for head in (model.projection_head, model.predictor)
    ]
    assert linears == [layers, layers]
    assert model(**random_batch()).loss.isfinite()


def test_model_without_queue_contrasts_within_the_batch():
    output = tiny_model(queue_size=0, queue_init_size=0)(**random_batch())
    assert output.logits.shape == (4, 4)
    assert output.loss.isfinite()


@pytest.mark.parametrize(
    ("family", "packed"),
    [(name, packed) for name in CHECKPOINTING_FAMILIES for packed in (False, True) if (name, packed) != UNPACKED],
)
def test_activation_checkpointing_gives_the_same_gradients_and_keeps_fewer_numbers(tokenizer, family, packed):
    torch.manual_seed(0)
    settings = {"queue_size": 16, "queue_init_size": 4, "encoder_dropout_prob": 0.1}
    model = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=FAMILIES[family](), **settings)).train()
    first = model.allow_padding_free() if packed else None
    assert (first is not None) == packed
    batch = SentenceCollator(tokenizer, first_position=first)([{"text": text} for text in sentences(5, seed=3)])
    gradients, kept = [], []
    for _ in range(2):
        kept.append(0)
        torch.manual_seed(0)
        model.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: _count(saved, kept), lambda saved: saved):
            loss = model(**batch).loss
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.activation_checkpointing_enable()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    assert kept[1] < kept[0] / 2


def _count(saved: torch.Tensor, kept: list[int]) -> torch.Tensor:
    kept[-1] += saved.numel()
    return saved


def test_forward_encodes_its_view_by_each_branch():
    model, batch = tiny_model().eval(), random_batch()
    output = model(**batch)
    for encode, expected in (
        (model.encode_queries, output.query_embeddings),
        (model.encode_keys, output.key_embeddings),
    ):
        assert torch.equal(encode(View(**batch)), expected)


def test_equal_views_are_warned_of_unless_they_are_wanted(monkeypatch):
    said = []
    monkeypatch.setattr("mocose_hf.models.modeling_base.logger.warning_once", said.append)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    tiny_model()
    tiny_model(encoder_dropout_prob=0.0)
    assert said == []
    tiny_model(encoder=no_dropout)
    assert len(said) == 1
    assert "`encoder_dropout_prob`" in said[0]


def test_a_model_that_is_no_encoder_raises_a_one_line_error():
    sizes = {"vocab_size": 120, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    with pytest.raises(ValueError, match="needs an encoder"):
        MoCoSEForPreTraining(MoCoSEConfig(encoder_config=T5Config(**sizes)))


def test_encode_keeps_order_mode_and_padding_out_of_the_embedding(tokenizer):
    model = tiny_model(pooling_mode="mean").train()
    texts = ["a cat", "the old farmer sees two small birds", "bread"]
    together = model.encode(texts, tokenizer, batch_size=2)
    alone = torch.cat([model.mocose.encode([text], tokenizer) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    assert model.mocose.training
    assert torch.equal(
        model.encode(texts, tokenizer, normalize_embeddings=True).norm(dim=-1).round(decimals=5), torch.ones(3)
    )
    assert model.encode([], tokenizer).shape == (0, 32)


def test_one_sentence_gives_one_embedding(tokenizer):
    model = tiny_model()
    assert torch.equal(model.encode("a cat", tokenizer), model.encode(["a cat"], tokenizer)[0])


def test_embeddings_can_feed_a_layer_of_the_users_own(tokenizer):
    layer = torch.nn.Linear(32, 2)
    layer(tiny_model().encode(["a cat"], tokenizer)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementation_reaches_both_branches(tmp_path, attention):
    BertModel(tiny_bert_config()).save_pretrained(tmp_path)
    model = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path), attn_implementation=attention)
    for encoder in (model.mocose.encoder, model.target["encoder"]):
        assert encoder.config._attn_implementation == attention


def test_resized_vocabulary_survives_saving(tmp_path):
    model = tiny_model()
    model.resize_token_embeddings(130)
    model.save_pretrained(tmp_path)
    loaded = MoCoSEForPreTraining.from_pretrained(tmp_path)
    assert loaded.mocose.encoder.embeddings.word_embeddings.weight.shape == (130, 32)
    assert loaded.target["encoder"].embeddings is loaded.mocose.encoder.embeddings


def test_light_model_takes_the_options_of_its_encoder():
    model = tiny_model().mocose.eval()
    batch = random_batch()
    output = model(**batch, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    last_hidden_state, pooled = model(**batch, return_dict=False)[:2]
    assert torch.equal(last_hidden_state[:, 0], pooled)
