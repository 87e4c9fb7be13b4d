"""Tables for a terminal, a paper and a program."""

import csv
import json
import math
import re

import pytest
import torch

from mocose_hf.evaluation.score_tables import (
    RESULT_FILES,
    development_table,
    markdown_table,
    tables,
    text_table,
    write_results,
    write_spectrum,
)

STS_HEAD = ["", "STS12", "STS13", "STS14", "STS15", "STS16", "STS-B", "SICK-R"]
TRANSFER_HEAD = ["", "MR", "CR", "SUBJ", "MPQA", "SST2", "TREC", "MRPC"]
STS = ["sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr"]
TRANSFER = ["mr", "cr", "subj", "mpqa", "sst2", "trec", "mrpc"]

SEVEN = {f"{name}_spearman": 70 + i / 3 for i, name in enumerate(STS)} | {"sts_avg_spearman": 71.0}
FOUR = {f"{name}_spearman": 60.0 + i for i, name in enumerate(["sts12", "sts15", "stsb", "sickr"])} | {
    "sts_avg_of_4_spearman": 61.5
}
GEOMETRY = {"alignment": 0.25, "uniformity": -2.5, "effective_rank": 17.0, "mean_cosine": 0.123456}


def parsed_markdown(text: str) -> tuple[str, list[list[str]]]:
    """Return the title and the cells of a table, as a reader of Markdown sees them."""
    title, blank, head, rule, *body = text.split("\n")
    assert blank == ""
    rows = []
    for line in (head, rule, *body):
        assert line.startswith("| ")
        assert line.endswith(" |")
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        rows.append([cell.strip().replace("\\|", "|") for cell in cells])
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows.pop(1) == ["---", *["---:"] * (len(rows[0]) - 1)]
    return title, rows


# Tables


def test_seven_tasks_have_a_mean_in_papers_order():
    extra = {"sts12_pearson": 1.0, "sts12_spearman_mean": 2.0, "sts12_msrpar_spearman": 3.0, "stsb_dev_spearman": 4.0}
    ((title, head, rows),) = tables([("ours", SEVEN | extra)])
    assert title == "STS: Spearman × 100"
    assert head == [*STS_HEAD, "Avg."]
    assert rows == [["ours", "70.00", "70.33", "70.67", "71.00", "71.33", "71.67", "72.00", "71.00"]]


def test_what_is_missing_is_a_dash_and_the_mean_says_of_how_many():
    ((_, head, rows),) = tables([("ours", FOUR)])
    assert head == [*STS_HEAD, "Avg. of 4"]
    assert rows == [["ours", "60.00", "-", "-", "61.00", "-", "62.00", "63.00", "61.50"]]


def test_figures_without_selection_pairs_have_a_line_of_their_own():
    more = {"sts12_without_stsb_dev_spearman": 58.0, "sts_avg_of_4_without_stsb_dev_spearman": 61.0}
    ((_, _, rows),) = tables([("ours", FOUR | more)])
    assert rows[1] == ["ours, without STS-B dev", "58.00", "-", "-", "-", "-", "-", "-", "61.00"]


def test_one_task_has_no_mean():
    ((_, head, rows),) = tables([("ours", {"stsb_spearman": 80.128, "stsb_pearson": 79.0})])
    assert head == STS_HEAD
    assert rows == [["ours", "-", "-", "-", "-", "-", "80.13", "-"]]


def test_a_mean_over_fewer_is_not_put_beside_one_over_more():
    ((_, head, rows),) = tables([("all", SEVEN), ("some", FOUR)])
    assert head[-1] == "Avg."
    assert [row[-1] for row in rows] == ["71.00", "-"]
    assert rows[1][:3] == ["some", "60.00", "-"]


def test_transfer_has_a_line_of_dev_and_one_of_test():
    dev = {f"{name}_dev_accuracy": 80.0 + i for i, name in enumerate(TRANSFER)}
    test = {f"{name}_test_accuracy": 70.0 + i for i, name in enumerate(TRANSFER)}
    means = {"transfer_avg_dev_accuracy": 83.0, "transfer_avg_test_accuracy": 73.0, "mrpc_test_f1": 99.0}
    ((title, head, rows),) = tables([("ours", dev | test | means)])
    assert title == "Transfer: accuracy in percent"
    assert head == [*TRANSFER_HEAD, "Avg."]
    assert rows == [
        ["ours, dev", *(f"{80 + i}.00" for i in range(7)), "83.00"],
        ["ours, test", *(f"{70 + i}.00" for i in range(7)), "73.00"],
    ]
    some = {"mr_dev_accuracy": 1.0, "mr_test_accuracy": 2.0, "trec_test_accuracy": 3.0}
    ((_, head, rows),) = tables([("ours", some | {"transfer_avg_of_2_test_accuracy": 2.5})])
    assert head[-1] == "Avg. of 2"
    assert rows[0] == ["ours, dev", "1.00", *["-"] * 7]
    assert rows[1] == ["ours, test", "2.00", *["-"] * 4, "3.00", "-", "2.50"]


def test_geometry_has_the_figures_that_can_be_computed():
    ((title, head, rows),) = tables([("start", GEOMETRY), ("end", {"mean_cosine": 0.5, "uniformity": -1.0})])
    assert title == "Geometry on STS-B dev"
    assert head == ["", "alignment", "uniformity", "effective rank", "mean cosine"]
    assert rows == [
        ["start", "0.2500", "-2.5000", "17.0000", "0.1235"],
        ["end", "-", "-1.0000", "-", "0.5000"],
    ]


