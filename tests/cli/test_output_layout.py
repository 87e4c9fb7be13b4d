"""The output directory of a run: the plain encoder at its root, the whole model in its folder mocose/."""

import shutil

import numpy as np
import pytest
import torch
from builders import sentences, tiny_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, pipeline

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
    argv += ["--disable_tqdm", "true", "--output_dir", str(folder / "out")]
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
    expected = model.encode(TEXTS, tokenizer, normalize=True)
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
