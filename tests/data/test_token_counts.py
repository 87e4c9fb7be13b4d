"""What a tokenizer does to training text is counted."""

import copy
from types import SimpleNamespace

import pytest
from builders import sentences
from datasets import Dataset

from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import sample_rows
from mocose_hf.data.streaming import SentenceStream
from mocose_hf.data.token_counts import TokenCounts, count_tokens
from mocose_hf.training.data_preparation import count_training_tokens


def test_counts_worked_by_hand(tokenizer):
    texts = ["a cat", "a zebra", "a cat sees the dog", "猫 犬 a"]  # 4, 4, 7 and 5 tokens with [CLS] and [SEP]
    counts = count_tokens(texts, tokenizer, max_seq_length=5)
    assert counts == TokenCounts(sentences=4, truncated=1, tokens=2 + 2 + 3 + 3, unknown=1 + 2, max_seq_length=5)
    assert counts.truncated_share == 0.25
    assert counts.unknown_share == 3 / 10


def test_the_prompt_and_the_text_of_the_key_view_count(tokenizer):
    args = SimpleNamespace(max_seq_length=6, process_index=0)
    dataset = Dataset.from_dict({"text": ["a cat", "the dog sees a"], "key_text": ["a bird", "zebra"]})
    plain = count_training_tokens(dataset, SentenceCollator(tokenizer, 6), args)
    assert plain == TokenCounts(sentences=4, truncated=0, tokens=2 + 4 + 2 + 1, unknown=1, max_seq_length=6)
    prompted = count_training_tokens(dataset, SentenceCollator(tokenizer, 6, prompt="the "), args)
    assert prompted == TokenCounts(sentences=4, truncated=1, tokens=3 + 4 + 3 + 2, unknown=1, max_seq_length=6)


@pytest.mark.parametrize("length", [3, 5, 8, 32])
def test_a_sentence_is_truncated_if_and_only_if_the_collator_drops_tokens(tokenizer, length):
    texts = sentences(60)
    whole = SentenceCollator(tokenizer, 40)([{"text": text} for text in texts])["attention_mask"].sum(dim=1)
    kept = SentenceCollator(tokenizer, length)([{"text": text} for text in texts])["attention_mask"].sum(dim=1)
    assert count_tokens(texts, tokenizer, length).truncated == int((kept < whole).sum())


@pytest.mark.parametrize("unknown_token", [None, "[SEP]"])
def test_a_vocabulary_without_an_unknown_token_knows_all(tokenizer, unknown_token):
    other = copy.deepcopy(tokenizer)
    other.unk_token = unknown_token
    assert count_tokens(["猫"], tokenizer, 8).unknown == 1
    assert count_tokens(["猫"], other, 8).unknown == 0


@pytest.mark.parametrize(
    ("truncated", "unknown", "words"),
    [(5, 20, []), (6, 20, ["max_seq_length"]), (5, 21, ["unknown"]), (100, 100, ["max_seq_length", "unknown"])],
)
def test_warnings_start_above_5_and_20_percent(truncated, unknown, words):
    found = TokenCounts(100, truncated, 100, unknown, 32).warnings()
    assert [word in text for word, text in zip(words, found, strict=True)] == [True] * len(words)


def test_a_large_set_is_sampled_evenly_and_a_stream_from_its_start(tmp_path):
    dataset = Dataset.from_dict({"text": [str(i) for i in range(100)]})
    assert sample_rows(dataset, 100) == ([{"text": str(i)} for i in range(100)], False)
    rows, is_sample = sample_rows(dataset, 30)
    assert ([row["text"] for row in rows], is_sample) == ([str(i) for i in range(0, 100, 4)], True)
    (tmp_path / "a.txt").write_bytes(b"a\nb\nc\n\xff\n")
    stream = SentenceStream(tmp_path / "a.txt")
    assert [row["text"] for row in sample_rows(stream, 2)[0]] == ["a", "b"]
    assert [row["text"] for row in sample_rows(stream, 9)[0]] == ["a", "b", "c"]
