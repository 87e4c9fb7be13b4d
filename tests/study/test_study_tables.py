"""Tables of studies with their notes, and their CSV, Markdown and LaTeX."""

import csv
import io
import math
import random
import re

import pytest
from study_results import NASTY, collapse_study, complete, decay_study, queue_study, spectrum_study

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import analyse
from mocose_hf.study.analysis.seed_tests import Summary, seeds_for_equivalence
from mocose_hf.study.paper_studies import PAPER_STUDIES
from mocose_hf.study.report.csv_export import summary_csv, trials_csv
from mocose_hf.study.report.interpretation import answer, notes, trial_notes
from mocose_hf.study.report.markdown_latex import latex, latex_table, markdown_table, study_latex, study_markdown
from mocose_hf.study.report.tables import Entry, cell_table, grid_table, mean_text, number, p_text, signed, study_table

DECAY, QUEUE = analyse(*decay_study()), analyse(*queue_study())


def small_study(*scores: list[float], **study) -> tuple[Study, list[TrialResult]]:
    """A study of the cells "a", "b", … with a score for each seed 0, 1, …."""
    cells = [Cell(row) for row in "abcdefgh"[: len(scores)]]
    analysis = Study(**{"name": "s", "title": "S", "question": "Why?", "source": "", "cells": cells} | study)
    results = [
        complete("s", cell.label, seed, score)
        for cell, figures in zip(cells, scores, strict=True)
        for seed, score in enumerate(figures)
    ]
    return analysis, results


def texts(table) -> dict[str, list[Entry]]:
    return {row[0].text: list(row[1:]) for row in table.rows}


# Numbers


def test_numbers_have_two_places_and_a_true_minus():
    assert number(-0.004) == "0.00"
    assert number(-1.5) == "−1.50"
    assert signed(0.004) == "0.00"
    assert signed(-0.004) == "0.00"
    assert signed(0.5) == "+0.50"
    assert signed(-12.5) == "−12.50"
    assert p_text(None) == "–"
    assert p_text(0.00099) == "< 0.001"
    assert p_text(0.04999) == "0.050"
    assert mean_text(None, 3) == "–"
    assert mean_text(Summary(1, 71.0, None), 3) == "71.00 (1 of 3)"
    assert mean_text(Summary(3, 71.0, 0.25), 3) == "71.00 ± 0.25 (3)"


# The table of one column


def test_a_row_each_cell_with_paper_difference_and_test_sets():
    table = study_table(DECAY)
    assert [(entry.text, entry.below) for entry in table.head] == [
        ("Cell", ""),
        ("Paper", "Table 3"),
        ("Development pairs", "mean ± sd (seeds)"),
        ("Difference", "95 % CI"),
        ("p, paired", "p, block design"),
        ("p, equivalent", "within ± 0.30"),
        ("Verdict", "paired; block design"),
        ("Mean of 7 STS test sets", "mean ± sd (seeds)"),
    ]
    assert [row[0].text for row in table.rows] == [
        "η = 0.85 (default)" if outcome.is_default else outcome.cell.label for outcome in DECAY.cells
    ]
    paper, score, difference, p, equivalent, verdict, test_sets = texts(table)["η = 0.5"]
    outcome = DECAY.cells[0]
    assert paper.text == "75.76"
    assert score.text == f"{outcome.score.mean:.2f} ± {outcome.score.sd:.2f} (3)"
    assert difference.text == f"{outcome.test.difference:+.2f}".replace("-", "−")
    assert difference.below == f"[{signed(outcome.test.low)}, {signed(outcome.test.high)}]"
    assert (p.text, p.below) == (f"{outcome.adjusted_p:.3f}", f"{outcome.block_p:.3f}")
    assert (equivalent.text, equivalent.below) == (f"{outcome.adjusted_equivalence_p:.3f}", "")
    assert (verdict.text, verdict.below) == ("not significant", "block design: not significant")
    assert test_sets.text.endswith(" (3)")


def test_missing_trials_are_counted_and_a_cell_without_any_is_a_dash():
    rows = texts(study_table(DECAY))
    assert rows["η = 0.75"][1].text.endswith(" (1 of 3)")
    assert "±" not in rows["η = 0.75"][1].text
    assert rows["η = 0.75"][5].text == "not tested: one common seed"
    assert rows["η = 0.9"][1].text.endswith(" (2 of 3)")
    assert [entry.text for entry in rows["never run"]] == ["70.00", "–", "–", "–", "–", "–", "–"]
    assert rows["η = 0.75"][0].text == "–"  # the paper has none


