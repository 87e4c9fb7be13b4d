"""A training of an adapter: average, frozen base, memory of the optimizer, interruptions, processes."""

import shutil

import pytest
import torch
from builders import sentences, tiny_bert_config
from peft import LoraConfig
from processes import runs_agree
from resuming import Kill, Killed
from trainers import differing, make_trainer
from transformers import BertModel, TrainerCallback

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining
from mocose_hf.errors import InputError
from mocose_hf.training.checkpoint import needed_disk_space

SETTINGS = {"queue_size": 16, "queue_init_size": 4, "encoder_dropout_prob": 0.1}
PEFT_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["query", "dense"]}


def start(encoder_dir, seed: int = 0, **config) -> MoCoSEForPreTraining:
    torch.manual_seed(seed)
    settings = SETTINGS | {"peft_config": LoraConfig(**PEFT_CONFIG)} | config
    return MoCoSEForPreTraining.from_encoder_pretrained(str(encoder_dir), **settings)


class History(TrainerCallback):
    """Keep the adapter before the training and after each step."""

    def __init__(self, model):
        self._model = model
        self.adapters = [self._copy()]

    def _copy(self) -> dict[str, torch.Tensor]:
        encoder = self._model.mocose.encoder
        return {name: encoder.get_parameter(name).detach().clone() for name in self._model.mocose.adapter.trained}

    def on_step_end(self, args, state, control, **kwargs):
        self.adapters.append(self._copy())


def test_the_target_is_the_average_of_the_adapter_and_the_base_stays(encoder_dir, tokenizer, tmp_path):
    model = start(encoder_dir)
    before = {name: value.clone() for name, value in model.mocose.named_parameters() if not value.requires_grad}
    history = History(model)
    trainer = make_trainer(tmp_path, tokenizer, model, max_steps=5, callbacks=[history], ema_decay=0.6)
    trainer.train()
    decays = [line["ema_decay"] for line in trainer.state.log_history if "ema_decay" in line]
    average = history.adapters[0]
    for adapter, decay in zip(history.adapters[1:], decays, strict=True):
        average = {name: decay * average[name] + (1 - decay) * adapter[name] for name in average}
    for name, expected in average.items():
        torch.testing.assert_close(model.target["encoder"].get_parameter(name), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(average[name], adapter[name], atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.mocose.named_parameters() if name in before)

    trained = {id(value): name for name, value in model.named_parameters()}
    optimized = {trained[id(value)] for group in trainer.optimizer.param_groups for value in group["params"]}
    heads = {name for name in optimized if not name.startswith("mocose.")}
    assert {name.split(".")[0] for name in heads} == {"pooler", "projection_head", "predictor"}
    assert optimized - heads == {f"mocose.encoder.{name}" for name in model.mocose.adapter.trained}


def test_with_an_ema_decay_of_one_the_target_stays_the_start(encoder_dir, tokenizer, tmp_path):
    model = start(encoder_dir, use_pooler=False, num_projection_layers=0, num_predictor_layers=0)
    plain = MoCoSEForPreTraining.from_encoder_pretrained(str(encoder_dir), **SETTINGS)
    make_trainer(tmp_path, tokenizer, model, max_steps=3, ema_decay=1.0).train()
    batch = tokenizer(sentences(4), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = plain.mocose.encoder.eval()(**batch).last_hidden_state
        assert torch.equal(model.eval().target["encoder"](**batch).last_hidden_state, expected)
        assert not torch.allclose(model.mocose.encoder(**batch).last_hidden_state, expected, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"bf16": True, "padding_free": True, "gradient_accumulation_steps": 2}])
def test_a_killed_run_ends_in_the_same_bits(encoder_dir, tokenizer, tmp_path, fields):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6, "logging_steps": 2} | fields
    uninterrupted = make_trainer(tmp_path / "whole", tokenizer, start(encoder_dir), **settings)
    uninterrupted.train()
    for seed, kill in enumerate([(4,), (6,), None]):
        model = start(encoder_dir, seed)  # another adapter, and other heads: the checkpoint must bring them
        callbacks = [] if kill is None else [Kill(*kill)]
        trainer = make_trainer(tmp_path / "parts", tokenizer, model, callbacks=callbacks, **settings)
        if kill is None:
            trainer.train(resume_from_checkpoint=True)
            continue
        with pytest.raises(Killed):
            trainer.train(resume_from_checkpoint=True)
    assert not differing(uninterrupted.model.state_dict(), trainer.model.state_dict())
    assert trainer.state.log_history[-2]["loss"] == uninterrupted.state.log_history[-2]["loss"]
    weights, moments = (tmp_path / "parts" / "checkpoint-6" / name for name in ("model.safetensors", "optimizer.pt"))
    base_bytes = sum(value.nbytes for value in BertModel(tiny_bert_config(), add_pooling_layer=False).parameters())
    model_bytes = sum(value.nbytes for value in {*trainer.model.parameters(), *trainer.model.buffers()})
    assert weights.stat().st_size < model_bytes - base_bytes + 20_000  # the header has the names
    assert moments.stat().st_size < 2 * (model_bytes - base_bytes) + 60_000


