"""Infinite streams of training rows, in one order for any number of processes and DataLoader workers."""

import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerCallback

from mocose_hf.data.fingerprints import rows_sha256
from mocose_hf.data.open_file import describe_files, files_fingerprint, find_files
from mocose_hf.data.readers import (
    Columns,
    Row,
    clean_rows,
    load_hub_dataset,
    read_files,
    record_rows,
)
from mocose_hf.errors import InputError

_ROWS_AT_ONCE = 1000


class StreamedRow(dict):
    """A row of a stream; `epoch` is the number of the pass over the data, from 0."""

    def __init__(self, row: dict, epoch: int):
        super().__init__(row)
        self.epoch = epoch

    def __reduce__(self):
        """Pickle both arguments: a subclass of dict would be rebuilt without its own."""
        return StreamedRow, (dict(self), self.epoch)


class InfiniteStream(IterableDataset):
    """Yield the shuffled rows of one pass after another, without end.

    The order depends only on the rows, the buffer size and the seed. Every process and every DataLoader worker reads
    all rows. A worker yields the global batches of its turn, whole, and accelerate's `IterableDatasetShard` takes the
    part of each process. So the batches are those of one process without workers. A global batch may hold the end of
    one pass and the start of the next.

    After a resume, rows that were trained on before come back as None, without being read. `SkipSeenCollator` turns
    them into empty batches, which the Trainer skips.

    Args:
        shuffle_buffer_size: Rows among which the next one is drawn; 1 keeps the order.
        seed: Seed of the order, together with the number of the pass; the seed of the run if None.

    Raises:
        InputError: If there are fewer rows than a global batch takes.
    """

    def __init__(self, shuffle_buffer_size: int = 1, seed: int | None = None):
        if shuffle_buffer_size < 1:
            raise InputError(f"`shuffle_buffer_size` is {shuffle_buffer_size}; give 1 (keeps the order) or more.")
        self.shuffle_buffer_size = shuffle_buffer_size
        self.seed = seed
        self.start_at()

    def one_pass(self) -> Iterator[dict]:
        """Yield each row once, in an order that is the same each time."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the first rows, which identifies most data."""
        rows = itertools.islice(self.one_pass(), _ROWS_AT_ONCE)
        return f"{rows_sha256(rows)} (sha256 of the first {_ROWS_AT_ONCE} rows)"

    def start_at(self, batch: int = 0, global_batch_size: int = 1, seed_of_run: int = 0) -> None:
        """Set where the next iteration starts.

        Args:
            batch: Number of global batches that were trained on before.
            global_batch_size: Rows of a global batch.
            seed_of_run: The seed if the stream has none of its own.
        """
        self._first_batch = batch
        self._global_batch_size = global_batch_size
        self._seed_of_run = seed_of_run

    def validate_first_batch(self, global_batch_size: int) -> dict:
        """Read one global batch in the order of the file, so that most bad input ends the run before training.

        Returns:
            The first row.
        """
        rows = list(itertools.islice(self.one_pass(), global_batch_size))
        self._validate_count(len(rows), global_batch_size)
        return rows[0]

    def __iter__(self) -> Iterator[dict | None]:
        worker = get_worker_info()
        index, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first, size = self._first_batch, self._global_batch_size
        yield from itertools.repeat(None, size * len(range(index, first, workers)))
        rows = self._rows_from(first * size)
        for batch in itertools.count(first):
            chunk = itertools.islice(rows, size)
            if batch % workers == index:
                yield from chunk
            else:
                deque(chunk, maxlen=0)

    def _rows_from(self, start: int) -> Iterator[dict]:
        """Yield the rows of all passes from row number `start` on, without reading the passes before it."""
        seed = self._seed_of_run if self.seed is None else self.seed
        number = 0
        while True:
            count = 0
            for row in _shuffle(self.one_pass(), self.shuffle_buffer_size, random.Random(f"{seed} {number}")):
                count += 1
                if count > start:
                    yield StreamedRow(row, number)
            self._validate_count(count, self._global_batch_size)
            number += 1
            start = max(start - count, 0)
            number, start = number + start // count, start % count

    def _validate_count(self, count: int, global_batch_size: int) -> None:
        if count < global_batch_size:
            raise InputError(
                f"{self}: {count} rows to train on, but one batch takes {global_batch_size}; give more, or lower "
                "`per_device_train_batch_size`."
            )

    def __str__(self) -> str:
        return "The training set"