def test_the_default_is_marked_and_not_tested():
    (marked,) = (row for row in study_table(DECAY).rows if row[0].is_default)
    assert marked[0].text == "η = 0.85 (default)"
    assert [entry.text for entry in marked[3:7]] == ["–", "–", "–", "the default"]


def test_without_paper_and_test_sets_their_columns_are_missing():
    table = study_table(analyse(*small_study([70.0, 71.0], [72.0, 73.5])))
    heads = ["Cell", "Development pairs", "Difference", "p, paired", "p, equivalent", "Verdict"]
    assert [entry.text for entry in table.head] == heads


def test_curves_have_the_last_evaluation_and_the_alarm():
    table = study_table(analyse(*collapse_study()))
    assert [entry.text for entry in table.head][-2:] == ["Last evaluation", "Collapse alarm"]
    alarms = [(row[-1].text, row[-1].below) for row in table.rows]
    assert alarms == [("0 of 3", ""), ("0 of 3", ""), ("3 of 3", "step 270")]


def test_an_average_of_fewer_sets_says_of_how_many():
    study, _ = small_study([70.0])
    results = [complete("s", "a", 1, 70.0, figures={"sts_avg_of_4_spearman": 61.5})]
    table = study_table(analyse(study, results))
    assert table.head[-1].text == "Mean of 4 STS test sets"
    assert table.rows[0][-1].text == "61.50 (1)"


# The grid


def test_the_grid_has_ours_above_the_papers():
    table = study_table(QUEUE)
    assert [entry.text for entry in table.head] == ["Cell", "none", "¼", "½", "all"]
    assert [row[0].text for row in table.rows] == ["K = 128", "K = 256", "K = 512", "K = 1024", "K = 4096"]
    default = texts(table)["K = 512"][1]
    assert default.is_default
    assert default.below == "paper 77.30, default"
    assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d \(2\)", default.text)
    empty = texts(table)["K = 4096"][3]
    assert (empty.text, empty.below) == ("–", "paper 45.80")


def test_the_grid_marks_what_is_significant():
    """The grid shows both tests. With two seeds and 18 comparisons, one cell is worse by both."""
    rows = texts(study_table(QUEUE))
    marks = [entry.text.partition(") ")[2] for entry in rows["K = 4096"][:3]]
    assert marks == ["", "↓ (↓)", ""]
    arrows = {"worse than the default": "↓", "better than the default": "↑"}
    for outcome in QUEUE.cells[:-1]:
        found = [arrows.get(outcome.verdict, ""), f"({arrows.get(outcome.block_verdict, '')})".replace("()", "")]
        entry = rows[outcome.cell.row][["none", "¼", "½", "all"].index(outcome.cell.column)]
        assert entry.text.partition(") ")[2] == " ".join(filter(None, found))
    for start in ("↑, ↓: ", "(↑), (↓): "):
        assert any(line.startswith(start) for line in study_table(QUEUE).legend)


def test_equivalence_is_marked_in_list_and_grid():
    shifts = {"a": 0.0, "b": 0.02, "c": -0.02}
    draw = random.Random(2)
    results = [
        complete("s", f"{row}, x", seed, 70 + seed + shift + draw.gauss(0, 0.05))
        for row, shift in shifts.items()
        for seed in range(6)
    ]
    study = Study("s", "S", "?", "", [Cell(row, "x") for row in shifts], equivalence_bound=0.5)
    analysis = analyse(study, results)
    rows = texts(grid_table(analysis))
    assert [rows[row][0].text.partition(") ")[2] for row in shifts] == ["", "≈", "≈"]
    assert "≈: equivalent to the default within ± 0.50 by two one-sided paired t-tests" in " ".join(
        grid_table(analysis).legend
    )
    rows = texts(cell_table(analysis))
    assert [rows[f"{row}, x"][3].below for row in "bc"] == ["equivalent"] * 2
    text = note(analysis, "Equivalent to the default within ± 0.50")
    assert "“b, x”, “c, x” of 2." in text
    assert f"needs about {seeds_for_equivalence(math.sqrt(2) * analysis.detectable.sd, 0.5)} seeds" in text


def test_a_place_of_the_grid_without_a_cell_is_empty():
    cells = [Cell("a", "1"), Cell("b", "2")]
    rows = texts(grid_table(analyse(Study("s", "S", "?", "", cells), [])))
    assert [entry.text for entry in rows["a"]] == ["–", ""]
    assert [entry.text for entry in rows["b"]] == ["", "–"]


