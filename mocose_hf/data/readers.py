"""Read the rows of a file or of a dataset on the hub one by one, whatever its size, and check each."""

import codecs
import csv
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import tempfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from mocose_hf.data.file_contents import (
    GZIP,
    HEAD_BYTES,
    PARQUET,
    guess_encoding,
    guess_wide_encoding,
    recognize,
    recognize_table,
)
from mocose_hf.errors import InputError, one_line

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

FINGERPRINT_BYTES = 2**20
"""How much of a file's start and of its end goes into its fingerprint."""

MAX_LINE_BYTES = 2**25
"""The longest line that is read, so that a damaged or hostile file cannot fill the memory."""

MAX_FIELD_CHARACTERS = 2**24
"""The longest field of a table that is read, over all its lines."""

_ROWS_AT_ONCE = 1024
_SAMPLE_LINES = 30
_SAMPLE_BYTES = 2**24

_MARKS = {  # that of UTF-32 goes first, as it starts with that of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}

_NAME_ANOTHER = "name one by --text_column or --key_column, or add the missing header line"

Row = tuple[str | None, str | None]
"""The text of a sentence and, in pairs, the text of its key view."""


def read_rows(
    path: str | Path, text_column: str = "text", key_column: str | None = None, encoding: str | None = None
) -> Iterator[Row]:
    """Read the rows of a file, blank ones too, and keep no more than a few of them in memory.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns; each may be gzipped and named .gz. UTF-8, with or without a byte order mark.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column whose text the target sees instead, which makes each row a pair.
        encoding: Python's name of the file's encoding if it is not UTF-8, such as cp1252; not for .parquet.

    Raises:
        InputError: If the file cannot be used, with its name, the line if there is one, and the remedy. Faults inside
            the file are raised when they are reached.
    """
    columns = [column for column in (text_column, key_column) if column is not None]
    if _kind(Path(path)) == ".txt":
        if key_column is not None:
            raise InputError(
                f"{path}: a text file has no columns, so no --key_column; use .csv, .tsv, .jsonl or .parquet."
            )
        return ((text, None) for text in _sentence_lines(Path(path), iterate_lines(path, encoding, has_option=True)))
    records = read_records(path, columns, remedy=_NAME_ANOTHER, encoding=encoding, has_option=True)
    return ((None, None) if record is None else _row(record, text_column, key_column) for _, record in records)


def read_records(
    path: str | Path,
    columns: Sequence[str],
    any_type: Collection[str] = (),
    remedy: str = "rename a column, or add the missing header line",
    encoding: str | None = None,
    has_option: bool = False,
) -> Iterator[tuple[str, dict[str, object] | None]]:
    """Read some columns of a file, row by row; otherwise as `read_rows`.

    Args:
        path: A .csv, .tsv, .jsonl or .parquet file, or one of these and .gz.
        columns: Names of the columns.
        any_type: Those of them that need not hold text, such as a score.
        remedy: What to do if a column is missing.
        encoding: As of `read_rows`.
        has_option: Whether errors may advise `--encoding`.

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
        if encoding is not None:
            raise InputError(f"{path}: a parquet file states its own encoding; leave out --encoding.")
        return _parquet_records(path, columns, any_type, remedy)
    lines = iterate_lines(path, encoding, has_option)
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
        raise _wrong_suffix(path)
    return kind


def _wrong_suffix(path: Path) -> InputError:
    """Return the error about a file of another suffix; its content tells whether renaming it would help."""
    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD_BYTES)
            found = recognize(head, path)
            if found is not None and found[0] == GZIP:
                raw.seek(0)
                found = recognize(gzip.GzipFile(fileobj=raw).read(HEAD_BYTES)) if _is_zipped(path) else found
    except (OSError, EOFError, zlib.error):
        head, found = b"", None
    if found is not None:
        return InputError(f"{path}: {found[0]}, which cannot be read; {found[1]}.")
    if path.suffix.lower() == ".json" and head.lstrip()[:1] == b"[":
        old, new = _shell_path(path), shlex.quote(f"{path.stem}.jsonl")
        return InputError(f"{path}: a JSON array; write one object a line, for example: jq -c '.[]' {old} > {new}")
    return InputError(f"{path}: the name should end in {', '.join(SUFFIXES)} (or one of these and .gz); rename it.")


def _sentence_lines(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """Give the lines of a .txt file, and refuse a table by the first of them."""
    first, fault = [], None
    try:
        first.extend(itertools.islice(lines, _SAMPLE_LINES))
    except InputError as error:
        fault = error  # raised when its line is reached
    table = recognize_table(first)
    if table is not None:
        what, suffix, names = table
        columns = f" with the columns {', '.join(name[:40] for name in names[:8])}" if names else " without a header"
        header = "" if names else ", add a first line that names its columns"
        new = f"{path.name.removesuffix('.gz').removesuffix('.GZ').rpartition('.')[0]}{suffix}"
        new += path.suffix if _is_zipped(path) else ""
        raise InputError(
            f"{path}: {what}{columns}, not one sentence a line; rename it to {new}{header}, and name the column of "
            "sentences with --text_column."
        )
    yield from first
    if fault is not None:
        raise fault
    yield from lines


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


def iterate_lines(path: str | Path, encoding: str | None = None, has_option: bool = False) -> Iterator[str]:
    """Decode line by line, so that an error names its line; split at line feeds alone; otherwise as `read_lines`.

    Args:
        path: The file.
        encoding: As of `read_rows`.
        has_option: Whether errors may advise `--encoding`.
    """
    path = Path(path)
    _refuse_directory(path)
    encoding = _codec_name(encoding)
    with _opened(path) as file:
        if encoding is not None and not _extends_ascii(encoding):
            yield from _decoded(path, file, encoding)
            return
        valid_lines = 0
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            _check_length(path, number, len(line))
            if number == 1 and encoding is None:
                _refuse_marks(path, line, has_option)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise InputError(
                    f"{path}, line {number}: binary data, a zero byte; the file should be UTF-8 text"
                    f"{_wide_advice(path, line, has_option) if number == 1 else ''}."
                )
            try:
                text = line.rstrip(b"\r\n").decode(encoding or "utf-8")
            except UnicodeDecodeError as error:
                place = f"{path}, line {number}"
                if encoding is not None:
                    raise InputError(
                        f"{place}: not {encoding} at byte {error.start + 1} of the line; name another --encoding."
                    ) from None
                more = itertools.chain([line], _lines_beyond_ascii(file))
                advice = _encoding_advice(path, guess_encoding(more, valid_lines), has_option)
                raise InputError(f"{place}: not UTF-8 at byte {error.start + 1} of the line; {advice}") from None
            if encoding is None:
                valid_lines += not text.isascii()
            else:
                _refuse_controls(path, number, text, encoding)
            yield text


def _codec_name(encoding: str | None) -> str | None:
    """Return Python's own name of an encoding, None for UTF-8."""
    if encoding is None:
        return None
    try:
        "".encode(encoding)
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError) as error:  # unknown, no encoding of text, or a zero byte in the name
        raise InputError(
            f"--encoding {encoding[:40]}: is unknown; name one that Python has, such as cp1252."
        ) from error
    return None if name in ("utf-8", "utf-8-sig") else name


