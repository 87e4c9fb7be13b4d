"""Read records from CSV, TSV, JSON lines and Parquet, row by row in constant memory.

CSV and JSON are parsed by the standard library: pandas, pyarrow and `datasets` guess types ("NA", "007"), and their
errors do not name the line of a multi-line row.
"""

import csv
import json
import shlex
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mocose_hf.data.file_types import PARQUET
from mocose_hf.data.open_file import is_gzipped, open_file, rewrite_command
from mocose_hf.errors import InputError, one_line

MAX_FIELD_CHARACTERS = 2**24
"""The longest field of a table that is read, over all its lines."""

ADD_HEADER = "rename a column, or add the missing header line"

Record = dict[str, Any]

PlacedRecord = tuple[str, Record | None]
"""The place of a row (file and line or row), and its values by column; None for a blank row."""

_BATCH_ROWS = 1024


def read_table(
    path: Path, lines: Iterator[str], suffix: str, columns: Sequence[str], remedy: str
) -> Iterator[PlacedRecord]:
    """Yield the records of a .csv file (quoted fields) or a .tsv file (no quoting).

    Args:
        path: The file.
        lines: Its lines.
        suffix: .csv or .tsv.
        columns: Columns that must be present.
        remedy: The remedy if a column is missing.
    """
    dialect = {"strict": True} if suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    reader = csv.reader((f"{line}\n" for line in lines), **dialect)
    start = 1
    try:
        header = next(reader)
        _validate_separator(path, header, suffix, columns)
        for column in columns:
            validate_column(f"{path}, line 1", column, header, remedy)
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
        if "field larger than field limit" in str(error):
            raise InputError(
                f"{path}, line {start}: a field of more than {csv.field_size_limit():,} characters; a quote in this "
                "row is probably never closed."
            ) from error
        raise InputError(f"{path}, line {start}: {one_line(error)}; mend the quotes or the row.") from error


def read_jsonl(
    path: Path, lines: Iterator[str], columns: Sequence[str], any_type: Collection[str], remedy: str
) -> Iterator[PlacedRecord]:
    """Yield the records of a .jsonl file; arguments as `read_table`, and `any_type` as `validate_text`."""
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        if not line.strip():
            yield place, None
            continue
        record = _parse_object(place, line, columns[0])
        for column in columns:
            validate_column(place, column, record, remedy)
        validate_text(place, record, columns, any_type)
        yield place, record


def read_parquet(path: Path, columns: Sequence[str], any_type: Collection[str], remedy: str) -> Iterator[PlacedRecord]:
    """Yield the records of a .parquet file; arguments as `read_jsonl`."""
    number = 0
    with open_file(path, PARQUET) as file, _seekable(path, file) as seekable:
        try:
            table = pq.ParquetFile(seekable, buffer_size=2**20)
            for column in columns:
                validate_column(str(path), column, table.schema_arrow.names, remedy)
                if column not in any_type:
                    _validate_text_type(path, column, table.schema_arrow.field(column).type)
            for group in range(table.num_row_groups):
                for batch in table.iter_batches(_BATCH_ROWS, [group], list(columns), use_threads=False):
                    for record in batch.to_pylist():
                        number += 1
                        yield f"{path}, row {number}", record
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, after row {number}: bytes that are not UTF-8; write the file again.") from error
        except (pa.ArrowException, OSError) as error:
            seekable.seek(0)
            remedy = "make it again"
            if seekable.read(4) != b"PAR1":
                remedy = "give its name the ending of what it is, such as .csv, or make it again"
            raise InputError(f"{path}: not a complete parquet file ({one_line(error)}); {remedy}.") from error


def validate_column(place: str, column: str, names: Collection[str], remedy: str) -> None:
    """Check that a column is present and, in a header, only once.

    Raises:
        InputError: With the columns that are present, and the remedy.
    """
    if column not in names:
        present = ", ".join(str(name)[:40] for name in list(names)[:8])
        raise InputError(f"{place}: no column `{column[:40]}`, the columns are: {present}; {remedy}.")
    if isinstance(names, list) and names.count(column) > 1:
        raise InputError(f"{place}: {names.count(column)} columns are named `{column[:40]}`; rename all but one.")


def validate_text(place: str, record: Record, columns: Sequence[str], any_type: Collection[str] = ()) -> None:
    """Check that columns hold text or nothing, except those in `any_type`.

    Raises:
        InputError: With the value.
    """
    for column in columns:
        value = record[column]
        if value is not None and not isinstance(value, str) and column not in any_type:
            raise InputError(
                f"{place}: `{column[:40]}` holds {str(value)[:40]!r}, which is no text; name a text column."
            )


def _parse_object(place: str, line: str, column: str) -> Record:
    try:
        record = json.loads(line)
        if "\\u" in line:
            json.dumps(record, ensure_ascii=False).encode()  # fails at half of a surrogate pair
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not valid JSON ({error.msg} at column {error.colno}); each line is one complete object."
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: half of a surrogate pair, which is no character; mend the escape.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON ({one_line(error)}); each line is one complete object.") from error
    if not isinstance(record, dict):
        raise InputError(f'{place}: not a JSON object; write {{"{column[:40]}": "a sentence"}}.')
    return record


def _validate_separator(path: Path, header: list[str], suffix: str, columns: Sequence[str]) -> None:
    """Raise an error if the header is one field that another separator would split."""
    if header and header[0].lstrip().startswith("{"):
        raise InputError(f"{path}, line 1: JSON, not a header of columns; give its name the ending .jsonl.")
    if len(header) != 1 or header[0] in columns:
        return
    separator = next((mark for mark in (";", "\t", "|", ",") if mark in header[0]), None)
    if separator is None:
        return
    names = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
    if separator in "\t,":
        remedy = f"give its name the ending {'.csv' if separator == ',' else '.tsv'}."
    else:
        script = f"import csv, sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter='{separator}'))"
        remedy = f"write commas: {rewrite_command(path, f'python -c {shlex.quote(script)} <', '.csv')}"
    raise InputError(
        f"{path}, line 1: no column `{columns[0][:40]}`, the columns are: {header[0][:99]}; its fields are separated "
        f"by {names[separator]}; {remedy}"
    )


def _validate_text_type(path: Path, column: str, kind: pa.DataType) -> None:
    """Check the type of a parquet column before its values are read: some values cannot be made into objects."""
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if values not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise InputError(f"{path}, row 1: `{column[:40]}` holds {str(kind)[:40]}, not text; name a text column.")


@contextmanager
def _seekable(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    """Decompress to a temporary file, because the end of a parquet file is read first."""
    if not is_gzipped(path):
        yield file
        return
    try:
        unzipped = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError as error:
        raise _disk_full(path, error) from error
    with unzipped:
        while chunk := file.read(2**20):
            try:
                unzipped.write(chunk)
                unzipped.flush()
            except OSError as error:
                raise _disk_full(path, error) from error
        unzipped.seek(0)
        yield unzipped


def _disk_full(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: cannot be unpacked into the folder for temporary files ({error.strerror or error}); set TMPDIR to a "
        "folder with more room, or unpack the file with gzip -d."
    )
