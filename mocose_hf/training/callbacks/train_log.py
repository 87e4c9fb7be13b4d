"""Write the log of a training to a file while it runs."""

import json
from pathlib import Path

from transformers import TrainerCallback

from mocose_hf.errors import SaveError, one_line

TRAIN_LOG_FILE = "train_log.jsonl"


class TrainLog(TrainerCallback):
    """Write all metrics of each log line to `train_log.jsonl` in the output directory, on the first process.

    A line is a JSON object with `step`, as in `log_history` of the trainer's state. A resumed run keeps the lines up
    to its checkpoint, so each step is there once.

    Raises:
        SaveError: If a line cannot be written.
    """

    def __init__(self):
        self._has_begun = False

    def on_train_begin(self, args, state, control, **kwargs):
        """Begin anew; a run that cannot train writes nothing."""
        self._has_begun = False

    def on_log(self, args, state, control, **kwargs):
        """Append the newest line, or write all of this run if it is the first one of this process."""
        if not state.is_world_process_zero:
            return
        mode, entries = ("a", state.log_history[-1:]) if self._has_begun else ("w", state.log_history)
        path = Path(args.output_dir) / TRAIN_LOG_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open(mode, encoding="utf-8") as file:
                file.writelines(f"{json.dumps(entry)}\n" for entry in entries)
        except OSError as error:
            raise SaveError(
                f"{path}: cannot be written ({one_line(error)}); fix the cause, such as a full disk, and resume with "
                "`resume_from_checkpoint` true."
            ) from error
        self._has_begun = True
