"""Read the rows of a file or of a dataset on the hub one by one, whatever its size, and check each."""

import gzip
import itertools
import shlex
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from datasets import load_dataset

from mocose_hf.data.file_types import GZIP, HEAD_BYTES, detect_table, detect_type
from mocose_hf.data.open_file import is_gzipped, shell_path, validate_path
from mocose_hf.data.record_formats import (
    ADD_HEADER,
    PlacedRecord,
    Record,
    read_jsonl,
    read_parquet,
    read_table,
    validate_column,
    validate_text,
)
from mocose_hf.data.text_lines import iterate_lines
from mocose_hf.errors import InputError, one_line

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

_SAMPLE_LINES = 30

_NAME_COLUMN = "give `text_column` or `key_column`, or add the missing header line"

Row = tuple[str | None, str | None]
"""The text of a sentence and, in pairs, the text of its key view."""


def read_rows(
    path: str | Path, text_column: str = "text", key_column: str | None = None, encoding: str | None = None
) -> Iterator[Row]:
    """Yield the rows of a file, blank ones too, in constant memory.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns. Each may be gzipped and named .gz. UTF-8, with or without a byte order mark.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column with the text of the key view, which makes each row a pair.
        encoding: Python's name of the file's encoding if it is not UTF-8, such as cp1252; not for .parquet.

    Raises:
        InputError: If the file cannot be used, with its name, the line and the remedy. Errors inside the file are
            raised when they are reached.
    """
    path = Path(path)
    if _format_suffix(path) == ".txt":
        if key_column is not None:
            raise InputError(
                f"{path}: a text file has no columns, so no `key_column`; use .csv, .tsv, .jsonl or .parquet."
            )
        return ((text, None) for text in _sentence_lines(path, iterate_lines(path, encoding, advise_encoding=True)))
    columns = [column for column in (text_column, key_column) if column is not None]
    records = read_records(path, columns, remedy=_NAME_COLUMN, encoding=encoding)
    return ((None, None) if record is None else _row(record, text_column, key_column) for _, record in records)


def read_records(
    path: str | Path,
    columns: Sequence[str],
    any_type: Collection[str] = (),
    remedy: str = ADD_HEADER,
    encoding: str | None = None,
) -> Iterator[PlacedRecord]:
    """Yield the place (file and line or row) and the values of each row, None for a blank row.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file, or one of these and .gz.
        columns: Names of the columns that must be present.
        any_type: Columns among them that need not hold text, such as a score.
        remedy: The remedy if a column is missing.
        encoding: As `read_rows` takes it.

    Raises:
        InputError: As `read_rows`.
    """
    path = Path(path)
    suffix = _format_suffix(path)
    if suffix == ".txt":
        raise InputError(
            f"{path}: a text file has no columns, but {', '.join(columns)} are needed; use .csv, .tsv, .jsonl or "
            ".parquet."
        )
    if suffix == ".parquet":
        if encoding is not None:
            raise InputError(f"{path}: a parquet file states its own encoding; leave out `encoding`.")
        return read_parquet(path, columns, any_type, remedy)
    lines = iterate_lines(path, encoding, advise_encoding=True)
    if suffix == ".jsonl":
        return read_jsonl(path, lines, columns, any_type, remedy)
    return read_table(path, lines, suffix, columns, remedy)


def record_rows(
    records: Iterable[Record], source: str, text_column: str = "text", key_column: str | None = None
) -> Iterator[Row]:
    """Yield the rows of records of a dataset; `source` is its name in errors, otherwise as `read_rows`."""
    columns = [column for column in (text_column, key_column) if column is not None]
    for number, record in enumerate(records, start=1):
        for column in columns:
            validate_column(source, column, record, _NAME_COLUMN)
        validate_text(f"{source}, row {number}", record, columns)
        yield _row(record, text_column, key_column)


def load_hub_dataset(name: str, config_name: str | None, split: str, argument: str = "dataset_name", **options):
    """Load a dataset by `datasets.load_dataset`; `argument` names the argument in errors.

    Raises:
        InputError: If it cannot be loaded.
    """
    try:
        return load_dataset(name, config_name, split=split, **options)
    except Exception as error:  # datasets raises many kinds, from its own to those of the network
        reason = one_line(error)
        raise InputError(f"`{argument}` {name[:99]}: cannot be loaded ({reason}); check name and split.") from error


def strip_row(row: Row, is_pair: bool) -> tuple[str, str] | None:
    """Return both texts without surrounding white space, None if the row is blank or half of a pair."""
    text, key_text = (row[0] or "").strip(), (row[1] or "").strip()
    return None if not text or (is_pair and not key_text) else (text, key_text)


def _format_suffix(path: Path) -> str:
    """Return the suffix that names the format of a file, without .gz."""
    validate_path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if is_gzipped(path):
        suffixes = suffixes[:-1] or suffixes
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in SUFFIXES:
        raise _unknown_suffix(path)
    return suffix


def _unknown_suffix(path: Path) -> InputError:
    """Return the error for an unknown suffix; the content of the file decides the remedy."""
    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD_BYTES)
            found = detect_type(head, path)
            if found is not None and found.name == GZIP and is_gzipped(path):
                raw.seek(0)
                found = detect_type(gzip.GzipFile(fileobj=raw).read(HEAD_BYTES))
    except (OSError, EOFError, zlib.error):
        head, found = b"", None
    if found is not None:
        return InputError(f"{path}: {found.name}, which cannot be read; {found.remedy}.")
    if path.suffix.lower() == ".json" and head.lstrip()[:1] == b"[":
        old, new = shell_path(path), shlex.quote(f"{path.stem}.jsonl")
        return InputError(f"{path}: a JSON array; write one object a line, for example: jq -c '.[]' {old} > {new}")
    return InputError(f"{path}: the name should end in {', '.join(SUFFIXES)} (or one of these and .gz); rename it.")


def _sentence_lines(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines of a .txt file, after checking that its first lines are not a table."""
    sample: list[str] = []
    sample_error = None
    try:
        sample.extend(itertools.islice(lines, _SAMPLE_LINES))
    except InputError as error:
        sample_error = error  # raised when its line is reached
    table = detect_table(sample)
    if table is not None:
        names = ", ".join(name[:40] for name in table.columns[:8])
        header = f" with the columns {names}" if names else " without a header"
        remedy = "" if names else ", add a first line that names its columns"
        new = f"{path.name.removesuffix('.gz').removesuffix('.GZ').rpartition('.')[0]}{table.suffix}"
        new += path.suffix if is_gzipped(path) else ""
        raise InputError(
            f"{path}: {table.name}{header}, not one sentence a line; rename it to {new}{remedy}, and give the column "
            "of sentences as `text_column`."
        )
    yield from sample
    if sample_error is not None:
        raise sample_error
    yield from lines


def _row(record: Record, text_column: str, key_column: str | None) -> Row:
    return record[text_column], record[key_column] if key_column else None
