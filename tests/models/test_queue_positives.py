"""Positives from the queue and the filled queue that they need: by hand, by a slow loop, and in the trainer."""

import pytest
import torch
from builders import random_batch, sentences, tiny_bert_config, tiny_model
from datasets import Dataset
from processes import runs_agree
from resuming import BEST, run
from torch.nn import functional as F
from trainers import differing, make_trainer, scored_pairs

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.models.losses import info_nce_loss, multi_positive_loss, nearest_rows
from mocose_hf.models.modeling_released import ReleasedMoCoSE, ReleasedMoCoSEConfig
from mocose_hf.models.modeling_simcse import SimCSE, SimCSEConfig
from mocose_hf.models.views import View
from mocose_hf.training.queue_prefill import prefill_queue

HEADLESS = {"use_pooler": False, "num_projection_layers": 0, "num_predictor_layers": 0}
POSITIVES = HEADLESS | {"queue_positives": 3, "pooling_mode": "mean"}


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_nearest_rows_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows = torch.tensor([[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]])
    excluded = torch.tensor([[False, True, False], [False, False, False]])
    columns, counts = nearest_rows(keys, rows, 2, excluded, min_similarity=0.0)
    assert columns[:, 0].tolist() == [0, 0]
    assert counts.tolist() == [[True, False], [True, True]]
    columns, counts = nearest_rows(keys, rows, 5, torch.ones(1, 3, dtype=torch.bool))
    assert columns.shape == (2, 3)
    assert not counts.any()


def test_the_loss_is_that_of_a_slow_loop():
    queries, keys, rows = unit_rows(4, 0), unit_rows(4, 1), unit_rows(9, 2)
    logits = torch.cat([queries @ keys.T, queries @ rows.T], dim=1) / 0.05
    labels = torch.arange(4)
    columns, is_positive = nearest_rows(keys, rows, 3, torch.zeros(1, 9, dtype=torch.bool), min_similarity=0.2)
    found = multi_positive_loss(logits, labels, columns + 4, is_positive, weight=0.5)

    total = 0.0
    for i in range(4):
        cosines = sorted(((keys[i] @ rows[j]).item(), j) for j in range(9))[::-1][:3]
        positives = [(1.0, i)] + [(0.5, 4 + j) for cosine, j in cosines if cosine >= 0.2]
        shares = logits[i].softmax(0)
        total -= sum(w * shares[c].log().item() for w, c in positives) / sum(w for w, _ in positives)
    assert found.item() == pytest.approx(total / 4, abs=1e-5)


def test_without_positives_it_is_info_nce():
    queries, keys, rows = unit_rows(4, 0), unit_rows(4, 1), unit_rows(9, 2)
    logits = torch.cat([queries @ keys.T, queries @ rows.T], dim=1) / 0.05
    nothing = torch.zeros(4, 3, dtype=torch.bool)
    loss = multi_positive_loss(logits, torch.arange(4), torch.zeros(4, 3, dtype=torch.int64), nothing)
    torch.testing.assert_close(loss, info_nce_loss(queries, keys, rows, 0.05), atol=1e-6, rtol=0)


def test_a_batch_pulls_the_nearest_keys_and_never_those_of_its_own_sentence():
    model = tiny_model(**POSITIVES, encoder_dropout_prob=0.0).eval()
    batch = random_batch(rows=4) | {"sentence_ids": torch.arange(4)}
    with torch.no_grad():
        keys = model.encode_keys(View(batch["input_ids"], batch["attention_mask"]))
        near = F.normalize(keys + 0.05 * torch.randn_like(keys), dim=-1)
        model.queue.clear()
        model.queue.enqueue(keys, torch.arange(4), step=1)  # the batch's own sentences
        model.queue.enqueue(near, torch.arange(10, 14), step=2)
    output = model(**batch)
    own = output.logits[:, 4:8].diagonal()
    assert torch.equal(own, torch.full((4,), float("-inf")))

    expected = 0.0
    for i in range(4):
        usable = [4 + j for j in range(8) if j != i]
        order = sorted(usable, key=lambda c: -(keys[i] @ torch.cat([keys, near])[c - 4]).item())[:3]
        shares = output.logits[i].softmax(0)
        expected -= sum(shares[c].log().item() for c in [i, *order]) / 4
    assert output.loss.item() == pytest.approx(expected / 4, abs=1e-4)


def test_ids_are_needed_to_leave_out_the_own_sentence():
    with pytest.raises(ValueError, match="need the `sentence_ids`"):
        tiny_model(**POSITIVES)(**random_batch())


