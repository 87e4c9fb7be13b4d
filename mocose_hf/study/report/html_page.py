"""All studies on one HTML page that needs nothing beside it: no network, no script, no other file."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mocose_hf.study.analysis.analysis import ABOVE, BELOW, Analysis
from mocose_hf.study.report.interpretation import CAUTIONS, best_cell, notes
from mocose_hf.study.report.run_settings import facts, own_options
from mocose_hf.study.report.tables import NOTHING, Entry, Table, cell_table, number, study_table
from mocose_hf.study.results import SCORE

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --rule: #d1d9e0; --paper: #ffffff;
  --mark: #eef4fb; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #a3adb8; --rule: #3d444d; --paper: #14181d; --mark: #1d2b3c; --link: #7ab7ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 0 0 .25rem; }
h3, h4 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
a { color: var(--link); }
p { margin: .25rem 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--faint); }
dd { margin: 0; overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; overflow-wrap: anywhere; }
.notes { font-size: .9rem; max-width: 50rem; }
.source, .files, .below, summary { color: var(--faint); font-size: .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; color: var(--faint); padding-bottom: .4rem; }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
td { white-space: nowrap; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); max-width: 18rem; }
tbody th { font-weight: 400; }
.default { background: var(--mark); font-weight: 600; }
tbody th.default { background: var(--mark); }
.below { display: block; font-size: .82rem; font-weight: 400; }
figure { margin: 1rem 0; padding: .75rem; background: #ffffff; border: 1px solid var(--rule); border-radius: .4rem; }
img { display: block; width: 100%; height: auto; max-width: 52rem; margin: 0 auto; }
@media (max-width: 40rem) {
  body { padding: 1rem .75rem 3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  th, td { padding: .3rem .45rem; }
  th:first-child { max-width: 9rem; }
  figure { padding: .25rem; } }
@media print {
  :root { color-scheme: light; --ink: #000000; --faint: #444444; --rule: #999999; --paper: #ffffff;
    --mark: #eeeeee; --link: #000000; }
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  td { white-space: normal; }
  th, td { padding: .2rem .35rem; }
  th:first-child { position: static; }
  figure { border: none; padding: 0; }
  h2, h3, h4, thead { break-after: avoid; }
  figure, tr, li { break-inside: avoid; }
  nav, .files, details:not([open]) { display: none; } }
"""


@dataclass(frozen=True)
class Shown:
    """A study as the page shows it.

    Args:
        made: The study.
        plot: Its plot as SVG, None where there is none.
        files: Names of the files beside the page that hold it.
    """

    made: Analysis
    plot: bytes | None
    files: Sequence[str]


def page(studies: Sequence[Shown]) -> str:
    """Return the page: cautions, an overview, then each study with its plot, table, notes and settings."""
    title = "Studies" if len(studies) != 1 else studies[0].made.study.title
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        "<header>",
        f"<h1>{_text(title)}</h1>",
        "</header>",
        "<main>",
        *_overview(studies),
        *(line for shown in studies for line in _study(shown)),
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def html_table(table: Table, caption: str) -> str:
    """Return a table that scrolls sideways where it is wider than the page."""
    lines = [
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(caption)}">',
        "<table>",
        f"<caption>{_text(caption)}</caption>",
        f"<thead><tr>{''.join(_cell('th', entry, 'col') for entry in table.head)}</tr></thead>",
        "<tbody>",
    ]
    for name, *others in table.rows:
        lines.append(f"<tr>{_cell('th', name, 'row')}{''.join(_cell('td', entry) for entry in others)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>", "</div>"])


def _facts(description: Mapping[str, str]) -> list[str]:
    if not description:
        return []
    return ["<dl>", *(f"<dt>{_text(name)}</dt><dd>{_text(fact)}</dd>" for name, fact in description.items()), "</dl>"]


def _overview(studies: Sequence[Shown]) -> list[str]:
    lines = ["<section>", "<h2>How to read the figures</h2>", *_list(CAUTIONS), "</section>"]
    if len(studies) < 2:
        return lines
    rows = []
    for shown in studies:
        study = shown.made.study
        link = f'<a href="#{_text(study.name)}">{_text(study.title)}</a>'
        below = f'<span class="below">{_text(study.source)}</span>' if study.source else ""
        others = "".join(_cell("td", entry) for entry in _overview_entries(shown.made))
        rows.append(f'<tr><th scope="row">{link}{below}</th>{others}</tr>')
    head = [
        Entry("Study"),
        Entry("Trials", "complete"),
        Entry("Best here", "mean"),
        Entry("Best in the paper", "of the same cells"),
        Entry("Rank correlation", "with the paper (cells)"),
        Entry("Significant, paired", "block"),
    ]
    return [
        *lines,
        "<section>",
        "<h2>Overview</h2>",
        '<div class="scroll" role="region" tabindex="0" aria-label="Overview">',
        "<table>",
        f"<thead><tr>{''.join(_cell('th', entry, 'col') for entry in head)}</tr></thead>",
        f"<tbody>{''.join(rows)}</tbody>",
        "</table>",
        "</div>",
        "</section>",
    ]


