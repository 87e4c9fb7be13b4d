"""Reading the seven tasks of textual similarity, from files and from the hub, and scoring known embeddings on them."""

import math
import re
import zlib

import pytest
import torch
from datasets import Dataset
from slow_correlation import slow_pearson, slow_ranks

from mocose_hf.errors import InputError
from mocose_hf.evaluation import read_tasks
from mocose_hf.evaluation.sts import STS_TASKS, STSTask, load_sts_task, read_sts_task, read_stsb, sts_files

PUBLISHED = {
    "sts12": {"MSRpar": 750, "MSRvid": 750, "SMTeuroparl": 459, "surprise.OnWN": 750, "surprise.SMTnews": 399},
    "sts13": {"FNWN": 189, "headlines": 750, "OnWN": 561},
    "sts14": {
        "deft-forum": 450,
        "deft-news": 300,
        "headlines": 750,
        "images": 750,
        "OnWN": 750,
        "tweet-news": 750,
    },
    "sts15": {"answers-forums": 375, "answers-students": 750, "belief": 375, "headlines": 750, "images": 750},
    "sts16": {"answer-answer": 254, "headlines": 249, "plagiarism": 230, "postediting": 244, "question-question": 209},
}
TOTALS = {"sts12": 3108, "sts13": 1500, "sts14": 3750, "sts15": 3000, "sts16": 1186}

FETCH = "fetch the file again, or set `allow_partial_tasks` to score another number of pairs."
SICK_HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"


def write_lines(path, lines: list[str], end: str = "\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}{end}" for line in lines).encode())
    return path


def write_subset(folder, year: str, subset: str, scores: list, pairs: list[str]):
    """Write a sub-set's two files, and return them."""
    place = folder / "downstream" / "STS" / f"{year.upper()}-en-test"
    return (
        write_lines(place / f"STS.gs.{subset}.txt", [str(score) for score in scores]),
        write_lines(place / f"STS.input.{subset}.txt", pairs),
    )


def write_year(folder, year: str, sizes: dict[str, int] | None = None) -> None:
    """Write all sub-sets of a year, each of the given size or of 3, 4, … pairs."""
    for number, subset in enumerate(PUBLISHED[year]):
        count = sizes[subset] if sizes else 3 + number
        pairs = [f"{subset} left {i}\t{subset} right {i}" for i in range(count)]
        write_subset(folder, year, subset, [f"{i % 6}.000" for i in range(count)], pairs)


def write_stsb(folder, lines: list[str], split: str = "dev"):
    return write_lines(folder / "downstream" / "STS" / "STSBenchmark" / f"sts-{split}.csv", lines)


def stsb_line(score, first: str, second: str, *more: str) -> str:
    return "\t".join(["main-news", "MSRpar", "2012test", "0001", str(score), first, second, *more])


def write_sick(folder, lines: list[str]):
    return write_lines(folder / "downstream" / "SICK" / "SICK_test_annotated.txt", [SICK_HEADER, *lines], end="\r\n")


def sick_line(number: int, score, first: str, second: str) -> str:
    return f"{number}\t{first}\t{second}\t{score}\tNEUTRAL"


def read_error(name: str, folder, allow_partial_tasks: bool = True) -> str:
    with pytest.raises(InputError) as raised:
        read_sts_task(name, folder, allow_partial_tasks=allow_partial_tasks)
    message = str(raised.value)
    assert "\n" not in message
    return message


def scored(scores, first, second) -> Dataset:
    return Dataset.from_dict({"score": scores, "sentence1": first, "sentence2": second})


