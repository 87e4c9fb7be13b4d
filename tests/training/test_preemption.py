"""A training that is told to stop finishes its step, saves, and ends where it would have ended when it goes on."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import HELPERS, REPOSITORY
from same_state import TIMES, differences
from signals import EVALUATION, SavedSteps, Send, trainer_of
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerState

from mocose_hf.errors import TrainingInterrupted
from mocose_hf.parallel.launcher import LAUNCHER_DIED
from mocose_hf.training.callbacks.preemption import (
    SIGNALS,
    IgnoreSignalsWorkerInit,
    PreemptionHandler,
)
from mocose_hf.training.checkpoint import checkpoints, find_corruption, step_of

STEPS_OF_AN_EPOCH = 7


class NobodyListened(Exception):
    pass


def nobody_listened(number, frame):
    raise NobodyListened(signal.Signals(number).name)


@pytest.fixture(autouse=True)
def handlers():
    """The handlers that a training finds, and has to give back; a lost signal ends a test, not pytest."""
    found = {signal.SIGTERM: nobody_listened, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in found.items()}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == found


def saved_steps(trainer) -> list[int]:
    return next(c.steps for c in trainer.callback_handler.callbacks if isinstance(c, SavedSteps))


def log_of(trainer) -> list[dict]:
    lines = [line for line in trainer.state.log_history if "train_loss" not in line]
    return [{name: value for name, value in line.items() if not name.endswith(TIMES)} for line in lines]


def score_worse_each_time(monkeypatch, send=None):
    """Replace the scores by ones that fall with every step, and send a signal within one evaluation."""

    def scores(model, *args, **kwargs):
        step = (int(model.queue.num_filled) - 4) // 4
        if send is not None:
            send.strike(step)
        return {"dev_spearman": 50.0 - step, "dev_uniformity": -1.0}

    monkeypatch.setattr("mocose_hf.training.scoring_trainer.score_sets", scores)


BY_EPOCH = {"logging_strategy": "epoch", "eval_strategy": "epoch"}
EVERY_TWO = {"eval_strategy": "steps", "eval_steps": 2}
CASES = {
    # name: options, event, steps done then, step it stops after
    "before the first step": ({}, "on_train_begin", 0, 1),
    "as a step begins": ({}, "on_step_begin", 4, 5),
    "between gradient and optimizer": ({}, "on_pre_optimizer_step", 4, 5),
    "inside accumulation": ({"gradient_accumulation_steps": 3, "num_train_epochs": 3}, "on_substep_end", 4, 5),
    "in the first step of an epoch": ({}, "on_step_begin", 7, 8),
    "between epochs": ({}, "on_epoch_begin", 7, 8),
    "as an epoch ends": ({}, "on_epoch_end", 7, 8),
    "as a line is logged": ({}, "on_log", 4, 5),
    "in a save": ({"save_steps": 3}, "on_save", 3, 4),
    "in the evaluation before training": (EVERY_TWO | {"eval_on_start": True}, EVALUATION, 0, 1),
    "in an evaluation by steps": (EVERY_TWO, EVALUATION, 4, 4),
    "in an evaluation by steps that is saved": (EVERY_TWO | {"save_steps": 4}, EVALUATION, 4, 4),
    "in an evaluation by steps at the end of an epoch": (EVERY_TWO | {"eval_steps": 7}, EVALUATION, 7, 7),
    "in the evaluation of an epoch": (BY_EPOCH, EVALUATION, 7, 7),
    "in the evaluation of an epoch, none saved": (BY_EPOCH | {"save_strategy": "no"}, EVALUATION, 7, 7),
    "in the evaluation of an epoch that is saved": (BY_EPOCH | {"save_strategy": "epoch"}, EVALUATION, 7, 7),
    "in the evaluation of the last epoch": (BY_EPOCH | {"num_train_epochs": 1}, EVALUATION, 7, 7),
    "middle of an epoch that is scored": (BY_EPOCH, "on_step_begin", 3, 4),
    "last step of an epoch that is scored": (BY_EPOCH, "on_step_begin", 6, 7),
    "last step of an epoch that is scored and saved": (BY_EPOCH | {"save_strategy": "epoch"}, "on_step_begin", 6, 7),
    "last step of an epoch that is saved by steps": (BY_EPOCH | {"save_steps": 7}, "on_step_begin", 6, 7),
    "very last step": ({}, "on_step_begin", 13, 14),
    "very last step, scored": (BY_EPOCH, "on_step_begin", 13, 14),
    "very last step, middle of an epoch": (BY_EPOCH | {"max_steps": 10}, "on_step_begin", 9, 10),
    "saving nothing": ({"save_strategy": "no"}, "on_step_begin", 4, 5),
    "saving by epoch": ({"save_strategy": "epoch"}, "on_step_begin", 4, 5),
    "saving by epoch, last step": ({"save_strategy": "epoch"}, "on_step_begin", 6, 7),
    "saving the best, not one": (EVERY_TWO | {"save_strategy": "best"}, "on_step_begin", 4, 5),
    "saving the best, scored lower": (EVERY_TWO | {"save_strategy": "best"}, "on_step_begin", 5, 6),
    "saving the best, one": (EVERY_TWO | {"save_strategy": "best"}, "on_step_begin", 1, 2),
    "saving the best by epoch, scored lower": (
        BY_EPOCH | {"save_strategy": "best", "num_train_epochs": 3},
        "on_step_begin",
        13,
        14,
    ),
    "saving at this step": ({"save_steps": 3}, "on_step_begin", 5, 6),
    "workers": ({"dataloader_num_workers": 2}, "on_step_begin", 4, 5),
    "workers, second epoch": ({"dataloader_num_workers": 2}, "on_step_begin", 9, 10),
}


@pytest.mark.parametrize(("fields", "event", "done", "stop"), CASES.values(), ids=CASES)
def test_a_signal_ends_training_with_its_step_saved_and_nothing_lost(
    tmp_path, tokenizer, monkeypatch, fields, event, done, stop
):
    send = Send(event, done)
    score_worse_each_time(monkeypatch, send if event == EVALUATION else None)
    broken = trainer_of(tmp_path / "broken", tokenizer, send, saves_at_the_end=False, **fields)
    with pytest.raises(TrainingInterrupted) as caught:
        broken.train()
    assert (caught.value.code, broken.state.global_step) == (75, stop)
    assert f"SIGTERM ended training after step {stop} of {broken.state.max_steps}, which is saved" in str(caught.value)
    assert broken.args.save_total_limit == 2
    assert find_corruption(tmp_path / "broken" / f"checkpoint-{stop}") is None
    assert saved_steps(broken) == sorted(set(saved_steps(broken)))

    score_worse_each_time(monkeypatch)
    whole = trainer_of(tmp_path / "whole", tokenizer, **fields)
    whole.train()
    resumed = trainer_of(tmp_path / "broken", tokenizer, seed=5, **(fields | {"eval_on_start": False}))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.max_steps
    state, other = whole.model.state_dict(), resumed.model.state_dict()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []
    assert log_of(resumed) == log_of(whole)
    last = f"checkpoint-{whole.state.max_steps}"
    if fields.get("save_strategy") != "best":
        assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []


def test_a_signal_twice_in_a_row_and_again_loses_nothing(tmp_path, tokenizer):
    whole = trainer_of(tmp_path / "whole", tokenizer)
    whole.train()
    for part, step in enumerate((2, 7, 8, 12)):
        trainer = trainer_of(tmp_path / "broken", tokenizer, Send("on_step_begin", step), seed=part)
        with pytest.raises(TrainingInterrupted):
            trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == step + 1
    trainer_of(tmp_path / "broken", tokenizer, seed=9).train(resume_from_checkpoint=True)
    assert differences(tmp_path / "whole" / "checkpoint-14", tmp_path / "broken" / "checkpoint-14") == []


@pytest.mark.parametrize("limit", [1, 2, None])
def test_a_checkpoint_of_a_signal_is_kept_if_a_run_resumes_from_an_earlier_step(tmp_path, tokenizer, limit):
    fields = {"save_steps": 3, "save_total_limit": limit, "num_train_epochs": 1}
    trainer_of(tmp_path, tokenizer, **(fields | {"save_total_limit": None})).train()
    again = trainer_of(tmp_path, tokenizer, Send("on_step_begin", 3), **fields)
    with pytest.raises(TrainingInterrupted, match="after step 4 of 7, which is saved"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert find_corruption(tmp_path / "checkpoint-4") is None


@pytest.mark.parametrize("event", ["on_save", "on_epoch_end", "on_train_end"])
def test_a_signal_after_the_last_step_is_not_swallowed(tmp_path, tokenizer, event):
    trainer = trainer_of(tmp_path, tokenizer, Send(event, STEPS_OF_AN_EPOCH), num_train_epochs=1)
    with pytest.raises((TrainingInterrupted, NobodyListened)):
        trainer.train()
    assert find_corruption(tmp_path / f"checkpoint-{STEPS_OF_AN_EPOCH}") is None


def test_a_step_is_saved_once(tmp_path, tokenizer):
    for name, fields in {"steps": {"save_steps": 3}, "edge": {"save_steps": 7}, "no": {"save_strategy": "no"}}.items():
        step = 7 if name == "edge" else 3
        trainer = trainer_of(tmp_path / name, tokenizer, Send("on_step_begin", step - 1), **fields)
        with pytest.raises(TrainingInterrupted):
            trainer.train()
        assert saved_steps(trainer) == [step]
        assert [step_of(path) for path in checkpoints(tmp_path / name)] == [step]


def test_the_first_ctrl_c_saves_and_the_second_ends_at_once(tmp_path, tokenizer):
    first = trainer_of(tmp_path, tokenizer, Send("on_step_begin", 2, signal.SIGINT))
    with pytest.raises(TrainingInterrupted, match=r"^SIGINT ended training after step 3 of 14"):
        first.train()
    second = trainer_of(tmp_path, tokenizer, Send("on_step_begin", 4, signal.SIGINT, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 4
    assert second.args.save_total_limit == 2
    assert [step_of(path) for path in checkpoints(tmp_path)] == [3]


@pytest.fixture
def hangup():
    """The handler of SIGHUP as a shell leaves it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    after = signal.signal(signal.SIGHUP, before)
    assert after == signal.SIG_DFL


