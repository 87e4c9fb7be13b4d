"""Reading scored pairs and correlating cosines with their scores."""

import math

import numpy as np
import pytest
import torch
from conftest import sentences, tiny_model
from datasets import Dataset
from scipy.stats import spearmanr

from mocose_hf.errors import InputError
from mocose_hf.evaluation import evaluate_pairs, read_scored_pairs, read_stsb
from mocose_hf.evaluation.sts import SpearmanOfCosine


def write_stsb(folder, lines: list[str], split: str = "dev"):
    path = folder / "downstream" / "STS" / "STSBenchmark" / f"sts-{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def stsb_line(score, first: str, second: str, *more: str) -> str:
    return "\t".join(["main-news", "MSRpar", "2012test", "0001", str(score), first, second, *more])


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


def test_stsb_takes_score_and_sentences_from_their_columns(tmp_path):
    write_stsb(tmp_path, [stsb_line(5.0, "A cat.", "A  cat. "), stsb_line("2.500", "Ein Käfer", "a bird")])
    pairs = read_stsb(tmp_path)
    assert pairs.to_dict() == {
        "score": [5.0, 2.5],
        "sentence1": ["A cat.", "Ein Käfer"],
        "sentence2": ["A  cat.", "a bird"],
    }


def test_quotes_are_text_and_lose_no_rows(tmp_path):
    lines = [
        stsb_line(1.0, '"Stop', "he said"),
        stsb_line(2.0, 'a "quoted" word', "b, c"),
        stsb_line(3.0, "d", 'e"'),
        stsb_line(4.0, '""', "it's"),
    ]
    write_stsb(tmp_path, lines)
    pairs = read_stsb(str(tmp_path))
    assert list(pairs["score"]) == [1.0, 2.0, 3.0, 4.0]
    assert list(pairs["sentence1"]) == ['"Stop', 'a "quoted" word', "d", '""']
    assert list(pairs["sentence2"]) == ["he said", "b, c", 'e"', "it's"]


def test_stsb_ignores_further_columns_and_blank_lines(tmp_path):
    write_stsb(tmp_path, [stsb_line(1, "a", "b", "source one", "source two"), "", stsb_line(2, "c", "d")], "test")
    pairs = read_stsb(tmp_path, "test")
    assert list(pairs["sentence2"]) == ["b", "d"]


def test_unusual_line_separators_do_not_split_a_pair(tmp_path):
    write_stsb(tmp_path, [stsb_line(1, "a\u2028b", "c\x0cd"), stsb_line(2, "e\x85f", "g")])
    pairs = read_stsb(tmp_path)
    assert list(pairs["sentence1"]) == ["a\u2028b", "e\x85f"]
    assert list(pairs["sentence2"]) == ["c\x0cd", "g"]


def test_a_short_line_is_named(tmp_path):
    path = write_stsb(tmp_path, [stsb_line(1, "a", "b"), "", "main-news\tMSRpar\t2012test\t0001\t2.0\talone"])
    with pytest.raises(InputError) as raised:
        read_stsb(tmp_path)
    assert str(raised.value) == f"{path}, line 3: 6 tab-separated fields, but 7 are needed; fetch the file again."


@pytest.mark.parametrize("score", ["high", "", "nan", "inf", "1,5"])
def test_a_score_that_is_no_number_is_named(tmp_path, score):
    path = tmp_path / "pairs.tsv"
    path.write_text(f"1.0\ta\tb\n{score}\tc\td\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"pairs\.tsv, line 2: the score '{score}' is no number; mend the line"):
        read_scored_pairs(path)


def test_a_missing_file_is_named_in_full(tmp_path):
    with pytest.raises(InputError, match=r"downstream/STS/STSBenchmark/sts-dev\.csv: no such file"):
        read_stsb(tmp_path)


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


@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1, 0, 3, 2, 4], 80.0),  # d² sums to 4: 1 − 6·4 / (5·24)
        ([0.9, 0.1, 0.5], [5, 1, 3], 100.0),
        ([0.9, 0.1, 0.5], [1, 5, 3], -100.0),
        # Ranks 1, 2.5, 2.5, 4 against 1 to 4: covariance 4.5, variances 4.5 and 5.
        ([0.1, 0.2, 0.2, 0.3], [1, 2, 3, 4], 100 * 4.5 / math.sqrt(4.5 * 5)),
    ],
)
def test_spearman_by_hand(predictions, references, expected):
    result = SpearmanOfCosine().compute(predictions=predictions, references=references)
    assert result == {"spearman": pytest.approx(expected, abs=1e-9)}


