"""Hard negatives of the in-batch term: against sentence-transformers and slow loops, packed, resumed, on processes."""

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from processes import runs_agree
from resuming import Kill, Killed
from trainers import differing, make_trainer

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import with_sentence_ids
from mocose_hf.data.token_views import TokenViews
from mocose_hf.models.view_augmentation import Augmentation
from mocose_hf.models.views import View, split_views

PAIRS = {
    "use_pooler": False,
    "num_projection_layers": 0,
    "num_predictor_layers": 0,
    "encoder_dropout_prob": 0.0,
    "head_dropout_prob": 0.0,
    "queue_weight": 0.0,
    "in_batch_weight": 1.0,
}
NO_QUEUE = {"queue_size": 0, "queue_init_size": 0}
ROWS = 6


def triplets(blank=(), count: int = ROWS) -> dict[str, list[str]]:
    negatives = ["" if row in blank else text for row, text in enumerate(sentences(count, seed=2))]
    return {"text": sentences(count), "key_text": sentences(count, seed=1), "negative_text": negatives}


def batch_of(tokenizer, columns: dict, **options) -> dict:
    return SentenceCollator(tokenizer, **options)(list(with_sentence_ids(Dataset.from_dict(columns))))


def gradients_of(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def embed(model, tokenizer, texts) -> torch.Tensor:
    """Normalised embeddings of texts, one by one, with gradient."""
    rows = [model.mocose(**tokenizer(text, return_tensors="pt")).pooler_output[0] for text in texts]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def slow_loss(model, tokenizer, columns, excluded=(), queue_rows=()) -> torch.Tensor:
    """The in-batch term as loops; `excluded` holds (query, row of the hard negative)."""
    queries, documents = (embed(model, tokenizer, columns[name]) for name in ("text", "key_text"))
    negatives = {row: embed(model, tokenizer, [text])[0] for row, text in enumerate(columns["negative_text"]) if text}
    temperature, count = model.config.temperature, len(queries)
    total = torch.zeros(())
    for row in range(count):
        candidates = [*documents, *queue_rows]
        candidates += [negative for other, negative in negatives.items() if (row, other) not in excluded]
        denominator = sum(torch.exp(queries[row] @ candidate / temperature) for candidate in candidates)
        total = total - torch.log(torch.exp(queries[row] @ documents[row] / temperature) / denominator)
    if not model.config.symmetric_loss:
        return total / count
    for row in range(count):  # no hard negatives from document to query
        denominator = sum(torch.exp(documents[row] @ query / temperature) for query in queries)
        total = total - torch.log(torch.exp(documents[row] @ queries[row] / temperature) / denominator)
    return total / count / 2


@pytest.mark.parametrize("symmetric", [False, True])
def test_loss_and_gradient_are_those_of_sentence_transformers(tokenizer, symmetric):
    losses = pytest.importorskip("sentence_transformers.losses")
    model = tiny_model(**PAIRS, **NO_QUEUE, symmetric_loss=symmetric).train()
    batch = batch_of(tokenizer, triplets())
    loss = losses.MultipleNegativesRankingLoss(
        model=None,
        scale=20.0,
        directions=("query_to_doc", "doc_to_query")[: 1 + symmetric],
        partition_mode="per_direction",
    )
    views = [
        model.mocose(batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]).pooler_output
        for prefix in ("", "key_", "negative_")
    ]
    expected = loss.compute_loss_from_embeddings(views, None)
    expected_gradients = gradients_of(model, expected)
    output = model(**batch)
    gradients = gradients_of(model, output.loss)
    assert output.logits.shape == (ROWS, 2 * ROWS)
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("blank", [(1, 4), range(ROWS)], ids=["some blank", "all blank"])
def test_blank_rows_have_no_hard_negative(tokenizer, packed, blank):
    model = tiny_model(**PAIRS, **NO_QUEUE, symmetric_loss=True, pooling_mode="mean").train()
    columns = triplets(blank)
    first_position = model.allow_padding_free() if packed else None
    batch = batch_of(tokenizer, columns, first_position=first_position)
    assert batch["negative_rows"].tolist() == [row for row in range(ROWS) if row not in blank]
    expected = slow_loss(model, tokenizer, columns)
    expected_gradients = gradients_of(model, expected)
    output = model(**batch)
    gradients = gradients_of(model, output.loss)
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=0)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    is_blank = output.logits[:, ROWS:].isinf()
    assert torch.equal(is_blank, torch.tensor([[row in blank for row in range(ROWS)]] * ROWS))


@pytest.mark.parametrize("has_ids", [True, False], ids=["ids of the dataset", "a stream"])
def test_a_positive_of_a_query_is_no_hard_negative_of_it(tokenizer, has_ids):
    columns = triplets(blank=(5,))
    columns["negative_text"][0] = columns["key_text"][3]
    columns["negative_text"][2] = columns["key_text"][2]
    columns["text"][4] = columns["text"][1]
    columns["negative_text"][3] = columns["key_text"][4]  # of the query that row 1 has too
    excluded = {(3, 0), (2, 2), (4, 3)} | ({(1, 3)} if has_ids else set())
    rows = Dataset.from_dict(columns)
    rows = list(with_sentence_ids(rows) if has_ids else rows.add_column("sentence_id", list(range(ROWS))))
    model = tiny_model(**PAIRS, **NO_QUEUE, mask_same_sentence=True).eval()
    logits = model(**SentenceCollator(tokenizer)(rows)).logits[:, ROWS:]
    found = {(query, row) for query, row in logits.isinf().nonzero().tolist() if row != 5}
    assert found == excluded
    unmasked = tiny_model(**PAIRS, **NO_QUEUE).eval()
    unmasked.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        unmasked(**SentenceCollator(tokenizer)(rows)).loss, slow_loss(model, tokenizer, columns), atol=1e-5, rtol=0
    )
    if not has_ids:
        torch.testing.assert_close(
            model(**SentenceCollator(tokenizer)(rows)).loss,
            slow_loss(model, tokenizer, columns, excluded),
            atol=1e-5,
            rtol=0,
        )


