"""Reading sentences from every kind of file, and making batches of them."""

import gzip
import json
import random
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import sentences
from datasets import Dataset
from text_files import content_of, write
from torch.utils.data import DataLoader

from mocose_hf.data import readers
from mocose_hf.data.collator import SentenceCollator
from mocose_hf.data.sentences import (
    number_pairs,
    read_hub_sentences,
    read_sentences,
    texts_sha256,
    with_sentence_ids,
)
from mocose_hf.errors import InputError, one_line

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
COLUMN_KINDS = KINDS[1:]
TEXTS = ["a cat sees the dog", "ein Käfer – 猫 🐈", 'he says "no", twice', "NA", "null", "1.5"]


def texts(read) -> list[str]:
    return list(read.dataset["text"])


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_texts_as_they_stand(tmp_path, kind, zipped):
    path = write(tmp_path, kind + zipped, content_of(kind, {"text": TEXTS}))
    read = read_sentences(path)
    assert texts(read) == TEXTS
    assert list(read.dataset["sentence_id"]) == [0, 1, 2, 3, 4, 5]
    assert (read.rows_read, read.dropped) == (6, {})
    assert set(read.dataset.column_names) == {"text", "sentence_id"}


@pytest.mark.parametrize("kind", COLUMN_KINDS)
def test_another_column_can_be_named(tmp_path, kind):
    path = write(tmp_path, kind, content_of(kind, {"id": ["1", "2"], "sentence": ["a cat", "a dog"]}))
    assert texts(read_sentences(str(path), text_column="sentence")) == ["a cat", "a dog"]


@pytest.mark.parametrize("name", ["FILE.TXT", "my.first.sentences.txt", "file.Txt.GZ"])
def test_case_and_further_dots_of_a_name_do_not_matter(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"a cat\n") if name.endswith("GZ") else b"a cat\n")
    assert texts(read_sentences(path)) == ["a cat"]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path, kind):
    path = write(tmp_path, kind, b"\xef\xbb\xbf" + content_of(kind, {"text": TEXTS}))
    assert texts(read_sentences(path)) == TEXTS


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_windows_line_ends(tmp_path, kind):
    content = content_of(kind, {"text": TEXTS}).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    read = read_sentences(write(tmp_path, kind, content))
    assert texts(read) == TEXTS
    assert read.rows_read == 6


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_the_last_line_needs_no_line_end(tmp_path, kind):
    content = content_of(kind, {"text": ["a cat", "a dog"]}).rstrip(b"\r\n")
    read = read_sentences(write(tmp_path, kind, content))
    assert (texts(read), read.rows_read) == (["a cat", "a dog"], 2)


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"], ids=ascii)
def test_only_a_line_feed_ends_a_line(tmp_path, kind, mark):
    written = [f"one{mark}two", "three"]
    columns = {"text": written}
    content = content_of(kind, columns)
    if kind == ".jsonl":
        # JSON allows no bare control character in a string.
        content = "".join(json.dumps({"text": t}, ensure_ascii=mark < " ") + "\n" for t in written).encode()
    read = read_sentences(write(tmp_path, kind, content))
    assert (texts(read), read.rows_read) == (written, 2)


def test_a_lone_carriage_return_ends_no_line(tmp_path):
    read = read_sentences(write(tmp_path, ".txt", b"one\rtwo\nthree\r\n"))
    assert texts(read) == ["one\rtwo", "three"]


@pytest.mark.parametrize("kind", KINDS)
def test_blank_and_duplicate_rows_are_dropped_and_counted(tmp_path, kind):
    rows = ["a cat", "", "a dog", "a cat", "   ", "  a dog ", "a Cat", "a cat"]
    read = read_sentences(write(tmp_path, kind, content_of(kind, {"text": rows})))
    assert texts(read) == ["a cat", "a dog", "a Cat"]
    assert list(read.dataset["sentence_id"]) == [0, 1, 2]
    assert (read.rows_read, read.dropped) == (8, {"blank": 2, "duplicate": 3})


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_a_missing_value_is_blank(tmp_path, kind):
    read = read_sentences(write(tmp_path, kind, content_of(kind, {"text": ["a cat", None, "a dog"]})))
    assert (texts(read), read.dropped) == (["a cat", "a dog"], {"blank": 1})