class Angles:
    """Embeddings of any sentences, each of a length and an angle that are its own."""

    def vector(self, sentence: str) -> tuple[float, float]:
        number = zlib.crc32(sentence.encode())  # cosines without ties, which rounding would order
        angle, length = math.pi * number / 2**32, 1 + number % 3
        return length * math.cos(angle), length * math.sin(angle)

    def __call__(self, sentences) -> torch.Tensor:
        return torch.tensor([self.vector(sentence) for sentence in sentences], dtype=torch.float64)

    def cosine(self, first: str, second: str) -> float:
        """Return the cosine of two, the slow way."""
        (a, b), (c, d) = self.vector(first), self.vector(second)
        return (a * c + b * d) / math.sqrt((a * a + b * b) * (c * c + d * d))


def slow_scores(pairs: list[tuple[float, str, str]], embeddings: Angles) -> dict[str, float]:
    """Correlate by loops alone."""
    scores = [score for score, _, _ in pairs]
    cosines = [embeddings.cosine(first, second) for _, first, second in pairs]
    return {
        "spearman": slow_pearson(slow_ranks(cosines), slow_ranks(scores)),
        "pearson": slow_pearson(cosines, scores),
    }


def rows(pairs: Dataset) -> list[tuple[float, str, str]]:
    return list(zip(pairs["score"], pairs["sentence1"], pairs["sentence2"], strict=True))


# Years


@pytest.mark.parametrize("year", PUBLISHED)
def test_a_year_is_read_sub_set_by_subset(tmp_path, year):
    write_year(tmp_path, year)
    task = read_sts_task(year, str(tmp_path), allow_partial_tasks=True)
    assert task.name == year
    assert task.development is None
    assert list(task.subsets) == list(PUBLISHED[year])
    for number, (subset, pairs) in enumerate(task.subsets.items()):
        assert rows(pairs) == [(float(i % 6), f"{subset} left {i}", f"{subset} right {i}") for i in range(3 + number)]
    assert len(task) == sum(3 + number for number in range(len(PUBLISHED[year])))
    files = sts_files(year, tmp_path)
    assert len(files) == 2 * len(PUBLISHED[year])
    assert all(path.is_file() for path in files)


def test_scores_without_sentences_are_left_alone(tmp_path):
    write_year(tmp_path, "sts13")
    place = tmp_path / "downstream" / "STS" / "STS13-en-test"
    write_lines(place / "STS.gs.SMT.txt", ["not a score"])
    write_lines(place / "STS.gs.ALL.txt", ["1", "2"])
    assert list(read_sts_task("sts13", tmp_path, allow_partial_tasks=True).subsets) == ["FNWN", "headlines", "OnWN"]


def test_a_blank_score_is_a_pair_that_nobody_scored(tmp_path):
    write_year(tmp_path, "sts16")
    pairs = ["a\tb", "never\tlooked at", "c\td", "only one field", "", "e\tf"]
    write_subset(tmp_path, "sts16", "plagiarism", ["1", "", "4.5", "  ", "", "2"], pairs)
    task = read_sts_task("sts16", tmp_path, allow_partial_tasks=True)
    assert rows(task.subsets["plagiarism"]) == [(1.0, "a", "b"), (4.5, "c", "d"), (2.0, "e", "f")]
    assert "never" not in task.sentences()