def _extends_ascii(encoding: str) -> bool:
    """Return whether a file of an encoding can be split at line feeds before it is decoded."""
    try:
        return bytes(range(128)).decode(encoding) == "".join(map(chr, range(128)))
    except UnicodeDecodeError:
        return False


def _decoded(path: Path, file: BinaryIO, encoding: str) -> Iterator[str]:
    """Decode a file whose line feeds are no single bytes, such as UTF-16."""
    text = io.TextIOWrapper(file, encoding=encoding, newline="\n")
    number = 0
    try:
        for number in itertools.count(1):
            line = text.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            _check_length(path, number, len(line))
            yield (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
    except UnicodeError as error:
        raise InputError(
            f"{path}, from line {number} on: not {encoding} ({one_line(error)}); name another --encoding."
        ) from None
    finally:
        text.detach()  # the caller closes the file


def _check_length(path: Path, number: int, length: int) -> None:
    if length > MAX_LINE_BYTES:
        raise InputError(
            f"{path}, line {number}: longer than {MAX_LINE_BYTES // 2**20} MiB; write one sentence or row a line."
        )


def _refuse_marks(path: Path, line: bytes, has_option: bool) -> None:
    """Refuse a file that begins with the byte order mark of another encoding than UTF-8."""
    for encoding, marks in _MARKS.items():
        if line.startswith(marks):
            option = f"give --encoding {encoding.lower()}, or " if has_option else ""
            raise InputError(f"{path}, line 1: {encoding} text; {option}convert it: {_conversion(path, encoding)}")


def _refuse_controls(path: Path, number: int, text: str, encoding: str) -> None:
    """Refuse the control characters that text of Windows turns into if it is read as ISO 8859."""
    if encoding.startswith("iso8859") and any("\x80" <= character < "\xa0" for character in text):
        raise InputError(
            f"{path}, line {number}: control characters, if it is {encoding}; it is probably Windows-1252: give "
            "--encoding cp1252."
        )


def _lines_beyond_ascii(file: BinaryIO) -> Iterator[bytes]:
    """Give the lines of the next MiB of a file that hold bytes above 127; a fault further on is of no interest."""
    left = _SAMPLE_BYTES
    with suppress(OSError, EOFError, zlib.error):
        while left > 0 and (line := file.readline(left)):
            left -= len(line)
            if not line.isascii():
                yield line


def _encoding_advice(path: Path, guess: str | None, has_option: bool) -> str:
    """Return what to do with a file that is not UTF-8."""
    if guess == "UTF-8":
        return "other lines are UTF-8, so this one is damaged: mend it, or drop it."
    names = {"CP1252": "it looks like Windows-1252 (CP1252)", "LATIN1": "if the file is Latin-1"}
    condition = names.get(guess, "find out its encoding")
    option = f"give --encoding {'cp1252' if guess else 'NAME'}, or " if has_option else ""
    return f"{condition}{':' if guess == 'CP1252' else ','} {option}convert it: {_conversion(path, guess or 'NAME')}"


def _wide_advice(path: Path, line: bytes, has_option: bool) -> str:
    guess = guess_wide_encoding(line)
    if guess is None:
        return ""
    option = f"give --encoding {guess.lower()}, or " if has_option else ""
    return f" but looks like {guess}: {option}convert it: {_conversion(path, guess)}"


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
def _opened(path: Path, expected: str = "UTF-8 text") -> Iterator[BinaryIO]:
    """Open a file, unzipped if its name ends in .gz, and refuse an empty one and one of other content."""
    with _readable(path), path.open("rb") as raw:
        zipped = _is_zipped(path)
        _refuse_content(path, raw.peek(HEAD_BYTES), GZIP if zipped else expected)
        file = gzip.GzipFile(fileobj=raw) if zipped else raw
        head = file.peek(HEAD_BYTES)
        if not head:
            raise InputError(f"{path}: the file is empty; it needs one sentence a line or row.")
        if zipped:
            _refuse_content(path, head, expected)
        yield file


def _refuse_content(path: Path, head: bytes, expected: str) -> None:
    found = recognize(head, path)
    if found is not None and found[0] != expected:
        line = ", line 1" if expected == "UTF-8 text" else ""
        raise InputError(f"{path}{line}: {found[0]}, but the file should be {expected}; {found[1]}.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Tell in one line why a file cannot be opened or read further."""
    try:
        yield
    except GeneratorExit:  # the reader stops before the end, maybe because Python does and modules are gone
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_advice_if_missing(path)}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        plain = "Not a gzipped file" in str(error)
        remedy = "drop .gz from its name if it is not compressed, or make it again" if plain else "make it again"
        raise InputError(f"{path}: not a complete gzip file ({one_line(error)}); {remedy}.") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(path)[:200]}…: {len(str(path))} characters are no path; check it.") from None
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error


