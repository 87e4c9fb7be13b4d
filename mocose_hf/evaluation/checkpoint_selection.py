"""What it is worth to select a checkpoint on the test sets, as the paper's released code does."""

import math
from collections.abc import Sequence

from mocose_hf.evaluation.pairs import DEV_SPEARMAN
from mocose_hf.evaluation.sts import STSTask
from mocose_hf.evaluation.tasks import averages, embed_tasks, mean_name, score_tasks

LESS_IS_BETTER = (
    "alignment",
    "alignment_all_pairs",
    "loss",
    "mean_cosine",
    "mean_rank",
    "median_rank",
    "runtime",
    "uniformity",
    "uniformity_positive_pairs",
)
"""Metrics of which less is better; of all others more is."""


def is_greater_better(metric: str) -> bool:
    """Return whether more of a metric is better, which its name tells.

    Args:
        metric: As in the log, with or without `eval_` and the name of a development set: `eval_news_alignment`.
    """
    return not any(metric == name or metric.endswith(f"_{name}") for name in LESS_IS_BETTER)


def scores_by_step(log_history: Sequence[dict], metric: str) -> dict[int, float]:
    """Return the score of each optimizer step that was evaluated, from the log of a run.

    The first evaluation of a step counts: a later one is of another model, such as the best one at the end of a run.

    Args:
        log_history: `Trainer.state.log_history`.
        metric: Its name without `eval_`.
    """
    scores: dict[int, float] = {}
    for entry in log_history:
        if f"eval_{metric}" in entry and "step" in entry:
            scores.setdefault(entry["step"], entry[f"eval_{metric}"])
    return scores


def score_test_sets(model, tokenizer, tasks: Sequence[STSTask], **encode_options) -> dict[str, float]:
    """Return the Spearman correlation of each test set, and their mean."""
    scores = score_tasks(tasks, embed_tasks(model, tokenizer, tasks, **encode_options))
    figures = {name: scores[name] for name in (f"{task.name}_spearman" for task in tasks)}
    return figures | averages(figures)


def average_name(tasks: Sequence[STSTask]) -> str:
    """Return the name of the mean over these test sets, or of the one figure where there is but one."""
    if len(tasks) > 1:
        return mean_name("sts", "spearman", len(tasks))
    return f"{tasks[0].name}_spearman"


def compare_selections(
    log_history: Sequence[dict], average: str, metric: str = DEV_SPEARMAN, greater_is_better: bool = True
) -> list[tuple[str, dict[str, float]]]:
    """Return the test figures of three checkpoints: the last, the best on development pairs, the best on the tests.

    Args:
        log_history: The log of a run that scored the test sets at each evaluation, `Trainer.state.log_history`.
        average: What the test sets select by, `average_name` of them.
        metric: What the development pairs select by.
        greater_is_better: Whether more of that is better.

    Returns:
        Three rows of a name, with the step in it, and the Spearman correlations by name. The start is step 0 and
        can be selected. The list is empty if no step after the start was evaluated.
    """
    of_step: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "step" in entry and f"eval_{average}" in entry and f"eval_{DEV_SPEARMAN}" in entry:
            of_step.setdefault(entry["step"], {n.removeprefix("eval_"): v for n, v in entry.items()})
    if not any(of_step):
        return []

    def best(name: str, sign: int = 1) -> int:
        return max(of_step, key=lambda step: -math.inf if _is_nan(of_step[step], name) else sign * of_step[step][name])

    chosen = {
        "last": max(of_step),
        "selected on development pairs": best(metric, 1 if greater_is_better else -1),
        "selected on test sets": best(average),
    }
    return [(f"{how}, step {step}", _row(of_step[step])) for how, step in chosen.items()]


def _is_nan(figures: dict[str, float], name: str) -> bool:
    return math.isnan(figures.get(name, math.nan))


def _row(figures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if name.endswith("_spearman")}