def test_the_list_of_a_grids_cells_has_all_of_them():
    assert len(cell_table(QUEUE).rows) == 20


def test_a_column_without_a_name_is_called_none():
    cells = [Cell("none"), Cell("ε", "FGSM"), Cell("ε", "signs")]
    table = grid_table(analyse(Study("s", "S", "?", "", cells), []))
    assert [entry.text for entry in table.head] == ["Cell", "none", "FGSM", "signs"]
    assert all(entry.text for study in (*PAPER_STUDIES.values(), QUEUE.study) for entry in heads(study))


def heads(study) -> list[Entry]:
    analysis = analyse(study, [])
    return [*study_table(analysis).head, *cell_table(analysis).head]


# Notes


def all_notes(analysis) -> list[str]:
    return [*trial_notes(analysis), *notes(analysis)]


def note(analysis, start: str) -> str:
    (found,) = (line for line in all_notes(analysis) if line.startswith(start))
    return found


def test_the_notes_count_trials_and_give_reasons():
    assert note(DECAY, "24 of 27") == "24 of 27 trials are complete, 1 failed, 1 running, 1 waiting."
    assert note(DECAY, "Failed") == "Failed: “η = 0.75”, seed 42: the disk | is full <now> & 100%."
    assert note(QUEUE, "38 of 38") == "38 of 38 trials are complete."
    assert note(QUEUE, "Not requested") == "Not requested: 1 of 20 cells."


def test_the_notes_explain_the_minimum_detectable_difference():
    found = DECAY.detectable
    text = note(DECAY, "Minimum detectable difference")
    assert text.startswith(f"Minimum detectable difference: {found.minimum:.2f}.")
    assert "3 shared seeds" in text
    assert f"{found.sd:.2f} (95 % CI {found.low:.2f} to {found.high:.2f}; 13 degrees of freedom)" in text
    assert "It assumes that a seed affects all cells equally, and normal noise of the same size in all cells." in text
    assert f"standard deviation of {DECAY.spread:.2f} (pooled within" in note(DECAY, "Spread over seeds")


def test_the_notes_give_the_actual_number_of_seeds():
    for count, factors in ((3, "0.52 and 6.3"), (12, "0.71 and 1.7")):
        analysis = analyse(*small_study(*[[70.0 + 0.1 * seed * row for seed in range(count)] for row in (1, 2)]))
        assert f"With {count} seeds" in note(analysis, "Spread over seeds")
        assert f"between {factors} times" in note(analysis, "Spread over seeds")


def test_the_answer_names_the_best_cell_and_what_differs():
    text = answer(DECAY)
    assert text.startswith("Best: “η = 0.85” with 72.03 ± 0.28 (Spearman × 100, 3 seeds).")
    assert text.endswith(f"“{NASTY}” is significantly worse than “η = 0.85”.")
    equal = analyse(*small_study([70.0, 71.0, 72.5], [70.5, 71.5, 71.2]))
    assert "does not differ significantly from the default, “a”." in answer(equal)
    assert "No difference from the default can be tested yet." in answer(analyse(*small_study([70.0], [71.0])))
    assert answer(analyse(*small_study([70.0]))) == "Best: “a” with 70.00 (Spearman × 100, 1 seed)."
    assert answer(analyse(small_study([70.0])[0], [])) == "No result yet."


def test_another_metric_heads_the_tables_and_comes_first_in_the_csv():
    study, results = small_study([70.0, 71.0], [72.0, 73.5], metric="dev_uniformity")
    results = [
        TrialResult(**vars(trial) | {"figures": trial.figures | {"dev_uniformity": -2.0 - 0.01 * number}})
        for number, trial in enumerate(results)
    ]
    analysis = analyse(study, results)
    table = study_table(analysis)
    assert table.head[1].text == "Uniformity, development pairs"
    assert texts(table)["a (default)"][0].text == "−2.0050 ± 0.0071 (2)"
    assert "smaller is better" in table.legend[0]
    assert "“b” with −2.0250 ± 0.0071 (uniformity, 2 seeds)" in answer(analysis)
    assert next(csv.DictReader(io.StringIO(trials_csv(analysis))))["dev_uniformity"] == "-2.0"
    assert trials_csv(analysis).startswith("study,cell,row,column,seed,state,reason,dev_uniformity,")


