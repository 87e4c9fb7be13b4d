"""Reading scored pairs and correlating cosines with their scores."""

import math

import pytest
import torch
from builders import sentences, tiny_model
from datasets import Dataset
from scipy.stats import spearmanr

from mocose_hf.errors import InputError
from mocose_hf.evaluation import evaluate_pairs, read_scored_pairs
from mocose_hf.evaluation.similarity import pair_cosines


def scored(scores, first, second) -> Dataset:
    return Dataset.from_dict({"score": scores, "sentence1": first, "sentence2": second})


class Known:
    """A model whose embeddings are given."""

    def __init__(self, embeddings: dict[str, list[float]]):
        self.embeddings = embeddings
        self.calls = []

    def encode(self, sentences, tokenizer, **options):
        self.calls.append((list(sentences), tokenizer, options))
        return torch.tensor([self.embeddings[sentence] for sentence in sentences])


@pytest.mark.parametrize("score", ["high", "", "nan", "inf", "1,5"])
def test_a_score_that_is_no_number_is_named(tmp_path, score):
    path = tmp_path / "pairs.tsv"
    path.write_text(f"1.0\ta\tb\n{score}\tc\td\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"pairs\.tsv, line 2: the score '{score}' is no number; mend the line"):
        read_scored_pairs(path)


def test_pairs_whose_score_comes_last_raise_an_error_with_the_order(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a dog runs\ta dog walks\t3.0\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"'a dog runs' is no number; .*the score comes first, then both sentences"):
        read_scored_pairs(path)


def test_scored_pairs_are_three_fields(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes('\ufeff5\ta "cat\ta cat\r\n-1.5\t a dog\tthe river \r\n'.encode())
    assert read_scored_pairs(path).to_dict() == {
        "score": [5.0, -1.5],
        "sentence1": ['a "cat', "a dog"],
        "sentence2": ["a cat", "the river"],
    }
    for line, fields in (("2.0\ta", 2), ("2.0\ta\tb\tc", 4)):
        path.write_text(f"1.0\ta\tb\n{line}\n", encoding="utf-8")
        with pytest.raises(InputError, match=rf"line 2: {fields} tab-separated fields, but 3 are needed; write score"):
            read_scored_pairs(path)


def test_pairs_of_one_score_cannot_be_ranked(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("2.0\ta\tb\n2\tc\td\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.tsv: 2 scored pairs of one score"):
        read_scored_pairs(path)


@pytest.mark.parametrize("line", ["2.0\t \tb", "2.0\ta\t\u3000"])
def test_a_blank_sentence_is_named(tmp_path, line):
    path = tmp_path / "pairs.tsv"
    path.write_text(f"1.0\ta\tb\n\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.tsv, line 3: a blank sentence; write it, or drop the line\.$"):
        read_scored_pairs(path)


@pytest.mark.parametrize(
    "lines",
    [
        ["1\ta\tb", "2\tb\ta"],
        ["1\ta\ta", "2\tb\tb", "3\tc\tc"],
    ],
)
def test_pairs_of_one_cosine_cannot_be_ranked(tmp_path, lines):
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=rf"pairs\.tsv: {len(lines)} scored pairs of one cosine"):
        read_scored_pairs(path)
    path.write_text("\n".join([*lines, "4\ta\tc"]), encoding="utf-8")
    assert len(read_scored_pairs(path)) == len(lines) + 1


def test_cosines_of_pairs_are_those_of_their_angles_at_any_length():
    angles = torch.tensor([0.0, 30.0, 90.0, 120.0, 180.0], dtype=torch.float64).deg2rad()
    first = torch.tensor([[2.0, 0.0]]).expand(5, 2)
    second = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [0.1], [1.0], [3.0]])
    cosines = pair_cosines(first, second)
    assert cosines.tolist() == pytest.approx([1.0, math.sqrt(0.75), 0.0, -0.5, -1.0], abs=1e-12)
    of_float32 = pair_cosines(first, second.float())
    assert of_float32.dtype == torch.float64  # which ranks what float32 would round to one number
    assert of_float32.tolist() == pytest.approx(cosines.tolist(), abs=1e-6)


