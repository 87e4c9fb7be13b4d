"""The tables of a study, independent of the format that they are written in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mocose_hf.study.analysis.analysis import BETTER, WORSE, Analysis, CellOutcome
from mocose_hf.study.analysis.seed_tests import Summary
from mocose_hf.study.metrics import Metric, describe_metric
from mocose_hf.study.study import SCORE

NOTHING = "–"
_MINUS = "−"
_ARROWS = {BETTER: "↑", WORSE: "↓"}


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Args:
        text: Its text.
        below: A second, smaller line, or "".
        is_default: Whether it belongs to the default cell.
    """

    text: str
    below: str = ""
    is_default: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        head: The column heads.
        rows: The rows, with one entry per column; the first column holds names.
        legend: Sentences that explain the entries.
    """

    head: Sequence[Entry]
    rows: Sequence[Sequence[Entry]]
    legend: Sequence[str] = field(default_factory=list)


def study_table(analysis: Analysis) -> Table:
    """Return the main table of a study: a grid if its cells have columns, a list of its cells otherwise."""
    return grid_table(analysis) if analysis.has_columns else cell_table(analysis)


def cell_table(analysis: Analysis) -> Table:
    """Return a table with one row per cell: the paper's figure, our score, its tests, and the test sets."""
    study, metric = analysis.study, analysis.metric
    bound = number(study.equivalence_bound, metric.decimals)
    has_pairs = any(outcome.over_pairs for outcome in analysis.cells)
    columns: list[tuple[Entry, Callable[[CellOutcome], Entry]]] = [(Entry("Cell"), _name)]
    if any(outcome.cell.paper is not None for outcome in analysis.cells):
        columns.append((Entry("Paper", study.source), _paper))
    columns += [
        (Entry(metric.title, "mean ± sd (seeds)"), _figure(metric)),
        (Entry("Difference", "95 % CI"), _difference(metric)),
        *([(Entry("95 % CI", "over pairs"), _over_pairs(metric))] if has_pairs else []),
        (Entry("p, paired", "p, block design"), _p),
        (Entry("p, equivalent", f"within ± {bound}"), _equivalence),
        (Entry("Verdict", "paired; block design"), _verdict),
    ]
    if study.plot == "curves":
        last = describe_metric(f"last_{analysis.curve_metric.name}")
        columns.append((Entry("Last evaluation", "mean ± sd (seeds)"), _figure(last)))
        columns.append((Entry("Collapse alarm", "mean step"), _alarm))
    averages = [describe_metric(name) for name in analysis.test_averages if name != metric.name]
    columns += [(Entry(average.title, "mean ± sd (seeds)"), _figure(average)) for average in averages]
    rows = [[entry(outcome) for _, entry in columns] for outcome in analysis.cells]
    legend = [
        score_legend(metric),
        "Difference: from the default over shared seeds, with the interval of a paired t-test. The interval is not "
        "adjusted for the number of cells, so it may exclude 0 although the verdict is “not significant”.",
        "p: of the paired t-test; below it, of the block-design t-test, which removes the effect of each seed with "
        "the help of the other cells. Equivalence is tested by two one-sided paired t-tests. Each p is adjusted by "
        "Holm's method. Verdicts are at 0.05.",
    ]
    if has_pairs:
        legend.append(
            "Over pairs: how far the difference depends on the choice of development pairs, from 1,000 sets of pairs "
            "drawn with replacement. This interval covers no noise of seeds, and the other one no noise of pairs."
        )
    return Table([head for head, _ in columns], rows, legend)


def grid_table(analysis: Analysis) -> Table:
    """Return a table of rows and columns as declared, with the paper's figure below ours."""
    cells = {(outcome.cell.row, outcome.cell.column): outcome for outcome in analysis.cells}
    columns = list(dict.fromkeys(column for _, column in cells))
    rows = [
        [Entry(row), *(_grid_entry(cells.get((row, column)), analysis.metric) for column in columns)]
        for row in dict.fromkeys(row for row, _ in cells)
    ]
    legend = [score_legend(analysis.metric)]
    if any(outcome.cell.paper is not None for outcome in analysis.cells):
        legend.append(f"Below each: {paper_name(analysis)}.")
    marks = {mark for outcome in analysis.cells for mark in _marks(outcome)}
    if marks & {"↑", "↓"}:
        legend.append(
            "↑, ↓: significantly better, worse than the default by a paired t-test at 0.05, adjusted by Holm's method."
        )
    if marks & {"(↑)", "(↓)"}:
        legend.append(
            "(↑), (↓): significantly better, worse by the block-design t-test at 0.05, adjusted by Holm's method."
        )
    if "≈" in marks:
        bound = number(analysis.study.equivalence_bound, analysis.metric.decimals)
        legend.append(
            f"≈: equivalent to the default within ± {bound} by two one-sided paired t-tests with Holm's method."
        )
    return Table([Entry("Cell"), *(Entry(column_name(column)) for column in columns)], rows, legend)


