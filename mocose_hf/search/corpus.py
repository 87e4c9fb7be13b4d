"""Open the index of a file under a model, and build it first if there is none or either has changed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mocose_hf.data.open_file import files_fingerprint, find_files
from mocose_hf.data.readers import read_files
from mocose_hf.search.encoder import SentenceEncoder
from mocose_hf.search.index import SearchIndex


def open_corpus(
    model: str,
    corpus: str,
    text_column: str = "text",
    index_dir: str | None = None,
    exact: bool = False,
    batch_size: int = 128,
    show_progress: bool = False,
) -> tuple[SentenceEncoder, SearchIndex, bool]:
    """Load a model and open the index of a file.

    Args:
        model: An output directory of a training, a model directory or a hub id.
        corpus: A .txt, .csv, .tsv, .jsonl or .parquet file, or a pattern of several; see `find_files`.
        text_column: The column of the texts.
        index_dir: The folder of the index; None for `default_index_dir`.
        exact: Whether to build no graph however many texts there are.
        batch_size: Texts per forward.
        show_progress: Whether to show a bar while texts are embedded.

    Returns:
        The encoder, the index, and whether the index was built just now.

    Raises:
        InputError: If model or file cannot be read.
    """
    files = find_files(corpus)
    content = files_fingerprint(files)
    encoder = SentenceEncoder.load(model)
    directory = Path(index_dir) if index_dir else default_index_dir(model, corpus, text_column)
    fingerprint = hashlib.sha256(f"{encoder.fingerprint} {content} {text_column}".encode()).hexdigest()
    index = SearchIndex.open(directory, fingerprint)
    if index is not None:
        return encoder, index, False
    index = SearchIndex.build(
        directory,
        _numbered_texts(files, text_column),
        lambda texts: encoder.encode(texts, ("document", "passage"), batch_size),
        fingerprint,
        approximate=False if exact else None,
        show_progress=show_progress,
    )
    return encoder, index, True


def default_index_dir(model: str, corpus: str, text_column: str) -> Path:
    """Return a folder beside the model, or in the user's cache if the model is on the hub or cannot be written to."""
    path = Path(corpus).resolve()
    name = f"{path.stem}-{hashlib.sha256(f'{path} {text_column}'.encode()).hexdigest()[:8]}"
    if Path(model).is_dir() and os.access(model, os.W_OK):
        return Path(model) / "search" / name
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mocose_hf" / "search" / hashlib.sha256(model.encode()).hexdigest()[:8] / name


def _numbered_texts(paths: list[Path], text_column: str) -> Iterator[tuple[int, str]]:
    for number, row in enumerate(read_files(paths, text_column), start=1):
        if row.text and row.text.strip():
            yield number, row.text.strip()
