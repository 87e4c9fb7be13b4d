"""Show the progress of a training: one line that is updated on a terminal, plain lines in a file."""

import shutil
import sys
import time
from contextlib import ExitStack

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import TrainerCallback
from transformers.utils import logging

from mocose_hf.evaluation.checkpoint_selection import is_greater_better, scores_by_step
from mocose_hf.evaluation.score_tables import measure_label
from mocose_hf.terminal import can_show_colours

_WITH_BAR, _WITHOUT_BAR = "{desc} |{bar}|", "{desc}"

_SHORTEST_BAR = 10
"""Columns beside the text that a bar and its frame need."""


class ProgressDisplay(TrainerCallback):
    """Show step, sentences per second, time left, loss, and the development score: the latest and the best.

    If standard error is a terminal, this is one line with a bar. Otherwise, or with `disable_tqdm`, it is a line on
    standard output for each line of the log and each evaluation. Only the first process shows it. The rate leaves out
    the time of evaluations and saves; the time left includes it. Sentences are rows of the training set.

    `MoCoSETrainer` uses it in place of the display of transformers, which prints all metrics of each log line.
    """

    def __init__(self):
        self._bar: tqdm | None = None
        self._redirection = ExitStack()
        self._is_active = False

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar on a terminal."""
        self.close()
        if not state.is_world_process_zero:
            return
        self._is_active = True
        self._start = self._pause_start = self._pauses = 0.0
        self._first_step = state.global_step
        self._loss: float | None = None
        self._metric = args.best_metric
        self._scores = scores_by_step(state.log_history, self._metric)
        if not args.disable_tqdm and sys.stderr.isatty():
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                ncols=_width(),
                nrows=shutil.get_terminal_size().lines,
                bar_format=_WITH_BAR,
                colour="green" if can_show_colours(sys.stderr) else None,
            )
            # Without this, a warning would begin in the middle of the line.
            self._redirection.enter_context(logging_redirect_tqdm([logging.logging.getLogger(), logging.get_logger()]))

    def on_step_begin(self, args, state, control, **kwargs):
        """Start the clock, after the score of the start."""
        if self._is_active and state.global_step == self._first_step:
            self._start, self._pauses = time.perf_counter(), 0.0

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar."""
        if self._is_active:
            self._pause_start = time.perf_counter()
            self._update_bar(args, state)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Show the loss."""
        if self._is_active and "loss" in logs:
            self._loss = logs["loss"]
            self._show(args, state, with_line=not control.should_evaluate)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Show the development score."""
        if self._is_active:
            self._end_pause()
            if f"eval_{self._metric}" in metrics:
                self._scores[state.global_step] = metrics[f"eval_{self._metric}"]
            self._show(args, state, with_line=True)

    def on_save(self, args, state, control, **kwargs):
        """Leave the time of the save out of the rate."""
        if self._is_active:
            self._end_pause()

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar, so that the next message begins on a new line."""
        self._redirection.close()
        if self._bar is not None:
            self._bar.close()
        self._bar, self._is_active = None, False

    def _end_pause(self) -> None:
        now = time.perf_counter()
        self._pauses += now - self._pause_start
        self._pause_start = now

    def _show(self, args, state, with_line: bool) -> None:
        if self._bar is not None:
            self._update_bar(args, state)
            self._bar.refresh()
        elif with_line:
            print(self._text(args, state), flush=True)

    def _update_bar(self, args, state) -> None:
        if self._bar is not None:
            text, self._bar.ncols = self._text(args, state), _width()
            self._bar.bar_format = _WITH_BAR if self._bar.ncols - len(text) >= _SHORTEST_BAR else _WITHOUT_BAR
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(state.global_step - self._bar.n)

    def _text(self, args, state) -> str:
        step, total = state.global_step, state.max_steps
        parts = [f"step {step:,}/{total:,}"]
        done, elapsed = step - self._first_step, time.perf_counter() - self._start
        if done > 0:
            sentences = done * args.global_batch_size * args.gradient_accumulation_steps
            parts.append(f"{sentences / max(self._pause_start - self._start - self._pauses, 1e-9):,.0f} sentences/s")
            left = elapsed / done * (total - step)
            parts.append(f"{tqdm.format_interval(left)} left" if left else f"in {tqdm.format_interval(elapsed)}")
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4g}")
        if self._scores:
            best = (max if is_greater_better(self._metric) else min)(self._scores.values())
            label = measure_label(self._metric).partition(" (")[0]
            parts.append(f"{label} {list(self._scores.values())[-1]:.2f}, best {best:.2f}")
        return "  ".join(parts)


def _width() -> int:
    """Return the columns of the terminal that a line may fill; 79 if it does not state its size."""
    return shutil.get_terminal_size().columns - 1
