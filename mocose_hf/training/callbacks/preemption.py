"""Being told to stop: finish the step, save, end; on all processes at one step."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import SaveStrategy

from mocose_hf.errors import EXIT_INTERRUPTED
from mocose_hf.parallel.collectives import any_process

SIGNALS = (signal.SIGTERM, signal.SIGINT)

LAUNCHER_DIED = getattr(signal, "SIGUSR2", None)
"""What the kernel sends when the launcher dies, see `end_with_launcher`; Windows has no such signal."""

_HANGUP = getattr(signal, "SIGHUP", None)
_MAY_COME_TWICE = tuple(number for number in (_HANGUP, LAUNCHER_DIED) if number is not None)
"""A shell and the kernel may both send SIGHUP, and the kernel tells of each thread of a launcher that dies."""

_WORKER_GRACE_SECONDS = 60


class TrainingInterrupted(SystemExit):
    """A signal ended training early and its state was saved; where nobody catches it, the program ends with code 75.

    75 is EX_TEMPFAIL of sysexits.h: nothing is wrong, try again.
    """

    def __init__(self, message: str):
        super().__init__(EXIT_INTERRUPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Preemption(TrainerCallback):
    """Save and stop at the end of the optimizer step in which SIGTERM, SIGINT or SIGHUP reaches any process.

    A second SIGTERM or SIGINT acts as if this class were not there, so that a second Ctrl-C ends at once. SIGHUP is
    left alone if the program ignores it, as under `nohup`.
    Evaluation in progress comes to its end first. The first signal is acknowledged at once on stderr.
    """

    def __init__(self):
        self._received: signal.Signals | None = None
        self._handlers_before: dict[signal.Signals, object] = {}
        self._listening = False
        self.saved_step = -1
        self._epoch_ends = False
        self._is_first_process = True
        self.agreed = False

    @contextmanager
    def listening(self, is_first_process: bool = True) -> Iterator[None]:
        """Take the signals for the time of a training; outside the main thread Python does not allow it.

        Args:
            is_first_process: Whether this process acknowledges a signal.
        """
        self._is_first_process = is_first_process
        self._received, self.saved_step, self._listening, self.agreed = None, -1, True, False
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {number: signal.signal(number, self._note) for number in SIGNALS}
            for number in _MAY_COME_TWICE:
                if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP
                    self._handlers_before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            self._listening = False
            for number in list(self._handlers_before):
                self._give_back(number)
        if self._received is not None and not self.agreed:
            signal.raise_signal(self._received)  # it came after the last step

    def report(self, state: TrainerState) -> str:
        """Return in one line what arrived, where training stands, and how it goes on."""
        what = _name(self._received) if self._received else "A signal to another process"
        saved = "which is saved" if self.saved_step == state.global_step else "which is not saved, unlike earlier ones"
        return (
            f"{what} ended training after step {state.global_step} of {state.max_steps}, {saved}; go on with "
            "--resume_from_checkpoint true."
        )

    def agree(self, args) -> bool:
        """Return, the same on all processes, whether a signal reached one of them; every process must call it."""
        self.agreed = any_process(self._received is not None, args.device)
        return self.agreed

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        self._epoch_ends = False
        if self.agree(args) and not control.should_evaluate:  # else after it, so that what it ends can be told apart
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
            if self._epoch_ends:  # there is no later moment to save
                if args.save_strategy == SaveStrategy.BEST:  # which would overrule this one
                    args.save_strategy = SaveStrategy.STEPS
                control.should_save = self.saved_step != state.global_step

    def on_save(self, args, state, control, **kwargs):  # noqa: D102
        self.saved_step = state.global_step

    def _note(self, number: int, frame) -> None:
        is_repeated = number in _MAY_COME_TWICE and self._received == number
        self._received = signal.Signals(number)
        if number not in _MAY_COME_TWICE:
            self._give_back(self._received)
        if self._is_first_process and not is_repeated:
            _acknowledge(self._received)

    def _give_back(self, number: signal.Signals) -> None:
        before = self._handlers_before.pop(number, None)
        if before is not None:
            signal.signal(number, before)


def _name(number: signal.Signals) -> str:
    return "The death of the launcher" if number == LAUNCHER_DIED else number.name


def _acknowledge(number: signal.Signals) -> None:
    """Say at once that a signal arrived, from within its handler."""
    again = "press Ctrl-C again" if number == signal.SIGINT else f"send {number.name} again"
    line = f"\n{number.name}: finishing this step and saving; {again} to end now.\n"
    if number in _MAY_COME_TWICE:
        line = f"\n{_name(number)}: finishing this step and saving.\n"
    try:
        sys.stderr.write(line)
        sys.stderr.flush()
    except RuntimeError:  # the signal came while something was being written there
        os.write(2, line.encode())
    except (AttributeError, OSError, ValueError):  # stderr is gone, but the training is to be saved all the same
        pass


def at_epoch_edge(state: TrainerState) -> bool:
    """Return whether the step just done was the last of an epoch."""
    return state.epoch is not None and state.epoch == round(state.epoch)


class IgnoreSignalsWorkerInit:
    """Keep a data loader's worker alive when a signal goes to the whole process group, until its main process ends it.

    Called in the worker; a minute after SIGTERM it ends whatever happens.

    Args:
        worker_init_fn: What the data loader would have called.
    """

    def __init__(self, worker_init_fn):
        self._worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        """Set the worker up; the signature is that of `DataLoader`."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in _MAY_COME_TWICE:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_WORKER_GRACE_SECONDS))
        if self._worker_init_fn is not None:
            self._worker_init_fn(worker_id)