@pytest.mark.parametrize(("number", "name"), [(signal.SIGHUP, "SIGHUP"), (LAUNCHER_DIED, "The death of the launcher")])
def test_a_terminal_or_launcher_that_is_gone_ends_training_with_its_step_saved(
    tmp_path, tokenizer, hangup, capsys, number, name
):
    """Such a signal may come several times."""
    trainer = trainer_of(tmp_path, tokenizer, Send("on_step_begin", 2, number, number, number))
    with pytest.raises(TrainingInterrupted, match=f"^{name} ended training after step 3 of 14, which is saved"):
        trainer.train()
    assert find_corruption(tmp_path / "checkpoint-3") is None
    assert capsys.readouterr().err.count(f"{name}: finishing this step and saving.") == 1
    assert signal.getsignal(LAUNCHER_DIED) == signal.SIG_DFL


def test_a_training_under_nohup_continues(tmp_path, tokenizer, hangup):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert trainer_of(tmp_path, tokenizer, Send("on_step_begin", 2, signal.SIGHUP)).train().global_step == 14
    assert signal.signal(signal.SIGHUP, signal.SIG_DFL) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGINT, "press Ctrl-C again"), (signal.SIGTERM, "send SIGTERM again")]
)
def test_a_signal_is_acknowledged_at_once(tmp_path, tokenizer, capsys, number, again):
    said = []

    class Look(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            said.append(capsys.readouterr().err)

    trainer = trainer_of(tmp_path, tokenizer, Send("on_step_begin", 2, number))
    trainer.add_callback(Look())
    with pytest.raises(TrainingInterrupted):
        trainer.train()
    line = f"{number.name}: finishing this step and saving; {again} to end now."
    assert [line in part for part in said] == [False, False, True]


def test_a_signal_is_acknowledged_by_the_first_process_alone_and_whatever_stderr_is(monkeypatch, capfd):
    class Busy:
        def write(self, text):
            raise RuntimeError("reentrant call")

    class Gone:
        def write(self, text):
            raise OSError(5, "Input/output error")

    for stderr, is_first, expected in ((Busy(), True, 1), (Busy(), False, 0), (Gone(), True, 0), (None, True, 0)):
        monkeypatch.setattr("sys.stderr", stderr)
        with (
            pytest.raises(NobodyListened),
            PreemptionHandler().listening(SimpleNamespace(save_strategy="no"), is_first),
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        assert capfd.readouterr().err.count("SIGTERM: finishing this step and saving") == expected


def test_signals_of_two_kinds_are_not_a_second_one(tmp_path, tokenizer):
    both = Send("on_step_begin", 2, signal.SIGINT, signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        trainer_of(tmp_path, tokenizer, both).train()
    assert find_corruption(tmp_path / "checkpoint-3") is None


def test_a_second_sigterm_acts_as_before_training(tmp_path, tokenizer):
    with pytest.raises(NobodyListened):
        trainer_of(tmp_path, tokenizer, Send("on_step_begin", 2, signal.SIGTERM, signal.SIGTERM)).train()


def test_an_exception_gives_the_handlers_back(tmp_path, tokenizer):
    class Fail(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            assert signal.getsignal(signal.SIGTERM) is not nobody_listened
            raise NobodyListened

    trainer = trainer_of(tmp_path, tokenizer)
    trainer.add_callback(Fail())
    with pytest.raises(NobodyListened):
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is nobody_listened
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_one_trainer_can_be_interrupted_and_train_again(tmp_path, tokenizer):
    trainer = trainer_of(tmp_path, tokenizer, send := Send("on_step_begin", 2))
    with pytest.raises(TrainingInterrupted):
        trainer.train()
    trainer.remove_callback(send)
    assert trainer.train(resume_from_checkpoint=True).global_step == 14


def test_training_outside_the_main_thread_takes_no_signals(tmp_path, tokenizer):
    seen, ended = [], []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(signal.getsignal(signal.SIGTERM))

    trainer = trainer_of(tmp_path, tokenizer)
    trainer.add_callback(Look())
    thread = threading.Thread(target=lambda: ended.append(trainer.train().global_step))
    thread.start()
    thread.join()
    assert ended == [14]
    assert seen == [nobody_listened] * 14


def test_the_message_names_the_signal_or_another_process():
    preemption, args = PreemptionHandler(), SimpleNamespace(save_strategy="best")
    state = TrainerState(global_step=3, max_steps=7)
    with pytest.raises(NobodyListened), preemption.listening(args):  # noqa: PT012
        assert preemption.report(state).startswith("A signal to another process ended training after step 3 of 7")
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.report(state).startswith("SIGTERM ended training after step 3 of 7, which is not saved")
        assert signal.getsignal(signal.SIGTERM) is nobody_listened
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    preemption.saved_step = 3
    assert "after step 3 of 7, which is saved; resume with `resume_from_checkpoint` true." in preemption.report(state)
    with preemption.listening(args):
        assert preemption.report(state).startswith("A signal to another process")


@pytest.mark.slow
def test_a_signal_to_the_whole_group_ends_the_program_with_75_and_no_traceback(tmp_path, encoder_dir):
    program = """
import os, signal, sys
from transformers import BertTokenizer
from signals import Send
from signals import trainer_of
send = Send("on_step_begin", 4)
send.strike = lambda step: os.killpg(0, signal.SIGTERM) if step == 4 else None
trainer_of(sys.argv[1], BertTokenizer.from_pretrained(sys.argv[2]), send, dataloader_num_workers=2).train()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), str(encoder_dir)],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=180,
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{HELPERS}"},
        check=False,
    )
    assert ended.returncode == 75, ended.stderr
    assert "Traceback" not in ended.stderr
    assert find_corruption(tmp_path / "checkpoint-5") is None


def note_worker(worker_id: int) -> None:
    os.environ["WORKER_THAT_WAS_SET_UP"] = str(worker_id)


class Struck(Dataset):
    """Each row is struck by both signals, and tells the seconds of life left and which worker it is."""

    def __len__(self):
        return 4

    def __getitem__(self, row):
        for number in (*SIGNALS, signal.SIGHUP, LAUNCHER_DIED):
            os.kill(os.getpid(), number)
        return signal.alarm(0), int(os.environ.get("WORKER_THAT_WAS_SET_UP", -1))


@pytest.mark.parametrize(("worker_init_fn", "workers"), [(note_worker, [0, 1, 0, 1]), (None, [-1] * 4)])
def test_a_worker_outlives_signals_by_a_minute_at_most(worker_init_fn, workers):
    stay = pickle.loads(pickle.dumps(IgnoreSignalsWorkerInit(worker_init_fn)))
    rows = list(DataLoader(Struck(), batch_size=None, num_workers=2, worker_init_fn=stay))
    assert [worker for _, worker in rows] == workers
    assert all(1 <= seconds <= 60 for seconds, _ in rows)
