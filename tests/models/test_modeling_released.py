"""Training as the authors' code does it, against references that share no code with it."""

import math

import pytest
import slow_released
import torch
from builders import random_batch, tiny_bert_config, tiny_model
from processes import parallel_runs_agree
from trainers import make_trainer
from trajectories import follow, follows_stored_run, model_of, our_name, reference_names, stored_run
from transformers import AutoModel, AutoModelForPreTraining

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models.loading import load_encoder
from mocose_hf.models.modeling_released import ReleasedMoCoSE, ReleasedMoCoSEConfig, ReleasedQueue
from mocose_hf.models.views import View


def released_model(seed: int = 0, encoder: dict | None = None, **config) -> ReleasedMoCoSE:
    torch.manual_seed(seed)
    dropouts = {"head_dropout_prob": 0.0, "encoder_dropout_prob": 0.0}
    settings = {"queue_size": 16, "queue_init_size": 4} | dropouts | config
    return ReleasedMoCoSE(ReleasedMoCoSEConfig(encoder_config=tiny_bert_config(**(encoder or {})), **settings))


def train_one_step(model, optimizer, batch):
    output = model(**batch)
    output.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return output


def larger_parameters(encoder_config, generator) -> dict[str, torch.Tensor]:
    """Weights of an online branch by the references' names, larger than fresh ones, so that every layer matters."""
    torch.manual_seed(3)
    start = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=encoder_config))
    state = start.state_dict()
    names = reference_names(start)
    return {
        name: state[our_name(name)] + 0.1 * torch.randn(state[our_name(name)].shape, generator=generator)
        for name in names
    }


@pytest.mark.parametrize("sizes", [(18, 4), (15, 0), (9, 9), (20, 5)], ids=str)
def test_trainer_follows_a_slow_loop_written_from_the_released_code(tmp_path, sizes):
    queue_size, queue_init_size = sizes
    generator = torch.Generator().manual_seed(5)
    encoder_config = tiny_bert_config(hidden_act="gelu", layer_norm_eps=1e-12)
    parameters = larger_parameters(encoder_config, generator)
    batches = []
    for length in (6, 6, 6, 4, 6, 6, 6, 6, 6):
        input_ids = torch.randint(5, 100, (5, length), generator=generator)
        attention_mask = torch.ones_like(input_ids)
        attention_mask[2, 3:] = 0
        batches.append((input_ids, attention_mask))
    buffer = torch.nn.functional.normalize(torch.randn(queue_size, 32, generator=generator), dim=-1)
    epsilon = 1e-2  # large enough to be seen

    expected = slow_released.run(
        parameters,
        batches,
        buffer,
        num_heads=2,
        queue_size=queue_size,
        queue_init_size=queue_init_size,
        temperature=0.05,
        ema_start=0.6,
        ema_steps=15_000,
        learning_rate=1e-3,
        weight_decay=0.0,
        epsilon=epsilon,
    )
    config = {"queue_size": queue_size, "queue_init_size": queue_init_size, "stale_fgsm_epsilon": epsilon}
    model = model_of(parameters, encoder_config, ReleasedMoCoSE, **config)
    model.set_initial_queue(buffer)
    widths = []
    model.register_forward_pre_hook(lambda *_: widths.append(len(model.queue.stored_keys())))
    losses = follow(model, batches, tmp_path, ema_decay=0.6, weight_decay=0.0)

    assert widths == expected["widths"]
    assert losses == pytest.approx(expected["losses"], abs=1e-5)
    kept = model.queue.stored_keys().double()
    torch.testing.assert_close(kept, expected["queue"][: len(kept)], atol=1e-5, rtol=0)
    state = model.state_dict()
    for branch in ("online", "target"):
        for name, value in expected[branch].items():
            if "self.key.bias" not in name:  # its gradient is zero but for rounding, which Adam makes large
                torch.testing.assert_close(state[our_name(name, branch)].double(), value, atol=1e-5, rtol=0, msg=name)


def test_trainer_follows_the_released_code_on_the_stored_run(shared_data, tmp_path):
    run, encoder_config, parameters, batches, rows = stored_run(shared_data)
    sizes = {name: run[name] for name in ("queue_size", "queue_init_size", "temperature")}
    model = model_of(parameters, encoder_config, ReleasedMoCoSE, stale_fgsm_epsilon=0.0, **sizes)
    model.set_initial_queue(rows)
    follows_stored_run(run, "released", model, batches, tmp_path)


