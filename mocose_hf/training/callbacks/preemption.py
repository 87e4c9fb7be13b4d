"""Stop a training on a signal: finish the step, save and exit, on all processes at the same step."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import SaveStrategy

from mocose_hf.parallel.collectives import any_process
from mocose_hf.parallel.launcher import LAUNCHER_DIED

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_HANGUP = getattr(signal, "SIGHUP", None)
_MAY_COME_TWICE = tuple(number for number in (_HANGUP, LAUNCHER_DIED) if number is not None)
"""The shell and the kernel may both send SIGHUP. The kernel sends a signal for each thread of a launcher that dies."""

_WORKER_GRACE_SECONDS = 60


class PreemptionHandler(TrainerCallback):
    """Save and stop at the end of the optimizer step in which SIGTERM, SIGINT or SIGHUP reaches any process.

    The first signal is acknowledged at once on stderr. An evaluation in progress finishes first. A second SIGTERM or
    SIGINT has its usual effect, so a second Ctrl-C ends the program at once. SIGHUP stays ignored under `nohup`.

    Attributes:
        agreed: Whether all processes know of a signal.
        saved_step: The optimizer step of the newest checkpoint of this training, −1 before the first.
    """

    def __init__(self):
        self._received: signal.Signals | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}
        self._listening = False
        self._epoch_ends = False
        self._is_first_process = True
        self.saved_step = -1
        self.agreed = False

    @contextmanager
    def listening(self, args, is_first_process: bool = True) -> Iterator[None]:
        """Handle signals inside a `with` block. Outside the main thread, Python does not allow it.

        Args:
            args: The training arguments. `save_strategy` may change inside the block, and is restored at its end.
            is_first_process: Whether this process acknowledges a signal.
        """
        self._is_first_process = is_first_process
        self._received, self.saved_step, self._listening, self.agreed = None, -1, True, False
        save_strategy = args.save_strategy
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {number: signal.signal(number, self._receive) for number in SIGNALS}
            for number in _MAY_COME_TWICE:
                if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP
                    self._handlers_before[number] = signal.signal(number, self._receive)
        try:
            yield
        finally:
            self._listening = False
            args.save_strategy = save_strategy
            for number in list(self._handlers_before):
                self._restore_handler(number)
        if self._received is not None and not self.agreed:
            signal.raise_signal(self._received)  # it came after the last step

    def report(self, state: TrainerState) -> str:
        """Return one line with the signal, the step that training reached, and the way to resume."""
        cause = _name(self._received) if self._received else "A signal to another process"
        saved = "which is saved" if self.saved_step == state.global_step else "which is not saved, unlike earlier ones"
        return (
            f"{cause} ended training after step {state.global_step} of {state.max_steps}, {saved}; resume with "
            "`resume_from_checkpoint` true."
        )

    def agree(self, args) -> bool:
        """Return whether a signal has reached any process. Every process must call this."""
        self.agreed = any_process(self._received is not None, args.device)
        return self.agreed

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        self._epoch_ends = False
        # If an evaluation follows, `on_evaluate` stops the run: `EndOfRun` must first see whether the score ends it.
        if self.agree(args) and not control.should_evaluate:
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs):  # noqa: D102
        self._epoch_ends = True
        if not self.agreed:
            return
        if not at_epoch_edge(state) and state.global_step < state.max_steps:
            control.should_log = control.should_evaluate = False
        if control.should_evaluate:
            control.should_training_stop = False  # until the evaluation is done
        control.should_save = self.saved_step != state.global_step

    def on_evaluate(self, args, state, control, **kwargs):  # noqa: D102
        if self._listening and state.global_step > 0 and self.agree(args):
            control.should_training_stop = True
            if self._epoch_ends:  # the last opportunity to save
                if args.save_strategy == SaveStrategy.BEST:  # it would overrule `should_save`
                    args.save_strategy = SaveStrategy.STEPS
                control.should_save = self.saved_step != state.global_step

    def on_save(self, args, state, control, **kwargs):  # noqa: D102
        self.saved_step = state.global_step

    def _receive(self, number: int, frame) -> None:
        is_repeated = number in _MAY_COME_TWICE and self._received == number
        self._received = signal.Signals(number)
        if number not in _MAY_COME_TWICE:
            self._restore_handler(self._received)
        if self._is_first_process and not is_repeated:
            _acknowledge(self._received)

    def _restore_handler(self, number: signal.Signals) -> None:
        before = self._handlers_before.pop(number, None)
        if before is not None:
            signal.signal(number, before)


def _name(number: signal.Signals) -> str:
    return "The death of the launcher" if number == LAUNCHER_DIED else number.name


def _acknowledge(number: signal.Signals) -> None:
    """Print at once, from within the handler, that a signal arrived."""
    again = "press Ctrl-C again" if number == signal.SIGINT else f"send {number.name} again"
    line = f"\n{number.name}: finishing this step and saving; {again} to end now.\n"
    if number in _MAY_COME_TWICE:
        line = f"\n{_name(number)}: finishing this step and saving.\n"
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except RuntimeError:  # the signal interrupted another write to stderr
        os.write(2, line.encode())
    except (AttributeError, OSError, ValueError):  # stderr is closed, but the training must still be saved
        pass


def at_epoch_edge(state: TrainerState) -> bool:
    """Return whether the latest step was the last of an epoch."""
    return state.epoch is not None and state.epoch == round(state.epoch)


class IgnoreSignalsWorkerInit:
    """Keep a data loader's worker alive when a signal reaches the whole process group, until its main process ends it.

    The worker exits at the latest one minute after SIGTERM.

    Args:
        worker_init_fn: The function that the data loader would have called in the worker.
    """

    def __init__(self, worker_init_fn):
        self._worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        """Set up the worker; `DataLoader` prescribes the signature."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _MAY_COME_TWICE:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_WORKER_GRACE_SECONDS))
        if self._worker_init_fn is not None:
            self._worker_init_fn(worker_id)
