"""Read and check sentences, and make batches of them."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain
from numbers import Integral
from pathlib import Path

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from mocose_hf.errors import InputError, printable
from mocose_hf.readers import Row, load_hub_dataset, read_rows, record_rows, strip_row
from mocose_hf.text_augmentation import TextAugmentation


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


def read_sentences(
    path: str | Path, text_column: str = "text", key_column: str | None = None, encoding: str | None = None
) -> Sentences:
    """Read the sentences of a file, drop blank rows and exact duplicates, and check all of it.

    Args:
        path: A .txt file (one sentence a line) or a .csv, .tsv (tab-separated, no quoting), .jsonl or .parquet file
            with named columns; each may be gzipped and named .gz. UTF-8, with or without a byte order mark.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column whose text the target sees instead, which makes each row a pair.
        encoding: Python's name of the file's encoding if it is not UTF-8, such as cp1252; not for .parquet.

    Raises:
        InputError: If the file cannot be used, with its name, the line if there is one, and the remedy.
    """
    return _clean(read_rows(path, text_column, key_column, encoding), str(path), key_column is not None)


def read_hub_sentences(
    name: str,
    config_name: str | None,
    split: str,
    text_column: str = "text",
    key_column: str | None = None,
    revision: str | None = None,
) -> Sentences:
    """Read the sentences of a dataset on the hub; otherwise as `read_sentences`."""
    source = f"{name} ({split})"
    rows = record_rows(load_hub_dataset(name, config_name, split, revision=revision), source, text_column, key_column)
    return _clean(rows, source, key_column is not None)


def with_sentence_ids(dataset):
    """Return the dataset with whole numbers as `sentence_id`: numbered from 0 if it has no such column."""
    if not isinstance(dataset, Dataset):
        return dataset
    if "sentence_id" not in dataset.column_names:
        return dataset.add_column("sentence_id", list(range(len(dataset))))
    if getattr(dataset.features["sentence_id"], "dtype", None) in ("string", "large_string"):
        numbers = [sentence_number(name) for name in dataset["sentence_id"]]
        return dataset.remove_columns("sentence_id").add_column("sentence_id", numbers)
    return dataset


def sentence_number(sentence_id: int | str) -> int:
    """Return the number that a sentence id is known by: itself, or of a string 63 bits of its hash.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(sentence_id, str):
        return int.from_bytes(hashlib.blake2b(sentence_id.encode(), digest_size=8).digest(), "big") >> 1
    if isinstance(sentence_id, bool) or not isinstance(sentence_id, Integral):
        raise InputError(f"`sentence_id` is {sentence_id!r:.60}; give a whole number or a string for each sentence.")
    return int(sentence_id)


class SentenceCollator:
    """Tokenise the texts of a batch, and pad them on the right to the longest one or pack them into one row.

    Args:
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest input in tokens.
        first_position: The position that each sentence of a packed row starts at; None for padded batches.
        key_augmentation: Makes the key view's text of a text; None for none. It is given a generator that depends on
            the seed, on the sentences of the batch and on the place among them, and on nothing else: the same batch
            gives the same texts in any worker process and after a resume, and another epoch, which puts a sentence
            into another batch, gives others.
        seed: Of these generators.
    """

    def __init__(
        self,
        tokenizer,
        max_seq_length: int = 32,
        first_position: int | None = None,
        key_augmentation: TextAugmentation | None = None,
        seed: int = 0,
    ):
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self.first_position = first_position
        self.key_augmentation = key_augmentation
        self.seed = seed

    def __call__(self, rows: list[dict]) -> dict:
        """Make a batch of rows with `text` and optionally `key_text` and `sentence_id`.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids` (B, L) as the tokenizer gives them, the same under
            `key_…` (B, L') where there is `key_text` or an augmentation of it, and `sentence_ids` (B,). Packed,
            `input_ids` and `token_type_ids` are (1, T), and instead of the mask there are `position_ids` (1, T),
            `cu_seq_lens_q` (B + 1,) int32, the place of each sentence's first token and at the end T, and the number
            `max_length_q` of tokens of the longest sentence.
        """
        batch = self._tokenize([row["text"] for row in rows])
        key_texts = self._key_texts(rows)
        if key_texts is not None:
            batch |= {f"key_{name}": value for name, value in self._tokenize(key_texts).items()}
        if "sentence_id" in rows[0]:
            batch["sentence_ids"] = torch.tensor([sentence_number(row["sentence_id"]) for row in rows])
        return batch

    def _key_texts(self, rows: list[dict]) -> list[str] | None:
        """Return what the target is to see, None where that is what the online branch sees."""
        if self.key_augmentation is None:
            return [row["key_text"] for row in rows] if "key_text" in rows[0] else None
        marks = [row["sentence_id"] if "sentence_id" in row else row["text"] for row in rows]
        batch = hashlib.sha256(repr((self.seed, marks)).encode(errors="surrogatepass")).hexdigest()
        return [
            self.key_augmentation(row.get("key_text", row["text"]), random.Random(f"{batch} {place}"))
            for place, row in enumerate(rows)
        ]

    def _tokenize(self, texts: list[str]) -> dict:
        options = {"truncation": True, "max_length": self.max_seq_length}
        if self.first_position is None:
            return dict(self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt", **options))
        columns = self.tokenizer(texts, return_attention_mask=False, **options)
        lengths = [len(ids) for ids in columns["input_ids"]]
        packed = {name: torch.tensor([list(chain.from_iterable(column))]) for name, column in columns.items()}
        positions = torch.cat([torch.arange(length) for length in lengths])[None] + self.first_position
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return packed | {"position_ids": positions, "cu_seq_lens_q": bounds, "max_length_q": max(lengths)}


def _clean(rows: Iterator[Row], source: str, pairs: bool) -> Sentences:
    """Strip, drop blank rows and exact duplicates, and count."""
    texts, key_texts, seen = [], [], set()
    digest = hashlib.sha256()
    read = blank = duplicate = 0
    for row in tqdm(
        rows, desc=f"Reading {printable(Path(source).name)}", unit=" rows", unit_scale=True, leave=False, disable=None
    ):
        read += 1
        stripped = strip_row(row, pairs)
        if stripped is None:
            blank += 1
            continue
        text, key_text = stripped
        line = f"{text}\0{key_text}\n".encode()
        mark = hashlib.blake2b(line, digest_size=16).digest()
        if mark in seen:
            duplicate += 1
            continue
        seen.add(mark)
        digest.update(line)
        texts.append(text)
        key_texts.append(key_text)
    if not texts:
        raise InputError(f"{source}: all {read} rows are blank; it needs one sentence a line or row.")
    columns = {"text": texts, "sentence_id": list(range(len(texts)))}
    if pairs:
        columns["key_text"] = key_texts
    dropped = {reason: n for reason, n in (("blank", blank), ("duplicate", duplicate)) if n}
    return Sentences(Dataset.from_dict(columns), read, dropped, digest.hexdigest())
