"""Read the rows of a file or of a dataset on the hub one by one, whatever its size, and check each."""

import codecs
import csv
import errno
import gzip
import hashlib
import json
import os
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from mocose_hf.errors import InputError, one_line

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

FINGERPRINT_BYTES = 2**20
"""How much of a file's start and of its end goes into its fingerprint."""

_ROWS_AT_ONCE = 1024

_MARKS = {  # that of UTF-32 goes first, as it starts with that of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}

_NAME_ANOTHER = "name one by --text_column or --key_column, or add the missing header line"

Row = tuple[str | None, str | None]
"""The text of a sentence and, in pairs, the text of its key view."""


def read_rows(path: str | Path, text_column: str = "text", key_column: str | None = None) -> Iterator[Row]:
    """Read the rows of a file, blank ones too, and keep no more than a few of them in memory.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns; each may be gzipped and named .gz. UTF-8, with or without a byte order mark.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column whose text the target sees instead, which makes each row a pair.

    Raises:
        InputError: Where the file cannot be used, with its name, the line where there is one, and the remedy; what
            stands inside the file is told when it is reached.
    """
    columns = [column for column in (text_column, key_column) if column is not None]
    if _kind(Path(path)) == ".txt":
        if key_column is not None:
            raise InputError(
                f"{path}: a text file has no columns, so no --key_column; use .csv, .tsv, .jsonl or .parquet."
            )
        return ((text, None) for text in iterate_lines(path))
    records = read_records(path, columns, remedy=_NAME_ANOTHER)
    return ((None, None) if record is None else _row(record, text_column, key_column) for _, record in records)


def read_records(
    path: str | Path,
    columns: Sequence[str],
    any_type: Collection[str] = (),
    remedy: str = "rename a column, or add the missing header line",
) -> Iterator[tuple[str, dict[str, object] | None]]:
    """Read some columns of a file, row by row; otherwise as `read_rows`.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file, or one of these and .gz.
        columns: Names of the columns.
        any_type: Those of them that need not hold text, such as a score.
        remedy: What to do if a column is missing.

    Yields:
        The place of the row (file and line or row), and its values by column; None if the row is blank.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == ".txt":
        raise InputError(
            f"{path}: a text file has no columns, but {', '.join(columns)} are needed; use .csv, .tsv, .jsonl or "
            ".parquet."
        )
    if kind == ".parquet":
        return _parquet_records(path, columns, any_type, remedy)
    lines = iterate_lines(path)
    if kind == ".jsonl":
        return _jsonl_records(path, lines, columns, any_type, remedy)
    return _table_records(path, lines, kind, columns, remedy)


def _kind(path: Path) -> str:
    """Return the suffix that tells the format of a file, without .gz."""
    _refuse_directory(path)
    suffixes = [s.lower() for s in path.suffixes]
    zipped = _is_zipped(path)
    kind = suffixes[-2] if zipped and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if kind not in SUFFIXES:
        raise InputError(f"{path}: the name should end in {', '.join(SUFFIXES)} (or one of these and .gz); rename it.")
    return kind


def load_hub_dataset(name: str, config_name: str | None, split: str, option: str = "--dataset_name", **options):
    """Load a dataset by `datasets.load_dataset`; `option` named it.

    Raises:
        InputError: Where it cannot be loaded.
    """
    try:
        return load_dataset(name, config_name, split=split, **options)
    except Exception as error:  # datasets raises many kinds, from its own to those of the network
        reason = one_line(error)
        raise InputError(f"{option} {name[:99]}: cannot be loaded ({reason}); check name and split.") from error


def record_rows(records, source: str, text_column: str = "text", key_column: str | None = None) -> Iterator[Row]:
    """Take the rows out of records, which are dicts; otherwise as `read_rows`, with `source` in place of the file."""
    columns = [column for column in (text_column, key_column) if column is not None]
    for number, record in enumerate(records, start=1):
        for column in columns:
            _require_column(source, column, record)
        yield _row(_checked(record, f"{source}, row {number}", columns), text_column, key_column)


def strip_row(row: Row, pairs: bool) -> tuple[str, str] | None:
    """Return both texts without white space around them, None where the row is blank or half of a pair."""
    text, key_text = (row[0] or "").strip(), (row[1] or "").strip()
    return None if not text or (pairs and not key_text) else (text, key_text)


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 file without byte order mark and line ends.

    Raises:
        InputError: Where the file is missing, empty or of another encoding.
    """
    return list(iterate_lines(path))


def iterate_lines(path: str | Path) -> Iterator[str]:
    """Decode line by line, so that an error names its line; split at line feeds alone; otherwise as `read_lines`."""
    path = Path(path)
    _refuse_directory(path)
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                for encoding, marks in _MARKS.items():
                    if line.startswith(marks):
                        raise InputError(f"{path}, line 1: {encoding} text; convert it: {_conversion(path, encoding)}")
                line = line.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise InputError(f"{path}, line {number}: binary data, a zero byte; the file should be UTF-8 text.")
            try:
                yield line.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: not UTF-8 at byte {error.start + 1} of the line; if the file is Latin-1, "
                    f"convert it: {_conversion(path, 'LATIN1')}"
                ) from None