def test_the_loss_sees_as_many_rows_as_in_the_released_code():
    queue = ReleasedQueue(512, 8, 128)
    widths = []
    for _ in range(10):
        widths.append(int((queue.log_weights() == 0).sum()))
        assert widths[-1] == len(queue.stored_keys()) == len(queue.ages(3)) == len(queue.sentence_ids())
        queue.enqueue(torch.nn.functional.normalize(torch.randn(64, 8), dim=-1), torch.arange(64), step=1)
    assert widths == [256, 320, 384, 448, 768, 832, 896, 512, 512, 512]


def test_the_first_row_of_a_batch_is_the_newest_and_the_last_ones_of_an_old_batch_go_first():
    queue = ReleasedQueue(5, 4, 5)
    rows = torch.nn.functional.normalize(torch.randn(9, 4), dim=-1)
    queue.enqueue(rows[:3], torch.tensor([0, 1, 2]), step=1)
    assert queue.sentence_ids().tolist() == [0, 1, 2, -1, -1]
    queue.enqueue(rows[3:6], torch.tensor([3, 4, 5]), step=2)
    assert queue.sentence_ids().tolist() == [3, 4, 5, 0, 1]
    assert torch.equal(queue.stored_keys(), rows[[3, 4, 5, 0, 1]])
    queue.enqueue(rows, torch.arange(10, 19), step=3)  # more than it holds
    assert queue.sentence_ids().tolist() == [10, 11, 12, 13, 14]


def test_the_queue_starts_with_given_rows_newest_first():
    queue = ReleasedQueue(6, 4, 2)
    queue.enqueue(torch.nn.functional.normalize(torch.randn(9, 4), dim=-1), step=1)
    rows = torch.nn.functional.normalize(torch.randn(6, 4), dim=-1)
    queue.set_initial_rows(rows)
    assert queue.width() == 4
    assert torch.equal(queue.stored_keys(), rows[:4])
    assert queue.ages(1).tolist() == [1] * 4
    with pytest.raises(ValueError, match=r"\(6, 4\) rows, not \(5, 4\)"):
        queue.set_initial_rows(rows[:5])
    with pytest.raises(ValueError, match="not of length 1"):
        queue.set_initial_rows(rows * 2)


def test_keys_train_the_embeddings_and_the_projection_head_of_the_target_and_nothing_else_of_it():
    model = released_model().train()
    keys = model.encode_keys(View(**random_batch()))
    (keys * torch.randn(keys.shape)).sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    embeddings = {name for name in with_gradient if name.startswith("mocose.encoder.embeddings.")}
    head = {f"target.projection_head.{name}" for name, _ in model.target["projection_head"].named_parameters()}
    assert "mocose.encoder.embeddings.word_embeddings.weight" in embeddings
    assert with_gradient == embeddings | head
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith(("target.encoder.encoder.", "target.pooler.")) for name in frozen)


def test_the_optimizer_and_the_ema_both_move_the_projection_head_of_the_target(tmp_path, tokenizer):
    model = released_model()
    head = model.target["projection_head"][0][0].weight
    trainer = make_trainer(tmp_path, tokenizer, model, max_steps=1, learning_rate=1e-3, ema_decay=0.0)
    before = head.detach().clone()
    trainer.create_optimizer()
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert id(head) in trained
    assert not [p for p in model.target["encoder"].encoder.parameters() if id(p) in trained]
    trainer.train()
    eta = model.ema_decay_at(2, 1, 0.0, 1.0)
    online = model.projection_head[0][0].weight
    assert eta < 1e-6  # so the EMA, which comes last, has made it a copy
    torch.testing.assert_close(head, online, atol=1e-6, rtol=0)
    assert not torch.equal(head, before)


def test_eta_runs_over_15000_steps_and_falls_again():
    model = released_model()
    eta = [model.ema_decay_at(step, 10, 0.85, 1.0) for step in (1, 7_500, 15_000, 22_500, 30_000)]
    start = 1 - 0.15 * (math.cos(math.pi / 15_000) + 1) / 2
    assert eta == pytest.approx([start, 0.925, 1.0, 0.925, 0.85], abs=1e-12)


