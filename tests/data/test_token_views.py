"""Crops, deletions and repetitions of tokens: by hand, by their shares over many draws, and in the collator."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from builders import sentences, tiny_model
from trainers import make_trainer

from mocose_hf import MoCoSETrainer, MoCoSETrainingArguments
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.streaming import StreamedRow
from mocose_hf.data.token_views import TokenViews

SENTENCE = [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
"""Eight ordinary tokens between [CLS] and [SEP]."""


def draws(views: TokenViews, special=SENTENCE, longest: int = 32, count: int = 4000) -> list[list[int]]:
    generator = random.Random(0)
    return [views.draw(special, longest, generator) for _ in range(count)]


def test_without_rates_a_view_is_the_sentence():
    assert not TokenViews().is_active
    assert draws(TokenViews(), count=3) == [list(range(10))] * 3


def test_a_crop_is_a_span_of_at_least_its_share_and_every_length_is_equally_likely():
    views = draws(TokenViews(crop_share=0.5))
    lengths = Counter()
    for first, *places, last in views:
        assert (first, last) == (0, 9)
        assert places == list(range(places[0], places[0] + len(places)))
        lengths[len(places)] += 1
    assert sorted(lengths) == [4, 5, 6, 7, 8]
    assert all(count == pytest.approx(800, rel=0.15) for count in lengths.values())
    assert {view[1] for view in views if len(view) == 6} == {1, 2, 3, 4, 5}


def test_deletion_leaves_each_token_with_the_same_probability_and_never_all_out():
    views = draws(TokenViews(deletion_rate=0.6))
    kept = Counter(place for view in views for place in view[1:-1])
    assert all(kept[place] / len(views) == pytest.approx(0.4, abs=0.03) for place in range(1, 9))
    assert min(len(view) for view in views) == 3
    assert all(view == sorted(view) for view in views)


def test_repetition_doubles_up_to_its_share_of_the_tokens():
    views = draws(TokenViews(repetition_rate=0.5))
    added = Counter(len(view) - 10 for view in views)
    assert sorted(added) == [0, 1, 2, 3, 4]
    assert all(count == pytest.approx(800, rel=0.15) for count in added.values())
    assert all(max(Counter(view).values()) <= 2 and view == sorted(view) for view in views)
    assert sorted(Counter(len(view) - 10 for view in draws(TokenViews(repetition_rate=0.1)))) == [0, 1, 2]


def test_a_view_is_no_longer_than_allowed_and_keeps_the_special_tokens():
    for view in draws(TokenViews(repetition_rate=1.0), longest=10, count=100):
        assert len(view) == 10
        assert (view[0], view[-1]) == (0, 9)


@pytest.mark.parametrize("special", [[], [1], [1, 1], [1, 0, 1], [0], [1, 1, 0, 0, 1, 1]])
def test_short_sentences_and_other_special_tokens_keep_at_least_one_token(special):
    views = TokenViews(crop_share=0.1, deletion_rate=0.9, repetition_rate=0.5)
    wanted = [place for place, is_special in enumerate(special) if is_special]
    for view in draws(views, special, count=50):
        assert [place for place in view if special[place]] == wanted
        assert any(not special[place] for place in view) == (0 in special)


VIEWS = TokenViews(crop_share=0.5, deletion_rate=0.3, repetition_rate=0.5)


def batch_of(tokenizer, token_views=VIEWS, **options) -> dict:
    rows = [{"text": text, "sentence_id": i} for i, text in enumerate(sentences(6, seed=3))]
    return SentenceCollator(tokenizer, token_views=token_views, **options)(rows)


def tokens_of(batch: dict, prefix: str = "") -> list[list[int]]:
    """The tokens of each sentence of a padded or packed batch."""
    ids = batch[f"{prefix}input_ids"]
    if f"{prefix}cu_seq_lens_q" not in batch:
        mask = batch[f"{prefix}attention_mask"].bool()
        return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
    bounds = batch[f"{prefix}cu_seq_lens_q"].tolist()
    return [ids[0, first:last].tolist() for first, last in pairwise(bounds)]


@pytest.mark.parametrize(("augment_view", "changed"), [("query", [""]), ("key", ["key_"]), ("both", ["", "key_"])])
def test_the_collator_draws_the_views_that_are_named(tokenizer, augment_view, changed):
    whole = tokens_of(batch_of(tokenizer, token_views=None))
    batch = batch_of(tokenizer, augment_view=augment_view)
    for prefix in ("", "key_"):
        tokens = tokens_of(batch, prefix)
        assert (tokens != whole) == (prefix in changed)
        for view, sentence in zip(tokens, whole, strict=True):
            assert (view[0], view[-1]) == (sentence[0], sentence[-1])
            assert set(view) <= set(sentence)
    if augment_view == "both":
        assert tokens_of(batch) != tokens_of(batch, "key_")


def test_padded_and_packed_batches_hold_the_same_views_and_each_batch_its_own(tokenizer):
    padded, packed = batch_of(tokenizer), batch_of(tokenizer, first_position=0)
    assert tokens_of(padded) == tokens_of(packed) == tokens_of(batch_of(tokenizer))
    assert tokens_of(padded) != tokens_of(batch_of(tokenizer, seed=1))
    assert all(len(tokens) <= 5 for tokens in tokens_of(batch_of(tokenizer, max_seq_length=5)))


def test_views_do_not_depend_on_the_batch_but_on_the_epoch_and_the_sentence_id(tokenizer):
    rows = [{"text": text, "sentence_id": i} for i, text in enumerate(sentences(6, seed=3))]
    collate = SentenceCollator(tokenizer, token_views=VIEWS)
    whole = tokens_of(collate(rows))
    halves = [tokens_of(collate(rows[start : start + 3])) for start in (3, 0)]  # as two processes share a batch
    assert halves[1] + halves[0] == whole
    collate.set_epoch(1)
    assert tokens_of(collate(rows)) != whole
    collate.set_epoch(0)
    assert tokens_of(collate(rows)) == whole
    assert tokens_of(collate([StreamedRow(row, epoch=1) for row in rows])) != whole
    assert tokens_of(collate([row | {"sentence_id": row["sentence_id"] + 6} for row in rows])) != whole


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_draws_its_own_views_with_workers_that_live_on(tmp_path, tokenizer, workers):
    fields = {"crop_share": 0.3, "num_train_epochs": 2, "train_sampling_strategy": "sequential", "max_steps": -1}
    fields |= {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    trainer = make_trainer(tmp_path, tokenizer, **fields)
    seen = []
    forward = trainer.model.forward

    def record(*args, **inputs):
        seen.append(inputs["input_ids"].tolist())
        return forward(*args, **inputs)

    trainer.model.forward = record
    trainer.train()
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(first) == len(second) > 0
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_views_train_alike_whatever_the_workers_and_leave_evaluation_alone(tmp_path, tokenizer):
    losses = []
    for workers in (0, 2):
        fields = {"crop_share": 0.5, "deletion_rate": 0.2, "augment_view": "both", "dataloader_num_workers": workers}
        trainer = make_trainer(tmp_path / str(workers), tokenizer, max_steps=3, logging_steps=1, **fields)
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == losses[1]
    plain = make_trainer(tmp_path / "plain", tokenizer, max_steps=3, logging_steps=1)
    plain.train()
    assert losses[0] != [line["loss"] for line in plain.state.log_history if "loss" in line]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_share": 0.0}, r"`crop_share` lies in \(0, 1\]"),
        ({"deletion_rate": 1.0}, r"`deletion_rate` lies in \[0, 1\)"),
        ({"repetition_rate": 1.5}, r"`repetition_rate` lies in \[0, 1\]"),
    ],
)
def test_rates_outside_their_range_are_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        MoCoSETrainingArguments(output_dir=str(tmp_path), use_cpu=True, **fields)


def test_an_own_collator_is_refused_beside_views(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="leave out `data_collator`, or these"):
        MoCoSETrainer(
            model=tiny_model(),
            args=MoCoSETrainingArguments(output_dir=str(tmp_path), use_cpu=True, crop_share=0.5),
            processing_class=tokenizer,
            data_collator=SentenceCollator(tokenizer),
        )
