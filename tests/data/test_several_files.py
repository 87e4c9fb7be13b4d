"""Several files and patterns count as one file."""

import sys
from pathlib import Path

import pytest
from builders import REPOSITORY, sentences
from text_files import content_of, write

from mocose_hf import SentenceStream
from mocose_hf.data.open_file import describe_files, find_files
from mocose_hf.data.sentences import read_sentences
from mocose_hf.errors import InputError
from mocose_hf.export.model_card import without_folders
from mocose_hf.search.corpus import open_corpus

sys.path.insert(0, str(REPOSITORY))

import run_mocose

MADE = sentences(24)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """a.txt, notes/1.csv, notes/2.tsv, notes/deep/3.jsonl and b.parquet with parts of `MADE`, and one.txt with all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    parts = {"a": ".txt", "notes/1": ".csv", "notes/2": ".tsv", "notes/deep/3": ".jsonl", "b": ".parquet"}
    for number, (name, kind) in enumerate(parts.items()):
        texts = MADE[5 * number : 5 * number + 5]
        write(tmp_path, kind, content_of(kind, {"text": [*texts, texts[0]]}), name)
    (tmp_path / "one.txt").write_text("\n".join(MADE) + "\n", encoding="utf-8")
    return tmp_path


FILES = ["a.txt", "notes/[12].*", "notes/deep/3.jsonl", "b.parquet"]


def test_several_files_are_read_as_one_file_would_be(folder):
    several, one = read_sentences(FILES), read_sentences("one.txt")
    assert several.dataset["text"][:] == MADE
    assert several.sha256 == one.sha256
    assert several.dataset["sentence_id"][:] == one.dataset["sentence_id"][:]
    assert (several.rows_read, several.dropped) == (29, {"duplicate": 5})


def test_several_files_are_streamed_as_one_file_would_be(folder):
    stream = SentenceStream(FILES, shuffle_buffer_size=1)
    rows = list(stream.one_pass())
    assert list(dict.fromkeys(row["text"] for row in rows)) == MADE
    assert [row["sentence_id"] for row in rows] == list(range(29))


def test_files_come_in_the_given_order_those_of_a_pattern_by_name_and_each_once(folder):
    assert find_files(["b.parquet", "notes/*", "b.parquet", "notes/2.tsv"]) == [
        Path("b.parquet"),
        Path("notes/1.csv"),
        Path("notes/2.tsv"),
    ]
    assert find_files("**/3.*") == [Path("notes/deep/3.jsonl")]
    (folder / "[1].txt").write_text("odd\n")
    assert find_files("[1].txt") == [Path("[1].txt")]


def test_the_fingerprint_of_a_stream_depends_on_each_file_and_their_order(folder):
    def fingerprint(*names):
        return SentenceStream(list(names)).fingerprint

    known = {fingerprint("a.txt", "b.parquet"), fingerprint("b.parquet", "a.txt"), fingerprint("a.txt")}
    assert fingerprint("a.txt", "b.parquet") in known
    (folder / "a.txt").write_text("other\n")
    assert len(known | {fingerprint("a.txt", "b.parquet"), fingerprint("a.txt")}) == 5
    assert "each of 2 files'" in fingerprint("a.txt", "b.parquet")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("*.json", {}, "*.json: the pattern names no file; check the folder"),
        (["a.txt", "none.txt"], {}, "none.txt: no such file; check the path"),
        ("a.txt,b.parquet", {}, "a.txt,b.parquet: no such file; separate several files by spaces"),
        (["a.txt", "titles.csv"], {}, "titles.csv, line 1: no column `text`"),
        (["notes/1.csv", "a.txt"], {"key_column": "text"}, "a.txt: a text file has no columns, so no `key_column`"),
        (["a.txt", "notes"], {}, "notes: is a directory"),
    ],
)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streaming"])
def test_files_that_cannot_be_read_together_fail_before_training(folder, given, options, message, streams):
    (folder / "titles.csv").write_text("title\na cat\n")

    def read():
        return (
            SentenceStream(given, **options).validate_first_batch(1) if streams else read_sentences(given, **options)
        )

    with pytest.raises(InputError) as error:
        read()
    assert str(error.value).startswith(message)


def test_the_command_takes_several_files_and_resumes_on_the_same_ones_only(folder, encoder_dir, capsys):
    argv = ["--model_name_or_path", str(encoder_dir), "--use_cpu", "--per_device_train_batch_size", "4"]
    argv += ["--max_steps", "4", "--save_steps", "2", "--queue_size", "8", "--output_dir", "out", "--train_file"]
    assert run_mocose.main([*argv, *FILES]) == 0
    assert "a.txt and 4 more files: 29 rows read, dropped: 5 duplicate; 24 sentences." in capsys.readouterr().out
    again = ["--resume_from_checkpoint", str(folder / "out" / "checkpoint-2")]
    assert run_mocose.main([*argv, *FILES[:3], *again]) == 2
    assert "was trained on other text" in capsys.readouterr().err
    assert run_mocose.main([*argv, "a.txt", "**/[123].*", "b.parquet", *again]) == 0


def test_a_configuration_file_has_a_list(folder, encoder_dir):
    (folder / "run.yaml").write_text("train_file: [a.txt, 'notes/*.csv']\nmax_steps: 1\n")
    argv = ["run.yaml", "--model_name_or_path", str(encoder_dir), "--use_cpu", "--queue_size", "8"]
    assert run_mocose.main([*argv, "--per_device_train_batch_size", "4", "--output_dir", "out"]) == 0


def test_names_of_several_files_in_messages_and_cards(folder):
    assert [describe_files(["a", "b", "c"][:count]) for count in (1, 2, 3)] == [
        "a",
        "a and 1 more file",
        "a and 2 more files",
    ]
    assert without_folders("mocose train --train_file /home/me/a.txt 'notes/*.csv'") == (
        "mocose train --train_file a.txt '*.csv'"
    )


def test_a_pattern_is_searched(folder, encoder_dir, tmp_path):
    _, index, is_new = open_corpus(str(encoder_dir), "notes/*.?sv", index_dir=str(tmp_path / "index"))
    assert (len(index), is_new) == (12, True)
    assert not open_corpus(str(encoder_dir), "notes/*.?sv", index_dir=str(tmp_path / "index"))[2]