def test_each_table_has_the_rows_that_have_figures_for_it():
    made = tables([("a", SEVEN), ("b", {"mr_test_accuracy": 1.0}), ("c", GEOMETRY), ("d", {"alignment": 0.1})])
    assert [[row[0] for row in rows] for _, _, rows in made] == [["a"], ["b, test"], ["c"]]
    assert tables([("d", {"alignment": 0.1, "uniformity": -2.0})]) == []
    assert tables([]) == []


def test_a_figure_that_is_nan_is_shown():
    ((_, _, rows),) = tables([("ours", {"stsb_spearman": math.nan})])
    assert rows[0][6] == "nan"


def test_a_table_for_the_terminal_is_in_a_frame():
    table = ("Title", ["", "A", "longer"], [["a model", "1.00", "-"], ["b", "10.00", "2.00"]])
    assert text_table(table).split("\n") == [
        "Title",
        "+---------+-------+--------+",
        "|         |     A | longer |",
        "+---------+-------+--------+",
        "| a model |  1.00 |      - |",
        "| b       | 10.00 |   2.00 |",
        "+---------+-------+--------+",
    ]


def test_all_lines_of_a_frame_are_of_one_length():
    for table in tables([("a name of some length", SEVEN | GEOMETRY), ("b", FOUR), ("", {"mr_dev_accuracy": 100.0})]):
        title, *lines = text_table(table).split("\n")
        assert title == table[0]
        assert len({len(line) for line in lines}) == 1
        assert all(line[0] == line[-1] and line[0] in "|+" for line in lines)


def test_markdown_reads_back_as_it_was():
    made = tables([("a|b, c\\d", SEVEN | GEOMETRY), ("plain", FOUR)])
    assert len(made) == 2
    for table in made:
        title, (head, *rows) = parsed_markdown(markdown_table(table))
        assert (title, head, rows) == table


# Files


def read_csv(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_files_hold_what_was_given(tmp_path):
    rows = [("start, step 0", {"stsb_spearman": 1 / 3, "mean_cosine": 0.1 + 0.2}), ('a "b"|c\n', SEVEN)]
    write_results(
        tmp_path, rows, tables(rows), {"eval_all": 2 / 3, "eval_selections": [{"selection": "last", "sts_avg": 1.5}]}
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(RESULT_FILES)
    assert json.loads((tmp_path / "eval_results.json").read_text(encoding="utf-8")) == {
        "eval_all": 2 / 3,
        "eval_selections": [{"selection": "last", "sts_avg": 1.5}],
    }
    found = read_csv(tmp_path / "eval_results.csv")
    assert [row.pop("scored") for row in found] == [name for name, _ in rows]
    later = [name for name in SEVEN if name != "stsb_spearman"]
    assert list(found[0]) == [f"eval_{name}" for name in ("stsb_spearman", "mean_cosine", *later)]
    for row, (_, figures) in zip(found, rows, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == {
            f"eval_{name}": value for name, value in figures.items()
        }


def test_the_json_file_has_the_figures_of_the_last_row_if_it_is_given_none(tmp_path):
    write_results(str(tmp_path), [("a", FOUR), ("b", GEOMETRY)], [])
    text = (tmp_path / "eval_results.json").read_text(encoding="utf-8")
    assert json.loads(text) == {f"eval_{name}": value for name, value in GEOMETRY.items()}
    assert text.endswith("}\n")


def test_the_markdown_file_has_all_tables(tmp_path):
    rows = [("ours", SEVEN | GEOMETRY), ("other", {"mr_dev_accuracy": 1.0, "mr_test_accuracy": 2.0})]
    write_results(tmp_path, rows, tables(rows))
    text = (tmp_path / "eval_results.md").read_text(encoding="utf-8")
    assert text.endswith("|\n")
    parts = re.split(r"(?<=\|)\n\n", text.removesuffix("\n"))
    assert [parsed_markdown(part)[0] for part in parts] == [title for title, _, _ in tables(rows)]
    assert [parsed_markdown(part)[1][1:] for part in parts] == [body for _, _, body in tables(rows)]


def test_what_is_no_number_is_null_in_json(tmp_path):
    write_results(tmp_path, [("a", {"x": math.nan, "y": 1.0})], [])
    text = (tmp_path / "eval_results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"eval_x": None, "eval_y": 1.0}


def test_development_pairs_have_a_table_of_their_own():
    title, head, body = development_table([("start", {"dev_spearman": 70.0, "dev_uniformity": -2.0})])
    assert title == "Development pairs"
    assert head == ["", "Spearman × 100", "alignment", "uniformity"]
    assert body == [["start", "70.0000", "-", "-2.0000"]]


def test_results_are_written_over(tmp_path):
    write_results(tmp_path, [("a", SEVEN)] * 5, [])
    write_results(tmp_path, [("b", {"stsb_spearman": 2.0})], [])
    assert read_csv(tmp_path / "eval_results.csv") == [{"scored": "b", "eval_stsb_spearman": "2.0"}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_spectrum_is_numbered_from_1_and_exact(tmp_path, dtype):
    values = torch.tensor([7.5, 1 / 3, 1e-9, 0.0], dtype=dtype)
    write_spectrum(tmp_path / "spectrum.csv", values)
    rows = read_csv(tmp_path / "spectrum.csv")
    assert [row["number"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["singular_value"]) for row in rows] == values.tolist()
