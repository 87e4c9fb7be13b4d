"""Read the rows of a file or of a dataset on the hub one by one, whatever its size, and check each."""

import gzip
import itertools
import shlex
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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

_NAME_COLUMN = "give `text_column`, `key_column` or `negative_column`, or add the missing header line"


class Row(NamedTuple):
    """The texts of a row as they are in the file; None for none.

    Args:
        text: The sentence, in pairs the query.
        key_texts: The text of each key column; empty if the rows are no pairs.
        negative_text: The hard negative.
    """

    text: str | None
    key_texts: tuple[str | None, ...] = ()
    negative_text: str | None = None


class CleanRow(NamedTuple):
    """The texts of one sentence or pair, without surrounding white space; "" for none."""

    text: str
    key_text: str = ""
    negative_text: str = ""


class Columns(NamedTuple):
    """The names of the columns of sentences.

    Args:
        text: The column of the sentences, in pairs of the queries.
        keys: The columns of the key view; empty if the rows are no pairs.
        negative: The column of hard negatives; None for none.
    """

    text: str = "text"
    keys: tuple[str, ...] = ()
    negative: str | None = None

    @classmethod
    def of(cls, text_column: str, key_column: str | Sequence[str] | None, negative_column: str | None) -> "Columns":
        """Return the names as the readers take them: `key_column` is one name or several."""
        return cls(
            text_column, (key_column,) if isinstance(key_column, str) else tuple(key_column or ()), negative_column
        )

    @property
    def names(self) -> list[str]:
        """All names, each once."""
        return list(dict.fromkeys([self.text, *self.keys, *([self.negative] if self.negative is not None else [])]))

    def row(self, record: Record | None) -> Row:
        """Return the texts of a record; None is a blank row."""
        if record is None:
            return Row(None)
        negative = None if self.negative is None else record[self.negative]
        return Row(record[self.text], tuple(record[name] for name in self.keys), negative)


def read_rows(
    path: str | Path,
    text_column: str = "text",
    key_column: str | Sequence[str] | None = None,
    encoding: str | None = None,
    negative_column: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of a file, blank ones too, in constant memory.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns. Each may be gzipped and named .gz. UTF-8, with or without a byte order mark.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column with the text of the key view, which makes each row a pair; or several columns.
        encoding: Python's name of the file's encoding if it is not UTF-8, such as cp1252; not for .parquet.
        negative_column: A column with a hard negative for each row, which may be blank.

    Raises:
        InputError: If the file cannot be used, with its name, the line and the remedy. Errors inside the file are
            raised when they are reached.
    """
    path, columns = Path(path), Columns.of(text_column, key_column, negative_column)
    if _format_suffix(path) == ".txt":
        for name, is_given in (("key_column", columns.keys), ("negative_column", columns.negative)):
            if is_given:
                raise InputError(
                    f"{path}: a text file has no columns, so no `{name}`; use .csv, .tsv, .jsonl or .parquet."
                )
        return (Row(text) for text in _sentence_lines(path, iterate_lines(path, encoding, advise_encoding=True)))
    records = read_records(path, columns.names, remedy=_NAME_COLUMN, encoding=encoding)
    return (columns.row(record) for _, record in records)


def read_files(
    paths: Sequence[str | Path],
    text_column: str = "text",
    key_column: str | Sequence[str] | None = None,
    encoding: str | None = None,
    negative_column: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of several files one after another.

    Args:
        paths: The files. Their formats may differ, but all need the columns.
        text_column, key_column, encoding, negative_column: As `read_rows` takes them.

    Raises:
        InputError: As `read_rows`. If there are several files, the first row of each is read at once, so that a
            missing column of the last one shows before the others are read.
    """
    options = (text_column, key_column, encoding, negative_column)
    if len(paths) > 1:
        for path in paths:
            next(read_rows(path, *options), None)
    return itertools.chain.from_iterable(read_rows(path, *options) for path in paths)


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
    records: Iterable[Record],
    source: str,
    text_column: str = "text",
    key_column: str | Sequence[str] | None = None,
    negative_column: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of records of a dataset; `source` is its name in errors, otherwise as `read_rows`."""
    columns = Columns.of(text_column, key_column, negative_column)
    for number, record in enumerate(records, start=1):
        for column in columns.names:
            validate_column(source, column, record, _NAME_COLUMN)
        validate_text(f"{source}, row {number}", record, columns.names)
        yield columns.row(record)


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


def clean_rows(row: Row) -> list[CleanRow]:
    """Return the sentence of a row, or one pair for each different key text; nothing if it is blank or half a pair."""
    text, negative_text = (row.text or "").strip(), (row.negative_text or "").strip()
    keys = dict.fromkeys((key or "").strip() for key in row.key_texts) if row.key_texts else {"": None}
    wanted = [key for key in keys if key or not row.key_texts]
    return [CleanRow(text, key, negative_text) for key in wanted] if text else []


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
