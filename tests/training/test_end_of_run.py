"""What callbacks know goes on across a resume, and a run that a callback stopped is finished."""

import shutil
import signal

import pytest
from trainers import differing, make_trainer, scored_pairs
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from mocose_hf.errors import TrainingInterrupted
from mocose_hf.training.checkpoint import checkpoints, step_of

EVALUATION = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_total_limit": None,
    "metric_for_best_model": "dev_spearman",
    "max_steps": 20,
}


class Counter(TrainerCallback, ExportableState):
    """Counts the steps, from a number on."""

    def __init__(self, start: int = 0):
        self.start = start
        self.count = start

    def state(self) -> dict:
        return {"args": {"start": self.start}, "attributes": {"count": self.count}}

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1


class StopAt(TrainerCallback):
    """Stop the run after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def falling(monkeypatch, signal_at: int | None = None) -> None:
    """Replace the scores by ones that are best at step 4; send SIGTERM while that of a step is measured."""

    def scores(model, *args, **kwargs):
        step = (int(model.queue.num_filled) - 4) // 4
        if step == signal_at:
            signal.raise_signal(signal.SIGTERM)
        return {"dev_spearman": 50.0 - abs(step - 4), "dev_uniformity": -1.0}

    monkeypatch.setattr("mocose_hf.training.scoring_trainer.score_sets", scores)


def trainer_of(folder, tokenizer, *callbacks, seed=0, **fields):
    from builders import tiny_model

    settings = EVALUATION | fields
    pairs = scored_pairs() if settings["eval_strategy"] != "no" else None
    model = tiny_model(seed, queue_size=256)
    return make_trainer(folder, tokenizer, model, pairs=pairs, callbacks=list(callbacks), **settings)


def saved_steps(folder) -> list[int]:
    return sorted(step_of(path) for path in checkpoints(folder))


@pytest.mark.parametrize("interrupted_at", [2, 6, 8])
def test_early_stopping_keeps_its_patience_across_a_resume(tmp_path, tokenizer, monkeypatch, interrupted_at):
    falling(monkeypatch)
    whole = trainer_of(tmp_path / "whole", tokenizer, EarlyStoppingCallback(3))
    whole.train()
    assert whole.state.global_step == 10  # the best is 4, and 6, 8 and 10 are worse
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in checkpoints(tmp_path / "cut"):
        if step_of(path) > interrupted_at:
            shutil.rmtree(path)
    callback = EarlyStoppingCallback(3)
    resumed = trainer_of(tmp_path / "cut", tokenizer, callback, seed=7)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 10
    assert callback.early_stopping_patience_counter == 3
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []


def test_a_run_that_stopped_early_is_finished(tmp_path, tokenizer, monkeypatch, told):
    falling(monkeypatch)
    first = trainer_of(tmp_path, tokenizer, EarlyStoppingCallback(3), load_best_model_at_end=True)
    first.train()
    again = trainer_of(tmp_path, tokenizer, EarlyStoppingCallback(3), seed=7, load_best_model_at_end=True)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == first.state.global_step == 10
    assert differing(first.model.state_dict(), again.model.state_dict()) == []
    assert "checkpoint-10 is at the end of its run, step 10 of 20, where a callback stopped it: no step" in told.text


@pytest.mark.parametrize("fields", [{"save_steps": 100}, {"save_steps": 100, "eval_strategy": "no"}])
def test_a_run_that_a_callback_stops_is_saved_there(tmp_path, tokenizer, monkeypatch, fields):
    falling(monkeypatch)
    trainer_of(tmp_path, tokenizer, StopAt(5), **fields).train()
    assert saved_steps(tmp_path) == [5]
    again = trainer_of(tmp_path, tokenizer, seed=7, **fields)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 5


def test_a_signal_in_the_evaluation_that_stops_the_run_does_not_let_it_continue(tmp_path, tokenizer, monkeypatch):
    falling(monkeypatch, signal_at=10)
    with pytest.raises(TrainingInterrupted):
        trainer_of(tmp_path, tokenizer, EarlyStoppingCallback(3)).train()
    falling(monkeypatch)
    again = trainer_of(tmp_path, tokenizer, EarlyStoppingCallback(3), seed=7)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 10


def test_a_signal_before_that_evaluation_does_not_end_the_run(tmp_path, tokenizer, monkeypatch):
    falling(monkeypatch, signal_at=8)
    with pytest.raises(TrainingInterrupted):
        trainer_of(tmp_path, tokenizer, EarlyStoppingCallback(3)).train()
    falling(monkeypatch)
    again = trainer_of(tmp_path, tokenizer, EarlyStoppingCallback(3), seed=7)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 10
    assert saved_steps(tmp_path) == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("transformers_restores_too", [False, True])
def test_each_of_several_callbacks_of_a_class_continues_with_its_own_state(
    tmp_path, tokenizer, transformers_restores_too
):
    fields = {"eval_strategy": "no", "metric_for_best_model": None, "save_steps": 2, "max_steps": 6}
    trainer_of(tmp_path, tokenizer, Counter(0), Counter(100), **fields).train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    fields |= {"restore_callback_states_from_checkpoint": transformers_restores_too}
    resumed = trainer_of(tmp_path, tokenizer, Counter(0), Counter(100), seed=7, **fields)
    resumed.train(resume_from_checkpoint=True)
    counts = [c.count for c in resumed.callback_handler.callbacks if isinstance(c, Counter)]
    assert counts == [6, 106]


def test_a_callback_that_the_checkpoint_does_not_know_starts_anew(tmp_path, tokenizer):
    fields = {"eval_strategy": "no", "metric_for_best_model": None, "save_steps": 2, "max_steps": 6}
    trainer_of(tmp_path, tokenizer, **fields).train()
    shutil.rmtree(tmp_path / "checkpoint-6")
    counter = Counter()
    trainer_of(tmp_path, tokenizer, counter, seed=7, **fields).train(resume_from_checkpoint=True)
    assert counter.count == 2
    assert saved_steps(tmp_path) == [2, 4, 6]
