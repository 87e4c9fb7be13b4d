"""The metrics of `evaluate`, each alone and without the hub."""

import math
import pickle
import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

from mocose_hf.errors import InputError
from mocose_hf.evaluation import alignment, effective_rank, read_stsb, uniformity
from mocose_hf.evaluation.correlation import pearson, spearman
from mocose_hf.evaluation.metrics import (
    Alignment,
    EffectiveRank,
    PearsonOfCosine,
    SpearmanOfCosine,
    STSBenchmark,
    Uniformity,
)

PAIR_METRICS = [SpearmanOfCosine, PearsonOfCosine, Alignment]
ALL_METRICS = [*PAIR_METRICS, Uniformity, EffectiveRank]

CONTAINERS = {
    "lists": lambda rows: rows.tolist(),
    "tuples": lambda rows: tuple(rows.tolist()),
    "float64 array": lambda rows: rows.double().numpy(),
    "float32 array": lambda rows: rows.numpy(),
    "tensor": lambda rows: rows,
    "tensor of float64": lambda rows: rows.double(),
    "tensor of bfloat16": lambda rows: rows.bfloat16(),
    "tensor with a gradient": lambda rows: rows.clone().requires_grad_(),
    "list of arrays": lambda rows: list(rows.numpy()),
    "list of tensors": lambda rows: list(rows),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder that `evaluate` keeps its files in."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(folder))
    return folder


def rows(count: int, seed: int = 0, dim: int = 5) -> torch.Tensor:
    """Random rows that bfloat16 holds exactly."""
    made = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return made.bfloat16().float()


def inputs(metric, count: int = 9) -> dict[str, torch.Tensor]:
    made = {"predictions": rows(count, seed=1), "references": rows(count, seed=2)}
    if isinstance(metric, (SpearmanOfCosine, PearsonOfCosine)):
        made = {name: side[:, 0] for name, side in made.items()}
    return {name: made[name] for name in metric.features}


def in_container(container: str, metric) -> dict:
    return {name: CONTAINERS[container](side) for name, side in inputs(metric).items()}


def expected_of(metric, predictions, references=None) -> dict[str, float]:
    if isinstance(metric, SpearmanOfCosine):
        return {"spearman": spearman(predictions, references)}
    if isinstance(metric, PearsonOfCosine):
        return {"pearson": pearson(predictions, references)}
    if isinstance(metric, Alignment):
        return {"alignment": alignment(predictions, references)}
    if isinstance(metric, Uniformity):
        return {"uniformity": uniformity(predictions)}
    return {"effective_rank": effective_rank(predictions)}


# By hand


@pytest.mark.parametrize(
    ("predictions", "references", "ranks", "lines"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 3, 2, 4], 80.0, 80.0),
        ([0.9, 0.1, 0.5], [5, 1, 3], 100.0, 100.0),
        ([1.0, 0.5, 0.0], [0, 1, 5], -100.0, -100 * 5 / math.sqrt(2 * 14)),
        ([0.5, 0.5, 0.5], [1, 2, 3], math.nan, math.nan),
    ],
)
def test_correlations_worked_by_hand(predictions, references, ranks, lines):
    for metric, name, expected in ((SpearmanOfCosine(), "spearman", ranks), (PearsonOfCosine(), "pearson", lines)):
        result = metric.compute(predictions=predictions, references=references)
        assert result == {name: pytest.approx(expected, abs=1e-9, nan_ok=True)}


