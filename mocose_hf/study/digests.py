"""What tells data and encoders from others of the same name: SHA-256 of what they hold."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path

from datasets import Dataset

from mocose_hf.models.loading import encoder_files, load_tokenizer, locate_encoder
from mocose_hf.training.checkpoint import file_entry


def content_sha256(value: object) -> str:
    """Return the digest (hex) of data in memory: datasets, dataclasses, lists and mappings of these, plain values."""
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(f"{part}\n".encode())
    return digest.hexdigest()


def encoder_sha256(name_or_path: str, **hub_options) -> str:
    """Return the digest (hex) of an encoder's weights, configuration, pooling and vocabulary.

    Args:
        name_or_path: A directory or a hub id, as `load_encoder` takes it.
        hub_options: `revision` and `cache_dir`.

    Raises:
        OSError, ValueError: Where it cannot be loaded.
    """
    files = encoder_files(name_or_path, **hub_options)
    tokenizer = load_tokenizer(name_or_path, **hub_options)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    layout, _ = locate_encoder(name_or_path, hub_options)
    return content_sha256([[_file_sha256(path) for path in files], layout, vocabulary])


def _parts(value: object) -> Iterator[str]:
    """Give the leaves of a value in order, and how many a list or mapping holds."""
    if isinstance(value, Dataset):
        yield from _parts({name: list(value[name]) for name in value.column_names})
    elif is_dataclass(value):
        yield from _parts({f.name: getattr(value, f.name) for f in fields(value)})
    elif isinstance(value, Mapping):
        yield from _parts(list(value.items()))
    elif isinstance(value, Iterable) and not isinstance(value, str):
        values = list(value)
        yield f"{len(values)} values"
        for part in values:
            yield from _parts(part)
    else:
        yield repr(value)


def _file_sha256(path: Path) -> str:
    state = path.stat()
    return _read_sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache
def _read_sha256(path: Path, size: int, changed: int) -> str:
    """Return the digest of a file; size and time of change tell whether the one that is known holds."""
    return file_entry(path)["sha256"]
