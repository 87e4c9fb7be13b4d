"""Monitor the negatives in the queue while training: in the log, in a file and in a figure."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from mocose_hf.errors import InputError, SaveError, one_line, printable
from mocose_hf.files import replacing
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.models.prompts import prompt_options
from mocose_hf.training.checkpoint import read_state
from mocose_hf.training.queue_monitor.plot import QUEUE_MONITOR_FILES, plot_queue_monitor
from mocose_hf.training.queue_monitor.snapshot import (
    QueueSnapshot,
    TrainingSentences,
    find_sentences,
    is_finite,
    shorten,
)

logger = logging.get_logger(__name__)

LINES_FILE, PLOT_FILE = QUEUE_MONITOR_FILES

LOGGED = ("effective_negatives", "false_negative_rate", "key_drift", "queue_gradient_share")
"""The entries of a record that the log gets."""


class QueueMonitor(TrainerCallback, ExportableState):
    """Measure the queue every `queue_monitor_steps` optimizer steps, as the batch of that step sees it.

    A measurement takes the queue before the keys of the batch enter it, and the loss of that batch: of the last
    forward of the step, on the first process. It draws no random number, changes no state and does not communicate
    with other processes. Each one appends a line to `queue_monitor.jsonl` and adds its `LOGGED` metrics to the next
    line of the log. At the end `queue_monitor.png` is drawn from the lines. A resumed run first drops the lines of
    later steps, so an interrupted run ends with the same file. The trainer adds this callback if
    `queue_monitor_steps` is above 0.

    A line is a JSON object. Lists have one entry for each bin of `AgeBins`. Unknown values are null or absent.

    * `step`: The optimizer step of the batch, from 1.
    * `queue_fill`, `initial_rows`: Slots in use, and those among them without an age, such as random initial rows.
    * `first_ages`, `bin_width`, `rows_by_age`: The bins, and the slots in each.
    * `age_quantiles`: Minimum, lower quartile, median, upper quartile and maximum age of the slots that have one.
    * `key_drift`, `key_drift_by_age`, `sampled_by_age`: Mean cosine of a stored key and the key that the target gives
      the same sentence now, with dropout off, and the number of keys sampled at even distances of age. The stored key
      was made with dropout, so the cosine is below 1 at any age. `batch_key_drift` is the same for the batch's own
      keys, and shows the effect of dropout alone.
    * `gradient_share_by_age`, `initial_gradient_share`, `in_batch_gradient_share`, `queue_gradient_share` (of the
      whole queue): Shares of the gradient with respect to the logits of all negatives, see `NegativeWeights`.
    * `effective_negatives`, `negatives`, `false_negative_rate`, `false_negative_gradient_share`: See there. The ids of
      keys of other processes are unknown.
    * `ema_decay`, `d_trace`, `current_d_trace`: As in the log, at the time of the batch.
    * `skipped`: Names of what could not be measured, with the reason.

    Attributes:
        latest: The metrics for the next line of the log.

    Raises:
        SaveError: If a line cannot be written.
    """

    def __init__(self):
        self.latest: dict[str, float] = {}
        self._forward: tuple[ContrastiveOutput, dict[str, float]] | None = None
        self._sentences: TrainingSentences | None = None
        self._no_sentences: str | None = None

    def state(self) -> dict:
        """Return the state for a checkpoint, as JSON can hold it."""
        return {"args": {}, "attributes": {"latest": self.latest}}

    def pop_metrics(self) -> dict[str, float]:
        """Return the metrics measured since the last call; empty if there are none."""
        latest, self.latest = self.latest, {}
        return latest

    def is_due(self, args, state) -> bool:
        """Return whether the current optimizer step is to be measured."""
        return args.queue_monitor_steps > 0 and (state.global_step + 1) % args.queue_monitor_steps == 0

    def begin(self, args, checkpoint: str | None) -> None:
        """Keep the lines of the run up to a checkpoint; None deletes all."""
        self._forward = None
        if args.queue_monitor_steps == 0 or args.process_index != 0:
            return
        path = Path(args.output_dir) / LINES_FILE
        with _writing(path):
            kept = b"" if checkpoint is None else _lines_up_to(checkpoint)
            if kept:
                with replacing(path) as temporary:
                    temporary.write_bytes(kept)
            else:
                path.unlink(missing_ok=True)

    def record_forward(self, outputs: ContrastiveOutput, momentum: dict[str, float]) -> None:
        """Keep the outputs of a forward until the optimizer step is done; the last forward of the step counts.

        Args:
            outputs: The outputs of a forward in training.
            momentum: The current decay, fill and traceable distances.
        """
        parts: dict[str, Any] = {k: v.detach() if isinstance(v, Tensor) else v for k, v in outputs.items()}
        self._forward = (ContrastiveOutput(**parts), momentum)

    def on_train_begin(self, args, state, control, model=None, processing_class=None, train_dataloader=None, **kwargs):
        """Find the training sentences, and restore the state of the checkpoint."""
        first = args.process_index == 0
        dataset = getattr(train_dataloader, "dataset", None)
        dataset = getattr(dataset, "dataset", dataset)
        prompts = prompt_options(model.config, args.query_prompt, args.key_prompt)
        self._sentences, self._no_sentences = find_sentences(
            dataset, processing_class, args.max_seq_length, **prompts | {"prompt": prompts["key_prompt"]}
        )
        if self._no_sentences and first:
            logger.warning(f"The queue monitor skips `key_drift`: {self._no_sentences}.")
        saved = (state.stateful_callbacks or {}).get(type(self).__name__) if state.global_step else None
        saved = saved[0] if isinstance(saved, list) else saved
        self.latest = saved["attributes"]["latest"] if saved and first else {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Measure in a step that is due, and write a line. Queue and target are still as the batch saw them."""
        if self._forward is None:
            return
        (outputs, momentum), self._forward = self._forward, None
        first = args.process_index == 0
        if not first and not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            return  # under ZeRO-3 all processes must encode together
        record = self._measure(args, state.global_step + 1, model, outputs, momentum)
        if not first or not is_finite(record):  # the trainer reports what is not finite
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
        """Draw the figure from the lines of the file, on the first process; warn if that fails."""
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
        snapshot = QueueSnapshot(model, args, step)
        record = snapshot.ages()
        if self._sentences is not None:
            record |= snapshot.drift(outputs, self._sentences)
        elif model.queue.size:
            snapshot.skipped["key_drift"] = self._no_sentences
        record |= snapshot.gradient(outputs) | momentum
        return shorten(record | {"skipped": snapshot.skipped})


def _lines_up_to(checkpoint: str) -> bytes:
    """Return the lines of the run of a checkpoint up to its step, without a line that a killed process cut off."""
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
    """Raise a `SaveError` if a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{path}: cannot be written ({one_line(error)}); fix the cause, such as a full disk, and resume with "
            "`resume_from_checkpoint` true."
        ) from error
