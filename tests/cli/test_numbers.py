"""Numbers gone bad stop a run within the step, and what was saved before is good to go on from."""

import pytest
import torch
from builders import WAITING, Operations, random_batch, tiny_model
from safetensors.torch import load_file
from same_state import differences
from trainers import make_trainer, scored_pairs
from transformers import TrainerCallback

STEPS, SAVED, BAD = 6, 2, 4


class Spoil(TrainerCallback):
    """Spoil one number before the forward of a step."""

    def __init__(self, spoil):
        self._spoil = spoil

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == BAD:
            self._spoil(model)
            self.queue = {name: value.clone() for name, value in model.queue.named_buffers()}


def loss(model):
    model.register_forward_hook(lambda module, inputs, output: setattr(output, "loss", output.loss * float("nan")))


def gradient(model):
    model.pooler.weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), float("inf")))


def key(model):
    with torch.no_grad():
        model.target["pooler"].weight[0, 0] = float("nan")


def queue(model):
    model.queue.rows[2, 3] = float("inf")


def embedding(model):
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = float("nan")  # [CLS]


def take_step(trainer) -> None:
    """Move target and queue as at the end of the first optimizer step."""
    trainer.state.global_step = 1
    for event in (trainer._momentum.on_pre_optimizer_step, trainer._momentum.on_step_end):
        event(trainer.args, trainer.state, trainer.control)


