"""Open input files, gzipped or not, and turn every failure into one line with its remedy."""

import errno
import glob
import gzip
import hashlib
import os
import re
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mocose_hf.data.file_types import GZIP, HEAD_BYTES, detect_type
from mocose_hf.errors import InputError, one_line

FINGERPRINT_BYTES = 2**20
"""How many bytes at the start and at the end of a file go into its fingerprint."""

TEXT = "UTF-8 text"


@contextmanager
def open_file(path: Path, expected: str = TEXT) -> Iterator[BinaryIO]:
    """Open a file for reading bytes, decompressed if its name ends in .gz.

    Args:
        path: The file.
        expected: The type that its content should have: `TEXT`, or a name of `FileType`.

    Raises:
        InputError: If the file cannot be read, is empty or has another type.
    """
    with readable(path), path.open("rb") as raw:
        zipped = is_gzipped(path)
        _validate_type(path, raw.peek(HEAD_BYTES), GZIP if zipped else expected)
        file: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
        head = file.peek(HEAD_BYTES)
        if not head:
            raise InputError(f"{path}: the file is empty; it needs one sentence a line or row.")
        if zipped:
            _validate_type(path, head, expected)
        yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of opening and reading a file into an `InputError` with the remedy."""
    try:
        yield
    except GeneratorExit:  # the reader stops early, perhaps during Python's shutdown, when modules are gone
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {_missing_file_remedy(path)}.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        is_plain = "Not a gzipped file" in str(error)
        remedy = "drop .gz from its name if it is not compressed, or make it again" if is_plain else "make it again"
        raise InputError(f"{path}: not a complete gzip file ({one_line(error)}); {remedy}.") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{str(path)[:200]}…: {len(str(path))} characters are no path; check it.") from None
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error


def validate_path(path: Path) -> None:
    """Check that a path can be the name of a file and is not a directory.

    Raises:
        InputError: With the remedy.
    """
    try:
        is_impossible = b"\0" in os.fsencode(path)
    except UnicodeEncodeError:
        is_impossible = True
    if is_impossible:
        raise InputError(f"{path}: a zero byte or half of a surrogate pair is in no file's name; check the path.")
    with readable(path):
        is_directory = path.is_dir()
    if is_directory:
        raise InputError(f"{path}: is a directory; give the file in it.")


def is_gzipped(path: Path) -> bool:
    """Return whether the name of a file ends in .gz."""
    return path.suffix.lower() == ".gz"


def find_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that paths and patterns name, each once: in the given order, those of a pattern by name.

    Args:
        paths: One or several. In a pattern, `*`, `?` and `[…]` stand for parts of a name, and `**` for any folders. A
            path that exists is no pattern. Folders that a pattern names are skipped.

    Raises:
        InputError: If a pattern names no file, or commas separate files.
    """
    found: dict[Path, None] = {}
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        name = str(path)
        if not any(character in name for character in "*?[") or os.path.lexists(path):
            if "," in name and not path.exists() and any(Path(part).exists() for part in name.split(",")):
                raise InputError(f"{path}: no such file; separate several files by spaces.")
            found[path] = None
            continue
        files = sorted(match for match in glob.glob(name, recursive=True) if os.path.isfile(match))
        if not files:
            raise InputError(f"{path}: the pattern names no file; check the folder and the pattern.")
        found |= dict.fromkeys(map(Path, files))
    return list(found)


def describe_files(paths: Sequence[str | Path]) -> str:
    """Return the name of several files in messages: the first, and how many more there are."""
    more = len(paths) - 1
    return f"{paths[0]}{f' and {more} more file' if more else ''}{'s' if more > 1 else ''}"


def file_fingerprint(path: str | Path) -> str:
    """Return the sha256 (hex) of a file's size, first MiB and last MiB, which is cheap for any size.

    Raises:
        InputError: If the file cannot be read.
    """
    path = Path(path)
    validate_path(path)
    with readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size}\n".encode())
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(size - FINGERPRINT_BYTES, 0))
        digest.update(file.read(FINGERPRINT_BYTES))
    return digest.hexdigest()


def files_fingerprint(paths: Sequence[str | Path]) -> str:
    """Return the fingerprint of one file, or the sha256 (hex) of those of several in order; see `file_fingerprint`."""
    first, *more = map(file_fingerprint, paths)
    return hashlib.sha256("\n".join([first, *more]).encode()).hexdigest() if more else first


def iconv_command(path: Path, encoding: str) -> str:
    """Return the shell command that converts a file to UTF-8 under another name."""
    return rewrite_command(path, f"iconv -f {encoding} -t UTF-8")


def rewrite_command(path: Path, command: str, suffix: str | None = None) -> str:
    """Return the shell command that sends a file through `command` into a new file.

    Args:
        path: The file, gzipped or not.
        command: A command that takes a file name or, if it ends in `<`, standard input.
        suffix: Suffix of the new file; that of the old one if None.
    """
    zipped = is_gzipped(path)
    old, suffixes = shell_path(path), path.suffixes[-2:] if zipped else path.suffixes[-1:]
    if suffix is not None:
        suffixes = [suffix, *suffixes[1:]]
    new = "newer" if path.name.startswith("new.") else "new"  # a shell would empty the file before it is read
    new = shlex.quote(f"{new}{''.join(suffixes)}")
    if zipped:
        return f"gzip -dc {old} | {command.removesuffix(' <')} | gzip > {new}"
    return f"{command} {old} > {new}"


def shell_path(path: Path) -> str:
    """Return a path quoted for a shell, and never taken for an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _validate_type(path: Path, head: bytes, expected: str) -> None:
    found = detect_type(head, path)
    if found is not None and found.name != expected:
        line = ", line 1" if expected == TEXT else ""
        raise InputError(f"{path}{line}: {found.name}, but the file should be {expected}; {found.remedy}.")


def _missing_file_remedy(path: Path) -> str:
    """Return what to do if there is no such file: users give patterns, lists and addresses for paths."""
    name = str(path)
    if any(character in name for character in "*?["):
        return "patterns are not expanded; join the files into one and give that"
    if "," in name and any(Path(part).exists() for part in name.split(",")):
        return "only one file is read; join the files into one and give that"
    return "download it and give its path" if re.match(r"\w+:/", name) else "check the path"
