"""Text files of several formats."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from builders import WORDS, sentences


def content_of(kind: str, columns: dict[str, list]) -> bytes:
    """Return the content of a file of this kind; a text file has the first column alone."""
    names, rows = list(columns), list(zip(*columns.values(), strict=True))
    if kind == ".txt":
        return "".join(f"{row[0]}\n" for row in rows).encode()
    if kind == ".tsv":
        return "".join("\t".join(row) + "\n" for row in [names, *rows]).encode()
    if kind == ".jsonl":
        return "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows).encode()
    if kind == ".csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([names, *rows])
        return text.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def write(directory, kind: str, content: bytes | str, name: str = "file"):
    content = content.encode() if isinstance(content, str) else content
    path = directory / f"{name}{kind}"
    path.write_bytes(gzip.compress(content) if kind.endswith(".gz") else content)
    return path


def write_label_file(path: Path, count: int) -> Path:
    """Write sentences with one of three labels, which their first word decides."""
    rows = [f"{text}\t{WORDS.index(text.split()[0]) % 3}" for text in sentences(count, seed=3)]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    return path
