"""Rows are read one by one, in constant memory, and a file is told apart without reading it."""

import gzip
import tracemalloc
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mocose_hf.errors import InputError
from mocose_hf.readers import FINGERPRINT_BYTES, file_fingerprint, read_lines, read_records, read_rows

LARGE = 4 * 2**20


def write_large(path):
    """Write more than `LARGE` bytes of text that compresses badly enough, and return how many rows."""
    rows = LARGE // 90
    texts = (f"{i * 2654435761 % 2**64:020d} a cat sees the dog {i:020d} near the old river, {i}" for i in range(rows))
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        schema = pa.schema([("text", pa.string())])
        with pq.ParquetWriter(path, schema) as writer:
            while chunk := list(islice(texts, 5_000)):
                writer.write_table(pa.table({"text": chunk}, schema))
        return rows
    lines = {"jsonl": '{{"text": "{}"}}\n', "csv": '"{}"\n'}.get(kind, "{}\n")
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        if kind in ("csv", "tsv"):
            file.write(b"text\n")
        file.writelines(lines.format(text).encode() for text in texts)
    return rows


def test_read_lines_gives_lines_alone(tmp_path):
    content = "\ufeffone \r\n\r\ntwo\x0c\u2028three\n"
    for name in ("file.tsv", "file.tsv.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
        assert read_lines(path) == ["one ", "", "two\x0c\u2028three"]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    path = tmp_path / name
    rows = write_large(path)
    arrow_before = pa.total_allocated_bytes()
    read, arrow_peak = 0, 0
    tracemalloc.start()
    try:
        for _ in read_rows(path):
            read += 1
            if read % 5000 == 0:
                arrow_peak = max(arrow_peak, pa.total_allocated_bytes() - arrow_before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == rows
    assert peak < LARGE / 4
    assert arrow_peak < LARGE / 2  # one row group


def test_rows_before_a_bad_one_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": 5}\n')
    rows = read_rows(path)
    assert [next(rows), next(rows)] == [("a", None), ("b", None)]
    with pytest.raises(InputError, match="line 3: `text` holds '5'"):
        next(rows)


def test_parquet_rows_before_a_damaged_group_are_read(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(2000)]}), path, row_group_size=1000)
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 60] = b"\xff" * 60
    path.write_bytes(content)
    rows = read_rows(path)
    assert list(islice(rows, 1000)) == [(f"text {i}", None) for i in range(1000)]
    with pytest.raises(InputError, match="not a complete parquet file"):
        next(rows)


def test_fingerprint_tells_start_end_and_size_apart_and_no_more(tmp_path):
    def fingerprint(content: bytes) -> str:
        (tmp_path / "a.txt").write_bytes(content)
        return file_fingerprint(tmp_path / "a.txt")

    size = 3 * FINGERPRINT_BYTES
    base = fingerprint(b"a" * size)
    assert base == fingerprint(b"a" * size)
    different = [b"b" + b"a" * (size - 1), b"a" * (size - 1) + b"b", b"a" * (size + 1), b"a" * 10, b""]
    assert len({base, *map(fingerprint, different)}) == 6
    middle = bytearray(b"a" * size)
    middle[size // 2] = ord("b")
    assert fingerprint(middle) == base
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        file_fingerprint(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet"])
def test_records_hold_the_columns_asked_for_and_their_place(tmp_path, name):
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": ["one", "two"], "other": [True, None], "label": [3, 4]}), path)
    elif name == "a.jsonl":
        path.write_text('{"text": "one", "label": 3}\n\n{"label": 4, "text": "two"}\n', encoding="utf-8")
    else:
        content = "label,text\n3,one\n,\n4,two\n".replace(",", "\t" if ".tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    rows = [
        (place, r and (r["text"], int(r["label"]))) for place, r in read_records(path, ["text", "label"], ["label"])
    ]
    word, first, last = ("row", 1, 2) if name == "a.parquet" else ("line", *((1, 3) if name == "a.jsonl" else (2, 4)))
    assert rows[0] == (f"{path}, {word} {first}", ("one", 3))
    assert rows[-1] == (f"{path}, {word} {last}", ("two", 4))
    assert [r for _, r in rows[1:-1]] == [None] * (word == "line")
    with pytest.raises(
        InputError, match=r"no column `score`, the columns are: .*; rename a column, or add the missing"
    ):
        list(read_records(path, ["score"], ["score"]))
    if name in ("a.jsonl", "a.parquet"):
        with pytest.raises(InputError, match=r"`label` holds .*(no|not) text; name a text column"):
            list(read_records(path, ["label"]))


def test_a_text_file_has_no_records(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt: a text file has no columns, but query, text are needed"):
        read_records(tmp_path / "a.txt", ["query", "text"])