def _advice_if_missing(path: Path) -> str:
    """Return what to do if there is no such file: patterns, lists and addresses are not paths."""
    name = str(path)
    if any(character in name for character in "*?["):
        return "patterns are not expanded; join the files into one and give that"
    if "," in name and any(Path(part).exists() for part in name.split(",")):
        return "only one file is read; join the files into one and give that"
    return "download it and give its path" if re.match(r"\w+:/", name) else "check the path"


def _shell_path(path: Path) -> str:
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _conversion(path: Path, encoding: str) -> str:
    """Return the command that writes a file anew, in UTF-8 and under another name."""
    return _rewriting(path, f"iconv -f {encoding} -t UTF-8")


def _rewriting(path: Path, command: str, suffix: str | None = None) -> str:
    """Return the shell line that sends a file through a command, which may end in `<`, into a new one."""
    zipped = _is_zipped(path)
    old, suffixes = _shell_path(path), path.suffixes[-2:] if zipped else path.suffixes[-1:]
    if suffix is not None:
        suffixes = [suffix, *suffixes[1:]]
    new = "newer" if path.name.startswith("new.") else "new"  # a shell would empty the file before it is read
    new = shlex.quote(f"{new}{''.join(suffixes)}")
    if zipped:
        return f"gzip -dc {old} | {command.removesuffix(' <')} | gzip > {new}"
    return f"{command} {old} > {new}"


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
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    reader = csv.reader((f"{line}\n" for line in lines), **dialect)
    start = 1
    try:
        header = next(reader)
        _refuse_other_separator(path, header, kind, columns)
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
        if "field larger than field limit" in str(error):
            raise InputError(
                f"{path}, line {start}: a field of more than {csv.field_size_limit():,} characters; a quote in this "
                "row is probably never closed."
            ) from error
        raise InputError(f"{path}, line {start}: {one_line(error)}; mend the quotes or the row.") from error


