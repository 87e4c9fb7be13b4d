"""Telemetry of the queue: true to what the batch saw, without a trace in the training, whole after interruptions."""

import copy
import json
import math
import random
import sys

import numpy as np
import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset, IterableDataset
from processes import start_processes
from resuming import run as run_with_kills
from safetensors.torch import load_file
from slow_queue_metrics import slow_weights
from trainers import BATCH, differing, make_trainer, training_arguments
from transformers import TrainerCallback

import run_mocose
from mocose_hf import MoCoSETrainer, QueueMonitor, cosine_ema_decay
from mocose_hf.errors import SaveError, install_command
from mocose_hf.models import modeling_mocose
from mocose_hf.models.views import View
from mocose_hf.training.queue_monitor.callback import LINES_FILE, LOGGED, PLOT_FILE

WIDE = {"queue_size": 22, "queue_init_size": 6, "temperature": 0.2}
"""A queue that random rows, young keys and old ones share, and that no batch divides."""


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch):
    """Leave out the figures, which take longer than these trainings, unless a test is about them."""
    if "figure" not in request.node.name and "command" not in request.node.name:
        monkeypatch.setattr("mocose_hf.training.queue_monitor.callback.plot_queue_monitor", lambda lines, path: False)


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"queue_weight": 0.0, "relation_weight": 1.0}, "no negatives"), ({"queue_positives": 2}, "are positives too")],
)
def test_figures_of_negatives_are_skipped_if_the_loss_is_another(tmp_path, tokenizer, config, reason):
    make_trainer(tmp_path, tokenizer, tiny_model(**config), max_steps=3, queue_monitor_steps=1).train()
    record = lines_of(tmp_path)[-1]
    assert reason in record["skipped"]["gradient"]
    assert "effective_negatives" not in record
    assert record["queue_fill"] == 12


def test_figures_of_negatives_are_skipped_with_hard_negatives(tmp_path, tokenizer):
    model = tiny_model(queue_weight=0.0, in_batch_weight=1.0, in_batch_queue="target")
    texts = {"text": sentences(24), "negative_text": sentences(24, seed=1)}
    make_trainer(tmp_path, tokenizer, model, texts=texts, max_steps=3, queue_monitor_steps=1).train()
    record = lines_of(tmp_path)[-1]
    assert record["skipped"]["gradient"] == "hard negatives of the batch are candidates too"
    assert "effective_negatives" not in record


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / LINES_FILE).read_text().splitlines()]


class Witness(TrainerCallback):
    """Keep what each step that is due saw: the model as it was, and the outputs of the last forward."""

    def __init__(self, model):
        self.models, self.outputs = {}, {}
        model.register_forward_hook(lambda module, inputs, output: setattr(self, "last", output))

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        step = state.global_step + 1
        if step % args.queue_monitor_steps:
            return
        parts = {name: value.detach().clone() for name, value in self.last.items() if value is not None}
        self.outputs[step] = type(self.last)(**parts)
        hooks, model._forward_hooks = model._forward_hooks, type(model._forward_hooks)()
        self.models[step] = copy.deepcopy(model)
        model._forward_hooks = hooks


def train(folder, tokenizer, model=None, texts=None, **fields):
    """Train 8 steps with a look at every second; return the trainer, its witness and its lines."""
    model = tiny_model(**WIDE) if model is None else model
    witness = Witness(model)
    settings = {"queue_monitor_steps": 2, "max_steps": 8} | fields
    trainer = make_trainer(folder, tokenizer, model, texts=texts, callbacks=[witness], **settings)
    trainer.train()
    return trainer, witness, lines_of(folder)


