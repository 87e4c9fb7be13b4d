"""What a study shows, in sentences: its answer, the notes below its table, and how to read a report."""

import math
from collections import Counter
from collections.abc import Sequence

from mocose_hf.study.analysis.analysis import BETTER, NOT_SIGNIFICANT, WORSE, Analysis, CellOutcome
from mocose_hf.study.analysis.block_design import interval_of_sd
from mocose_hf.study.analysis.seed_tests import first_step_ratio, seeds_for_equivalence
from mocose_hf.study.metrics import describe_metric
from mocose_hf.study.report.tables import number
from mocose_hf.study.study import SCORE, TrialResult

HOW_TO_READ = (
    "Each study compares its cells with one default. The paired t-test uses only the shared seeds of a cell and the "
    "default. The block-design t-test also removes the effect of each seed, which it estimates from the other cells; "
    "it assumes that a seed affects all cells equally. Both assume normal noise, and the report always shows both.",
    "Holm's method adjusts each test for the number of cells in a study. If no cell differs, a test finds a "
    "difference in at most 5 % of studies. This does not cover picking the better of the two tests, several studies, "
    "the test sets, or the best cell of a table. The 95 % intervals are not adjusted, so one may exclude 0 although "
    "the verdict is “not significant”.",
    "“Not significant” does not mean equal. “Equivalent” means that the difference lies within the bound that the "
    "study declares, by two one-sided tests at 0.05. A cell that is neither needs more seeds.",
    "A score on a development set is the best of a run's evaluations on that same set, so it is biased towards better "
    "values, most of all for runs with many evaluations or much noise. The same holds for the best cell. The test "
    "sets play no part in either choice.",
    "All cells share one encoder and the same development data. The interval over pairs covers the choice of "
    "development pairs; all other intervals cover the choice of seeds. None covers both, nor another text or encoder.",
    "The paper's figures are means over test sets, with one seed, perhaps from another encoder; the authors' code "
    "also selects the checkpoint on these test sets. Compare the order of the cells, not the level.",
)
"""Advice that holds for all studies."""


def answer(analysis: Analysis) -> str:
    """Return the result of a study in one or two sentences: the best cell, and which cells differ from the default."""
    best = analysis.best
    if best is None:
        return "No result yet."
    decimals, unit = analysis.metric.decimals, analysis.metric.unit
    seeds = f"{best.score.count} seed{'s' * (best.score.count > 1)}"
    spread = "" if best.score.sd is None else f" ± {number(best.score.sd, decimals)}"
    seeds = "no training" if best.cell.is_fixed else seeds
    first = f"Best: {_quoted(best.cell.label)} with {number(best.score.mean, decimals)}{spread} ({unit}, {seeds})."
    others = [outcome for outcome in analysis.scored if not outcome.is_default]
    tested = [outcome for outcome in others if outcome.adjusted_p is not None or outcome.block_p is not None]
    if analysis.default.score is None or not tested:
        return f"{first} No difference from the default can be tested yet." if len(analysis.cells) > 1 else first
    parts = [
        f"{', '.join(labels)} {'is' if len(labels) == 1 else 'are'} {verdict} {_quoted(analysis.default.cell.label)}"
        for verdict, labels in (
            ("significantly better than", _significant_labels(tested, BETTER)),
            ("significantly worse than", _significant_labels(tested, WORSE)),
        )
        if labels
    ]
    if not parts:
        subject = "The one tested cell does not differ" if len(tested) == 1 else "No tested cell differs"
        return f"{first} {subject} significantly from the default, {_quoted(analysis.default.cell.label)}."
    return f"{first} {'; '.join(parts)}."


def _significant_labels(outcomes: Sequence[CellOutcome], verdict: str) -> list[str]:
    """Return the cells with a verdict by either test; a verdict by only one test is marked."""
    labels = []
    for outcome in outcomes:
        paired, block = outcome.verdict == verdict, outcome.block_verdict == verdict
        if paired or block:
            agree = (paired and block) or outcome.block is None
            only = "" if agree else " (by the paired test only)" if paired else " (by the block design only)"
            labels.append(f"{_quoted(outcome.cell.label)}{only}")
    return labels


def notes(analysis: Analysis) -> list[str]:
    """Return the notes below the table of a study."""
    lines = [
        *(_verdicts(analysis), _family(analysis), _equivalence(analysis), _untrained(analysis), _paper(analysis)),
        *(_spread(analysis), _detectable(analysis), _noisy_cell(analysis), _range(analysis), _power(analysis)),
        _bias(analysis),
    ]
    return [line for line in lines if line]


def _verdicts(analysis: Analysis) -> str:
    others = [outcome for outcome in analysis.scored if not outcome.is_default]
    if not others:
        return ""
    default = _quoted(analysis.default.cell.label)
    if analysis.default.score is None:
        return f"The default, {default}, has no complete trial, so no cell is tested against it."
    text = (
        f"Compared with the default, {default}, by the paired t-test: {_counted([o.verdict for o in others], others)}."
    )
    if all(outcome.block_p is None for outcome in others):
        return text
    return f"{text} By the block-design t-test: {_counted([o.block_verdict for o in others], others)}."