def _refuse_other_separator(path: Path, header: list[str], kind: str, columns: Sequence[str]) -> None:
    """Refuse a header of one field that another separator would split into the wanted columns, or into others."""
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
        remedy = f"write commas: {_rewriting(path, f'python -c {shlex.quote(script)} <', '.csv')}"
    raise InputError(
        f"{path}, line 1: no column `{columns[0][:40]}`, the columns are: {header[0][:99]}; its fields are separated "
        f"by {names[separator]}; {remedy}"
    )


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
    with _opened(path, PARQUET) as file, _seekable(path, file) as seekable:
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
            seekable.seek(0)
            remedy = "make it again"
            if seekable.read(4) != b"PAR1":
                remedy = "give its name the ending of what it is, such as .csv, or make it again"
            raise InputError(f"{path}: not a complete parquet file ({one_line(error)}); {remedy}.") from error


@contextmanager
def _seekable(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    """Unzip to a temporary file on the disk, as the end of a parquet file is read first."""
    if not _is_zipped(path):
        yield file
        return
    try:
        unzipped = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError as error:
        raise _no_room(path, error) from error
    with unzipped:
        while chunk := file.read(2**20):
            try:
                unzipped.write(chunk)
                unzipped.flush()
            except OSError as error:
                raise _no_room(path, error) from error
        unzipped.seek(0)
        yield unzipped


def _no_room(path: Path, error: OSError) -> InputError:
    return InputError(
        f"{path}: cannot be unpacked into the folder for temporary files ({error.strerror or error}); set TMPDIR to a "
        "folder with more room, or unpack the file with gzip -d."
    )


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