def slow_record(model, outputs, step: int, keys_per_step: int) -> dict:
    """What a line says of age and gradient, by going through slots and logits one by one."""
    queue, in_batch = model.queue, len(outputs.labels)
    count = math.ceil(queue.size / keys_per_step)
    groups, ages = [count + 1] * in_batch, []
    for made in queue.enqueued_at.tolist():
        age = step - made
        groups.append(-1 if made < 0 else count if made == 0 else min(age, count) - 1)
        ages += [age] if made > 0 else []
    ids = outputs.sentence_ids.tolist()
    lists = (outputs.labels.tolist(), groups, count + 3, ids, ids + queue.row_ids.tolist())
    weights = slow_weights(outputs.logits.double(), *lists)
    shares = weights["shares"]
    return {
        "initial_rows": groups.count(count),
        "rows_by_age": [groups.count(group) for group in range(count)],
        "first_ages": list(range(1, count + 1)),
        "least_and_greatest_age": [min(ages), max(ages)],
        "gradient_share_by_age": shares[:count],
        "initial_gradient_share": shares[count],
        "in_batch_gradient_share": shares[count + 1],
        "queue_gradient_share": sum(shares[: count + 1]),
        "effective_negatives": weights["effective"],
        "negatives": weights["count"],
        "false_negative_rate": weights["false_negative_rate"],
        "false_negative_gradient_share": weights["false_negative_share"],
    }


@torch.no_grad()
def slow_key(model, tokenizer, text: str) -> torch.Tensor:
    """The key of a sentence alone, with dropout off."""
    model.eval()
    return model.encode_keys(View(**tokenizer(text, return_tensors="pt", truncation=True, max_length=32)))[0]


