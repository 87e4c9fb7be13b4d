import json
import math
import shutil

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from families import FAMILIES
from processes import start_processes
from safetensors.torch import load_file
from senteval_folder import scored, write_senteval
from slow_queue_weighting import slow_loss_of_a_policy
from trainers import BATCH, SELECTION, differing, make_trainer, scored_pairs, training_arguments
from transformers import TrainerCallback, TrainingArguments, set_seed

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments, cosine_ema_decay
from mocose_hf.evaluation import embed_tasks, read_sts_task
from mocose_hf.training.train_metrics import measure
from mocose_hf.training.validation.inputs import computes_bfloat16


class KeysOfEachForward(TrainerCallback):
    """Record what the target branch gives and which sentences were seen, forward by forward."""

    def __init__(self, model):
        self.keys, self.ids = [], []
        model.register_forward_hook(self._record)

    def _record(self, module, args, output):
        self.keys.append(output.key_embeddings.clone())
        self.ids.append(output.sentence_ids.clone())


def test_each_checkpoint_holds_the_target_and_queue_that_its_step_calls_for(tmp_path, tokenizer):
    steps, decay = 6, 0.6
    model = tiny_model()
    recorder = KeysOfEachForward(model)
    trainer = make_trainer(
        tmp_path, tokenizer, model, ema_decay=decay, save_strategy="steps", save_steps=1, save_total_limit=None
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train()

    assert len(recorder.keys) == steps
    for step in range(1, steps + 1):
        folder = tmp_path / f"checkpoint-{step}"
        after = load_file(folder / "model.safetensors")
        eta = cosine_ema_decay(step + 1, steps, decay)
        assert (eta == 1.0) == (step >= steps - 1)
        targets = [n for n in after if n.startswith("target.")]
        assert targets
        for name in targets:
            online = name.replace("target.encoder.", "mocose.encoder.").removeprefix("target.")
            expected = eta * before[name] + (1 - eta) * after[online]
            torch.testing.assert_close(after[name], expected, atol=1e-6, rtol=0, msg=name)
        loaded = MoCoSEForPreTraining.from_pretrained(folder)
        assert torch.equal(loaded.queue.stored_keys()[:BATCH], recorder.keys[step - 1].flip(0))
        assert torch.equal(loaded.queue.sentence_ids()[:BATCH], recorder.ids[step - 1].flip(0))
        assert loaded.queue.ages(step)[:BATCH].tolist() == [0] * BATCH
        assert int(loaded.queue.num_filled) == min(4 + step * BATCH, 16)
        before = after


def test_one_seed_gives_one_model_and_another_seed_another(tmp_path, tokenizer, encoder_dir):
    def run(seed: int, name: str) -> dict:
        set_seed(seed)
        model = MoCoSEForPreTraining.from_encoder_pretrained(encoder_dir, queue_size=16, queue_init_size=4)
        trainer = make_trainer(tmp_path / name, tokenizer, model, seed=seed)
        trainer.train()
        return {n: v.clone() for n, v in model.state_dict().items()}

    first = run(1, "a")
    assert differing(first, run(1, "b")) == []
    assert len(differing(first, run(2, "c"))) > 0.9 * len([v for v in first.values() if v.is_floating_point()])


def test_resumed_run_ends_in_the_same_bits_as_an_uninterrupted_one(tmp_path, tokenizer):
    whole = make_trainer(tmp_path / "whole", tokenizer, save_strategy="steps", save_steps=3)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", tokenizer, tiny_model(seed=99))
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))

    assert resumed.state.global_step == whole.state.global_step == 6
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []


def test_keys_of_all_micro_batches_enter_in_order_at_the_optimizer_step(tmp_path, tokenizer):
    class FillAtEachForward(TrainerCallback):
        fills: list[int] = []

        def on_substep_end(self, args, state, control, model=None, **kwargs):
            self.fills.append(int(model.queue.num_filled))

    model = tiny_model(queue_size=64, queue_init_size=2)
    recorder, fills = KeysOfEachForward(model), FillAtEachForward()
    make_trainer(tmp_path, tokenizer, model, gradient_accumulation_steps=2, max_steps=2, callbacks=[fills]).train()

    assert fills.fills == [2, 2 + 2 * BATCH]
    assert torch.equal(model.queue.stored_keys()[: 4 * BATCH], torch.cat(recorder.keys).flip(0))
    assert model.queue.ages(2)[: 4 * BATCH].tolist() == [0] * 2 * BATCH + [1] * 2 * BATCH