def test_blank_lines_of_a_jsonl_file_are_counted(tmp_path):
    read = read_sentences(write(tmp_path, ".jsonl", '{"text": "a"}\n\n  \n{"text": "b"}\n'))
    assert (texts(read), read.rows_read, read.dropped) == (["a", "b"], 4, {"blank": 2})


def test_summary_is_one_line_that_adds_up(tmp_path):
    lines = [*sentences(1200), "", *sentences(30)]
    read = read_sentences(write(tmp_path, ".txt", "\n".join(lines)))
    assert read.summary() == "1,231 rows read, dropped: 1 blank, 30 duplicate; 1,200 sentences."
    clean = read_sentences(write(tmp_path, ".txt", "a\nb\n"))
    assert clean.summary() == "2 rows read, dropped: none; 2 sentences."


@pytest.mark.parametrize("kind", COLUMN_KINDS)
def test_pairs_keep_both_texts(tmp_path, kind):
    columns = {
        "text": ["a cat", "a cat", "a cat", "a dog", " ", "a bird"],
        "other": ["eine Katze", "ein Kater", "eine Katze", "", "ein Hund", "ein Vogel"],
    }
    path = write(tmp_path, kind, content_of(kind, columns))
    read = read_sentences(path, key_column="other")
    assert texts(read) == ["a cat", "a cat", "a bird"]
    assert list(read.dataset["key_text"]) == ["eine Katze", "ein Kater", "ein Vogel"]
    assert list(read.dataset["sentence_id"]) == [0, 0, 2]  # "a cat" links the first two
    assert (read.rows_read, read.dropped) == (6, {"blank": 2, "duplicate": 1})
    assert texts(read_sentences(path)) == ["a cat", "a dog", "a bird"]


def test_pairs_that_a_chain_of_equal_texts_links_share_an_id():
    generator = random.Random(0)
    for pairs in ([("a", "x"), ("b", "y"), ("c", "z")], [("a", "b"), ("c", "d"), ("d", "e"), ("e", "a")]) + tuple(
        [(f"{generator.randrange(30)}", f"{generator.randrange(30)}") for _ in range(20)] for _ in range(20)
    ):
        expected = list(range(len(pairs)))
        for _ in pairs:  # as many passes as the longest chain could need
            for row, pair in enumerate(pairs):
                linked = [expected[other] for other, texts_of in enumerate(pairs) if set(pair) & set(texts_of)]
                expected[row] = min(linked)
        assert number_pairs(*zip(*pairs, strict=True)) == expected
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "key_text": ["x", "y", "x"]})
    assert list(with_sentence_ids(rows)["sentence_id"]) == [0, 1, 0]


@pytest.mark.parametrize("kind", COLUMN_KINDS)
def test_each_key_column_gives_a_pair_and_those_of_a_row_share_an_id(tmp_path, kind):
    columns = {
        "text": ["a cat", "a dog", "a bird", "a fish"],
        "one": ["eine Katze", "", "", "ein Fisch"],
        "two": ["ein Kater", "ein Hund", " ", "ein Fisch"],
    }
    read = read_sentences(write(tmp_path, kind, content_of(kind, columns)), key_column=["one", "two"])
    assert texts(read) == ["a cat", "a cat", "a dog", "a fish"]
    assert list(read.dataset["key_text"]) == ["eine Katze", "ein Kater", "ein Hund", "ein Fisch"]
    assert list(read.dataset["sentence_id"]) == [0, 0, 2, 3]
    assert (read.rows_read, read.dropped) == (4, {"blank": 1})