def test_further_columns_blanks_around_and_carriage_returns_are_no_part_of_a_sentence(tmp_path):
    write_year(tmp_path, "sts14")
    _, path = write_subset(tmp_path, "sts14", "images", [1, 2], ["a cat \t the dog\tsource\thttp://x", "b\tc\t"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    task = read_sts_task("sts14", tmp_path, allow_partial_tasks=True)
    assert rows(task.subsets["images"]) == [(1.0, "a cat", "the dog"), (2.0, "b", "c")]


STRANGE = ['"Stop', "he \u2028said", "it's \x85 so", 'a "quoted"\x0cword', '""', "b\x1cc", "\u2029d", "x\x0by"]


def test_quotes_and_unusual_separators_are_text_in_years_and_sick(tmp_path):
    write_year(tmp_path, "sts14")
    first, second = STRANGE, STRANGE[::-1]
    pairs = [f"{a}\t{b}" for a, b in zip(first, second, strict=True)]
    write_subset(tmp_path, "sts14", "deft-forum", [*range(8)], pairs)
    write_sick(tmp_path, [sick_line(i, i, a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))])
    found = read_sts_task("sts14", tmp_path, allow_partial_tasks=True).subsets["deft-forum"]
    for read in (found, read_sts_task("sickr", tmp_path, allow_partial_tasks=True).subsets["test"]):
        assert [text.strip() for text in first] == list(read["sentence1"])
        assert [text.strip() for text in second] == list(read["sentence2"])
        assert list(read["score"]) == [float(i) for i in range(8)]


@pytest.mark.parametrize("year", PUBLISHED)
def test_the_published_counts_are_demanded_of_every_subset(tmp_path, year):
    write_year(tmp_path, year, PUBLISHED[year])
    task = read_sts_task(year, tmp_path)
    assert {subset: len(pairs) for subset, pairs in task.subsets.items()} == PUBLISHED[year]
    assert len(task) == TOTALS[year]
    for subset, count in PUBLISHED[year].items():
        scores = [str(i % 6) for i in range(count)]
        pairs = [f"{i}\tof {i}" for i in range(count)]
        gold, _ = write_subset(tmp_path, year, subset, scores[:-1], pairs[:-1])
        assert read_error(year, tmp_path, allow_partial_tasks=False) == (
            f"{gold}, line {count - 1}: the file ends after {count - 1} scored pairs, but {year.upper()} {subset} has "
            f"{count}; {FETCH}"
        )
        assert len(read_sts_task(year, tmp_path, allow_partial_tasks=True)) == TOTALS[year] - 1
        write_subset(tmp_path, year, subset, [*scores, 1], [*pairs, "one\ttoo many"])
        assert f"line {count + 1}: the file ends after {count + 1} scored" in read_error(
            year, tmp_path, allow_partial_tasks=False
        )
        write_subset(tmp_path, year, subset, ["", *scores, ""], ["not\tscored", *pairs, "nor\tthis"])
        assert len(read_sts_task(year, tmp_path)) == TOTALS[year]


@pytest.mark.parametrize("short", ["gs", "input"])
def test_files_of_two_lengths_are_an_error_at_the_end_of_the_shorter(tmp_path, short):
    write_year(tmp_path, "sts15")
    scores, pairs = [1, 2, 3, 4], ["a\tb", "c\td", "e\tf", "g\th"]
    (scores if short == "gs" else pairs).pop()
    gold, texts = write_subset(tmp_path, "sts15", "belief", scores, pairs)
    path, other = (gold, texts) if short == "gs" else (texts, gold)
    assert read_error("sts15", tmp_path) == (
        f"{path}, line 3: the file ends, but {other.name} has 4 lines and line must score line; fetch both again."
    )


@pytest.mark.parametrize("kind", ["gs", "input"])
def test_a_missing_file_of_a_year_is_named(tmp_path, kind):
    write_year(tmp_path, "sts12")
    path = tmp_path / "downstream" / "STS" / "STS12-en-test" / f"STS.{kind}.surprise.OnWN.txt"
    path.unlink()
    assert read_error("sts12", tmp_path) == f"{path}: no such file; check the path."


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("input", "a\tb\nKäfer\td\ne\tf\n".encode("latin-1"), ", line 2: not UTF-8 at byte 2 of the line; "),
        ("input", "a\tb\nc\td\ne\tf\n".encode("utf-16"), ", line 1: UTF-16 text; convert it: iconv"),
        ("gs", "1\n2\n3\n".encode("utf-16"), ", line 1: UTF-16 text; convert it: iconv"),
        ("gs", b"1\n\xb5\n3\n", ", line 2: not UTF-8 at byte 1 of the line; "),
        ("gs", b"", ": the file is empty; "),
        ("input", b"", ": the file is empty; "),
    ],
    ids=["Latin-1", "UTF-16", "UTF-16 scores", "Latin-1 scores", "no scores", "no pairs"],
)
def test_a_file_of_another_encoding_or_none_is_named_with_its_line(tmp_path, kind, content, said):
    write_year(tmp_path, "sts12")
    write_subset(tmp_path, "sts12", "MSRvid", [1, 2, 3], ["a\tb", "c\td", "e\tf"])
    path = tmp_path / "downstream" / "STS" / "STS12-en-test" / f"STS.{kind}.MSRvid.txt"
    path.write_bytes(content)
    assert read_error("sts12", tmp_path).startswith(f"{path}{said}")