def run_with_accumulation(folder, tokenizer, batch: int, accumulation: int, **config) -> dict:
    """Train 20 steps of 8 sentences, in so many micro-batches, without dropout."""
    no_dropout = {"head_dropout_prob": 0.0, "encoder_dropout_prob": 0.0}
    model = tiny_model(queue_size=20, queue_init_size=5, **no_dropout, **config)
    fields = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(folder, tokenizer, model, count=160, learning_rate=1e-4, logging_steps=50, **fields)
    trainer.train()
    assert trainer.state.global_step == 20
    return model.state_dict()


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4)])
def test_accumulation_equals_one_large_step_without_in_batch_negatives(tmp_path, tokenizer, batch, accumulation):
    large = run_with_accumulation(tmp_path / "large", tokenizer, 8, 1, in_batch_negatives=False)
    small = run_with_accumulation(tmp_path / "small", tokenizer, batch, accumulation, in_batch_negatives=False)
    for name in large:
        torch.testing.assert_close(small[name], large[name], atol=1e-5, rtol=0, msg=name)


def test_with_in_batch_negatives_accumulation_contrasts_with_fewer_keys(tmp_path, tokenizer):
    large = run_with_accumulation(tmp_path / "large", tokenizer, 8, 1)
    small = run_with_accumulation(tmp_path / "small", tokenizer, 4, 2)
    exact = ("queue.row_ids", "queue.enqueued_at", "queue.pointer", "queue.num_filled")
    assert all(torch.equal(small[name], large[name]) for name in exact)
    weights = [name for name in large if name.startswith("mocose.")]
    assert max((small[name] - large[name]).abs().max() for name in weights) > 2e-5


def test_skipped_optimizer_step_moves_neither_target_nor_queue(tmp_path, tokenizer, monkeypatch):
    trainer = make_trainer(tmp_path, tokenizer, max_steps=1)
    before = {n: v.clone() for n, v in trainer.model.state_dict().items() if n.startswith(("target.", "queue."))}
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", property(lambda self: True))
    trainer.train()
    after = {n: v for n, v in trainer.model.state_dict().items() if n in before and "embeddings" not in n}
    del after["queue.ids_text"]  # says from the start which text is trained on
    assert differing({n: before[n] for n in after}, after) == []


def test_log_tells_what_the_loss_does_not(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, ema_decay=0.75)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]

    assert [line["queue_fill"] for line in lines] == [8, 12, 16, 16, 16, 16]
    assert [line["ema_decay"] for line in lines] == [cosine_ema_decay(s + 1, 6, 0.75) for s in range(1, 7)]
    assert {line["d_trace"] for line in lines} == {4 + 16 / BATCH}
    eta = cosine_ema_decay(2, 6, 0.75)
    assert lines[0]["current_d_trace"] == pytest.approx(1 / (1 - eta) + 8 / BATCH)
    assert all(("current_d_trace" in line) == (line["ema_decay"] < 1) for line in lines)
    for line in lines:
        assert 0 <= line["contrastive_accuracy"] <= 1
        assert 0 < line["query_std"] < 1 / math.sqrt(32) + 1e-6
        assert 0 < line["key_std"] < 1 / math.sqrt(32) + 1e-6


def test_logged_accuracy_and_deviation_are_means_over_the_logged_steps(tmp_path, tokenizer):
    model = tiny_model()
    seen = []
    model.register_forward_hook(lambda module, args, output: seen.append(output))
    trainer = make_trainer(tmp_path, tokenizer, model, logging_steps=3, max_steps=3)
    trainer.train()
    line = next(entry for entry in trainer.state.log_history if "loss" in entry)

    accuracy = [(o.logits.argmax(1) == torch.arange(BATCH)).float().mean().item() for o in seen]
    deviation = [o.key_embeddings.std(0, correction=0).mean().item() for o in seen]
    assert line["contrastive_accuracy"] == pytest.approx(sum(accuracy) / 3)
    assert line["key_std"] == pytest.approx(sum(deviation) / 3)


def test_decay_schedule_ends_at_the_given_value_and_stays_there(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, ema_schedule_steps=3, ema_decay=0.5, ema_decay_end=0.9)
    trainer.train()
    decays = [line["ema_decay"] for line in trainer.state.log_history if "loss" in line]
    assert decays == pytest.approx([0.8, 0.9, 0.9, 0.9, 0.9, 0.9])


def test_traceable_distance_stays_constant_while_the_queue_grows(tmp_path, tokenizer):
    fields = {"ema_schedule": "constant_distance", "ema_decay": 0.5, "logging_steps": 1}
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(queue_size=22, queue_init_size=4), **fields)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]

    assert len({line["queue_fill"] for line in lines}) > 3
    assert lines[-1]["queue_fill"] == 22
    assert [line["current_d_trace"] for line in lines] == pytest.approx([2 + 22 / BATCH] * len(lines))
    assert lines[0]["ema_decay"] > 0.75
    assert lines[-1]["ema_decay"] == pytest.approx(0.5)


CONSTANT_DISTANCE = {"ema_schedule": "constant_distance", "ema_decay": 0.85, "logging_steps": 1}


def decays_logged(trainer) -> list[float]:
    return [line["ema_decay"] for line in trainer.state.log_history if "loss" in line]


