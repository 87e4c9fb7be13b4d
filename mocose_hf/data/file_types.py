"""Detect the type, the table layout and the encoding of a file, so that an error can name the fitting remedy."""

import csv
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HEAD_BYTES = 1024
"""How many bytes of a file `detect_type` needs."""

GZIP, PARQUET = "a gzip file", "a parquet file"


@dataclass(frozen=True)
class FileType:
    """The type of a file that is not plain text.

    Args:
        name: Its name with an article, such as "a zip archive".
        remedy: What the user can do about it.
    """

    name: str
    remedy: str


@dataclass(frozen=True)
class TableType:
    """The layout of a table in a file that should hold one sentence a line.

    Args:
        name: Its name with an article, such as "a comma-separated table".
        suffix: The suffix that the file should have.
        columns: The names in its header, empty without a header.
    """

    name: str
    suffix: str
    columns: list[str]


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
"""Names that mark the first line of a file as a header."""

_DELIMITERS = {"\t": "tab-separated", ",": "comma-separated", ";": "semicolon-separated"}


def detect_type(head: bytes, path: Path | None = None) -> FileType | None:
    """Return the type of a file, None if it may be plain text.

    Args:
        head: The first `HEAD_BYTES` bytes of the file, or all of them.
        path: The file, to look into a zip archive.
    """
    for magic, name, remedy in _MAGIC:
        if head.startswith(magic):
            office_type = _detect_office_type(path) if magic == b"PK\x03\x04" and path else None
            return office_type or FileType(name, remedy)
    if head[_TAR] == b"ustar":
        return FileType("a tar archive", _UNPACK)
    if head.startswith(_LFS):
        return FileType("a git-lfs pointer, which only names the file", "run `git lfs pull` in its repository")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:200].lower()
    if re.match(rb"<!doctype html|<html[\s>]|<head[\s>]", text):
        return FileType("an HTML page, often an error or login page saved by a download", "download the file itself")
    if text.startswith(b"<?xml"):
        return FileType("an XML document", _AS_TEXT)
    return None


def _detect_office_type(path: Path) -> FileType | None:
    with suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.startswith("xl/") for name in names):
            return FileType("an Excel workbook", "save the sheet as CSV in UTF-8")
        if any(name.startswith("word/") for name in names):
            return FileType("a Word document", _AS_TEXT)
        if "content.xml" in names:
            return FileType("an OpenDocument file", "save it as CSV or text in UTF-8")
    return None


def detect_table(lines: Sequence[str]) -> TableType | None:
    """Return the layout of the table that the first lines of a text file look like, None if they may be sentences."""
    rows = [line for line in lines if line.strip()]
    records = [_parse_object(row) for row in rows]
    if rows and all(record is not None for record in records):
        return TableType("JSON, one object a line", ".jsonl", [str(name) for name in records[0]])
    if len(rows) < 3:
        return None
    for delimiter, name in _DELIMITERS.items():
        columns = _table_columns(rows, delimiter)
        if columns is not None:
            return TableType(f"a {name} table", ".tsv" if delimiter == "\t" else ".csv", columns)
    return None


def _parse_object(row: str) -> dict | None:
    if row.lstrip()[:1] != "{":
        return None
    with suppress(ValueError, RecursionError):
        record = json.loads(row)
        return record if isinstance(record, dict) else None
    return None


def _table_columns(rows: Sequence[str], delimiter: str) -> list[str] | None:
    """Return the column names of a table, [] if it has no header, None if the rows are not a table."""
    if not all(delimiter in row for row in rows[:3]):
        return None
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
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
    has_numbers = any(all(_is_number(record[i]) for record in fields[1:]) for i in range(width)) and len(fields) >= 10
    return [] if delimiter == "\t" or has_numbers or all(f'"{delimiter}"' in row for row in rows) else None


def _is_header(fields: Sequence[str]) -> bool:
    names = [field.lower() for field in fields]
    are_names = all(re.fullmatch(r"[^\W\d][\w.#/-]*( [\w.#/-]+)?", name) for name in names)
    return are_names and len(set(names)) == len(names) and any(name in _COLUMN_NAMES for name in names)


def _is_number(field: str) -> bool:
    return re.fullmatch(r"[+-]?\d+([.,]\d+)?", field) is not None


def guess_encoding(lines: Iterable[bytes], valid_lines: int = 0) -> str | None:
    """Guess the encoding of lines that are not all UTF-8.

    Args:
        lines: Lines with bytes above 127.
        valid_lines: Number of UTF-8 lines with such bytes that were read before.

    Returns:
        UTF-8 if enough lines are valid, so the others are damaged; CP1252 or LATIN1 if the lines read as western
        European text; None otherwise.
    """
    invalid = []
    for line in lines:
        try:
            line.decode("utf-8")
            valid_lines += 1
        except UnicodeDecodeError:
            invalid.append(line)
    if valid_lines and 10 * valid_lines >= len(invalid):
        return "UTF-8"
    content = b"\n".join(invalid)
    sample = content[: 2**20]
    non_ascii = sum(byte > 127 for byte in sample)
    letters = sum(chr(byte).isalpha() for byte in sample if byte < 128)
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return None
    inside = re.findall(r"(?<=[A-Za-z])[^\x00-\x7f](?=[A-Za-z])", text)
    unlikely = sum(not (character.isalpha() or character in "’‘–—…·“”\u00ad\u00a0") for character in inside)
    if non_ascii > letters or 20 * unlikely > len(inside):
        return None
    return "CP1252" if re.search(rb"[\x80-\x9f]", content) else "LATIN1"


def guess_wide_encoding(line: bytes) -> str | None:
    """Guess UTF-16 or UTF-32 from the positions of the zero bytes in a first line; None if it is neither."""
    line = line[:4000]
    zero_shares = [sum(byte == 0 for byte in line[start::4]) * 4 / max(len(line), 1) for start in range(4)]
    are_zero = tuple(share > 0.6 for share in zero_shares)
    names: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "UTF-16LE",
        (True, False, True, False): "UTF-16BE",
        (False, True, True, True): "UTF-32LE",
        (True, True, True, False): "UTF-32BE",
    }
    return names.get(are_zero)
