"""An index of texts by their embeddings, kept on disk and read by memory mapping."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mocose_hf.errors import InputError, install_command
from mocose_hf.files import read_json_object

FORMAT = 1
APPROXIMATE_FROM = 200_000
"""Rows from which a graph index is built too, if usearch is installed."""

_BLOCK = 65_536
_TEXTS_AT_ONCE = 8_192
_TEXTS, _EMBEDDINGS, _GRAPH, _MANIFEST = "texts.arrow", "embeddings.npy", "graph.usearch", "index.json"


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Args:
        score: The cosine of text and query, in [-1, 1].
        row: The row of the text in its file, from 1; blank rows count.
        text: The text.
    """

    score: float
    row: int
    text: str


class SearchIndex:
    """Texts and their unit embeddings.

    An exact search reads all embeddings; a graph, if there is one, reads few and may miss a result.

    Args:
        directory: What `build` wrote.
    """

    def __init__(self, directory: str | Path):
        directory = Path(directory)
        self.manifest = read_json_object(directory / _MANIFEST)
        self._embeddings = np.load(
            directory / _EMBEDDINGS, mmap_mode="c"
        )  # (N, H) float32; "c" as torch wants writable memory
        self._table = pa.ipc.open_file(pa.memory_map(str(directory / _TEXTS))).read_all()
        self._graph = _open_graph(directory / _GRAPH) if self.manifest.get("has_graph") else None

    def __len__(self) -> int:
        return len(self._embeddings)

    @classmethod
    def open(cls, directory: str | Path, fingerprint: str) -> "SearchIndex | None":
        """Open an index if it is complete and was built from the same model and texts; None otherwise."""
        manifest = read_json_object(Path(directory) / _MANIFEST)
        if (manifest.get("format"), manifest.get("fingerprint")) != (FORMAT, fingerprint):
            return None
        try:
            return cls(directory)
        except (OSError, ValueError, pa.ArrowException):
            return None

    @classmethod
    def build(
        cls,
        directory: str | Path,
        rows: Iterable[tuple[int, str]],
        encode: Callable[[list[str]], Tensor],
        fingerprint: str,
        approximate: bool | None = None,
        show_progress: bool = False,
    ) -> "SearchIndex":
        """Embed texts and write them; an index of the same directory is replaced once the new one is whole.

        Args:
            directory: The folder to write.
            rows: Row numbers and texts.
            encode: Returns unit embeddings (n, H) of n texts.
            fingerprint: Of the model and the texts, for `open`.
            approximate: Whether to build a graph for fast approximate search; None if usearch is installed and there
                are at least `APPROXIMATE_FROM` texts.
            show_progress: Whether to show a bar.

        Raises:
            InputError: If there is no text, or a graph is asked for without usearch.
        """
        directory = Path(directory)
        unfinished = directory.with_name(f"{directory.name}.tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            count = _write_texts(unfinished / _TEXTS, rows)
            if not count:
                raise InputError("corpus: it has no text; give a file with one text a line or row.")
            texts = pa.ipc.open_file(pa.memory_map(str(unfinished / _TEXTS))).read_all()["text"]
            embeddings = None
            with tqdm(total=count, desc="Encoding", unit=" texts", disable=None if show_progress else True) as bar:
                for start in range(0, count, _TEXTS_AT_ONCE):
                    part = encode(texts.slice(start, _TEXTS_AT_ONCE).to_pylist()).numpy()
                    if embeddings is None:
                        shape = (count, part.shape[1])
                        embeddings = np.lib.format.open_memmap(
                            unfinished / _EMBEDDINGS, mode="w+", dtype=np.float32, shape=shape
                        )
                    embeddings[start : start + len(part)] = part
                    bar.update(len(part))
            embeddings.flush()
            has_graph = _wants_graph(count, approximate)
            if has_graph:
                _build_graph(unfinished / _GRAPH, embeddings)
            manifest = {"format": FORMAT, "fingerprint": fingerprint, "rows": count, "has_graph": has_graph}
            (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(directory, ignore_errors=True)
            unfinished.replace(directory)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return cls(directory)

    def search(self, queries: Tensor, top_k: int = 10, exact: bool = False) -> list[list[Hit]]:
        """Return the nearest texts of each query, the nearest first.

        Args:
            queries: (Q, H) unit embeddings.
            top_k: Results per query, at least 1.
            exact: Whether to read all embeddings even if there is a graph.
        """
        top_k = min(top_k, len(self))
        if self._graph is not None and not exact:
            places, scores = self._search_graph(queries, top_k)
        else:
            places, scores = self._search_all(queries, top_k)
        return [self._hits(*found) for found in zip(places, scores, strict=True)]

    def _search_all(self, queries: Tensor, top_k: int) -> tuple[list[list[int]], list[list[float]]]:
        best, where = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for start in range(0, len(self), _BLOCK):
            block = torch.from_numpy(np.asarray(self._embeddings[start : start + _BLOCK]))
            scores, found = (queries @ block.T).topk(min(top_k, len(block)), dim=-1)  # (Q, k)
            best, order = torch.cat([best, scores], dim=-1).topk(min(top_k, best.shape[1] + scores.shape[1]), dim=-1)
            where = torch.cat([where, found + start], dim=-1).gather(-1, order)
        return where.tolist(), best.tolist()

    def _search_graph(self, queries: Tensor, top_k: int) -> tuple[list[list[int]], list[list[float]]]:
        matches = [self._graph.search(query.numpy(), top_k) for query in queries]
        places = [[int(key) for key in match.keys] for match in matches]
        return places, [[1 - float(distance) for distance in match.distances] for match in matches]

    def _hits(self, places: Sequence[int], scores: Sequence[float]) -> list[Hit]:
        found = self._table.take(places)
        rows, texts = found["row"].to_pylist(), found["text"].to_pylist()
        return [Hit(*values) for values in zip(scores, rows, texts, strict=True)]


def _write_texts(path: Path, rows: Iterable[tuple[int, str]]) -> int:
    schema = pa.schema([("row", pa.int64()), ("text", pa.large_string())])
    count, rows = 0, iter(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while block := list(islice(rows, _TEXTS_AT_ONCE)):
            numbers, texts = zip(*block, strict=True)
            writer.write_batch(pa.record_batch([pa.array(numbers), pa.array(texts, pa.large_string())], schema=schema))
            count += len(block)
    return count


def _wants_graph(count: int, approximate: bool | None) -> bool:
    if approximate is False or (approximate is None and count < APPROXIMATE_FROM):
        return False
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        if approximate:
            raise InputError(f"approximate: it needs usearch; run: {install_command('search')}") from None
        return False
    return True


def _build_graph(path: Path, embeddings: np.ndarray) -> None:
    from usearch.index import Index

    graph = Index(ndim=embeddings.shape[1], metric="cos", dtype="f16")
    for start in range(0, len(embeddings), _BLOCK):
        block = np.asarray(embeddings[start : start + _BLOCK])
        graph.add(np.arange(start, start + len(block)), block)
    graph.save(str(path))


def _open_graph(path: Path):
    try:
        from usearch.index import Index
    except ImportError:  # built elsewhere: search all texts instead
        return None
    return Index.restore(str(path), view=True)