def test_constant_distance_follows_the_fill_of_a_second_training(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(queue_size=22, queue_init_size=4), **CONSTANT_DISTANCE)
    trainer.train()
    assert decays_logged(trainer)[0] > 0.87
    trainer.train()
    assert decays_logged(trainer) == pytest.approx([0.85] * 6)  # the queue is full from the start


@pytest.mark.parametrize("resumed", [False, True])
def test_constant_distance_counts_small_last_batches(tmp_path, tokenizer, resumed):
    """6 sentences in batches of 4 and 2, three times over: 18 keys in 6 steps."""
    fields = CONSTANT_DISTANCE | {"dataloader_drop_last": False, "num_train_epochs": 3, "save_strategy": "steps"}
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(queue_size=64), count=6, save_steps=3, **fields)
    trainer.train()
    if resumed:
        trainer = make_trainer(tmp_path, tokenizer, tiny_model(3, queue_size=64), count=6, save_steps=3, **fields)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["queue_fill"] for line in lines] == [8, 10, 14, 16, 20, 22]
    assert [line["current_d_trace"] for line in lines] == pytest.approx([1 / 0.15 + 64 / BATCH] * 6)


def test_dropout_is_on_in_the_target_while_training(tmp_path, tokenizer):
    model = tiny_model(encoder_dropout_prob=0.3)
    modes = []
    model.target["encoder"].register_forward_hook(lambda module, args, output: modes.append(module.training))
    make_trainer(tmp_path, tokenizer, model, max_steps=1).train()
    assert modes == [True]


def test_a_large_queue_trains_as_a_plain_loss_over_it_does(tmp_path, tokenizer, monkeypatch):
    def run(name):
        trainer = make_trainer(tmp_path / name, tokenizer, model=tiny_model(queue_size=40, queue_init_size=10))
        trainer.train()
        return trainer

    plain = run("plain")
    monkeypatch.setattr("mocose_hf.models.queue_contrast.CHUNKED_FROM", 40)
    seen = []
    monkeypatch.setattr(
        "mocose_hf.training.callbacks.momentum_update.measure",
        lambda loss, outputs: seen.append(outputs.logits) or measure(loss, outputs),
    )
    chunked = run("chunked")
    assert seen == [None] * 6
    state = plain.model.state_dict()
    for name, value in chunked.model.state_dict().items():
        assert torch.allclose(value, state[name], atol=1e-5), name
    lines = [[line for line in run.state.log_history if "loss" in line] for run in (plain, chunked)]
    assert [line["contrastive_accuracy"] for line in lines[0]] == [line["contrastive_accuracy"] for line in lines[1]]
    assert [line["loss"] for line in lines[0]] == pytest.approx([line["loss"] for line in lines[1]], abs=1e-5)


def test_evaluation_leaves_training_as_it_is(tmp_path, tokenizer):
    def run(name, **fields):
        trainer = make_trainer(tmp_path / name, tokenizer, pairs=scored_pairs(), **fields)
        trainer.train()
        return trainer

    plain = run("plain")
    evaluated = run("evaluated", eval_strategy="steps", eval_steps=1)
    scores = [line for line in evaluated.state.log_history if "eval_dev_spearman" in line]
    assert len(scores) == 6
    assert all(-100 <= s["eval_dev_spearman"] <= 100 and s["eval_dev_uniformity"] <= 0 for s in scores)
    assert differing(plain.model.state_dict(), evaluated.model.state_dict()) == []


def test_best_checkpoint_is_the_one_that_scores_best(tmp_path, tokenizer, monkeypatch):
    scores = iter([5.0, 10.0, 30.0, 20.0])
    monkeypatch.setattr(
        "mocose_hf.training.scoring_trainer.score_sets",
        lambda *args, **kwargs: {"dev_spearman": next(scores), "dev_uniformity": -1.0},
    )
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        pairs=scored_pairs(),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="dev_spearman",
    )
    trainer.train()
    assert trainer.state.best_metric == 30.0
    best = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    state = trainer.model.state_dict()
    assert [name for name in best if not torch.equal(best[name], state[name])] == []
    assert load_file(tmp_path / "checkpoint-6" / "model.safetensors")["queue.rows"].ne(state["queue.rows"]).any()


def score_in_order(monkeypatch, scores, name="dev_spearman"):
    """Replace the scores of the development pairs by these, one each evaluation."""
    scores = iter(scores)
    monkeypatch.setattr(
        "mocose_hf.training.scoring_trainer.score_sets",
        lambda *a, **k: {"dev_spearman": 0.0, "dev_uniformity": 0.0, name: next(scores)},
    )