@pytest.mark.parametrize("kind", COLUMN_KINDS)
def test_hard_negatives_are_read_and_have_the_id_of_an_equal_text(tmp_path, kind):
    columns = {
        "text": ["q", "q", "r", "s", "t"],
        "key": ["x", "x", "y", "z", "x"],
        "worse": ["y", " w ", "", "q", "other"],
    }
    path = write(tmp_path, kind, content_of(kind, columns))
    read = read_sentences(path, key_column="key", negative_column="worse")
    assert list(read.dataset["negative_text"]) == ["y", "w", "", "q", "other"]
    assert list(read.dataset["sentence_id"]) == [0, 0, 2, 3, 0]
    assert list(read.dataset["negative_id"]) == [2, -1, -1, 0, -1]
    assert read.sha256 == texts_sha256(*(read.dataset[name] for name in ("text", "key_text", "negative_text")))
    assert read.sha256 != read_sentences(path, key_column="key").sha256
    plain = Dataset.from_dict({name: read.dataset[name] for name in ("text", "key_text", "negative_text")})
    assert with_sentence_ids(plain).to_dict() == read.dataset.to_dict()
    without_keys = read_sentences(path, negative_column="worse").dataset
    assert list(without_keys["sentence_id"]) == [0, 0, 2, 3, 4]
    assert list(without_keys["negative_id"]) == [-1, -1, -1, 0, -1]


def test_a_column_without_any_hard_negative_is_an_error(tmp_path):
    path = write(tmp_path, ".csv", "text,key,worse\na,b,\nc,d, \n")
    with pytest.raises(InputError, match=r"file\.csv: the column `worse` is blank.*leave out `negative_column`"):
        read_sentences(path, key_column="key", negative_column="worse")
    with pytest.raises(InputError, match=r"no `negative_column`"):
        read_sentences(write(tmp_path, ".txt", "a\n"), negative_column="worse")
    with pytest.raises(InputError, match=r"no column `bad`.*`negative_column`"):
        read_sentences(path, key_column="key", negative_column="bad")


def test_pairs_need_columns_and_the_named_one(tmp_path):
    with pytest.raises(InputError, match=r"file\.txt: .*no `key_column`.*\.csv"):
        read_sentences(write(tmp_path, ".txt", "a\n"), key_column="other")
    with pytest.raises(InputError, match=r"file\.csv, line 1: no column `other`.*text, third.*`key_column`"):
        read_sentences(write(tmp_path, ".csv", "text,third\na,b\n"), key_column="other")


def test_a_quoted_field_of_a_csv_may_hold_anything(tmp_path):
    content = 'id,text\r\n1,"first line\r\nsecond, line"\r\n2,"a ""word"""\r\n3,plain\r\n'
    assert texts(read_sentences(write(tmp_path, ".csv", content))) == ["first line\nsecond, line", 'a "word"', "plain"]


def test_quotes_of_a_tsv_are_text(tmp_path):
    content = 'text\tid\n"Stop\t1\na "b" c\t2\nd"\t3\n'
    assert texts(read_sentences(write(tmp_path, ".tsv", content))) == ['"Stop', 'a "b" c', 'd"']


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "N/A", "true", "007", "1e5"])
@pytest.mark.parametrize("kind", KINDS)
def test_words_that_look_like_other_types_stay_text(tmp_path, kind, word):
    read = read_sentences(write(tmp_path, kind, content_of(kind, {"text": [word, "a cat"]})))
    assert (texts(read), read.dropped) == ([word, "a cat"], {})


def test_a_line_that_is_wrong_is_named_by_its_place_in_the_file(tmp_path):
    cases = {
        ".txt": (b"a\n\ncaf\xe9\n", r"file\.txt, line 3: not UTF-8 at byte 4 of the line.*iconv"),
        ".csv": (b'text,id\n"a\nb",1\nc\n', r"file\.csv, line 4: 1 fields, but the header names 2"),
        ".tsv": (b"text\tid\na\t1\nb\t2\t3\n", r"file\.tsv, line 3: 3 fields, but the header names 2"),
        ".jsonl": (b'{"text": "a"}\n\n{"txt": "b"}\n', r"file\.jsonl, line 3: no column `text`, the columns are: txt"),
    }
    for kind, (content, message) in cases.items():
        with pytest.raises(InputError, match=message):
            read_sentences(write(tmp_path, kind, content))