def test_the_log_has_the_decay_and_the_rows_that_the_loss_saw(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, released_model(), max_steps=2, logging_steps=1, ema_decay=0.75)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "queue_fill" in line]
    assert [line["ema_decay"] for line in lines] == [trainer.model.ema_decay_at(s, 2, 0.75, 1.0) for s in (2, 3)]
    rows = trainer.args.train_batch_size  # one process, no accumulation
    widths, queue = [], ReleasedQueue(16, 4, 4)
    for _ in lines:
        queue.enqueue(torch.ones(rows, 4))
        widths.append(queue.width())
    assert [line["queue_fill"] for line in lines] == widths
    assert lines[0]["d_trace"] == pytest.approx(4 + 16 / rows)


def test_the_perturbation_is_the_sign_of_the_gradient_of_the_batch_before():
    epsilon = 0.5
    model = released_model(stale_fgsm_epsilon=epsilon).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    norm, words = model.mocose.encoder.embeddings.LayerNorm, model.get_input_embeddings()
    inputs = []
    norm.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    batches = [random_batch(seed) for seed in range(3)] + [random_batch(3, length=5), random_batch(4, length=5)]
    signs = [None]
    for batch in batches:
        inputs.clear()
        embeddings = model.mocose.encoder.embeddings
        length = batch["input_ids"].shape[1]
        plain = words(batch["input_ids"]) + embeddings.position_embeddings.weight[:length]
        plain = (plain + embeddings.token_type_embeddings.weight[0]).detach()
        output = model(**batch)
        queries, keys = inputs
        queries.retain_grad()  # the gradient of the sum is that of the word embeddings
        sign = signs[-1]
        fits = sign is not None and sign.shape == plain.shape
        for view in (queries, keys):
            torch.testing.assert_close(view.detach(), plain + (epsilon * sign if fits else 0.0), atol=1e-5, rtol=0)
        output.loss.backward()
        signs.append(queries.grad.sign())
        padded = batch["attention_mask"] == 0
        assert not signs[-1][padded].any()
        assert signs[-1][~padded].abs().mean() > 0.9
        optimizer.step()
        optimizer.zero_grad()
    assert [sign is not None and sign.shape[1] for sign in signs] == [False, 7, 7, 7, 5, 5]


def test_nothing_is_perturbed_in_evaluation_or_with_epsilon_0():
    batch = random_batch()
    model, plain = released_model(stale_fgsm_epsilon=0.5).train(), released_model(stale_fgsm_epsilon=0.0).train()
    for either in (model, plain):
        either(**batch).loss.backward()
    assert plain._stale_sign is None
    assert not torch.equal(model(**batch).loss, plain(**batch).loss)
    assert torch.equal(model.eval()(**batch).loss, plain.eval()(**batch).loss)
    assert torch.equal(model.mocose(**batch).pooler_output, plain.mocose(**batch).pooler_output)


def test_a_large_queue_leaves_keys_their_gradient(monkeypatch):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", 4)
    model = released_model().train()
    output = model(**random_batch())
    assert output.logits is not None
    output.loss.backward()
    assert model.target["projection_head"][0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("fields", "config", "told"),
    [
        ({"ema_decay_end": 0.9}, {}, "`ema_decay_end`"),
        ({"ema_schedule_steps": 100}, {}, "`ema_schedule_steps`"),
        ({"padding_free": True}, {}, "`padding_free`"),
        ({"padding_free": True}, {"stale_fgsm_epsilon": 0.0}, None),
        ({"ema_schedule_steps": 15_000}, {}, None),
        ({"ema_schedule": "constant_distance"}, {}, "`ema_schedule`"),
        ({"fgsm_epsilon": 1e-3}, {}, "`fgsm_epsilon` changes word embeddings before `stale_fgsm_epsilon` could"),
        ({"token_cutoff": 0.1}, {"stale_fgsm_epsilon": 0.0}, None),
    ],
)
def test_arguments_that_contradict_the_released_code_raise_an_error(tmp_path, tokenizer, fields, config, told):
    if told is None:
        make_trainer(tmp_path, tokenizer, released_model(**config), **fields)
    else:
        with pytest.raises(ValueError, match=told):
            make_trainer(tmp_path, tokenizer, released_model(**config), **fields)


