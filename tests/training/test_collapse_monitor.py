"""The collapse alarm, on trainings that really collapse and on ones that do not."""

import json
import logging
from pathlib import Path

import pytest
import torch
from builders import sentences, tiny_model, write_tokenizer
from processes import start_processes
from safetensors.torch import load_file
from torch.utils.data import IterableDataset
from trainers import differing, make_trainer, training_arguments
from transformers import TrainerCallback, TrainerState

import run_mocose
from mocose_hf import (
    CollapseError,
    CollapseMonitor,
    MoCoSEForPreTraining,
    MoCoSETrainer,
    load_tokenizer,
    read_sentences,
)
from mocose_hf.evaluation import evaluate_pairs, read_stsb
from mocose_hf.training.callbacks.collapse_monitor import measure_spread

QUANTITIES = ("embedding_std", "embedding_uniformity", "embedding_rank")
SPREAD_START = {"initializer_range": 0.2}
"""A random BERT whose sentences differ from the start, as those of a trained one do."""

COLLAPSING = {"ema_decay": 0.0, "ema_decay_end": 0.0, "learning_rate": 1e-2}
"""The paper's collapse (Figures 5 and 6): target = online branch. Goes with a model without predictor."""


def collapsing_model() -> MoCoSEForPreTraining:
    return tiny_model(seed=1, encoder=SPREAD_START, num_predictor_layers=0, queue_size=64)


def healthy_model(**config) -> MoCoSEForPreTraining:
    return tiny_model(encoder=SPREAD_START, queue_size=64, **config)


def train(output_dir, tokenizer, model, *callbacks, resume=None, **fields):
    settings = {"per_device_train_batch_size": 16, "max_steps": 60, "collapse_check_steps": 5, "logging_steps": 10}
    trainer = make_trainer(output_dir, tokenizer, model, count=200, callbacks=list(callbacks), **settings | fields)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def alarm_of(trainer) -> CollapseMonitor:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, CollapseMonitor))


def logged(trainer) -> list[dict]:
    return [{q: line[q] for q in QUANTITIES} for line in trainer.state.log_history if "embedding_std" in line]


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The alarm's warnings so far."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("mocose_hf.training.callbacks.collapse_monitor"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return lambda: [
        r.getMessage() for r in caplog.records if r.name == "mocose_hf.training.callbacks.collapse_monitor"
    ]


class SpreadOfOtherSentences(TrainerCallback):
    """Measure, after each step and without the alarm's code, how far sentences it does not watch lie apart."""

    def __init__(self, tokenizer):
        self.tokenizer, self.distances = tokenizer, []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        unit = model.encode(sentences(20, seed=77), self.tokenizer, normalize_embeddings=True)
        self.distances.append((1 - unit @ unit.T).sum().item() / (20 * 19))

    def set_in(self) -> int:
        """Return the first step from which on all cosines are at least 0.99 on average."""
        return max(i + 1 for i, distance in enumerate(self.distances) if distance >= 0.01) + 1


# What is measured


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], (1.0, 1.0)),
        ([[2.0, 0.0], [-3.0, 0.0], [0.0, 4.0], [0.0, -5.0]], (1.0, 1.0)),
        ([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], (0.5 * 2**0.5, 0.5)),
        ([[0.6, 0.8]] * 4, (0.0, 0.0)),
    ],
    ids=["even", "of any length", "on a line", "all equal"],
)
def test_spread_worked_by_hand(rows, expected):
    spread = measure_spread(torch.tensor(rows))
    assert (spread["embedding_std"], spread["embedding_rank"]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (32, 384)])