@pytest.mark.parametrize("config", [{}, HEADLESS | {"symmetric_loss": True}], ids=["paper", "symmetric"])
def test_the_queue_starts_with_keys_of_training_sentences(tokenizer, config):
    model = tiny_model(**config).train()
    rows = {"text": sentences(20), "key_text": sentences(20, seed=1), "sentence_id": list(range(20))}
    state = torch.get_rng_state()
    prefill_queue(model, Dataset.from_dict(rows), SentenceCollator(tokenizer), batch_size=6, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert model.target["encoder"].training
    ids = model.queue.sentence_ids().tolist()
    assert len(ids) == len(set(ids)) == model.config.queue_size
    assert set(ids) <= set(range(20))
    model.eval()
    columns = ["key_text", "text"][: len(model.queues())]
    for queue, column in zip(model.queues(), columns, strict=True):
        for row, number in zip(queue.stored_keys(), queue.sentence_ids().tolist(), strict=True):
            key = model.encode_keys(View(**tokenizer([rows[column][number]], return_tensors="pt")))
            torch.testing.assert_close(row[None], key, atol=1e-5, rtol=0)


def test_fewer_sentences_than_slots_leave_the_rest_empty(tokenizer):
    model = tiny_model()
    rows = Dataset.from_dict({"text": sentences(5), "sentence_id": list(range(5))})
    prefill_queue(model, rows, SentenceCollator(tokenizer), batch_size=4, seed=0)
    assert len(model.queue.newest_first()) == 5


@pytest.mark.parametrize("padding_free", [False, True])
def test_training_starts_from_a_filled_queue_and_logs_its_fill(tmp_path, tokenizer, padding_free):
    fields = {"queue_prefill": True, "max_steps": 2, "logging_steps": 1, "padding_free": padding_free}
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(**POSITIVES), **fields)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["queue_fill"] for line in lines] == [16, 16]


def test_the_keys_of_a_prefill_are_of_sentences_with_the_prompt(tmp_path, tokenizer):
    prompts = {"prompts": {"q": "the cat sees "}, "default_prompt_name": "q", "include_prompt": False}
    model = tiny_model(**POSITIVES, **prompts, encoder_dropout_prob=0.0).eval()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fields = {"queue_prefill": True, "max_steps": 1, "crop_share": 0.3, "learning_rate": 0.0}
    trainer = make_trainer(tmp_path, tokenizer, model, **fields)
    filled = {}
    model.register_forward_pre_hook(
        lambda module, args: filled.update(rows=model.queue.stored_keys(), ids=model.queue.sentence_ids())
    )
    trainer.train()
    model.load_state_dict(start)
    texts = [sentences(24)[number] for number in filled["ids"].tolist()]
    expected = F.normalize(model.encode(texts, tokenizer), dim=-1)
    torch.testing.assert_close(filled["rows"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "config_kind"), [(SimCSE, SimCSEConfig), (ReleasedMoCoSE, ReleasedMoCoSEConfig)])
def test_algorithms_without_prefill_raise_an_error(tmp_path, tokenizer, kind, config_kind):
    model = kind(config_kind(encoder_config=tiny_bert_config()))
    with pytest.raises(ValueError, match=r"^`queue_prefill` is true, but .*; leave it out"):
        make_trainer(tmp_path, tokenizer, model, queue_prefill=True)


@pytest.mark.parametrize(
    ("fields", "kills"),
    [({}, [(5,)]), (BEST, [(1,), (4,)])],
    ids=["later", "before the first step, from the saved start"],
)
def test_a_run_that_was_killed_ends_in_the_same_bits(tmp_path, tokenizer, fields, kills):
    pairs = {"pairs": scored_pairs()} if fields else {}
    settings = {"config": POSITIVES, "queue_prefill": True} | fields | pairs
    straight = run(tmp_path / "straight", tokenizer, **settings)
    resumed = run(tmp_path / "killed", tokenizer, kills=kills, **settings)
    assert differing(straight.model.state_dict(), resumed.model.state_dict()) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"queue_positives": 17}, "lies between 0 and `queue_size`"),
        ({"queue_positives": -1}, "lies between 0 and `queue_size`"),
        ({"queue_positives": 2, "queue_positive_weight": 0.0}, "above 0"),
        ({"queue_positives": 2, "queue_positive_similarity": 1.5}, r"lies in \[-1, 1\]"),
        ({"queue_positives": 2, "queue_weight": 0.0, "relation_weight": 1.0}, "no term of the loss uses it"),
        ({"queue_positives": 2, "queue_weight": 0.0, "in_batch_weight": 1.0, "relation_weight": 1.0}, "no term of"),
        ({"queue_positive_weight": 2.0}, "but `queue_positives` is 0"),
        ({"queue_positives": 2, "queue_centroids": 3}, "leave out one of the two"),
        ({"queue_positives": 2, "queue_size": 65_536, "queue_init_size": 0}, "below 65536"),
    ],
)
def test_settings_that_have_no_meaning_raise_an_error(config, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**config)


def test_a_prefill_by_which_sentences_are_their_own_negatives_warns(tmp_path, tokenizer, told):
    relation = {"queue_weight": 0.0, "relation_weight": 1.0}
    for number, config in enumerate((relation, {"queue_positives": 2}, {"mask_same_sentence": True})):
        make_trainer(tmp_path / str(number), tokenizer, tiny_model(**config), queue_prefill=True)
    assert "its own negative" not in told.text
    make_trainer(tmp_path / "momentum", tokenizer, queue_prefill=True)
    assert "may be its own negative; set `mask_same_sentence`" in told.text


def test_a_prefill_without_a_queue_raises_an_error(tmp_path, tokenizer):
    model = tiny_model(queue_size=0, queue_init_size=0)
    with pytest.raises(ValueError, match="`queue_size` is 0"):
        make_trainer(tmp_path, tokenizer, model, queue_prefill=True)


@pytest.mark.slow
def test_two_processes_end_as_one(tmp_path, encoder_dir):
    training = {"queue_prefill": True, "optim": "sgd", "learning_rate": 1e-3}
    runs_agree(tmp_path, encoder_dir, {"config": POSITIVES, "training": training})