def _counted(verdicts: Sequence[str], others: Sequence[CellOutcome]) -> str:
    """Name the cells that are better and worse than the default, and count the rest."""
    parts = []
    for verdict, word in ((BETTER, "better"), (WORSE, "worse")):
        labels = [o.cell.label for own, o in zip(verdicts, others, strict=True) if own == verdict]
        parts.append(f"{word}: {', '.join(map(_quoted, labels)) or 'none'}")
    counts = Counter(verdicts)
    rest = len(others) - counts[BETTER] - counts[WORSE] - counts[NOT_SIGNIFICANT]
    parts.append(f"{NOT_SIGNIFICANT}: {counts[NOT_SIGNIFICANT]}")
    return "; ".join(parts + [f"not tested: {rest}"] * bool(rest))


def _family(analysis: Analysis) -> str:
    """Name the comparisons that the error rate of 5 % covers."""
    paired = sum(outcome.adjusted_p is not None for outcome in analysis.cells)
    block = sum(outcome.block_p is not None for outcome in analysis.cells)
    if not paired + block:
        return ""
    families = [f"{count} {test} t-tests" for count, test in ((paired, "paired"), (block, "block-design")) if count]
    return (
        "Holm's method adjusts for the comparisons of this study with its default: "
        f"{' and, separately, '.join(families)}. If no cell differs, each kind of test finds a difference with a "
        "probability of at most 5 %. This does not cover test sets, other studies, or picking the better of the "
        "two tests."
    )


def _equivalence(analysis: Analysis) -> str:
    tested = [outcome for outcome in analysis.cells if outcome.adjusted_equivalence_p is not None]
    if not tested:
        return ""
    bound = analysis.study.equivalence_bound
    labels = [outcome.cell.label for outcome in tested if outcome.is_equivalent]
    text = (
        f"Equivalent to the default within ± {number(bound, analysis.metric.decimals)} (two one-sided paired t-tests, "
        f"Holm's method): {', '.join(map(_quoted, labels)) or 'none'} of {len(tested)}."
    )
    if analysis.detectable is None or analysis.detectable.sd == 0:
        return text
    count = seeds_for_equivalence(math.sqrt(2) * analysis.detectable.sd, bound)
    return f"{text} With this noise, one such test of equal cells needs about {count} seeds for a power of 0.8."


def _paper(analysis: Analysis) -> str:
    best = analysis.best
    if best is None:
        return ""
    text = f"Best here: {_quoted(best.cell.label)} ({number(best.score.mean, analysis.metric.decimals)})."
    found = analysis.agreements.get(analysis.metric.name)
    if found is None:
        return text
    if found.count == 1:
        return f"{text} Only one of these cells is in the paper, so there is no order to compare."
    text += (
        f" Of the {found.count} cells that are also in the paper, the best there is {_quoted(found.best[0])}, and "
        f"here {_quoted(found.best[1])}."
    )
    known = {name: found for name, found in analysis.agreements.items() if found.correlation is not None}
    if not known:
        return f"{text} There are too few different figures for a rank correlation."
    correlations = "; ".join(
        f"{number(found.correlation)} for {describe_metric(name).phrase} ({found.count} cells)"
        for name, found in known.items()
    )
    chance = number(next(iter(known.values())).chance)
    return (
        f"{text} Spearman's rank correlation with the paper: {correlations}. Unrelated rankings scatter around 0 with "
        f"a standard deviation of {chance}."
    )


def _untrained(analysis: Analysis) -> str:
    """Warn that the comparison with a cell without training favours training."""
    fixed = [outcome for outcome in analysis.scored if outcome.cell.is_fixed]
    if not fixed or len(fixed) == len(analysis.scored):
        return ""
    return (
        f"Not trained: {', '.join(_quoted(outcome.cell.label) for outcome in fixed)}. Its single evaluation is "
        "compared with the best of each run's evaluations on the same development data, which favours training. The "
        "test sets give the fairer comparison."
    )


def _spread(analysis: Analysis) -> str:
    if analysis.spread is None:
        return ""
    count = Counter(o.score.count for o in analysis.scored if not o.cell.is_fixed).most_common(1)[0][0]
    text = (
        f"Spread over seeds: one run of a cell has a standard deviation of "
        f"{number(analysis.spread, analysis.metric.decimals)} (pooled within trained cells)."
    )
    if count < 2:
        return text
    low, high = interval_of_sd(count - 1)
    return (
        f"{text} With {count} seeds, the true standard deviation of a single cell lies between {low:.2g} and "
        f"{high:.2g} times the one in the table (95 % CI)."
    )