def file_fingerprint(path: str | Path) -> str:
    """Return the sha256 (hex) of a file's size, first MiB and last MiB: cheap for any size, the same at any time.

    Raises:
        InputError: Where the file cannot be read.
    """
    path = Path(path)
    _refuse_directory(path)
    with _readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size}\n".encode())
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(size - FINGERPRINT_BYTES, 0))
        digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file, unzipped where its name ends in .gz, and refuse an empty one."""
    with _readable(path), path.open("rb") as raw:
        file = gzip.GzipFile(fileobj=raw) if _is_zipped(path) else raw
        if not file.peek(1):
            raise InputError(f"{path}: the file is empty; it needs one sentence a line or row.")
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell in one line why a file cannot be opened or read further."""
    try:
        yield
    except GeneratorExit:  # the reader stops before the end, maybe because Python does and modules are gone
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a complete gzip file ({one_line(error)}); make it again.") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(path)[:200]}…: {len(str(path))} characters are no path; check it.") from None
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error


def _conversion(path: Path, encoding: str) -> str:
    """Return the command that writes a file anew, in UTF-8 and under another name."""
    zipped = _is_zipped(path)
    new = "newer" if path.name.startswith("new.") else "new"  # a shell would empty the file before it is read
    new = shlex.quote(f"{new}{''.join(path.suffixes[-2:] if zipped else path.suffixes[-1:])}")
    old = shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
    command = f"iconv -f {encoding} -t UTF-8"
    return f"gzip -dc {old} | {command} | gzip > {new}" if zipped else f"{command} {old} > {new}"


def _is_zipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _refuse_directory(path: Path) -> None:
    """Refuse a directory, and a name that no file can have."""
    try:
        impossible = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        impossible = True
    if impossible:
        raise InputError(f"{path}: a zero byte or half of a surrogate pair is in no file's name; check the path.")
    with _readable(path):
        directory = path.is_dir()
    if directory:
        raise InputError(f"{path}: is a directory; give the file in it.")


def _table_records(path, lines, kind, columns, remedy) -> Iterator[tuple[str, dict | None]]:
    dialect = {"strict": True} if kind == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((f"{line}\n" for line in lines), **dialect)
    start = 1
    try:
        header = next(reader)
        for column in columns:
            _require_column(f"{path}, line 1", column, header, remedy)
        start = reader.line_num + 1
        for record in reader:
            if not any(record):
                yield f"{path}, line {start}", None
            elif len(record) == len(header):
                yield f"{path}, line {start}", dict(zip(header, record, strict=True))
            else:
                raise InputError(
                    f"{path}, line {start}: {len(record)} fields, but the header names {len(header)}; "
                    "quote fields that contain the separator or drop the line."
                )
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: {one_line(error)}; mend the quotes or the row.") from error


def _jsonl_records(path, lines, columns, any_type, remedy) -> Iterator[tuple[str, dict | None]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            yield f"{path}, line {number}", None
            continue
        try:
            record = json.loads(line)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()  # fails at half of a surrogate pair
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); each line is one "
                "complete object."
            ) from error
        except UnicodeEncodeError as error:
            raise InputError(
                f"{path}, line {number}: half of a surrogate pair, which is no character; mend the escape."
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({one_line(error)}); each line is one complete object."
            ) from error
        if not isinstance(record, dict):
            raise InputError(f'{path}, line {number}: not a JSON object; write {{"{columns[0][:40]}": "a sentence"}}.')
        for column in columns:
            _require_column(f"{path}, line {number}", column, record, remedy)
        yield f"{path}, line {number}", _checked(record, f"{path}, line {number}", columns, any_type)


def _parquet_records(path, columns, any_type, remedy) -> Iterator[tuple[str, dict | None]]:
    number = 0
    with _opened(path) as file, _seekable(path, file) as seekable:
        try:
            table = pq.ParquetFile(seekable, buffer_size=2**20)
            for column in columns:
                _require_column(str(path), column, table.schema_arrow.names, remedy)
                if column not in any_type:
                    _require_text(path, column, table.schema_arrow.field(column).type)
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(_ROWS_AT_ONCE, [group], list(columns), use_threads=False):
                    for record in batch.to_pylist():
                        number += 1
                        yield f"{path}, row {number}", record
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, after row {number}: bytes that are not UTF-8; write the file again.") from error
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: not a complete parquet file ({one_line(error)}); make it again.") from error


@contextmanager
def _seekable(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    """Unzip to a temporary file on the disk, as the end of a parquet file is read first."""
    if not _is_zipped(path):
        yield file
        return
    with tempfile.TemporaryFile() as unzipped:
        shutil.copyfileobj(file, unzipped)
        unzipped.seek(0)
        yield unzipped


def _row(record: dict, text_column: str, key_column: str | None) -> Row:
    return record[text_column], record[key_column] if key_column else None


def _checked(record: dict, place: str, columns: Sequence[str], any_type: Collection[str] = ()) -> dict:
    """Return a record whose columns hold text, apart from those of any type."""
    for column in columns:
        value = record[column]
        if value is not None and not isinstance(value, str) and column not in any_type:
            raise InputError(
                f"{place}: `{column[:40]}` holds {str(value)[:40]!r}, which is no text; name a text column."
            )
    return record


def _require_column(place: str, column: str, names: Collection[str], remedy: str = _NAME_ANOTHER) -> None:
    if column not in names:
        found = ", ".join(str(name)[:40] for name in list(names)[:8])
        raise InputError(f"{place}: no column `{column[:40]}`, the columns are: {found}; {remedy}.")
    if isinstance(names, list) and names.count(column) > 1:
        raise InputError(f"{place}: {names.count(column)} columns are named `{column[:40]}`; rename all but one.")


def _require_text(path: Path, column: str, kind: pa.DataType) -> None:
    """Refuse a column of another type than text before its values are made, as not all can be."""
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if values not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise InputError(f"{path}, row 1: `{column[:40]}` holds {str(kind)[:40]}, not text; name a text column.")
