"""Read training sentences, check them, and drop blank rows and exact duplicates."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import repeat
from numbers import Integral
from pathlib import Path

from datasets import Dataset
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from mocose_hf.data.open_file import describe_files, find_files
from mocose_hf.data.readers import (
    CleanRow,
    Row,
    clean_rows,
    load_hub_dataset,
    read_files,
    record_rows,
)
from mocose_hf.errors import InputError, printable

TEXT_COLUMNS = ("text", "key_text", "negative_text")
"""The columns of text that a training set may have."""


@dataclass
class Sentences:
    """Clean sentences, and the counts of what was dropped to get them.

    Args:
        dataset: Columns `text`, `sentence_id` (the row's number among the clean ones) and, in pairs, `key_text`. Pairs
            that share a text share the number of the first of them. With hard negatives also `negative_text`, "" for
            none, and `negative_id`, see `number_negatives`.
        rows_read: Rows in the file.
        dropped: Number of dropped rows by reason.
        sha256: Hash of the clean texts in order, which identifies the data of a run.
        held_out: A development set of rows that are not in the dataset.
    """

    dataset: Dataset
    rows_read: int
    dropped: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    held_out: object | None = None

    def summary(self) -> str:
        """Return one line with the rows read, the rows dropped by reason, and the sentences left."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items()) or "none"
        return f"{self.rows_read:,} rows read, dropped: {reasons}; {len(self.dataset):,} sentences."


def read_sentences(
    path: str | Path | Sequence[str | Path],
    text_column: str = "text",
    key_column: str | Sequence[str] | None = None,
    encoding: str | None = None,
    negative_column: str | None = None,
) -> Sentences:
    """Read and check all sentences of one or several files, and drop blank rows and exact duplicates.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns. Each may be gzipped and named .gz. UTF-8, with or without a byte order mark. Several
            files, or patterns such as `notes/*.csv`, count as one file; see `find_files`.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column with the text of the key view, which makes each row a pair. Of several columns,
            each gives a pair of its own unless it is blank.
        encoding: Python's name of the file's encoding if it is not UTF-8, such as cp1252; not for .parquet.
        negative_column: A column with a hard negative for each row, which may be blank.

    Raises:
        InputError: If the file cannot be used, with its name, the line and the remedy.
    """
    files = find_files(path)
    rows = read_files(files, text_column, key_column, encoding, negative_column)
    return _clean(rows, describe_files(files), bool(key_column), negative_column)


def read_hub_sentences(
    name: str,
    config_name: str | None,
    split: str,
    text_column: str = "text",
    key_column: str | Sequence[str] | None = None,
    revision: str | None = None,
    negative_column: str | None = None,
) -> Sentences:
    """Read the sentences of a dataset on the hub; otherwise as `read_sentences`."""
    source = f"{name} ({split})"
    records = load_hub_dataset(name, config_name, split, revision=revision)
    rows = record_rows(records, source, text_column, key_column, negative_column)
    return _clean(rows, source, bool(key_column), negative_column)


def texts_sha256(
    texts: Iterable[str], key_texts: Iterable[str] | None = None, negative_texts: Iterable[str] | None = None
) -> str:
    """Return the sha256 (hex) of clean texts, or of pairs and hard negatives of them, in order."""
    digest = hashlib.sha256()
    columns = (texts, *(repeat("") if column is None else column for column in (key_texts, negative_texts)))
    for row in zip(*columns, strict=False):
        digest.update(_row_bytes(CleanRow(*row)))
    return digest.hexdigest()


def number_pairs(texts: Sequence[str], key_texts: Sequence[str]) -> list[int]:
    """Return an id for each pair: the number of the first pair that it is linked to by equal texts.

    Pairs with the same query or the same document are no negatives of each other, and neither are those that a chain
    of such pairs links. `mask_same_sentence` goes by these ids. Pairs that share no text have their row's number.
    """
    first_row: dict[str, int] = {}
    parent = list(range(len(texts)))

    def find_root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]  # halves the path, so that long chains stay fast
            row = parent[row]
        return row

    for row, pair in enumerate(zip(texts, key_texts, strict=True)):
        for text in pair:
            roots = find_root(first_row.setdefault(text, row)), find_root(row)
            parent[max(roots)] = min(roots)
    return [find_root(row) for row in range(len(parent))]


def number_negatives(
    negative_texts: Sequence[str | None], ids: Sequence[int], texts: Sequence[str], key_texts: Sequence[str] | None
) -> list[int]:
    """Return for each hard negative the id of the sentence or pair that has the same text, −1 if none has.

    `mask_same_sentence` goes by these ids, so a text is no hard negative of a query that it is a positive of.

    Args:
        negative_texts: N texts; blank for none.
        ids: The N ids of the sentences, or of the pairs by `number_pairs`.
        texts, key_texts: The N texts, and in pairs those of the key view.
    """
    known: dict[str, int] = {}
    for column in (texts, key_texts or ()):
        for text, number in zip(column, ids, strict=False):
            known.setdefault(text, number)
    return [known.get(text, -1) if text else -1 for text in negative_texts]


