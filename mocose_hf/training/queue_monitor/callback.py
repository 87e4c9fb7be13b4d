"""Telemetry of the queue: what its negatives are like while training, in the log, in a file and in a figure."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from mocose_hf.errors import InputError, SaveError, one_line, printable
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.models.prompts import prompt_options
from mocose_hf.training.checkpoint import read_state
from mocose_hf.training.queue_monitor.plot import QUEUE_MONITOR_FILES, plot_queue_monitor
from mocose_hf.training.queue_monitor.snapshot import (
    QueueSnapshot,
    TrainingSentences,
    find_sentences,
    is_finite,
    shortened,
)

logger = logging.get_logger(__name__)

LINES_FILE, PLOT_FILE = QUEUE_MONITOR_FILES

LOGGED = ("effective_negatives", "false_negative_rate", "key_drift", "queue_gradient_share")
"""What the log gets of a record."""


class QueueMonitor(TrainerCallback, ExportableState):
    """Measure every `queue_monitor_steps` optimizer steps what the queue is like that a batch was contrasted with.

    The trainer adds it where that argument is above 0. A look takes the queue before the keys of the batch enter it,
    and the loss of that very batch: of the first process, and of the last forward of the step. It draws no random
    number, changes no state and talks to no other process. Each adds a line to `queue_monitor.jsonl`, and its
    `LOGGED` figures to the next line of the log; at the end `queue_monitor.png` is drawn from the lines. Where a run
    goes on from a checkpoint, lines of later steps are dropped first: an interrupted run ends with the same file.

    A line is a JSON object. Lists hold one entry for each bin of `AgeBins`; what is not known is null or not there.

    * `step`: The optimizer step of the batch, from 1.
    * `queue_fill`, `initial_rows`: Slots in use, and those of them without an age, as random initial rows are.
    * `first_ages`, `bin_width`, `rows_by_age`: The bins, and the slots in each.
    * `age_quantiles`: Least age, lower quartile, median, upper quartile and greatest age of the slots that have one.
    * `key_drift`, `key_drift_by_age`, `sampled_by_age`: Mean cosine of a stored key to the one that the target gives
      the same sentence now, with dropout off, over so many keys at even distances of age. The stored key was made with
      dropout on, and so is below 1 at any age; `batch_key_drift`, the same of the batch's own keys, is the share of
      dropout.
    * `gradient_share_by_age`, `initial_gradient_share`, `in_batch_gradient_share`, `queue_gradient_share` (of the
      whole queue): Shares in the gradient of the loss by the logits of all negatives, as `NegativeWeights` has them.
    * `effective_negatives`, `negatives`, `false_negative_rate`, `false_negative_gradient_share`: As there; the ids of
      keys of other processes are not known.
    * `ema_decay`, `d_trace`, `current_d_trace`: As in the log, at the moment of the batch.
    * `left_out`: Names of what could not be measured, with the reason.

    Attributes:
        latest: What the next line of the log will be told.

    Raises:
        SaveError: Where a line cannot be written.
    """

    def __init__(self):
        self.latest: dict[str, float] = {}
        self._forward: tuple[ContrastiveOutput, dict[str, float]] | None = None
        self._sentences: TrainingSentences | None = None
        self._no_sentences: str | None = None

    def state(self) -> dict:
        """Return what a checkpoint keeps, as JSON can hold it."""
        return {"args": {}, "attributes": {"latest": self.latest}}

    def pop_metrics(self) -> dict[str, float]:
        """Return the figures measured since the last call, empty where none were."""
        latest, self.latest = self.latest, {}
        return latest

    def is_due(self, args, state) -> bool:
        """Return whether the optimizer step that is being made is looked at."""
        return args.queue_monitor_steps > 0 and (state.global_step + 1) % args.queue_monitor_steps == 0

    def begin(self, args, checkpoint: str | None) -> None:
        """Begin with the lines of a run up to a checkpoint, with none where that is None."""
        self._forward = None
        if args.queue_monitor_steps == 0 or args.process_index != 0:
            return
        path = Path(args.output_dir) / LINES_FILE
        with _writing(path):
            kept = b"" if checkpoint is None else _lines_up_to(checkpoint)
            if kept:
                unfinished = path.with_name(f"{path.name}.tmp")
                unfinished.write_bytes(kept)
                unfinished.replace(path)
            else:
                path.unlink(missing_ok=True)

    def note(self, outputs: ContrastiveOutput, momentum: dict[str, float]) -> None:
        """Hold what a forward of a step that is due gave, until the step is made; the last one counts.

        Args:
            outputs: Of a forward in training.
            momentum: η, fill and distances of the moment.
        """
        parts = {name: value.detach() for name, value in outputs.items() if isinstance(value, Tensor)}
        self._forward = (ContrastiveOutput(**parts), momentum)

    def on_train_begin(self, args, state, control, model=None, processing_class=None, train_dataloader=None, **kwargs):
        """Find the training sentences, and take up the state of the checkpoint."""
        first = args.process_index == 0
        dataset = getattr(train_dataloader, "dataset", None)
        dataset = getattr(dataset, "dataset", dataset)
        self._sentences, self._no_sentences = find_sentences(
            dataset, processing_class, args.max_seq_length, **prompt_options(model.config)
        )
        if self._no_sentences and first:
            logger.warning(f"The telemetry of the queue leaves out `key_drift`: {self._no_sentences}.")
        saved = (state.stateful_callbacks or {}).get(type(self).__name__) if state.global_step else None
        saved = saved[0] if isinstance(saved, list) else saved
        self.latest = saved["attributes"]["latest"] if saved and first else {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Measure in a step that is due, and write; queue and target still are as the batch saw them."""
        if self._forward is None:
            return
        (outputs, momentum), self._forward = self._forward, None
        first = args.process_index == 0
        if not first and not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            return  # under ZeRO-3 all processes must encode together
        record = self._measure(args, state.global_step + 1, model, outputs, momentum)
        if not first or not is_finite(record):  # what is not finite, the trainer tells
            return
        self.latest = {name: record[name] for name in LOGGED if record.get(name) is not None}
        path = Path(args.output_dir) / LINES_FILE
        with _writing(path), path.open("ab") as file:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def on_train_end(self, args, state, control, **kwargs):
        """Draw the figure."""
        self.draw(args)

    def draw(self, args) -> None:
        """Draw the lines of the file, on the first process; say so in one line where that cannot be done."""
        lines, plot = (Path(args.output_dir) / name for name in QUEUE_MONITOR_FILES)
        if args.queue_monitor_steps == 0 or args.process_index != 0 or not lines.is_file():
            return
        try:
            with _writing(plot):
                plot_queue_monitor(lines, plot)
        except InputError as error:
            logger.warning(printable(f"{plot} is not drawn: {error}"))

    def _measure(self, args, step: int, model, outputs: ContrastiveOutput, momentum: dict[str, float]) -> dict:
        """Return the record of a step."""
        look = QueueSnapshot(model, args, step)
        record = look.ages()
        if self._sentences is not None:
            record |= look.drift(outputs, self._sentences)
        elif model.queue.size:
            look.left_out["key_drift"] = self._no_sentences
        record |= look.gradient(outputs) | momentum
        return shortened(record | {"left_out": look.left_out})


def _lines_up_to(checkpoint: str) -> bytes:
    """Return the lines of the run of a checkpoint up to its step; what a killed process left of a line is none."""
    path, last = Path(checkpoint).parent / LINES_FILE, read_state(checkpoint).global_step
    kept = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= last:
            kept.append(line + b"\n")
    return b"".join(kept)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into one line, a `SaveError`."""
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{path}: cannot be written ({one_line(error)}); put the cause right, such as a full disk, and go on with "
            "--resume_from_checkpoint true."
        ) from error