def test_the_notes_compare_with_the_paper():
    text = note(DECAY, "Best here")
    correlations = [DECAY.agreements[name].correlation for name in ("dev_spearman", "sts_avg_spearman")]
    assert f"{correlations[0]:.2f} for development pairs (7 cells)" in text
    assert f"{correlations[1]:.2f} for mean of 7 STS test sets (7 cells)" in text
    assert "the best there is “η = 0.85”" in text
    assert "standard deviation of 0.41" in text


def test_the_notes_say_which_cells_differ():
    text = note(DECAY, "Compared with the default")
    assert f"by the paired t-test: better: none; worse: “{NASTY}”; not significant: 6; not tested: 1." in text
    assert f"By the block-design t-test: better: none; worse: “{NASTY}”; not significant: 6; not tested: 1." in text


def test_the_notes_name_the_family_that_the_error_rate_holds_for():
    text = note(DECAY, "Holm's method adjusts")
    assert "7 paired t-tests and, separately, 7 block-design t-tests." in text
    assert "This does not cover test sets, other studies, or picking the better of the two tests." in text
    assert not any(line.startswith("Holm") for line in all_notes(analyse(*small_study([70.0], [71.0]))))


def test_a_default_without_a_score_is_noted():
    study, results = small_study([70.0, 71.0], [72.0, 73.0])
    analysis = analyse(study, results[2:])
    assert note(analysis, "The default") == "The default, “a”, has no complete trial, so no cell is tested against it."


def test_the_spread_of_the_means_is_set_against_that_of_equal_cells():
    equal = analyse(*small_study([70.0, 71.0, 72.0], [70.5, 71.5, 71.2], [71.0, 72.0, 70.2]))
    assert note(equal, "The means of").endswith("so their order may be due to chance alone.")
    apart = analyse(*small_study([70.0, 70.1, 70.2], [75.5, 75.4, 75.2], [71.0, 71.1, 71.2]))
    assert note(apart, "The means of").endswith("so not all cells are equal.")


def test_a_cell_that_spreads_more_is_named():
    analysis = analyse(*small_study([70.0, 70.1, 70.2], [70.5, 70.4, 70.2], [30.0, 50.0, 71.2]))
    assert "The cell “c” is significantly noisier than the others." in note(analysis, "The cell")
    assert not any("noisier" in line for line in all_notes(DECAY))


def test_single_seeds_say_that_nothing_is_known():
    analysis = analyse(*small_study([70.0], [71.0]))
    assert "No two trained cells share two seeds, so the noise of a comparison is unknown." in all_notes(analysis)
    assert not any(line.startswith("The means of") for line in all_notes(analysis))


def test_interrupted_trials_are_noted():
    study, results = small_study([70.0, 71.0])
    results += [TrialResult("s", "a", seed, "interrupted") for seed in (2, 3)]
    analysis = analyse(study, [*results, TrialResult("s", "a", 4, "running"), TrialResult("s", "a", 5, "waiting")])
    expected = "2 of 6 trials are complete, 1 running, 2 interrupted (the next run resumes them), 1 waiting."
    assert note(analysis, "2 of 6") == expected


def test_only_existing_trials_count_and_skipped_cells_are_named():
    study, results = small_study([70.0, 71.0], [72.0, 73.0], [71.0, 71.0], [70.0, 70.0])
    analysis = analyse(study, results[:4], skipped=["d"])
    assert note(analysis, "4 of") == "4 of 4 trials are complete."
    assert note(analysis, "Skipped") == "Skipped, because its requirements were missing: “d”."
    assert note(analysis, "Not requested") == "Not requested: 1 of 4 cells."
    assert not any(line.startswith(("Skipped", "Not requested")) for line in all_notes(analyse(study, results)))


def test_cells_without_training_are_outside_the_range_and_noted():
    study, results = small_study([70.0, 71.0, 72.0], [70.5, 71.5, 71.2], [71.0, 72.0, 70.2], [40.0])
    without = note(analyse(study, results[:9]), "The means of")
    study = Study(**vars(study) | {"cells": [*study.cells[:3], Cell("d", options={"baseline": "start"})]})
    analysis = analyse(study, results)
    assert note(analysis, "The means of the 3 trained cells") == without
    assert "which favours training" in note(analysis, "Not trained: “d”.")
    assert not any(line.startswith("Not trained") for line in all_notes(DECAY))


def test_without_trials_there_is_one_note():
    study, _ = small_study([70.0])
    assert all_notes(analyse(study, [])) == ["No trial has run yet."]