def test_spread_of_random_directions_is_near_1_whatever_the_shape(shape):
    spread = measure_spread(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert 0.9 < spread["embedding_std"] <= 1.0
    assert 0.9 < spread["embedding_rank"] <= 1.0


# The paper's collapse


def test_collapse_is_reported_once_within_100_steps_of_setting_in(tmp_path, tokenizer, warnings):
    witness = SpreadOfOtherSentences(tokenizer)
    train(tmp_path, tokenizer, collapsing_model(), witness, **COLLAPSING | {"collapse_check_steps": 20})
    assert witness.distances[0] > 0.02
    assert witness.set_in() < 60

    (message,) = warnings()
    assert "\n" not in message
    step = int(message.split("step ")[1].split(":")[0])
    assert step - witness.set_in() < 100
    assert all(part in message for part in ("`embedding_std` is", "healthy", "ema_decay", "predictor", "rate"))


@pytest.mark.parametrize(
    ("ranks", "reported_at"),
    [([0.9, 0.2, 0.5, 0.2, 0.2], 4), ([0.9, 0.2, 0.2, 0.2], 3), ([0.9, 0.2, 0.5, 0.5, 0.2], None)],
    ids=["a pause of one check", "no pause", "a pause of two checks"],
)
def test_a_collapse_is_reported_if_two_of_three_checks_find_little(
    tmp_path, warnings, monkeypatch, ranks, reported_at
):
    found = iter(ranks)
    monkeypatch.setattr(CollapseMonitor, "_measure", lambda *_: {"embedding_rank": next(found)})
    args = training_arguments(tmp_path, collapse_check_steps=1)
    alarm = CollapseMonitor()
    alarm._probe = sentences(8)
    for check in range(1, len(ranks) + 1):
        alarm.on_step_end(args, TrainerState(global_step=check), None, model=MoCoSEForPreTraining)
    assert alarm.alarm_step == reported_at
    assert len(warnings()) == (reported_at is not None)


def test_dropout_hides_the_collapse_from_the_outputs_of_the_step(tmp_path, tokenizer):
    model = collapsing_model()
    outputs = []
    model.register_forward_hook(lambda module, args, output: outputs.append(output))
    trainer = train(tmp_path, tokenizer, model, **COLLAPSING)
    assert logged(trainer)[-1]["embedding_std"] < 0.02
    assert measure_spread(outputs[-1].query_embeddings.detach())["embedding_std"] > 0.2


def test_stop_ends_the_run_and_leaves_its_checkpoints(tmp_path, tokenizer):
    saving = {"save_strategy": "steps", "save_steps": 5, "save_total_limit": None}
    with pytest.raises(CollapseError, match=r"collapsed at step \d+: `embedding_") as raised:
        train(tmp_path, tokenizer, collapsing_model(), stop_on_collapse=True, **COLLAPSING, **saving)
    step = int(str(raised.value).split("step ")[1].split(":")[0])
    assert [p.name for p in sorted(tmp_path.iterdir())] == sorted(f"checkpoint-{s}" for s in range(5, step, 5))
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path / "checkpoint-5" / "model.safetensors").values())


def test_a_collapse_that_was_reported_before_the_break_stops_a_resumed_run(tmp_path, tokenizer, warnings):
    saving = {"save_strategy": "steps", "save_steps": 30, "max_steps": 40}
    train(tmp_path, tokenizer, collapsing_model(), **COLLAPSING, **saving)
    assert len(warnings()) == 1
    options = COLLAPSING | saving | {"resume": str(tmp_path / "checkpoint-30"), "stop_on_collapse": True}
    with pytest.raises(CollapseError, match="at step 35"):
        train(tmp_path, tokenizer, collapsing_model(), **options)


def test_a_total_collapse_by_hand_is_caught(tmp_path, tokenizer, warnings):
    class MakeAllEqual(TrainerCallback):
        @torch.no_grad()
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 20:
                model.mocose.encoder.embeddings.word_embeddings.weight.zero_()

    train(tmp_path, tokenizer, healthy_model(), MakeAllEqual(), learning_rate=0.0)
    assert [message.split(":")[0].split()[-1] for message in warnings()] == ["30"]