def test_an_open_quote_is_named_by_the_first_line_of_its_row(tmp_path):
    content = "text\nfirst\n" + '"a row whose quote never ends\n' + "\n".join(sentences(50))
    with pytest.raises(InputError, match=r"file\.csv, line 3: .*quote"):
        read_sentences(write(tmp_path, ".csv", content))


def test_half_of_a_surrogate_pair_is_reported_with_its_line(tmp_path):
    path = write(tmp_path, ".jsonl", '{"text": "a"}\n{"text": "cat \\ud83d"}\n')
    with pytest.raises(InputError, match=r"file\.jsonl, line 2: "):
        read_sentences(path)


def test_a_whole_surrogate_pair_is_one_character(tmp_path):
    assert texts(read_sentences(write(tmp_path, ".jsonl", '{"text": "cat \\ud83d\\ude00"}\n'))) == ["cat 😀"]


def test_bytes_of_a_parquet_column_that_are_no_utf8_are_reported(tmp_path):
    binary = pa.array([b"a cat", b"\xff\xfe"], pa.binary())
    texts_of_bytes = pa.Array.from_buffers(pa.string(), 2, binary.buffers())
    pq.write_table(pa.table({"text": texts_of_bytes}), tmp_path / "file.parquet")
    with pytest.raises(InputError, match=r"file\.parquet.*UTF-8"):
        read_sentences(tmp_path / "file.parquet")


def test_sha256_tells_contents_apart_and_only_those(tmp_path):
    def digest(content: str, kind: str = ".txt", **options) -> str:
        return read_sentences(write(tmp_path, kind, content), **options).sha256

    base = digest("a cat\na dog\n")
    assert re.fullmatch("[0-9a-f]{64}", base)
    assert digest("a cat\r\n\r\na dog\r\na cat") == base
    assert digest("text\na cat\na dog\n", ".csv") == base
    different = {base, digest("a cat\n"), digest("a dog\na cat\n"), digest("a cat\na dot\n"), digest("a cata dog\n")}
    assert len(different) == 5
    pairs = "text,key\na,b\nc,d\n"
    assert digest(pairs, ".csv", key_column="key") != digest(pairs, ".csv")
    assert digest(pairs, ".csv", key_column="key") != digest("text,key\na,b\nc,e\n", ".csv", key_column="key")


def test_a_hub_dataset_is_cleaned_like_a_file(monkeypatch, tmp_path):
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return Dataset.from_dict({"sentence": ["a cat", None, "a dog", "a cat"], "label": [1, 2, 3, 4]})

    monkeypatch.setattr(readers, "load_dataset", load_dataset)
    read = read_hub_sentences("someone/texts", "small", "train[:4]", text_column="sentence")
    assert asked == [(("someone/texts", "small"), {"split": "train[:4]", "revision": None})]
    assert (texts(read), read.rows_read, read.dropped) == (["a cat", "a dog"], 4, {"blank": 1, "duplicate": 1})
    assert read.sha256 == read_sentences(write(tmp_path, ".txt", "a cat\na dog\n")).sha256
    with pytest.raises(InputError, match=r"someone/texts \(train\): no column `text`.*sentence, label.*`text_column`"):
        read_hub_sentences("someone/texts", None, "train")
    with pytest.raises(InputError, match=r"someone/texts \(train\).*`label` holds '1', which is no text"):
        read_hub_sentences("someone/texts", None, "train", text_column="label")


def test_an_error_is_reported_on_one_line():
    assert one_line(ValueError("It failed.\n  More\tof it. ")) == "It failed. More of it"
    assert one_line(KeyError()) == "KeyError"
    assert one_line(ValueError("a" * 300)) == "a" * 300
    long = one_line(ValueError("word " * 5000))
    assert len(long) == 300
    assert long.startswith("word word")
    assert long.endswith("…")