def score_legend(metric: Metric) -> str:
    """Return the sentence that explains the scores of a table."""
    if metric.name == SCORE:
        return (
            "Development pairs: Spearman × 100 of the best checkpoint of each run, mean ± standard deviation over "
            "seeds (number of seeds)."
        )
    direction = "greater" if metric.greater_is_better else "smaller"
    return (
        f"{metric.title}: {metric.unit} ({direction} is better), mean ± standard deviation over seeds (number of "
        "seeds)."
    )


def paper_name(analysis: Analysis) -> str:
    """Return the heading of the paper's figures."""
    return f"Paper, {analysis.study.source}" if analysis.study.source else "Paper"


def column_name(column: str) -> str:
    """Return the heading of a grid's column; "none" for cells without a column."""
    return column or "none"


def mean_text(figure: Summary | None, num_seeds: int, decimals: int = 2) -> str:
    """Return mean ± sd and the number of seeds, with the total number of seeds if some are missing."""
    if figure is None:
        return NOTHING
    mean = number(figure.mean, decimals)
    mean = mean if figure.sd is None else f"{mean} ± {number(figure.sd, decimals)}"
    return f"{mean} ({figure.count})" if figure.count == num_seeds else f"{mean} ({figure.count} of {num_seeds})"


def p_text(p: float | None) -> str:
    """Return a p-value with three decimals."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float, decimals: int = 2) -> str:
    """Return a difference with its sign."""
    text = f"{value:+.{decimals}f}".replace("-", _MINUS)
    return text[1:] if float(text[1:]) == 0 else text


def number(value: float, decimals: int = 2) -> str:
    """Return a figure with a fixed number of decimals."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", _MINUS)


def _name(outcome: CellOutcome) -> Entry:
    text = f"{outcome.cell.label} (default)" if outcome.is_default else outcome.cell.label
    return Entry(text, is_default=outcome.is_default)


def _paper(outcome: CellOutcome) -> Entry:
    text = NOTHING if outcome.cell.paper is None else number(outcome.cell.paper)
    return Entry(text, is_default=outcome.is_default)


def _figure(metric: Metric) -> Callable[[CellOutcome], Entry]:
    def entry(outcome: CellOutcome) -> Entry:
        text = mean_text(outcome.figure(metric.name), outcome.num_seeds, metric.decimals)
        return Entry(text, is_default=outcome.is_default)

    return entry


def _difference(metric: Metric) -> Callable[[CellOutcome], Entry]:
    def entry(outcome: CellOutcome) -> Entry:
        test = outcome.test
        if test is None or test.difference is None:
            return Entry(NOTHING)
        return Entry(signed(test.difference, metric.decimals), _interval(test.low, test.high, metric))

    return entry


def _over_pairs(metric: Metric) -> Callable[[CellOutcome], Entry]:
    def entry(outcome: CellOutcome) -> Entry:
        interval = outcome.over_pairs
        return Entry(NOTHING if interval is None else _interval(interval.low, interval.high, metric))

    return entry


def _interval(low: float | None, high: float | None, metric: Metric) -> str:
    return "" if low is None else f"[{signed(low, metric.decimals)}, {signed(high, metric.decimals)}]"


def _p(outcome: CellOutcome) -> Entry:
    return Entry(p_text(outcome.adjusted_p), "" if outcome.block_p is None else p_text(outcome.block_p))


def _equivalence(outcome: CellOutcome) -> Entry:
    return Entry(p_text(outcome.adjusted_equivalence_p), "equivalent" if outcome.is_equivalent else "")


def _verdict(outcome: CellOutcome) -> Entry:
    if outcome.is_default:
        return Entry("the default", is_default=True)
    return Entry(outcome.verdict or NOTHING, f"block design: {outcome.block_verdict}" if outcome.block_verdict else "")


def _alarm(outcome: CellOutcome) -> Entry:
    alarm, complete = outcome.figure("alarm_step"), outcome.score
    if complete is None:
        return Entry(NOTHING, is_default=outcome.is_default)
    if alarm is None:
        return Entry(f"0 of {complete.count}", "", outcome.is_default)
    return Entry(f"{alarm.count} of {complete.count}", f"step {alarm.mean:,.0f}", outcome.is_default)


def _marks(outcome: CellOutcome) -> list[str]:
    """Return an arrow for a significant paired test, one in brackets for the block design, and ≈ for equivalence."""
    marks = [_ARROWS[outcome.verdict]] if outcome.verdict in _ARROWS else []
    marks += [f"({_ARROWS[outcome.block_verdict]})"] if outcome.block_verdict in _ARROWS else []
    return marks + ["≈"] * outcome.is_equivalent


def _grid_entry(outcome: CellOutcome | None, metric: Metric) -> Entry:
    if outcome is None:
        return Entry("")
    text = NOTHING
    if outcome.score is not None:
        text = " ".join([mean_text(outcome.score, outcome.num_seeds, metric.decimals), *_marks(outcome)])
    below = [] if outcome.cell.paper is None else [f"paper {number(outcome.cell.paper)}"]
    return Entry(text, ", ".join(below + ["default"] * outcome.is_default), outcome.is_default)