def test_a_second_collapse_is_reported_after_the_first_is_over(tmp_path, tokenizer, warnings):
    class TwiceAllEqual(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            weight = model.mocose.encoder.embeddings.word_embeddings.weight
            with torch.no_grad():
                if state.global_step == 0:
                    self.before = weight.clone()
                weight.copy_(self.before * float(state.global_step % 30 < 10))

    train(tmp_path, tokenizer, healthy_model(), TwiceAllEqual(), learning_rate=0.0)
    assert [message.split(":")[0].split()[-1] for message in warnings()] == ["20", "50"]


# Healthy training


@pytest.mark.parametrize(("pooling_mode", "seed"), [("cls", 1), ("mean", 2), ("max", 3)])
def test_healthy_training_raises_no_alarm(tmp_path, tokenizer, warnings, pooling_mode, seed):
    model = healthy_model(pooling_mode=pooling_mode, seed=seed)
    trainer = train(tmp_path, tokenizer, model, learning_rate=1e-3, seed=seed, stop_on_collapse=True)
    assert trainer.state.global_step == 60
    assert len(logged(trainer)) == 6
    assert warnings() == []


def test_small_batches_raise_no_alarm(tmp_path, tokenizer, warnings):
    trainer = train(tmp_path, tokenizer, healthy_model(), per_device_train_batch_size=8, stop_on_collapse=True)
    assert len(logged(trainer)) == 6
    assert warnings() == []


def test_small_batches_are_enough_to_catch_a_collapse(tmp_path, tokenizer, warnings):
    train(tmp_path, tokenizer, collapsing_model(), per_device_train_batch_size=8, **COLLAPSING)
    assert len(warnings()) == 1


def test_an_encoder_that_tells_nothing_apart_from_the_start_raises_no_alarm(tmp_path, tokenizer, warnings):
    trainer = train(tmp_path, tokenizer, tiny_model(), learning_rate=1e-3)
    assert logged(trainer)[0]["embedding_std"] < 0.01
    assert warnings() == []


@pytest.mark.parametrize(
    ("texts", "batch", "accumulation", "watched"),
    [
        (sentences(64), 4, 2, True),
        (sentences(64), 7, 1, False),
        (sentences(7), 4, 2, False),
        (sentences(7) * 8, 8, 1, False),
    ],
    ids=["enough", "too small a step", "too few", "too few different ones"],
)
def test_too_few_sentences_to_tell_are_not_watched(tmp_path, tokenizer, texts, batch, accumulation, watched):
    fields = {"max_steps": 2, "logging_steps": 1, "collapse_check_steps": 1}
    fields |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(tmp_path, tokenizer, collapsing_model(), texts={"text": texts}, **fields)
    trainer.train()
    assert bool(logged(trainer)) == watched


def test_stopping_that_cannot_work_is_reported(tmp_path, tokenizer, warnings):
    trainer = make_trainer(tmp_path, tokenizer, texts={"text": sentences(7)}, stop_on_collapse=True)
    trainer.train()
    assert len(warnings()) == 1
    with pytest.raises(ValueError, match="`collapse_check_steps` is 0"):
        make_trainer(tmp_path, tokenizer, stop_on_collapse=True, collapse_check_steps=0)
    with pytest.raises(ValueError, match="`collapse_check_steps` is at least 0"):
        make_trainer(tmp_path, tokenizer, collapse_check_steps=-1)


# Log, bits and state


def test_log_has_each_measurement_once(tmp_path, tokenizer):
    trainer = train(tmp_path, tokenizer, healthy_model(), logging_steps=5, collapse_check_steps=20)
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in lines if "embedding_std" in line] == [20, 40, 60]
    model = trainer.model
    probe = trainer.train_dataset[:192:12]["text"]
    spread = measure_spread(model.encode(probe, tokenizer, max_seq_length=32))
    assert {q: lines[-1][q] for q in QUANTITIES} == pytest.approx(spread, abs=1e-5)


def test_the_alarm_changes_no_bit_of_the_training(tmp_path, tokenizer):
    watched = train(tmp_path / "a", tokenizer, healthy_model(), collapse_check_steps=1)
    alone = train(tmp_path / "b", tokenizer, healthy_model(), collapse_check_steps=0)
    assert len(logged(watched)) == 6
    assert logged(alone) == []
    assert differing(watched.model.state_dict(), alone.model.state_dict()) == []
    assert watched.model.training == alone.model.training


@pytest.mark.parametrize(("checkpoint", "restore"), [(10, False), (12, False), (12, True), (20, False)])
def test_resumed_run_alarms_at_the_step_of_an_uninterrupted_one(tmp_path, tokenizer, warnings, checkpoint, restore):
    saving = {"save_strategy": "steps", "save_steps": checkpoint, "save_total_limit": None, "max_steps": 26}
    whole = train(tmp_path / "whole", tokenizer, collapsing_model(), **COLLAPSING, **saving)
    steps_of_whole = [message.split(":")[0] for message in warnings()]
    start = str(tmp_path / "whole" / f"checkpoint-{checkpoint}")
    saved = json.loads(Path(start, "trainer_state.json").read_text())["stateful_callbacks"]["CollapseMonitor"]
    assert saved["attributes"]["best"].keys() == set(QUANTITIES)
    resumed = train(
        tmp_path / "resumed",
        tokenizer,
        collapsing_model(),
        resume=start,
        restore_callback_states_from_checkpoint=restore,
        **COLLAPSING,
        **saving,
    )
    again = [message.split(":")[0] for message in warnings()][len(steps_of_whole) :]
    assert len(steps_of_whole) == 1
    assert again == [told for told in steps_of_whole if int(told.split()[-1]) > checkpoint]
    assert logged(resumed) == logged(whole)
    assert alarm_of(resumed).state() == alarm_of(whole).state()
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []


def test_a_second_training_starts_anew(tmp_path, tokenizer):
    trainer = train(tmp_path, tokenizer, healthy_model(), max_steps=5)
    alarm_of(trainer).best = {"embedding_std": 9.0}
    alarm_of(trainer).warned = True
    trainer.train()
    state = alarm_of(trainer).state()["attributes"]
    assert state["best"]["embedding_std"] < 1
    assert not state["warned"]


def test_numbers_gone_bad_are_left_to_the_trainer(tmp_path, tokenizer):
    class Break(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            model.pooler.weight.grad.fill_(torch.nan)
            model.mocose.encoder.embeddings.word_embeddings.weight.grad.fill_(torch.nan)

    with pytest.raises(FloatingPointError, match="step 1"):
        train(tmp_path, tokenizer, healthy_model(), Break(), collapse_check_steps=1, stop_on_collapse=True)


def test_sentences_of_a_stream_are_watched_too(tmp_path, tokenizer):
    class Texts(IterableDataset):
        def __iter__(self):
            return ({"text": text} for text in sentences(40))

    trainer = MoCoSETrainer(
        model=tiny_model(),
        args=training_arguments(
            tmp_path, per_device_train_batch_size=8, max_steps=2, collapse_check_steps=1, logging_steps=1
        ),
        train_dataset=Texts(),
        processing_class=tokenizer,
    )
    trainer.train()
    assert all("embedding_rank" in line for line in trainer.state.log_history if "loss" in line)


# The command, several processes, real text


def test_command_that_collapses_ends_with_exit_code_1_and_one_line(tmp_path, monkeypatch, capsys):
    write_tokenizer(tmp_path / "encoder")
    collapsing_model().mocose.encoder.save_pretrained(tmp_path / "encoder")
    (tmp_path / "text.txt").write_text("\n".join(sentences(200)) + "\n", encoding="utf-8")
    options = {"model_name_or_path": "encoder", "train_file": "text.txt", "output_dir": "out", "max_steps": 60}
    options |= {"num_predictor_layers": 0, "per_device_train_batch_size": 16, "collapse_check_steps": 5}
    options |= {"stop_on_collapse": "true", "use_cpu": "true", "disable_tqdm": "true", "queue_size": 64}
    options |= {"queue_init_size": 4} | COLLAPSING
    argv = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.chdir(tmp_path)
    assert run_mocose.main(argv) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("run_mocose.py: The sentence embeddings have collapsed at step ")


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path, encoder_dir):
    start_processes("collapse_on_processes.py", 2, encoder_dir, tmp_path, log_folder=tmp_path)
    told = [(tmp_path / f"rank{rank}.txt").read_text() for rank in range(2)]
    assert told[0] == told[1]
    assert "2 processes: The sentence embeddings have collapsed at step " in told[0]


class ScoreOfDevelopmentPairs(TrainerCallback):
    def __init__(self, shared_data, tokenizer):
        self.pairs, self.tokenizer = read_stsb(shared_data / "senteval").select(range(150)), tokenizer
        self.scores = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % 20 == 0 or state.global_step == 1:
            self.scores[state.global_step] = evaluate_pairs(model, self.tokenizer, self.pairs)["dev_spearman"]


@pytest.mark.slow
def test_collapse_of_a_trained_encoder_on_real_text_is_reported_in_time(tmp_path, shared_data, warnings):
    encoder = shared_data.parent / "models" / "wiki-mini"
    if not encoder.is_dir():
        pytest.skip("there is no models/wiki-mini beside the folder that MOCOSE_DATA names")
    torch.manual_seed(42)
    model = MoCoSEForPreTraining.from_encoder_pretrained(encoder, num_predictor_layers=0)
    tokenizer = load_tokenizer(encoder)
    witness = ScoreOfDevelopmentPairs(shared_data, tokenizer)
    texts = {"text": read_sentences(shared_data / "wiki" / "wiki20k.txt").dataset["text"][:2000]}
    fields = {"per_device_train_batch_size": 16, "max_steps": 160, "learning_rate": 1e-3, "logging_steps": 20}
    fields |= {"lr_scheduler_type": "constant", "ema_decay": 0.0, "ema_decay_end": 0.0}
    trainer = make_trainer(tmp_path, tokenizer, model, texts=texts, callbacks=[witness], **fields)
    trainer.train()

    set_in = min(step for step, score in witness.scores.items() if score < witness.scores[1] / 2)
    (message,) = warnings()
    assert int(message.split("step ")[1].split(":")[0]) - set_in < 100
