"""Store in each checkpoint whether its run has ended."""

from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from mocose_hf.training.callbacks.preemption import PreemptionHandler


class EndOfRun(TrainerCallback, ExportableState):
    """Store in each checkpoint whether the run has ended, at its last step or because a callback stopped it.

    With `save_strategy` steps, a run that a callback stops is saved there. A signal interrupts a run, but does not end
    it.

    Args:
        preemption: The handler that stops a run on a signal. It comes later in the list of callbacks.
    """

    def __init__(self, preemption: PreemptionHandler):
        self._preemption = preemption
        self.ended = False
        self._saved_step = -1

    def state(self) -> dict:
        """Return the state for a checkpoint, as JSON can hold it."""
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
    """Return whether a callback ended the run at the checkpoint with this state."""
    saved = (state.stateful_callbacks or {}).get(EndOfRun.__name__)
    return isinstance(saved, dict) and bool(saved.get("attributes", {}).get("ended"))
