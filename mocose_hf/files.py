"""Write files atomically, find folders, and compute digests of files and of data in memory."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mocose_hf.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end of the `with` block; if anything fails, `path` stays."""
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def validate_suffix(path: str | Path, suffixes: Sequence[str]) -> str:
    """Return the suffix of a file in lower case.

    Raises:
        InputError: If it is none of the suffixes.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise InputError(f"{path}: the name should end in {' or '.join(suffixes)}; rename it.")
    return suffix


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def nearest_folder(path: str | Path) -> Path:
    """Return the folder itself, or its nearest parent that exists."""
    path = Path(path)
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def read_json_object(path: str | Path) -> dict:
    """Return the object in a JSON file, empty if the file is missing, damaged or holds anything else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def content_sha256(value: object) -> str:
    """Return the SHA-256 (hex) of data in memory: datasets, dataclasses, lists, mappings and plain values."""
    digest = hashlib.sha256()
    for part in _leaves(value):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file. The digest is cached until the file's size or modification time changes."""
    state = path.stat()
    return _cached_file_sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache
def _cached_file_sha256(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _leaves(value: Any) -> Iterator[str]:
    """Yield the plain values in order, and the length of each list and mapping."""
    if hasattr(value, "column_names"):  # a `datasets.Dataset`, without importing that library
        yield from _leaves({name: list(value[name]) for name in value.column_names})
    elif is_dataclass(value):
        yield from _leaves({f.name: getattr(value, f.name) for f in fields(value)})
    elif isinstance(value, Mapping):
        yield from _leaves(list(value.items()))
    elif isinstance(value, Iterable) and not isinstance(value, str):
        values = list(value)
        yield f"{len(values)} values"
        for part in values:
            yield from _leaves(part)
    else:
        yield repr(value)
