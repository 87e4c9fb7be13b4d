"""Signals at given steps."""

import os
import signal

from builders import tiny_model
from trainers import make_trainer, scored_pairs
from transformers import TrainerCallback

EVALUATION = "evaluation"


class Send(TrainerCallback):
    """Send signals to this process at an event, when `step` optimizer steps are done."""

    def __init__(self, event: str, step: int, *numbers: int):
        self.event, self.step, self.numbers = event, step, numbers or (signal.SIGTERM,)
        if event != EVALUATION:
            setattr(self, event, self._at_event)

    def strike(self, step: int) -> None:
        if step == self.step:
            numbers, self.numbers = self.numbers, ()
            for number in numbers:
                os.kill(os.getpid(), number)

    def _at_event(self, args, state, control, **kwargs):
        self.strike(state.global_step)


class SavedSteps(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_save(self, args, state, control, **kwargs):
        self.steps.append(state.global_step)


class SaveAtTheEnd(TrainerCallback):
    """Makes a run comparable that saves nothing by itself."""

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save = control.should_save or state.global_step == state.max_steps


def trainer_of(folder, tokenizer, send=None, seed=0, saves_at_the_end=True, **fields):
    settings = {"save_strategy": "steps", "save_steps": 100, "logging_steps": 4, "num_train_epochs": 2} | fields
    model = tiny_model(seed=seed, encoder_dropout_prob=0.1, queue_size=256)
    if "eval_strategy" in settings:
        settings |= {"pairs": scored_pairs(), "metric_for_best_model": "dev_spearman"}
    callbacks = [SavedSteps()] + [SaveAtTheEnd()] * saves_at_the_end
    if send is not None and send.event != EVALUATION:
        callbacks.append(send)
    return make_trainer(folder, tokenizer, model, count=30, callbacks=callbacks, **settings)
