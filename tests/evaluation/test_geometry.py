import math

import pytest
import torch
from builders import sentences
from datasets import Dataset

from mocose_hf.evaluation import alignment, effective_rank, geometry, read_stsb, uniformity
from mocose_hf.evaluation.geometry import POSITIVE_SCORE, GeometryTask, mean_cosine, singular_values


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
    monkeypatch.setattr(geometry, "_BLOCK_ROWS", rows_at_once)
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


# Mean cosine


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[1.0, 0.0], [1.0, 1.0]], math.sqrt(0.5)),
        ([[3.0, 0.0], [-2.0, 0.0]], -1.0),
        ([[0.6, 0.8]] * 5, 1.0),
        ([[5.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]], 0.0),
        # Cosines −1/2 of three corners 120° apart: −1 / (N − 1), the least there is.
        ([[1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]], -0.5),
        # One pair is equal, two pairs have a row of zeros.
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], 1 / 3),
    ],
)
def test_mean_cosine_worked_by_hand(points, expected):
    assert mean_cosine(torch.tensor(points)) == pytest.approx(expected, abs=1e-6)


def test_mean_cosine_is_the_slow_loops():
    rows = random_rows(19) + 0.5
    listed = [unit(row) for row in rows.tolist()]
    cosines = [
        sum(a * b for a, b in zip(listed[i], listed[j], strict=True)) for i in range(19) for j in range(19) if i != j
    ]
    assert mean_cosine(rows) == pytest.approx(sum(cosines) / len(cosines), abs=1e-6)
    assert mean_cosine(torch.arange(1.0, 20.0)[:, None] * rows) == pytest.approx(mean_cosine(rows), abs=1e-6)


@pytest.mark.parametrize("score", [uniformity, mean_cosine])
def test_one_embedding_has_no_pair(score):
    with pytest.raises(ValueError, match=r"needs at least 2 embeddings, not 1\.$"):
        score(torch.ones(1, 4))


# Singular values


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[3.0, 0.0], [0.0, 4.0]], [4.0, 3.0]),
        ([[0.0, 3.0, 0.0], [-1.0, 0.0, 0.0]], [3.0, 1.0]),
        ([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], [2 * math.sqrt(6), 0.0]),
        # Eigenvalues of [[10, 14], [14, 20]], the products of its columns: 15 ± √221.
        ([[1.0, 2.0], [3.0, 4.0]], [math.sqrt(15 + math.sqrt(221)), math.sqrt(15 - math.sqrt(221))]),
    ],
)
def test_singular_values_worked_by_hand(matrix, expected):
    values = singular_values(torch.tensor(matrix))
    assert values.dtype == torch.float64
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


def test_singular_values_are_those_of_the_slow_loops_and_descend():
    rows = 3 * random_rows(6, dim=9) + 1  # neither centred nor of length 1
    expected = sorted(singular_values_one_by_one(rows.tolist()), reverse=True)
    assert singular_values(rows).tolist() == pytest.approx(expected, abs=1e-5)
    assert singular_values(rows.T).tolist() == pytest.approx(expected, abs=1e-5)


def test_singular_values_of_orthonormal_rows_are_ones():
    rows, _ = torch.linalg.qr(random_rows(8, dim=8).double())
    assert singular_values(rows[:5]).tolist() == pytest.approx([1.0] * 5, abs=1e-12)


# The task


class Table:
    """Embeddings of known sentences, and what was asked for."""

    def __init__(self, rows: dict[str, list[float]]):
        self.rows = rows
        self.asked = []

    def __call__(self, sentences: list[str]) -> torch.Tensor:
        self.asked.append(sentences)
        return torch.tensor([self.rows[sentence] for sentence in sentences])


def scored(scores, first, second) -> Dataset:
    return Dataset.from_dict({"score": scores, "sentence1": first, "sentence2": second})


def test_the_task_worked_by_hand():
    table = Table({"right": [2.0, 0.0], "up": [0.0, 3.0], "left": [-1.0, 0.0], "down": [0.0, -1.0]})
    task = GeometryTask(
        scored(
            [5.0, 4.1, 4.0, 4.9],
            ["right", "right", "left", "up"],
            ["up", "left", "down", "right"],
        )
    )
    assert task.name == "geometry"
    assert task.sentences() == ["right", "left", "up", "down"]
    corners = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
    # Less their mean (1/4, 1/2), the columns have the squares 5 − 4/16 and 10 − 4/4 and the product −4/8.
    root = math.sqrt((9 - 4.75) ** 2 + 4 * 0.5**2)
    values = [math.sqrt((4.75 + 9 + sign * root) / 2) for sign in (1, -1)]
    shares = [value / sum(values) for value in values]
    assert task.score(table) == pytest.approx(
        {
            "alignment": (2 + 4 + 2) / 3,  # 4.0 is not above 4
            "alignment_all_pairs": (2 + 4 + 2 + 2) / 4,
            "uniformity": corners,
            "uniformity_positive_pairs": math.log((2 * math.exp(-4) + math.exp(-8)) / 3),  # of three corners
            "effective_rank": math.prod(share**-share for share in shares),
            "mean_cosine": -1 / 3,
        },
        abs=1e-6,
    )
    assert table.asked == [task.sentences()]
    # As they are, the columns are at right angles: √(9 + 1) and √(4 + 1).
    assert task.spectrum(table).tolist() == pytest.approx([math.sqrt(10), math.sqrt(5)], abs=1e-6)


