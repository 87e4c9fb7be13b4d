"""The trials and the cells of a study as CSV, for a program."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from mocose_hf.study.analysis import Analysis, CellOutcome
from mocose_hf.study.results import SCORE, STATES, TrialResult

_OF_ONE_RUN = ("seed", "output_dir")
"""Options that differ from trial to trial and say nothing of the cell."""


def trials_csv(made: Analysis) -> str:
    """Return a line for each trial: study, cell, row, column, seed, state, reason, figures, and options that vary.

    Figures are written with all their digits, empty where a trial has none; an option `x` is headed `option_x`, and
    one that is no text is written as JSON.
    """
    trials = made.trials
    figures, options = _figure_names(trials), _varying_options(made)
    head = ["study", "cell", "row", "column", "seed", "state", "reason", *figures, *(f"option_{o}" for o in options)]
    lines = [
        [
            *(made.study.name, outcome.cell.label, outcome.cell.row, outcome.cell.column),
            *(trial.seed, trial.state, trial.reason),
            *(trial.figures.get(name, "") for name in figures),
            *(_as_text(_options(made, outcome, trial), name) for name in options),
        ]
        for outcome in made.cells
        for trial in outcome.trials
    ]
    return _written(head, lines)


def summary_csv(made: Analysis) -> str:
    """Return a line for each cell: trials by state, the paper's figure, each of ours as mean and sd, and the tests."""
    figures = _figure_names(made.trials)
    head = ["study", "cell", "row", "column", "x", "paper", "is_default", "seeds", *STATES]
    head += [f"{name}_{part}" for name in figures for part in ("count", "mean", "sd")]
    head += ["common_seeds", "difference", "difference_low", "difference_high", "p", "p_holm", "verdict"]
    head += ["pooled_p_holm", "pooled_verdict"]
    return _written(head, [_summary_line(made, outcome, figures) for outcome in made.cells])


def _summary_line(made: Analysis, outcome: CellOutcome, figures: Sequence[str]) -> list:
    cell, test = outcome.cell, outcome.test
    counts = Counter(trial.state for trial in outcome.trials)
    counts["waiting"] += outcome.num_seeds - len(outcome.trials)
    line = [made.study.name, cell.label, cell.row, cell.column, cell.x, cell.paper]
    line += [str(outcome.is_default).lower(), outcome.num_seeds, *(counts[state] for state in STATES)]
    for name in figures:
        figure = outcome.figure(name)
        line += [0, None, None] if figure is None else [figure.count, figure.mean, figure.sd]
    line += [None] * 5 if test is None else [test.count, test.difference, test.low, test.high, test.p]
    return [*line, outcome.adjusted_p, outcome.verdict, outcome.pooled_p, outcome.pooled_verdict]


def _figure_names(trials: Iterable[TrialResult]) -> list[str]:
    names = {name for trial in trials for name in trial.figures}
    return sorted(names, key=lambda name: (name != SCORE, name))


def _varying_options(made: Analysis) -> list[str]:
    """Return the names of options that are not the same in all trials, but for those of one run."""
    found = [_options(made, outcome, trial) for outcome in made.cells for trial in outcome.trials]
    names = sorted({name for options in found for name in options} - set(_OF_ONE_RUN))
    return [name for name in names if len({_as_text(options, name) for options in found}) > 1]


def _options(made: Analysis, outcome: CellOutcome, trial: TrialResult) -> dict[str, object]:
    """Return the options of a trial; those that its cell declares where it has not begun."""
    return made.study.options_of(outcome.cell) | trial.options


def _as_text(options: dict[str, object], name: str) -> str:
    if name not in options:
        return ""
    value = options[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _written(head: Sequence[str], lines: Iterable[Sequence]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return file.getvalue()
