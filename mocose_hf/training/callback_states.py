"""What callbacks know is part of a checkpoint, and so is whether one of them has ended the run."""

from collections.abc import Iterable

from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from mocose_hf.training.callbacks.preemption import Preemption


def restore_callback_states(callbacks: Iterable[TrainerCallback], state: TrainerState) -> None:
    """Give each `ExportableState` among the callbacks the attributes that the checkpoint holds for it, in place.

    transformers replaces the callbacks, and only with `restore_callback_states_from_checkpoint`. It also fails at the
    next save if the checkpoint does not know a callback, so its present state is entered here.

    Args:
        callbacks: Those of the resumed run. What they were constructed with stays.
        state: As read from the checkpoint.
    """
    groups: dict[str, list[ExportableState]] = {}
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            groups.setdefault(type(callback).__name__, []).append(callback)
    for name, group in groups.items():
        saved = state.stateful_callbacks.get(name)
        if saved is None:
            fresh = [callback.state() for callback in group]
            state.stateful_callbacks[name] = fresh[0] if len(fresh) == 1 else fresh
            continue
        saved = saved if isinstance(saved, list) else [saved]
        for callback, entry in zip(group, saved[-len(group) :], strict=False):  # each save adds to a list
            attributes = entry.get("attributes", {})
            for attribute in callback.state()["attributes"].keys() & attributes.keys():
                setattr(callback, attribute, attributes[attribute])


class EndOfRun(TrainerCallback, ExportableState):
    """Keep in checkpoints whether the run has ended, by its last step or because a callback stopped it.

    A run that was stopped is saved if `save_strategy` is steps. A signal interrupts a run and does not end it.

    Args:
        preemption: It stops the run at a signal. It comes later in the list of callbacks.
    """

    def __init__(self, preemption: Preemption):
        self._preemption = preemption
        self.ended = False
        self._saved_step = -1

    def state(self) -> dict:
        """Return what a checkpoint keeps, as JSON can hold it."""
        return {"args": {}, "attributes": {"ended": self.ended}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: D102
        self.ended, self._saved_step = False, -1

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        self.ended = self.ended or control.should_training_stop

    def on_evaluate(self, args, state, control, **kwargs):  # noqa: D102
        self.ended = self.ended or control.should_training_stop

    def on_epoch_end(self, args, state, control, **kwargs):  # noqa: D102
        self.ended = self.ended or (control.should_training_stop and not self._preemption.agreed)
        if self.ended and args.save_strategy == SaveStrategy.STEPS and self._saved_step != state.global_step:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):  # noqa: D102
        self._saved_step = state.global_step


def has_ended(state: TrainerState) -> bool:
    """Return whether the run of a checkpoint ended there because a callback stopped it."""
    saved = (state.stateful_callbacks or {}).get(EndOfRun.__name__)
    return isinstance(saved, dict) and bool(saved.get("attributes", {}).get("ended"))
