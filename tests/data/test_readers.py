"""Rows are read one by one, in constant memory, and a file is told apart without reading it."""

import errno
import gzip
import io
import subprocess
import tracemalloc
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mocose_hf.data import record_formats, text_lines
from mocose_hf.data.open_file import FINGERPRINT_BYTES, file_fingerprint
from mocose_hf.data.readers import Row, read_records, read_rows
from mocose_hf.data.sentences import read_sentences
from mocose_hf.data.text_lines import read_lines
from mocose_hf.errors import InputError

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
    assert [next(rows), next(rows)] == [Row("a"), Row("b")]
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
    assert list(islice(rows, 1000)) == [Row(f"text {i}") for i in range(1000)]
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


WINDOWS = "He said “the cat’s here” – in a café…"
ENCODED = {
    "cp1252": WINDOWS,
    "latin-1": "Käfer, señor",
    "koi8-r": "кот видит пса",
    "shift_jis": "猫は犬を見る",
    "gb18030": "猫看见狗",
    "utf-16": "ein Käfer – 猫",
    "utf-16-le": "ein Käfer\u2028– 猫",
    "utf-32": "a cat\x85 and 猫",
    "utf-8": "Käfer",
}


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("encoding", ENCODED)
def test_a_file_of_a_named_encoding_gives_the_same_text(tmp_path, encoding, suffix):
    text, path = ENCODED[encoding], tmp_path / f"a{suffix}"
    lines = {".jsonl": [f'{{"text": "{text}"}}', '{"text": "a"}'], ".csv": ["text", f'"{text}"', "a"]}
    lines[".tsv"] = ["text", text, "a"]
    content = "".join(f"{line}\r\n" for line in lines.get(suffix, [text, "a"])).encode(encoding)
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    assert list(read_rows(path, encoding=encoding)) == [Row(text), Row("a")]
    assert list(read_sentences(path, encoding=encoding).dataset["text"]) == [text, "a"]


def test_text_of_windows_is_not_read_as_latin_1(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(f"a\n{WINDOWS}\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"line 2: control characters, if it is iso8859-1; .*`encoding` cp1252"):
        list(read_rows(path, encoding="latin-1"))


@pytest.mark.parametrize(
    ("encoding", "content", "message"),
    [
        ("cp1252", b"a\nb\x81\n", r"a\.txt, line 2: not cp1252 at byte 2 of the line; give another `encoding`"),
        (
            "utf-16",
            "a cat\n".encode("utf-16")[:-1],
            r"a\.txt, from line 1 on: not utf-16 \(.*; give another `encoding`",
        ),
        ("no-such", b"a\n", r"`encoding` no-such: is unknown; give one that Python has, such as cp1252\."),
        ("base64", b"a\n", r"`encoding` base64: is unknown"),
        ("a\0b", b"a\n", r"`encoding` a\\x00b: is unknown"),
    ],
    ids=["byte", "half", "unknown", "no text", "zero"],
)
def test_an_encoding_that_does_not_fit_is_an_error(tmp_path, encoding, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(path, encoding=encoding))


def test_a_parquet_file_takes_no_encoding(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="leave out `encoding`"):
        list(read_rows(tmp_path / "a.parquet", encoding="cp1252"))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_long_document_is_a_field(tmp_path, suffix):
    document = "a cat sees the dog " * 10_000
    path = tmp_path / f"a{suffix}"
    path.write_text(f"text\n{document}\nb\n")
    assert list(read_rows(path)) == [Row(document), Row("b")]


def test_a_bomb_of_one_line_takes_no_more_memory_than_the_longest_line(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"a" * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(
            InputError, match=r"a\.txt\.gz, line 1: longer than 1 MiB; write one sentence or row a line"
        ):
            list(read_rows(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_full_folder_for_temporary_files_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet.gz"
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), buffer)
    path.write_bytes(gzip.compress(buffer.getvalue()))

    class Full(io.BytesIO):
        def write(self, chunk):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record_formats.tempfile, "TemporaryFile", Full)
    with pytest.raises(InputError, match=r"temporary files \(No space left on device\); set TMPDIR .* gzip -d"):
        list(read_rows(path))

    def no_folder():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(record_formats.tempfile, "TemporaryFile", no_folder)
    with pytest.raises(InputError, match=r"temporary files \(No usable temporary directory found\); set TMPDIR"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("*.txt", "patterns are not expanded; join the files into one and give that"),
        ("part-[0-9].jsonl", "patterns are not expanded"),
        ("a.txt,b.txt", "only one file is read"),
        ("https://example.org/a.txt", "download it and give its path"),
        ("none.txt", "check the path"),
    ],
)
def test_what_is_no_path_of_one_file_is_named(tmp_path, monkeypatch, name, advice):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(InputError, match=f": no such file; {advice}"):
        list(read_rows(name))


SENTENCES_THAT_LOOK_ODD = {
    "places": "Paris, France\nBerlin, Germany\nRome, Italy\nOslo, Norway\nBern, Switzerland\n",
    "one comma": "Yes, a cat\nNo, a dog\nWell, a bird\nSo, a cow\n",
    "numbers": "2020\n2021\n2022\n2023\n2024\n2025\n",
    "decimal commas": "It costs 1,5\nIt costs 2,5\nIt costs 3,5\nIt costs 4,5\nIt costs 5,5\nIt costs 6,5\n",
    "one word": "text\na cat\na dog\n",
    "braces": "{a cat}\n{a dog}\n{a bird}\n",
    "a tab": "a\tcat\na dog\na bird\n",
    "code": "<b>a</b>\n<i>b</i>\n",
    "version": "version https://example.org\nPKZIP\nBZh\n",
}


@pytest.mark.parametrize("text", SENTENCES_THAT_LOOK_ODD.values(), ids=SENTENCES_THAT_LOOK_ODD)
def test_sentences_are_not_taken_for_a_table(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert [row.text for row in read_rows(tmp_path / "a.txt")] == text.splitlines()


@pytest.mark.parametrize("name", ["a.csv", "two words.csv", "a.csv.gz", "a.tsv"])
def test_the_command_against_semicolons_makes_the_file_usable(tmp_path, name):
    content = b'id;text\n1;"a; b"\n2;"c ""d"""\n'
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError) as raised:
        list(read_rows(path))
    command = str(raised.value).partition("write commas: ")[2]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    new = tmp_path / ("new.csv.gz" if name.endswith("gz") else "new.csv")
    assert list(read_rows(new)) == [Row("a; b"), Row('c "d"')]