@pytest.mark.parametrize(
    ("score", "pair", "file", "said"),
    [
        ("3", "a\t ", "input", "a blank sentence; "),
        ("3", "\tb", "input", "a blank sentence; "),
        ("3", "a", "input", "1 tab-separated fields, but 2 are needed; fetch the file again."),
        ("3", "", "input", "1 tab-separated fields, but 2 are needed; fetch the file again."),
        ("high", "a\tb", "gs", "the score 'high' is no number; "),
        ("nan", "a\tb", "gs", "the score 'nan' is no number; "),
        ("1,5", "a\tb", "gs", "the score '1,5' is no number; "),
    ],
)
def test_a_bad_line_of_a_year_is_named_in_its_own_file(tmp_path, score, pair, file, said):
    write_year(tmp_path, "sts13")
    write_subset(tmp_path, "sts13", "OnWN", [1, "", score, 5], ["a\tb", "c", pair, "e\tf"])
    path = tmp_path / "downstream" / "STS" / "STS13-en-test" / f"STS.{file}.OnWN.txt"
    assert read_error("sts13", tmp_path).startswith(f"{path}, line 3: {said}")


def test_a_sub_set_of_one_score_is_refused(tmp_path):
    write_year(tmp_path, "sts13")
    gold, _ = write_subset(tmp_path, "sts13", "FNWN", [2, 2.0], ["a\tb", "c\td"])
    assert read_error("sts13", tmp_path).startswith(f"{gold}: 2 scored pairs of one score; ")


@pytest.mark.parametrize("name", ["sts17", "STS12", "stsbenchmark", ""])
def test_a_task_of_another_name_is_refused_and_no_other_read_in_its_place(tmp_path, name):
    write_stsb(tmp_path, [stsb_line(1, "a", "b"), stsb_line(2, "c", "d")])
    write_stsb(tmp_path, [stsb_line(1, "a", "b"), stsb_line(2, "c", "d")], "test")
    said = f"{name!r} is no STS task; name one of sts12, sts13, sts14, sts15, sts16, stsb, sickr."
    assert read_error(name, tmp_path) == said
    for function in (lambda: sts_files(name, tmp_path), lambda: load_sts_task(name)):
        with pytest.raises(InputError, match=re.escape(said)):
            function()


# STS-B and SICK-R


def test_stsb_takes_score_and_sentences_from_their_columns(tmp_path):
    write_stsb(tmp_path, [stsb_line(5.0, "A cat.", "A  cat. "), stsb_line("2.500", "Ein Käfer", "a bird")])
    pairs = read_stsb(tmp_path, allow_partial_tasks=True)
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
    pairs = read_stsb(str(tmp_path), allow_partial_tasks=True)
    assert list(pairs["score"]) == [1.0, 2.0, 3.0, 4.0]
    assert list(pairs["sentence1"]) == ['"Stop', 'a "quoted" word', "d", '""']
    assert list(pairs["sentence2"]) == ["he said", "b, c", 'e"', "it's"]


def test_stsb_ignores_further_columns_and_blank_lines(tmp_path):
    write_stsb(tmp_path, [stsb_line(1, "a", "b", "source one", "source two"), "", stsb_line(2, "c", "d")], "test")
    pairs = read_stsb(tmp_path, "test", allow_partial_tasks=True)
    assert list(pairs["sentence2"]) == ["b", "d"]


