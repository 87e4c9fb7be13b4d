"""Recognise what a file holds by its first bytes, so that an error names it and the remedy fits."""

import csv
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

HEAD_BYTES = 1024
"""How much of a file's start `recognize` needs at most."""

GZIP, PARQUET = "a gzip file", "a parquet file"

_UNPACK = "unpack it and give the file in it"
_AS_TEXT = "save its text, one sentence a line"
_MAGIC = (
    (b"\x1f\x8b", GZIP, "give its name the ending .gz"),
    (b"PAR1", PARQUET, "give its name the ending .parquet"),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"BZh", "a bzip2 file", "unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "a zstandard file", "unpack it with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office file", "save it as CSV or text in UTF-8"),
    (b"%PDF-", "a PDF file", "extract its text, for example with pdftotext"),
    (b"{\\rtf", "a rich text file", _AS_TEXT),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", "give a text file"),
    (b"\xff\xd8\xff", "a JPEG image", "give a text file"),
    (b"GIF8", "a GIF image", "give a text file"),
    (b"\x7fELF", "a program", "give a text file"),
    (b"SQLite format 3\0", "an SQLite database", "export a table as CSV"),
    (b"ARROW1\0\0", "an Arrow file", "save it as parquet"),
    (b"ORC", "an ORC file", "save it as parquet"),
    (b"Obj\x01", "an Avro file", "save it as parquet"),
    (b"\x93NUMPY", "a NumPy array", _AS_TEXT),
)
_LFS = b"version https://git-lfs.github.com/spec/"
_TAR = slice(257, 262)

_COLUMN_NAMES = set(
    """
    abstract answer article author body category class comment content context date description document entailment
    headline hypothesis id idx index intent key label labels lang language message name negative nr paraphrase positive
    premise query question rating review score sentence sentence1 sentence2 sentence_a sentence_b sentences sentiment
    similarity source split subject summary tag target text text1 text2 title topic tweet url utterance
    """.split()  # noqa: SIM905
)
"""Names that make the first line of a file a header of columns."""

_DELIMITERS = {"\t": "tab-separated", ",": "comma-separated", ";": "semicolon-separated"}


def recognize(head: bytes, path: Path | None = None) -> tuple[str, str] | None:
    """Return what a file is and what to do with it, None if it may be plain text.

    Args:
        head: Its first bytes, `HEAD_BYTES` or all of them.
        path: The file itself if it is a zip archive that may be looked into.
    """
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic):
            return (_in_zip(path) if magic == b"PK\x03\x04" and path else None) or (what, remedy)
    if head[_TAR] == b"ustar":
        return "a tar archive", _UNPACK
    if head.startswith(_LFS):
        return "a git-lfs pointer, which only names the file", "run `git lfs pull` in its repository"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if re.match(rb"<!doctype html|<html[\s>]|<head[\s>]", text):
        return "an HTML page, often an error or login page saved by a download", "download the file itself"
    if text.startswith(b"<?xml"):
        return "an XML document", _AS_TEXT
    return None


def _in_zip(path: Path) -> tuple[str, str] | None:
    with suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.startswith("xl/") for name in names):
            return "an Excel workbook", "save the sheet as CSV in UTF-8"
        if any(name.startswith("word/") for name in names):
            return "a Word document", _AS_TEXT
        if "content.xml" in names:
            return "an OpenDocument file", "save it as CSV or text in UTF-8"
    return None


def recognize_table(lines: Sequence[str]) -> tuple[str, str, list[str]] | None:
    """Return what kind of table the first lines of a text file are, None if they may be sentences.

    Returns:
        What it is, the suffix that its name should have, and the names of its columns if a header names them.
    """
    rows = [line for line in lines if line.strip()]
    records = [_json_object(row) for row in rows]
    if rows and all(record is not None for record in records):
        return "JSON, one object a line", ".jsonl", [str(name) for name in records[0]]
    if len(rows) < 3:
        return None
    for delimiter, what in _DELIMITERS.items():
        names = _header_of_table(rows, delimiter)
        if names is not None:
            return f"a {what} table", ".tsv" if delimiter == "\t" else ".csv", names
    return None


def _json_object(row: str) -> dict | None:
    if row.lstrip()[:1] != "{":
        return None
    with suppress(ValueError, RecursionError):
        record = json.loads(row)
        return record if isinstance(record, dict) else None
    return None


def _header_of_table(rows: Sequence[str], delimiter: str) -> list[str] | None:
    """Return the columns of a table, [] if no header names them, None if the rows are no such table."""
    if not all(delimiter in row for row in rows[:3]):
        return None
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    try:
        fields = list(csv.reader((f"{row}\n" for row in rows), delimiter=delimiter, quoting=quoting))
    except csv.Error:
        return None
    fields = fields[:-1] if len(fields) > 3 else fields  # the sample may end inside a quoted field
    width = len(fields[0])
    if width < 2 or len(fields) < 3 or any(len(record) != width for record in fields):
        return None
    if _is_header(fields[0]):
        return fields[0]
    numbers = any(all(_is_number(record[i]) for record in fields[1:]) for i in range(width)) and len(fields) >= 10
    return [] if delimiter == "\t" or numbers or all(f'"{delimiter}"' in row for row in rows) else None


def _is_header(fields: Sequence[str]) -> bool:
    names = [field.lower() for field in fields]
    plain = all(re.fullmatch(r"[^\W\d][\w.#/-]*( [\w.#/-]+)?", name) for name in names)
    return plain and len(set(names)) == len(names) and any(name in _COLUMN_NAMES for name in names)


def _is_number(field: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?", field) is not None


def guess_encoding(lines: Iterable[bytes], valid_lines: int = 0) -> str | None:
    """Guess the encoding of lines that are not all UTF-8.

    Args:
        lines: Lines with bytes above 127.
        valid_lines: How many such lines before them are UTF-8.

    Returns:
        UTF-8 if some lines are, so that the others are damaged; CP1252 or LATIN1 if they read as western European
        text; None otherwise.
    """
    broken = []
    for line in lines:
        try:
            line.decode("utf-8")
            valid_lines += 1
        except UnicodeDecodeError:
            broken.append(line)
    if valid_lines and 10 * valid_lines >= len(broken):
        return "UTF-8"
    whole = b"\n".join(broken)
    sample = whole[: 2**20]
    high = sum(byte > 127 for byte in sample)
    letters = sum(chr(byte).isalpha() for byte in sample if byte < 128)
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return None
    inside = re.findall(r"(?<=[A-Za-z])[^\x00-\x7f](?=[A-Za-z])", text)
    strange = sum(not (character.isalpha() or character in "’‘–—…·“”\u00ad\u00a0") for character in inside)
    if high > letters or 20 * strange > len(inside):
        return None
    return "CP1252" if re.search(rb"[\x80-\x9f]", whole) else "LATIN1"


def guess_wide_encoding(line: bytes) -> str | None:
    """Return the form of UTF-16 or UTF-32 that the zero bytes of a first line point to, None if it is neither."""
    line = line[:4000]
    zeros = [sum(byte == 0 for byte in line[start::4]) * 4 / max(len(line), 1) for start in range(4)]
    full = tuple(share > 0.6 for share in zeros)
    return {
        (False, True, False, True): "UTF-16LE",
        (True, False, True, False): "UTF-16BE",
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
    }.get(full)
