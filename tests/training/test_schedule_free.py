"""Optimizers that train one set of weights and evaluate another."""

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from safetensors.torch import load_file
from trainers import SELECTION, differing, scored_pairs, training_arguments

from mocose_hf import MoCoSETrainer
from mocose_hf.evaluation import evaluate_pairs

WATCHED = "mocose.encoder.encoder.layer.0.output.dense.weight"


class AveragingSGD(torch.optim.SGD):
    """SGD that evaluates an average of its weights; the way back rounds, as with schedule-free optimizers."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, lr=lr)
        self.param_groups[0]["train_mode"] = True

    @torch.no_grad()
    def step(self, closure=None):
        assert self.param_groups[0]["train_mode"]
        super().step()
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state.setdefault("average", parameter.detach().clone()).lerp_(parameter, 0.3)

    @torch.no_grad()
    def eval(self):
        self._switch(False, lambda state, value: state["average"].clone())

    @torch.no_grad()
    def train(self):
        self._switch(True, lambda state, value: state["trained"] * (1 + 1e-4))

    def _switch(self, to_train, other):
        if self.param_groups[0]["train_mode"] == to_train:
            return
        self.param_groups[0]["train_mode"] = to_train
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if "average" in state:
                value = other(state, parameter)
                state["trained"] = parameter.detach().clone()
                parameter.copy_(value)


def make_trainer(folder, tokenizer, seed=0, **fields) -> MoCoSETrainer:
    model = tiny_model(seed)
    return MoCoSETrainer(
        model=model,
        args=training_arguments(folder, lr_scheduler_type="constant", **fields),
        train_dataset=Dataset.from_dict({"text": sentences(24)}),
        eval_dataset=scored_pairs(),
        processing_class=tokenizer,
        optimizers=(AveragingSGD([p for p in model.parameters() if p.requires_grad]), None),
    )


def average_of(trainer) -> torch.Tensor:
    parameter = dict(trainer.model.named_parameters())[WATCHED]
    return trainer.optimizer.optimizer.state[parameter]["average"]


def test_the_average_is_scored_saved_and_left_in_the_model_and_training_is_not_touched(
    tmp_path, tokenizer, monkeypatch
):
    scored, averages = [], []

    def spy(model, *args, **options):
        scored.append(model.state_dict()[WATCHED].clone())
        if trainer.state.global_step:
            averages.append(average_of(trainer).clone())
        return evaluate_pairs(model, *args, **options)

    monkeypatch.setattr("mocose_hf.training.scoring_trainer.score_sets", spy)
    plain = make_trainer(tmp_path / "plain", tokenizer)
    plain.train()
    trainer = make_trainer(tmp_path / "saved", tokenizer, eval_strategy="steps", eval_steps=2, save_strategy="steps")
    trainer.train()
    assert len(scored) == len(averages) == 3
    assert all(torch.equal(*pair) for pair in zip(scored, averages, strict=True))
    for step, average in zip((4, 6), averages[1:], strict=True):
        saved = load_file(tmp_path / "saved" / f"checkpoint-{step}" / "model.safetensors")
        assert torch.equal(saved[WATCHED], average)
    assert torch.equal(trainer.model.state_dict()[WATCHED], averages[-1])
    assert differing(plain.model.state_dict(), trainer.model.state_dict()) == []
    trained = load_file(tmp_path / "saved" / "checkpoint-6" / "training_weights.safetensors")
    assert not torch.equal(trained[WATCHED], averages[-1])
    assert trainer.evaluate()["eval_dev_spearman"] == trainer.state.log_history[-3]["eval_dev_spearman"]


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, tokenizer, step):
    fields = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_total_limit": None}
    whole = make_trainer(tmp_path / "whole", tokenizer, **fields)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", tokenizer, seed=5, **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert differing(whole.model.state_dict(), resumed.model.state_dict()) == []


def test_the_best_checkpoint_is_loaded_as_it_was_scored(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, **SELECTION)
    trainer.train()
    scores = [e["eval_dev_spearman"] for e in trainer.state.log_history if "eval_dev_spearman" in e]
    assert trainer.evaluate()["eval_dev_spearman"] == pytest.approx(max(scores), abs=1e-9)
    best = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    state = trainer.model.state_dict()
    assert [name for name in best if not torch.equal(best[name], state[name])] == []


def test_a_checkpoint_without_the_weights_in_training_is_refused(tmp_path, tokenizer, monkeypatch):
    fields = {"save_strategy": "steps", "save_steps": 3}
    with monkeypatch.context() as patched:
        patched.setattr("mocose_hf.training.schedule_free.ScheduleFreeWeights.save", lambda self, checkpoint: None)
        make_trainer(tmp_path, tokenizer, **fields).train()
    with pytest.raises(ValueError, match=r"training_weights.safetensors: cannot be read \(.*resume from another"):
        make_trainer(tmp_path, tokenizer, **fields).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
