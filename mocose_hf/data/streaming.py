"""Rows without end for training: read as they are needed, in one order for any number of processes and workers."""

import itertools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerCallback

from mocose_hf.data.fingerprints import rows_sha256
from mocose_hf.data.open_file import file_fingerprint
from mocose_hf.data.readers import Row, load_hub_dataset, read_rows, record_rows, strip_row
from mocose_hf.errors import InputError

_ROWS_AT_ONCE = 1000


class StreamedRow(dict):
    """A row of a stream, with the pass that it was read in as `epoch`."""

    def __init__(self, row: dict, epoch: int):
        super().__init__(row)
        self.epoch = epoch

    def __reduce__(self):
        """Keep the epoch when pickled: a dict is rebuilt without its attributes' constructor arguments."""
        return StreamedRow, (dict(self), self.epoch)


class InfiniteStream(IterableDataset):
    """Give the rows of one pass, shuffled, and then those of the next pass, without end.

    The order depends on rows, buffer size and seed alone. Every process and every DataLoader worker reads all rows; a
    worker gives only the global batches that are its turn, in whole, and accelerate's `IterableDatasetShard` takes
    each process's part of them, so that all see the order of one process without workers. A global batch may hold the
    end of one pass and the start of the next.

    After a resume, each row that was trained on already comes back as None: it needs no reading and, by
    `SkipSeenCollator`, no tokens.

    Args:
        shuffle_buffer_size: Rows among which the next is drawn; 1 keeps their order.
        seed: Seed of the order, together with the number of the pass; that of the run where not given.

    Raises:
        InputError: Where there are fewer rows than one global batch takes.
    """

    def __init__(self, shuffle_buffer_size: int = 1, seed: int | None = None):
        if shuffle_buffer_size < 1:
            raise InputError(
                f"`shuffle_buffer_size` is at least 1, which keeps the order, but is {shuffle_buffer_size}."
            )
        self.shuffle_buffer_size = shuffle_buffer_size
        self.seed = seed
        self.start_at()

    def one_pass(self) -> Iterator[dict]:
        """Give each row once, in an order that is the same each time."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the first rows, which tells most data from other data."""
        rows = itertools.islice(self.one_pass(), _ROWS_AT_ONCE)
        return f"{rows_sha256(rows)} (sha256 of the first {_ROWS_AT_ONCE} rows)"

    def start_at(self, batch: int = 0, global_batch_size: int = 1, seed_of_run: int = 0) -> None:
        """Set where the next iteration starts.

        Args:
            batch: Global batches that were trained on already.
            global_batch_size: Rows of a global batch.
            seed_of_run: The seed where the stream has none of its own.
        """
        self._first_batch = batch
        self._global_batch_size = global_batch_size
        self._seed_of_run = seed_of_run

    def check(self, global_batch_size: int) -> dict:
        """Read one global batch in the order of the file, to refuse before training what cannot be used.

        Returns:
            The first row.
        """
        rows = list(itertools.islice(self.one_pass(), global_batch_size))
        self._refuse_fewer(len(rows), global_batch_size)
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
        """Give the rows of all passes from row number `start` on; passes that lie before it are not read."""
        seed = self._seed_of_run if self.seed is None else self.seed
        number = 0
        while True:
            count = 0
            for row in _shuffle(self.one_pass(), self.shuffle_buffer_size, random.Random(f"{seed} {number}")):
                count += 1
                if count > start:
                    yield StreamedRow(row, number)
            self._refuse_fewer(count, self._global_batch_size)
            number += 1
            start = max(start - count, 0)
            number, start = number + start // count, start % count

    def _refuse_fewer(self, count: int, global_batch_size: int) -> None:
        if count < global_batch_size:
            raise InputError(
                f"{self}: {count} rows to train on, but one batch takes {global_batch_size}; give more, or lower "
                "--per_device_train_batch_size."
            )

    def __str__(self) -> str:
        return "The training set"


class SentenceStream(InfiniteStream):
    """Stream the sentences of a file, or of a dataset on the hub, that may be larger than memory.

    A row is `text`, `sentence_id` (its number among the rows that are not blank, the same in each pass) and, in pairs,
    `key_text`. Blank rows are dropped. Exact duplicates are not, as telling them would take memory.

    Args:
        source: A file as `read_sentences` takes it, or a `HubDataset`.
        text_column: The column of the sentences; a .txt file has none.
        key_column: A second column whose text the target sees instead, which makes each row a pair.
        shuffle_buffer_size: As in `InfiniteStream`.
        seed: As in `InfiniteStream`.
        encoding: Of a file, as `read_sentences` takes it.

    Attributes:
        fingerprint: What tells the data from other data without reading all of it.

    Raises:
        InputError: As `read_sentences`; for what stands inside the file, when that row is reached.
    """

    def __init__(
        self,
        source: "str | Path | HubDataset",
        text_column: str = "text",
        key_column: str | None = None,
        shuffle_buffer_size: int = 10_000,
        seed: int | None = None,
        encoding: str | None = None,
    ):
        super().__init__(shuffle_buffer_size, seed)
        self._source = source if isinstance(source, HubDataset) else _TextFile(Path(source), encoding)
        self._columns = (text_column, key_column)
        self.fingerprint: str = self._source.fingerprint()

    def one_pass(self) -> Iterator[dict]:
        """Give each sentence of the file once, in the order of the file."""
        pairs = self._columns[1] is not None
        number = 0
        for row in self._source.rows(*self._columns):
            texts = strip_row(row, pairs)
            if texts is None:
                continue
            sentence = {"text": texts[0], "sentence_id": number}
            if pairs:
                sentence["key_text"] = texts[1]
            yield sentence
            number += 1

    def summary(self) -> str:
        """Return one line on how the sentences are read."""
        order = f"shuffled among {self.shuffle_buffer_size:,} rows" if self.shuffle_buffer_size > 1 else "in order"
        return f"streamed, {order}; blank rows are dropped, duplicates are not."

    def __str__(self) -> str:
        return str(self._source)