def test_missing_sentence_ids_are_numbered():
    numbered = with_sentence_ids(Dataset.from_dict({"text": ["a", "b", "c"]}))
    assert list(numbered["sentence_id"]) == [0, 1, 2]
    own = Dataset.from_dict({"text": ["a", "b"], "sentence_id": [7, 5]})
    assert list(with_sentence_ids(own)["sentence_id"]) == [7, 5]
    rows = [{"text": "a"}]
    assert with_sentence_ids(rows) is rows


def test_collator_pads_to_the_longest_of_the_batch(tokenizer):
    batch = SentenceCollator(tokenizer)([{"text": "a cat sees the dog"}, {"text": "a bird"}])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert {tuple(value.shape) for value in batch.values()} == {(2, 7)}
    assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 4 + [0] * 3]
    words = ["[CLS]", "a", "bird", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][1].tolist()) == words


def test_collator_cuts_at_max_seq_length(tokenizer):
    batch = SentenceCollator(tokenizer, max_seq_length=6)(
        [{"text": "a cat sees the dog near the old river", "key_text": "a " * 50}]
    )
    kept = tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist())
    assert kept == ["[CLS]", "a", "cat", "sees", "the", "[SEP]"]
    assert batch["key_input_ids"].shape == (1, 6)
    assert SentenceCollator(tokenizer)([{"text": "a " * 50}])["input_ids"].shape == (1, 32)


def test_collator_makes_key_tensors_and_ids(tokenizer):
    rows = [
        {"text": "a cat", "key_text": "the cat sees a dog", "sentence_id": 12},
        {"text": "a small bird", "key_text": "a bird", "sentence_id": 3},
    ]
    collate = SentenceCollator(tokenizer)
    batch = collate(rows)
    assert set(batch) == {
        f"{key}{name}" for key in ("", "key_") for name in ("input_ids", "attention_mask", "token_type_ids")
    } | {"sentence_ids"}
    assert batch["input_ids"].shape == (2, 5)
    assert batch["key_input_ids"].shape == batch["key_attention_mask"].shape == (2, 7)
    assert batch["sentence_ids"].dtype == torch.int64
    assert batch["sentence_ids"].tolist() == [12, 3]
    alone = collate([{"text": row["key_text"]} for row in rows])
    assert torch.equal(batch["key_input_ids"], alone["input_ids"])


def test_packed_sentences_stand_in_one_row_with_positions_and_bounds(tokenizer):
    texts = ["a cat", "the old dog sees a cat", "a"]
    batch = SentenceCollator(tokenizer, first_position=2)([{"text": t, "sentence_id": i} for i, t in enumerate(texts)])
    assert batch["input_ids"].tolist() == [[token for text in texts for token in tokenizer(text)["input_ids"]]]
    assert batch["token_type_ids"].tolist() == [[0] * 15]
    assert batch["position_ids"].tolist() == [[2, 3, 4, 5, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 4, 12, 15]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == 8
    assert batch["sentence_ids"].tolist() == [0, 1, 2]
    assert "attention_mask" not in batch


def test_packed_sentences_are_cut_at_max_seq_length(tokenizer):
    batch = SentenceCollator(tokenizer, max_seq_length=5, first_position=0)([{"text": t} for t in sentences(4)])
    assert batch["max_length_q"] == 5
    assert batch["cu_seq_lens_q"].diff().max() == 5


def test_collator_works_in_worker_processes(tmp_path, tokenizer):
    made = sentences(10)
    columns = {"text": made, "key": sentences(10, seed=1)}
    dataset = read_sentences(write(tmp_path, ".csv", content_of(".csv", columns)), key_column="key").dataset
    collate = SentenceCollator(tokenizer)
    batches = list(DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=2))
    expected = list(DataLoader(dataset, batch_size=4, collate_fn=collate))
    assert [batch["sentence_ids"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for batch, same in zip(batches, expected, strict=True):
        assert set(batch) == set(same)
        assert all(torch.equal(batch[name], same[name]) for name in same)