def test_unusual_line_separators_do_not_split_a_pair(tmp_path):
    write_stsb(tmp_path, [stsb_line(1, "a\u2028b", "c\x0cd"), stsb_line(2, "e\x85f", "g")])
    pairs = read_stsb(tmp_path, allow_partial_tasks=True)
    assert list(pairs["sentence1"]) == ["a\u2028b", "e\x85f"]
    assert list(pairs["sentence2"]) == ["c\x0cd", "g"]


def test_a_short_line_is_named(tmp_path):
    path = write_stsb(tmp_path, [stsb_line(1, "a", "b"), "", "main-news\tMSRpar\t2012test\t0001\t2.0\talone"])
    with pytest.raises(InputError) as raised:
        read_stsb(tmp_path, allow_partial_tasks=True)
    assert str(raised.value) == f"{path}, line 3: 6 tab-separated fields, but 7 are needed; fetch the file again."


def test_a_missing_file_is_named_in_full(tmp_path):
    with pytest.raises(InputError, match=r"downstream/STS/STSBenchmark/sts-dev\.csv: no such file"):
        read_stsb(tmp_path, allow_partial_tasks=True)


def write_full_stsb(folder, split: str, count: int):
    return write_stsb(folder, [stsb_line(i % 6, f"{split} {i}", f"{split} and {i}") for i in range(count)], split)


def test_the_published_counts_of_stsb_are_demanded(tmp_path):
    write_full_stsb(tmp_path, "test", 1379)
    write_full_stsb(tmp_path, "dev", 1500)
    task = read_sts_task("stsb", tmp_path)
    assert (len(task), len(task.development), list(task.subsets)) == (1379, 1500, ["test"])
    for split, count in (("dev", 1500), ("test", 1379)):
        for wrong in (count - 1, count + 1):
            path = write_full_stsb(tmp_path, split, wrong)
            assert read_error("stsb", tmp_path, allow_partial_tasks=False) == (
                f"{path}, line {wrong}: the file ends after {wrong:,} scored pairs, but STS-B {split} has {count:,}; "
                f"{FETCH}"
            )
            read_sts_task("stsb", tmp_path, allow_partial_tasks=True)
        write_full_stsb(tmp_path, split, count)
    write_full_stsb(tmp_path, "train", 30)
    assert len(read_stsb(tmp_path, "train", allow_partial_tasks=True)) == 30
    with pytest.raises(InputError, match=r"sts-train\.csv, line 30: .* 30 scored pairs, but STS-B train has 5,749;"):
        read_stsb(tmp_path, "train")


@pytest.mark.parametrize("header", [True, False])
def test_sick_is_read_with_its_header_and_without(tmp_path, header):
    path = write_sick(tmp_path, [sick_line(6, 3.3, "A boy", "no boy "), sick_line(7, 5, 'the "dog"', "it's")])
    if not header:
        path.write_bytes(path.read_bytes().partition(b"\n")[2])
    task = read_sts_task("sickr", tmp_path, allow_partial_tasks=True)
    assert rows(task.subsets["test"]) == [(3.3, "A boy", "no boy"), (5.0, 'the "dog"', "it's")]
    assert sts_files("sickr", tmp_path) == [path]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("9\ta\tb", "3 tab-separated fields, but 4 are needed; fetch the file again."),
        ("9\ta\t \t3.0\tNEUTRAL", "a blank sentence; "),
        ("9\ta\tb\tNEUTRAL\t3.0", "the score 'NEUTRAL' is no number; "),
        (SICK_HEADER, "the score 'relatedness_score' is no number; "),
        ("9\ta\udce9\tb\t3.0\tNEUTRAL", "not UTF-8 at byte 4 of the line; "),
    ],
)
def test_a_bad_line_of_sick_is_named(tmp_path, line, said):
    path = write_sick(tmp_path, [sick_line(1, 3.3, "a", "b"), "?"])
    path.write_bytes(path.read_bytes().replace(b"?", line.encode("utf-8", "surrogateescape")))
    assert read_error("sickr", tmp_path).startswith(f"{path}, line 3: {said}")