def test_geometry_worked_by_hand():
    corners = [[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -3.0]]
    turned = [[0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [0.0, -1.0]]
    assert Alignment().compute(predictions=corners, references=turned) == {"alignment": pytest.approx(6 / 4)}
    of_corners = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    assert Uniformity().compute(predictions=corners) == {"uniformity": pytest.approx(of_corners)}
    # Singular values √5 and √10, neither centred nor normalised.
    share = math.sqrt(5) / (math.sqrt(5) + math.sqrt(10))
    rank = share**-share * (1 - share) ** (share - 1)
    assert EffectiveRank().compute(predictions=corners) == {"effective_rank": pytest.approx(rank)}


# What may go in


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("metric", ALL_METRICS)
def test_lists_arrays_and_tensors_give_one_result(metric, container):
    metric = metric()
    result = metric.compute(**in_container(container, metric))
    assert result == pytest.approx(expected_of(metric, **inputs(metric)), abs=1e-9)
    assert all(type(value) is float for value in result.values())


def test_float64_keeps_its_precision():
    references = [0.0, 1.0, 2.0]
    metric = SpearmanOfCosine()  # these are one number in float32
    predictions = [0.5, 0.5 + 1e-12, 0.5 + 2e-12]
    assert metric.compute(predictions=predictions, references=references) == {"spearman": pytest.approx(100.0)}
    close = torch.tensor([[1.0, 0.0], [1.0, 1e-8]], dtype=torch.float64)
    assert Alignment().compute(predictions=close[:1], references=close[1:])["alignment"] == pytest.approx(1e-16)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_batches_and_single_rows_are_put_together(metric):
    metric = metric()
    given = inputs(metric)
    metric.add_batch(**{name: side[:4] for name, side in given.items()})
    metric.add_batch(**{name: side[4:8].numpy() for name, side in given.items()})
    metric.add(**{name.removesuffix("s"): side[8] for name, side in given.items()})
    assert len(metric) == 9
    assert metric.compute() == pytest.approx(expected_of(metric, **given), abs=1e-9)


@pytest.mark.parametrize("metric", ALL_METRICS)
@pytest.mark.parametrize("options", [{}, {"keep_in_memory": True}, {"experiment_id": "mine", "seed": 3}])
def test_computing_again_starts_afresh(metric, options):
    metric = metric(**options)
    given = inputs(metric)
    first = metric.compute(**given)
    metric.compute(**{name: side[:5].flip(0) * 2 + 1 for name, side in given.items()})
    assert metric.compute(**given) == first == pytest.approx(expected_of(metric, **given), abs=1e-9)


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_a_metric_can_be_pickled(metric):
    metric = metric()
    given = inputs(metric)
    before = pickle.loads(pickle.dumps(metric))
    expected = metric.compute(**given)
    after = pickle.loads(pickle.dumps(metric))
    assert before.compute(**given) == after.compute(**given) == metric.compute(**given) == expected


@pytest.mark.parametrize("metric", ALL_METRICS)
def test_a_metric_describes_itself(metric):
    metric = metric()
    assert "`predictions`" in metric.inputs_description
    assert metric.description.endswith(".")
    assert metric.compute.__doc__.endswith(metric.inputs_description)


# What may not


@pytest.mark.parametrize("metric", PAIR_METRICS)
def test_a_missing_side_is_named(metric):
    metric = metric()
    given = inputs(metric)
    with pytest.raises(ValueError, match=r"^`references` is missing; give N "):
        metric.compute(predictions=given["predictions"])
    with pytest.raises(ValueError, match=r"^`predictions` is missing; give N "):
        metric.compute(references=given["references"])


@pytest.mark.parametrize("metric", PAIR_METRICS)
def test_sides_of_two_lengths_are_named(metric):
    metric = metric()
    given = inputs(metric)
    with pytest.raises(ValueError, match=r"^The shapes differ: `predictions` \(9.*`references` \(8.*$"):
        metric.compute(predictions=given["predictions"], references=given["references"][1:])


@pytest.mark.parametrize(
    ("metric", "wrong", "said"),
    [
        (Uniformity, [0.5, 0.6], r"has the shape \(2,\); give N embeddings of one length \(N, H\)\.$"),
        (Uniformity, [[0.5, 0.6], [1.0]], "rows of several lengths"),
        (Uniformity, [torch.ones(2), torch.ones(3)], "rows of several lengths"),
        (Uniformity, ["a", "b"], "no number"),
        (Uniformity, [[0.5, math.nan], [1.0, 2.0]], "NaN or infinity"),
        (EffectiveRank, torch.tensor([[0.5, math.inf], [1.0, 2.0]]), "NaN or infinity"),
        (EffectiveRank, np.ones((0, 4)), r"shape \(0, 4\)"),
        (EffectiveRank, [], r"shape \(0,\)"),
        (EffectiveRank, np.ones((2, 3, 4)), r"shape \(2, 3, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(cache, metric, wrong, said):
    metric = metric()
    with pytest.raises(ValueError, match=said) as raised:
        metric.compute(predictions=wrong)
    assert "\n" not in str(raised.value)
    assert files(cache) == []
    good = rows(6)
    assert metric.compute(predictions=good) == pytest.approx(expected_of(metric, good), abs=1e-9)


def test_numbers_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"^`predictions` has the shape \(3, 1\); give N numbers\.$"):
        SpearmanOfCosine().compute(predictions=[[1.0], [2.0], [3.0]], references=[1.0, 2.0, 3.0])


# Files


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.mark.parametrize("options", [{}, {"keep_in_memory": True}])
def test_nothing_is_written_outside_the_cache_and_nothing_stays(tmp_path, cache, monkeypatch, options):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    metric = Alignment(**options)
    metric.add_batch(**inputs(metric))
    assert len(files(cache)) == (0 if options else 1)
    metric.compute()
    assert files(cache) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "work"]
    assert list(work.iterdir()) == []


def test_two_at_the_same_time_keep_their_own(cache):
    one, two = Uniformity(), Uniformity()
    one.add_batch(predictions=rows(6, seed=1))
    two.add_batch(predictions=rows(7, seed=2))
    assert len(files(cache)) == 2
    assert two.compute()["uniformity"] == pytest.approx(uniformity(rows(7, seed=2)), abs=1e-9)
    assert one.compute()["uniformity"] == pytest.approx(uniformity(rows(6, seed=1)), abs=1e-9)
    assert files(cache) == []


@pytest.mark.slow
def test_two_processes_at_the_same_time_keep_their_own(cache):
    script = """
import sys, torch
from mocose_hf.evaluation.metrics import Uniformity
seed = int(sys.argv[1])
for i in range(20):
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))
    print(Uniformity(cache_dir=sys.argv[2]).compute(predictions=rows)["uniformity"])
"""
    command = [sys.executable, "-c", script]
    runs = [
        subprocess.Popen([*command, str(seed), str(cache)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    for seed, run in enumerate(runs, start=1):
        told, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
        expected = uniformity(torch.randn(50, 4, generator=torch.Generator().manual_seed(seed)))
        assert [float(line) for line in told.split()] == pytest.approx([expected] * 20, abs=1e-9)
    assert files(cache) == []


# STS-B


def write_stsb(folder, pairs: list[tuple[float, str, str]], split: str = "test") -> None:
    path = folder / "downstream" / "STS" / "STSBenchmark" / f"sts-{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(["news", "MSRpar", "2012", "1", str(score), first, second]) for score, first, second in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def senteval(tmp_path):
    folder = tmp_path / "senteval"
    write_stsb(folder, [(5.0, "a", "b"), (0.0, "c", "d"), (2.0, "e", "f"), (4.0, "g", "h")])
    write_stsb(folder, [(1.0, "i", "j"), (2.0, "k", "l")], split="dev")
    return folder


FIRST = [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0]]
SECOND = [[2.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0]]  # cosines 1, −1, √½, 0 against 5, 0, 2, 4


def test_sts_benchmark_worked_by_hand(senteval):
    benchmark = STSBenchmark(senteval, allow_partial_tasks=True)
    assert benchmark.sentence1 == ["a", "c", "e", "g"]
    assert benchmark.sentence2 == ["b", "d", "f", "h"]
    assert benchmark.scores == [5.0, 0.0, 2.0, 4.0]
    root = math.sqrt(0.5)
    mean = root / 4
    product = 5 * (1 - mean) + 2 * (root - mean) + 4 * (0 - mean)
    spread = (1 - mean) ** 2 + (1 + mean) ** 2 + (root - mean) ** 2 + mean**2
    expected = {
        "stsb_spearman": 80.0,  # ranks 4, 1, 3, 2 against 4, 1, 2, 3: 1 − 6·2 / (4·15)
        "stsb_pearson": 100 * (product - 0 * (1 + mean)) / math.sqrt(spread * 14.75),
    }
    for container in ("lists", "float32 array", "tensor"):
        given = [CONTAINERS[container](torch.tensor(side)) for side in (FIRST, SECOND)]
        result = benchmark.compute(predictions=given[0], references=given[1])
        assert result == pytest.approx(expected, abs=1e-6)
        assert all(type(value) is float for value in result.values())
    assert pickle.loads(pickle.dumps(benchmark)).compute(predictions=FIRST, references=SECOND) == result


def test_sts_benchmark_reads_another_split(senteval):
    benchmark = STSBenchmark(str(senteval), split="dev", allow_partial_tasks=True, keep_in_memory=True)
    assert benchmark.sentence1 == ["i", "k"]
    assert "STS-B dev" in benchmark.description
    result = benchmark.compute(predictions=FIRST[:2], references=SECOND[:2])
    assert result["stsb_spearman"] == pytest.approx(-100.0)


@pytest.mark.parametrize("count", [0, 3, 5])
def test_sts_benchmark_names_a_wrong_number_and_continues(senteval, cache, count):
    benchmark = STSBenchmark(senteval, allow_partial_tasks=True)
    wrong = rows(5, dim=2)[:count]
    with pytest.raises(ValueError, match=rf"^STS-B test has 4 pairs, but {count} embeddings of `sentence1`.*order\.$"):
        benchmark.compute(predictions=wrong, references=wrong)
    assert files(cache) == []
    result = benchmark.compute(predictions=FIRST, references=SECOND)
    assert result["stsb_spearman"] == pytest.approx(80.0)


def test_sts_benchmark_takes_batches_and_refuses_one_too_many(senteval):
    benchmark = STSBenchmark(senteval, allow_partial_tasks=True)
    benchmark.add_batch(predictions=FIRST[:3], references=SECOND[:3])
    with pytest.raises(ValueError, match="has 4 pairs, but 3 embeddings"):
        benchmark.compute()
    with pytest.raises(ValueError, match="has 4 pairs, but 5 embeddings"):
        benchmark.add_batch(predictions=FIRST[:2], references=SECOND[:2])
    with pytest.raises(ValueError, match="The shapes differ"):
        benchmark.add_batch(predictions=FIRST[3:], references=[[1.0, 2.0, 3.0]])
    benchmark.add(prediction=FIRST[3], reference=SECOND[3])
    assert benchmark.compute()["stsb_spearman"] == pytest.approx(80.0)


def test_sts_benchmark_names_a_missing_file(senteval):
    with pytest.raises(InputError, match=r"sts-train\.csv: no such file"):
        STSBenchmark(senteval, split="train")


def test_sts_benchmark_on_the_real_data(shared_data):
    benchmark = STSBenchmark(shared_data / "senteval")
    pairs = read_stsb(shared_data / "senteval", "test")
    assert len(benchmark.sentence1) == len(benchmark.sentence2) == len(benchmark.scores) == 1379
    # Put the second embedding at an angle that grows as the score falls.
    angles = torch.tensor([math.acos(score / 5) for score in pairs["score"]], dtype=torch.float64)
    first = torch.tensor([[3.0, 0.0]]).expand(1379, 2)
    second = torch.stack([angles.cos(), angles.sin()], dim=1)
    result = benchmark.compute(predictions=first, references=second)
    assert result == pytest.approx({"stsb_spearman": 100.0, "stsb_pearson": 100.0}, abs=1e-6)
    shuffled = benchmark.compute(predictions=first, references=second[torch.randperm(1379)])
    assert abs(shuffled["stsb_spearman"]) < 20
