import math

import pytest
import torch

from mocose_hf.evaluation import alignment, geometry, uniformity


def random_rows(rows: int, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def unit(row: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in row))
    return [x / length for x in row]


def squared_distance(first: list[float], second: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(unit(first), unit(second), strict=True))


# Alignment


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([[1.0, 0.0]], [[1.0, 0.0]], 0.0),
        ([[1.0, 0.0]], [[0.0, 1.0]], 2.0),
        ([[1.0, 0.0]], [[-1.0, 0.0]], 4.0),
        ([[3.0, 4.0]], [[5.0, 0.0]], 0.8),
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]], 2.0),
    ],
)
def test_alignment_worked_by_hand(first, second, expected):
    assert alignment(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, abs=1e-6)


def test_alignment_is_the_slow_loops():
    first, second = random_rows(23, seed=1), random_rows(23, seed=2)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    expected = sum(squared_distance(a, b) for a, b in pairs) / 23
    assert alignment(first, second) == pytest.approx(expected, abs=1e-6)


def test_alignment_is_two_less_twice_the_mean_cosine():
    first, second = random_rows(23, seed=1), random_rows(23, seed=2)
    cosine = torch.nn.functional.cosine_similarity(first.double(), second.double()).mean().item()
    assert alignment(first, second) == pytest.approx(2 - 2 * cosine, abs=1e-6)


def test_alignment_does_not_depend_on_the_side_or_the_order_of_pairs():
    first, second = random_rows(23, seed=1), random_rows(23, seed=2)
    assert alignment(second, first) == pytest.approx(alignment(first, second), abs=1e-6)
    assert alignment(first.flip(0), second.flip(0)) == pytest.approx(alignment(first, second), abs=1e-6)
    assert alignment(first, second.flip(0)) != pytest.approx(alignment(first, second), abs=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 7.0, 1e4])
def test_alignment_does_not_depend_on_scale(scale):
    first, second = random_rows(23, seed=1), random_rows(23, seed=2)
    lengths = torch.linspace(0.1, 10.0, 23)[:, None]
    assert alignment(scale * first, second) == pytest.approx(alignment(first, second), abs=1e-6)
    assert alignment(first, lengths * second) == pytest.approx(alignment(first, second), abs=1e-6)


# Uniformity


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1.0, 0.0], [-1.0, 0.0]], -8.0),
        ([[1.0, 0.0], [0.0, 1.0]], -4.0),
        ([[0.6, 0.8], [0.6, 0.8]], 0.0),
        ([[1.0, 0.0]] * 3, 0.0),
        # Of the three others of a corner, two are at squared distance 2 and one is at 4.
        ([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], math.log((2 * math.exp(-4) + math.exp(-8)) / 3)),
        # One pair of three is equal, two pairs are opposite.
        ([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], math.log((1 + 2 * math.exp(-8)) / 3)),
    ],
)
def test_uniformity_worked_by_hand(points, expected):
    assert uniformity(torch.tensor(points)) == pytest.approx(expected, abs=1e-6)


def test_uniformity_is_the_slow_loops():
    rows = random_rows(19)
    listed = rows.tolist()
    kernels = [math.exp(-2 * squared_distance(listed[i], listed[j])) for i in range(19) for j in range(19) if i != j]
    assert uniformity(rows) == pytest.approx(math.log(sum(kernels) / len(kernels)), abs=1e-6)


@pytest.mark.parametrize("rows_at_once", [1, 3, 10, 11])
def test_uniformity_does_not_depend_on_the_rows_taken_at_once(monkeypatch, rows_at_once):
    rows = random_rows(10)
    expected = uniformity(rows)
    monkeypatch.setattr(geometry, "_ROWS_AT_ONCE", rows_at_once)
    assert uniformity(rows) == pytest.approx(expected, abs=1e-12)


def test_uniformity_of_more_rows_than_are_taken_at_once():
    rows = torch.nn.functional.normalize(random_rows(700, dim=16).double(), dim=-1)
    kernels = torch.exp(4 * (rows @ rows.T) - 4)[~torch.eye(700, dtype=torch.bool)]
    assert uniformity(rows) == pytest.approx(kernels.mean().log().item(), abs=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 0.5, 7.0, 1e4])
def test_uniformity_does_not_depend_on_scale(scale):
    rows = random_rows(23)
    lengths = torch.linspace(0.1, 10.0, 23)[:, None]
    assert uniformity(scale * rows) == pytest.approx(uniformity(rows), abs=1e-6)
    assert uniformity(lengths * rows) == pytest.approx(uniformity(rows), abs=1e-6)


def test_uniformity_does_not_depend_on_order_or_rotation():
    rows = random_rows(23)
    rotation, _ = torch.linalg.qr(random_rows(4, seed=5))
    assert uniformity(rows.flip(0)) == pytest.approx(uniformity(rows), abs=1e-6)
    assert uniformity(rows @ rotation) == pytest.approx(uniformity(rows), abs=1e-6)


def test_even_rows_are_more_uniform_than_crowded_ones():
    rows = random_rows(200, dim=16)
    assert uniformity(rows) < uniformity(rows + 2.0) < uniformity(rows + 20.0) <= 0.0


def test_scores_are_floats_and_leave_the_embeddings_alone():
    first, second = random_rows(5, seed=1), random_rows(5, seed=2)
    before = first.clone(), second.clone()
    assert type(alignment(first, second)) is float
    assert type(uniformity(first)) is float
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])
