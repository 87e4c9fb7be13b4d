"""Numbers gone bad stop a run within the step, and what was saved before is good to go on from."""

import pytest
import torch
from conftest import tiny_model
from same_state import differences
from test_trainer import make_trainer
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


def train(folder, tokenizer, callbacks=(), resume=None, **fields):
    settings = {"save_strategy": "steps", "save_steps": SAVED, "max_steps": STEPS, "save_total_limit": None} | fields
    trainer = make_trainer(folder, tokenizer, tiny_model(), callbacks=list(callbacks), **settings)
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
            seen.append((skipped, int(model.queue.fill), model.target["pooler"].weight.clone()))

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
