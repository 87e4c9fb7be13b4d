"""Reading and writing the directory layout of sentence-transformers."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel

from mocose_hf import MoCoSEForPreTraining
from mocose_hf.models import loading as pretrained_encoders
from mocose_hf.models.loading import load_encoder, load_tokenizer
from mocose_hf.models.pooling import POOLING_MODES
from mocose_hf.models.sentence_transformers_format import (
    SentenceTransformersLayout,
    read_layout,
    write_layout,
)

OLD_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def old_pooling(*modes: str) -> dict:
    return {"word_embedding_dimension": 32} | {key: mode in modes for mode, key in OLD_KEYS.items()}


def write_modules(directory, modules: list[tuple[str, str]], package: str = "sentence_transformers.models"):
    """Write modules.json for pairs of path and class name."""
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{package}.{kind}"} for i, (path, kind) in enumerate(modules)
    ]
    write_json(directory / "modules.json", listed)


def make_layout(directory, pooling: dict, encoder_folder: str = "", max_seq_length: int | None = None, more=()):
    write_modules(directory, [(encoder_folder, "Transformer"), ("1_Pooling", "Pooling"), *more])
    write_json(directory / "1_Pooling" / "config.json", pooling)
    if max_seq_length is not None:
        content = {"max_seq_length": max_seq_length, "do_lower_case": False}
        write_json(directory / encoder_folder / "sentence_bert_config.json", content)
    return str(directory)


@pytest.fixture
def make_model(tmp_path, encoder_dir):
    """Make a directory that sentence-transformers would load, out of the tiny encoder."""

    def make(pooling: dict, encoder_folder: str = "", max_seq_length: int | None = 17, more=()) -> str:
        directory = tmp_path / "model"
        shutil.copytree(encoder_dir, directory / encoder_folder)
        return make_layout(directory, pooling, encoder_folder, max_seq_length, more)

    return make


def test_a_plain_directory_has_no_layout(encoder_dir):
    assert read_layout(str(encoder_dir)) is None


@pytest.mark.parametrize("mode", OLD_KEYS)
def test_old_booleans_name_the_pooling(tmp_path, mode):
    directory = make_layout(tmp_path, old_pooling(mode), max_seq_length=128)
    assert read_layout(directory) == SentenceTransformersLayout("", mode, 128, ())


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
        ({"pooling_mode": ["max"]}, "max"),
        ({"pooling_mode": "max", **old_pooling("mean")}, "max"),
        ({}, "mean"),
        (old_pooling(), "mean"),
    ],
)
def test_new_key_and_defaults_of_the_pooling(tmp_path, pooling, mode):
    assert read_layout(make_layout(tmp_path, pooling)).pooling_mode == mode


def test_classes_are_known_by_their_last_name(tmp_path):
    write_modules(
        tmp_path,
        [("", "transformer.Transformer"), ("1_Pooling", "pooling.Pooling"), ("2_Normalize", "normalize.Normalize")],
        package="sentence_transformers.sentence_transformer.modules",
    )
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "max"})
    assert read_layout(str(tmp_path)) == SentenceTransformersLayout("", "max", None, (), normalize=True)


def test_an_encoder_in_a_folder_of_its_own(tmp_path):
    directory = make_layout(tmp_path, old_pooling("cls"), encoder_folder="0_Transformer", max_seq_length=64)
    assert read_layout(directory) == SentenceTransformersLayout("0_Transformer", "cls", 64, ())


def test_other_modules_are_reported(tmp_path):
    more = [("2_Dense", "Dense"), ("3_Normalize", "Normalize"), ("4_LayerNorm", "LayerNorm")]
    assert read_layout(make_layout(tmp_path, old_pooling("mean"), more=more)).other_modules == ("Dense", "LayerNorm")


def test_without_a_pooling_module_the_mean_is_taken(tmp_path):
    write_modules(tmp_path, [("", "Transformer")])
    assert read_layout(str(tmp_path)) == SentenceTransformersLayout("", "mean", None, ())


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json"])
def test_a_file_that_is_no_json_is_named(tmp_path, name):
    directory = make_layout(tmp_path, old_pooling("mean"), max_seq_length=9)
    (tmp_path / name).write_text("[{", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name}: not valid JSON \(.*\); fetch the model again"):
        read_layout(directory)


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        (old_pooling("weightedmean"), "weightedmean"),
        (old_pooling("cls", "mean"), r"cls\+mean"),
        ({"pooling_mode": ["mean", "max"]}, r"mean\+max"),
    ],
)
def test_an_unsupported_pooling_raises_an_error(make_model, pooling, mode):
    directory = make_model(pooling)
    with pytest.raises(
        ValueError, match=rf"model pools by `{mode}`, which is none of cls, mean, max, lasttoken; set `pooling_mode`"
    ):
        MoCoSEForPreTraining.from_encoder_pretrained(directory)


def test_a_given_pooling_is_the_remedy_for_one_that_is_none_of_ours(make_model):
    directory = make_model(old_pooling("weightedmean"))
    model = MoCoSEForPreTraining.from_encoder_pretrained(directory, pooling_mode="mean")
    assert model.config.pooling_mode == "mean"


@pytest.mark.parametrize("max_seq_length", [None, 24])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_written_layout_is_read_back(tmp_path, mode, max_seq_length):
    write_layout(tmp_path, mode, 32, max_seq_length)
    assert read_layout(str(tmp_path)) == SentenceTransformersLayout("", mode, max_seq_length, ())


def test_a_written_layout_has_the_files_of_sentence_transformers(tmp_path):
    write_layout(tmp_path, "cls", 32, 24)
    modules = json.loads((tmp_path / "modules.json").read_text(encoding="utf-8"))
    assert [(module["idx"], module["path"], module["type"]) for module in modules] == [
        (0, "", "sentence_transformers.models.Transformer"),
        (1, "1_Pooling", "sentence_transformers.models.Pooling"),
    ]
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    assert pooling["word_embedding_dimension"] == 32
    assert [name for name, value in pooling.items() if value is True] == ["include_prompt", "pooling_mode_cls_token"]
    assert {name for name in pooling if name.startswith("pooling_mode_")} == set(OLD_KEYS.values())
    length = json.loads((tmp_path / "sentence_bert_config.json").read_text(encoding="utf-8"))
    assert length["max_seq_length"] == 24


def test_a_layout_can_be_written_over(tmp_path):
    write_layout(tmp_path, "cls", 32, 24)
    write_layout(tmp_path, "mean", 32, None)
    assert read_layout(str(tmp_path)) == SentenceTransformersLayout("", "mean", None, ())


def test_a_plain_encoder_is_pooled_by_cls_and_keeps_its_length(encoder_dir):
    assert load_encoder(str(encoder_dir)).pooling_mode == "cls"
    assert load_tokenizer(str(encoder_dir)).model_max_length == 40


@pytest.mark.parametrize("encoder_folder", ["", "0_Transformer"])
def test_pooling_length_and_weights_of_a_layout_are_honoured(make_model, encoder_dir, encoder_folder):
    directory = make_model(old_pooling("mean"), encoder_folder)
    source = load_encoder(directory)
    expected = AutoModel.from_pretrained(encoder_dir).state_dict()
    loaded = source.encoder.state_dict()
    assert source.pooling_mode == "mean"
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert torch.equal(source.pooler.weight, expected["pooler.dense.weight"])

    tokenizer = load_tokenizer(directory)
    assert tokenizer.model_max_length == 17
    assert len(tokenizer("a " * 30, truncation=True)["input_ids"]) == 17

    model = MoCoSEForPreTraining.from_encoder_pretrained(directory)
    assert model.config.pooling_mode == "mean"
    assert torch.equal(model.pooler.weight, expected["pooler.dense.weight"])
    weight = "encoder.layer.1.output.dense.weight"
    assert torch.equal(model.mocose.encoder.state_dict()[weight], expected[weight])


def test_a_layout_without_length_keeps_the_tokenizers_own(make_model):
    assert load_tokenizer(make_model(old_pooling("mean"), max_seq_length=None)).model_max_length == 40


@pytest.mark.parametrize(("given", "used"), [(None, "max"), ("cls", "cls"), ("mean", "mean")])
def test_a_given_pooling_goes_before_that_of_the_layout(make_model, tokenizer, given, used):
    directory = make_model(old_pooling("max"))
    options = {} if given is None else {"pooling_mode": given}
    model = MoCoSEForPreTraining.from_encoder_pretrained(directory, **options).eval()
    assert model.config.pooling_mode == used
    batch = tokenizer(["a cat sees the dog"], return_tensors="pt")
    with torch.no_grad():
        output = model.mocose(**batch)
    tokens = output.last_hidden_state[0]
    pooled = {"cls": tokens[0], "mean": tokens.mean(0), "max": tokens.max(0).values}[used]
    torch.testing.assert_close(output.pooler_output[0], pooled)


def test_modules_that_are_left_out_are_warned_of(make_model, monkeypatch):
    said = []
    monkeypatch.setattr(pretrained_encoders.logger, "warning", said.append)
    directory = make_model(old_pooling("mean"), more=[("2_Dense", "Dense"), ("3_Normalize", "Normalize")])
    load_encoder(directory)
    assert len(said) == 1
    assert directory in said[0]
    assert "Dense" in said[0]
    assert "Normalize" not in said[0]


def test_no_warning_if_nothing_is_left_out(make_model, monkeypatch):
    said = []
    monkeypatch.setattr(pretrained_encoders.logger, "warning", said.append)
    load_encoder(make_model(old_pooling("mean"), more=[("2_Normalize", "Normalize")]))
    assert said == []


def test_without_a_network_an_unknown_name_raises_an_error_without_retries(tmp_path, monkeypatch):
    def unresolved(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unresolved)
    monkeypatch.setattr("mocose_hf.models.loading.getproxies", dict)
    asked = []
    monkeypatch.setattr("mocose_hf.models.loading.read_layout", lambda name, **options: asked.append(options))
    with pytest.raises(OSError, match=r"couldn.t connect"):
        load_encoder("nosuchmodel", cache_dir=str(tmp_path))
    assert asked == [{"cache_dir": str(tmp_path), "local_files_only": True}]