def _overview_entries(made: Analysis) -> list[Entry]:
    best, found = best_cell(made), made.agreements.get(SCORE)
    complete = sum(trial.state == "complete" for trial in made.trials)
    correlation = Entry(NOTHING)
    if found is not None and found.correlation is not None:
        correlation = Entry(number(found.correlation), f"({found.count})")
    paired = _significant((outcome.verdict, outcome.adjusted_p) for outcome in made.cells)
    block = _significant((outcome.block_verdict, outcome.block_p) for outcome in made.cells)
    return [
        Entry(f"{complete} of {len(made.trials)}"),
        Entry(NOTHING) if best is None else Entry(best.cell.label, number(best.score.mean)),
        Entry(NOTHING if found is None else found.best[0]),
        correlation,
        Entry(paired, block),
    ]


def _significant(tests: Iterable[tuple[str, float | None]]) -> str:
    """Return how many cells differ significantly from the default, of those that a test has a p of."""
    verdicts = [verdict for verdict, p in tests if p is not None]
    return f"{sum(verdict in (ABOVE, BELOW) for verdict in verdicts)} of {len(verdicts)}" if verdicts else NOTHING


def _study(shown: Shown) -> list[str]:
    made, study = shown.made, shown.made.study
    source = f' <span class="source">{_text(study.source)}</span>' if study.source else ""
    table = study_table(made)
    lines = [
        f'<section id="{_text(study.name)}">',
        f"<h2>{_text(study.title)}{source}</h2>",
        f"<p>{_text(study.question)}</p>",
    ]
    if shown.plot is not None:
        data = base64.b64encode(shown.plot).decode("ascii")
        alternative = f"Plot: {study.title}. {_ends(made) or 'Its figures are in the table below.'}"
        lines.append(f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{_text(alternative)}"></figure>')
    lines.append(html_table(table, f"{study.title}: development pairs, Spearman × 100"))
    lines.append(f'<div class="notes">{"".join(_list([*table.legend, *notes(made)]))}</div>')
    if made.has_columns:
        cells = cell_table(made)
        lines += ["<details>", "<summary>Each cell with its tests</summary>", html_table(cells, "Each cell")]
        lines += [f'<div class="notes">{"".join(_list(cells.legend[1:]))}</div>', "</details>"]
    lines += _settings(made)
    links = ", ".join(f'<a href="{_text(name)}">{_text(name)}</a>' for name in shown.files)
    return [*lines, f'<p class="files">Beside this page: {links}</p>', "</section>"]


def _settings(made: Analysis) -> list[str]:
    """Return what all trials were run with, and what each cell changes."""
    of_cells = {outcome.cell.label: own_options(outcome.cell) or "as above" for outcome in made.cells}
    lines = _facts(facts(made))
    if any(outcome.cell.options for outcome in made.cells):
        lines += ["<h4>Each cell</h4>", *_facts(of_cells)]
    return ["<h3>Run with</h3>", *lines] if lines else []


def _ends(made: Analysis) -> str:
    """Return in words where the lines of a plot end, "" where it has none of its own."""
    ends = []
    for outcome in made.cells:
        last = outcome.figure("last_dev_spearman")
        if made.study.plot == "curves" and last is not None:
            ends.append(f"{outcome.cell.label}, {number(last.mean)}")
        values = outcome.mean_spectrum()
        if made.study.plot == "spectrum" and values:
            ends.append(f"{outcome.cell.label}, {number(values[0])} to {number(values[-1])}")
    what = "Mean of the last evaluations" if made.study.plot == "curves" else "Largest and smallest singular value"
    return f"{what} of each cell: {'; '.join(ends)}." if ends else ""


def _list(sentences: Sequence[str]) -> list[str]:
    return ["<ul>", *(f"<li>{_text(sentence)}</li>" for sentence in sentences), "</ul>"]


def _cell(tag: str, entry: Entry, scope: str = "") -> str:
    attributes = f' scope="{scope}"' if scope else ""
    attributes += ' class="default"' if entry.is_default else ""
    below = f'<span class="below">{_text(entry.below)}</span>' if entry.below else ""
    return f"<{tag}{attributes}>{_text(entry.text)}{below}</{tag}>"


def _text(text: str) -> str:
    """Return a text with the marks of HTML escaped, without control characters, which no page may hold."""
    return html.escape("".join(c for c in text if c.isprintable() or c in " \n\t"))
