"""`mocose export --to`: other forms of the encoder give nearly the same embeddings, and the table says how near."""

import importlib.util
import re

import pytest
import torch
from builders import sentences, tiny_model
from text_files import write_label_file
from torch.nn import functional as F

from mocose_hf.cli.factory import build_plain, load_start
from mocose_hf.cli.main import dispatch
from mocose_hf.errors import install_command
from mocose_hf.export.onnx_model import INT8_FILE, ONNX_FILE, OnnxEncoder
from mocose_hf.export.sentence_encoder import export_sentence_encoder


@pytest.fixture
def label_file(tmp_path):
    return write_label_file(tmp_path / "bank.tsv", 40)


def embeddings(encoder_dir, onnx_file=None, **options) -> torch.Tensor:
    source, tokenizer = load_start(str(encoder_dir))
    model = build_plain(str(encoder_dir), source).mocose
    if onnx_file is not None:
        model.encoder = OnnxEncoder(onnx_file, threads=1)
    return model.encode(sentences(9, seed=1), tokenizer, **options)


def comparison(printed: str) -> dict[str, list[float]]:
    rows = re.findall(r"^\| (\w+) +\|((?: +[\d.]+ \|)+)$", printed, re.MULTILINE)
    return {name: [float(cell) for cell in cells.strip(" |").split("|")] for name, cells in rows}


def test_onnx_gives_the_same_embeddings_for_any_batch(encoder_dir, label_file, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    out = tmp_path / "onnx"
    assert dispatch(["export", str(encoder_dir), str(out), "--to", "onnx", "--label_file", str(label_file)]) == 0
    table = comparison(capsys.readouterr().out)
    assert table["onnx"][0] == pytest.approx(table["before"][0], abs=1)  # rounding moves near ties
    assert table["onnx"][1] == pytest.approx(table["before"][1], abs=0.2)  # MB
    assert (out / "model.safetensors").is_file()
    plain = embeddings(encoder_dir)
    for batch_size in (1, 4, 9):
        torch.testing.assert_close(
            embeddings(out, out / ONNX_FILE, batch_size=batch_size), plain, atol=1e-5, rtol=1e-4
        )

    small = tmp_path / "int8"
    assert dispatch(["export", str(encoder_dir), str(small), "--to", "int8", "--label_file", str(label_file)]) == 0
    assert "int8" in comparison(capsys.readouterr().out)
    assert (small / INT8_FILE).stat().st_size < (out / ONNX_FILE).stat().st_size
    assert not (small / ONNX_FILE).exists()
    near = embeddings(small, small / INT8_FILE)
    assert not torch.equal(near, plain)
    assert F.cosine_similarity(near, plain).min() > 0.95


def test_a_static_model_loads_in_other_libraries(encoder_dir, label_file, tmp_path, capsys):
    model2vec = pytest.importorskip("model2vec", reason="the extra `static` is not installed")
    pytest.importorskip("skeletoken", reason="the extra `static` is not installed")
    out = tmp_path / "static"
    assert dispatch(["export", str(encoder_dir), str(out), "--to", "static", "--label_file", str(label_file)]) == 0
    assert {*comparison(capsys.readouterr().out)} == {"before", "static"}
    static = torch.from_numpy(model2vec.StaticModel.from_pretrained(str(out)).encode(sentences(3)))
    transformer = pytest.importorskip("sentence_transformers").SentenceTransformer(str(out), device="cpu")
    loaded = transformer.encode(sentences(3), convert_to_tensor=True)
    torch.testing.assert_close(F.normalize(loaded.float()), F.normalize(static.float()), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("target", "library"), [("onnx", "onnxruntime"), ("int8", "onnx"), ("static", "model2vec")])
def test_a_missing_library_is_named_with_its_extra(target, library, encoder_dir, tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    installed = {"onnx", "onnxscript", "onnxruntime", "skeletoken"} - {library}

    def find_spec(name, *args):
        return None if name == library else name if name in installed else real(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert dispatch(["export", str(encoder_dir), str(tmp_path / "new"), "--to", target]) == 2
    error = capsys.readouterr().err
    assert f"needs {library}, which is not installed" in error
    assert install_command("static" if target == "static" else "onnx") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_measure_without_a_target_ends_in_one_line(encoder_dir, label_file, tmp_path, capsys):
    options = ["export", str(encoder_dir), str(tmp_path / "new"), "--label_file", str(label_file)]
    assert dispatch(options) == 2
    assert "give --to, one of onnx, int8, static" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_static_model_of_a_whitened_encoder_is_refused(tmp_path, tokenizer, capsys, monkeypatch):
    monkeypatch.setattr("mocose_hf.cli.export._validate_libraries", lambda _: None)
    model = tiny_model(pooling_mode="mean", dense_activation="identity", use_pooler=False)
    export_sentence_encoder(model, tokenizer, tmp_path / "whitened")
    assert dispatch(["export", str(tmp_path / "whitened"), str(tmp_path / "static"), "--to", "static"]) == 2
    assert "whitening, which a static model cannot keep; give --to onnx" in capsys.readouterr().err
    assert not (tmp_path / "static").exists()


@pytest.mark.parametrize(("target", "remedy"), [("openvino", 'backend="openvino"'), ("binary", 'precision="ubinary"')])
def test_a_form_of_another_library_is_named_with_its_remedy(encoder_dir, tmp_path, capsys, target, remedy):
    assert dispatch(["export", str(encoder_dir), str(tmp_path / "new"), "--to", target]) == 2
    error = capsys.readouterr().err
    assert remedy in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()