def test_deepspeed_raises_an_error_because_it_would_undo_the_ema(tmp_path, tokenizer):
    args = make_trainer(tmp_path, tokenizer).args
    args.deepspeed = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ValueError, match="`deepspeed` would undo the EMA"):
        ReleasedMoCoSE.validate_settings(released_model().config, args)


@pytest.mark.parametrize("epsilon", [-1.0, math.inf, math.nan])
def test_a_step_out_of_range_raises_an_error(epsilon):
    with pytest.raises(ValueError, match="`stale_fgsm_epsilon`"):
        released_model(stale_fgsm_epsilon=epsilon)


def test_memory_is_checked_for_all_slots(monkeypatch):
    config = ReleasedMoCoSEConfig(queue_size=10_000, queue_init_size=0, projection_dim=8, num_predictor_layers=0)
    assert config.queue_slots == ReleasedQueue(10_000, 4, 0).size == 20_001
    monkeypatch.setattr("mocose_hf.models.configuration_mocose._memory_bytes", lambda: 15_000 * (4 * 8 + 16))
    with pytest.raises(ValueError, match="A queue of 20001 rows"):
        ReleasedMoCoSE.validate_resources(config)


def test_a_saved_model_loads_again_with_queue_epsilon_and_what_is_frozen(tmp_path):
    model = released_model(stale_fgsm_epsilon=1e-3)
    model.queue.enqueue(torch.nn.functional.normalize(torch.randn(6, 32), dim=-1), step=1)
    model.save_pretrained(tmp_path)
    for loaded in (ReleasedMoCoSE.from_pretrained(tmp_path), AutoModelForPreTraining.from_pretrained(tmp_path)):
        assert type(loaded) is ReleasedMoCoSE
        assert loaded.config.stale_fgsm_epsilon == 1e-3
        assert [n for n, p in loaded.state_dict().items() if not torch.equal(p, model.state_dict()[n])] == []
        assert loaded.queue.width() == model.queue.width()
        assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    batch = random_batch()
    wanted = model.eval().mocose(**batch).pooler_output
    assert torch.equal(encoder(**batch).pooler_output, wanted)
    assert torch.equal(load_encoder(str(tmp_path)).pooler.weight, model.pooler.weight)


def test_the_plain_encoder_is_exported_and_embeds_alike(tmp_path, tokenizer):
    model = released_model().eval()
    export_sentence_encoder(model, tokenizer, tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).eval()
    batch = random_batch()
    assert torch.equal(plain(**batch).last_hidden_state[:, 0], model.mocose(**batch).pooler_output)
    assert model.encode(["a dog"], tokenizer).shape == (1, 32)


def test_a_killed_run_resumes_exactly_if_epsilon_is_0(tmp_path, tokenizer):
    fields = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    ends = []
    for part in ("whole", "broken"):
        folder = tmp_path / part
        trainer = make_trainer(folder, tokenizer, released_model(stale_fgsm_epsilon=0.0), save_total_limit=5, **fields)
        trainer.train()
        if part == "broken":
            checkpoint = folder / "checkpoint-2"
            trainer = make_trainer(folder, tokenizer, released_model(9, stale_fgsm_epsilon=0.0), **fields)
            trainer.train(resume_from_checkpoint=str(checkpoint))
        ends.append(trainer.model.state_dict())
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []


def test_resuming_with_another_algorithm_raises_an_error_with_both_names(tmp_path, tokenizer):
    fields = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    make_trainer(tmp_path, tokenizer, tiny_model(), **fields).train()
    trainer = make_trainer(tmp_path, tokenizer, released_model(), **fields)
    with pytest.raises(ValueError, match="`algorithm` was mocose and is released now"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_weights_and_queue_of_two_processes_equal_those_of_one(tmp_path, encoder_dir):
    parallel_runs_agree(tmp_path, encoder_dir, "released")


@pytest.mark.parametrize(
    "field",
    [{"queue_window": "oldest"}, {"queue_half_life": 4.0}, {"queue_centroids": 5}],
    ids=lambda f: next(iter(f)),
)
def test_options_that_choose_among_the_rows_raise_an_error(field):
    with pytest.raises(ValueError, match=f"`{next(iter(field))}` is .*, but ReleasedMoCoSEConfig has no such option"):
        ReleasedMoCoSEConfig(encoder_config=tiny_bert_config(), **field)