def _detectable(analysis: Analysis) -> str:
    found, decimals = analysis.detectable, analysis.metric.decimals
    if found is None:
        return "No two trained cells share two seeds, so the noise of a comparison is unknown." * bool(analysis.scored)
    return (
        f"Minimum detectable difference: {number(found.minimum, decimals)}. This is the smallest difference of two "
        f"cells with typical noise and {found.count} shared seeds that is significant in one planned block-design "
        "t-test (two-sided, at 0.05, unadjusted). The typical noise is the residual standard deviation of score = "
        f"cell + seed: {number(found.sd, decimals)} (95 % CI {number(found.low, decimals)} to "
        f"{number(found.high, decimals)}; {found.degrees_of_freedom} "
        f"degree{'s' * (found.degrees_of_freedom > 1)} of freedom). It assumes that a seed affects all cells equally, "
        "and normal noise of the same size in all cells. The tests do not assume the same size."
    )


def _noisy_cell(analysis: Analysis) -> str:
    if analysis.noisy_cell is None:
        return ""
    without, decimals = analysis.detectable_without, analysis.metric.decimals
    return (
        f"The cell {_quoted(analysis.noisy_cell)} is significantly noisier than the others. Without it, the minimum "
        f"detectable difference is {number(without.minimum, decimals)}, and the noise {number(without.sd, decimals)}."
    )


def _range(analysis: Analysis) -> str:
    if analysis.range is None:
        return ""
    spread, critical, decimals = analysis.range.spread, analysis.range.critical, analysis.metric.decimals
    verdict = "not all cells are equal" if spread > critical else "their order may be due to chance alone"
    return (
        f"The means of the {analysis.range.count} trained cells span {number(spread, decimals)}. In 95 of 100 studies "
        f"of equal cells they span less than {number(critical, decimals)} (studentised range by Games and Howell), so "
        f"{verdict}."
    )


def _power(analysis: Analysis) -> str:
    tested = [outcome.test for outcome in analysis.cells if outcome.adjusted_p is not None]
    if not tested:
        return ""
    count = min(Counter(test.count for test in tested).items(), key=lambda entry: (-entry[1], entry[0]))[0]
    ratio = first_step_ratio(count, len(tested))
    return (
        f"With {count} shared seeds and {len(tested)} comparison{'s' * (len(tested) > 1)}, the first cell becomes "
        f"significant by the paired t-test at a mean difference of {ratio:.1f} standard deviations of its differences."
    )


def _bias(analysis: Analysis) -> str:
    if analysis.metric.name != SCORE or not analysis.scored:
        return ""
    return (
        "Each score is the best evaluation of a run on development pairs that all cells share. The scores are "
        "therefore biased upwards. Neither the spread over seeds nor the minimum detectable difference covers the "
        "choice of pairs."
    )


def trial_notes(analysis: Analysis) -> list[str]:
    """Return the number of trials by state, the cells without trials, and the reason of each failure."""
    counts = Counter(trial.state for trial in analysis.trials)
    if not analysis.trials:
        return ["No trial has run yet."]
    lines = [
        f"{counts['complete']} of {len(analysis.trials)} trials are complete{_unfinished(counts)}.",
        *_missing_cells(analysis),
    ]
    lines += [f"Failed: {_named(trial)}: {_sentence(trial.reason or 'the reason is unknown')}"
              for trial in analysis.trials if trial.state == "failed"]  # fmt: skip
    lines += [
        f"Complete, but without a finite score: {_quoted(outcome.cell.label)}, seed {trial.seed}."
        for outcome in analysis.cells
        for trial in outcome.trials
        if trial.state == "complete" and trial.seed not in outcome.scores
    ]
    if analysis.foreign:
        labels = ", ".join(dict.fromkeys(_quoted(trial.cell) for trial in analysis.foreign))
        plural = "s" * (len(analysis.foreign) > 1)
        lines.append(
            f"Ignored, because the study has no such cell: {len(analysis.foreign)} trial{plural} of {labels}."
        )
    return lines


def _missing_cells(analysis: Analysis) -> list[str]:
    """Return which optional cells were skipped, and how many other cells have no trial."""
    lines = []
    if analysis.skipped:
        labels = ", ".join(map(_quoted, analysis.skipped))
        lines.append(f"Skipped, because its requirements were missing: {labels}.")
    missing = [o for o in analysis.cells if not o.trials and o.cell.label not in analysis.skipped]
    if missing:
        lines.append(f"Not requested: {len(missing)} of {len(analysis.cells)} cells.")
    return lines


def _unfinished(counts: Counter) -> str:
    parts = [f", {counts[state]} {state}" for state in ("failed", "running") if counts[state]]
    if counts["interrupted"]:
        parts.append(f", {counts['interrupted']} interrupted (the next run resumes them)")
    return "".join(parts) + (f", {counts['waiting']} waiting" if counts["waiting"] else "")


def _named(trial: TrialResult) -> str:
    return f"{_quoted(trial.cell)}, seed {trial.seed}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _quoted(label: str) -> str:
    return f"“{label}”"
