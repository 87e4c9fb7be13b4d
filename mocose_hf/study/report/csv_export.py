"""The trials, the cells and the curves of a study as CSV, for a program.

A text that a spreadsheet would take for a formula has a ' in front.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from mocose_hf.study.analysis.analysis import Analysis, CellOutcome
from mocose_hf.study.plain_text import spreadsheet_cell
from mocose_hf.study.redaction import redact_options
from mocose_hf.study.report.run_settings import OF_ONE_RUN, as_text, constant_options
from mocose_hf.study.results import SCORE, STATES, TrialResult


def trials_csv(made: Analysis) -> str:
    """Return a line for each trial: study, cell, row, column, seed, state, reason, figures, and all options.

    Figures are written with all their digits, empty where a trial has none; an option `x` is headed `option_x`, and
    one that is no text is written as JSON. A trial that was not run yet has those that it will be run with, as far as
    they are known.
    """
    figures, constants = _figure_names(made.trials), constant_options(made)
    found = [
        (outcome, trial, _options(made, constants, outcome, trial))
        for outcome in made.cells
        for trial in outcome.trials
    ]
    names = sorted({name for _, _, options in found for name in options} - {*OF_ONE_RUN})
    head = ["study", "cell", "row", "column", "seed", "state", "reason", *figures, *(f"option_{n}" for n in names)]
    lines = [
        [
            *(made.study.name, outcome.cell.label, outcome.cell.row, outcome.cell.column),
            *(trial.seed, trial.state, trial.reason),
            *(trial.figures.get(name, "") for name in figures),
            *(as_text(options.get(name)) for name in names),
        ]
        for outcome, trial, options in found
    ]
    return _written(head, lines)


def summary_csv(made: Analysis) -> str:
    """Return a line for each cell: trials by state, the paper's figure, each of ours as mean and sd, and the tests."""
    figures = _figure_names(made.trials)
    head = ["study", "cell", "row", "column", "x", "paper", "is_default", "seeds", *STATES]
    head += [f"{name}_{part}" for name in figures for part in ("count", "mean", "sd")]
    head += ["common_seeds", "difference", "difference_low", "difference_high", "p", "p_holm", "verdict"]
    head += ["block_difference", "block_low", "block_high", "block_df", "block_p", "block_p_holm", "block_verdict"]
    head += ["equivalence_bound", "equivalence_p", "equivalence_p_holm", "over_pairs_low", "over_pairs_high"]
    return _written(head, [_summary_line(made, outcome, figures) for outcome in made.cells])


def _summary_line(made: Analysis, outcome: CellOutcome, figures: Sequence[str]) -> list:
    cell, test = outcome.cell, outcome.test
    counts = Counter(trial.state for trial in outcome.trials)
    line = [made.study.name, cell.label, cell.row, cell.column, cell.x, cell.paper]
    line += [str(outcome.is_default).lower(), outcome.num_seeds, *(counts[state] for state in STATES)]
    for name in figures:
        figure = outcome.figure(name)
        line += [0, None, None] if figure is None else [figure.count, figure.mean, figure.sd]
    line += [None] * 5 if test is None else [test.count, test.difference, test.low, test.high, test.p]
    line += [outcome.adjusted_p, outcome.verdict]
    block = outcome.block
    own = [] if block is None else [block.difference, block.low, block.high, block.degrees_of_freedom, block.p]
    line += own or [None] * 5
    line += [outcome.block_p, outcome.block_verdict, made.study.equivalence_bound]
    pairs = outcome.over_pairs
    line += [outcome.equivalence_p, outcome.adjusted_equivalence_p]
    return line + ([None] * 2 if pairs is None else [pairs.low, pairs.high])


def curves_csv(made: Analysis) -> str | None:
    """Return a line for each point of what plots draw as lines, None where no trial has any.

    `series` is `dev_spearman`, whose `position` is the optimizer step, or `singular_value`, whose is the index from 1.
    """
    lines = []
    for trial in made.trials:
        of_trial = [made.study.name, trial.cell, trial.seed, trial.state]
        lines += [[*of_trial, SCORE, step, score] for step, score in trial.curve]
        lines += [[*of_trial, "singular_value", index, value] for index, value in enumerate(trial.spectrum, start=1)]
    return _written(["study", "cell", "seed", "state", "series", "position", "value"], lines) if lines else None


def _figure_names(trials: Iterable[TrialResult]) -> list[str]:
    names = {name for trial in trials for name in trial.figures}
    return sorted(names, key=lambda name: (name != SCORE, name))


def _options(
    made: Analysis, constants: Mapping[str, object], outcome: CellOutcome, trial: TrialResult
) -> Mapping[str, object]:
    """Return the options of a trial; before it is run, what the others have in common and its cell declares."""
    return trial.options or redact_options(made.study.options) | dict(constants) | redact_options(outcome.cell.options)


def _written(head: Sequence[str], lines: Iterable[Sequence]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows(map(spreadsheet_cell, line) for line in [head, *lines])
    return file.getvalue()