def test_the_published_count_of_sick_is_demanded(tmp_path):
    lines = [sick_line(i, 1 + i % 5, f"{i} a", f"{i} b") for i in range(4927)]
    write_sick(tmp_path, lines)
    assert len(read_sts_task("sickr", tmp_path)) == 4927
    path = write_sick(tmp_path, lines[:4926])
    assert read_error("sickr", tmp_path, allow_partial_tasks=False) == (
        f"{path}, line 4927: the file ends after 4,926 scored pairs, but SICK-R has 4,927; {FETCH}"
    )


def test_a_missing_file_of_stsb_or_sick_is_named(tmp_path):
    assert read_error("sickr", tmp_path) == f"{sts_files('sickr', tmp_path)[0]}: no such file; check the path."
    write_stsb(tmp_path, [stsb_line(1, "a", "b"), stsb_line(2, "c", "d")], "test")
    dev, test = sts_files("stsb", tmp_path)
    assert test.is_file()
    assert read_error("stsb", tmp_path) == f"{dev}: no such file; check the path."


# Scores


def test_scores_of_a_year_are_the_slow_loops(tmp_path):
    write_year(tmp_path, "sts12", {subset: 9 + 7 * i for i, subset in enumerate(PUBLISHED["sts12"])})
    task = read_sts_task("sts12", tmp_path, allow_partial_tasks=True)
    embeddings = Angles()
    metrics = task.score(embeddings)
    pairs = {subset: rows(of_subset) for subset, of_subset in task.subsets.items()}
    own = {subset: slow_scores(of_subset, embeddings) for subset, of_subset in pairs.items()}
    together = slow_scores([pair for of_subset in pairs.values() for pair in of_subset], embeddings)
    count = sum(map(len, pairs.values()))
    words = {
        "MSRpar": "msrpar",
        "MSRvid": "msrvid",
        "SMTeuroparl": "smteuroparl",
        "surprise.OnWN": "surprise_onwn",
        "surprise.SMTnews": "surprise_smtnews",
    }
    expected = {}
    for kind in ("spearman", "pearson"):
        expected[f"sts12_{kind}"] = together[kind]
        expected[f"sts12_{kind}_mean"] = sum(scores[kind] for scores in own.values()) / 5
        expected[f"sts12_{kind}_wmean"] = sum(own[s][kind] * len(pairs[s]) for s in pairs) / count
        expected |= {f"sts12_{words[subset]}_{kind}": scores[kind] for subset, scores in own.items()}
    assert metrics == pytest.approx(expected, abs=1e-6)
    assert all(type(value) is float for value in metrics.values())
    assert len({round(metrics[f"sts12_spearman{end}"], 3) for end in ("", "_mean", "_wmean")}) == 3


def test_all_mean_and_weighted_mean_worked_by_hand():
    """Each sub-set ranks its own pairs rightly, or wrongly, but the one's cosines are above the other's."""
    vectors = {
        f"{degrees}": [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))] for degrees in range(91)
    }
    right = scored([5.0, 4.0, 3.0], ["0"] * 3, ["50", "60", "70"])
    wrong = scored([2.0, 1.0], ["0"] * 2, ["20", "10"])
    task = STSTask("sts13", {"deft-news": right, "OnWN": wrong})
    metrics = task.score(lambda texts: torch.tensor([vectors[text] for text in texts]))
    assert metrics["sts13_deft_news_spearman"] == pytest.approx(100.0)
    assert metrics["sts13_onwn_spearman"] == pytest.approx(-100.0)
    assert metrics["sts13_spearman_mean"] == pytest.approx(0.0)
    assert metrics["sts13_spearman_wmean"] == pytest.approx(20.0)  # (3 · 100 − 2 · 100) / 5
    # Cosines rank 3, 2, 1, 4, 5 where scores rank 5, 4, 3, 2, 1: d² sums to 4 + 4 + 4 + 4 + 16.
    assert metrics["sts13_spearman"] == pytest.approx(100 * (1 - 6 * 32 / (5 * 24)))
    assert metrics["sts13_onwn_pearson"] == pytest.approx(-100.0)


