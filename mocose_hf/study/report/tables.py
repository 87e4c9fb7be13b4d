"""The tables of a study: what stands in which place, whatever they are written in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mocose_hf.study.analysis.analysis import ABOVE, BELOW, Analysis, CellOutcome, num_test_sets
from mocose_hf.study.analysis.seed_tests import Summary
from mocose_hf.study.results import SCORE

NOTHING = "–"
_MINUS = "−"
_ARROWS = {ABOVE: "↑", BELOW: "↓"}
_MEAN_LEGEND = (
    "Development pairs: Spearman × 100 of the best checkpoint by them, mean ± standard deviation over seeds (number "
    "of seeds)."
)


@dataclass(frozen=True)
class Entry:
    """One place of a table.

    Args:
        text: What stands there.
        below: A second line, smaller, or "".
        is_default: Whether it is of the cell that the others are tested against.
    """

    text: str
    below: str = ""
    is_default: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        head: Heads of its columns.
        rows: Rows of as many entries; the first column holds names.
        legend: Sentences that say what its entries are.
    """

    head: Sequence[Entry]
    rows: Sequence[Sequence[Entry]]
    legend: Sequence[str] = field(default_factory=list)


def study_table(made: Analysis) -> Table:
    """Return the grid of a study whose cells stand in columns, the list of its cells otherwise."""
    return grid_table(made) if made.has_columns else cell_table(made)


def cell_table(made: Analysis) -> Table:
    """Return a table with a row for each cell: the paper's figure, ours, its test against the default, test sets."""
    has_pairs = any(outcome.over_pairs for outcome in made.cells)
    columns = [(Entry("Cell"), _name)]
    if any(outcome.cell.paper is not None for outcome in made.cells):
        columns.append((Entry("Paper", made.study.source), _paper))
    columns += [
        (Entry("Development pairs", "mean ± sd (seeds)"), _figure(SCORE)),
        (Entry("Difference", "95 % CI"), _difference),
        *([(Entry("95 % CI", "over pairs"), _over_pairs)] if has_pairs else []),
        (Entry("p, paired", "p, block"), _p),
        (Entry("p, equivalent", f"within ± {number(made.study.equivalence_bound)}"), _equivalence),
        (Entry("Verdict", "paired; block"), _verdict),
    ]
    if made.study.plot == "curves":
        columns.append((Entry("Last evaluation", "mean ± sd (seeds)"), _figure("last_dev_spearman")))
        columns.append((Entry("Collapse alarm", "mean step"), _alarm))
    columns += [(Entry(average_title(name), "mean ± sd (seeds)"), _figure(name)) for name in made.test_averages]
    rows = [[entry(outcome) for _, entry in columns] for outcome in made.cells]
    legend = [
        _MEAN_LEGEND,
        "Difference: to the default, over common seeds, with the interval of a paired t-test. The interval is "
        "unadjusted, so it may exclude 0 although the verdict is “not significant”. p: of the paired test; below, of "
        "the block test, which takes the shift of each seed from the other cells; and of equivalence, by two "
        "one-sided paired tests. Each is adjusted by Holm's method. Verdicts are at 0.05, by the paired test and, "
        "below, by the block test.",
    ]
    if has_pairs:
        legend.append(
            "Over pairs: what other development pairs of this kind would change for the seeds at hand, by 1,000 sets "
            "of pairs drawn with replacement. It holds no noise of seeds, as the interval beside it holds none of "
            "pairs."
        )
    return Table([head for head, _ in columns], rows, legend)


def grid_table(made: Analysis) -> Table:
    """Return a table of rows and columns as declared, the paper's figure below each of ours."""
    cells = {(outcome.cell.row, outcome.cell.column): outcome for outcome in made.cells}
    columns = list(dict.fromkeys(column for _, column in cells))
    rows = [
        [Entry(row), *(_grid_entry(cells.get((row, column))) for column in columns)]
        for row in dict.fromkeys(row for row, _ in cells)
    ]
    legend = [_MEAN_LEGEND]
    if any(outcome.cell.paper is not None for outcome in made.cells):
        legend.append(f"Below each: {paper_name(made)}.")
    marks = {mark for outcome in made.cells for mark in _marks(outcome)}
    if marks & {"↑", "↓"}:
        legend.append("↑, ↓: above, below the default by a paired t-test, by Holm's method for all cells at 0.05.")
    if marks & {"(↑)", "(↓)"}:
        legend.append("(↑), (↓): above, below the default by the block test, by Holm's method for all cells at 0.05.")
    if "≈" in marks:
        bound = number(made.study.equivalence_bound)
        legend.append(
            f"≈: equivalent to the default within ± {bound} by two one-sided paired tests, by Holm's method."
        )
    return Table([Entry("Cell"), *(Entry(column_name(column)) for column in columns)], rows, legend)