def test_past_keys_stand_beside_hard_negatives(tokenizer):
    model = tiny_model(**PAIRS, in_batch_queue="online").eval()
    columns = triplets(blank=(0,))
    expected = slow_loss(model, tokenizer, columns, queue_rows=model.queue.stored_keys())
    output = model(**batch_of(tokenizer, columns))
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=0)
    assert output.num_hard_negatives == ROWS
    assert torch.equal(output.logits[:, 2 * ROWS :].isinf(), (model.queue.log_weights() < 0).expand(ROWS, -1))


def test_the_momentum_term_has_no_hard_negatives(tokenizer):
    model = tiny_model(**PAIRS | {"queue_weight": 1.0}).eval()
    batch = batch_of(tokenizer, triplets())
    plain = {name: value for name, value in batch.items() if not name.startswith(("negative_", "positive_"))}
    with_negatives, without = model(**batch), model(**plain)
    assert torch.equal(with_negatives.logits, without.logits)
    assert with_negatives.loss > without.loss


def test_a_batch_with_hard_negatives_has_the_views_of_one_without(tokenizer):
    columns = triplets(blank=(2,))
    view, key_view = split_views({k: v for k, v in batch_of(tokenizer, columns).items() if k != "sentence_ids"})
    del columns["negative_text"]
    plain = batch_of(tokenizer, columns)
    assert torch.equal(view.input_ids, plain["input_ids"])
    assert torch.equal(key_view.input_ids, plain["key_input_ids"])


@pytest.mark.parametrize(("augment_view", "changes"), [("query", False), ("key", True), ("both", True)])
def test_hard_negatives_change_as_keys_do(tokenizer, augment_view, changes):
    columns = triplets()
    plain = batch_of(tokenizer, columns)["negative_input_ids"]
    views = {"token_views": TokenViews(deletion_rate=0.5), "augment_view": augment_view}
    assert torch.equal(batch_of(tokenizer, columns, **views)["negative_input_ids"], plain) is not changes
    shouted = batch_of(tokenizer, columns, key_augmentation=lambda text, generator: text.split()[0])
    assert shouted["negative_attention_mask"].sum() == 3 * ROWS  # [CLS], one word, [SEP]
    augmentation = Augmentation(token_cutoff=0.5, view=augment_view)
    view = View(plain)
    assert (augmentation.negative_view(view, tiny_model().mocose.encoder) is view) is not changes


def test_a_forward_augments_hard_negatives(tokenizer):
    model = tiny_model(**PAIRS, **NO_QUEUE).train()
    batch = batch_of(tokenizer, triplets())
    before = model(**batch)
    model.augmentation = Augmentation(token_cutoff=0.5, view="key")
    output = model(**batch)
    assert torch.equal(output.query_embeddings, before.query_embeddings)
    assert not torch.isclose(output.logits[:, ROWS:], before.logits[:, ROWS:]).any(dim=0).all()


@pytest.mark.parametrize("settings", [{}, {"queue_weight": 0.0, "relation_weight": 1.0}])
def test_a_loss_without_in_batch_term_takes_no_hard_negatives(tmp_path, tokenizer, settings):
    model = tiny_model(**settings)
    with pytest.raises(ValueError, match="no in-batch term to contrast them; raise `in_batch_weight`"):
        model(**batch_of(tokenizer, triplets()))
    with pytest.raises(ValueError, match=r"`negative_text`.*raise `in_batch_weight`"):
        make_trainer(tmp_path, tokenizer, model, texts=triplets())


def test_masks_need_ids(tokenizer):
    model = tiny_model(**PAIRS, **NO_QUEUE, mask_same_sentence=True)
    batch = batch_of(tokenizer, triplets())
    del batch["negative_ids"]
    with pytest.raises(ValueError, match="`negative_ids` and `positive_ids`"):
        model(**batch)
    with pytest.raises(TypeError, match="idz"):
        model(**batch, negative_idz=torch.zeros(ROWS))


def test_a_run_with_hard_negatives_resumes_in_the_same_bits_and_packs(tmp_path, tokenizer):
    texts = triplets(blank=range(0, 24, 3), count=24)

    def make(folder, callbacks=(), padding_free=False, **config):
        model = tiny_model(**PAIRS | NO_QUEUE | {"symmetric_loss": True, "pooling_mode": "mean"} | config)
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "padding_free": padding_free}
        return make_trainer(tmp_path / folder, tokenizer, model, texts=texts, callbacks=list(callbacks), **settings)

    dropout = {"encoder_dropout_prob": 0.1}
    straight = make("straight", **dropout)
    straight.train()
    with pytest.raises(Killed):
        make("killed", [Kill(4)], **dropout).train()
    resumed = make("killed", **dropout)
    resumed.train(resume_from_checkpoint=True)
    assert differing(straight.model.state_dict(), resumed.model.state_dict()) == []
    ends = []
    for padding_free in (False, True):
        trainer = make(f"packed {padding_free}", padding_free=padding_free)
        trainer.train()
        ends.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("every", [2, 5])
def test_two_processes_equal_one_with_hard_negatives(tmp_path, encoder_dir, every):
    config = PAIRS | NO_QUEUE | {"symmetric_loss": True, "mask_same_sentence": True}
    runs_agree(tmp_path, encoder_dir, {"config": config, "negative_every": every})