def test_a_task_without_sub_sets_has_two_figures_and_a_development_set_two_more():
    embeddings = Angles()
    test = [(float(i % 5), f"one {i}", f"two {i}") for i in range(12)]
    dev = [(float(i % 4), f"three {i}", f"four {i}") for i in range(9)]
    columns = [scored(*map(list, zip(*pairs, strict=True))) for pairs in (test, dev)]
    expected = {f"stsb_{kind}": value for kind, value in slow_scores(test, embeddings).items()}
    assert STSTask("stsb", {"test": columns[0]}).score(embeddings) == pytest.approx(expected, abs=1e-6)
    task = STSTask("stsb", {"test": columns[0]}, columns[1])
    expected |= {f"stsb_dev_{kind}": value for kind, value in slow_scores(dev, embeddings).items()}
    assert task.score(embeddings, show_progress=True) == pytest.approx(expected, abs=1e-6)
    assert len(task) == 12
    assert set(task.sentences()) == {text for pairs in (test, dev) for _, *texts in pairs for text in texts}


def test_pairs_that_select_checkpoints_are_left_out_of_a_second_figure():
    embeddings = Angles()
    test = [(float(i % 5), f"One {i}.", f"two  {i}") for i in range(12)]
    selection = scored([1.0, 2.0, 3.0], ["one 3", "TWO 5", "one 7"], ["Two, 3!", "one 5", "two 8"])
    left = [pair for i, pair in enumerate(test) if i not in (3, 5)]
    halves = {name: scored(*map(list, zip(*half, strict=True))) for name, half in (("a", test[:4]), ("b", test[4:]))}
    usual = STSTask("sts12", halves).score(embeddings)
    metrics = STSTask("sts12", halves, selection=selection).score(embeddings)
    expected = {f"sts12_without_stsb_dev_{kind}": value for kind, value in slow_scores(left, embeddings).items()}
    assert metrics == pytest.approx(usual | expected | {"sts12_without_stsb_dev_pairs": 10.0}, abs=1e-6)
    none = STSTask("sts12", halves, selection=scored([1.0], ["one"], ["two"])).score(embeddings)
    assert none["sts12_without_stsb_dev_spearman"] == usual["sts12_spearman"]


# The hub


@pytest.fixture
def hub(monkeypatch):
    """A hub whose datasets have the pairs given by name and split; it keeps what it was asked for."""
    hub = {"asked": []}

    def load(name, split):
        hub["asked"].append((name, split))
        count = hub[name, split]
        return scored(
            [float(i % 6) for i in range(count)], [f"a {i}" for i in range(count)], [f"b {i}" for i in range(count)]
        ).add_column("genre", ["news"] * count)

    monkeypatch.setattr("mocose_hf.evaluation.sts.load_dataset", load)
    return hub


HUB = {
    **{name: (f"mteb/{name}-sts", count) for name, count in TOTALS.items()},
    "stsb": ("mteb/stsbenchmark-sts", 1379),
    "sickr": ("mteb/sickr-sts", 9927),
}


