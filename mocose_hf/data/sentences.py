"""Read and check sentences, and make batches of them."""

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from numbers import Integral
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from mocose_hf.data.readers import Row, load_hub_dataset, read_rows, record_rows, strip_row
from mocose_hf.data.text_augmentation import TextAugmentation
from mocose_hf.data.token_views import TokenViews
from mocose_hf.errors import InputError, printable
from mocose_hf.models.encoding import PADDING, model_inputs, validate_tokens
from mocose_hf.models.prompts import count_prompt_tokens


@dataclass
class Sentences:
    """Clean sentences and what was done to get them.

    Args:
        dataset: Columns `text`, `sentence_id` (the row's number among the clean ones) and, in pairs, `key_text`.
        rows_read: Rows in the file.
        dropped: Rows left out, by reason.
        sha256: Of the clean texts, in order, so that a run can be told apart from one on other data.
        held_out: A development set made of rows that are not in the dataset.
    """

    dataset: Dataset
    rows_read: int
    dropped: dict[str, int] = field(default_factory=dict)
    sha256: str = ""
    held_out: object | None = None

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


def texts_sha256(texts: Iterable[str], key_texts: Iterable[str] | None = None) -> str:
    """Return the sha256 (hex) of clean texts, or of pairs of them, in order."""
    digest = hashlib.sha256()
    for text, key_text in zip(texts, repeat("") if key_texts is None else key_texts, strict=False):
        digest.update(_line(text, key_text))
    return digest.hexdigest()


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


