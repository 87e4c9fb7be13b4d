"""Read and check sentences, and make batches of them."""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset, load_dataset
from tqdm.auto import tqdm

from mocose_hf.errors import InputError, one_line

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")

Row = tuple[str | None, str | None]
"""The text of a sentence and, in pairs, the text of its key view."""


@dataclass
class Sentences:
    """Clean sentences and what was done to get them.

    Args:
        dataset: Columns `text`, `sentence_id` (the row's number among the clean ones) and, in pairs, `key_text`.
        rows_read: Rows in the file.
        dropped: Rows left out, by reason.
        sha256: Of the clean texts, in order, so that a run can be told apart from one on other data.
    """

    dataset: Dataset
    rows_read: int
    dropped: dict[str, int] = field(default_factory=dict)
    sha256: str = ""

    def summary(self) -> str:
        """Return one line: rows read, dropped and why, sentences left."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        return f"{self.rows_read:,} rows read, dropped: {reasons}; {len(self.dataset):,} sentences."


def read_sentences(path: str | Path, text_column: str = "text", key_column: str | None = None) -> Sentences:
    """Read the sentences of a file, drop blank rows and exact duplicates, and check all of it.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns; each may be gzipped and named .gz. UTF-8, with or without a byte order mark.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column whose text the target sees instead, which makes each row a pair.

    Raises:
        InputError: Where the file cannot be used, with its name, the line where there is one, and the remedy.
    """
    path = Path(path)
    _refuse_directory(path)
    suffixes = [s.lower() for s in path.suffixes]
    zipped = bool(suffixes) and suffixes[-1] == ".gz"
    kind = suffixes[-2] if zipped and len(suffixes) > 1 else (suffixes[-1] if suffixes else "")
    if kind not in SUFFIXES:
        raise InputError(f"{path}: the name should end in {', '.join(SUFFIXES)} (or one of these and .gz); rename it.")
    if key_column is not None and kind == ".txt":
        raise InputError(
            f"{path}: a text file has no columns, so no --key_column; use .csv, .tsv, .jsonl or .parquet."
        )
    content = _read_bytes(path, zipped)
    if kind == ".parquet":
        rows = _parquet_rows(path, content, text_column, key_column)
    else:
        lines = _lines(path, content)
        if kind == ".txt":
            rows = ((text, None) for text in lines)
        elif kind == ".jsonl":
            rows = _jsonl_rows(path, lines, text_column, key_column)
        else:
            rows = _table_rows(path, lines, kind, text_column, key_column)
    return _clean(rows, str(path), key_column is not None)


def read_hub_sentences(
    name: str, config_name: str | None, split: str, text_column: str = "text", key_column: str | None = None
) -> Sentences:
    """Read the sentences of a dataset on the hub; otherwise as `read_sentences`."""
    source = f"{name} ({split})"
    try:
        dataset = load_dataset(name, config_name, split=split)
    except Exception as error:  # datasets raises many kinds, from its own to those of the network
        reason = one_line(error)
        raise InputError(f"--dataset_name {name}: cannot be loaded ({reason}); check name and split.") from error
    for column in filter(None, (text_column, key_column)):
        _require_column(source, column, dataset.column_names)
    rows = (_row(record, f"{source}, row {n}", text_column, key_column) for n, record in enumerate(dataset, start=1))
    return _clean(rows, source, key_column is not None)


def with_sentence_ids(dataset):
    """Return the dataset with a column `sentence_id`, numbered from 0 where it has none."""
    if isinstance(dataset, Dataset) and "sentence_id" not in dataset.column_names:
        return dataset.add_column("sentence_id", list(range(len(dataset))))
    return dataset


class SentenceCollator:
    """Tokenise the texts of a batch and pad them to its longest.

    Args:
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest input in tokens.
    """

    def __init__(self, tokenizer, max_seq_length: int = 32):
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length

    def __call__(self, rows: list[dict]) -> dict:
        """Make a batch of rows with `text` and optionally `key_text` and `sentence_id`.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids` (B, L) as the tokenizer gives them, the same under
            `key_…` (B, L') where there is `key_text`, and `sentence_ids` (B,).
        """
        batch = dict(self._tokenize([row["text"] for row in rows]))
        if "key_text" in rows[0]:
            batch |= {f"key_{name}": value for name, value in self._tokenize([r["key_text"] for r in rows]).items()}
        if "sentence_id" in rows[0]:
            batch["sentence_ids"] = torch.tensor([row["sentence_id"] for row in rows], dtype=torch.int64)
        return batch

    def _tokenize(self, texts: list[str]):
        return self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_seq_length, return_tensors="pt"
        )


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 file without byte order mark and line ends.

    Raises:
        InputError: Where the file is missing, empty or of another encoding.
    """
    path = Path(path)
    return list(_lines(path, _read_bytes(path, path.suffix == ".gz")))


def _read_bytes(path: Path, zipped: bool) -> bytes:
    _refuse_directory(path)
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if zipped else content
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a complete gzip file ({one_line(error)}); make it again.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from error
    if not content:
        raise InputError(f"{path}: the file is empty; it needs one sentence a line or row.")
    return content


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give the file in it.")


def _lines(path: Path, content: bytes) -> Iterator[str]:
    """Decode line by line, so that an error names its line; split at line feeds alone."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(
            f"{path}, line 1: UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 {path} > new{path.suffix}"
        )
    content = content.removeprefix(codecs.BOM_UTF8).removesuffix(b"\n")
    for number, line in enumerate(content.split(b"\n"), start=1):
        if b"\0" in line:
            raise InputError(f"{path}, line {number}: binary data, a zero byte; the file should be UTF-8 text.")
        try:
            yield line.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not UTF-8 at byte {error.start + 1} of the line; if the file is Latin-1, "
                f"convert it: iconv -f LATIN1 -t UTF-8 {path} > new{path.suffix}"
            ) from None


def _table_rows(path, lines, kind, text_column, key_column) -> Iterator[Row]:
    dialect = {"strict": True} if kind == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader((f"{line}\n" for line in lines), **dialect)
    start = 1
    try:
        header = next(reader)
        for column in filter(None, (text_column, key_column)):
            _require_column(f"{path}, line 1", column, header)
        start = reader.line_num + 1
        for record in reader:
            if not any(record):
                yield None, None
            elif len(record) == len(header):
                yield _row(dict(zip(header, record, strict=True)), f"{path}, line {start}", text_column, key_column)
            else:
                raise InputError(
                    f"{path}, line {start}: {len(record)} fields, but the header names {len(header)}; "
                    "quote fields that contain the separator or drop the line."
                )
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {start}: {one_line(error)}; mend the quotes or the row.") from error


def _jsonl_rows(path, lines, text_column, key_column) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            yield None, None
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
            raise InputError(f'{path}, line {number}: not a JSON object; write {{"{text_column}": "a sentence"}}.')
        for column in filter(None, (text_column, key_column)):
            _require_column(f"{path}, line {number}", column, list(record))
        yield _row(record, f"{path}, line {number}", text_column, key_column)


def _parquet_rows(path, content, text_column, key_column) -> Iterator[Row]:
    try:
        table = pq.ParquetFile(io.BytesIO(content))
        names = table.schema_arrow.names
        columns = list(filter(None, (text_column, key_column)))
        for column in columns:
            _require_column(str(path), column, names)
        number = 0
        for batch in table.iter_batches(columns=columns):
            for record in batch.to_pylist():
                number += 1
                yield _row(record, f"{path}, row {number}", text_column, key_column)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after row {number}: bytes that are not UTF-8; write the file again.") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a complete parquet file ({one_line(error)}); make it again.") from error


def _row(record: dict, place: str, text_column: str, key_column: str | None) -> Row:
    texts = []
    for column in (text_column, key_column):
        text = record[column] if column else None
        if text is not None and not isinstance(text, str):
            raise InputError(f"{place}: `{column}` holds {str(text)[:40]!r}, which is no text; name a text column.")
        texts.append(text)
    return texts[0], texts[1]


def _require_column(place: str, column: str, names: list[str]) -> None:
    if column not in names:
        found = ", ".join(str(name)[:40] for name in names[:8])
        raise InputError(
            f"{place}: no column `{column}`, the columns are: {found}; name one by --text_column or --key_column, or "
            "add the missing header line."
        )


def _clean(rows: Iterator[Row], source: str, pairs: bool) -> Sentences:
    """Strip, drop blank rows and exact duplicates, and count."""
    texts, key_texts, seen = [], [], set()
    digest = hashlib.sha256()
    read = blank = duplicate = 0
    for text, key_text in tqdm(
        rows, desc=f"Reading {Path(source).name}", unit=" rows", unit_scale=True, leave=False, disable=None
    ):
        read += 1
        text, key_text = (text or "").strip(), (key_text or "").strip()
        if not text or (pairs and not key_text):
            blank += 1
            continue
        row = f"{text}\0{key_text}\n".encode()
        mark = hashlib.blake2b(row, digest_size=16).digest()
        if mark in seen:
            duplicate += 1
            continue
        seen.add(mark)
        digest.update(row)
        texts.append(text)
        key_texts.append(key_text)
    if not texts:
        raise InputError(f"{source}: all {read} rows are blank; it needs one sentence a line or row.")
    columns = {"text": texts, "sentence_id": list(range(len(texts)))}
    if pairs:
        columns["key_text"] = key_texts
    dropped = {reason: n for reason, n in (("blank", blank), ("duplicate", duplicate)) if n}
    return Sentences(Dataset.from_dict(columns), read, dropped, digest.hexdigest())