# What is measured


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_line_says_what_a_loop_over_slots_and_logits_finds(tmp_path, tokenizer, accumulation):
    fields = {"gradient_accumulation_steps": accumulation, "num_train_epochs": 4}
    _, witness, lines = train(tmp_path, tokenizer, **fields)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        step = line["step"]
        expected = slow_record(witness.models[step], witness.outputs[step], step, BATCH * accumulation)
        youngest, oldest = expected.pop("least_and_greatest_age")
        assert (line["age_quantiles"][0], line["age_quantiles"][-1]) == (youngest, oldest)
        for name, value in expected.items():
            assert line[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
        assert line["queue_fill"] == int(witness.models[step].queue.num_filled)
        assert line["skipped"] == {}
    assert lines[0]["initial_rows"] == 6
    assert lines[-1]["initial_rows"] == 0
    assert all(0 < line["key_drift"] < 1 for line in lines)


def test_false_negatives_are_those_of_equal_ids(tmp_path, tokenizer):
    texts = {"text": sentences(24), "sentence_id": [i // 3 for i in range(24)]}
    _, witness, lines = train(tmp_path, tokenizer, texts=texts)
    for line in lines:
        expected = slow_record(witness.models[line["step"]], witness.outputs[line["step"]], line["step"], BATCH)
        for name in ("false_negative_rate", "false_negative_gradient_share"):
            assert line[name] == pytest.approx(expected[name], rel=1e-5)
        assert "no key in the queue" in line["skipped"]["key_drift"]  # an id of three sentences names none
    assert lines[-1]["false_negative_rate"] > 0


def test_drift_is_the_cosine_of_each_key_with_that_of_its_sentence_now(tmp_path, tokenizer):
    made = sentences(24)
    ids = torch.randperm(24, generator=torch.Generator().manual_seed(5)) + 100
    texts = {"text": made, "sentence_id": ids.tolist()}
    _, witness, lines = train(tmp_path, tokenizer, texts=texts)
    text_of = dict(zip(ids.tolist(), made, strict=True))
    for line in lines:
        model, outputs = witness.models[line["step"]], witness.outputs[line["step"]]
        queue, by_age = model.queue, {}
        for slot, (made_at, sentence) in enumerate(
            zip(queue.enqueued_at.tolist(), queue.row_ids.tolist(), strict=True)
        ):
            if made_at > 0:
                cosine = queue.rows[slot] @ slow_key(model, tokenizer, text_of[sentence])
                by_age.setdefault(line["step"] - made_at, []).append(cosine.item())
        used = {age: len(by_age.get(age, ())) for age in line["first_ages"]}
        sampled = line["sampled_by_age"]
        assert sum(sampled) == min(sum(used.values()), 12 - 2)  # three of a sentence of the step, of which the batch
        for age, mean, number in zip(line["first_ages"], line["key_drift_by_age"], sampled, strict=True):
            assert number <= used[age]
            if number == used[age] > 0:
                assert mean == pytest.approx(sum(by_age[age]) / number, abs=1e-5)
            assert (mean is None) == (number == 0)
        means = [(m, n) for m, n in zip(line["key_drift_by_age"], sampled, strict=True) if n]
        assert line["key_drift"] == pytest.approx(sum(m * n for m, n in means) / sum(sampled), rel=1e-5)
        places = [0, 3]
        keys = [slow_key(model, tokenizer, text_of[outputs.sentence_ids[i].item()]) for i in places]
        cosines = [(outputs.key_embeddings[i] @ key).item() for i, key in zip(places, keys, strict=True)]
        assert line["batch_key_drift"] == pytest.approx(sum(cosines) / 2, abs=1e-5)
    assert any(n == used[age] > 0 for age, n in zip(lines[0]["first_ages"], lines[0]["sampled_by_age"], strict=True))


def test_without_dropout_and_with_a_target_that_stands_still_nothing_drifts(tmp_path, tokenizer):
    still = {"encoder_dropout_prob": 0.0, "head_dropout_prob": 0.0, "share_embeddings": False}
    fields = {"ema_decay": 1.0, "padding_free": True}
    texts = {"text": sentences(24), "key_text": sentences(24, seed=4)}
    _, _, lines = train(tmp_path, tokenizer, tiny_model(**WIDE, **still), texts, **fields)
    for line in lines:
        assert line["key_drift"] == pytest.approx(1, abs=1e-5)
        assert line["batch_key_drift"] == pytest.approx(1, abs=1e-5)
        assert "d_trace" not in line
    _, _, moving = train(tmp_path / "b", tokenizer, tiny_model(**WIDE, **still), texts, learning_rate=1e-2)
    drift = moving[-1]["key_drift_by_age"]
    assert moving[-1]["batch_key_drift"] == pytest.approx(1, abs=1e-5)
    assert drift[0] > drift[-1]
    assert drift[-1] < 0.999


def test_distances_are_those_of_the_moment_of_the_batch(tmp_path, tokenizer):
    _, witness, lines = train(tmp_path, tokenizer, ema_decay=0.75)
    for line in lines:
        eta = cosine_ema_decay(line["step"], 8, 0.75)
        assert line["d_trace"] == 4 + 22 / BATCH
        assert line["ema_decay"] == pytest.approx(eta, rel=1e-6)
        fill = int(witness.models[line["step"]].queue.num_filled)
        if eta < 1:
            assert line["current_d_trace"] == pytest.approx(1 / (1 - eta) + fill / BATCH, rel=1e-6)
        else:
            assert "current_d_trace" not in line


def test_a_queue_without_logits_gives_the_same_line(tmp_path, tokenizer, monkeypatch):
    _, _, held = train(tmp_path / "held", tokenizer)
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", 20)
    _, witness, again = train(tmp_path / "again", tokenizer)
    assert witness.outputs[2].logits is None
    for first, second in zip(held, again, strict=True):
        assert first.keys() == second.keys()
        assert first["skipped"] == second["skipped"] == {}
        for name in first.keys() - {"skipped"}:
            pair = (line[name] if isinstance(line[name], list) else [line[name]] for line in (second, first))
            for value, expected in zip(*pair, strict=True):
                assert value == (None if expected is None else pytest.approx(expected, rel=1e-4)), name


def test_a_loss_that_the_rows_of_the_queue_do_not_explain_is_not_attributed_to_them(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", 20)
    contrast = modeling_mocose.MoCoSEForPreTraining.contrast

    def weighted(model, *args):
        with monkeypatch.context() as patch:
            patch.setattr(
                type(model.queue), "log_weights", lambda queue, *policy: torch.full((queue.size,), math.log(1e-3))
            )
            return contrast(model, *args)

    monkeypatch.setattr(modeling_mocose.MoCoSEForPreTraining, "contrast", weighted)
    _, _, lines = train(tmp_path, tokenizer)
    assert all("the loss does not contrast all rows" in line["skipped"]["gradient"] for line in lines)
    assert not any("effective_negatives" in line or "gradient_share_by_age" in line for line in lines)
    assert all(line["key_drift"] for line in lines)


def test_negatives_in_place_of_the_rows_have_no_age(tmp_path, tokenizer, monkeypatch):
    contrast = modeling_mocose.MoCoSEForPreTraining.contrast

    def of_three(model, queries, keys, ids=None):
        output = contrast(model, queries, keys, ids)
        output.logits = output.logits[:, : len(queries) + 3]
        output.loss = torch.nn.functional.cross_entropy(output.logits, output.labels)
        return output

    monkeypatch.setattr(modeling_mocose.MoCoSEForPreTraining, "contrast", of_three)
    _, witness, lines = train(tmp_path, tokenizer)
    for line in lines:
        outputs = witness.outputs[line["step"]]
        groups, ids = [0] * BATCH + [1] * 3, outputs.sentence_ids.tolist()
        expected = slow_weights(outputs.logits.double(), range(BATCH), groups, 2, ids, [*ids, -1, -1, -1])
        assert line["queue_gradient_share"] == pytest.approx(expected["shares"][1], rel=1e-5)
        assert line["effective_negatives"] == pytest.approx(expected["effective"], rel=1e-5)
        assert "took 3 negatives from the queue, not its 22 slots" in line["skipped"]["gradient_share_by_age"]
        assert "gradient_share_by_age" not in line


def test_without_a_queue_there_are_in_batch_figures(tmp_path, tokenizer):
    trainer, _, lines = train(tmp_path, tokenizer, tiny_model(queue_size=0, queue_init_size=0))
    for line in lines:
        assert (line["queue_fill"], line["first_ages"], line["age_quantiles"]) == (0, [], None)
        assert (line["in_batch_gradient_share"], line["negatives"]) == (1.0, BATCH - 1)
        assert 1 <= line["effective_negatives"] <= BATCH - 1
        assert line["skipped"] == {}
        assert not {"queue_gradient_share", "gradient_share_by_age", "key_drift"} & line.keys()
    assert any("effective_negatives" in line for line in trainer.state.log_history)


# What it needs, and what is said where it is not there


def test_of_a_stream_the_drift_is_skipped_and_that_is_reported_once(tmp_path, tokenizer, told):
    rows = [{"text": text, "sentence_id": i} for i, text in enumerate(sentences(24))]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    args = training_arguments(tmp_path, queue_monitor_steps=2, max_steps=6)
    MoCoSETrainer(tiny_model(), args, stream, processing_class=tokenizer).train()
    said = [record.getMessage() for record in told.records if "key_drift" in record.getMessage()]
    assert len(said) == 1
    assert "is a stream" in said[0]
    for line in lines_of(tmp_path):
        assert "is a stream" in line["skipped"]["key_drift"]
        assert "key_drift" not in line
        assert line["false_negative_rate"] is not None


def test_of_rows_without_text_or_a_tokenizer_the_drift_is_skipped(tmp_path, tokenizer, told):
    ids = [tokenizer(text, padding="max_length", max_length=12)["input_ids"] for text in sentences(24)]
    dataset = Dataset.from_dict({"input_ids": ids})
    for number, processing_class in enumerate([tokenizer, None]):
        args = training_arguments(tmp_path / str(number), queue_monitor_steps=2, max_steps=4)
        collator = lambda rows: {"input_ids": torch.tensor([row["input_ids"] for row in rows])}  # noqa: E731
        MoCoSETrainer(tiny_model(), args, dataset, None, processing_class, collator).train()
        (line, _) = lines_of(tmp_path / str(number))
        assert ("no column `text`", "there is no tokenizer")[number] in line["skipped"]["key_drift"]
        assert line["false_negative_rate"] is None
        assert line["effective_negatives"] > 0


def test_numbers_that_are_not_finite_leave_no_line(tmp_path, tokenizer):
    class Poison(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                model.mocose.encoder.embeddings.word_embeddings.weight.data[5:] = math.nan

    trainer = make_trainer(tmp_path, tokenizer, callbacks=[Poison()], queue_monitor_steps=2)
    with pytest.raises(FloatingPointError):
        trainer.train()
    assert [line["step"] for line in lines_of(tmp_path)] == [2]


def test_a_line_that_cannot_be_written_is_reported_in_one_line(tmp_path, tokenizer):
    class Obstacle(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            (tmp_path / LINES_FILE).mkdir(exist_ok=True)

    trainer = make_trainer(tmp_path, tokenizer, callbacks=[Obstacle()], queue_monitor_steps=2)
    with pytest.raises(SaveError, match=rf"{LINES_FILE}: cannot be written \(.*directory.*\); fix the cause"):
        trainer.train()


# No trace in the training


@pytest.mark.parametrize("config", [{}, {"queue_dtype": "bfloat16"}, {"share_embeddings": False}], ids=str)
def test_weights_queue_and_random_numbers_are_the_same_bits_without_it(tmp_path, tokenizer, config):
    def end(steps: int):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)
        model = tiny_model(**WIDE, **config)
        fields = {"queue_monitor_steps": steps, "gradient_accumulation_steps": 2, "num_train_epochs": 3}
        trainer = make_trainer(tmp_path / str(steps), tokenizer, model, **fields)
        trainer.train()
        lines = [{k: v for k, v in line.items() if "per_second" not in k} for line in trainer.state.log_history[:-1]]
        return model.state_dict(), (torch.get_rng_state(), random.getstate(), np.random.get_state()), lines

    (state, randoms, log), (watched, watched_randoms, watched_log) = end(0), end(1)
    assert differing(state, watched) == []
    assert torch.equal(randoms[0], watched_randoms[0])
    assert randoms[1] == watched_randoms[1]
    assert all(np.array_equal(first, second) for first, second in zip(randoms[2], watched_randoms[2], strict=True))
    assert log == [{name: value for name, value in line.items() if name not in LOGGED} for line in watched_log]
    assert all(set(LOGGED) <= line.keys() for line in watched_log[1:])
    assert not (tmp_path / "0" / LINES_FILE).exists()


def test_parts_of_the_target_keep_their_modes_and_outputs_are_held_only_if_due(tmp_path, tokenizer):
    held = []

    class Watch(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            held.append((state.global_step + 1, monitor._forward is not None))

        def on_step_end(self, args, state, control, model=None, **kwargs):
            held.append((state.global_step, monitor._forward is not None))
            assert all(part.training for part in model.modules())

    fields = {"queue_monitor_steps": 2, "gradient_accumulation_steps": 2, "max_steps": 4}
    trainer = make_trainer(tmp_path, tokenizer, callbacks=[Watch()], **fields)
    (monitor,) = [c for c in trainer.callback_handler.callbacks if isinstance(c, QueueMonitor)]
    trainer.train()
    assert held == [(1, False), (1, False), (2, True), (2, False), (3, False), (3, False), (4, True), (4, False)]


# The log and the file


def test_the_log_gets_the_latest_figures_since_its_last_line(tmp_path, tokenizer):
    trainer, _, lines = train(tmp_path, tokenizer, logging_steps=3)
    told = {line["step"]: {n: line[n] for n in LOGGED if n in line} for line in trainer.state.log_history}
    of = {line["step"]: {name: line[name] for name in LOGGED} for line in lines}
    assert told == {3: of[2], 6: of[6], 8: {}}


KILLS = {
    "between a look and a line of the log": (
        {"queue_monitor_steps": 4, "save_steps": 5, "logging_steps": 7},
        [(7,)],
    ),
    "twice from one checkpoint": ({}, [(6,), (5,)]),
    "before the first checkpoint": ({}, [(3,)]),
    "inside accumulation": (
        {"gradient_accumulation_steps": 3, "num_train_epochs": 3, "save_steps": 1},
        [(5, 1), (8, 2)],
    ),
}


@pytest.mark.parametrize(("fields", "kills"), KILLS.values(), ids=KILLS)
def test_a_run_that_was_killed_ends_with_the_same_file(tmp_path, tokenizer, fields, kills):
    fields = {"queue_monitor_steps": 2, "num_train_epochs": 2} | fields
    whole = run_with_kills(tmp_path / "whole", tokenizer, **fields)
    broken = run_with_kills(tmp_path / "broken", tokenizer, kills, reseed=kills != [(3,)], **fields)
    first, second = ((tmp_path / name / LINES_FILE).read_bytes() for name in ("whole", "broken"))
    assert first == second
    every = fields["queue_monitor_steps"]
    assert [line["step"] for line in lines_of(tmp_path / "whole")] == [
        step for step in range(1, whole.state.max_steps + 1) if step % every == 0
    ]
    logs = [[{n: line.get(n) for n in LOGGED} for line in run.state.log_history] for run in (whole, broken)]
    assert logs[0] == logs[1]


def test_what_a_killed_process_left_of_a_line_is_dropped(tmp_path, tokenizer):
    train(tmp_path, tokenizer, save_strategy="steps", save_steps=4, save_total_limit=None)
    file = tmp_path / LINES_FILE
    whole = file.read_bytes()
    parts = whole.split(b"\n")
    file.write_bytes(b"\n".join([b"no record", b"[1]", *parts[:3], b'{"step": 8, "queue']))
    again = make_trainer(tmp_path, tokenizer, tiny_model(seed=9, **WIDE), queue_monitor_steps=2, max_steps=8)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert file.read_bytes() == whole


def test_lines_follow_a_checkpoint_to_another_directory_and_replace_those_there(tmp_path, tokenizer):
    saving = {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None}
    train(tmp_path / "first", tokenizer, **saving)
    train(tmp_path / "other", tokenizer, tiny_model(seed=3, **WIDE))
    assert (tmp_path / "first" / LINES_FILE).read_bytes() != (tmp_path / "other" / LINES_FILE).read_bytes()
    fields = {"queue_monitor_steps": 2, "max_steps": 8}
    trainer = make_trainer(tmp_path / "other", tokenizer, tiny_model(seed=9, **WIDE), **fields)
    trainer.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-4"))
    assert (tmp_path / "first" / LINES_FILE).read_bytes() == (tmp_path / "other" / LINES_FILE).read_bytes()


def test_a_new_run_begins_a_new_file(tmp_path, tokenizer):
    train(tmp_path, tokenizer)
    _, _, lines = train(tmp_path, tokenizer, max_steps=4)
    assert [line["step"] for line in lines] == [2, 4]


# The figure


def test_the_figure_is_drawn_at_the_end_and_again_by_a_finished_run(tmp_path, tokenizer):
    pytest.importorskip("matplotlib")
    fields = {"save_strategy": "steps", "save_steps": 4}
    train(tmp_path, tokenizer, **fields)
    drawn = (tmp_path / PLOT_FILE).read_bytes()
    (tmp_path / PLOT_FILE).unlink()
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(**WIDE), queue_monitor_steps=2, max_steps=8, **fields)
    trainer.train(resume_from_checkpoint=True)
    assert (tmp_path / PLOT_FILE).read_bytes() == drawn


def test_without_matplotlib_the_figure_is_skipped_in_one_line(tmp_path, tokenizer, monkeypatch, told):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trainer, _, lines = train(tmp_path, tokenizer)
    (said,) = [record.getMessage() for record in told.records if PLOT_FILE in record.getMessage()]
    assert said == f"{tmp_path / PLOT_FILE} is not drawn: plots need matplotlib: {install_command('evaluation')}"
    assert trainer.state.global_step == 8
    assert len(lines) == 4
    assert not (tmp_path / PLOT_FILE).exists()


def test_a_run_shorter_than_the_interval_leaves_no_file(tmp_path, tokenizer):
    make_trainer(tmp_path, tokenizer, queue_monitor_steps=50).train()
    assert not (tmp_path / LINES_FILE).exists()
    assert not (tmp_path / PLOT_FILE).exists()


# Several processes, and the command


@pytest.mark.slow
def test_on_two_processes_the_first_one_tells_and_nothing_changes(tmp_path, encoder_dir):
    start_processes("queue_monitor_on_processes.py", 2, encoder_dir, tmp_path, log_folder=tmp_path / "logs")
    lines = lines_of(tmp_path / "2")
    assert [line["step"] for line in lines] == [2, 4, 6]
    ends = [[load_file(tmp_path / steps / f"rank{rank}.safetensors") for steps in "02"] for rank in (0, 1)]
    for rank, (without, watched) in enumerate(ends):
        assert without["processes"] == 2
        assert differing(without, watched) == [], rank
    for line in lines:
        logits = ends[0][1][f"logits {line['step']}"].double()
        groups, unknown = [0] * 8 + [1] * (logits.shape[1] - 8), [-1] * logits.shape[1]
        expected = slow_weights(logits, range(4), groups, 2, unknown[:4], unknown)
        assert line["in_batch_gradient_share"] == pytest.approx(expected["shares"][0], rel=1e-5)
        assert line["effective_negatives"] == pytest.approx(expected["effective"], rel=1e-5)
        assert line["rows_by_age"] == [8, 8, 4][: line["step"] - 1] + [0] * (4 - line["step"])
        assert line["false_negative_rate"] == 0.0
        assert 0 < line["key_drift"] < 1
    logs = [json.loads((tmp_path / "2" / f"log{rank}.json").read_text()) for rank in (0, 1)]
    assert ["key_drift" in line for line in logs[0][:6]] == [False, True] * 3
    assert not any("key_drift" in line for line in logs[1])


def command(folder, encoder_dir, *more: str) -> list[str]:
    (folder / "text.txt").write_text("\n".join(sentences(40)) + "\n")
    options = {
        "--model_name_or_path": str(encoder_dir),
        "--train_file": str(folder / "text.txt"),
        "--output_dir": str(folder / "out"),
        "--per_device_train_batch_size": "4",
        "--queue_size": "16",
        "--queue_init_size": "4",
        "--max_steps": "4",
        "--save_strategy": "no",
        "--use_cpu": "true",
    }
    return [part for option in options.items() for part in option] + list(more)


def test_the_command_writes_the_file_and_overwriting_removes_it(tmp_path, encoder_dir):
    assert run_mocose.main(command(tmp_path, encoder_dir, "--queue_monitor_steps", "2")) == 0
    assert [line["step"] for line in lines_of(tmp_path / "out")] == [2, 4]
    assert (tmp_path / "out" / PLOT_FILE).exists()
    assert run_mocose.main(command(tmp_path, encoder_dir, "--overwrite_output_dir", "true")) == 0
    assert not (tmp_path / "out" / LINES_FILE).exists()
    assert not (tmp_path / "out" / PLOT_FILE).exists()


def test_a_negative_interval_is_refused_in_one_line(tmp_path, encoder_dir, capsys):
    assert run_mocose.main(command(tmp_path, encoder_dir, "--queue_monitor_steps", "-1")) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "run_mocose.py: --queue_monitor_steps is at least 0, but is -1"
    )
    assert not (tmp_path / "out").exists()