def test_scores_that_are_no_numbers_and_cells_that_are_gone_are_named():
    study, results = small_study([70.0, math.nan])
    analysis = analyse(study, [*results, complete("s", "gone", 0, 70.0)])
    assert "Complete, but without a finite score: “a”, seed 1." in all_notes(analysis)
    assert "Ignored, because the study has no such cell: 1 trial of “gone”." in all_notes(analysis)


# CSV


def test_the_trials_csv_reads_back():
    lines = list(csv.DictReader(io.StringIO(trials_csv(DECAY))))
    assert len(lines) == 27
    assert lines[0]["study"] == "ema_decay"
    assert lines[0]["seed"] == "42"
    trial = DECAY.trials[0]
    assert float(lines[0]["dev_spearman"]) == trial.figures["dev_spearman"]
    assert float(lines[0]["sts_avg_spearman"]) == trial.figures["sts_avg_spearman"]
    failed = next(line for line in lines if line["state"] == "failed")
    assert failed["reason"] == "the disk | is full <now> & 100%"
    assert failed["dev_spearman"] == ""
    assert {line["cell"] for line in lines} >= {NASTY}


def test_the_trials_csv_has_all_options_those_that_are_alike_too():
    lines = list(csv.DictReader(io.StringIO(trials_csv(DECAY))))
    options = [name for name in lines[0] if name.startswith("option_")]
    assert options == ["option_ema_decay", "option_learning_rate", "option_symmetric"]
    assert {line["option_symmetric"] for line in lines} == {"", "true"}
    grid = list(csv.DictReader(io.StringIO(trials_csv(QUEUE))))
    assert (grid[2]["row"], grid[2]["column"], grid[2]["option_part"]) == ("K = 256", "none", "none")


def test_a_waiting_trial_has_the_options_that_it_will_run_with():
    """Its rate comes from the other trials, because the command line overrode the study's; its decay from its cell."""
    study, results = decay_study()
    study = Study(**vars(study) | {"options": {"learning_rate": 1e-3}})
    lines = list(csv.DictReader(io.StringIO(trials_csv(analyse(study, results)))))
    waiting = next(line for line in lines if line["state"] == "waiting")
    assert (waiting["option_ema_decay"], waiting["option_symmetric"]) == ("0.9", "")
    assert {line["option_learning_rate"] for line in lines} == {"3e-05"}


def test_the_summary_csv_has_a_line_for_each_cell():
    lines = {line["cell"]: line for line in csv.DictReader(io.StringIO(summary_csv(DECAY)))}
    assert len(lines) == 10
    line, outcome = lines["η = 0.5"], DECAY.cells[0]
    assert float(line["paper"]) == 75.76
    assert float(line["dev_spearman_mean"]) == outcome.score.mean
    assert float(line["dev_spearman_sd"]) == outcome.score.sd
    assert float(line["p_holm"]) == outcome.adjusted_p
    assert float(line["block_p_holm"]) == outcome.block_p
    assert (line["verdict"], line["block_verdict"]) == ("not significant", "not significant")
    assert float(line["equivalence_bound"]) == 0.3
    assert float(line["equivalence_p"]) == outcome.equivalence_p
    assert float(line["equivalence_p_holm"]) == outcome.adjusted_equivalence_p
    assert (line["is_default"], lines["η = 0.85"]["is_default"]) == ("false", "true")
    counts = [lines["η = 0.75"][name] for name in ("seeds", "complete", "failed", "running", "interrupted", "waiting")]
    assert counts == ["3", "1", "1", "1", "0", "0"]
    assert [lines["never run"][name] for name in ("waiting", "dev_spearman_count", "dev_spearman_mean")] == [
        "0",
        "0",
        "",
    ]
    block = outcome.block
    assert [float(line[f"block_{name}"]) for name in ("difference", "low", "high", "df", "p")] == [
        *(block.difference, block.low, block.high, block.degrees_of_freedom, block.p)
    ]


# Markdown


def markdown_cells(text: str) -> list[list[str]]:
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("table", [study_table(DECAY), study_table(QUEUE)], ids=["list", "grid"])
def test_markdown_has_as_many_cells_in_each_line(table):
    cells = markdown_cells(markdown_table(table))
    assert {len(line) for line in cells} == {len(table.head)}
    assert len(cells) == len(table.rows) + 2
    assert cells[1] == ["---", *["---:"] * (len(table.head) - 1)]


