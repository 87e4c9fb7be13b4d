import math

import pytest
import torch

from mocose_hf.evaluation import alignment, effective_rank, geometry, uniformity


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


# Effective rank


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[5.0]], 1.0),
        ([[1.0, 2.0], [2.0, 4.0]], 1.0),
        ([[3.0, 0.0], [0.0, 4.0]], 7 / (3 ** (3 / 7) * 4 ** (4 / 7))),
        ([[0.0, 3.0, 0.0], [1.0, 0.0, 0.0]], 4 / 3**0.75),
        ([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 2.0),
        ([[0.0, 0.0], [0.0, 0.0]], 0.0),
    ],
)
def test_effective_rank_worked_by_hand(matrix, expected):
    assert effective_rank(torch.tensor(matrix)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_effective_rank_of_k_equal_singular_values_is_k(k):
    left, _ = torch.linalg.qr(random_rows(12, dim=12, seed=1).double())
    right, _ = torch.linalg.qr(random_rows(8, dim=8, seed=2).double())
    assert effective_rank(0.3 * left[:, :k] @ right[:k]) == pytest.approx(k, abs=1e-9)


def singular_values_one_by_one(matrix: list[list[float]]) -> list[float]:
    """Find the eigenvalues of the Gram matrix by Jacobi's rotations; their roots are the singular values."""
    size = len(matrix)
    gram = [[sum(a * b for a, b in zip(r, s, strict=True)) for s in matrix] for r in matrix]
    for _ in range(60):
        for i in range(size):
            for j in range(i + 1, size):
                angle = 0.5 * math.atan2(2 * gram[i][j], gram[j][j] - gram[i][i])
                c, s = math.cos(angle), math.sin(angle)
                for row in gram:
                    row[i], row[j] = c * row[i] - s * row[j], s * row[i] + c * row[j]
                for column in range(size):
                    x, y = gram[i][column], gram[j][column]
                    gram[i][column], gram[j][column] = c * x - s * y, s * x + c * y
    return [math.sqrt(max(gram[i][i], 0.0)) for i in range(size)]


def test_effective_rank_is_the_slow_loops():
    rows = random_rows(6, dim=9)
    values = singular_values_one_by_one(rows.tolist())
    shares = [value / sum(values) for value in values]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(rows) == pytest.approx(expected, abs=1e-6)


def test_effective_rank_does_not_depend_on_scale_side_order_or_rotation():
    rows = random_rows(23)
    rotation, _ = torch.linalg.qr(random_rows(4, seed=5))
    for same in (1e-3 * rows, 1e4 * rows, rows.T, rows.flip(0), rows @ rotation):
        assert effective_rank(same) == pytest.approx(effective_rank(rows), abs=1e-5)
    assert 1.0 <= effective_rank(rows) <= 4.0


def test_scores_are_floats_and_leave_the_embeddings_alone():
    first, second = random_rows(5, seed=1), random_rows(5, seed=2)
    before = first.clone(), second.clone()
    assert type(alignment(first, second)) is float
    assert type(uniformity(first)) is float
    assert type(effective_rank(first)) is float
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])
