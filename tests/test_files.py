"""A file is written completely or not at all, and a hash identifies content."""

import os
from dataclasses import dataclass

import pytest
from datasets import Dataset

from mocose_hf.files import content_sha256, file_sha256, read_json_object, replacing, write_text


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "figures.json"
    write_text(path, "old\n")
    with pytest.raises(KeyboardInterrupt), replacing(path) as unfinished:  # noqa: PT012
        unfinished.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path]
    write_text(path, "new é\n")
    assert path.read_bytes() == "new é\n".encode()


@pytest.mark.parametrize("content", [None, b"", b"[1]", b"1", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_reads_as_an_empty_one(tmp_path, content):
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_bytes(content)
    assert read_json_object(path) == {}
    path.write_text('{"a": 1}')
    assert read_json_object(path) == {"a": 1}


def test_file_hash_follows_the_content(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    first = file_sha256(path)
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))
    assert file_sha256(path) != first


@dataclass
class Judged:
    text: str
    grade: int


def test_content_hash_distinguishes_values_and_their_grouping():
    values = [
        [["a", "b"], ["c"]],
        [["a"], ["b", "c"]],
        {"a": 1},
        {"a": "1"},
        Judged("a", 1),
        Judged("a", 2),
        Dataset.from_dict({"text": ["a", "b"]}),
        Dataset.from_dict({"text": ["a", "c"]}),
    ]
    assert len({content_sha256(value) for value in values}) == len(values)
    assert content_sha256(Dataset.from_dict({"text": ["a"]})) == content_sha256({"text": ["a"]})
    assert content_sha256(Judged("a", 1)) == content_sha256({"text": "a", "grade": 1})
