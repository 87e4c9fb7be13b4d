"""What a careful reader is told below a table and at the head of a report, in sentences."""

import math
from collections import Counter
from collections.abc import Sequence

from mocose_hf.study.analysis.analysis import ABOVE, BELOW, NOT_SIGNIFICANT, Analysis, CellOutcome
from mocose_hf.study.analysis.seed_tests import first_step_ratio, seeds_for_equivalence
from mocose_hf.study.report.tables import average_title, number
from mocose_hf.study.results import SCORE

CAUTIONS = (
    "Few seeds: the standard deviation of three seeds is itself known to within a factor of 0.5 to 6.3 only. The "
    "noise floor, named below each table, is the smallest difference that is significant in one typical comparison "
    "chosen beforehand.",
    "Two tests: the paired one uses the common seeds of a cell and the default alone and assumes nothing of other "
    "cells. The block test takes the shift of each seed from the other cells and gives each cell noise of its own "
    "size; it assumes that a seed shifts all cells alike. Both assume normal noise, and both are always shown.",
    "What the 5 % are of: the comparisons of one study with its default, on the development pairs, in one of the "
    "tests. If no cell of a study differs, the chance that a test finds one is 5 % at most, by Holm's method. This "
    "holds for each test by itself, not for the better of both, nor for several studies, the test sets, or the best "
    "cell of a table. The 95 % intervals are not adjusted, so one may exclude 0 although the verdict is “not "
    "significant”.",
    "“Not significant” does not mean equal. “Equivalent” means that the difference lies inside of the bounds that the "
    "study declares, by two one-sided tests at 0.05. A cell that is neither needs more seeds.",
    "A score is the best of a run's evaluations on the same development pairs, so it is biased upwards, more so where "
    "runs are evaluated often or vary much; so is the score of the best cell. The test sets had no part in either "
    "choice.",
    "All cells share one set of development pairs and one encoder. The interval over pairs holds what other pairs "
    "would change, all others what other seeds would. None holds both, nor what another text or encoder would change.",
    "The paper's figures are means over test sets, on which its released code also chooses the checkpoint, without "
    "seeds, and may be of another encoder: compare order and shape, not height.",
)
"""What the figures of all studies have in common."""

_SHORT_CAUTION = (
    "Scores are of the best evaluation of each run, on development pairs that all cells share: they are biased "
    "upwards, and neither the spread over seeds nor the noise floor holds what other pairs would change."
)


def notes(made: Analysis) -> list[str]:
    """Return what is to be said below the table of a study, a sentence or a few each."""
    lines = [_verdicts(made), _family(made), _equivalence(made), _untrained(made), _paper(made), _spread(made)]
    lines += [_noise(made), _widest(made), _range(made), _power(made)]
    return [line for line in [*lines, _SHORT_CAUTION * bool(_scored(made)), *_trials(made)] if line]


def best_cell(made: Analysis) -> CellOutcome | None:
    """Return the cell of the highest mean, None where none has a score."""
    return max(_scored(made), key=lambda outcome: outcome.score.mean, default=None)


def _scored(made: Analysis) -> list[CellOutcome]:
    return [outcome for outcome in made.cells if outcome.score is not None]


def _verdicts(made: Analysis) -> str:
    others = [outcome for outcome in _scored(made) if not outcome.is_default]
    if not others:
        return ""
    if made.default.score is None:
        return (
            f"The default, {_quoted(made.default.cell.label)}, has no complete trial, so no cell is tested against it."
        )
    name = _quoted(made.default.cell.label)
    text = f"Against the default, {name}, by the paired test: {_counted([o.verdict for o in others], others)}."
    if all(outcome.block_p is None for outcome in others):
        return text
    return f"{text} By the block test: {_counted([o.block_verdict for o in others], others)}."


