import math

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("sklearn")

import compare_on_fields as benchmark
from compare_on_fields import Comparison, Field, Outcome, Run, Stopwatch, markdown


@pytest.fixture
def domains(tmp_path, monkeypatch):
    rows = [f"{i % 4}\ttext {i} of topic {i % 4}" for i in range(80)]
    (tmp_path / "field.tsv").write_text("label\ttext\n" + "\n".join([*rows, rows[0]]) + "\n", encoding="utf-8")
    monkeypatch.setattr(benchmark, "FIELDS", {"field": ("field.tsv", None)})
    monkeypatch.setattr(benchmark, "DEVELOPMENT_ROWS", 20)
    monkeypatch.setattr(benchmark, "TEST_ROWS", 30)
    return tmp_path


def test_no_text_to_score_is_in_the_training_text(domains, tmp_path):
    field = Field("field", domains, tmp_path)
    held_out = {*field.development.texts, *field.test.texts}
    assert len(field.development.texts) == 20
    assert len(field.test.texts) == 30
    assert not held_out & set(field.texts)
    assert len(held_out | set(field.texts)) == 80
    assert field.text_file.read_text(encoding="utf-8").splitlines() == field.texts


def test_only_the_best_rate_is_scored_on_the_test_rows_and_no_run_is_repeated(domains, tmp_path, monkeypatch):
    trained = []

    def train(field, encoder, rate, seed, steps):
        trained.append((rate, seed, steps))
        dev = 60.0 - 1e5 * abs(rate - 3e-5)
        return Outcome(cpu_seconds=10.0, best_step=steps, dev=dev, encoder=None, steps=steps)

    monkeypatch.setattr(benchmark, "METHODS", {"domain": train, "mnrl": train})
    monkeypatch.setattr(benchmark, "SentenceTransformer", lambda *args, **options: None)
    monkeypatch.setattr(Field, "score", lambda self, task, model: 50.0 if task is self.development else 70.0)
    field, file = Field("field", domains, tmp_path), tmp_path / "runs.csv"
    Comparison("encoder", "name", file).compare(field, ["domain", "mnrl"], [0, 1])

    again = Comparison("encoder", "name", file)
    by_rate = {run.rate: run.test for run in again.runs.values() if run.method == "mnrl" and run.seed == 0}
    assert by_rate[3e-5] == 70.0
    assert math.isnan(by_rate[1e-5])
    assert math.isnan(by_rate[1e-4])
    assert [run.rate for run in again.runs.values() if run.method == "mnrl" and run.seed == 1] == [3e-5]
    assert {steps for rate, _, steps in trained if rate != 3e-4} == {benchmark.CALIBRATION_STEPS, 4}  # 10 s at 2.5 s
    before = len(trained)
    again.compare(field, ["domain", "mnrl"], [0, 1])
    assert len(trained) == before


def test_the_table_has_means_over_seeds_and_mean_gains():
    def run(field, method, seed, test):
        return Run(field, "name", method, 1e-5, seed, 4, 9.0, "precision_at_10", 4, 50.0, 55.0, 60.0, test)

    runs = [run("a", "domain", seed, 62.0 + seed) for seed in range(3)]
    runs += [run("a", "mnrl", 0, 61.0), run("a", "mnrl", 1, math.nan), run("b", "domain", 0, 64.0)]
    head, _, first, second, last = (line.strip("| ").split(" | ") for line in markdown(runs).splitlines())
    assert head == ["field", "start", "domain", "mnrl"]
    assert first == ["a", "60.00", "63.00 ± 1.00", "61.00"]
    assert second[:3] == ["b", "60.00", "64.00"]
    assert last[:3] == ["mean gain", "", "+3.50"]


def test_the_stopwatch_counts_a_nested_pause_once_and_none_outside(monkeypatch):
    clock = iter(np.arange(0.0, 10.0))
    monkeypatch.setattr(benchmark.time, "process_time", lambda: next(clock))
    watch = Stopwatch()
    with watch.paused():
        pass
    assert watch.seconds == 0.0
    clock = iter(np.arange(0.0, 10.0))
    with watch.running(), watch.paused(), watch.paused():  # read at 0; 1; 2; 3, when the outer pause ends; 4
        pass
    assert watch.seconds == 4.0 - 0.0 - (3.0 - 1.0)
