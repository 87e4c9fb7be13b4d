"""Each option of transformers works or is refused, and docs/command-line.md says which."""

import inspect
import re
from dataclasses import MISSING, fields

import pytest
from builders import REPOSITORY, tiny_model
from trainers import make_trainer, scored_pairs, training_arguments
from transformers import Trainer, TrainingArguments

from mocose_hf import MoCoSETrainer, MoCoSETrainingArguments
from mocose_hf.training.validation.transformers_options import (
    SUPPORTED,
    TRAINER_SUPPORTED,
    TRAINER_UNSUPPORTED,
    UNSUPPORTED,
)

FIELDS = {f.name: f for f in fields(MoCoSETrainingArguments)}
OTHER_VALUES = {
    "eval_accumulation_steps": 2,
    "fsdp": "full_shard",
    "fsdp_config": {"min_num_params": 1},
    "hub_strategy": "every_save",
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "label_smoothing_factor": 0.1,
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
}
"""A value to be refused of each field that is no switch."""


def test_every_field_and_argument_of_transformers_is_known():
    """If this fails after an upgrade of transformers, find out what the new option does here and write it down."""
    names = [*SUPPORTED, *UNSUPPORTED]
    assert len(names) == len(set(names))
    assert {f.name for f in fields(TrainingArguments)} == set(names)
    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert arguments == {*TRAINER_SUPPORTED, *TRAINER_UNSUPPORTED}


def test_the_page_says_of_each_option_what_becomes_of_it():
    page = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert set(re.findall(r"\w+", sections["Options of transformers that work"])) >= set(SUPPORTED)
    failing = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", sections["Options of transformers that fail"], re.M))
    assert failing == UNSUPPORTED
    arguments = dict(re.findall(r"^\| `(\w+)` \| (\w+)", sections["Arguments of the trainer"], re.M))
    assert arguments == dict.fromkeys(TRAINER_SUPPORTED, "works") | dict.fromkeys(TRAINER_UNSUPPORTED, "fails")


@pytest.mark.parametrize("name", sorted(set(UNSUPPORTED) - {"parallelism_config"}))
def test_a_field_without_effect_is_refused_by_name(tmp_path, name):
    default = FIELDS[name].default
    value = OTHER_VALUES.get(name, not default)
    assert default is MISSING or isinstance(default, bool) or name in OTHER_VALUES
    with pytest.raises(ValueError, match=rf"^`{name}` must stay \S+: .*{re.escape(UNSUPPORTED[name][-20:])}\.$"):
        training_arguments(tmp_path, **{name: value})


@pytest.mark.parametrize("name", TRAINER_UNSUPPORTED)
def test_an_argument_of_the_trainer_without_effect_is_refused_by_name(tmp_path, tokenizer, name):
    with pytest.raises(ValueError, match=rf"^`{name}` is not supported: "):
        MoCoSETrainer(tiny_model(), training_arguments(tmp_path), processing_class=tokenizer, **{name: lambda x: x})
    assert MoCoSETrainer(tiny_model(), training_arguments(tmp_path), processing_class=tokenizer, **{name: None})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train_sampling_strategy": "group_by_length"}, "`train_sampling_strategy` group_by_length is not supported"),
        ({"optim_args": "lr=1"}, "`optim_args` has no effect with `optim` adamw_torch"),
        ({"optim_target_modules": ["attention"]}, "`optim_target_modules` has no effect with `optim` adamw_torch"),
        ({"dataloader_persistent_workers": True}, "needs workers; set `dataloader_num_workers`"),
        ({"save_strategy": "best"}, "`save_strategy` best needs evaluations"),
        (
            {
                "lr_scheduler_type": "reduce_lr_on_plateau",
                "eval_strategy": "steps",
                "lr_scheduler_kwargs": {"mode": "min"},
            },
            "sets mode to min, but of `metric_for_best_model` dev_spearman more is better",
        ),
    ],
)
def test_a_combination_without_effect_is_refused(tmp_path, values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        training_arguments(tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optim": "sgd", "optim_args": "momentum=0.9,weight_decay=0.1"}, "which has no effect there; set `weight_d"),
        (
            {"optim": "sgd", "optim_args": "momentum=0.9,alpha=0.1"},
            "holds alpha=0.1, which has no effect with `optim`",
        ),
        (
            {"optim": "rmsprop", "optim_args": "lr_decay=0.1"},
            "holds lr_decay=0.1, which has no effect with `optim` rm",
        ),
        ({"optim": "sgd", "optim_args": "momentum=x"}, "`optim` sgd with `optim_args` momentum=x cannot be built (co"),
        ({"optim": "sgd", "optim_args": "nesterov=true"}, "cannot be built (Nesterov momentum requires a momentum"),
    ],
)
def test_arguments_of_an_optimizer_that_it_ignores_or_cannot_take_are_refused(tmp_path, tokenizer, values, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make_trainer(tmp_path, tokenizer, **values)


def test_arguments_of_an_optimizer_reach_it(tmp_path, tokenizer):
    trainer = make_trainer(tmp_path, tokenizer, optim="sgd", optim_args="momentum=0.9, nesterov=true", max_steps=1)
    trainer.train()
    group = trainer.optimizer.param_groups[0]
    assert (group["momentum"], group["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("name", ["adamw_bnb_8bit", "galore_adamw", "lomo", "grokadamw", "schedule_free_sgd"])
def test_an_optimizer_without_its_library_is_refused_before_training(tmp_path, tokenizer, monkeypatch, name):
    for library in ("bitsandbytes", "galore_torch", "lomo", "grokadamw", "schedulefree"):
        monkeypatch.setattr(f"transformers.trainer_optimizer.is_{library}_available", lambda *_: False)
    fields = {"optim_target_modules": ["query"]} if name.startswith("galore") else {}
    with pytest.raises(ValueError, match=rf"^`optim` {name} cannot be built \(.*install.*\); install what it needs"):
        make_trainer(tmp_path, tokenizer, optim=name, **fields)


@pytest.mark.parametrize(("metric", "rates"), [("dev_spearman", 2), ("dev_alignment", 1)])
def test_a_schedule_by_score_lowers_the_rate_when_the_score_gets_worse(
    tmp_path, tokenizer, monkeypatch, metric, rates
):
    """The figures fall: Spearman gets worse, alignment better."""
    falling = iter(range(100, 0, -1))
    figures = {"dev_spearman": 0.0, "dev_uniformity": -1.0, "dev_alignment": 0.0}
    monkeypatch.setattr(
        "mocose_hf.training.scoring_trainer.score_sets", lambda *a, **k: figures | {metric: float(next(falling))}
    )
    fields = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 1}}
    fields |= {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": metric}
    trainer = make_trainer(tmp_path, tokenizer, pairs=scored_pairs(), **fields)
    trainer.train()
    assert len({line["learning_rate"] for line in trainer.state.log_history if "learning_rate" in line}) >= rates
    assert (trainer.optimizer.param_groups[0]["lr"] < trainer.args.learning_rate) == (rates > 1)
