"""A development set made of the training text."""

import hashlib

import pytest
import torch
from conftest import sentences
from datasets import Dataset

from mocose_hf.data import Sentences, read_sentences, texts_sha256
from mocose_hf.errors import InputError
from mocose_hf.evaluation.held_out import choose_held_out, crop_text, held_out_task, hold_out


def of_texts(texts: list[str], keys: list[str] | None = None) -> Sentences:
    columns = {"text": texts, "sentence_id": list(range(len(texts)))} | ({"key_text": keys} if keys else {})
    return Sentences(Dataset.from_dict(columns), len(texts) + 1, {"blank": 1}, texts_sha256(texts, keys))


@pytest.mark.parametrize(
    ("text", "fewest", "most"),
    [
        ("a b c d", 2, 2),
        ("a  b c\td e f g h i j k l", 4, 6),
        ("今日は天気がいいから散歩しましょう", 6, 8),
        ("unbelievable extraordinariness", 9, 15),
    ],
)
def test_a_crop_is_a_third_to_a_half_of_the_text(text, fewest, most):
    words = text.split()
    joint = " " if len(words) > 3 else ""
    whole, crops = joint.join(words if joint else text), {crop_text(text, seed) for seed in range(200)}
    assert all(crop in whole for crop in crops)
    lengths = {len(crop.split() if joint else crop) for crop in crops}
    assert fewest <= max(lengths) <= most
    assert max(lengths) - min(lengths) <= most - fewest + 1  # less a space at an end
    assert {whole.startswith(crop) for crop in crops} == {whole.endswith(crop) for crop in crops} == {True, False}
    assert crop_text(text, 5) == crop_text(text, 5)


@pytest.mark.parametrize("text", ["a b c", "short", "three longish words"])
def test_a_short_text_is_not_cropped(text):
    assert crop_text(text) is None


def test_rows_are_drawn_once_and_alike_for_all_runs():
    texts = sentences(200)
    usable = [row for row, text in enumerate(texts) if len(text.split()) > 3]
    chosen = choose_held_out(texts, None, 40, seed=0)
    assert chosen == choose_held_out(texts, None, 40, seed=0) == sorted(set(chosen))
    assert len(chosen) == 40
    assert set(chosen) <= set(usable)
    assert chosen != choose_held_out(texts, None, 40, seed=1)
    assert choose_held_out(texts, None, 1000, seed=0) == usable
    assert choose_held_out(texts, texts[::-1], 1000, seed=0) == list(range(200))
    middle = sum(row < 100 for row in choose_held_out(texts, texts, 100, seed=0))
    assert 35 < middle < 65  # not the first rows of the file


def test_what_is_held_out_is_not_trained_on():
    texts = [text for text in sentences(90) if len(text.split()) > 3][:60]
    made = hold_out(of_texts(texts), 20, "text.txt")
    left = made.dataset["text"][:]
    found = {made.held_out.corpus[t]: made.held_out.queries[q] for q, t, _ in entries(made.held_out)}
    assert sorted([*left, *found]) == sorted(texts)
    assert found == {text: crop_text(text) for text in made.held_out.corpus}
    assert len(found) == 20
    assert [texts[row] for row in made.dataset["sentence_id"]] == left
    assert made.sha256 == hashlib.sha256("".join(f"{text}\0\n" for text in left).encode()).hexdigest()
    assert made.summary() == "61 rows read, dropped: 1 blank, 20 held out; 40 sentences."
    assert made.held_out.summary() == "text.txt, 20 rows held out: 20 queries, 20 texts, 20 relevant ones."


def entries(task):
    return zip(*(part.tolist() for part in vars(task.judgements).values()), strict=True)


def test_a_text_of_pairs_is_to_find_its_partner():
    titles, bodies = [f"title {i}" for i in range(30)], [f"body {i % 15}" for i in range(30)]
    made = hold_out(of_texts(titles, bodies), 10, "pairs.tsv")
    found = {(made.held_out.queries[q], made.held_out.corpus[t]) for q, t, _ in entries(made.held_out)}
    left = set(zip(made.dataset["text"], made.dataset["key_text"], strict=True))
    assert len(found) == 10
    assert found | left == set(zip(titles, bodies, strict=True))
    assert not found & left
    content = "".join(
        f"{text}\0{key}\n" for text, key in zip(made.dataset["text"], made.dataset["key_text"], strict=True)
    )
    assert made.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_all_partners_of_equal_texts_are_right():
    task = held_out_task(["a", "a", "g"], ["c", "e", "c"])
    assert (task.queries, task.corpus) == (["a", "g"], ["c", "e"])
    known = {"a": [1.0, 0.0], "g": [0.0, 1.0], "c": [1.0, 0.9], "e": [1.0, 0.0]}
    scores = task.score(lambda texts: torch.tensor([known[text] for text in texts]))
    assert scores["dev_from_text_mrr_at_10"] == 100.0
    assert scores["dev_from_text_recall_at_1"] == pytest.approx(100 * (1 / 2 + 1) / 2)


@pytest.mark.parametrize(
    ("texts", "count", "message"),
    [
        (["a b c d", "e f g h"], 5, "all 2 rows would be held out; give a lower --dev_from_text"),
        (["a b c d", "e f", "g"], 5, "needs two different texts of 4 words or more; leave out --dev_from_text"),
        (["a", "e f", "g"], 2, "needs two different texts"),
    ],
)
def test_text_of_which_nothing_can_be_held_out(texts, count, message):
    with pytest.raises(InputError, match=rf"text\.txt.*: .*{message}"):
        hold_out(of_texts(texts), count, "text.txt")


def test_the_sum_of_texts_is_that_of_the_reader(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tother\none\tx\ntwo\ty\n", encoding="utf-8")
    assert read_sentences(path).sha256 == texts_sha256(["one", "two"])
    assert read_sentences(path, key_column="other").sha256 == texts_sha256(["one", "two"], ["x", "y"])