@pytest.mark.parametrize(
    ("name", "scores", "best"),
    [
        ("dev_spearman", [40.0, 39.0, 40.0, 38.0], 0),
        ("dev_spearman", [40.0, 39.0, 40.5, 38.0], 4),
        ("dev_uniformity", [-2.0, -1.9, -2.0, -1.5], 0),
        ("dev_uniformity", [-2.0, -1.9, -2.0, -2.5], 6),
    ],
)
def test_the_start_is_kept_unless_a_checkpoint_is_better(tmp_path, tokenizer, monkeypatch, name, scores, best):
    score_in_order(monkeypatch, scores, name)
    model = tiny_model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(tmp_path, tokenizer, model, pairs=scored_pairs(), metric_for_best_model=name, **SELECTION)
    trainer.train()
    assert trainer.state.global_step == 6
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    expected = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    state = model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], state[name])] == []
    weights = [{name: value for name, value in s.items() if name != "queue.ids_text"} for s in (start, state)]
    assert (differing(*weights) == []) == (best == 0)


def named_scores(monkeypatch, scores):
    """Replace the scores of two development sets, a and b, in turn: alignment of each."""
    scores = iter([value for pair in scores for value in pair])
    figures = {"dev_spearman": 1.0, "dev_uniformity": -1.0}
    monkeypatch.setattr(
        "mocose_hf.training.scoring_trainer.score_sets", lambda *a, **k: figures | {"dev_alignment": next(scores)}
    )


