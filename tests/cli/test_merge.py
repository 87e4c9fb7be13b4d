"""`mocose merge`: averages of two encoders, their scores, and the options that make no sense."""

import csv
import json
import re

import pytest
import torch
from builders import tiny_bert_config, write_tokenizer
from safetensors.torch import load_file
from text_files import write_label_file
from transformers import AutoModel, BertModel

from mocose_hf.cli.main import dispatch
from mocose_hf.cli.train import main as train


@pytest.fixture(scope="module")
def trained_dir(tmp_path_factory):
    """An encoder of the same architecture as `encoder_dir`, with other weights."""
    directory = tmp_path_factory.mktemp("trained")
    write_tokenizer(directory)
    torch.manual_seed(8)
    BertModel(tiny_bert_config()).save_pretrained(directory)
    return directory


@pytest.fixture
def label_file(tmp_path):
    return write_label_file(tmp_path / "bank.tsv", 60)


@pytest.fixture
def merge(encoder_dir, trained_dir, capsys):
    def run(*options, code: int = 0, start=encoder_dir, trained=trained_dir):
        assert dispatch(["merge", *map(str, (start, trained, *options))]) == code
        captured = capsys.readouterr()
        if code:
            assert captured.err.startswith("mocose merge: ")
            assert captured.err.count("\n") == 1
        return captured.err if code else captured.out

    return run


def test_the_merged_encoder_is_the_average_and_loads_without_the_package(merge, encoder_dir, trained_dir, tmp_path):
    merge("--weight", 0.25, "-o", tmp_path / "merged")
    start, trained, merged = (
        load_file(folder / "model.safetensors") for folder in (encoder_dir, trained_dir, tmp_path / "merged")
    )
    assert {*merged} == {*start}
    for name, weight in merged.items():
        torch.testing.assert_close(weight, 0.75 * start[name] + 0.25 * trained[name], atol=1e-6, rtol=1e-5)
    assert (tmp_path / "merged" / "1_Pooling" / "config.json").is_file()
    assert AutoModel.from_pretrained(tmp_path / "merged").config.hidden_size == 32


@pytest.mark.parametrize("weight", [0, 1])
def test_the_ends_are_the_two_encoders_to_the_last_bit(merge, encoder_dir, trained_dir, tmp_path, weight):
    merge("--weight", weight, "-o", tmp_path / "merged")
    end = load_file((trained_dir if weight else encoder_dir) / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(merged[name], value) for name, value in end.items())


def test_it_gives_the_same_bits_as_merging_in_training(merge, encoder_dir, text_file, tmp_path):
    options = ["--model_name_or_path", encoder_dir, "--train_file", text_file, "--max_steps", 2, "--use_cpu"]
    options += ["--per_device_train_batch_size", 4, "--queue_size", 8, "--learning_rate", "1e-2"]
    for name, share in (("plain", 0), ("in_training", 0.75)):
        assert train([*map(str, [*options, "--output_dir", tmp_path / name, "--merge_with_start", share])]) == 0
    merge("--weight", 0.25, "-o", tmp_path / "merged", trained=tmp_path / "plain")
    assert dispatch(["export", str(tmp_path / "in_training"), str(tmp_path / "exported")]) == 0
    merged, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "exported"))
    assert {*merged} == {*expected}
    assert all(torch.equal(merged[name], value) for name, value in expected.items())


def test_a_curve_is_printed_written_and_drawn(merge, label_file, encoder_dir, trained_dir, tmp_path):
    pytest.importorskip("matplotlib")
    table, plot = tmp_path / "curve.csv", tmp_path / "curve.svg"
    printed = merge("--weight", 1, 0, 0.5, "--label_file", label_file, "--scores", table, "--plot", plot)
    rows = re.findall(r"^\| ([\d.]+)[^|]*\| +([\d.]+) \|$", printed, re.MULTILINE)
    assert [weight for weight, _ in rows] == ["0", "0.5", "1"]
    assert "bank P@10" in printed
    with table.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [f"{float(row['bank_precision_at_10']):.2f}" for row in written] == [value for _, value in rows]
    assert all(f"<!-- {value} -->" in plot.read_text(encoding="utf-8") for _, value in rows)
    for folder, row in ((encoder_dir, rows[0]), (trained_dir, rows[2])):
        scores = tmp_path / f"{folder.name}.json"
        merge("--weight", 0, "--label_file", label_file, "--scores", scores, start=folder)
        assert f"{json.loads(scores.read_text())[0]['bank_precision_at_10']:.2f}" == row[1]


