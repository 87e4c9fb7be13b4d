"""A file is written whole or not at all."""

import pytest

from mocose_hf.files import read_json_object, replacing, write_text


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
