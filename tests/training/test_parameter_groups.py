"""The heads' own learning rate: each parameter moves by the rate of its part, and by nothing else."""

import pytest
import torch
from builders import tiny_bert_config, tiny_model
from resuming import run
from same_state import differences
from trainers import make_trainer

from mocose_hf.models.modeling_released import ReleasedMoCoSE, ReleasedMoCoSEConfig
from mocose_hf.models.modeling_simcse import SimCSE, SimCSEConfig
from mocose_hf.training.parameter_groups import head_parameters, set_head_learning_rate

PLAIN = {"optim": "sgd", "weight_decay": 0.0, "lr_scheduler_type": "constant", "max_steps": 1, "max_grad_norm": 0.0}


def after_one_step(folder, tokenizer, **fields) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder, tokenizer, tiny_model(), **PLAIN | fields)
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_encoder_and_heads_move_as_in_runs_at_their_own_rates(tmp_path, tokenizer):
    low = after_one_step(tmp_path / "low", tokenizer, learning_rate=1e-3)
    high = after_one_step(tmp_path / "high", tokenizer, learning_rate=1e-1)
    both = after_one_step(tmp_path / "both", tokenizer, learning_rate=1e-3, head_learning_rate=1e-1)
    heads = ("pooler.", "projection_head.", "predictor.")
    online = [name for name in both if name.startswith(("mocose.", *heads))]

    for name in online:
        assert torch.equal(both[name], (high if name.startswith(heads) else low)[name]), name
    assert sum(not torch.equal(low[name], high[name]) for name in online) > 20


def test_every_trainable_parameter_is_in_one_group_with_its_weight_decay(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(), weight_decay=0.1, head_learning_rate=1e-2)
    plain = make_trainer(tmp_path, tokenizer, trainer.model, weight_decay=0.1)
    groups, of_plain = trainer.create_optimizer().param_groups, plain.create_optimizer().param_groups
    decay = {id(p): group["weight_decay"] for group in of_plain for p in group["params"]}
    found = [(id(p), group["weight_decay"]) for group in groups for p in group["params"]]

    assert sorted(found) == sorted(decay.items())
    assert sorted((group["lr"], group["weight_decay"]) for group in groups) == [
        (1e-3, 0.0), (1e-3, 0.1), (1e-2, 0.0), (1e-2, 0.1)
    ]  # fmt: skip
    assert {id(p) for g in groups if g["lr"] == 1e-2 for p in g["params"]} == {
        id(p) for p in head_parameters(trainer.model)
    }


def test_the_schedule_scales_both_rates(tmp_path, tokenizer):
    trainer = make_trainer(
        tmp_path, tokenizer, tiny_model(), learning_rate=1e-3, head_learning_rate=1e-2, max_steps=4, warmup_steps=2
    )
    trainer.create_optimizer_and_scheduler(4)
    rates = []
    for _ in range(4):
        rates.append(sorted({group["lr"] for group in trainer.optimizer.param_groups}))
        trainer.optimizer.step()
        trainer.lr_scheduler.step()

    assert rates[0] == [0.0]
    assert rates[1:] == [pytest.approx([1e-3 * share, 1e-2 * share]) for share in (0.5, 1.0, 0.5)]


@pytest.mark.parametrize(
    ("kind", "config", "modules"),
    [
        (SimCSE, SimCSEConfig, {"pooler"}),
        (ReleasedMoCoSE, ReleasedMoCoSEConfig, {"pooler", "projection_head", "predictor", "target"}),
    ],
)
def test_what_other_algorithms_train_over_the_encoder_counts_as_heads(kind, config, modules):
    model = kind(config(encoder_config=tiny_bert_config()))
    heads = {id(parameter) for parameter in head_parameters(model)}
    assert {name.split(".")[0] for name, p in model.named_parameters() if id(p) in heads} == modules


def test_a_killed_run_continues_with_both_rates_and_refuses_others(tmp_path, tokenizer):
    whole = run(tmp_path / "whole", tokenizer, head_learning_rate=1e-2)
    run(tmp_path / "broken", tokenizer, [(6,)], head_learning_rate=1e-2)
    last = f"checkpoint-{whole.state.max_steps}"

    assert differences(tmp_path / "whole" / last, tmp_path / "broken" / last) == []
    with pytest.raises(ValueError, match=r"`head_learning_rate` was 0\.01 and is None now"):
        run(tmp_path / "broken", tokenizer)


def test_a_second_training_of_one_trainer_keeps_its_groups(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(), head_learning_rate=1e-2, max_steps=1)
    groups = [len(trainer.create_optimizer().param_groups) for _ in range(2)]
    assert groups == [4, 4]


def test_an_optimizer_of_the_users_own_is_left_alone(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, tiny_model(), head_learning_rate=1e-2)
    own = torch.optim.SGD(trainer.model.mocose.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`head_learning_rate` is for the optimizer that the trainer builds; leave"):
        type(trainer)(model=trainer.model, args=trainer.args, processing_class=tokenizer, optimizers=(own, None))
    with pytest.raises(ValueError, match="`head_learning_rate` needs an optimizer with parameter groups, and SGD"):
        set_head_learning_rate(own, trainer.model, 1e-2)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), "fast"])
def test_a_rate_that_is_none_is_refused(tmp_path, tokenizer, rate):
    with pytest.raises(ValueError, match="`head_learning_rate` is a number, 0 or above, but is"):
        make_trainer(tmp_path, tokenizer, head_learning_rate=rate)