def paper_name(made: Analysis) -> str:
    """Return what the paper's figures are called."""
    return f"Paper, {made.study.source}" if made.study.source else "Paper"


def column_name(column: str) -> str:
    """Return what a column of a grid is called, also that of cells which have none."""
    return column or "none"


def average_title(name: str) -> str:
    """Return what heads the average over test sets of that name."""
    return f"Mean of {num_test_sets(name)} STS test sets"


def mean_text(figure: Summary | None, num_seeds: int) -> str:
    """Return mean ± sd and the number of seeds, and of how many where some are missing."""
    if figure is None:
        return NOTHING
    mean = number(figure.mean) if figure.sd is None else f"{number(figure.mean)} ± {number(figure.sd)}"
    return f"{mean} ({figure.count})" if figure.count == num_seeds else f"{mean} ({figure.count} of {num_seeds})"


def p_text(p: float | None) -> str:
    """Return a p-value with three places."""
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float) -> str:
    """Return a difference with its sign and two places."""
    text = f"{value:+.2f}".replace("-", _MINUS)
    return "0.00" if text[1:] == "0.00" else text


def number(value: float) -> str:
    """Return a figure with two places."""
    text = f"{value:.2f}".replace("-", _MINUS)
    return "0.00" if text == f"{_MINUS}0.00" else text


def _name(outcome: CellOutcome) -> Entry:
    text = f"{outcome.cell.label} (default)" if outcome.is_default else outcome.cell.label
    return Entry(text, is_default=outcome.is_default)


def _paper(outcome: CellOutcome) -> Entry:
    text = NOTHING if outcome.cell.paper is None else number(outcome.cell.paper)
    return Entry(text, is_default=outcome.is_default)


def _figure(name: str) -> Callable[[CellOutcome], Entry]:
    return lambda outcome: Entry(mean_text(outcome.figure(name), outcome.num_seeds), "", outcome.is_default)


def _difference(outcome: CellOutcome) -> Entry:
    test = outcome.test
    if test is None or test.difference is None:
        return Entry(NOTHING)
    return Entry(signed(test.difference), "" if test.low is None else f"[{signed(test.low)}, {signed(test.high)}]")


def _over_pairs(outcome: CellOutcome) -> Entry:
    interval = outcome.over_pairs
    return Entry(NOTHING if interval is None else f"[{signed(interval.low)}, {signed(interval.high)}]")


def _p(outcome: CellOutcome) -> Entry:
    return Entry(p_text(outcome.adjusted_p), "" if outcome.block_p is None else p_text(outcome.block_p))


def _equivalence(outcome: CellOutcome) -> Entry:
    return Entry(p_text(outcome.adjusted_equivalence_p), "equivalent" if outcome.is_equivalent else "")


def _verdict(outcome: CellOutcome) -> Entry:
    if outcome.is_default:
        return Entry("the default", is_default=True)
    return Entry(outcome.verdict or NOTHING, f"block: {outcome.block_verdict}" if outcome.block_verdict else "")


def _alarm(outcome: CellOutcome) -> Entry:
    alarm, complete = outcome.figure("alarm_step"), outcome.figure(SCORE)
    if complete is None:
        return Entry(NOTHING, is_default=outcome.is_default)
    if alarm is None:
        return Entry(f"0 of {complete.count}", "", outcome.is_default)
    return Entry(f"{alarm.count} of {complete.count}", f"step {alarm.mean:,.0f}", outcome.is_default)


def _marks(outcome: CellOutcome) -> list[str]:
    """Return an arrow for a significant paired test, one in brackets for a block test, and a mark of equivalence."""
    marks = [_ARROWS[outcome.verdict]] if outcome.verdict in _ARROWS else []
    marks += [f"({_ARROWS[outcome.block_verdict]})"] if outcome.block_verdict in _ARROWS else []
    return marks + ["≈"] * outcome.is_equivalent


def _grid_entry(outcome: CellOutcome | None) -> Entry:
    if outcome is None:
        return Entry("")
    text = NOTHING
    if outcome.score is not None:
        text = " ".join([mean_text(outcome.score, outcome.num_seeds), *_marks(outcome)])
    below = [] if outcome.cell.paper is None else [f"paper {number(outcome.cell.paper)}"]
    return Entry(text, ", ".join(below + ["default"] * outcome.is_default), outcome.is_default)