def test_markdown_escapes_its_marks():
    text = markdown_table(study_table(DECAY))
    assert r"| η\|½ ≥ 5% a\_b \& \<b\>\$x\$\</b\> |" in text
    assert "| **η = 0.85 (default)** |" in text
    assert "paper 77.30, default" in markdown_table(study_table(QUEUE))


def test_markdown_has_title_question_and_notes():
    text = study_markdown(DECAY)
    assert text.startswith("## EMA decay (Table 3)\n\nHow slow should the target be?\n\nBest: “η = 0.85” with ")
    assert "\n* 24 of 27 trials are complete" in text
    assert text.endswith("\n")


def test_a_grid_is_followed_by_its_cells_with_their_tests():
    """A grid shows the tests only as marks, so a second table lists them. A study of one column needs one table."""
    text = study_markdown(QUEUE)
    grid, cells = markdown_table(study_table(QUEUE)), markdown_table(cell_table(QUEUE))
    assert 0 < text.index(grid) < text.index(cells)
    assert "| K = 128, ¼ | " in cells
    assert text.count("| Verdict<br>") == study_markdown(DECAY).count("| Verdict<br>") == 1
    latexed = study_latex(QUEUE)
    assert latexed.index(latex_table(study_table(QUEUE))) < latexed.index(latex_table(cell_table(QUEUE)))
    assert re.findall(r"\\label\{(.*)\}", latexed) == ["tab:queue", "tab:queue-cells"]
    assert re.findall(r"\\label\{(.*)\}", study_latex(DECAY)) == ["tab:ema-decay"]


# LaTeX


def assert_pdflatex_can_read(text: str) -> None:
    """Check that braces, environments and mathematics are closed, and that no character needs a package."""
    # Escaped characters have no special meaning.
    bare = re.sub(r"\\[\\&%$#_{}]", "", re.sub(r"(?m)^%.*$", "", text))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not set("#_^~%") & set(re.sub(r"\$[^$]*\$", "", bare).replace("{%", "{"))
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    known = set("ÄÖÜäöüßéèáà")
    assert {character for character in bare if not character.isascii()} <= known


@pytest.mark.parametrize("study", [decay_study, queue_study, collapse_study, spectrum_study])
def test_latex_is_closed_and_in_ascii(study):
    text = study_latex(analyse(*study()))
    assert_pdflatex_can_read(text)
    assert text.startswith("% ")
    assert "\\begin{table}[htbp]\n" in text
    assert text.endswith("\\end{table}\n")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}\n") == text.count("\\begin{table}")


@pytest.mark.parametrize("analysis", [DECAY, QUEUE], ids=["list", "grid"])
def test_latex_has_as_many_columns_in_each_line(analysis):
    table = study_table(analysis)
    text = latex_table(table)
    lines = [line for line in text.split("\n") if line.endswith(r"\\") or line.endswith("[1pt]")]
    assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(table.head)}
    below = [table.head, *table.rows]
    assert len(lines) == len(below) + sum(any(entry.below for entry in row) for row in below)
    kinds = re.search(r"\\begin\{tabular\}\{(.*)\}$", text, re.MULTILINE).group(1)
    assert len(re.sub(r"p\{[^}]*\}", "l", kinds)) == len(table.head)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("η ≥ ½ & 5% a_b", r"$\eta$ $\geq$ $\frac{1}{2}$ \& 5\% a\_b"),
        ("ε λ Ω φ", r"$\varepsilon$ $\lambda$ $\Omega$ $\varphi$"),
        ("a\\b {c} #1 ~ ^", r"a\textbackslash{}b \{c\} \#1 \textasciitilde{} \textasciicircum{}"),
        ("[CLS] * x", "{[}CLS] {*} x"),
        ("--padding_free", r"-{}-padding\_free"),
        ("1–2 — “x” …", r"1--2 --- ``x'' \ldots{}"),
        ("−0.5 ± 1 × 2 < 3 | 4", r"$-$0.5 $\pm$ 1 $\times$ 2 $<$ 3 $|$ 4"),
        ("Müller é ß Ł", "Müller é ß Ł"),
        ("e\u0301", "é"),
        ("x₂ ﬁ", "x2 fi"),
        ("日 🙂", "[U+65E5] [U+1F642]"),
        ("two\nlines\tand", "two lines and"),
        ("cost: $5", r"cost: \$5"),
        ("a/b", r"a/\allowbreak{}b"),
    ],
)
def test_latex_shows_any_text(text, written):
    assert latex(text) == written