class SentenceStream(InfiniteStream):
    """Stream the sentences of a file, or of a dataset on the hub, that may be larger than memory.

    A row has `text`, `sentence_id` (its number among the rows that are not blank, the same in each pass), in pairs
    `key_text`, and with hard negatives `negative_text`, "" for none. Blank rows are dropped. Exact duplicates are
    kept, because finding them would take memory.

    Args:
        source: One or several files as `read_sentences` takes them, or a `HubDataset`.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column with the text of the key view, which makes each row a pair. Of several columns,
            each gives a pair of its own unless it is blank; the pairs of a row share its `sentence_id`.
        shuffle_buffer_size: As in `InfiniteStream`.
        seed: As in `InfiniteStream`.
        encoding: Encoding of a file, as `read_sentences` takes it.
        negative_column: A column with a hard negative for each row, which may be blank.

    Attributes:
        fingerprint: Identifies the data without reading all of it.

    Raises:
        InputError: As `read_sentences`; for errors inside the file, when that row is reached.
    """

    def __init__(
        self,
        source: "str | Path | Sequence[str | Path] | HubDataset",
        text_column: str = "text",
        key_column: str | Sequence[str] | None = None,
        shuffle_buffer_size: int = 10_000,
        seed: int | None = None,
        encoding: str | None = None,
        negative_column: str | None = None,
    ):
        super().__init__(shuffle_buffer_size, seed)
        self._source = source if isinstance(source, HubDataset) else _TextFiles(find_files(source), encoding)
        self._columns = Columns.of(text_column, key_column, negative_column)
        self.fingerprint: str = self._source.fingerprint()

    def one_pass(self) -> Iterator[dict]:
        """Yield each sentence once, in the order of the file."""
        number = 0
        for row in self._source.rows(self._columns):
            cleaned = clean_rows(row)
            for texts in cleaned:
                sentence = {"text": texts.text, "sentence_id": number}
                if self._columns.keys:
                    sentence["key_text"] = texts.key_text
                if self._columns.negative is not None:
                    sentence["negative_text"] = texts.negative_text
                yield sentence
            number += bool(cleaned)

    def summary(self) -> str:
        """Return one line on how the sentences are read."""
        order = f"shuffled among {self.shuffle_buffer_size:,} rows" if self.shuffle_buffer_size > 1 else "in order"
        return f"streamed, {order}; blank rows are dropped, duplicates are not."

    def __str__(self) -> str:
        return str(self._source)


