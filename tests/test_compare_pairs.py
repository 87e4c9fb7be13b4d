"""The comparison of losses on pairs keeps its held-out pairs apart, resumes, and ends each run on time."""

import csv

import pytest
from builders import sentences

pytest.importorskip("sentence_transformers")

import compare_pairs as benchmark
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from mocose_hf.sentence_transformers import MomentumContrastLoss


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    texts = sentences(60)
    for name, part in (("train", texts), ("test", texts[40:])):
        rows = [f"{a}\t{b}" for a, b in zip(part[::2], part[1::2], strict=True)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["query\ttext", *rows]) + "\n", encoding="utf-8")
    monkeypatch.setattr(benchmark, "DEVELOPMENT_PAIRS", 8)
    monkeypatch.setattr(benchmark, "MAX_TOKENS", 16)
    return tmp_path


def test_a_method_is_a_loss_with_settings():
    assert benchmark.parse_method("mnrl:rate=1e-4") == (MultipleNegativesRankingLoss, 1e-4, None, {})
    text = "momentum:rate=2e-5,dropout=0,queue_size=8,symmetric=true,ema_decay=0.5"
    settings = {"queue_size": 8, "symmetric": True, "ema_decay": 0.5}
    assert benchmark.parse_method(text) == (MomentumContrastLoss, 2e-5, 0, settings)


def test_runs_are_timed_scored_and_not_repeated(pairs, encoder_dir, capsys):
    output = pairs / "runs.csv"
    methods = ["mnrl:rate=1e-4,dropout=0", "momentum:rate=1e-4,queue_size=8,queue_weight=0,reshaping_weight=1"]
    argv = ["--pairs", str(pairs / "train.tsv"), "--encoder", str(encoder_dir), "--output", str(output)]
    argv += ["--cpu_seconds", "0.3", "--batch_size", "4", "--methods"]
    first = benchmark.main([*argv, *methods[:1]])
    assert first[0]["steps"] >= 1
    assert 0 <= first[0]["dev"] <= 100
    assert first[0]["steps"] * first[0]["seconds_per_step"] < 3
    both = benchmark.main([*argv, *methods, "--test", str(pairs / "test.tsv")])
    assert len(both) == 2
    with output.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == methods
    assert lines[0]["test"] == "nan"  # the first run was not repeated
    assert 0 <= float(lines[1]["test"]) <= 100


def test_no_text_of_the_test_file_is_trained_on(pairs):
    held_out = {text for pair in benchmark.read_pairs(pairs / "test.tsv", set()) for text in pair}
    rows = benchmark.read_pairs(pairs / "train.tsv", held_out)
    assert len(rows) == 20
    assert not held_out & {text for pair in rows for text in pair}
