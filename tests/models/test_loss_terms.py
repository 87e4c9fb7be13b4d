"""The terms of the loss and their queues: against slow loops, on processes and across resumes."""

import pytest
import torch
from builders import random_batch, sentences, tiny_model
from datasets import Dataset
from processes import runs_agree
from resuming import run
from safetensors.torch import load_file
from slow_simcse import simcse_model, slow_loss
from torch.nn import functional as F
from trainers import differing, make_trainer
from trajectories import follow
from transformers import AutoModelForPreTraining, TrainerCallback

from mocose_hf import MoCoSEForPreTraining
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import with_sentence_ids
from mocose_hf.models.loss_terms import relate_to_queue, reshape_by_queue
from mocose_hf.models.losses import relation_loss, reshape_keys
from mocose_hf.models.views import View

HEADLESS = {"use_pooler": False, "num_projection_layers": 0, "num_predictor_layers": 0}
NO_DROPOUT = {"encoder_dropout_prob": 0.0, "head_dropout_prob": 0.0}
NO_QUEUE = {"queue_size": 0, "queue_init_size": 0}
IN_BATCH_ONLY = {"queue_weight": 0.0, "in_batch_weight": 1.0, **NO_QUEUE}
ESIMCSE = {"queue_weight": 0.0, "in_batch_weight": 1.0, "in_batch_queue": "target"}
CROSS_BATCH_MEMORY = {"queue_weight": 0.0, "in_batch_weight": 1.0, "in_batch_queue": "online"}
BOTH_TERMS = {"queue_weight": 0.5, "in_batch_weight": 2.0, "symmetric_loss": True}
RELATION = {"queue_weight": 0.0, "relation_weight": 1.0}
RESHAPING = {"queue_weight": 0.0, "reshaping_weight": 1.0}
SMOOTHING = RESHAPING | {"reshaping_smoothing": 0.4, "reshaping_temperature": 0.1}
WHITENING = RESHAPING | {"reshaping_whitening": 0.5}
SHAPED = SMOOTHING | {"reshaping_whitening": 0.25}
SETTINGS = {
    "in-batch": IN_BATCH_ONLY,
    "in-batch, symmetric": IN_BATCH_ONLY | {"symmetric_loss": True},
    "esimcse": ESIMCSE,
    "cross-batch memory": CROSS_BATCH_MEMORY,
    "both terms, symmetric": BOTH_TERMS,
    "momentum, symmetric": {"symmetric_loss": True},
    "esimcse, symmetric": ESIMCSE | {"symmetric_loss": True},
    "relation": RELATION,
    "all three, symmetric": BOTH_TERMS | {"relation_weight": 0.3, "relation_temperature": 0.2},
    "smoothing": SMOOTHING,
    "whitening": WHITENING,
    "whitening and smoothing, symmetric": SHAPED | {"symmetric_loss": True},
}


def two_views(rows: int = 5) -> dict[str, torch.Tensor]:
    """A batch whose key view has tokens of its own."""
    key_view = {f"key_{name}": value for name, value in random_batch(1, rows).items()}
    return random_batch(0, rows) | key_view | {"sentence_ids": torch.arange(rows)}


def slow_term(queries, keys, queue_rows, temperature: float = 0.05) -> torch.Tensor:
    """InfoNCE as loops: the candidates of a query are the keys of the batch and the rows of a queue."""
    total = torch.zeros(())
    for row, query in enumerate(queries):
        denominator = sum(torch.exp(query @ key / temperature) for key in keys)
        denominator = denominator + sum((torch.exp(query @ n / temperature) for n in queue_rows), torch.zeros(()))
        total = total - torch.log(torch.exp(query @ keys[row] / temperature) / denominator)
    return total / len(queries)


def slow_relation(config, queries, keys, rows) -> torch.Tensor:
    """The relation term as loops: cross-entropy between two softmaxes over the rows of a queue."""
    total = torch.zeros(())
    for query, key in zip(queries, keys, strict=True):
        wanted = [torch.exp(key @ row / config.relation_target_temperature) for row in rows]
        found = [torch.exp(query @ row / config.relation_temperature) for row in rows]
        for share, power in zip(wanted, found, strict=True):
            total = total - share / sum(wanted) * torch.log(power / sum(found))
    return total / len(queries)