def test_a_run_resumes_only_on_its_base_and_with_its_adapter(encoder_dir, tokenizer, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(encoder_dir, base)
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    make_trainer(tmp_path / "run", tokenizer, start(base), **settings).train()
    first = str(tmp_path / "run" / "checkpoint-1")

    def resume(**config) -> str:
        trainer = make_trainer(tmp_path / "run", tokenizer, start(base, **config), **settings)
        with pytest.raises(InputError) as caught:
            trainer.train(resume_from_checkpoint=first)
        return str(caught.value)

    assert "`peft_config` was" in resume(peft_config=LoraConfig(**PEFT_CONFIG | {"lora_alpha": 9}))
    assert "`peft_config` was" in resume(peft_config=None)
    torch.manual_seed(8)
    BertModel(tiny_bert_config()).save_pretrained(base)
    assert "`base_sha256` was" in resume()


def test_the_foreseen_disk_space_leaves_out_the_base_of_checkpoints(encoder_dir, tokenizer, tmp_path):
    adapted, full = start(encoder_dir), start(encoder_dir, peft_config=None, share_embeddings=False)
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 100}
    args = make_trainer(tmp_path, tokenizer, adapted, **settings).args
    base_bytes = sum(value.nbytes for value in full.mocose.parameters())
    for steps in (1, 11):
        saved = needed_disk_space(args, full, steps) - needed_disk_space(args, adapted, steps)
        assert saved > 3 * steps * base_bytes  # base and moments


@pytest.mark.parametrize(
    "fields",
    [
        {"fgsm_epsilon": 1e-3},
        {"token_cutoff": 0.2, "augment_view": "both"},
        {"activation_checkpointing": True, "queue_prefill": True},
        {"queue_monitor_steps": 1, "head_learning_rate": 1e-2},
    ],
)
def test_an_adapter_trains_with_other_options(encoder_dir, tokenizer, tmp_path, fields):
    model = start(encoder_dir)
    trainer = make_trainer(tmp_path, tokenizer, model, max_steps=2, **fields)
    before = {name: model.mocose.encoder.get_parameter(name).clone() for name in model.mocose.adapter.trained}
    trainer.train()
    assert any(not torch.equal(model.mocose.encoder.get_parameter(name), value) for name, value in before.items())
    if fields.get("queue_monitor_steps"):
        assert trainer.model.training
        assert (tmp_path / "queue_monitor.jsonl").is_file()


def test_activation_checkpointing_gives_an_adapter_the_same_gradient(encoder_dir, tokenizer, tmp_path):
    gradients = []
    for checkpointed in (False, True):
        model = start(encoder_dir, encoder_dropout_prob=0.0, head_dropout_prob=0.0)
        with torch.no_grad():
            for target, online in model.momentum_pairs():
                online.add_(0.05)
                target.add_(0.02)
        if checkpointed:
            model.activation_checkpointing_enable()
        batch = tokenizer(sentences(4), padding=True, return_tensors="pt")
        torch.manual_seed(1)
        model.train()(**batch).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "use_reentrant, which gives an adapter no gradient",
        ),
        ({"token_cutoff": 0.1}, "change word embeddings, which the adapter trains"),
    ],
)
def test_options_that_an_adapter_cannot_use_raise_a_one_line_error(encoder_dir, tokenizer, tmp_path, fields, message):
    peft_config = LoraConfig(**PEFT_CONFIG | {"target_modules": ["query", "word_embeddings"]})
    with pytest.raises(ValueError, match=message) as caught:
        make_trainer(tmp_path, tokenizer, start(encoder_dir, peft_config=peft_config), **fields)
    assert "\n" not in str(caught.value)


def test_deepspeed_is_not_supported_with_an_adapter(encoder_dir):
    model = start(encoder_dir)
    args = type("Arguments", (), {"deepspeed": "ds_configs/zero2.json"})
    with pytest.raises(ValueError, match="`deepspeed` is not supported with an adapter"):
        model.validate_settings(model.config, args)


def test_a_model_whose_base_is_not_known_is_not_trained(tokenizer, tmp_path):
    model = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=tiny_bert_config(), peft_config=PEFT_CONFIG, **SETTINGS))
    with pytest.raises(ValueError, match=r"no known base.*`from_encoder_pretrained"):
        make_trainer(tmp_path, tokenizer, model)


@pytest.mark.slow
def test_two_processes_train_an_adapter_as_one_does(encoder_dir, tmp_path):
    runs_agree(tmp_path, encoder_dir, {"config": {"peft_config": PEFT_CONFIG | {"lora_dropout": 0.0}}})