def test_the_task_is_its_parts_on_other_embeddings():
    made = sentences(40)
    table = Table(dict(zip(made, (random_rows(40, dim=6) + 0.7).tolist(), strict=True)))
    first, second = made[:20] + made[:5], made[20:] + made[5:10]
    scores = [i % 6 + 0.0 for i in range(25)]
    task = GeometryTask(scored(scores, first, second), name="other")
    metrics = task.score(table, show_progress=True)
    left, right, everything = table(first), table(second), table(made)
    positive = [i for i in range(25) if scores[i] > 4]
    of_positive = sorted({first[i] for i in positive} | {second[i] for i in positive})
    assert 0 < len(of_positive) < 40
    assert metrics == pytest.approx(
        {
            "alignment": alignment(left[positive], right[positive]),
            "alignment_all_pairs": alignment(left, right),
            "uniformity": uniformity(everything),
            "uniformity_positive_pairs": uniformity(table(of_positive)),
            "effective_rank": effective_rank(everything - everything.mean(0)),
            "mean_cosine": mean_cosine(everything),
        },
        abs=1e-6,
    )
    assert all(type(value) is float for value in metrics.values())
    assert task.spectrum(table).tolist() == pytest.approx(singular_values(everything).tolist(), abs=1e-6)


def test_effective_rank_of_the_task_does_not_see_a_common_offset_but_the_mean_cosine_does():
    made = sentences(12)
    rows = random_rows(12, dim=5)
    task = GeometryTask(scored([0.0] * 6, made[:6], made[6:]))
    near, far = (task.score(Table(dict(zip(made, (rows + c).tolist(), strict=True)))) for c in (0.0, 50.0))
    assert far["effective_rank"] == pytest.approx(near["effective_rank"], abs=1e-3)
    assert far["mean_cosine"] > 0.99 > near["mean_cosine"] + 0.5


def test_what_is_of_positive_pairs_is_left_out_without_them():
    table = Table({"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]})
    rest = {"alignment_all_pairs", "uniformity", "effective_rank", "mean_cosine"}
    assert set(GeometryTask(scored([POSITIVE_SCORE, 1.0], ["a", "b"], ["b", "c"])).score(table)) == rest
    same = GeometryTask(scored([5.0, 1.0], ["a", "b"], ["a", "c"])).score(table)  # one sentence has no uniformity
    assert set(same) == {*rest, "alignment"}
    assert same["alignment"] == pytest.approx(0.0, abs=1e-9)


def test_the_task_on_the_real_stsb(shared_data):
    task = GeometryTask(read_stsb(shared_data / "senteval"))
    different = task.sentences()
    assert len(different) == len(set(different)) == 2909
    rows = dict(zip(different, random_rows(2909, dim=16).tolist(), strict=True))
    metrics = task.score(Table(rows))
    assert len(metrics) == 6
    # Independent even rows: no direction and no pair is special.
    assert metrics["mean_cosine"] == pytest.approx(0.0, abs=1e-3)
    assert metrics["effective_rank"] == pytest.approx(16.0, abs=0.1)
    assert metrics["alignment_all_pairs"] == pytest.approx(2.0, abs=0.05)
    assert metrics["uniformity_positive_pairs"] == pytest.approx(metrics["uniformity"], abs=0.1)


def test_a_collapse_has_no_rank_whatever_rounding_leaves():
    torch.manual_seed(0)
    names = [f"s{i}" for i in range(60)]
    rows = dict(zip(names, 1 + 1e-8 * torch.randn(60, 16, dtype=torch.float64), strict=True))
    pairs = Dataset.from_dict({"score": [5.0, 1.0] * 15, "sentence1": names[:30], "sentence2": names[30:]})
    metrics = GeometryTask(pairs).score(lambda sentences: torch.stack([rows[s] for s in sentences]))
    assert metrics["effective_rank"] == 0.0
    assert metrics["mean_cosine"] == pytest.approx(1.0)