def slow_reshaping(config, queries, keys, rows) -> torch.Tensor:
    """The reshaping term as loops, with the power of the covariance by its singular values."""
    keys, rows = keys.detach(), torch.stack(list(rows))
    if config.reshaping_whitening:
        mean = sum(rows) / len(rows)
        covariance = sum(torch.outer(row - mean, row - mean) for row in rows) / len(rows)
        axes, variances, _ = torch.linalg.svd(covariance)
        scales = variances.clamp(min=1e-4 * variances[0]) ** (-config.reshaping_whitening / 2)
        keys, rows = (
            torch.stack([F.normalize(axes @ (scales * (axes.T @ (x - mean))), dim=0) for x in part])
            for part in (keys, rows)
        )
    total = torch.zeros(())
    for query, key in zip(queries, keys, strict=True):
        weights = [torch.exp(key @ row / config.reshaping_temperature) for row in rows]
        mean = F.normalize(sum(w * row for w, row in zip(weights, rows, strict=True)), dim=0)
        share = config.reshaping_smoothing
        total = total + 1 - query @ F.normalize((1 - share) * key + share * mean, dim=0)
    return total / len(queries)


def slow_loss_of(model, batch) -> torch.Tensor:
    """The loss as its definition has it, each encoding done anew."""
    config = model.config
    view = View(batch["input_ids"], batch["attention_mask"])
    key_view = View(batch["key_input_ids"], batch["key_attention_mask"])
    rows = model.queue.stored_keys()
    reverse_rows = model.reverse_queue.stored_keys() if config.symmetric_loss and config.queue_size else rows[:0]
    directions = [(view, key_view, rows), (key_view, view, reverse_rows)][: 1 + config.symmetric_loss]
    loss = torch.zeros(())
    for left, right, queue_rows in directions:
        queries, others = model.encode_queries(left), model.encode_queries(right)
        if config.queue_weight:
            keys = model.encode_keys(right)
            loss = loss + config.queue_weight * slow_term(queries, keys, queue_rows) / len(directions)
        if config.relation_weight:
            keys = model.encode_keys(right)
            loss = loss + config.relation_weight * slow_relation(config, queries, keys, queue_rows) / len(directions)
        if config.reshaping_weight:
            keys = model.encode_keys(right)
            loss = loss + config.reshaping_weight * slow_reshaping(config, queries, keys, queue_rows) / len(directions)
        if config.in_batch_weight:
            used = queue_rows if config.in_batch_queue != "none" else rows[:0]
            loss = loss + config.in_batch_weight * slow_term(queries, others, used) / len(directions)
    return loss


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_loss_and_gradient_are_those_of_a_slow_loop(settings):
    model = tiny_model(**NO_DROPOUT, **settings).train()
    if model.config.has_target:
        with torch.no_grad():  # a target that stands elsewhere than the online branch
            for parameter in model.target.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    batch = two_views()
    expected = slow_loss_of(model, batch)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()

    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=0)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_in_batch_term_alone_is_the_loss_of_sentence_transformers(symmetric):
    losses = pytest.importorskip("sentence_transformers.losses")
    model = tiny_model(**HEADLESS, **NO_DROPOUT, **IN_BATCH_ONLY, symmetric_loss=symmetric).eval()
    batch = two_views()
    with torch.no_grad():
        output = model(**batch)
        views = [
            model.mocose(batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]).pooler_output
            for prefix in ("", "key_")
        ]
        directions = ("query_to_doc", "doc_to_query")[: 1 + symmetric]
        loss = losses.MultipleNegativesRankingLoss(
            model=None, scale=20.0, directions=directions, partition_mode="per_direction"
        )
        expected = loss.compute_loss_from_embeddings(views, None)
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=0)


def test_the_in_batch_term_alone_is_headless_simcse():
    ours = tiny_model(**HEADLESS, **NO_DROPOUT, **IN_BATCH_ONLY).train()
    simcse = simcse_model(use_pooler=False, encoder_dropout_prob=0.0).train()
    simcse.mocose.load_state_dict(ours.mocose.state_dict())
    batch = two_views()
    for model in (ours, simcse):
        model(**batch).loss.backward()
    torch.testing.assert_close(ours(**batch).loss, simcse(**batch).loss, atol=1e-6, rtol=0)
    for one, other in zip(ours.mocose.parameters(), simcse.mocose.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=0)


