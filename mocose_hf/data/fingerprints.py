"""Fingerprints of training data and tokenizers, so that a run resumes only on the data it was trained on."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

_ROWS_AT_ONCE = 10_000

_PROBE = (
    "The quick brown FOX jumps over 13 lazy dogs, isn't it? Naïve café: “déjà vu” (50 %)!",
    "Größe, señor, łódź, İstanbul, Привет мир, 你好世界, こんにちは, नमस्ते, שלום, مرحبا, 안녕, 😀.",
)
"""Sentences that tokenizers of different vocabulary, casing or normalisation split differently."""


def dataset_fingerprint(dataset) -> str | None:
    """Return a string that identifies a training set, None if its rows differ each time they are read.

    This is the attribute `fingerprint` if it is a string, otherwise the sha256 of all rows in order. Sentence ids that
    only number the rows are ignored.

    Args:
        dataset: A `datasets.Dataset`, any other dataset with length and index, or an iterable with a `fingerprint`.
    """
    fingerprint = getattr(dataset, "fingerprint", None)
    if isinstance(fingerprint, str):
        return fingerprint
    if isinstance(dataset, Dataset):
        return _columns_sha256(dataset)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return None
    with _preserve_random_states():
        if len(dataset) and _as_text(dataset[0]) != _as_text(dataset[0]):
            return None  # random rows, or objects whose repr holds their address
        return rows_sha256(dataset[number] for number in range(len(dataset)))


def text_number(fingerprint: str | None) -> int:
    """Return a fingerprint as a number in [1, 2⁶⁰] for `NegativeQueue.use_ids_of`; 0 for None."""
    return 0 if fingerprint is None else 1 + int(hashlib.sha256(fingerprint.encode()).hexdigest()[:15], 16)


def rows_sha256(rows: Iterable) -> str:
    """Return the sha256 (hex) of rows of texts, numbers, tensors and containers of these."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{_as_text(row)}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer) -> str | None:
    """Return the sha256 (hex) of the tokens of fixed probe sentences, None without a tokenizer."""
    if tokenizer is None:
        return None
    return rows_sha256([tokenizer(text, verbose=False)["input_ids"] for text in _PROBE] + [len(tokenizer)])


def _columns_sha256(dataset: Dataset) -> str:
    digests = {name: hashlib.sha256() for name in sorted(dataset.column_names)}
    is_numbered = "sentence_id" in digests
    start = 0
    for batch in dataset.with_format("arrow").iter(_ROWS_AT_ONCE):
        for name, digest in digests.items():
            digest.update(_column_bytes(batch.column(name)))
            if name == "sentence_id" and is_numbered:
                is_numbered = batch.column(name).to_pylist() == list(range(start, start + batch.num_rows))
        start += batch.num_rows
    if is_numbered:
        del digests["sentence_id"]
    parts = "".join(f"{name} {digest.hexdigest()}\n" for name, digest in digests.items())
    return hashlib.sha256(parts.encode()).hexdigest()


def _column_bytes(column: pa.ChunkedArray) -> bytes:
    """Return the values of a column as bytes that do not depend on its chunks; lists of numbers are converted fast."""
    if pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type) and not column.null_count:
        values = pc.list_flatten(column)
        if not values.null_count:
            parts = (pc.list_value_length(column), values)
            return b"".join([str(column.type).encode(), *(part.to_numpy().tobytes() for part in parts)])
    return repr(column.to_pylist()).encode(errors="surrogatepass")


def _as_text(value) -> str:
    """Return text that identifies a value in every process; `repr` of a large tensor omits its middle."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_as_text(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_text, value))}]"
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().float().numpy() if value.dtype == torch.bfloat16 else value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return repr(value)


@contextmanager
def _preserve_random_states() -> Iterator[None]:
    """Restore the random generators afterwards, because reading a row may draw from them."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
