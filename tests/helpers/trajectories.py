"""The stored reference run, and a model that follows it."""

import json

import pytest
import torch
from builders import tiny_bert_config
from datasets import Dataset
from safetensors.torch import load_file
from transformers import TrainerCallback

from mocose_hf import MoCoSEForPreTraining, MoCoSETrainer, MoCoSETrainingArguments

HEADS = {
    "pooler": "pooler",
    "projection.linear": "projection_head.0.0",
    "projection.layer_norm": "projection_head.0.1",
    "predictor.hidden": "predictor.0.0",
    "predictor.layer_norm": "predictor.0.1",
    "predictor.output": "predictor.1.0",
}
"""The references' names of the heads' layers, and ours."""


def our_name(name: str, branch: str = "online") -> str:
    """Translate a reference's parameter name, which has the encoder's without prefix."""
    prefix = "" if branch == "online" else "target."
    for theirs, ours in HEADS.items():
        if name.startswith(theirs + "."):
            return prefix + name.replace(theirs, ours, 1)
    return ("mocose.encoder." if branch == "online" else "target.encoder.") + name


class StoredBatches:
    """A collator that gives batches made beforehand: rows hold the number of their batch."""

    def __init__(self, batches):
        self.batches = batches

    def __call__(self, rows):
        input_ids, attention_mask = self.batches[rows[0]["number"]]
        return {"input_ids": input_ids, "attention_mask": attention_mask}


class LossOfEachStep(TrainerCallback):
    def __init__(self):
        self.losses = []

    def on_log(self, args, state, control, logs, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])


class InOrder(MoCoSETrainer):
    """Take the rows as they come, so that batches keep their order."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)


def follow(model, batches, output_dir, **arguments) -> list[float]:
    """Train on the batches in order, one optimizer step each; return the loss of each step."""
    rows = len(batches[0][0])
    settings = {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": rows,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "weight_decay": 1e-6,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    recorder = LossOfEachStep()
    trainer = InOrder(
        model=model,
        args=MoCoSETrainingArguments(**settings | arguments),
        train_dataset=Dataset.from_dict({"number": [i for i in range(len(batches)) for _ in range(rows)]}),
        data_collator=StoredBatches(batches),
        callbacks=[recorder],
    )
    trainer.train()
    return recorder.losses


def model_of(
    parameters: dict[str, torch.Tensor], encoder_config, kind=MoCoSEForPreTraining, **config
) -> MoCoSEForPreTraining:
    """Build a model without dropout whose online branch has these weights and whose target is its copy."""
    without_dropout = {"head_dropout_prob": 0.0, "encoder_dropout_prob": 0.0}
    model = kind(kind.config_class(encoder_config=encoder_config, **without_dropout, **config))
    state = model.state_dict()
    for name, value in parameters.items():
        state[our_name(name)].copy_(value)
    model.update_target(0.0)
    return model


def reference_names(model: MoCoSEForPreTraining) -> list[str]:
    """The names that the slow reference gives the online branch's parameters."""
    encoder = [f"{name}" for name, _ in model.mocose.encoder.named_parameters()]
    return encoder + [f"{layer}.{kind}" for layer in HEADS for kind in ("weight", "bias")]


def stored_run(shared_data):
    """The stored run: its settings, the encoder's configuration, its weights at the start, batches, and queue rows."""
    run = json.loads((shared_data / "oracle" / "trajectory.json").read_text())
    arrays = load_file(shared_data / "oracle" / "trajectory.safetensors")
    batches = list(zip(arrays.pop("input_ids"), arrays.pop("attention_mask"), strict=True))
    rows = arrays.pop("queue")
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    encoder_config = tiny_bert_config(
        **{name: run[name] for name in names},
        max_position_embeddings=512,
        hidden_act=run["hidden_act"],
        layer_norm_eps=run["layer_norm_eps"],
    )
    parameters = {name.removeprefix("encoder."): value for name, value in arrays.items()}
    return run, encoder_config, parameters, batches, rows


def follows_stored_run(run, kind: str, model, batches, output_dir) -> None:
    """Assert that training gives the losses and weights of the stored run of this kind, paper or released."""
    settings = {name: run[name] for name in ("ema_decay", "learning_rate", "weight_decay")}
    losses = follow(model, batches, output_dir, **settings)

    assert len(losses) == run["steps"] == 14
    assert losses == pytest.approx(run[kind]["loss"], abs=1e-5)
    state = model.state_dict()
    for name, expected in run[kind]["abs_sum_after"].items():
        branch = "target" if name.startswith("target.") else "online"
        ours = state[our_name(name.removeprefix("target.").removeprefix("encoder."), branch)]
        if "self.key.bias" not in name:  # its gradient is zero but for rounding, which Adam makes large
            assert ours.double().abs().sum().item() == pytest.approx(expected, rel=1e-5), name
