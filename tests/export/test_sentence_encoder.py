"""The exported encoder loads without the package and gives the same embeddings."""

import json
import subprocess
import sys

import pytest
import torch
from builders import sentences, tiny_bert_config, tiny_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
)

from mocose_hf import MoCoSEConfig, MoCoSEForPreTraining
from mocose_hf.export.sentence_encoder import export_sentence_encoder

WITHOUT_THE_PACKAGE = """
import sys
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, pipeline

directory, pooling = sys.argv[1:3]
texts = open(sys.argv[3], encoding="utf-8").read().splitlines()
expected = load_file(sys.argv[4])
tokenizer = AutoTokenizer.from_pretrained(directory)
batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
model, info = AutoModel.from_pretrained(directory, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
with torch.no_grad():
    hidden = model.eval()(**batch).last_hidden_state
encoder = SentenceTransformer(directory, device="cpu")
embedded = encoder.encode(texts, batch_size=len(texts), convert_to_tensor=True)
features = pipeline("feature-extraction", model=directory)(texts, batch_size=len(texts), return_tensors=True)
length = batch["attention_mask"].sum(1).tolist()
features = torch.stack([f.reshape(-1, f.shape[-1])[0] for f in features])
assert "mocose_hf" not in sys.modules
print((hidden - expected["hidden"]).abs().max().item())
print((embedded - expected["pooled"]).abs().max().item())
print((features - expected["hidden"][:, 0]).abs().max().item())
print(encoder[1].pooling_mode, encoder.max_seq_length)
"""


def test_saved_tokenizer_forgets_its_last_truncation(tmp_path, tokenizer):
    tokenizer(sentences(3), padding=True, truncation=True, max_length=5)
    export_sentence_encoder(tiny_model(), tokenizer, tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert (stored["truncation"], stored["padding"]) == (None, None)
    assert len(tokenizer(sentences(1), truncation=True, max_length=4)["input_ids"][0]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_export_agrees_to_the_last_bit_without_the_package(tmp_path, tokenizer, pooling):
    model = tiny_model(pooling_mode=pooling).eval()
    texts = sentences(6)
    export_sentence_encoder(model, tokenizer, tmp_path / "encoder")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model.mocose(**batch)
    save_file(
        {"hidden": output.last_hidden_state, "pooled": output.pooler_output.contiguous()},
        tmp_path / "expected.safetensors",
    )
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    arguments = [tmp_path / "encoder", pooling, tmp_path / "texts.txt", tmp_path / "expected.safetensors"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == ["0.0", "0.0", "0.0", f"{pooling} 40"]


SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.mark.parametrize(
    "encoder_config",
    [
        tiny_bert_config(),
        RobertaConfig(**SIZES),
        MPNetConfig(**SIZES),
        DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=2, hidden_dim=48),
    ],
    ids=lambda config: config.model_type,
)
def test_exported_encoder_lacks_no_weight_and_holds_the_trained_pooler(tmp_path, tokenizer, encoder_config):
    model = MoCoSEForPreTraining(MoCoSEConfig(encoder_config=encoder_config))
    export_sentence_encoder(model, tokenizer, tmp_path)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    if encoder_config.model_type != "distilbert":
        assert torch.equal(encoder.pooler.dense.weight, model.pooler.weight)


@pytest.fixture
def base_class_tokenizer(tokenizer):
    """A tokenizer of transformers' own base class, such as ModernBERT's."""
    options = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, model_max_length=40, extra_special_tokens=["[X]"], **options
    )


def test_exported_tokenizer_has_the_names_that_transformers_4_knows(tmp_path, base_class_tokenizer):
    export_sentence_encoder(tiny_model(), base_class_tokenizer, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["[X]"]
    assert "extra_special_tokens" not in written
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "a cat [X] sees the dog"
    assert again(text).data == base_class_tokenizer(text).data
    assert (again.extra_special_tokens, again.model_max_length) == (["[X]"], 40)


def test_exported_tokenizer_has_no_trace_of_this_machine(tmp_path, encoder_dir):
    export_sentence_encoder(tiny_model(), AutoTokenizer.from_pretrained(encoder_dir), tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written.keys() & {"is_local", "local_files_only", "name_or_path", "backend"} == set()
    assert str(encoder_dir) not in "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json"))


def test_exported_files_have_one_mode(tmp_path, tokenizer):
    export_sentence_encoder(tiny_model(), tokenizer, tmp_path)
    assert len({path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}) == 1


@pytest.mark.parametrize(
    ("encoder_config", "expected"),
    [
        (
            ModernBertConfig(
                **SIZES | {"num_hidden_layers": 3},
                global_rope_theta=1000.0,
                local_rope_theta=77.0,
                layer_types=["full_attention", "sliding_attention", "full_attention"],
                pad_token_id=0,
            ),
            {"global_rope_theta": 1000.0, "local_rope_theta": 77.0, "global_attn_every_n_layers": 2},
        ),
        (Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16, rope_theta=777.0), {"rope_theta": 777.0}),
    ],
    ids=["modernbert", "qwen3"],
)
def test_rotary_embeddings_are_written_under_the_names_of_transformers_4_too(
    tmp_path, tokenizer, encoder_config, expected
):
    model = MoCoSEForPreTraining(
        MoCoSEConfig(encoder_config=encoder_config, pooling_mode="mean", share_embeddings=False)
    )
    export_sentence_encoder(model, tokenizer, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert {name: written.get(name) for name in expected} == expected
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.rope_parameters == encoder_config.rope_parameters


def test_export_holds_no_pickle_and_no_training_state(tmp_path, tokenizer):
    export_sentence_encoder(tiny_model(), tokenizer, tmp_path)
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} <= {".json", ".safetensors", ".txt"}
    names = load_file(tmp_path / "model.safetensors").keys()
    assert not [name for name in names if name.split(".")[0] in ("target", "queue", "predictor", "mocose")]


def test_new_training_from_an_export_keeps_its_pooling(tmp_path, tokenizer):
    model = tiny_model(pooling_mode="mean")
    export_sentence_encoder(model, tokenizer, tmp_path)
    again = MoCoSEForPreTraining.from_encoder_pretrained(str(tmp_path))
    assert again.config.pooling_mode == "mean"
    assert torch.equal(again.pooler.weight, model.pooler.weight)