def test_headless_embeddings_are_those_a_user_gets():
    batch = random_batch()
    for model in (tiny_model(**HEADLESS).eval(), simcse_model(use_pooler=False).eval()):
        embeddings = F.normalize(model.mocose(**batch).pooler_output, dim=-1)
        assert torch.equal(model.encode_queries(View(**batch)), embeddings)
        assert torch.equal(model.encode_keys(View(**batch)), embeddings)
        assert not [name for name, _ in model.named_parameters() if "pooler" in name]
        loss = slow_loss(embeddings, embeddings)
        if model.algorithm == "simcse":
            torch.testing.assert_close(model(**batch).loss, loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "online", "target"),
    [
        (IN_BATCH_ONLY, 2, 0),
        (ESIMCSE, 2, 1),
        (CROSS_BATCH_MEMORY, 2, 0),
        (BOTH_TERMS, 2, 2),
        (RELATION, 1, 1),
        (SMOOTHING, 1, 1),
        ({}, 1, 1),
    ],
)
def test_each_branch_encodes_each_view_at_most_once(settings, online, target):
    model = tiny_model(**settings).train()
    calls = {"online": 0, "target": 0}

    def count(branch):
        def hook(*_):
            calls[branch] += 1

        return hook

    model.mocose.encoder.register_forward_hook(count("online"))
    if model.config.has_target:
        model.target["encoder"].register_forward_hook(count("target"))
    assert model.config.has_target == (target > 0)
    model(**two_views()).loss.backward()
    assert calls == {"online": online, "target": target}


@pytest.mark.parametrize(
    "settings",
    [settings for settings in SETTINGS.values() if not {"relation_weight", "reshaping_weight"} & settings.keys()],
)
def test_queues_take_the_keys_of_the_branch_that_their_term_uses(tmp_path, settings):
    model = tiny_model(**NO_DROPOUT, **settings)
    batch = two_views(8)
    view = (batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        encode = model.encode_keys if model.config.has_target else model.encode_queries
        expected = encode(View(*view))
    follow(model, [view], tmp_path, max_steps=1)
    if model.config.queue_size:
        for queue in model.queues():
            torch.testing.assert_close(queue.stored_keys()[:8].flip(0), expected, atol=1e-6, rtol=0)
        assert len(model.queues()) == 1 + model.config.symmetric_loss


@pytest.mark.parametrize(
    "settings",
    [CROSS_BATCH_MEMORY, BOTH_TERMS, ESIMCSE, RELATION, SHAPED],
    ids=["xbm", "both", "esimcse", "relation", "reshaping"],
)
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path, tokenizer, settings):
    straight = run(tmp_path / "straight", tokenizer, config=settings, save_steps=3)
    resumed = run(tmp_path / "killed", tokenizer, kills=[(5,)], config=settings, save_steps=3)
    assert differing(straight.model.state_dict(), resumed.model.state_dict()) == []


@pytest.mark.parametrize("settings", [IN_BATCH_ONLY, BOTH_TERMS], ids=["in-batch", "both"])
def test_packed_batches_give_the_loss_of_padded_ones(tmp_path, tokenizer, settings):
    ends = []
    for padding_free in (False, True):
        model = tiny_model(**NO_DROPOUT, **settings, pooling_mode="mean")
        trainer = make_trainer(tmp_path, tokenizer, model, max_steps=3, logging_steps=1, padding_free=padding_free)
        trainer.train()
        ends.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_saved_model_loads_again_with_its_queues(tmp_path, settings):
    model = tiny_model(**settings).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(loaded) is MoCoSEForPreTraining
    assert differing(model.state_dict(), loaded.state_dict()) == []
    assert len(loaded.queues()) == len(model.queues())
    light, info = type(model.mocose).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert differing(light.state_dict(), model.mocose.state_dict()) == []
    assert any(name.startswith("reverse_queue.") for name in load_file(tmp_path / "model.safetensors")) == (
        model.config.symmetric_loss and model.config.queue_size > 0
    )