def test_the_best_weight_is_saved(merge, label_file, tmp_path):
    scores = tmp_path / "curve.json"
    options = ["--curve", "--label_file", label_file, "--scores", scores, "-o", tmp_path / "best", "--best"]
    printed = merge(*options)
    points = json.loads(scores.read_text())
    best = max(points, key=lambda point: point["bank_precision_at_10"])["weight"]
    assert len({point["bank_precision_at_10"] for point in points}) > 1
    assert f"Merged encoder, weight {best:g}: " in printed
    merge("--weight", best, "-o", tmp_path / "again")
    best, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("best", "again"))
    assert best == again


def test_sts_counts_what_is_forgotten(merge, label_file, shared_data, tmp_path):
    folder = tmp_path / "senteval" / "downstream" / "STS" / "STSBenchmark"
    folder.mkdir(parents=True)
    for name in ("sts-dev.csv", "sts-test.csv"):
        lines = (shared_data / "senteval" / folder.relative_to(tmp_path / "senteval") / name).open(encoding="utf-8")
        (folder / name).write_text("".join(next(lines) for _ in range(30)), encoding="utf-8")
    printed = merge(
        *("--weight", 0, 1, "--label_file", label_file, "--senteval_dir", tmp_path / "senteval"),
        *("--eval_tasks", "stsb", "--allow_partial_tasks"),
    )
    assert re.search(r"\| weight +\| bank P@10 \| STS-B Spearman \|", printed)


def test_encoders_that_have_no_average_end_in_one_line(merge, tmp_path, encoder_dir):
    for name, field in (("wide", {"hidden_size": 64}), ("deep", {"num_hidden_layers": 3}), ("heads", {})):
        write_tokenizer(tmp_path / name)
        heads = {"num_attention_heads": 4} if name == "heads" else {}
        BertModel(tiny_bert_config(**field, **heads)).save_pretrained(tmp_path / name)
        error = merge("-o", tmp_path / "new", code=2, trained=tmp_path / name)
        assert "different architectures" in error
        assert "trained from it" in error
    write_tokenizer(tmp_path / "words")
    vocabulary = tmp_path / "words" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text(encoding="utf-8").replace('"cat"', '"tac"'), encoding="utf-8")
    AutoModel.from_pretrained(encoder_dir).save_pretrained(tmp_path / "words")
    assert "different vocabularies" in merge("-o", tmp_path / "new", code=2, trained=tmp_path / "words")
    assert "cannot be loaded" in merge("-o", tmp_path / "new", code=2, trained=tmp_path / "nothing")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give -o DIR to save the merged encoder, or a measure"),
        (["--curve", "-o", "{new}"], "5 weights need a measure"),
        (["--weight", "1.5", "-o", "{new}"], "1.5 is not in [0, 1]"),
        (["--weight", "0", "1", "--label_file", "{labels}", "-o", "{new}"], "--save_weight W, or --best"),
        (["--curve", "--label_file", "{labels}", "-o", "{new}", "--save_weight", "0.3"], "none of the weights"),
        (["--curve", "--label_file", "{labels}", "--best"], "give -o DIR"),
        (["--best", "-o", "{new}"], "--best needs a measure"),
        (["--label_file", "{labels}", "--plot", "curve.svg"], "--plot draws a curve"),
        (["--curve", "--label_file", "{labels}", "--plot", "curve.gif"], ".png or .svg"),
        (["--label_file", "{labels}", "--scores", "curve.txt"], ".json or .csv"),
        (["--label_file", "{labels}", "--eval_tasks", "sts"], "give that folder"),
        (["--label_file", "{new}.tsv"], "new.tsv"),
        (["-o", "{full}"], "not an empty directory; name another"),
    ],
)
def test_options_that_do_not_fit_end_in_one_line(merge, label_file, tmp_path, options, said):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("kept", encoding="utf-8")
    paths = {"new": tmp_path / "new", "full": tmp_path / "full", "labels": label_file}
    assert said in merge(*(option.format(**paths) for option in options), code=2)
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