def train(folder, tokenizer, callbacks=(), resume=None, late=False, **fields):
    settings = {"save_strategy": "steps", "save_steps": SAVED, "max_steps": STEPS, "save_total_limit": None} | fields
    trainer = make_trainer(folder, tokenizer, tiny_model(), callbacks=list(callbacks), **settings)
    trainer._nan_monitor._late = late
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("spoil", [loss, gradient, key, queue, embedding])
def test_a_number_that_is_not_finite_stops_the_run_within_its_step_and_nothing_is_lost(
    tmp_path, tokenizer, spoil, max_grad_norm
):
    train(tmp_path / "whole", tokenizer, max_grad_norm=max_grad_norm)
    spoiling = Spoil(spoil)
    model = None

    class Keep(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            nonlocal model
            model = kwargs["model"]

    with pytest.raises(FloatingPointError, match=f"of step {BAD} is not finite"):
        train(tmp_path / "broken", tokenizer, [spoiling, Keep()], max_grad_norm=max_grad_norm)
    for name, value in model.queue.named_buffers():
        assert torch.equal(value.nan_to_num(), spoiling.queue[name].nan_to_num()), name
    assert sorted(path.name for path in (tmp_path / "broken").iterdir()) == [f"checkpoint-{SAVED}"]
    train(tmp_path / "broken", tokenizer, resume=True, max_grad_norm=max_grad_norm)
    last = f"checkpoint-{STEPS}"
    assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []


# Looked at late, as on a GPU


class Count(TrainerCallback):
    """Count what was done."""

    def __init__(self):
        self.begun = self.stepped = self.ended = self.logged = self.evaluated = 0

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun = state.global_step + 1

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.stepped += 1

    def on_step_end(self, args, state, control, **kwargs):
        self.ended += 1

    def on_log(self, args, state, control, **kwargs):
        self.logged += 1

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated += 1


SILENT = {"logging_strategy": "no", "save_steps": 3}
OCCASIONS = {
    "a save": SILENT | {"save_steps": SAVED},
    "a line of the log": SILENT | {"logging_strategy": "steps", "logging_steps": BAD},
    "an evaluation": SILENT | {"eval_strategy": "steps", "eval_steps": BAD},
    "the end of an epoch": SILENT | {"save_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1, "count": 16},
    "the end": SILENT | {"max_steps": BAD, "save_strategy": "no"},
    "a signal": SILENT,
}


class StopThere(TrainerCallback):
    """Ask for an end with a save after the bad step, as a signal does."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == BAD:
            control.should_training_stop = control.should_save = True


def saved_steps(folder) -> list[int]:
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in folder.iterdir())


def assert_finite(folder):
    for path in folder.glob("*/*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values()), path
    for path in folder.glob("*/optimizer.pt"):
        for moments in torch.load(path, weights_only=True)["state"].values():
            assert all(value.isfinite().all() for value in moments.values()), path


@pytest.mark.parametrize("spoil", [loss, gradient, key, queue, embedding])
def test_looked_at_late_a_bad_number_stops_the_run_before_the_next_step_changes_the_weights(
    tmp_path, tokenizer, spoil
):
    train(tmp_path / "whole", tokenizer, **SILENT)
    count = Count()
    with pytest.raises(FloatingPointError, match=f"of step {BAD} is not finite"):
        train(tmp_path / "broken", tokenizer, [Spoil(spoil), count], late=True, **SILENT)
    assert (count.begun, count.stepped, count.ended) == (BAD + 1, BAD, BAD)
    assert (count.logged, saved_steps(tmp_path / "broken")) == (0, [3])
    assert_finite(tmp_path / "broken")
    train(tmp_path / "broken", tokenizer, resume=True, late=True, **SILENT)
    last = f"checkpoint-{STEPS}"
    assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []


@pytest.mark.parametrize("spoil", [loss, gradient, key, queue, embedding])
@pytest.mark.parametrize(("occasion", "fields"), OCCASIONS.items(), ids=OCCASIONS)
def test_looked_at_late_a_bad_number_stops_the_run_before_anything_is_made_of_it(
    tmp_path, tokenizer, occasion, fields, spoil
):
    count = Count()
    callbacks = [Spoil(spoil), count] + [StopThere()] * (occasion == "a signal")
    with pytest.raises(FloatingPointError, match=f"of step {BAD} is not finite"):
        train(tmp_path, tokenizer, callbacks, late=True, pairs=scored_pairs(), **fields)
    assert (count.begun, count.stepped) == (BAD, BAD)
    assert (count.logged, count.evaluated) == (0, 0)
    expected = {"a save": [2], "the end": [], "the end of an epoch": []}
    assert saved_steps(tmp_path) == expected.get(occasion, [3])
    assert_finite(tmp_path)


def test_looked_at_late_a_run_ends_in_the_same_bits(tmp_path, tokenizer):
    fields = {"logging_steps": 4, "eval_strategy": "steps", "eval_steps": 3, "pairs": scored_pairs()}
    for late in (False, True):
        train(tmp_path / str(late), tokenizer, late=late, **fields)
    for step in (2, 4, 6):
        assert differences(*(tmp_path / str(late) / f"checkpoint-{step}" for late in (False, True))) == []


def test_a_bad_key_in_the_queue_is_not_saved(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer)
    queue(trainer.model)
    with pytest.raises(FloatingPointError, match="A weight or a queued key is not finite after step 0"):
        trainer.save_model()
    assert not list(tmp_path.iterdir())


POLICIES = [
    {},
    {"queue_window": "middle", "queue_window_softness": 0.1, "queue_half_life": 3.0, "mask_same_sentence": True},
    {"queue_window": "oldest", "queue_centroids": 1},
]


@pytest.mark.parametrize("policies", POLICIES, ids=["default", "weighted", "mean"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_without_the_encoder_waits_for_no_gpu(tmp_path, tokenizer, accumulation, policies):
    model = tiny_model(**policies)
    trainer = make_trainer(tmp_path, tokenizer, model, gradient_accumulation_steps=accumulation)
    trainer._nan_monitor._late = True
    weight = torch.nn.Parameter(torch.randn(4, 32))
    model.encode_queries = lambda view: torch.nn.functional.normalize(weight, dim=-1)
    model.encode_keys = lambda view: torch.nn.functional.normalize(weight.detach() + 0.1, dim=-1)
    trainer.state.max_steps = 10
    batch, ids = random_batch(), torch.arange(4)
    before, fill = model.target["pooler"].weight.clone(), int(model.queue.num_filled)
    with torch.no_grad():
        model.pooler.weight.add_(1.0)
    model.train()
    with Operations() as used:
        for _ in range(accumulation):
            trainer.compute_loss(model, batch | {"sentence_ids": ids}).backward()
        take_step(trainer)
    assert used.names & WAITING == set()
    assert int(model.queue.num_filled) == fill + 4 * accumulation
    assert not torch.equal(model.target["pooler"].weight, before)


def test_a_step_on_a_packed_batch_waits_for_no_gpu(tmp_path, tokenizer):
    """On a padded one transformers looks at the mask, whether there is padding at all."""
    model = tiny_model()
    trainer = make_trainer(tmp_path, tokenizer, model, padding_free=True)
    trainer._nan_monitor._late = True
    trainer.state.max_steps = 10
    batch = next(iter(trainer.get_train_dataloader()))
    model.train()
    with Operations() as used:
        trainer.compute_loss(model, batch).backward()
        take_step(trainer)
    assert {"_softmax_backward_data", "native_layer_norm_backward", "_foreach_lerp_"} <= used.names
    assert used.names & WAITING == set()


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_steps_that_overflow_in_fp16_move_neither_target_nor_queue_and_stop_nothing(tmp_path, tokenizer, optim):
    # the scaler of fp16 on a GPU, brought to the CPU: it starts so high that the first steps overflow
    trainer = make_trainer(
        tmp_path, tokenizer, tiny_model(queue_size=64), max_steps=24, optim=optim, max_grad_norm=0, ema_decay_end=0.85
    )
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**66)
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            self.weights = model.pooler.weight.clone()

        def on_step_end(self, args, state, control, model=None, **kwargs):
            skipped = torch.equal(self.weights, model.pooler.weight)
            seen.append((skipped, int(model.queue.num_filled), model.target["pooler"].weight.clone()))

    trainer.add_callback(Watch())
    start = trainer.model.target["pooler"].weight.clone()
    trainer.train()
    skips = [skipped for skipped, *_ in seen]
    assert skips[0]
    assert not all(skips)
    fill, target = 4, start
    for skipped, next_fill, next_target in seen:
        assert next_fill == (fill if skipped else fill + 4)
        assert torch.equal(target, next_target) == skipped
        fill, target = next_fill, next_target
