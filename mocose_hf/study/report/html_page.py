"""All studies on one HTML page that needs nothing else: no network, no script, no other file."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mocose_hf.study.analysis.analysis import BETTER, WORSE, Analysis
from mocose_hf.study.report.interpretation import HOW_TO_READ, answer, notes, trial_notes
from mocose_hf.study.report.run_settings import cell_options, facts
from mocose_hf.study.report.tables import NOTHING, Entry, Table, cell_table, number, study_table
from mocose_hf.study.study import Study
from mocose_hf.templates import html_environment

_OVERVIEW_HEAD = (
    Entry("Study"),
    Entry("Trials", "complete"),
    Entry("Best here", "mean"),
    Entry("Best in the paper", "of the same cells"),
    Entry("Rank correlation", "with the paper (cells)"),
    Entry("Significant, paired", "block design"),
)


@dataclass(frozen=True)
class PageEntry:
    """A study on the page.

    Args:
        analysis: The study.
        plot: Its plot as SVG, None without a plot.
        files: The names of its files beside the page.
    """

    analysis: Analysis
    plot: bytes | None
    files: Sequence[str]


@dataclass(frozen=True)
class _Section:
    """The content of a study's section, as the template shows it."""

    study: Study
    overview: Sequence[Entry]
    answer: str
    plot: Markup
    alternative: str
    table: Table
    caption: str
    trials: Sequence[str]
    notes: Sequence[str]
    cells: Table | None
    facts: Mapping[str, str]
    cell_options: Mapping[str, str]
    files: Sequence[str]


def page(entries: Sequence[PageEntry]) -> str:
    """Return the page: an overview of several studies, and a section for each."""
    title = "Studies" if len(entries) != 1 else entries[0].analysis.study.title
    return (
        html_environment(__package__)
        .get_template("page.html")
        .render(
            title=title, sections=list(map(_section, entries)), overview_head=_OVERVIEW_HEAD, how_to_read=HOW_TO_READ
        )
    )


def _section(entry: PageEntry) -> _Section:
    analysis, study = entry.analysis, entry.analysis.study
    table = study_table(analysis)
    return _Section(
        study=study,
        overview=_overview(analysis),
        answer=answer(analysis),
        plot=Markup("" if entry.plot is None else base64.b64encode(entry.plot).decode("ascii")),
        alternative=f"Plot: {study.title}. {_line_ends(analysis) or 'The table below has its figures.'}",
        table=table,
        caption=f"{study.title}: {analysis.metric.title}, {analysis.metric.unit}",
        trials=trial_notes(analysis),
        notes=[*table.legend, *notes(analysis)],
        cells=cell_table(analysis) if analysis.has_columns else None,
        facts=facts(analysis),
        cell_options=cell_options(analysis),
        files=entry.files,
    )


def _overview(analysis: Analysis) -> list[Entry]:
    best, agreement = analysis.best, analysis.agreements.get(analysis.metric.name)
    complete = sum(trial.state == "complete" for trial in analysis.trials)
    correlation = Entry(NOTHING)
    if agreement is not None and agreement.correlation is not None:
        correlation = Entry(number(agreement.correlation), f"({agreement.count})")
    paired = _significant((outcome.verdict, outcome.adjusted_p) for outcome in analysis.cells)
    block = _significant((outcome.block_verdict, outcome.block_p) for outcome in analysis.cells)
    return [
        Entry(f"{complete} of {len(analysis.trials)}"),
        Entry(NOTHING) if best is None else Entry(best.cell.label, number(best.score.mean, analysis.metric.decimals)),
        Entry(NOTHING if agreement is None else agreement.best[0]),
        correlation,
        Entry(paired, block),
    ]


def _significant(tests: Iterable[tuple[str, float | None]]) -> str:
    """Return how many of the tested cells differ significantly from the default."""
    verdicts = [verdict for verdict, p in tests if p is not None]
    return f"{sum(verdict in (BETTER, WORSE) for verdict in verdicts)} of {len(verdicts)}" if verdicts else NOTHING


def _line_ends(analysis: Analysis) -> str:
    """Describe where the lines of a plot end, for readers who do not see it; "" if the table has the figures."""
    ends = []
    for outcome in analysis.cells:
        if analysis.study.plot == "curves" and (last := outcome.figure(f"last_{analysis.curve_metric.name}")):
            ends.append(f"{outcome.cell.label}, {number(last.mean, analysis.curve_metric.decimals)}")
        values = outcome.mean_spectrum()
        if analysis.study.plot == "spectrum" and values:
            ends.append(f"{outcome.cell.label}, {number(values[0])} to {number(values[-1])}")
    what = "Mean of the last evaluations" if analysis.study.plot == "curves" else "Largest and smallest singular value"
    return f"{what} of each cell: {'; '.join(ends)}." if ends else ""