def test_spearman_agrees_with_scipy_and_sees_ranks_alone():
    random = np.random.default_rng(3)
    references = random.integers(0, 26, 400) / 5  # with ties
    predictions = np.tanh(references / 5 + random.normal(size=400))
    expected = 100 * spearmanr(predictions, references).statistic
    assert 10 < expected < 90
    for values in (predictions, np.exp(3 * predictions)):
        result = SpearmanOfCosine().compute(predictions=values.tolist(), references=references.tolist())
        assert result["spearman"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_spearman_of_a_constant_is_nan():
    result = SpearmanOfCosine().compute(predictions=[0.5, 0.5, 0.5], references=[1.0, 2.0, 3.0])
    assert math.isnan(result["spearman"])


def test_evaluate_pairs_on_known_embeddings():
    model = Known({"right": [2.0, 0.0], "up": [0.0, 3.0], "diagonal": [1.0, 1.0], "left": [-1.0, 0.0]})
    pairs = scored(
        [5.0, 2.0, 0.0, 4.5, 3.0],
        ["right", "up", "right", "diagonal", "diagonal"],
        ["right", "right", "left", "up", "left"],
    )  # cosines 1, 0, −1, √½, −√½: ranks 5, 3, 1, 4, 2 against 5, 2, 1, 4, 3
    metrics = evaluate_pairs(model, "the tokenizer", pairs, batch_size=7, show_progress=False)
    assert set(metrics) == {"stsb_spearman", "alignment", "uniformity"}
    assert metrics["stsb_spearman"] == pytest.approx(100 * (1 - 6 * 2 / (5 * 24)), abs=1e-9)
    # The pairs scored 5 and 4.5: equal, and 45° apart.
    assert metrics["alignment"] == pytest.approx((0 + 2 - math.sqrt(2)) / 2, abs=1e-6)
    # Squared distances of the four different sentences: 90° three ways less one, 45° twice, 135°, 180°.
    squares = [2, 2 - math.sqrt(2), 4, 2 - math.sqrt(2), 2, 2 + math.sqrt(2)]
    assert metrics["uniformity"] == pytest.approx(math.log(sum(math.exp(-2 * d) for d in squares) / 6), abs=1e-6)

    ((given, tokenizer, options),) = model.calls
    assert sorted(given) == ["diagonal", "left", "right", "up"]
    assert tokenizer == "the tokenizer"
    assert options == {"batch_size": 7, "show_progress": False}


def test_alignment_is_of_pairs_above_four():
    model = Known({"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0]})
    metrics = evaluate_pairs(model, None, scored([4.0, 1.0, 3.0], ["a", "b", "c"], ["b", "c", "a"]))
    assert set(metrics) == {"stsb_spearman", "uniformity"}


def test_evaluate_pairs_of_a_model_is_deterministic_and_leaves_its_mode(tokenizer):
    model = tiny_model().train()
    made = sentences(24)
    pairs = scored([float(i % 6) for i in range(12)], made[:12], made[12:])
    metrics = evaluate_pairs(model, tokenizer, pairs)
    assert metrics == evaluate_pairs(model, tokenizer, pairs)
    assert model.training
    embeddings = model.encode(made, tokenizer).double()
    cosines = torch.nn.functional.cosine_similarity(embeddings[:12], embeddings[12:])
    assert metrics["stsb_spearman"] == pytest.approx(100 * spearmanr(cosines, pairs["score"]).statistic, abs=1e-6)


@pytest.mark.parametrize(("split", "count"), [("dev", 1500), ("test", 1379), ("train", 5749)])
def test_the_real_stsb_is_read_whole(shared_data, split, count):
    pairs = read_stsb(shared_data / "senteval", split)
    assert len(pairs) == count
    assert min(pairs["score"]) == 0.0
    assert max(pairs["score"]) == 5.0
    assert all(pairs["sentence1"])
    assert all(pairs["sentence2"])
