"""A development set made of the training text."""

import hashlib

import pytest
import torch
from builders import sentences
from datasets import Dataset

from mocose_hf.data.sentences import Sentences, read_sentences, texts_sha256
from mocose_hf.errors import InputError
from mocose_hf.evaluation.held_out import choose_held_out, held_out_task, hold_out, split_text


def of_texts(texts: list[str], keys: list[str] | None = None) -> Sentences:
    columns = {"text": texts, "sentence_id": list(range(len(texts)))} | ({"key_text": keys} if keys else {})
    return Sentences(Dataset.from_dict(columns), len(texts) + 1, {"blank": 1}, texts_sha256(texts, keys))


@pytest.mark.parametrize("text", ["a b c d", "a  b c\td e f g h i j k l m", "a b a b a c"])
def test_words_are_dealt_out_to_two_halves_in_their_order(text):
    words, dealt = text.split(), {split_text(text, seed) for seed in range(50)}
    assert len(dealt) > 5
    for halves in dealt:
        query, rest = (half.split() for half in halves)
        assert (len(query), len(rest)) == (len(words) // 2, len(words) - len(words) // 2)
        assert sorted(query + rest) == sorted(words)
        for half in (query, rest):
            remaining = iter(words)
            assert all(word in remaining for word in half)  # in the order of the text
    assert split_text(text, 5) == split_text(text, 5)


def test_a_text_without_spaces_is_dealt_out_in_runs():
    query, rest = split_text("今日は天気がいいから散歩しましょう")
    assert sorted(query + rest) == sorted("今日は天気がいいから散歩しましょう")
    runs = ("今日は天", "気がいい", "から散歩", "しましょ", "う")
    assert [sum(run in half for half in (query, rest)) >= 1 for run in runs] == [True] * 5
    assert len(query) in (5, 8)


@pytest.mark.parametrize("text", ["a b c", "short", "three longish words"])
def test_a_short_text_is_not_split(text):
    assert split_text(text) is None


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
    texts = [text for text in sentences(150) if len(text.split()) > 5][:60]
    made = hold_out(of_texts(texts), 20, "text.txt")
    left = made.dataset["text"][:]
    found = {(made.held_out.queries[q], made.held_out.corpus[t]) for q, t, _ in entries(made.held_out)}
    held = [text for text in texts if split_text(text) in found]
    assert sorted([*left, *held]) == sorted(texts)
    assert len(found) == len(held) == 20
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
        (["a b c d", "e f g h"], 5, "all 2 rows would be held out; give a lower `dev_from_text`"),
        (["a b c d", "e f", "g"], 5, "needs two different texts of 4 words or more; leave out `dev_from_text`"),
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
