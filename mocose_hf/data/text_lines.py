"""Read the lines of a text file in any encoding, one at a time, so that an error names its line."""

import codecs
import io
import itertools
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mocose_hf.data.file_types import guess_encoding, guess_wide_encoding
from mocose_hf.data.open_file import iconv_command, open_file, validate_path
from mocose_hf.errors import InputError, one_line

MAX_LINE_BYTES = 2**25
"""The longest line that is read, so that a damaged or hostile file cannot fill the memory."""

_SAMPLE_BYTES = 2**24
_CHUNK_BYTES = 2**20

_BYTE_ORDER_MARKS = {  # UTF-32 comes first: its mark begins with that of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def read_lines(path: str | Path, encoding: str | None = None, advise_encoding: bool = False) -> list[str]:
    """Return the lines of a file; otherwise as `iterate_lines`."""
    return list(iterate_lines(path, encoding, advise_encoding))


def iterate_lines(path: str | Path, encoding: str | None = None, advise_encoding: bool = False) -> Iterator[str]:
    """Yield the lines of a file without byte order mark and line ends; only a line feed ends a line.

    Args:
        path: The file; decompressed if its name ends in .gz.
        encoding: Python's name of the encoding; None for UTF-8.
        advise_encoding: Whether errors may advise to give `encoding`.

    Raises:
        InputError: If the file is missing or empty, or when a line cannot be decoded or is too long.
    """
    path = Path(path)
    validate_path(path)
    encoding = _codec_name(encoding)
    with open_file(path) as file:
        if encoding is not None and not _extends_ascii(encoding):
            yield from _iterate_wide_lines(path, file, encoding)
            return
        valid_lines = 0
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            _validate_length(path, number, len(line))
            if number == 1 and encoding is None:
                _validate_mark(path, line, advise_encoding)
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise InputError(
                    f"{path}, line {number}: binary data, a zero byte; the file should be UTF-8 text"
                    f"{_wide_encoding_advice(path, line, advise_encoding) if number == 1 else ''}."
                )
            try:
                text = line.rstrip(b"\r\n").decode(encoding or "utf-8")
            except UnicodeDecodeError as error:
                place = f"{path}, line {number}"
                if encoding is not None:
                    raise InputError(
                        f"{place}: not {encoding} at byte {error.start + 1} of the line; give another `encoding`."
                    ) from None
                undecoded = itertools.chain([line], _non_ascii_lines(file))
                advice = _encoding_advice(path, guess_encoding(undecoded, valid_lines), advise_encoding)
                raise InputError(f"{place}: not UTF-8 at byte {error.start + 1} of the line; {advice}") from None
            if encoding is None:
                valid_lines += not text.isascii()
            else:
                _validate_characters(path, number, text, encoding)
            yield text


def fallback_encoding(path: str | Path, encoding: str | None) -> str | None:
    """Return None if all of a file is UTF-8, otherwise `encoding`.

    One `encoding` option covers several files, which need not share it: a UTF-8 file read as cp1252 would give wrong
    characters without an error. The file is read whole, so this is for development files and not for training text.
    """
    path = Path(path)
    if encoding is None or path.suffix.lower() == ".parquet" or path.name.lower().endswith(".parquet.gz"):
        return None
    decoder = codecs.getincrementaldecoder("utf-8")()
    validate_path(path)
    with open_file(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                return encoding
            if b"\0" in chunk:  # UTF-16 of ASCII text is UTF-8 with zero bytes
                return encoding
    return None


def _codec_name(encoding: str | None) -> str | None:
    """Return Python's own name of an encoding, None for UTF-8."""
    if encoding is None:
        return None
    try:
        "".encode(encoding)
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError) as error:  # unknown, not for text, or a zero byte in the name
        raise InputError(
            f"`encoding` {encoding[:40]}: is unknown; give one that Python has, such as cp1252."
        ) from error
    return None if name in ("utf-8", "utf-8-sig") else name


def _extends_ascii(encoding: str) -> bool:
    """Return whether a file in this encoding can be split at line feeds before it is decoded."""
    try:
        return bytes(range(128)).decode(encoding) == "".join(map(chr, range(128)))
    except UnicodeDecodeError:
        return False


def _iterate_wide_lines(path: Path, file: BinaryIO, encoding: str) -> Iterator[str]:
    """Yield the lines of a file whose line feeds are not single bytes, such as UTF-16."""
    text = io.TextIOWrapper(file, encoding=encoding, newline="\n")
    number = 0
    try:
        for number in itertools.count(1):
            line = text.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            _validate_length(path, number, len(line))
            yield (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
    except UnicodeError as error:
        raise InputError(
            f"{path}, from line {number} on: not {encoding} ({one_line(error)}); give another `encoding`."
        ) from None
    finally:
        text.detach()  # the caller closes the file


def _validate_length(path: Path, number: int, length: int) -> None:
    if length > MAX_LINE_BYTES:
        raise InputError(
            f"{path}, line {number}: longer than {MAX_LINE_BYTES // 2**20} MiB; write one sentence or row a line."
        )


def _validate_mark(path: Path, line: bytes, advise_encoding: bool) -> None:
    """Raise an error if a file begins with the byte order mark of UTF-16 or UTF-32."""
    for encoding, marks in _BYTE_ORDER_MARKS.items():
        if line.startswith(marks):
            option = f"give `encoding` {encoding.lower()}, or " if advise_encoding else ""
            raise InputError(f"{path}, line 1: {encoding} text; {option}convert it: {iconv_command(path, encoding)}")


def _validate_characters(path: Path, number: int, text: str, encoding: str) -> None:
    """Raise an error at control characters that Windows-1252 text turns into if it is read as ISO 8859."""
    if encoding.startswith("iso8859") and any("\x80" <= character < "\xa0" for character in text):
        raise InputError(
            f"{path}, line {number}: control characters, if it is {encoding}; it is probably Windows-1252: give "
            "`encoding` cp1252."
        )


def _non_ascii_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines with bytes above 127 among the next 16 MiB; a read error ends the sample."""
    left = _SAMPLE_BYTES
    with suppress(OSError, EOFError, zlib.error):
        while left > 0 and (line := file.readline(left)):
            left -= len(line)
            if not line.isascii():
                yield line


def _encoding_advice(path: Path, guess: str | None, advise_encoding: bool) -> str:
    """Return the remedy for a file that is not UTF-8."""
    if guess == "UTF-8":
        return "other lines are UTF-8, so this one is damaged: mend it, or drop it."
    conditions = {"CP1252": "it looks like Windows-1252 (CP1252):", "LATIN1": "if the file is Latin-1,"}
    condition = conditions.get(guess, "find out its encoding,")
    option = f"give `encoding` {'cp1252' if guess else 'NAME'}, or " if advise_encoding else ""
    return f"{condition} {option}convert it: {iconv_command(path, guess or 'NAME')}"


def _wide_encoding_advice(path: Path, line: bytes, advise_encoding: bool) -> str:
    guess = guess_wide_encoding(line)
    if guess is None:
        return ""
    option = f"give `encoding` {guess.lower()}, or " if advise_encoding else ""
    return f" but looks like {guess}: {option}convert it: {iconv_command(path, guess)}"
