"""The settings that a search has tried, as a study to report."""

from collections.abc import Sequence
from statistics import fmean

from mocose_hf.study.declarations import Cell, Study
from mocose_hf.study.results import SCORE, TrialResult

AS_GIVEN = "the options as given"
"""The cell of a search in which nothing of its space is set: what the others are tested against."""


def as_study(name: str, title: str, question: str, results: Sequence[TrialResult]) -> Study:
    """Return a study whose cells are the settings tried, that of the options as given first, then the best first."""
    scores: dict[str, list[float]] = {AS_GIVEN: []}
    for result in results:
        scores.setdefault(result.cell, [])
        if result.state == "complete":
            scores[result.cell].append(result.figures[SCORE])
    tried = [label for label in scores if label != AS_GIVEN]
    tried.sort(key=lambda label: fmean(scores[label]) if scores[label] else float("-inf"), reverse=True)
    return Study(name, title, question, "a search", [Cell(label) for label in (AS_GIVEN, *tried)])
