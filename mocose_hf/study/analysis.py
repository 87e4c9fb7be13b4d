"""From the trials of a study to what is known of each of its cells, and of the study as a whole."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mocose_hf.study.declarations import Cell, Study
from mocose_hf.study.results import SCORE, STATES, TrialResult
from mocose_hf.study.seed_statistics import (
    CONFIDENCE,
    Agreement,
    NoiseFloor,
    PairedTest,
    Summary,
    agreement,
    holm,
    noise_floor,
    outlying_spread,
    paired_test,
    pooled_p,
    summary,
)

ABOVE, BELOW, NOT_TOLD_APART = "above the default", "below the default", "not told apart"

_TEST_AVERAGE = re.compile(r"sts_avg(_of_(\d+))?_spearman")


@dataclass(frozen=True)
class CellOutcome:
    """What is known of a cell.

    Args:
        cell: The cell as declared.
        is_default: Whether the others are tested against it.
        trials: Its trials, a seed each, in order of seeds.
        num_seeds: Number of trials it has or will have: one for each seed of the study, one alone where no seed has
            a say.
        scores: Finite `SCORE` of each complete trial by seed; the one score of a cell that is not trained under each.
        score: Their summary, None without any.
        test: Paired test against the default; None of the default itself and where one of both has no score.
        adjusted_p: Its p by Holm's method over the cells of the study, None without a p.
        verdict: `ABOVE`, `BELOW` or `NOT_TOLD_APART` by `adjusted_p`, "not tested: …", or "" where there is nothing
            to say.
        pooled_p: p of the unpaired test against the default by the noise floor, by Holm's method over the cells.
        pooled_verdict: The verdict by it, "" without it.
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
    pooled_p: float | None = None
    pooled_verdict: str = ""

    def figure(self, name: str) -> Summary | None:
        """Summarise a figure over the complete trials in which it is finite, None where there is none."""
        return summary(list(_finite(self.trials, name).values()))


@dataclass(frozen=True)
class Analysis:
    """What is known of a study.

    Args:
        study: The study as declared.
        cells: Its cells in order.
        floor: Noise floor over the seeds of all cells, None where no cell has two seeds.
        widest: Label of the cell that spreads more than the others beyond chance, and the noise floor without it;
            None where there is no such cell.
        test_averages: Names of the averages over STS test sets that complete trials have, those of more sets first.
        agreements: Agreement of the paper's figures with ours, by the names of ours: `SCORE` and test averages.
        foreign: Trials of cells that the study does not have.
    """

    study: Study
    cells: Sequence[CellOutcome]
    floor: NoiseFloor | None
    widest: tuple[str, NoiseFloor] | None
    test_averages: Sequence[str]
    agreements: Mapping[str, Agreement]
    foreign: Sequence[TrialResult]

    @property
    def default(self) -> CellOutcome:
        """The cell that the others are tested against."""
        return next(outcome for outcome in self.cells if outcome.is_default)

    @property
    def trials(self) -> list[TrialResult]:
        """All trials of its cells, in order of cells and seeds."""
        return [trial for outcome in self.cells for trial in outcome.trials]

    @property
    def num_trials(self) -> int:
        """How many trials the study has when it is done, each cell with every seed."""
        return sum(outcome.num_seeds for outcome in self.cells)

    @property
    def has_columns(self) -> bool:
        """Whether its cells stand in a grid of rows and columns."""
        return any(outcome.cell.column for outcome in self.cells)


def analyse(study: Study, results: Sequence[TrialResult]) -> Analysis:
    """Summarise, test and compare the trials of a study.

    Args:
        study: The study.
        results: Its trials in any order and state; a seed of one cell is a seed of all, and a trial that is not there
            is one that waits.

    Raises:
        ValueError: Where a cell has a seed twice, or a trial a state that is none of `STATES`.
    """
    _check(study, results)
    labels = {cell.label for cell in study.cells}
    seeds = sorted({trial.seed for trial in results if trial.cell in labels})
    outcomes = [_outcome(study, cell, results, seeds) for cell in study.cells]
    groups = {o.cell.label: list(o.scores.values()) for o in outcomes if not o.cell.is_fixed}
    floor = noise_floor(groups.values())
    outcomes = _with_verdicts(outcomes, floor)
    averages = _test_averages(outcomes)
    return Analysis(
        study=study,
        cells=outcomes,
        floor=floor,
        widest=_widest(groups),
        test_averages=averages,
        agreements=_agreements(outcomes, [SCORE, *averages]),
        foreign=[trial for trial in results if trial.cell not in labels],
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
        return CellOutcome(cell, is_default, trials, min(len(seeds), 1), of_each, score)
    return CellOutcome(cell, is_default, trials, len(seeds), scores, score)


def _with_verdicts(outcomes: Sequence[CellOutcome], floor: NoiseFloor | None) -> list[CellOutcome]:
    """Test the cells against the default; all tests of one kind in the study are one family for Holm's method."""
    default = next(outcome for outcome in outcomes if outcome.is_default)
    others = [outcome for outcome in outcomes if default.scores and outcome.scores and not outcome.is_default]
    tests = {outcome.cell.label: paired_test(outcome.scores, default.scores) for outcome in others}
    trained = [outcome for outcome in others if not (outcome.cell.is_fixed or default.cell.is_fixed)]
    pooled = {o.cell.label: floor and pooled_p(o.score, default.score, floor) for o in trained}
    adjusted = _adjusted({label: test.p for label, test in tests.items()})
    pooled = _adjusted(pooled)
    return [
        replace(
            outcome,
            test=tests.get(outcome.cell.label),
            adjusted_p=adjusted.get(outcome.cell.label),
            verdict=_verdict(tests.get(outcome.cell.label), adjusted.get(outcome.cell.label)),
            pooled_p=pooled.get(outcome.cell.label),
            pooled_verdict=_pooled_verdict(outcome, default, pooled.get(outcome.cell.label)),
        )
        for outcome in outcomes
    ]


def _adjusted(p_values: Mapping[str, float | None]) -> dict[str, float]:
    p_values = {label: p for label, p in p_values.items() if p is not None}
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def _verdict(test: PairedTest | None, adjusted_p: float | None) -> str:
    if test is None:
        return ""
    return f"not tested: {test.reason}" if adjusted_p is None else _in_words(test.difference, adjusted_p)


def _pooled_verdict(outcome: CellOutcome, default: CellOutcome, adjusted_p: float | None) -> str:
    return "" if adjusted_p is None else _in_words(outcome.score.mean - default.score.mean, adjusted_p)


def _in_words(difference: float, adjusted_p: float) -> str:
    if adjusted_p >= 1 - CONFIDENCE:
        return NOT_TOLD_APART
    return ABOVE if difference > 0 else BELOW


def _widest(groups: Mapping[str, Sequence[float]]) -> tuple[str, NoiseFloor] | None:
    label = outlying_spread(groups)
    if label is None:
        return None
    return label, noise_floor(group for other, group in groups.items() if other != label)


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
