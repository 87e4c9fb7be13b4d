"""From the trials of a study to its results: the score of each cell, and its tests against the default."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mocose_hf.study.analysis.block_design import (
    BlockModel,
    BlockTest,
    DetectableDifference,
    RangeTest,
    Scores,
    block_test,
    detectable_difference,
    find_noisy_cell,
    fit_block_model,
    range_test,
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
from mocose_hf.study.metrics import Metric, describe_metric, is_test_average, num_test_sets
from mocose_hf.study.study import SCORE, STATES, Cell, Study, TrialResult

BETTER, WORSE, NOT_SIGNIFICANT = "better than the default", "worse than the default", "not significant"


@dataclass(frozen=True)
class CellOutcome:
    """The results of a cell.

    Args:
        cell: The cell.
        is_default: Whether it is the default, which the others are tested against.
        trials: Its trials, one per seed, sorted by seed.
        num_seeds: The number of its trials, complete or not.
        scores: The metric of each complete trial by seed, if finite. A cell without training has its one score under
            every seed.
        score: The summary of the scores, None without any.
        test: The paired test against the default; None for the default, or if one of the two has no score.
        adjusted_p: The p of `test`, adjusted by Holm's method over the cells of the study.
        verdict: `BETTER`, `WORSE` or `NOT_SIGNIFICANT` by `adjusted_p`, "not tested: …", or "" without a test.
        block: The block-design t-test against the default; None with fewer than two shared seeds, or if one of the
            two cells is not trained.
        block_p: The p of `block`, adjusted by Holm's method over the cells.
        block_verdict: The verdict by `block_p`, "" without it.
        equivalence_p: The p of equivalence to the default by two one-sided paired tests, None without a paired p.
        adjusted_equivalence_p: `equivalence_p`, adjusted by Holm's method over the cells.
        over_pairs: The interval of the difference from the default over development pairs; None if the study has
            another metric, or the cosines are unknown.
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
    block: BlockTest | None = None
    block_p: float | None = None
    block_verdict: str = ""
    equivalence_p: float | None = None
    adjusted_equivalence_p: float | None = None
    over_pairs: PairInterval | None = None

    @property
    def is_equivalent(self) -> bool:
        """Whether its difference from the default lies within the bound that the study declares."""
        return self.adjusted_equivalence_p is not None and self.adjusted_equivalence_p < 1 - CONFIDENCE

    def figure(self, name: str) -> Summary | None:
        """Summarise a figure over the complete trials in which it is finite; None if there are none."""
        return summary(list(_finite(self.trials, name).values()))

    def mean_spectrum(self) -> list[float]:
        """Return the mean singular values over complete trials; empty if there are none, or one is not finite.

        If trials have different numbers of singular values, the shortest decides.
        """
        spectra = [trial.spectrum for trial in self.trials if trial.state == "complete" and trial.spectrum]
        values = [math.fsum(column) / len(spectra) for column in zip(*spectra, strict=False)]
        return values if all(map(math.isfinite, values)) else []