@dataclass
class HubDataset:
    """A dataset on the hub, named as `datasets.load_dataset` takes it, and loaded when it is first needed."""

    name: str
    config_name: str | None = None
    split: str = "train"
    revision: str | None = None

    def rows(self, text_column: str, key_column: str | None) -> Iterator[Row]:
        """Give the rows in order, blank ones too."""
        return record_rows(_records(self._dataset), str(self), text_column, key_column)

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
class _TextFile:
    path: Path
    encoding: str | None = None

    def rows(self, text_column: str, key_column: str | None) -> Iterator[Row]:
        return read_rows(self.path, text_column, key_column, self.encoding)

    def fingerprint(self) -> str:
        read_as = "" if self.encoding is None else f", read as {self.encoding}"
        return f"{file_fingerprint(self.path)} (sha256 of the file's size, first and last MiB{read_as})"

    def __str__(self) -> str:
        return str(self.path)


class RowStream(InfiniteStream):
    """Stream the rows of any iterable that can be gone through again and again, such as a `datasets.IterableDataset`.

    Its own order must be the same each time and in every DataLoader worker. Rows without a `sentence_id` are numbered
    from 0 in each pass.

    Args:
        rows: The iterable; each row is a dict.
        shuffle_buffer_size: As in `InfiniteStream`.
        seed: As in `InfiniteStream`.
    """

    def __init__(self, rows: Iterable[dict], shuffle_buffer_size: int = 1, seed: int | None = None):
        super().__init__(shuffle_buffer_size, seed)
        self._rows = rows

    def one_pass(self) -> Iterator[dict]:
        """Give each row once, in the iterable's own order."""
        for number, row in enumerate(_records(self._rows)):
            yield row if "sentence_id" in row else row | {"sentence_id": number}


class SkipSeenCollator:
    """Give an empty batch for rows that were trained on already, which the Trainer skips, and collate all others."""

    def __init__(self, collate):
        self.collate = collate

    def __call__(self, rows: list[dict | None]) -> dict:
        """Make a batch of rows."""
        return {} if rows[0] is None else self.collate(rows)


class StreamResumeCallback(TrainerCallback):
    """Tell a stream, as training starts, how large a batch is and how many were trained on before."""

    def __init__(self, stream: InfiniteStream):
        self._stream = stream

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Count as `Trainer` does, which skips as many batches of the one epoch that a stream has."""
        steps = state.global_step % state.max_steps
        self._stream.start_at(
            batch=steps * args.gradient_accumulation_steps,
            global_batch_size=train_dataloader.batch_size * args.world_size,
            seed_of_run=args.seed if args.data_seed is None else args.data_seed,
        )


def check_stream_arguments(args) -> None:
    """Raise an `InputError` where training arguments cannot work with a stream."""
    if args.max_steps <= 0:
        raise InputError("`max_steps` must be given, as a stream has no end; set it to the wanted optimizer steps.")
    if not args.dataloader_drop_last:
        raise InputError("`dataloader_drop_last` must stay true, as a stream has no last batch; leave it out.")
    if args.accelerator_config.dispatch_batches or args.accelerator_config.split_batches:
        raise InputError(
            "`accelerator_config` asks for dispatch_batches or split_batches, but of a stream each process makes its "
            "own batches; leave both out."
        )


def as_stream(dataset: IterableDataset, args, needs_text: bool) -> InfiniteStream:
    """Return the stream itself, or one of a dataset's rows, after checking one batch of it.

    Args:
        dataset: An `InfiniteStream`, or any iterable dataset.
        args: The training arguments.
        needs_text: Whether a row must have `text`.

    Raises:
        InputError: Where arguments or rows cannot be used.
    """
    check_stream_arguments(args)
    stream = dataset if isinstance(dataset, InfiniteStream) else RowStream(dataset)
    first = stream.check(args.global_batch_size)
    if needs_text and "text" not in first:
        found = ", ".join(str(name)[:40] for name in list(first)[:8])
        raise InputError(f"The training set has no column `text`, only {found}; rename one.")
    return stream


def _shuffle(rows: Iterable, buffer_size: int, generator: random.Random) -> Iterator:
    """Give all rows, each drawn from a buffer that the next row then fills up."""
    buffer = []
    for row in rows:
        if len(buffer) < buffer_size:
            buffer.append(row)
            continue
        place = int(generator.random() * buffer_size)
        yield buffer[place]
        buffer[place] = row
    while buffer:
        place = int(generator.random() * len(buffer))
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


def _records(rows: Iterable[dict]) -> Iterator[dict]:
    """Go through all rows, in DataLoader workers too, where a `datasets.IterableDataset` would give a part of them."""
    if not isinstance(rows, datasets.IterableDataset):
        yield from rows
        return
    for batch in rows.iter(_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))