@dataclass
class HubDataset:
    """A dataset on the hub, named as in `datasets.load_dataset` and loaded when it is first needed."""

    name: str
    config_name: str | None = None
    split: str = "train"
    revision: str | None = None

    def rows(self, columns: Columns) -> Iterator[Row]:
        """Yield the rows in order, blank ones too."""
        return record_rows(_records(self._dataset), str(self), *columns)

    def fingerprint(self) -> str:
        """Return name, configuration, split and revision."""
        config, revision = self.config_name or "default", self.revision or "main"
        return f"{self.name}/{config}/{self.split}/{revision} (name, configuration, split and revision)"

    @cached_property
    def _dataset(self) -> datasets.IterableDataset:
        return load_hub_dataset(self.name, self.config_name, self.split, revision=self.revision, streaming=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"


@dataclass
class _TextFiles:
    paths: list[Path]
    encoding: str | None = None

    def rows(self, columns: Columns) -> Iterator[Row]:
        return read_files(self.paths, columns.text, columns.keys, self.encoding, columns.negative)

    def fingerprint(self) -> str:
        read_as = "" if self.encoding is None else f", read as {self.encoding}"
        whose = "the file's" if len(self.paths) == 1 else f"each of {len(self.paths)} files'"
        return f"{files_fingerprint(self.paths)} (sha256 of {whose} size, first and last MiB{read_as})"

    def __str__(self) -> str:
        return describe_files(self.paths)


class RowStream(InfiniteStream):
    """Stream the rows of any iterable that can be iterated repeatedly, such as a `datasets.IterableDataset`.

    Its order must be the same each time and in every DataLoader worker. Rows without a `sentence_id` are numbered from
    0 in each pass.

    Args:
        rows: The iterable; each row is a dict.
        shuffle_buffer_size: As in `InfiniteStream`.
        seed: As in `InfiniteStream`.
    """

    def __init__(self, rows: Iterable[dict], shuffle_buffer_size: int = 1, seed: int | None = None):
        super().__init__(shuffle_buffer_size, seed)
        self._rows = rows

    def one_pass(self) -> Iterator[dict]:
        """Yield each row once, in the order of the iterable."""
        for number, row in enumerate(_records(self._rows)):
            yield row if "sentence_id" in row else row | {"sentence_id": number}


class SkipSeenCollator:
    """Return an empty batch, which the Trainer skips, for rows trained on before a resume; collate all others."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, rows: list[dict | None]) -> dict:
        """Collate the rows of a batch."""
        return {} if rows[0] is None else self.collate(rows)


class StreamResumeCallback(TrainerCallback):
    """Set where a stream starts when training begins: after the batches that were trained on before."""

    def __init__(self, stream: InfiniteStream):
        self._stream = stream

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Count batches as `Trainer` does, which sees a stream as a single epoch."""
        steps = state.global_step % state.max_steps
        self._stream.start_at(
            batch=steps * args.gradient_accumulation_steps,
            global_batch_size=train_dataloader.batch_size * args.world_size,
            seed_of_run=args.seed if args.data_seed is None else args.data_seed,
        )


def validate_stream_arguments(args) -> None:
    """Check that training arguments work with a stream.

    Raises:
        InputError: With the argument and the remedy.
    """
    if args.max_steps <= 0:
        raise InputError("`max_steps` must be given, as a stream has no end; set it to the wanted optimizer steps.")
    if not args.dataloader_drop_last:
        raise InputError("`dataloader_drop_last` must stay true, as a stream has no last batch; leave it out.")
    if args.accelerator_config.dispatch_batches or args.accelerator_config.split_batches:
        raise InputError(
            "`accelerator_config` asks for dispatch_batches or split_batches, but each process makes its own batches "
            "of a stream; leave both out."
        )


def as_stream(dataset: IterableDataset, args, needs_text: bool) -> InfiniteStream:
    """Return the dataset as a stream, after checking the arguments and one batch.

    Args:
        dataset: An `InfiniteStream`, or any iterable dataset.
        args: The training arguments.
        needs_text: Whether a row must have `text`.

    Raises:
        InputError: If arguments or rows cannot be used.
    """
    validate_stream_arguments(args)
    stream = dataset if isinstance(dataset, InfiniteStream) else RowStream(dataset)
    first = stream.validate_first_batch(args.global_batch_size)
    if needs_text and "text" not in first:
        columns = ", ".join(str(name)[:40] for name in list(first)[:8])
        raise InputError(f"The training set has no column `text`, only {columns}; rename one.")
    return stream


def _shuffle(rows: Iterable, buffer_size: int, generator: random.Random) -> Iterator:
    """Yield all rows, each drawn from a buffer that the next row then refills."""
    buffer: list = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        index = int(generator.random() * buffer_size)
        yield buffer[index]
        buffer[index] = row
    while buffer:
        index = int(generator.random() * len(buffer))
        buffer[index], buffer[-1] = buffer[-1], buffer[index]
        yield buffer.pop()


def _records(rows: Iterable[dict]) -> Iterator[dict]:
    """Yield all rows, even in a DataLoader worker, where a `datasets.IterableDataset` yields only its share."""
    if not isinstance(rows, datasets.IterableDataset):
        yield from rows
        return
    for batch in rows.iter(_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))