@dataclass(frozen=True)
class Analysis:
    """The results of a study.

    Args:
        study: The study.
        metric: The figure that the cells are ranked by.
        cells: The outcomes of its cells, in the study's order.
        spread: The standard deviation over seeds within trained cells, pooled; None without two seeds.
        model: The noise model of all trained cells.
        detectable: The minimum detectable difference, None if no two trained cells share two seeds.
        range: The spread of the means of the trained cells, None if it cannot be tested.
        noisy_cell: The label of the cell that is significantly noisier than the others, None if there is none.
        detectable_without: The minimum detectable difference without `noisy_cell`.
        test_averages: The names of the averages over STS test sets that complete trials have, the largest first.
        agreements: The rank agreement with the paper's figures, by the names of ours: the metric and test averages.
        foreign: Trials of cells that the study does not have.
        settings: What all trials have in common according to the storage, by name.
        skipped: The labels of optional cells whose requirements were missing.
    """

    study: Study
    metric: Metric
    cells: Sequence[CellOutcome]
    spread: float | None
    model: BlockModel
    detectable: DetectableDifference | None
    range: RangeTest | None
    noisy_cell: str | None
    detectable_without: DetectableDifference | None
    test_averages: Sequence[str]
    agreements: Mapping[str, Agreement]
    foreign: Sequence[TrialResult]
    settings: Mapping[str, object] = field(default_factory=dict)
    skipped: Sequence[str] = ()

    @property
    def default(self) -> CellOutcome:
        """The cell that the others are tested against."""
        return next(outcome for outcome in self.cells if outcome.is_default)

    @property
    def curve_metric(self) -> Metric:
        """The development figure that the curves show: the metric, or `SCORE` if the metric is a test figure."""
        has_curve = any(f"last_{self.metric.name}" in trial.figures for trial in self.trials)
        return self.metric if has_curve else describe_metric(SCORE)

    @property
    def trials(self) -> list[TrialResult]:
        """All trials of its cells, in the order of cells and seeds."""
        return [trial for outcome in self.cells for trial in outcome.trials]

    @property
    def has_columns(self) -> bool:
        """Whether its cells form a grid of rows and columns."""
        return any(outcome.cell.column for outcome in self.cells)

    @property
    def scored(self) -> list[CellOutcome]:
        """The cells that have a score."""
        return [outcome for outcome in self.cells if outcome.score is not None]

    @property
    def best(self) -> CellOutcome | None:
        """The cell with the best mean score, None if no cell has a score."""
        return max(self.scored, key=lambda outcome: self.metric.sign * outcome.score.mean, default=None)


def analyse(
    study: Study,
    results: Sequence[TrialResult],
    settings: Mapping[str, object] | None = None,
    skipped: Sequence[str] = (),
) -> Analysis:
    """Summarise, test and compare the trials of a study.

    Args:
        study: The study.
        results: Its trials in any order and state, waiting ones included.
        settings: What all trials have in common according to the storage, by name.
        skipped: The labels of optional cells whose requirements were missing.

    Raises:
        ValueError: If a cell has a seed twice, or a trial has a state that is not in `STATES`.
    """
    _validate_trials(study, results)
    metric = describe_metric(study.metric)
    labels = {cell.label for cell in study.cells}
    seeds = sorted({trial.seed for trial in results if trial.cell in labels})
    outcomes = [_outcome(study, cell, results, seeds) for cell in study.cells]
    scores = {outcome.cell.label: outcome.scores for outcome in outcomes if not outcome.cell.is_fixed}
    model = fit_block_model(scores)
    noisy = find_noisy_cell(scores)
    others = {label: by_seed for label, by_seed in scores.items() if label != noisy}
    averages = _test_averages(outcomes)
    return Analysis(
        study=study,
        metric=metric,
        cells=_with_verdicts(outcomes, scores, study, metric),
        spread=spread_over_seeds([list(by_seed.values()) for by_seed in scores.values()]),
        model=model,
        detectable=detectable_difference(model),
        range=range_test(scores),
        noisy_cell=noisy,
        detectable_without=None if noisy is None else detectable_difference(fit_block_model(others)),
        test_averages=averages,
        agreements=_agreements(outcomes, dict.fromkeys([study.metric, *averages])),
        foreign=[trial for trial in results if trial.cell not in labels],
        settings=settings or {},
        skipped=skipped,
    )


def _validate_trials(study: Study, results: Sequence[TrialResult]) -> None:
    seen = set()
    for trial in results:
        if trial.state not in STATES:
            raise ValueError(f"A trial of {trial.cell!r} has the state {trial.state!r}; it must be one of {STATES}.")
        if (trial.cell, trial.seed) in seen:
            raise ValueError(f"The study `{study.name}` has two trials of {trial.cell!r} with seed {trial.seed}.")
        seen.add((trial.cell, trial.seed))


def _outcome(study: Study, cell: Cell, results: Sequence[TrialResult], seeds: Sequence[int]) -> CellOutcome:
    trials = sorted((trial for trial in results if trial.cell == cell.label), key=lambda trial: trial.seed)
    scores = _finite(trials, study.metric)
    score = summary(list(scores.values()))
    if cell.is_fixed:  # its one score is compared with each seed of the others
        scores = dict.fromkeys(seeds, score.mean) if score else {}
    return CellOutcome(cell, cell.label == study.default_label, trials, len(trials), scores, score)