@pytest.mark.parametrize(("metric", "best"), [("eval_a_dev_alignment", 2), ("b_dev_alignment", 6)])
def test_less_is_better_of_a_metric_of_one_of_several_development_sets(tmp_path, tokenizer, monkeypatch, metric, best):
    named_scores(monkeypatch, [(0.5, 0.5), (0.1, 0.9), (0.2, 0.6), (0.3, 0.2)])
    pairs = {"a": scored_pairs(), "b": scored_pairs()}
    seen = []

    class Seen(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            seen.append(set(metrics))

    trainer = make_trainer(
        tmp_path, tokenizer, pairs=pairs, metric_for_best_model=metric, callbacks=[Seen()], **SELECTION
    )
    trainer.train()
    assert trainer.args.greater_is_better is False
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert len(seen) == 4
    assert all({"eval_a_dev_alignment", "eval_b_dev_alignment"} <= names for names in seen)


@pytest.mark.parametrize(
    ("scores", "step"), [([math.nan], 0), ([40.0, 39.0, math.nan], 4)], ids=["at the start", "while training"]
)
def test_a_score_that_is_not_a_number_ends_the_run(tmp_path, tokenizer, monkeypatch, scores, step):
    score_in_order(monkeypatch, scores)
    trainer = make_trainer(tmp_path, tokenizer, pairs=scored_pairs(), **SELECTION)
    with pytest.raises(FloatingPointError, match="`metric_for_best_model` dev_spearman is nan"):
        trainer.train()
    assert trainer.state.global_step == step
    assert not (tmp_path / f"checkpoint-{step}").exists()


def test_a_metric_that_an_evaluation_of_ones_own_does_not_give_is_named_at_the_first_one(tmp_path, tokenizer):
    class OwnEvaluation(MoCoSETrainer):
        def evaluate(self, *args, **options):
            return super().evaluate(*args, **options)

    fields = SELECTION | {"metric_for_best_model": "recall"}
    trainer = OwnEvaluation(
        tiny_model(),
        training_arguments(tmp_path, **fields),
        train_dataset=sentences(24),
        eval_dataset=scored_pairs(),
        processing_class=tokenizer,
    )
    with pytest.raises(
        ValueError, match=r"recall: is not scored .* choose one of dev_spearman, dev_alignment, dev_uniformity"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("killed_after", [0, 2, 4])
def test_a_resumed_run_can_end_with_its_start(tmp_path, tokenizer, monkeypatch, killed_after):
    """The folder is moved between the two parts, and the second part is given another model."""
    scores = [40.0, 39.0, 38.0, 37.0]
    fields = {"pairs": scored_pairs(), "save_total_limit": None, **SELECTION}
    whole = make_trainer(tmp_path / "whole", tokenizer, **fields)
    score_in_order(monkeypatch, scores)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for step in range(killed_after + 2, 7, 2):
        shutil.rmtree(tmp_path / "killed" / f"checkpoint-{step}")
    resumed = make_trainer(tmp_path / "killed", tokenizer, tiny_model(seed=9), **fields)
    score_in_order(monkeypatch, scores[killed_after // 2 + 1 :])
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []
    last = [load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("whole", "killed")]
    assert differing(*last) == []
    steps = [entry["step"] for entry in resumed.state.log_history if "eval_dev_spearman" in entry]
    assert steps == [0, 2, 4, 6]
    again = make_trainer(tmp_path / "killed", tokenizer, tiny_model(seed=8), **fields)
    again.train(resume_from_checkpoint=True)  # which is finished
    assert differing(whole.model.state_dict(), again.model.state_dict()) == []


def test_the_best_saved_step_is_kept_if_the_best_evaluation_was_not_saved(tmp_path, tokenizer, monkeypatch):
    score_in_order(monkeypatch, [20.0, 90.0, 40.0, 80.0, 30.0, 70.0])
    fields = {"pairs": scored_pairs(), "max_steps": 5, **SELECTION, "eval_steps": 1, "save_steps": 2}
    trainer = make_trainer(tmp_path, tokenizer, **fields)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-5")  # of 0, 2, 4 and 5
    assert trainer.state.best_global_step == 1


class Spoil(TrainerCallback):
    """Make the encoder worse before the last evaluation: all words become one of two."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            words = model.mocose.encoder.embeddings.word_embeddings.weight.data
            words[2:] = words[torch.arange(len(words))[2:] % 2]


def test_a_worse_last_checkpoint_is_not_the_best_one(tmp_path, tokenizer):
    columns = zip(*scored(24, seed=3), strict=True)
    pairs = Dataset.from_dict(dict(zip(("score", "sentence1", "sentence2"), columns, strict=True)))
    trainer = make_trainer(
        tmp_path,
        tokenizer,
        pairs=pairs,
        callbacks=[Spoil(step=6)],
        learning_rate=1e-4,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="dev_spearman",
    )
    trainer.train()
    of_step = {e["step"]: e["eval_dev_spearman"] for e in trainer.state.log_history if "eval_dev_spearman" in e}
    assert of_step[6] < min(of_step[2], of_step[4]) - 5
    best = max((0, 2, 4), key=of_step.get)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert trainer.evaluate()["eval_dev_spearman"] == pytest.approx(of_step[best], abs=1e-9)


def test_test_sets_are_scored_at_each_evaluation_and_have_no_say(tmp_path, tokenizer, monkeypatch):
    write_senteval(tmp_path / "senteval", years=["STS12"])
    tasks = [read_sts_task(name, tmp_path / "senteval", allow_partial_tasks=True) for name in ("sts12", "stsb")]
    development = iter([5.0, 30.0, 20.0, 10.0])
    monkeypatch.setattr(
        "mocose_hf.training.scoring_trainer.score_sets",
        lambda *args, **kwargs: {"dev_spearman": next(development), "dev_uniformity": -1.0},
    )
    trainer = make_trainer(
        tmp_path / "out",
        tokenizer,
        pairs=scored_pairs(),
        test_tasks=tasks,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="dev_spearman",
    )
    trainer.train()
    start, *lines = [line for line in trainer.state.log_history if "eval_dev_spearman" in line]
    assert [line["eval_dev_spearman"] for line in (start, *lines)] == [5.0, 30.0, 20.0, 10.0]
    for line in lines:
        mean = (line["eval_sts12_spearman"] + line["eval_stsb_spearman"]) / 2
        assert line["eval_sts_avg_of_2_spearman"] == pytest.approx(mean)
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    embeddings = embed_tasks(trainer.model, tokenizer, tasks)
    again = tasks[0].score(embeddings)["sts12_spearman"]  # of the best checkpoint, loaded at the end
    assert again == pytest.approx(lines[0]["eval_sts12_spearman"], abs=1e-9)
    assert len({line["eval_sts12_spearman"] for line in lines}) > 1


@pytest.mark.parametrize("kind", ["dataset", "list", "rows"])
@pytest.mark.parametrize("count", [3, 30])
def test_prediction_gives_the_embedding_of_every_row(tmp_path, tokenizer, kind, count):
    texts = [*sentences(count - 1, seed=5), sentences(1, seed=5)[0]]
    rows = {"dataset": Dataset.from_dict({"text": texts}), "list": texts, "rows": [{"text": text} for text in texts]}
    trainer = make_trainer(tmp_path, tokenizer, per_device_eval_batch_size=8)
    trainer.train()
    output = trainer.predict(rows[kind])
    expected = trainer.model.encode(texts, tokenizer)
    assert output.predictions.shape == (count, 32)
    torch.testing.assert_close(torch.from_numpy(output.predictions), expected, atol=1e-6, rtol=0)
    assert output.label_ids is None
    assert output.metrics["test_samples_per_second"] > 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [(Dataset.from_dict({"s": ["a"]}), "have no column `text`, only s; rename one"), (["a", None], "Row 1 .* None;")],
)
def test_prediction_names_what_cannot_be_embedded(tmp_path, tokenizer, rows, said):
    with pytest.raises(ValueError, match=said):
        make_trainer(tmp_path, tokenizer).predict(rows)


def test_evaluation_computes_in_bfloat16_if_asked(tmp_path, tokenizer):
    in_float32 = make_trainer(tmp_path / "a", tokenizer, pairs=scored_pairs())
    in_bfloat16 = make_trainer(tmp_path / "b", tokenizer, in_float32.model, pairs=scored_pairs(), bf16_full_eval=True)
    first, second = in_float32.evaluate()["eval_dev_uniformity"], in_bfloat16.evaluate()["eval_dev_uniformity"]
    assert first != second
    assert first == pytest.approx(second, rel=0.05)
    assert {parameter.dtype for parameter in in_bfloat16.model.parameters()} == {torch.float32}


def test_pairs_train_with_the_key_view_of_their_own(tmp_path, tokenizer):
    texts = {"text": sentences(8), "key_text": sentences(8, seed=3)}
    seen = []
    model = tiny_model()
    model.target["encoder"].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    make_trainer(tmp_path, tokenizer, model, texts=texts, max_steps=1).train()
    decoded = tokenizer.batch_decode(seen[0], skip_special_tokens=True)
    assert set(decoded) <= set(texts["key_text"])


@pytest.mark.slow
def test_weights_and_queue_of_two_and_four_processes_equal_those_of_one(tmp_path, encoder_dir):
    for processes in (1, 2, 4):
        own = tmp_path / str(processes)
        start_processes("train_on_processes.py", processes, encoder_dir, own, 16 // processes, log_folder=own)
    one = load_file(tmp_path / "1" / "rank0.safetensors")
    assert one["processes"].item() == 1
    for processes in (2, 4):
        first, *others = (
            load_file(tmp_path / str(processes) / f"rank{rank}.safetensors") for rank in range(processes)
        )
        assert first["processes"].item() == processes
        assert first["steps"].item() == one["steps"].item() == 20
        for name in one.keys() - {"processes"}:
            torch.testing.assert_close(first[name], one[name], atol=1e-6, rtol=0, msg=name)
        exact = ("queue.row_ids", "queue.enqueued_at", "queue.pointer", "queue.num_filled")
        assert all(torch.equal(first[name], one[name]) for name in exact)
        assert all(differing(first, other) == [] for other in others)


@pytest.mark.slow
def test_two_processes_hold_one_queue_in_bfloat16(tmp_path, encoder_dir):
    changes = '{"config": {"queue_dtype": "bfloat16"}}'
    start_processes("train_on_processes.py", 2, encoder_dir, tmp_path, 8, changes, log_folder=tmp_path)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert first["processes"].item() == 2
    assert first["queue.rows"].dtype == torch.bfloat16
    assert first["queue.num_filled"].item() == 20
    assert differing(first, second) == []


@pytest.mark.slow
def test_two_processes_leave_out_keys_of_the_own_sentence_as_one_does(tmp_path, encoder_dir):
    """In the batch of the other process and in the queue; seven ids are in each batch of 16 more than once."""
    runs = {"one": (1, True), "two": (2, True), "unmasked": (1, False)}
    ends = {}
    for name, (processes, masks) in runs.items():
        config = {"mask_same_sentence": masks, "queue_window": "without_middle", "queue_half_life": 1.5}
        changes = json.dumps({"config": config, "num_ids": 7})
        arguments = (encoder_dir, tmp_path / name, 16 // processes, changes)
        start_processes("train_on_processes.py", processes, *arguments, log_folder=tmp_path / name)
        ends[name] = load_file(tmp_path / name / "rank0.safetensors")
    other = load_file(tmp_path / "two" / "rank1.safetensors")
    assert (ends["two"]["processes"].item(), ends["two"]["steps"].item()) == (2, 20)
    assert differing(ends["two"], other) == []
    weights = ends["one"].keys() - {"processes"}
    for name in weights:
        torch.testing.assert_close(ends["two"][name], ends["one"][name], atol=1e-6, rtol=0, msg=name)
    changes = [(ends["unmasked"][n] - ends["one"][n]).abs().max() for n in weights if n.endswith("weight")]
    assert max(changes) > 1e-4


ALL_POLICIES = {
    "queue_window": "0-0.25,0.5-0.75",
    "queue_window_softness": 0.05,
    "queue_half_life": 2.0,
    "mask_same_sentence": True,
    "queue_dtype": "bfloat16",
}
CLUSTERED = {"queue_window": "middle", "queue_half_life": 2.0, "queue_centroids": 3}


def test_each_step_of_a_training_contrasts_with_what_its_policies_leave(tmp_path, tokenizer):
    model = tiny_model(**ALL_POLICIES)
    checked, masked = [], []

    def check(module, args, output):
        queue = module.queue
        steps = queue.enqueued_at[queue.newest_first()].tolist()
        entries = list(zip(queue.stored_keys().tolist(), steps, queue.sentence_ids().tolist(), strict=True))
        ids = output.sentence_ids.tolist()
        slow, _ = slow_loss_of_a_policy(
            output.query_embeddings.detach(), output.key_embeddings, entries, ALL_POLICIES, ids, 0.05
        )
        checked.append((output.loss.item(), slow))
        masked.append(sum(number in ids for _, _, number in entries if number != -1))

    model.register_forward_hook(check)
    make_trainer(tmp_path, tokenizer, model, count=8, num_train_epochs=4).train()
    assert len(checked) == 8
    assert [loss for loss, _ in checked] == pytest.approx([slow for _, slow in checked], rel=1e-4)
    assert sum(masked) > 0


@pytest.mark.parametrize("policies", [ALL_POLICIES, CLUSTERED], ids=["weighted", "clustered"])
def test_a_run_with_policies_continues_to_the_same_bits_and_refuses_others(tmp_path, tokenizer, policies):
    saving = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    whole = make_trainer(tmp_path / "whole", tokenizer, tiny_model(**policies), **saving)
    whole.train()
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    resumed = make_trainer(tmp_path / "resumed", tokenizer, tiny_model(seed=9, **policies), **saving)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == whole.state.global_step == 6
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []
    other = make_trainer(tmp_path / "other", tokenizer, tiny_model(**policies | {"queue_half_life": 3.0}), **saving)
    with pytest.raises(ValueError, match=r"`queue_half_life` was 2.0 and is 3.0 now"):
        other.train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ema_decay": 1.5}, "`ema_decay`"),
        ({"ema_decay_end": -0.1}, "`ema_decay_end`"),
        ({"ema_schedule_steps": 0}, "`ema_schedule_steps`"),
        ({"max_seq_length": 2}, "`max_seq_length`"),
        ({"remove_unused_columns": True}, "`remove_unused_columns`"),
        ({"hub_strategy": "every_save"}, "`hub_strategy`"),
    ],
)
def test_bad_training_arguments_are_refused_by_name(tmp_path, fields, named):
    with pytest.raises(ValueError, match=named):
        training_arguments(tmp_path, **fields)


def test_batches_come_to_a_gpu_pinned_and_without_waiting_by_default(tmp_path, monkeypatch):
    assert not training_arguments(tmp_path).accelerator_config.non_blocking
    monkeypatch.setattr(MoCoSETrainingArguments, "device", torch.device("cuda"))
    args = training_arguments(tmp_path, use_cpu=False)
    assert (args.dataloader_pin_memory, args.accelerator_config.non_blocking) == (True, True)
    own = training_arguments(tmp_path, use_cpu=False, accelerator_config={"non_blocking": False})
    assert not own.accelerator_config.non_blocking
    unpinned = training_arguments(tmp_path, use_cpu=False, dataloader_pin_memory=False)
    assert not unpinned.accelerator_config.non_blocking


def test_save_steps_follow_evaluation_if_there_is_one(tmp_path):
    assert training_arguments(tmp_path).save_steps == 500
    assert training_arguments(tmp_path, eval_strategy="steps", eval_steps=20).save_steps == 20
    assert training_arguments(tmp_path, eval_strategy="steps", eval_steps=20, save_steps=40).save_steps == 40


def test_a_target_that_would_be_trained_is_refused(tmp_path, tokenizer):
    model = tiny_model()
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="freeze_target"):
        make_trainer(tmp_path, tokenizer, model)


def test_numbers_gone_bad_stop_the_run_before_the_queue_takes_them(tmp_path, tokenizer):
    model = tiny_model()
    trainer = make_trainer(tmp_path, tokenizer, model)
    with torch.no_grad():
        model.target["pooler"].weight[0, 0] = float("nan")
    before = model.queue.rows.clone()
    with pytest.raises(FloatingPointError, match="step 1"):
        trainer.train()
    assert torch.equal(model.queue.rows, before)


def test_interrupted_training_leaves_no_keys_to_the_next(tmp_path, tokenizer):
    class Interrupt(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    model = tiny_model(queue_size=64)
    trainer = make_trainer(tmp_path, tokenizer, model, gradient_accumulation_steps=2, max_steps=1)
    interrupt = Interrupt()
    trainer.add_callback(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(interrupt)
    trainer.train()
    assert int(model.queue.num_filled) == 4 + 2 * BATCH


def test_weights_that_are_not_float32_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="float32"):
        make_trainer(tmp_path, tokenizer, tiny_model().to(torch.bfloat16))


def test_a_queue_in_bfloat16_is_trained_with_and_one_that_was_cast_is_refused(tmp_path, tokenizer):
    model = tiny_model(queue_dtype="bfloat16", queue_size=12)
    recorder = KeysOfEachForward(model)
    make_trainer(tmp_path, tokenizer, model).train()
    assert model.queue.rows.dtype == torch.bfloat16
    assert torch.equal(model.queue.stored_keys(), torch.cat(recorder.keys[-3:]).flip(0).bfloat16())
    with pytest.raises(
        ValueError, match=r"was cast to torch\.float32, but `queue_dtype` makes it torch\.bfloat16; load"
    ):
        make_trainer(tmp_path, tokenizer, model.float())


def test_training_set_without_text_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="no column `text`, only sentence"):
        make_trainer(tmp_path, tokenizer, texts={"sentence": sentences(8)})


def test_fewer_rows_than_a_batch_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="has 3 rows, but one batch takes 4"):
        make_trainer(tmp_path, tokenizer, count=3)


def test_longer_inputs_than_the_encoder_takes_are_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="`max_seq_length` is 41, but the encoder takes 40"):
        make_trainer(tmp_path, tokenizer, max_seq_length=41)


def test_wrong_model_arguments_or_no_tokenizer_are_refused(tmp_path, tokenizer):
    model = tiny_model()
    with pytest.raises(TypeError, match="MoCoSEForPreTraining"):
        MoCoSETrainer(model=model.mocose, args=training_arguments(tmp_path), processing_class=tokenizer)
    with pytest.raises(TypeError, match="MoCoSETrainingArguments"):
        MoCoSETrainer(model=model, args=TrainingArguments(output_dir=str(tmp_path)), processing_class=tokenizer)
    with pytest.raises(ValueError, match="processing_class"):
        MoCoSETrainer(model=model, args=training_arguments(tmp_path))


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "packed"])
def test_bf16_computes_in_bfloat16_and_keeps_loss_target_and_queue_in_float32(tmp_path, tokenizer, padding_free):
    class Dtypes(TrainerCallback):
        """Note what the encoders, the heads and the loss compute in."""

        def __init__(self, model):
            self.seen = {}
            parts = {"online": model.mocose.encoder, "target": model.target["encoder"], "predictor": model.predictor}
            for name, part in parts.items():
                part.register_forward_hook(lambda module, args, output, name=name: self._note(name, output))
            model.register_forward_hook(lambda module, args, output: self.seen.update(loss=output.loss.dtype))

        def _note(self, name, output):
            self.seen[name] = getattr(output, "last_hidden_state", output).dtype

    model = tiny_model()
    before = [parameter.clone() for parameter, _ in model.momentum_pairs()]
    dtypes = Dtypes(model)
    make_trainer(tmp_path, tokenizer, model, bf16=True, padding_free=padding_free, callbacks=[dtypes]).train()
    assert dtypes.seen.pop("loss") == torch.float32
    # LayerNorm, which ends BERT's layers, computes in float32 under autocast; the linear layers do not.
    assert dtypes.seen == {"online": torch.float32, "target": torch.float32, "predictor": torch.bfloat16}
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    moved = [p for (p, _), start in zip(model.momentum_pairs(), before, strict=True) if not torch.equal(p, start)]
    assert len(moved) > 0.9 * len(before)


def test_bf16_is_warned_of_if_the_cpu_does_not_compute_in_it(tmp_path, tokenizer, told, monkeypatch):
    monkeypatch.setattr("mocose_hf.training.validation.inputs.computes_bfloat16", lambda: True)
    make_trainer(tmp_path, tokenizer, bf16=True)
    assert told.text == ""
    monkeypatch.setattr("mocose_hf.training.validation.inputs.computes_bfloat16", lambda: False)
    make_trainer(tmp_path, tokenizer)
    assert told.text == ""
    make_trainer(tmp_path, tokenizer, bf16=True)
    assert "no instructions for bfloat16" in told.text


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": False, "bf16": True}, True), ({"avx2": True}, False)],
)
def test_the_cpu_tells_whether_it_computes_in_bfloat16(monkeypatch, capabilities, expected):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert computes_bfloat16() == expected


def test_activation_checkpointing_is_an_error_if_the_encoder_has_none(tmp_path, tokenizer):
    model = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=FAMILIES["albert"](), queue_size=16, queue_init_size=4))
    with pytest.raises(ValueError, match="`activation_checkpointing` is not supported by albert encoders; leave it"):
        make_trainer(tmp_path, tokenizer, model, activation_checkpointing=True)


def test_activation_checkpointing_trains_to_the_same_weights(tmp_path, tokenizer):
    def train(name: str, **fields) -> dict:
        model = tiny_model(encoder_dropout_prob=0.1)
        make_trainer(tmp_path / name, tokenizer, model, **fields).train()
        return model.state_dict()

    plain, checkpointed = train("plain"), train("checkpointed", activation_checkpointing=True)
    assert differing(plain, checkpointed) == []


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "packed"])
def test_a_compiled_model_trains_to_the_same_weights(tmp_path, tokenizer, monkeypatch, padding_free):
    """Graphs are captured and run as they are: what a backend makes of them is its own affair."""

    def train(name: str, **fields) -> dict:
        model = tiny_model(encoder_dropout_prob=0.0, head_dropout_prob=0.0)
        trainer = make_trainer(tmp_path / name, tokenizer, model, padding_free=padding_free, max_steps=3, **fields)
        trainer.train()
        assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule) == bool(fields)
        return model.state_dict()

    plain = train("plain")
    for name in ("BACKEND", "MODE"):  # which transformers sets for accelerate, and leaves
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "no" if name == "BACKEND" else "default")
    compiled = train("compiled", torch_compile=True, torch_compile_backend="eager")
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, atol=1e-5, rtol=0, msg=name)


def test_tf32_is_refused_without_a_gpu(tmp_path):
    with pytest.raises(ValueError, match="tf32"):
        training_arguments(tmp_path, tf32=True)


def test_several_gpus_in_one_process_are_refused(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(MoCoSETrainingArguments, "n_gpu", 4)
    with pytest.raises(ValueError, match="One process sees 4 GPUs; start one for each with `accelerate launch`"):
        make_trainer(tmp_path, tokenizer)