def sample_rows(dataset, count: int) -> tuple[list[dict], bool]:
    """Return at most `count` rows of a training set, and whether there are more.

    The rows are evenly spaced, but the first ones of a stream. A stream whose next row cannot be read ends the sample;
    training raises the error when it gets there.
    """
    if isinstance(dataset, IterableDataset):
        rows = []
        with suppress(InputError):
            for row in dataset.one_pass():
                rows.append(row)
                if len(rows) == count:
                    break
        return rows, True
    step = -(-len(dataset) // count) or 1
    return [dataset[place] for place in range(0, len(dataset), step)], step > 1


class SentenceCollator:
    """Tokenise the texts of a batch, and pad them on the right to the longest one or pack them into one row.

    Args:
        tokenizer: A tokenizer of transformers.
        max_seq_length: Longest input in tokens.
        first_position: The position that each sentence of a packed row starts at; None for padded batches.
        key_augmentation: Makes the key view's text of a text; None for none. It is given a generator that depends on
            the seed, on the sentences of the batch and on the place among them, and on nothing else: the same batch
            gives the same texts in any worker process and after a resume, and another epoch, which puts a sentence
            into another batch, gives others. So does another number of processes, which divides the batch.
        seed: Of these generators.
        token_views: Crops, deletes or repeats tokens, with generators of the same kind; None for none.
        augment_view: The views that these apply to: query, key or both, each with draws of its own.
        prompt: Text to put before each sentence, in both views.
        include_prompt: Whether the tokens of the prompt are pooled.
    """

    def __init__(
        self,
        tokenizer,
        max_seq_length: int = 32,
        first_position: int | None = None,
        key_augmentation: TextAugmentation | None = None,
        seed: int = 0,
        token_views: TokenViews | None = None,
        augment_view: str = "query",
        prompt: str = "",
        include_prompt: bool = True,
    ):
        self.tokenizer = tokenizer
        self.max_seq_length = max_seq_length
        self.first_position = first_position
        self.key_augmentation = key_augmentation
        self.seed = seed
        self.token_views = token_views
        self.augment_view = augment_view
        self.prompt = prompt
        self.prompt_tokens = count_prompt_tokens(tokenizer, prompt, max_seq_length) if prompt else 0
        self.prompt_length = None if include_prompt or not prompt else self.prompt_tokens

    def __call__(self, rows: list[dict]) -> dict:
        """Make a batch of rows with `text` and optionally `key_text` and `sentence_id`.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids` (B, L) as the tokenizer gives them, the same under
            `key_…` (B, L') where there is `key_text` or an augmentation of it, and `sentence_ids` (B,). Packed,
            `input_ids` and `token_type_ids` are (1, T), and instead of the mask there are `position_ids` (1, T),
            `cu_seq_lens_q` (B + 1,) int32, the place of each sentence's first token and at the end T, and the number
            `max_length_q` of tokens of the longest sentence. `prompt_length` is the number of tokens at the start of
            each sentence that are not pooled, if the prompt is not.
        """
        texts = [row["text"] for row in rows]
        batch = self._tokenize(texts, self._generators(rows, "query"))
        key_texts = self._key_texts(rows)
        if key_texts is None and self.token_views is not None:
            key_texts = texts
        if key_texts is not None:
            key_view = self._tokenize(key_texts, self._generators(rows, "key"))
            batch |= {f"key_{name}": value for name, value in key_view.items()}
        if "sentence_id" in rows[0]:
            batch["sentence_ids"] = torch.tensor([sentence_number(row["sentence_id"]) for row in rows])
        return batch

    @property
    def draws_views(self) -> bool:
        """Whether a text or its tokens are changed at random."""
        return self.key_augmentation is not None or self.token_views is not None

    def without_changes(self) -> "SentenceCollator":
        """Return a collator of the same sentences, prompt included, that neither augments text nor draws views."""
        plain = copy(self)
        plain.key_augmentation = plain.token_views = None
        return plain

    def _key_texts(self, rows: list[dict]) -> list[str] | None:
        """Return what the target is to see, None where that is what the online branch sees."""
        if self.key_augmentation is None:
            return [row["key_text"] for row in rows] if "key_text" in rows[0] else None
        batch = self._digest(rows)
        return [
            self.key_augmentation(row.get("key_text", row["text"]), random.Random(f"{batch} {place}"))
            for place, row in enumerate(rows)
        ]

    def _digest(self, rows: list[dict]) -> str:
        """Return a digest of the seed and of the sentences of the batch, in order."""
        marks = [row["sentence_id"] if "sentence_id" in row else row["text"] for row in rows]
        return hashlib.sha256(repr((self.seed, marks)).encode(errors="surrogatepass")).hexdigest()

    def _generators(self, rows: list[dict], view: str) -> list[random.Random] | None:
        """Return what the tokens of each sentence's view are drawn from; None if they stay as they are."""
        if self.token_views is None or self.augment_view not in (view, "both"):
            return None
        batch = self._digest(rows)
        return [random.Random(f"{batch} {place} {view}") for place in range(len(rows))]

    def _draw_views(self, columns: dict[str, list[list[int]]], generators: list[random.Random]) -> dict:
        """Return the tokens of a view of each sentence, all columns alike."""
        rows = zip(columns["special_tokens_mask"], generators, strict=True)
        n = self.prompt_tokens  # the prompt stays whole
        places = [
            self.token_views.draw([1] * n + special[n:], self.max_seq_length, generator) for special, generator in rows
        ]
        return {
            name: [[row[place] for place in view] for row, view in zip(column, places, strict=True)]
            for name, column in columns.items()
            if name != "special_tokens_mask"
        }

    def _tokenize(self, texts: list[str], generators: list[random.Random] | None = None) -> dict:
        options = {"truncation": True, "max_length": self.max_seq_length}
        texts = [self.prompt + text for text in texts] if self.prompt else texts
        more = {} if self.prompt_length is None else {"prompt_length": self.prompt_length}
        is_drawn = generators is not None
        if self.first_position is None and not is_drawn:
            batch = model_inputs(self.tokenizer(texts, return_tensors="pt", **options, **PADDING))
            validate_tokens(batch["attention_mask"], texts)
            return batch | more
        columns = self.tokenizer(texts, return_attention_mask=False, return_special_tokens_mask=is_drawn, **options)
        columns = model_inputs(self._draw_views(columns, generators) if is_drawn else columns)
        validate_tokens(columns["input_ids"], texts)
        if self.first_position is None:
            return self.tokenizer.pad(columns, return_tensors="pt", **PADDING).data | more
        lengths = [len(ids) for ids in columns["input_ids"]]
        packed = {name: torch.tensor([list(chain.from_iterable(column))]) for name, column in columns.items()}
        positions = torch.cat([torch.arange(length) for length in lengths])[None] + self.first_position
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return packed | {"position_ids": positions, "cu_seq_lens_q": bounds, "max_length_q": max(lengths)} | more


def _line(text: str, key_text: str) -> bytes:
    return f"{text}\0{key_text}\n".encode()


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
        line = _line(text, key_text)
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
