"""Trainings that stop and resume."""

import pytest
from builders import tiny_model
from trainers import make_trainer
from transformers import TrainerCallback


class Killed(Exception):
    pass


class Kill(TrainerCallback):
    """End the run without warning, in the first forward of a step."""

    def __init__(self, step: int, micro_step: int = 0):
        self._step, self._micro_step, self._micro_steps = step, micro_step, 0

    def on_step_begin(self, args, state, control, **kwargs):
        self._at = state.global_step + 1 == self._step
        if self._at and self._micro_step == 0:
            raise Killed

    def on_substep_end(self, args, state, control, **kwargs):
        self._micro_steps += self._at
        if self._at and self._micro_steps == self._micro_step:
            raise Killed


def run(folder, tokenizer, kills=(), seed=0, reseed=True, config=None, **fields):
    """Train as the command does, again and again from the newest checkpoint, killed in between.

    Each part starts from other weights where `reseed`: what the checkpoint does not bring, shows.
    """
    settings = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 4, "learning_rate": 1e-3} | fields
    for part, kill in enumerate([*kills, None]):
        model = tiny_model(seed=seed + part * reseed, encoder_dropout_prob=0.1, **(config or {}))
        callbacks = [] if kill is None else [Kill(*kill)]
        trainer = make_trainer(folder, tokenizer, model, count=30, callbacks=callbacks, **settings)
        if kill is None:
            trainer.train(resume_from_checkpoint=True)
            return trainer
        with pytest.raises(Killed):
            trainer.train(resume_from_checkpoint=True)


BEST = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "load_best_model_at_end": True,
    "metric_for_best_model": "dev_spearman",
}
