"""The trials, cells and curves of a study as CSV for other programs.

Text that a spreadsheet would run as a formula gets a ' in front.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mocose_hf.study.analysis.analysis import Analysis, CellOutcome
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.report.run_settings import RUN_OPTIONS, as_text, constant_options
from mocose_hf.study.study import STATES, TrialResult, printable_line

_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""The first characters of a spreadsheet formula, full-width forms included."""


def trials_csv(analysis: Analysis) -> str:
    """Return one row per trial: study, cell, row, column, seed, state, reason, figures, and all options.

    Figures have all their digits and are empty if a trial has none. The column of an option `x` is `option_x`; values
    that are not text are written as JSON. A trial that has not run yet shows the options that it will run with, as
    far as they are known.
    """
    figures, constants = _figure_names(analysis), constant_options(analysis)
    trials = [
        (outcome, trial, _options(analysis, constants, outcome, trial))
        for outcome in analysis.cells
        for trial in outcome.trials
    ]
    names = sorted({name for _, _, options in trials for name in options} - {*RUN_OPTIONS})
    columns = ["study", "cell", "row", "column", "seed", "state", "reason", *figures, *(f"option_{n}" for n in names)]
    rows = [
        [
            *(analysis.study.name, outcome.cell.label, outcome.cell.row, outcome.cell.column),
            *(trial.seed, trial.state, trial.reason),
            *(trial.figures.get(name) for name in figures),
            *(as_text(options.get(name)) for name in names),
        ]
        for outcome, trial, options in trials
    ]
    return _to_csv(columns, rows)


def summary_csv(analysis: Analysis) -> str:
    """Return one row per cell: trials by state, the paper's figure, mean and sd of each figure, and the tests."""
    figures = _figure_names(analysis)
    columns = ["study", "cell", "row", "column", "x", "paper", "is_default", "seeds", *STATES]
    columns += [f"{name}_{part}" for name in figures for part in ("count", "mean", "sd")]
    columns += ["common_seeds", "difference", "difference_low", "difference_high", "p", "p_holm", "verdict"]
    columns += ["block_difference", "block_low", "block_high", "block_df", "block_p", "block_p_holm", "block_verdict"]
    columns += ["equivalence_bound", "equivalence_p", "equivalence_p_holm", "over_pairs_low", "over_pairs_high"]
    return _to_csv(columns, [_summary_row(analysis, outcome, figures) for outcome in analysis.cells])


def _summary_row(analysis: Analysis, outcome: CellOutcome, figures: Sequence[str]) -> list:
    cell, test, block, pairs = outcome.cell, outcome.test, outcome.block, outcome.over_pairs
    counts = Counter(trial.state for trial in outcome.trials)
    row = [analysis.study.name, cell.label, cell.row, cell.column, cell.x, cell.paper]
    row += [str(outcome.is_default).lower(), outcome.num_seeds, *(counts[state] for state in STATES)]
    for name in figures:
        figure = outcome.figure(name)
        row += [0, None, None] if figure is None else [figure.count, figure.mean, figure.sd]
    row += [None] * 5 if test is None else [test.count, test.difference, test.low, test.high, test.p]
    row += [outcome.adjusted_p, outcome.verdict]
    row += (
        [None] * 5 if block is None else [block.difference, block.low, block.high, block.degrees_of_freedom, block.p]
    )
    row += [outcome.block_p, outcome.block_verdict, analysis.study.equivalence_bound]
    row += [outcome.equivalence_p, outcome.adjusted_equivalence_p]
    return row + ([None] * 2 if pairs is None else [pairs.low, pairs.high])


def curves_csv(analysis: Analysis) -> str | None:
    """Return one row per point of the curves and spectra; None if no trial has any.

    `series` is the name of the development figure, with the optimizer step as `position`, or `singular_value`, with
    the index from 1 as `position`.
    """
    rows = []
    for trial in analysis.trials:
        head = [analysis.study.name, trial.cell, trial.seed, trial.state]
        rows += [[*head, analysis.curve_metric.name, step, score] for step, score in trial.curve]
        rows += [[*head, "singular_value", index, value] for index, value in enumerate(trial.spectrum, start=1)]
    return _to_csv(["study", "cell", "seed", "state", "series", "position", "value"], rows) if rows else None


def spreadsheet_cell(value: object) -> object:
    """Return a value that no spreadsheet runs: text that starts a formula gets a ' in front."""
    if not isinstance(value, str):
        return value
    text = printable_line(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _figure_names(analysis: Analysis) -> list[str]:
    """Return the names of all figures, the metric first."""
    names = {name for trial in analysis.trials for name in trial.figures}
    return sorted(names, key=lambda name: (name != analysis.metric.name, name))


def _options(
    analysis: Analysis, constants: Mapping[str, object], outcome: CellOutcome, trial: TrialResult
) -> Mapping[str, object]:
    """Return the options of a trial. Before it runs, these are the common ones and those of its cell."""
    if trial.options:
        return trial.options
    return redact_options(analysis.study.options) | dict(constants) | redact_options(outcome.cell.options)


def _to_csv(columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    import pandas  # takes half a second, and only a report needs it

    cells = [list(map(spreadsheet_cell, row)) for row in rows]
    # Objects keep whole numbers whole in columns with missing values.
    frame = pandas.DataFrame(cells, columns=list(map(spreadsheet_cell, columns)), dtype=object)
    return frame.to_csv(index=False, lineterminator="\n")