@pytest.mark.parametrize("first_position", [None, 0], ids=["padded", "packed"])
def test_pairs_of_equal_texts_are_no_negatives_of_each_other(tokenizer, first_position):
    queries, documents = sentences(6), sentences(6, seed=1)
    documents[3] = documents[0]
    queries[4] = queries[1]
    rows = with_sentence_ids(Dataset.from_dict({"text": queries, "key_text": documents}))
    model = tiny_model(**IN_BATCH_ONLY, **HEADLESS, **NO_DROPOUT, symmetric_loss=True, mask_same_sentence=True)
    if first_position is not None:
        assert model.allow_padding_free() == first_position
    batch = SentenceCollator(tokenizer, first_position=first_position)(list(rows))
    embed = [model.encode(texts, tokenizer, normalize_embeddings=True) for texts in (queries, documents)]
    scores = torch.exp(embed[0] @ embed[1].T / model.config.temperature)
    losses = []
    for direction in (scores, scores.T):
        for row in range(6):
            linked = {0: {3}, 3: {0}, 1: {4}, 4: {1}}.get(row, set())
            denominator = sum(direction[row, other] for other in range(6) if other not in linked)
            losses.append(-torch.log(direction[row, row] / denominator))
    torch.testing.assert_close(model(**batch).loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


class IdsAtTheStart(TrainerCallback):
    """Note the sentence ids of each queue when training begins."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.ids = [set(queue.sentence_ids().tolist()) for queue in model.queues()]


def test_both_queues_forget_the_ids_of_another_text(tmp_path, tokenizer):
    model = tiny_model(symmetric_loss=True, mask_same_sentence=True)
    make_trainer(tmp_path / "first", tokenizer, model).train()
    for folder, seed in (("same", 0), ("other", 1)):
        noted = IdsAtTheStart()
        texts = {"text": sentences(24, seed=seed)}
        make_trainer(tmp_path / folder, tokenizer, model, texts=texts, max_steps=1, callbacks=[noted]).train()
        assert len(noted.ids) == 2
        assert all((ids == {-1}) == (folder == "other") for ids in noted.ids)


def test_the_relation_term_is_least_at_the_key_if_both_temperatures_are_equal():
    generator = torch.Generator().manual_seed(0)
    keys, rows = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (3, 20))
    none = torch.zeros(3, 20, dtype=torch.bool)
    point = keys.clone().requires_grad_()
    relation_loss(point, keys, rows, 0.1, 0.1, none).backward()
    torch.testing.assert_close(point.grad, torch.zeros_like(keys), atol=1e-6, rtol=0)
    nearest = rows[(keys @ rows.T).argmax(1)]
    for target_temperature, sign in ((0.05, 1.0), (0.2, -1.0)):
        point = keys.clone().requires_grad_()
        relation_loss(point, keys, rows, 0.1, target_temperature, none).backward()
        towards = -(point.grad * (nearest - keys)).sum(1)  # along the step of gradient descent
        assert (towards * sign > 0).all()


def test_a_row_of_the_relation_term_counts_as_often_as_its_bias_says():
    queries, keys, rows = (F.normalize(torch.randn(n, 8), dim=-1) for n in (3, 3, 4))
    own = torch.zeros(3, 4, dtype=torch.bool)
    own[0, 1] = True
    log_weights = torch.tensor([3.0, 1.0, 1.0, 0.0]).log()
    repeated = [0, 0, 0, 1, 2]
    expected = relation_loss(queries, keys, rows[repeated], 0.1, 0.05, own[:, repeated])
    torch.testing.assert_close(relation_loss(queries, keys, rows, 0.1, 0.05, own, log_weights), expected)


@pytest.mark.parametrize(
    "policy",
    [{"queue_half_life": 1.0}, {"queue_window": "newest"}, {"queue_window": "newest", "queue_window_softness": 0.2}],
    ids=["half-life", "window", "soft window"],
)
def test_the_relation_term_follows_the_policies_of_the_queue(policy):
    losses = []
    for settings in ({}, policy):
        model = tiny_model(**RELATION, **settings).eval()
        for step in range(1, 5):
            rows = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(step)), dim=-1)
            model.queue.enqueue(rows, step=step)
        losses.append(model(**two_views()).loss.item())
    assert losses[0] != pytest.approx(losses[1], abs=1e-4)


def test_the_relation_term_leaves_out_rows_and_sentences_without_rows():
    generator = torch.Generator().manual_seed(0)
    keys, rows = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (3, 6))
    excluded = torch.zeros(3, 6, dtype=torch.bool)
    excluded[0], excluded[1, 2:] = True, True
    point = F.normalize(keys + 0.3, dim=-1).requires_grad_()
    found = relation_loss(point, keys, rows, 0.1, 0.05, excluded)
    found.backward()
    assert torch.isfinite(point.grad).all()
    assert not point.grad[0].any()
    parts = [relation_loss(point[1:2], keys[1:2], rows[:2], 0.1, 0.05, excluded[1:2, :2])]
    parts.append(relation_loss(point[2:], keys[2:], rows, 0.1, 0.05, excluded[2:]))
    assert found.item() == pytest.approx(sum(part.item() for part in parts) / 3, abs=1e-6)


def test_a_sentence_is_not_compared_with_its_own_rows():
    model = tiny_model(**RELATION, **NO_DROPOUT).eval()
    batch = two_views(4)
    queries, keys = F.normalize(torch.randn(2, 4, 32), dim=-1)
    before = relate_to_queue(model, queries, keys, batch["sentence_ids"], model.queue)
    model.queue.enqueue(keys, batch["sentence_ids"], step=1)
    rows = model.queue.stored_keys()  # newest first: the last sentence is row 0
    own = torch.arange(len(rows)) == 3 - torch.arange(4)[:, None]
    expected = relation_loss(queries, keys, rows, 0.1, 0.05, own)
    torch.testing.assert_close(relate_to_queue(model, queries, keys, batch["sentence_ids"], model.queue), expected)
    assert before != expected
    with pytest.raises(ValueError, match="needs the `sentence_ids`"):
        relate_to_queue(model, queries, keys, None, model.queue)


def test_smoothing_moves_a_key_towards_its_neighbours_and_whitening_spreads_keys():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=generator) + 3.0  # which all share a direction
    rows = F.normalize(centres.repeat(20, 1) + torch.randn(80, 16, generator=generator), dim=-1)
    keys, own = rows[:8], torch.eye(80, dtype=torch.bool)[:8]
    nearest = (keys @ rows.T).masked_fill(own, -1.0).topk(5).indices
    smoothed = reshape_keys(keys, rows, own, smoothing=0.5)
    to_neighbours = [(part[:, None] * rows[nearest]).sum(2).mean(1) for part in (keys, smoothed)]
    assert (to_neighbours[1] > to_neighbours[0]).all()
    whitened = [reshape_keys(keys, rows, own, whitening=power) for power in (0.5, 1.0)]
    assert all((part @ part.T).mean() < 0.1 < 0.8 < (keys @ keys.T).mean() for part in whitened)
    assert torch.equal(reshape_keys(keys, rows, own), keys)
    for part in (smoothed, *whitened):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("shape", [{"smoothing": 0.5}, {"whitening": 0.5}, {"whitening": 0.25, "smoothing": 0.7}])
def test_a_row_reshapes_as_often_as_its_weight_says(shape):
    generator = torch.Generator().manual_seed(0)
    keys, rows = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (3, 12))
    own = torch.zeros(3, 12, dtype=torch.bool)
    own[0, 1] = True
    log_weights = torch.tensor([3.0, 1.0, 1.0, 0.0] + [2.0] * 8).log()
    repeated = [0, 0, 0, 1, 2] + [row for row in range(4, 12) for _ in range(2)]
    expected = reshape_keys(keys, rows[repeated], own[:, repeated], **shape)
    torch.testing.assert_close(reshape_keys(keys, rows, own, **shape, log_weights=log_weights), expected)


def test_a_sentence_is_not_smoothed_with_its_own_rows_and_not_at_all_without_others():
    generator = torch.Generator().manual_seed(0)
    keys, rows = (F.normalize(torch.randn(n, 8, generator=generator), dim=-1) for n in (3, 6))
    excluded = torch.zeros(3, 6, dtype=torch.bool)
    excluded[0], excluded[1, 2:] = True, True
    found = reshape_keys(keys, rows, excluded, smoothing=0.5)
    assert torch.equal(found[0], keys[0])
    torch.testing.assert_close(found[1:2], reshape_keys(keys[1:2], rows[:2], excluded[1:2, :2], smoothing=0.5))
    model = tiny_model(**SMOOTHING, **NO_DROPOUT).eval()
    queries, keys = F.normalize(torch.randn(2, 4, 32), dim=-1)
    ids = torch.arange(4)
    before = reshape_by_queue(model, queries, keys, ids, model.queue)
    model.queue.enqueue(keys, ids, step=1)
    rows = model.queue.stored_keys()  # newest first: the last sentence is row 0
    own = torch.arange(len(rows)) == 3 - torch.arange(4)[:, None]
    expected = 1 - (queries * reshape_keys(keys, rows, own, 0.0, 0.4, 0.1)).sum(1).mean()
    torch.testing.assert_close(reshape_by_queue(model, queries, keys, ids, model.queue), expected)
    assert before != expected
    with pytest.raises(ValueError, match="needs the `sentence_ids`"):
        reshape_by_queue(model, queries, keys, None, model.queue)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"queue_weight": 0.0}, "all 0"),
        (RELATION | {"temperature": 0.1}, "`temperature` is 0.1, but no term of the loss uses it"),
        (RELATION | {"in_batch_negatives": False}, "`in_batch_negatives` is False, but no term of the loss uses it"),
        ({"relation_weight": -1.0}, "`relation_weight` is a number of at least 0"),
        ({"relation_weight": 1.0, "relation_temperature": 0.0}, "`relation_temperature` is a number above 0"),
        ({"relation_target_temperature": 0.1}, "but `relation_weight` is 0"),
        (NO_QUEUE | {"relation_weight": 1.0}, "`queue_size` is 0"),
        ({"relation_weight": 1.0, "queue_centroids": 2}, "leave out one of the two"),
        ({"queue_weight": -1.0}, "`queue_weight` is a number of at least 0"),
        ({"in_batch_weight": float("inf")}, "`in_batch_weight`"),
        ({"queue_weight": 0.0, "in_batch_weight": 1.0}, "no term uses the queue"),
        ({"in_batch_queue": "target"}, "raise both above 0"),
        ({"in_batch_queue": "past"}, "one of none, target, online"),
        (IN_BATCH_ONLY | {"in_batch_queue": "online"}, "raise both above 0"),
        ({"in_batch_weight": 1.0, "in_batch_queue": "online"}, "set the weights of the other terms to 0"),
        ({"reshaping_smoothing": 0.5}, "`reshaping_smoothing` is 0.5, but `reshaping_weight` is 0"),
        ({"reshaping_weight": 1.0, "reshaping_temperature": 0.1}, "but `reshaping_smoothing` is 0"),
        (NO_QUEUE | {"reshaping_weight": 1.0}, "`reshaping_weight` compares with the queue, but `queue_size` is 0"),
    ],
)
def test_settings_that_have_no_meaning_raise_an_error(config, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**config)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (IN_BATCH_ONLY, {"ema_decay": 0.5}, "`ema_decay` is 0.5, but this mocose loss has no target"),
        (CROSS_BATCH_MEMORY, {"queue_monitor_steps": 5}, "no target whose keys could drift"),
        (BOTH_TERMS, {"fgsm_epsilon": 1e-3}, "`fgsm_epsilon` perturbs the query view"),
        (RELATION, {"fgsm_epsilon": 1e-3}, "`fgsm_epsilon` perturbs the query view"),
        (HEADLESS, {"head_learning_rate": 1e-3}, "no pooler"),
        (BOTH_TERMS | {"share_embeddings": False}, {"token_cutoff": 0.1}, "`share_embeddings` to true"),
    ],
)
def test_arguments_without_effect_raise_an_error(tmp_path, tokenizer, config, fields, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, tokenizer, tiny_model(**config), **fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [CROSS_BATCH_MEMORY | HEADLESS, BOTH_TERMS | HEADLESS | {"relation_weight": 1.0}, SHAPED | HEADLESS],
    ids=["xbm", "all", "reshaping"],
)
def test_weights_and_queues_of_two_processes_equal_those_of_one(tmp_path, encoder_dir, settings):
    runs_agree(tmp_path, encoder_dir, {"config": settings})