def _with_verdicts(outcomes: Sequence[CellOutcome], scores: Scores, study: Study, metric: Metric) -> list[CellOutcome]:
    """Test the cells against the default. In each test, Holm's method adjusts for all comparisons of the study.

    Args:
        outcomes: All cells.
        scores: The scores of the trained cells. A cell without training has no noise and no block-design t-test.
        study: The study.
        metric: Its metric.
    """
    default = next(outcome for outcome in outcomes if outcome.is_default)
    others = [outcome for outcome in outcomes if default.scores and outcome.scores and not outcome.is_default]
    tests = {outcome.cell.label: paired_test(outcome.scores, default.scores) for outcome in others}
    blocks = {outcome.cell.label: block_test(scores, outcome.cell.label, default.cell.label) for outcome in others}
    equivalence = {
        outcome.cell.label: equivalence_p(outcome.scores, default.scores, study.equivalence_bound)
        for outcome in others
    }
    adjusted = _adjust({label: test.p for label, test in tests.items()})
    block_p = _adjust({label: block.p for label, block in blocks.items() if block})
    adjusted_equivalence = _adjust(equivalence)
    over_pairs = _over_pairs(outcomes, default) if metric.name == SCORE else {}
    return [
        replace(
            outcome,
            test=tests.get(label),
            adjusted_p=adjusted.get(label),
            verdict=_paired_verdict(tests.get(label), adjusted.get(label), metric),
            block=blocks.get(label),
            block_p=block_p.get(label),
            block_verdict=_block_verdict(blocks.get(label), block_p.get(label), metric),
            equivalence_p=equivalence.get(label),
            adjusted_equivalence_p=adjusted_equivalence.get(label),
            over_pairs=over_pairs.get(label),
        )
        for label, outcome in ((outcome.cell.label, outcome) for outcome in outcomes)
    ]


def _over_pairs(outcomes: Sequence[CellOutcome], default: CellOutcome) -> dict[str, PairInterval]:
    return pair_intervals(
        {outcome.cell.label: outcome.trials for outcome in outcomes},
        default.cell.label,
        fixed=[outcome.cell.label for outcome in outcomes if outcome.cell.is_fixed],
    )


def _adjust(p_values: Mapping[str, float | None]) -> dict[str, float]:
    known = {label: p for label, p in p_values.items() if p is not None}
    return dict(zip(known, holm(list(known.values())), strict=True))


def _paired_verdict(test: PairedTest | None, adjusted_p: float | None, metric: Metric) -> str:
    if test is None:
        return ""
    return f"not tested: {test.reason}" if adjusted_p is None else _verdict(test.difference, adjusted_p, metric)


def _block_verdict(block: BlockTest | None, adjusted_p: float | None, metric: Metric) -> str:
    return "" if block is None or adjusted_p is None else _verdict(block.difference, adjusted_p, metric)


def _verdict(difference: float, adjusted_p: float, metric: Metric) -> str:
    if adjusted_p >= 1 - CONFIDENCE:
        return NOT_SIGNIFICANT
    return BETTER if metric.sign * difference > 0 else WORSE


def _test_averages(outcomes: Sequence[CellOutcome]) -> list[str]:
    names = {name for outcome in outcomes for trial in outcome.trials for name in _finite_figures(trial)}
    return sorted(filter(is_test_average, names), key=lambda name: -num_test_sets(name))


def _agreements(outcomes: Sequence[CellOutcome], names: Iterable[str]) -> dict[str, Agreement]:
    paper = {outcome.cell.label: outcome.cell.paper for outcome in outcomes if outcome.cell.paper is not None}
    agreements = {}
    for name in names:
        sign = describe_metric(name).sign
        figures = {outcome.cell.label: outcome.figure(name) for outcome in outcomes}
        ranked = {label: sign * figure.mean for label, figure in figures.items() if figure is not None}
        agreements[name] = agreement(paper, ranked)
    return {name: compared for name, compared in agreements.items() if compared.count}


def _finite(trials: Iterable[TrialResult], name: str) -> dict[int, float]:
    figures = ((trial.seed, _finite_figures(trial).get(name)) for trial in trials)
    return {seed: figure for seed, figure in figures if figure is not None}


def _finite_figures(trial: TrialResult) -> dict[str, float]:
    """Return the finite figures of a complete trial; empty for other trials."""
    if trial.state != "complete":
        return {}
    return {name: value for name, value in trial.figures.items() if value is not None and math.isfinite(value)}