@pytest.mark.parametrize("name", STS_TASKS)
def test_a_task_of_the_hub_has_its_name_its_split_and_its_count(hub, name):
    dataset, count = HUB[name]
    hub |= {(dataset, "test"): count, (dataset, "validation"): 1500}
    task = load_sts_task(name)
    assert (task.name, len(task), list(task.subsets)) == (name, count, ["test"])
    assert task.subsets["test"].column_names == ["score", "sentence1", "sentence2"]
    splits = ["test", "validation"] if name == "stsb" else ["test"]
    assert hub["asked"] == [(dataset, split) for split in splits]
    assert (task.development is None) == (name != "stsb")
    assert {f"{name}_spearman", f"{name}_pearson"} <= task.score(Angles()).keys()
    hub[dataset, "test"] = count - 1
    with pytest.raises(InputError) as raised:
        load_sts_task(name)
    assert str(raised.value) == (
        f"`eval_tasks` {name}: {dataset} has {count - 1:,} pairs in its test split instead of {count:,}; give "
        "`senteval_dir`."
    )


def test_what_the_hub_fails_by_is_reported_in_one_line(monkeypatch):
    def fail(name, split):
        raise ConnectionError("Couldn't reach\n  the hub.\nTry again.")

    monkeypatch.setattr("mocose_hf.evaluation.sts.load_dataset", fail)
    with pytest.raises(InputError) as raised:
        load_sts_task("sts14")
    assert str(raised.value) == (
        "`eval_tasks` sts14: mteb/sts14-sts cannot be loaded from the hub (Couldn't reach the hub. Try again); give "
        "`senteval_dir`, a folder in SentEval's layout."
    )


def test_a_dataset_of_the_hub_without_the_columns_is_reported_in_one_line(monkeypatch):
    monkeypatch.setattr(
        "mocose_hf.evaluation.sts.load_dataset", lambda name, split: Dataset.from_dict({"text": ["a", "b"]})
    )
    with pytest.raises(
        InputError, match=r"^`eval_tasks` sickr: mteb/sickr-sts cannot be loaded .*`senteval_dir`"
    ) as e:
        load_sts_task("sickr")
    assert "\n" not in str(e.value)


# Real data


@pytest.mark.parametrize(("name", "lines"), [("sts12", 3108), ("sts15", 8500)])
def test_the_real_years_are_read_whole(shared_data, name, lines):
    folder = shared_data / "senteval"
    task = read_sts_task(name, folder)
    assert {subset: len(pairs) for subset, pairs in task.subsets.items()} == PUBLISHED[name]
    assert sum(path.read_bytes().count(b"\n") for path in sts_files(name, folder)[::2]) == lines
    assert len(task.sentences()) == 2 * TOTALS[name]
    scores = [score for pairs in task.subsets.values() for score in pairs["score"]]
    assert (min(scores), max(scores)) == (0.0, 5.0)


@pytest.mark.parametrize(("name", "shared"), [("sts12", 259), ("sts15", 580)])
def test_pairs_of_the_real_years_that_stand_in_stsb_dev_are_found(shared_data, name, shared):
    (task,), _ = read_tasks([name], shared_data / "senteval")
    metrics = task.score(Angles())
    assert metrics[f"{name}_without_stsb_dev_pairs"] == TOTALS[name] - shared


def test_the_real_stsb_and_sick_are_read_whole(shared_data):
    task = read_sts_task("stsb", shared_data / "senteval")
    assert (len(task), len(task.development)) == (1379, 1500)
    task = read_sts_task("sickr", shared_data / "senteval")
    assert len(task) == 4927
    assert task.subsets["test"][0] == {
        "score": 3.3,
        "sentence1": "There is no boy playing outdoors and there is no man smiling",
        "sentence2": "A group of kids is playing in a yard and an old man is standing in the background",
    }


@pytest.mark.parametrize(("split", "count"), [("dev", 1500), ("test", 1379), ("train", 5749)])
def test_each_split_of_the_real_stsb_is_read_whole(shared_data, split, count):
    pairs = read_stsb(shared_data / "senteval", split, allow_partial_tasks=False)
    assert len(pairs) == count
    assert min(pairs["score"]) == 0.0
    assert max(pairs["score"]) == 5.0
    assert all(pairs["sentence1"])
    assert all(pairs["sentence2"])
