"""`mocose train --use_peft true`, and what the other commands make of its result."""

import json
import shutil

import pytest
import torch
from builders import sentences
from peft import LoraConfig
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from trainers import scored_pairs

import mocose_hf.models.adapters
import run_mocose
from mocose_hf import MoCoSEForPreTraining
from mocose_hf.cli.main import dispatch
from mocose_hf.errors import EXIT_BAD_INPUT, install_command
from mocose_hf.export.sentence_encoder import export_sentence_encoder

SMALL = "--use_peft true --lora_r 4 --per_device_train_batch_size 8 --max_steps 3 --learning_rate 1e-2 --use_cpu true"


@pytest.fixture
def train(encoder_dir, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(sentences(40)) + "\n", encoding="utf-8")

    def run(*more, start=encoder_dir, code: int = 0, options: str = SMALL) -> str:
        argv = ["--model_name_or_path", start, "--train_file", tmp_path / "text.txt", "--output_dir", tmp_path / "out"]
        assert run_mocose.main([*map(str, (*argv, *more)), *options.split()]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    return run


def write_pairs(path):
    rows = [f"{row['sentence1']}\t{row['sentence2']}\t{row['score']}" for row in scored_pairs()]
    path.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("merged", [True, False])
def test_a_run_trains_an_adapter_that_all_commands_read(train, encoder_dir, tmp_path, merged, capsys):
    printed = train("--recipe", "domain", "--merge_with_start", 0.25, "--merge_adapter", str(merged).lower())
    assert "`share_embeddings` is ignored because with an adapter both branches share" in printed
    out, texts = tmp_path / "out", sentences(6, seed=1)
    assert (out / "adapter_config.json").exists() == (not merged) == (not (out / "model.safetensors").exists())
    with safe_open(out / "checkpoint-3" / "model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "base_layer" in name or "word_embeddings" in name]  # noqa: SIM118
    if not merged:
        saved = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
        assert (saved["r"], saved["lora_alpha"], saved["lora_dropout"]) == (4, 32, 0.05)
        assert saved["base_model_name_or_path"] == str(encoder_dir)
        assert len(saved["target_modules"]) == 12
    model = MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose")
    exported = SentenceTransformer(str(out), device="cpu")
    expected = exported.encode(texts, convert_to_tensor=True)
    with torch.no_grad():
        own = model.encode(texts, exported.tokenizer)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)

    assert dispatch(["export", str(out), str(tmp_path / "plain")]) == 0
    again = SentenceTransformer(str(tmp_path / "plain"), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)
    assert dispatch(["merge", str(encoder_dir), str(out), "--weight", "1", "-o", str(tmp_path / "one")]) == 0
    again = SentenceTransformer(str(tmp_path / "one"), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=0)
    pairs = write_pairs(tmp_path / "pairs.tsv")
    assert dispatch(["evaluate", str(out), "--validation_file", str(pairs)]) == 0
    capsys.readouterr()
    assert dispatch(["search", str(out), str(tmp_path / "text.txt"), sentences(1)[0]]) == 0
    assert sentences(1)[0] in capsys.readouterr().out
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "`use_peft`" in card
    assert "`lora_r`" in card


def test_a_merge_with_the_start_shrinks_the_change_of_the_weights(train, encoder_dir, tmp_path):
    weights = {}
    for share in (0, 0.25):
        train("--merge_with_start", share, "--overwrite_output_dir", "true")
        with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
            weights[share] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with safe_open(encoder_dir / "model.safetensors", framework="pt") as file:
        for name in weights[0].keys() - {"pooler.dense.weight", "pooler.dense.bias"}:
            start = file.get_tensor(name)
            expected = start + 0.75 * (weights[0][name] - start)
            torch.testing.assert_close(weights[0.25][name], expected, atol=1e-6, rtol=0)
            is_adapted = name.startswith("encoder.") and name.endswith(("query.weight", "dense.weight"))
            assert not (is_adapted and torch.equal(weights[0][name], start)), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--lora_r 4", "--lora_r is of the adapter of --use_peft, which is false; give --use_peft true"),
        ("--lora_target_modules query value", "--lora_target_modules is of the adapter of --use_peft"),
        ("--merge_adapter false", "--merge_adapter false: there is no adapter"),
        ("--use_peft true --algorithm released", "--use_peft freezes the word embeddings"),
        ("--use_peft true --share_embeddings false", "--share_embeddings is false, but with an adapter"),
        ("--use_peft true --push_to_hub true", "--push_to_hub would upload the path"),
        ("--use_peft true --lora_r 0", "--lora_r is at least 1, but is 0"),
        ("--use_peft true --lora_dropout 1", "--lora_dropout lies in [0, 1), but is 1.0"),
        ("--use_peft true --lora_target_modules keys", "the adapter does not fit `bert`"),
    ],
)
def test_options_that_cannot_work_are_bad_input_in_one_line(train, tmp_path, options, message):
    line = train(code=EXIT_BAD_INPUT, options=f"{options} --per_device_train_batch_size 8 --use_cpu true")
    assert message in line.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_an_adapter_without_training_text_is_bad_input(encoder_dir, tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs.tsv")
    argv = ["--model_name_or_path", str(encoder_dir), "--validation_file", str(pairs), "--use_peft", "true"]
    assert run_mocose.main(argv) == EXIT_BAD_INPUT
    assert "--use_peft trains an adapter, but nothing is trained" in capsys.readouterr().err


def test_missing_peft_is_bad_input_with_the_install_command(train, monkeypatch):
    monkeypatch.setattr(mocose_hf.models.adapters.importlib.util, "find_spec", lambda name: None)
    assert install_command("peft") in train(code=EXIT_BAD_INPUT)


@pytest.fixture
def adapter_dir(encoder_dir, tokenizer, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    model = MoCoSEForPreTraining.from_encoder_pretrained(str(encoder_dir), peft_config=config, queue_size=8)
    return export_sentence_encoder(model, tokenizer, tmp_path / "adapter", merge_adapter=False)


def damage(folder, kind: str) -> None:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if kind == "no base":
        config["base_model_name_or_path"] = None
    elif kind == "itself":
        config["base_model_name_or_path"] = str(folder)
    elif kind == "code":
        config["megatron_config"] = {"size": 1}
    elif kind == "rank":
        config["r"] = 3
    elif kind == "targets":
        config["target_modules"] = ["query", "key"]
    elif kind == "pickle":
        shutil.move(folder / "adapter_model.safetensors", folder / "adapter_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no base", "names no `base_model_name_or_path`"),
        ("itself", "is an adapter too; merge the two"),
        ("code", "`megatron_config` of the adapter is not supported, because it imports a module by name"),
        ("rank", "adapter_model.safetensors does not fit adapter_config.json"),
        ("targets", "adapter_model.safetensors lacks `encoder.layer.0.attention.self.key.lora_A.default.weight`"),
        ("pickle", "no adapter_model.safetensors was found; weights in pickles can run code"),
    ],
)
def test_a_damaged_adapter_is_bad_input_in_one_line(train, adapter_dir, kind, message):
    damage(adapter_dir, kind)
    line = train(start=adapter_dir, code=EXIT_BAD_INPUT).strip().splitlines()[-1]
    assert message in line
    assert line.startswith(f"run_mocose.py: --model_name_or_path {adapter_dir}: cannot be loaded")


def test_an_adapter_over_an_adapter_is_merged_or_bad_input(train, adapter_dir, tmp_path):
    line = train("--merge_adapter", "false", start=adapter_dir, code=EXIT_BAD_INPUT)
    assert "is no encoder that AutoModel loads, so no adapter can name it as its base" in line
    train(start=adapter_dir)
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(sentences(2)).shape == (2, 32)
