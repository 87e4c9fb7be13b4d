"""From the trials of a study to what is known of each of its cells, and of the study as a whole."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mocose_hf.study.analysis.block_design import (
    BlockModel,
    Contrast,
    NoiseFloor,
    Scores,
    contrast,
    fit_blocks,
    noise_floor,
    outlying_cell,
    range_of_cells,
)
from mocose_hf.study.analysis.pair_bootstrap import PairInterval, pair_intervals
from mocose_hf.study.analysis.seed_tests import (
    CONFIDENCE,
    Agreement,
    PairedTest,
    Summary,
    agreement,
    equivalence_p,
    holm,
    paired_test,
    spread_over_seeds,
    summary,
)
from mocose_hf.study.declarations import Cell, Study
from mocose_hf.study.results import SCORE, STATES, TrialResult

ABOVE, BELOW, NOT_SIGNIFICANT = "above the default", "below the default", "not significant"

_TEST_AVERAGE = re.compile(r"sts_avg(_of_(\d+))?_spearman")


@dataclass(frozen=True)
class CellOutcome:
    """What is known of a cell.

    Args:
        cell: The cell as declared.
        is_default: Whether the others are tested against it.
        trials: Its trials, a seed each, in order of seeds.
        num_seeds: Number of its trials, complete or not; none of a cell that nobody asked for.
        scores: Finite `SCORE` of each complete trial by seed; the one score of a cell that is not trained under each.
        score: Their summary, None without any.
        test: Paired test against the default; None of the default itself, and if one of both has no score.
        adjusted_p: Its p by Holm's method over the cells of the study, None without a p.
        verdict: `ABOVE`, `BELOW` or `NOT_SIGNIFICANT` by `adjusted_p`, "not tested: …", or "" without a test.
        block: Block test against the default; None of and against a cell that is not trained, and without two common
            seeds.
        block_p: Its p by Holm's method over the cells, None without it.
        block_verdict: The verdict by `block_p`, "" without it.
        equivalence_p: p of equivalence to the default by two one-sided paired tests, None without a paired p.
        adjusted_equivalence_p: The same by Holm's method over the cells.
        over_pairs: Interval of the difference to the default over development pairs, None if trials do not have the
            cosines of their pairs.
    """

    cell: Cell
    is_default: bool
    trials: Sequence[TrialResult]
    num_seeds: int
    scores: Mapping[int, float]
    score: Summary | None
    test: PairedTest | None = None
    adjusted_p: float | None = None
    verdict: str = ""
    block: Contrast | None = None
    block_p: float | None = None
    block_verdict: str = ""
    equivalence_p: float | None = None
    adjusted_equivalence_p: float | None = None
    over_pairs: PairInterval | None = None

    @property
    def is_equivalent(self) -> bool:
        """Whether its difference to the default lies inside of the bounds that the study declares."""
        return self.adjusted_equivalence_p is not None and self.adjusted_equivalence_p < 1 - CONFIDENCE

    def figure(self, name: str) -> Summary | None:
        """Summarise a figure over the complete trials in which it is finite, None where there is none."""
        return summary(list(_finite(self.trials, name).values()))

    def mean_spectrum(self) -> list[float]:
        """Return the singular values, each the mean over complete trials; none without any, or where one is no number.

        Where trials have different numbers of them, those that all have.
        """
        found = [trial.spectrum for trial in self.trials if trial.state == "complete" and trial.spectrum]
        values = [math.fsum(of_index) / len(found) for of_index in zip(*found, strict=False)]
        return values if all(map(math.isfinite, values)) else []


@dataclass(frozen=True)
class Analysis:
    """What is known of a study.

    Args:
        study: The study as declared.
        cells: Its cells in order.
        spread: Spread over seeds: their standard deviation within trained cells, pooled; None without two seeds.
        model: The noise of all trained cells.
        floor: The noise floor, None if no two trained cells share two seeds.
        range: Spread of the means of the trained cells, that of equal cells, and their number, see `range_of_cells`;
            None if it is unknown.
        widest: Label of the cell whose noise is larger than that of the others beyond chance, and the noise floor
            without it; None where there is no such cell.
        test_averages: Names of the averages over STS test sets that complete trials have, those of more sets first.
        agreements: Agreement of the paper's figures with ours, by the names of ours: `SCORE` and test averages.
        foreign: Trials of cells that the study does not have.
        settings: What a storage says that all trials have in common, by name.
        left_out: Labels of optional cells that could not be run where the study was.
    """

    study: Study
    cells: Sequence[CellOutcome]
    spread: float | None
    model: BlockModel
    floor: NoiseFloor | None
    range: tuple[float, float, int] | None
    widest: tuple[str, NoiseFloor] | None
    test_averages: Sequence[str]
    agreements: Mapping[str, Agreement]
    foreign: Sequence[TrialResult]
    settings: Mapping[str, object] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    @property
    def default(self) -> CellOutcome:
        """The cell that the others are tested against."""
        return next(outcome for outcome in self.cells if outcome.is_default)

    @property
    def trials(self) -> list[TrialResult]:
        """All trials of its cells, in order of cells and seeds."""
        return [trial for outcome in self.cells for trial in outcome.trials]

    @property
    def has_columns(self) -> bool:
        """Whether its cells stand in a grid of rows and columns."""
        return any(outcome.cell.column for outcome in self.cells)


def analyse(
    study: Study,
    results: Sequence[TrialResult],
    settings: Mapping[str, object] | None = None,
    left_out: Sequence[str] = (),
) -> Analysis:
    """Summarise, test and compare the trials of a study.

    Args:
        study: The study.
        results: Its trials in any order and state, those that wait among them.
        settings: What a storage says that all trials have in common, by name.
        left_out: Labels of optional cells that could not be run where the study was.

    Raises:
        ValueError: Where a cell has a seed twice, or a trial a state that is none of `STATES`.
    """
    _check(study, results)
    labels = {cell.label for cell in study.cells}
    seeds = sorted({trial.seed for trial in results if trial.cell in labels})
    outcomes = [_outcome(study, cell, results, seeds) for cell in study.cells]
    scores = {outcome.cell.label: outcome.scores for outcome in outcomes if not outcome.cell.is_fixed}
    model = fit_blocks(scores)
    outcomes = _with_verdicts(outcomes, scores, study.equivalence_bound)
    averages = _test_averages(outcomes)
    return Analysis(
        study=study,
        cells=outcomes,
        spread=spread_over_seeds([list(of_seeds.values()) for of_seeds in scores.values()]),
        model=model,
        floor=noise_floor(model),
        range=range_of_cells(scores),
        widest=_widest(scores),
        test_averages=averages,
        agreements=_agreements(outcomes, [SCORE, *averages]),
        foreign=[trial for trial in results if trial.cell not in labels],
        settings=settings or {},
        left_out=left_out,
    )


def num_test_sets(name: str) -> int:
    """Return over how many test sets an average of `Analysis.test_averages` is."""
    count = _TEST_AVERAGE.fullmatch(name).group(2)
    return int(count) if count else 7


def _check(study: Study, results: Sequence[TrialResult]) -> None:
    seen = set()
    for trial in results:
        if trial.state not in STATES:
            raise ValueError(f"A trial of {trial.cell!r} has the state {trial.state!r}; it must be one of {STATES}.")
        if (trial.cell, trial.seed) in seen:
            raise ValueError(f"The study `{study.name}` has two trials of {trial.cell!r} with seed {trial.seed}.")
        seen.add((trial.cell, trial.seed))


def _outcome(study: Study, cell: Cell, results: Sequence[TrialResult], seeds: Sequence[int]) -> CellOutcome:
    trials = sorted((trial for trial in results if trial.cell == cell.label), key=lambda trial: trial.seed)
    scores = _finite(trials, SCORE)
    is_default = cell.label == study.default_label
    score = summary(list(scores.values()))
    if cell.is_fixed:  # one score, which each seed of the others is compared with
        of_each = dict.fromkeys(seeds, score.mean) if score else {}
        return CellOutcome(cell, is_default, trials, len(trials), of_each, score)
    return CellOutcome(cell, is_default, trials, len(trials), scores, score)


def _with_verdicts(outcomes: Sequence[CellOutcome], scores: Scores, bound: float) -> list[CellOutcome]:
    """Test the cells against the default. The comparisons of a study are one family for Holm's method, in each test.

    Args:
        outcomes: All cells.
        scores: Those of the trained cells: one that is not trained has no noise of its own and no block test.
        bound: That of equivalence.
    """
    default = next(outcome for outcome in outcomes if outcome.is_default)
    others = [outcome for outcome in outcomes if default.scores and outcome.scores and not outcome.is_default]
    tests = {outcome.cell.label: paired_test(outcome.scores, default.scores) for outcome in others}
    blocks = {outcome.cell.label: contrast(scores, outcome.cell.label, default.cell.label) for outcome in others}
    equivalent = {outcome.cell.label: equivalence_p(outcome.scores, default.scores, bound) for outcome in others}
    adjusted = _adjusted({label: test.p for label, test in tests.items()})
    block_p = _adjusted({label: block and block.p for label, block in blocks.items()})
    adjusted_equivalent = _adjusted(equivalent)
    over_pairs = pair_intervals(
        {outcome.cell.label: outcome.trials for outcome in outcomes},
        default.cell.label,
        fixed=[outcome.cell.label for outcome in outcomes if outcome.cell.is_fixed],
    )
    return [
        replace(
            outcome,
            test=tests.get(label),
            adjusted_p=adjusted.get(label),
            verdict=_verdict(tests.get(label), adjusted.get(label)),
            block=blocks.get(label),
            block_p=block_p.get(label),
            block_verdict=_block_verdict(blocks.get(label), block_p.get(label)),
            equivalence_p=equivalent.get(label),
            adjusted_equivalence_p=adjusted_equivalent.get(label),
            over_pairs=over_pairs.get(label),
        )
        for label, outcome in ((outcome.cell.label, outcome) for outcome in outcomes)
    ]


def _adjusted(p_values: Mapping[str, float | None]) -> dict[str, float]:
    known = {label: p for label, p in p_values.items() if p is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def _verdict(test: PairedTest | None, adjusted_p: float | None) -> str:
    if test is None:
        return ""
    return f"not tested: {test.reason}" if adjusted_p is None else _in_words(test.difference, adjusted_p)


def _block_verdict(block: Contrast | None, adjusted_p: float | None) -> str:
    return "" if block is None or adjusted_p is None else _in_words(block.difference, adjusted_p)


def _in_words(difference: float, adjusted_p: float) -> str:
    if adjusted_p >= 1 - CONFIDENCE:
        return NOT_SIGNIFICANT
    return ABOVE if difference > 0 else BELOW


def _widest(scores: Scores) -> tuple[str, NoiseFloor] | None:
    label = outlying_cell(scores)
    if label is None:
        return None
    return label, noise_floor(fit_blocks({other: of for other, of in scores.items() if other != label}))


def _test_averages(outcomes: Sequence[CellOutcome]) -> list[str]:
    names = {name for outcome in outcomes for trial in outcome.trials for name in _finite_figures(trial)}
    return sorted(filter(_TEST_AVERAGE.fullmatch, names), key=lambda name: -num_test_sets(name))


def _agreements(outcomes: Sequence[CellOutcome], names: Sequence[str]) -> dict[str, Agreement]:
    paper = {outcome.cell.label: outcome.cell.paper for outcome in outcomes if outcome.cell.paper is not None}
    agreements = {}
    for name in names:
        figures = {outcome.cell.label: outcome.figure(name) for outcome in outcomes}
        means = {label: figure.mean for label, figure in figures.items() if figure is not None}
        agreements[name] = agreement(paper, means)
    return {name: found for name, found in agreements.items() if found.count}


def _finite(trials: Iterable[TrialResult], name: str) -> dict[int, float]:
    figures = ((trial.seed, _finite_figures(trial).get(name)) for trial in trials)
    return {seed: figure for seed, figure in figures if figure is not None}


def _finite_figures(trial: TrialResult) -> dict[str, float]:
    """Return the finite figures of a complete trial, none of another."""
    if trial.state != "complete":
        return {}
    return {name: value for name, value in trial.figures.items() if value is not None and math.isfinite(value)}