def with_sentence_ids(dataset):
    """Return a dataset with integers in `sentence_id`: if it has no such column, row numbers or `number_pairs`.

    With hard negatives such a dataset also gets `negative_id`, see `number_negatives`.
    """
    if not isinstance(dataset, Dataset):
        return dataset
    if "sentence_id" not in dataset.column_names:
        texts, key_texts, negatives = (
            dataset[name] if name in dataset.column_names else None for name in TEXT_COLUMNS
        )
        ids = _number(len(dataset), texts, key_texts, negatives)
        for name, column in ids.items():
            dataset = dataset.add_column(name, column)
        return dataset
    if getattr(dataset.features["sentence_id"], "dtype", None) in ("string", "large_string"):
        numbers = [sentence_number(name) for name in dataset["sentence_id"]]
        return dataset.remove_columns("sentence_id").add_column("sentence_id", numbers)
    return dataset


def sentence_number(sentence_id: int | str) -> int:
    """Return a sentence id as an integer: an integer as it is, a string as 63 bits of its hash.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(sentence_id, str):
        return int.from_bytes(hashlib.blake2b(sentence_id.encode(), digest_size=8).digest(), "big") >> 1
    if isinstance(sentence_id, bool) or not isinstance(sentence_id, Integral):
        raise InputError(f"`sentence_id` is {sentence_id!r:.60}; give a whole number or a string for each sentence.")
    return int(sentence_id)


def sample_rows(dataset, count: int) -> tuple[list[dict], bool]:
    """Return at most `count` rows of a training set, and whether there are more.

    The rows are evenly spaced; of a stream they are the first ones. A row of a stream that cannot be read ends the
    sample without an error, because training raises it at that row.
    """
    if isinstance(dataset, IterableDataset):
        rows = []
        with suppress(InputError):
            for row in dataset.one_pass():  # type: ignore[attr-defined]
                rows.append(row)
                if len(rows) == count:
                    break
        return rows, True
    step = -(-len(dataset) // count) or 1
    return [dataset[number] for number in range(0, len(dataset), step)], step > 1


def _row_bytes(row: CleanRow) -> bytes:
    negative = f"\0{row.negative_text}" if row.negative_text else ""
    return f"{row.text}\0{row.key_text}{negative}\n".encode()


def _number(count: int, texts, key_texts, negative_texts) -> dict[str, list[int]]:
    """Return the columns of ids of a dataset with these columns of texts; None is a column that it lacks."""
    if texts is None or (key_texts is None and negative_texts is None):
        return {"sentence_id": list(range(count))}
    ids = number_pairs(texts, texts if key_texts is None else key_texts)  # a text with two negatives has two rows
    if negative_texts is None:
        return {"sentence_id": ids}
    return {"sentence_id": ids, "negative_id": number_negatives(negative_texts, ids, texts, key_texts)}


def _clean(rows: Iterator[Row], source: str, is_pair: bool, negative_column: str | None) -> Sentences:
    """Strip the texts, drop blank rows and exact duplicates, and count them."""
    texts, key_texts, negatives, seen = [], [], [], set()
    digest = hashlib.sha256()
    read = blank = duplicate = 0
    progress = {"desc": f"Reading {printable(Path(source).name)}", "unit": " rows", "unit_scale": True, "leave": False}
    for row in tqdm(rows, disable=None, **progress):
        read += 1
        cleaned = clean_rows(row)
        blank += not cleaned
        for sentence in cleaned:
            content = _row_bytes(sentence)
            short_hash = hashlib.blake2b(content, digest_size=16).digest()
            if short_hash in seen:
                duplicate += 1
                continue
            seen.add(short_hash)
            digest.update(content)
            texts.append(sentence.text)
            key_texts.append(sentence.key_text)
            negatives.append(sentence.negative_text)
    if not texts:
        raise InputError(f"{source}: all {read} rows are blank; it needs one sentence a line or row.")
    if negative_column is not None and not any(negatives):
        raise InputError(
            f"{source}: the column `{negative_column[:40]}` is blank in all rows, so there is no hard negative; fill "
            "it, or leave out `negative_column`."
        )
    columns: dict[str, list] = {"text": texts}
    if is_pair:
        columns["key_text"] = key_texts
    if negative_column is not None:
        columns["negative_text"] = negatives
    columns |= _number(len(texts), *(columns.get(name) for name in TEXT_COLUMNS))
    dropped = {reason: count for reason, count in (("blank", blank), ("duplicate", duplicate)) if count}
    return Sentences(Dataset.from_dict(columns), read, dropped, digest.hexdigest())
