"""The output directory of a run: the plain encoder at its root, the whole model in its folder mocose/."""

import re
import shutil

import numpy as np
import pytest
import torch
from builders import sentences, tiny_bert_config, tiny_model, write_tokenizer
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertModel, pipeline

from mocose_hf import MoCoSEForPreTraining, export_sentence_encoder
from mocose_hf.cli.export import main as export
from mocose_hf.cli.output_dir import clear_output_dir
from mocose_hf.cli.train import main as train
from mocose_hf.models.loading import load_encoder
from mocose_hf.search.encoder import SentenceEncoder

TEXTS = sentences(5, seed=3)


@pytest.fixture(scope="module")
def trained(encoder_dir, tmp_path_factory):
    """The options of a finished run, and its output directory."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "sentences.txt").write_text("\n".join(sentences(12)) + "\n", encoding="utf-8")
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", str(folder / "sentences.txt"), "--use_cpu"]
    argv += ["--per_device_train_batch_size", "4", "--queue_size", "8", "--max_steps", "2", "--pooling_mode", "mean"]
    argv += [
        "--disable_tqdm",
        "true",
        "--output_dir",
        str(folder / "out"),
        "--license",
        "mit",
        "--language",
        "en",
        "de",
    ]
    assert train(argv) == 0
    return argv, folder / "out"


def test_a_finished_run_loads_as_a_plain_encoder(trained):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    _, out = trained
    expected = MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose").eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    embeddings = expected.encode(TEXTS, tokenizer).numpy()

    encoder = sentence_transformers.SentenceTransformer(str(out), device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), embeddings, atol=1e-6)

    model, batch = AutoModel.from_pretrained(out).eval(), tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    np.testing.assert_allclose(((hidden * mask).sum(1) / mask.sum(1)).numpy(), embeddings, atol=1e-6)

    states = pipeline("feature-extraction", str(out), device="cpu")(TEXTS, return_tensors=True)
    np.testing.assert_allclose(np.stack([state[0].mean(0).numpy() for state in states]), embeddings, atol=1e-6)


def test_the_card_is_at_the_root_and_its_code_runs(trained):
    pytest.importorskip("sentence_transformers")
    _, out = trained
    card = (out / "README.md").read_text(encoding="utf-8")
    assert [path.parent for path in out.rglob("README.md")] == [out]
    data = ModelCard(card).data
    assert (data.license, data.language, data.library_name) == ("mit", ["en", "de"], "sentence-transformers")
    assert str(out.parent) not in card
    assert "--train_file sentences.txt" in card
    assert "| `pooling_mode` | `mean` |" in card
    assert "`temperature`" not in card
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        names: dict = {}
        exec(code.replace('"your-name/out"', repr(str(out))), names)
        assert names["model"] is not None


def test_only_the_encoder_is_kept_if_wanted(tmp_path, capsys):
    write_tokenizer(tmp_path / "encoder")
    sizes = {"hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 512}
    BertModel(tiny_bert_config(**sizes)).save_pretrained(tmp_path / "encoder")
    (tmp_path / "sentences.txt").write_text("\n".join(sentences(12)) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    argv = ["--model_name_or_path", str(tmp_path / "encoder"), "--train_file", str(tmp_path / "sentences.txt")]
    argv += ["--use_cpu", "--per_device_train_batch_size", "4", "--queue_size", "8", "--max_steps", "2"]
    argv += ["--save_steps", "1", "--disable_tqdm", "true", "--output_dir", str(out), "--save_only_encoder", "true"]
    assert train(argv) == 0
    assert "Whole model" not in capsys.readouterr().out
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["1_Pooling"]
    assert {"README.md", "report.html", "trainer_state.json", "train_results.json"} <= {p.name for p in out.iterdir()}
    assert "MoCoSEForPreTraining" not in (out / "README.md").read_text(encoding="utf-8")
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert total <= 1.1 * (out / "model.safetensors").stat().st_size
    assert load_encoder(str(out)).pooling_mode == "cls"
    assert train([*argv, "--resume_from_checkpoint", "true"]) == 2
    assert "holds a finished run without checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--save_only_encoder", "true"], ["--license", "mit"], ["--language", "en"]])
def test_options_about_a_trained_model_need_a_training(encoder_dir, capsys, option):
    argv = ["--model_name_or_path", str(encoder_dir), "--validation_file", "pairs.tsv", "--use_cpu", *option]
    assert train(argv) == 2
    assert f"{option[0]} is about the model of a training" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--license", "Apache 2"], ["--language", "English"]])
def test_metadata_that_the_hub_does_not_know_is_an_error(trained, tmp_path, capsys, option):
    assert train([*trained[0], "--output_dir", str(tmp_path / "new"), *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_a_finished_run_has_the_whole_model_in_its_folder(trained):
    _, out = trained
    models = [MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose")]
    models.append(MoCoSEForPreTraining.from_pretrained(out / "mocose"))
    assert [int(model.queue.num_filled) for model in models] == [8, 8]
    saved = load_file(out / "mocose" / "model.safetensors")
    assert any(name.startswith("projection_head.") for name in saved)
    assert not any(name.startswith("projection_head.") for name in load_file(out / "model.safetensors"))
    assert not (out / "sentence_encoder").exists()
    start = load_encoder(str(out))
    assert start.pooling_mode == "mean"
    whole = load_encoder(str(out / "mocose"))
    for name, value in whole.encoder.state_dict().items():
        assert torch.equal(value, start.encoder.state_dict()[name]), name


def test_a_run_resumes_after_the_final_save(trained, tmp_path):
    argv, out = trained
    moved = shutil.copytree(out, tmp_path / "out")
    for name in ("model.safetensors", "mocose/model.safetensors"):
        (moved / name).unlink()
    assert train([*argv, "--output_dir", str(moved), "--resume_from_checkpoint", "true"]) == 0
    for name in ("model.safetensors", "mocose/model.safetensors"):
        assert (moved / name).read_bytes() == (out / name).read_bytes()


def test_a_run_cannot_clear_the_model_that_it_starts_from(trained, capsys):
    argv, out = trained
    before = sorted(out.rglob("*"))
    for start in (out, out / "mocose", out / "checkpoint-2"):
        assert train([*argv, "--model_name_or_path", str(start), "--overwrite_output_dir"]) == 2
        assert "lies in --output_dir" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before


def write_earlier_layout(folder, tokenizer) -> MoCoSEForPreTraining:
    """Write the whole model to the root and the plain encoder to sentence_encoder/, as runs did before."""
    model = tiny_model(pooling_mode="mean").eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    export_sentence_encoder(model, tokenizer, folder / "sentence_encoder")
    return model


def test_a_run_in_the_earlier_layout_still_loads(tokenizer, tmp_path):
    model = write_earlier_layout(tmp_path / "earlier", tokenizer)
    expected = model.encode(TEXTS, tokenizer, normalize_embeddings=True)
    torch.testing.assert_close(SentenceEncoder.load(tmp_path / "earlier").encode(TEXTS), expected)
    assert export([str(tmp_path / "earlier"), str(tmp_path / "exported")]) == 0
    torch.testing.assert_close(SentenceEncoder.load(tmp_path / "exported").encode(TEXTS), expected)


@pytest.mark.parametrize("earlier", [False, True], ids=["present", "earlier"])
def test_clearing_removes_both_layouts_and_no_other_file(trained, tokenizer, tmp_path, earlier):
    out = tmp_path / "out"
    if earlier:
        write_earlier_layout(out, tokenizer)
        (out / "checkpoint-2").mkdir()
    else:
        shutil.copytree(trained[1], out)
    (out / "notes.txt").write_text("mine")
    clear_output_dir(out)
    left = {path.name for path in out.iterdir()} - {"notes.txt", "training_args.json", "vocab.txt"}
    assert left == set()
    assert (out / "notes.txt").read_text() == "mine"


def test_clearing_leaves_a_folder_of_that_name_that_is_no_model(tmp_path):
    (tmp_path / "mocose").mkdir()
    (tmp_path / "mocose" / "code.py").write_text("x")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    clear_output_dir(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "mocose"]
