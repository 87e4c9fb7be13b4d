"""Adapters of peft: one frozen base for both branches, the target an average of the adapter alone."""

import copy
import shutil

import pytest
import torch
from builders import random_batch, sentences, tiny_bert_config
from families import FAMILIES
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from trainers import make_trainer
from transformers import AutoModel, AutoModelForPreTraining, BertModel

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining, MoCoSEModel
from mocose_hf.errors import install_command
from mocose_hf.export.sentence_encoder import export_sentence_encoder
from mocose_hf.models import adapters
from mocose_hf.models.loading import load_encoder, load_tokenizer, save_tokenizer
from mocose_hf.models.modeling_released import ReleasedMoCoSE
from mocose_hf.models.modeling_simcse import SimCSE
from mocose_hf.models.views import View

SMALL = {"queue_size": 16, "queue_init_size": 4}
TINY = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}


def lora(**fields) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | fields)


def start(encoder_dir, peft_config=None, kind=MoCoSEForPreTraining, **config):
    torch.manual_seed(0)
    if kind is MoCoSEForPreTraining:
        config = SMALL | config
    return kind.from_encoder_pretrained(str(encoder_dir), peft_config=peft_config or lora(), **config)


def shake(model, size: float = 0.3) -> None:
    """Give online and target adapters values of their own, as training does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    model.update_target(0.5)


def embed(encoder, tokenizer) -> torch.Tensor:
    batch = tokenizer(sentences(6, seed=1), padding=True, return_tensors="pt")
    with torch.no_grad():
        return encoder.eval()(**batch).last_hidden_state[:, 0]


def test_both_branches_share_one_copy_of_the_base_in_memory(encoder_dir):
    model = start(encoder_dir, use_pooler=False, num_projection_layers=0, num_predictor_layers=0)
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in model.parameters()}
    base = BertModel(tiny_bert_config(), add_pooling_layer=False)
    base_bytes = sum(value.nbytes for value in base.parameters())
    factors = 4 * 2 * (4 * (32 + 32) + (32 + 48) * 2) * 4  # rank, layers, four square and two oblong modules, float32
    assert sum(storages.values()) == base_bytes + 2 * factors
    full = MoCoSEForPreTraining.from_encoder_pretrained(str(encoder_dir), share_embeddings=False, **SMALL)
    assert sum(value.nbytes for value in full.mocose.parameters()) == base_bytes
    assert sum(value.nbytes for value in full.target["encoder"].parameters()) == base_bytes


def test_keys_are_those_of_peft_with_the_target_adapter_on_a_base_of_its_own(encoder_dir):
    model = start(encoder_dir).eval()
    shake(model)
    reference = get_peft_model(BertModel.from_pretrained(encoder_dir, add_pooling_layer=False), lora())
    weights = {f"base_model.model.{name}": value for name, value in model.target["encoder"].named_parameters()}
    assert not reference.load_state_dict(weights, strict=False).unexpected_keys
    batch = random_batch()
    pooled = reference.eval()(**batch).last_hidden_state[:, 0]
    keys = model.target["projection_head"](model.target["pooler"](pooled))
    view = View(**batch)
    torch.testing.assert_close(model.encode_keys(view), F.normalize(keys, dim=-1), atol=1e-6, rtol=0)
    online = model.mocose.encoder.state_dict()
    assert not torch.allclose(model.encode_queries(view), model.encode_keys(view), atol=1e-3)
    assert all(torch.equal(value, online[name]) for name, value in model.mocose.encoder.state_dict().items())


def test_the_target_starts_as_the_online_adapter_which_changes_nothing(encoder_dir, tokenizer):
    model = start(encoder_dir)
    assert len(model.target["encoder"].pairs()) == len(model.mocose.adapter.trained) == 24
    assert all(torch.equal(target, online) for target, online in model.momentum_pairs())
    assert torch.equal(
        embed(model.mocose.encoder, tokenizer), embed(BertModel.from_pretrained(encoder_dir), tokenizer)
    )


def test_a_saved_model_leaves_out_its_base_and_loads_the_same_bits(encoder_dir, tmp_path):
    model = start(encoder_dir)
    shake(model)
    model.save_pretrained(tmp_path)
    full = MoCoSEForPreTraining.from_encoder_pretrained(str(encoder_dir), **SMALL)
    full.save_pretrained(tmp_path / "full")
    size, full_size = ((folder / "model.safetensors").stat().st_size for folder in (tmp_path, tmp_path / "full"))
    assert size < full_size - sum(value.nbytes for value in full.mocose.parameters())
    for kind, prefix in ((MoCoSEForPreTraining, ""), (MoCoSEModel, "mocose.")):
        again, info = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"]
        state = model.state_dict()
        assert all(torch.equal(value, state[f"{prefix}{name}"]) for name, value in again.state_dict().items())
    again = AutoModelForPreTraining.from_pretrained(tmp_path)
    trainable = [[name for name, value in m.named_parameters() if value.requires_grad] for m in (model, again)]
    assert trainable[0] == trainable[1]
    assert again.config.peft_config == model.config.peft_config


@pytest.mark.parametrize(("change", "reason"), [("weights", "is not the encoder"), ("gone", "cannot be loaded")])
def test_a_saved_model_whose_base_has_changed_raises_an_error(encoder_dir, tmp_path, change, reason):
    base = tmp_path / "base"
    shutil.copytree(encoder_dir, base)
    start(base).save_pretrained(tmp_path / "saved")
    if change == "weights":
        torch.manual_seed(8)
        BertModel(tiny_bert_config()).save_pretrained(base)
    else:
        shutil.rmtree(base)
    with pytest.raises(ValueError, match=rf"base.*{reason}.*correct `base_model_name_or_path`") as caught:
        MoCoSEForPreTraining.from_pretrained(tmp_path / "saved")
    assert "\n" not in str(caught.value)


def test_a_model_that_names_itself_as_its_base_raises_an_error(encoder_dir, tmp_path):
    model = start(encoder_dir)
    model.config.peft_config["base_model_name_or_path"] = str(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is below itself"):
        MoCoSEForPreTraining.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        lora(use_dora=True, use_rslora=True),
        lora(target_modules=["query", "word_embeddings"], bias="all"),
        lora(target_modules=["query"], modules_to_save=["intermediate.dense"]),
        LoHaConfig(r=4, target_modules=["query", "value"]),
        LoKrConfig(r=4, target_modules=["query", "value"]),
        IA3Config(target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]),
    ],
    ids=["dora", "bias and embeddings", "modules to save", "loha", "lokr", "ia3"],
)
def test_each_type_of_adapter_trains_saves_and_merges(encoder_dir, tokenizer, tmp_path, config):
    model = start(encoder_dir, config).train()
    before = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    assert torch.equal(
        embed(model.mocose.encoder, tokenizer), embed(BertModel.from_pretrained(encoder_dir), tokenizer)
    )
    model.train()(**random_batch()).loss.backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)
    shake(model, 0.1)
    assert all(torch.equal(value, before[name]) for name, value in model.mocose.named_parameters() if name in before)
    expected = embed(model.mocose.encoder, tokenizer)
    assert not torch.allclose(expected, embed(BertModel.from_pretrained(encoder_dir), tokenizer), atol=1e-3)
    model.save_pretrained(tmp_path / "saved")
    again = MoCoSEForPreTraining.from_pretrained(tmp_path / "saved").eval()
    batch = random_batch()
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)
    export_sentence_encoder(model, tokenizer, tmp_path / "merged")
    merged = embed(AutoModel.from_pretrained(tmp_path / "merged"), tokenizer)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    export_sentence_encoder(model, tokenizer, tmp_path / "adapter", merge_adapter=False)
    torch.testing.assert_close(
        embed(load_encoder(str(tmp_path / "adapter")).encoder, tokenizer), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_trains_packed_resumes_and_exports(tmp_path, tokenizer, family):
    torch.manual_seed(3)
    base = tmp_path / "base"
    config = FAMILIES[family]()
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = config.eos_token_id = None
    AutoModel.from_config(config).save_pretrained(base)
    save_tokenizer(tokenizer, base)
    settings = {"padding_free": True, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    model = start(base, pooling_mode="mean", encoder_dropout_prob=0.1)
    frozen = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    make_trainer(tmp_path / "run", tokenizer, model, **settings).train()
    online = model.mocose.named_parameters(prefix="mocose")
    assert all(torch.equal(value, frozen[name]) for name, value in online if name in frozen)

    again = start(base, pooling_mode="mean", encoder_dropout_prob=0.1)
    trainer = make_trainer(tmp_path / "run", tokenizer, again, **settings)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())

    texts = sentences(6, seed=1)
    expected = model.encode(texts, tokenizer)
    for merged in (True, False):
        folder = export_sentence_encoder(model, tokenizer, tmp_path / str(merged), merge_adapter=merged)
        assert (folder / "config.json").exists() == merged
        embeddings = SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
        torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)


def test_an_exported_adapter_loads_by_peft_and_transformers_and_replaces_a_merged_one(
    encoder_dir, tokenizer, tmp_path
):
    model = start(encoder_dir)
    shake(model)
    expected = embed(model.mocose.encoder, tokenizer)
    export_sentence_encoder(model, tokenizer, tmp_path)
    export_sentence_encoder(model, tokenizer, tmp_path, merge_adapter=False)
    assert not (tmp_path / "model.safetensors").exists()
    base = AutoModel.from_pretrained(encoder_dir)
    assert torch.equal(embed(PeftModel.from_pretrained(base, str(tmp_path)), tokenizer), expected)
    assert torch.equal(embed(AutoModel.from_pretrained(tmp_path), tokenizer), expected)
    assert load_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
    export_sentence_encoder(model, tokenizer, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()


def test_an_adapter_does_not_replace_its_base(encoder_dir, tokenizer, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(encoder_dir, base)
    with pytest.raises(ValueError, match="holds the base of the adapter; name another directory"):
        export_sentence_encoder(start(base), tokenizer, base, merge_adapter=False)
    assert (base / "model.safetensors").is_file()


def test_a_saved_model_starts_another_training_with_the_adapter_merged(encoder_dir, tokenizer, tmp_path):
    model = start(encoder_dir)
    shake(model)
    model.save_pretrained(tmp_path)
    expected = embed(model.mocose.encoder, tokenizer)
    full = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path), **SMALL)
    torch.testing.assert_close(embed(full.mocose.encoder, tokenizer), expected, atol=1e-5, rtol=0)
    second = start(tmp_path)
    assert second.config.peft_config["base_model_name_or_path"] == str(tmp_path)
    assert torch.equal(embed(second.mocose.encoder, tokenizer), embed(full.mocose.encoder, tokenizer))
    second.save_pretrained(tmp_path / "second")
    again = MoCoSEForPreTraining.from_pretrained(tmp_path / "second")
    assert torch.equal(embed(again.mocose.encoder, tokenizer), embed(full.mocose.encoder, tokenizer))


def test_a_peft_model_hands_over_its_adapter_and_stays_as_it_is(encoder_dir, tokenizer, tmp_path):
    torch.manual_seed(1)
    given = get_peft_model(BertModel.from_pretrained(encoder_dir), lora(init_lora_weights=False), adapter_name="mine")
    expected = embed(given, tokenizer)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    model = MoCoSEForPreTraining.from_encoder_pretrained(given, **SMALL)
    assert torch.equal(embed(model.mocose.encoder, tokenizer), expected)
    assert all(torch.equal(target, online) for target, online in model.momentum_pairs())
    make_trainer(tmp_path, tokenizer, model, max_steps=1).train()
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    model.save_pretrained(tmp_path)
    assert embed(MoCoSEForPreTraining.from_pretrained(tmp_path).mocose.encoder, tokenizer).isfinite().all()

    with pytest.raises(ValueError, match="leave out one of them"):
        MoCoSEForPreTraining.from_encoder_pretrained(given, peft_config=lora())
    given.add_adapter("second", lora())
    with pytest.raises(ValueError, match=r"adapters mine, second; keep one by `delete_adapter`"):
        MoCoSEForPreTraining.from_encoder_pretrained(given)
    with pytest.raises(TypeError, match="not a BertModel"):
        MoCoSEForPreTraining.from_encoder_pretrained(BertModel.from_pretrained(encoder_dir))


def test_simcse_trains_an_adapter_without_a_target(encoder_dir, tokenizer, tmp_path):
    model = start(encoder_dir, kind=SimCSE)
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(tmp_path, tokenizer, model, max_steps=2)
    trainer.train()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"mocose.encoder.{name}" for name in model.mocose.adapter.trained} | {
        "pooler.weight",
        "pooler.bias",
    }
    assert not model.momentum_pairs()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_config": PrefixTuningConfig(num_virtual_tokens=2)}, r"`peft_config` is of the type PREFIX_TUNING"),
        ({"peft_config": lora(init_lora_weights="pissa")}, "`init_lora_weights` is pissa, which changes the base"),
        ({"peft_config": lora(layer_replication=[(0, 2)])}, "`layer_replication` of the adapter is not supported"),
        ({"peft_config": {**TINY, "rank": 4}}, "`peft_config` has an entry rank, which is no field"),
        ({"peft_config": {**TINY, "r": 0}}, r"`peft_config` cannot be used|the adapter does not fit"),
        ({"peft_config": lora(target_modules=["keys"])}, r"the adapter does not fit `bert` .*or all-linear"),
        ({"share_embeddings": False}, "`share_embeddings` is false, but with an adapter"),
    ],
)
def test_an_adapter_that_cannot_be_trained_raises_a_one_line_error(encoder_dir, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        start(encoder_dir, **settings)
    assert "\n" not in str(caught.value)


def test_the_released_algorithm_takes_no_adapter(encoder_dir):
    with pytest.raises(ValueError, match=r"`peft_config` freezes the word embeddings.*use the algorithm mocose"):
        ReleasedMoCoSE.from_encoder_pretrained(str(encoder_dir), peft_config=lora())


def test_a_vocabulary_under_an_adapter_keeps_its_size(encoder_dir):
    with pytest.raises(ValueError, match="keeps the vocabulary of its base"):
        start(encoder_dir).resize_token_embeddings(130)


def test_missing_peft_raises_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="adapters need peft, which is not installed; run ") as caught:
        MoCoSEConfig(encoder_config=tiny_bert_config(), peft_config=TINY)
    assert install_command("peft") in str(caught.value)