def _counted(verdicts: Sequence[str], others: Sequence[CellOutcome]) -> str:
    """Name the cells above and below the default and count the rest."""
    parts = []
    for verdict, word in ((ABOVE, "above"), (BELOW, "below")):
        labels = [o.cell.label for found, o in zip(verdicts, others, strict=True) if found == verdict]
        parts.append(f"{word}: {', '.join(map(_quoted, labels)) or 'none'}")
    counts = Counter(verdicts)
    rest = len(others) - counts[ABOVE] - counts[BELOW] - counts[NOT_SIGNIFICANT]
    parts.append(f"{NOT_SIGNIFICANT}: {counts[NOT_SIGNIFICANT]}")
    return "; ".join(parts + [f"not tested: {rest}"] * bool(rest))


def _family(made: Analysis) -> str:
    """Name the comparisons that the error rate of 5 % holds for."""
    paired = sum(outcome.adjusted_p is not None for outcome in made.cells)
    block = sum(outcome.block_p is not None for outcome in made.cells)
    if not paired + block:
        return ""
    families = [f"{count} by the {test} test" for count, test in ((paired, "paired"), (block, "block")) if count]
    plural = "s" * (max(paired, block) > 1)
    return (
        f"Family of Holm's method: the comparison{plural} of this study with its default on the development pairs, "
        f"{' and, as a family of its own, '.join(families)}. If no cell differs, each test finds one with a "
        "probability of 5 % at most. Test sets, other studies and the choice of the better test are not part of it."
    )


def _equivalence(made: Analysis) -> str:
    tested = [outcome for outcome in made.cells if outcome.adjusted_equivalence_p is not None]
    if not tested:
        return ""
    bound = made.study.equivalence_bound
    labels = [outcome.cell.label for outcome in tested if outcome.is_equivalent]
    text = (
        f"Equivalent to the default within ± {number(bound)}, by two one-sided paired tests with Holm's method: "
        f"{', '.join(map(_quoted, labels)) or 'none'} of {len(tested)}."
    )
    if made.floor is None or made.floor.sd == 0:
        return text
    count = seeds_for_equivalence(math.sqrt(2) * made.floor.sd, bound)
    return f"{text} With the noise here, one such test of equal cells needs about {count} seeds (power 0.8)."


def _paper(made: Analysis) -> str:
    best = best_cell(made)
    if best is None:
        return ""
    text = f"Best here: {_quoted(best.cell.label)} ({number(best.score.mean)})."
    found = made.agreements.get(SCORE)
    if found is None:
        return text
    if found.count == 1:
        return f"{text} The paper has one cell of these, so there is no order to compare."
    text += f" Of the {found.count} cells that the paper has too, best there: {_quoted(found.best[0])}"
    text += f"; here: {_quoted(found.best[1])}."
    known = {name: found for name, found in made.agreements.items() if found.correlation is not None}
    if not known:
        return f"{text} Too few cells, or cells too alike, for a rank correlation."
    correlations = "; ".join(
        f"{number(found.correlation)} by {_by(name)} ({found.count} cells)" for name, found in known.items()
    )
    chance = number(next(iter(known.values())).chance)
    return (
        f"{text} Spearman's rank correlation with the paper: {correlations}. Of cells in an order of chance it "
        f"scatters around 0 with a standard deviation of {chance}."
    )


def _by(name: str) -> str:
    if name == SCORE:
        return "development pairs"
    title = average_title(name)
    return f"the {title[:1].lower()}{title[1:]}"


def _untrained(made: Analysis) -> str:
    """Say what favours training in a comparison with the encoder as it is, or with word counts."""
    fixed = [outcome for outcome in _scored(made) if outcome.cell.is_fixed]
    if not fixed or len(fixed) == len(_scored(made)):
        return ""
    return (
        f"Not trained: {', '.join(_quoted(outcome.cell.label) for outcome in fixed)}. One evaluation of it is set "
        "against the best of each run's evaluations on the same development pairs, which favours training; the test "
        "sets had no part in that choice and are the fairer comparison."
    )


def _spread(made: Analysis) -> str:
    if made.spread is None:
        return ""
    return (
        f"Spread over seeds: one run of a cell varies with a standard deviation of {number(made.spread)} (within "
        "trained cells, pooled)."
    )