def test_evaluate_pairs_on_known_embeddings():
    model = Known({"right": [2.0, 0.0], "up": [0.0, 3.0], "diagonal": [1.0, 1.0], "left": [-1.0, 0.0]})
    pairs = scored(
        [5.0, 2.0, 0.0, 4.5, 3.0],
        ["right", "up", "right", "diagonal", "diagonal"],
        ["right", "right", "left", "up", "left"],
    )  # cosines 1, 0, −1, √½, −√½: ranks 5, 3, 1, 4, 2 against 5, 2, 1, 4, 3
    metrics = evaluate_pairs(model, "the tokenizer", pairs, batch_size=7, show_progress=False)
    assert set(metrics) == {"dev_spearman", "dev_alignment", "dev_uniformity"}
    assert metrics["dev_spearman"] == pytest.approx(100 * (1 - 6 * 2 / (5 * 24)), abs=1e-9)
    # The pairs scored 5 and 4.5: equal, and 45° apart.
    assert metrics["dev_alignment"] == pytest.approx((0 + 2 - math.sqrt(2)) / 2, abs=1e-6)
    # Squared distances of the four different sentences: 90° three ways less one, 45° twice, 135°, 180°.
    squares = [2, 2 - math.sqrt(2), 4, 2 - math.sqrt(2), 2, 2 + math.sqrt(2)]
    assert metrics["dev_uniformity"] == pytest.approx(math.log(sum(math.exp(-2 * d) for d in squares) / 6), abs=1e-6)

    ((given, tokenizer, options),) = model.calls
    assert sorted(given) == ["diagonal", "left", "right", "up"]
    assert tokenizer == "the tokenizer"
    assert options == {"batch_size": 7, "show_progress": False}


def test_alignment_is_of_pairs_above_four():
    model = Known({"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]})
    metrics = evaluate_pairs(model, None, scored([4.0, 1.0, 3.0], ["a", "b", "c"], ["b", "c", "a"]))
    assert set(metrics) == {"dev_spearman", "dev_uniformity"}


def test_a_correlation_that_is_not_a_number_is_an_error():
    model = Known({"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]})
    with pytest.raises(FloatingPointError, match=r"^The Spearman correlation of the 3 development pairs is not a num"):
        evaluate_pairs(model, None, scored([4.0, 4.0, 4.0], ["a", "b", "c"], ["b", "c", "a"]))


def test_evaluate_pairs_of_a_model_is_deterministic_and_leaves_its_mode(tokenizer):
    model = tiny_model().train()
    made = sentences(24)
    pairs = scored([float(i % 6) for i in range(12)], made[:12], made[12:])
    metrics = evaluate_pairs(model, tokenizer, pairs)
    assert metrics == evaluate_pairs(model, tokenizer, pairs)
    assert model.training
    embeddings = model.encode(made, tokenizer).double()
    cosines = torch.nn.functional.cosine_similarity(embeddings[:12], embeddings[12:])
    assert metrics["dev_spearman"] == pytest.approx(100 * spearmanr(cosines, pairs["score"]).statistic, abs=1e-6)


def test_the_columns_of_glue_are_read_by_their_names(tmp_path):
    names = [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ]
    rows = [
        names,
        *([str(i), "news", "f", "y", str(i), "none", "none", f"a {i}", f"b {i}", f"{i}.0"] for i in range(3)),
    ]
    (tmp_path / "dev.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    pairs = read_scored_pairs(tmp_path / "dev.tsv")
    assert pairs.to_dict() == {
        "score": [0.0, 1.0, 2.0],
        "sentence1": ["a 0", "a 1", "a 2"],
        "sentence2": ["b 0", "b 1", "b 2"],
    }