def _noise(made: Analysis) -> str:
    floor = made.floor
    if floor is None:
        unknown = "No two trained cells share two seeds, so nothing is known of the noise of a comparison."
        return unknown if _scored(made) else ""
    return (
        f"Noise floor: {number(floor.smallest_difference)}, the smallest difference of two cells with {floor.count} "
        "shared seeds that is significant in one block test, chosen beforehand (two-sided, at 0.05, unadjusted), if "
        "both have the typical noise. That noise, what cell and seed leave of a score, has a standard deviation of "
        f"{number(floor.sd)} (95 % CI {number(floor.low)} to {number(floor.high)}; {floor.degrees_of_freedom} "
        f"degree{'s' * (floor.degrees_of_freedom > 1)} of freedom, of all trained cells). The floor and its interval "
        "assume that a seed shifts all cells alike and that the noise is normal and of one size. The tests do not "
        "assume the one size."
    )


def _widest(made: Analysis) -> str:
    if made.widest is None:
        return ""
    label, floor = made.widest
    return (
        f"The noise floor assumes noise of one size, but that of {_quoted(label)} is larger than that of the others "
        f"beyond chance. Without it the noise floor is {number(floor.smallest_difference)}, and the noise "
        f"{number(floor.sd)}."
    )


def _range(made: Analysis) -> str:
    if made.range is None:
        return ""
    spread, expected, count = made.range
    verdict = "so not all cells are equal" if spread > expected else "so their order may be chance alone"
    return (
        f"The means of the {count} trained cells spread over {number(spread)}; those of as many equal cells spread "
        f"over less than {number(expected)} in 95 of 100 studies (studentised range by Games and Howell, with the "
        f"noise of the highest and the lowest cell), {verdict}."
    )


def _power(made: Analysis) -> str:
    tested = [outcome.test for outcome in made.cells if outcome.adjusted_p is not None]
    if not tested:
        return ""
    count = min(Counter(test.count for test in tested).items(), key=lambda entry: (-entry[1], entry[0]))[0]
    ratio = first_step_ratio(count, len(tested))
    return (
        f"With {count} common seeds and {len(tested)} comparison{'s' * (len(tested) > 1)}, the first cell to be "
        f"significant by the paired test needs a mean difference of {ratio:.1f} standard deviations of its "
        "differences."
    )


def _trials(made: Analysis) -> list[str]:
    """Return how many trials are in which state, which cells have none, and the reason of each that failed."""
    counts = Counter(trial.state for trial in made.trials)
    if not made.trials:
        return ["No trial was run yet."]
    lines = [
        f"{counts['complete']} of {len(made.trials)} trials are complete{_others(counts)}.",
        *_not_asked_for(made),
    ]
    lines += [
        f"Failed: {_quoted(trial.cell)}, seed {trial.seed}: {_sentence(trial.reason or 'no reason is known')}"
        for trial in made.trials
        if trial.state == "failed"
    ]
    lines += [
        f"Complete, but without a score that is a number: {_quoted(outcome.cell.label)}, seed {trial.seed}."
        for outcome in made.cells
        for trial in outcome.trials
        if trial.state == "complete" and trial.seed not in outcome.scores
    ]
    if made.foreign:
        labels = ", ".join(dict.fromkeys(_quoted(trial.cell) for trial in made.foreign))
        plural = "s" * (len(made.foreign) > 1)
        lines.append(f"Left out, as the study has no such cell: {len(made.foreign)} trial{plural} of {labels}.")
    return lines


def _not_asked_for(made: Analysis) -> list[str]:
    """Return which optional cells were left out, and how many others have no trial."""
    lines = []
    if made.left_out:
        labels = ", ".join(map(_quoted, made.left_out))
        lines.append(f"Left out, as what it needs was not there: {labels}.")
    missing = [o for o in made.cells if not o.trials and o.cell.label not in made.left_out]
    if missing:
        lines.append(f"Without a trial, as none was asked for: {len(missing)} of {len(made.cells)} cells.")
    return lines


def _others(counts: Counter) -> str:
    parts = [f", {counts[state]} {state}" for state in ("failed", "running") if counts[state]]
    if counts["interrupted"]:
        parts.append(f", {counts['interrupted']} interrupted, taken up by the next run")
    return "".join(parts) + (f", {counts['waiting']} waiting" if counts["waiting"] else "")


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _quoted(label: str) -> str:
    return f"“{label}”"
