"""Select checkpoints, and measure how much selection on the test sets, as in the released code, raises the scores."""

import math
from collections.abc import Sequence

from mocose_hf.evaluation.pairs import DEV_SPEARMAN
from mocose_hf.evaluation.sts import STSTask
from mocose_hf.evaluation.tasks import averages, embed_tasks, mean_name, score_tasks

LOWER_IS_BETTER = (
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
"""Metrics of which lower is better; of all others, higher is better."""


def is_greater_better(metric: str) -> bool:
    """Return whether a higher value of a metric is better.

    Args:
        metric: Its name in the log, with or without `eval_` and the name of a development set: `eval_news_alignment`.
    """
    return not any(metric == name or metric.endswith(f"_{name}") for name in LOWER_IS_BETTER)


def scores_by_step(log_history: Sequence[dict], metric: str) -> dict[int, float]:
    """Return the score of each optimizer step that was evaluated, from the log of a run.

    The first evaluation of a step counts. A later one scores another model, such as the best one at the end of a run.

    Args:
        log_history: `Trainer.state.log_history`.
        metric: The name of the score without `eval_`.
    """
    scores: dict[int, float] = {}
    for entry in log_history:
        if f"eval_{metric}" in entry and "step" in entry:
            scores.setdefault(entry["step"], entry[f"eval_{metric}"])
    return scores


def score_test_sets(model, tokenizer, tasks: Sequence[STSTask], **encode_options) -> dict[str, float]:
    """Return the Spearman correlation of each test set, and their mean."""
    scores = score_tasks(tasks, embed_tasks(model, tokenizer, tasks, **encode_options))
    correlations = {name: scores[name] for name in (f"{task.name}_spearman" for task in tasks)}
    return correlations | averages(correlations)


def average_name(tasks: Sequence[STSTask]) -> str:
    """Return the name of the mean over these test sets, or of the score of a single one."""
    if len(tasks) > 1:
        return mean_name("sts", "spearman", len(tasks))
    return f"{tasks[0].name}_spearman"


def compare_selections(
    log_history: Sequence[dict], average: str, metric: str = DEV_SPEARMAN, greater_is_better: bool = True
) -> list[tuple[str, dict[str, float]]]:
    """Return the test scores of three checkpoints: the last one, and those selected on development and test sets.

    Args:
        log_history: `Trainer.state.log_history` of a run that scored the test sets at each evaluation.
        average: The metric that selects on the test sets, see `average_name`.
        metric: The metric that selects on the development pairs.
        greater_is_better: Whether a higher value of that is better.

    Returns:
        Three rows of a name, with the step in it, and the Spearman correlations by name. The start is step 0 and can
        be selected. The list is empty if no step after the start was evaluated.
    """
    metrics_by_step: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "step" in entry and f"eval_{average}" in entry and f"eval_{DEV_SPEARMAN}" in entry:
            metrics_by_step.setdefault(entry["step"], {n.removeprefix("eval_"): v for n, v in entry.items()})
    if not any(metrics_by_step):
        return []

    def best_step(name: str, sign: int = 1) -> int:
        def value(step: int) -> float:
            score = metrics_by_step[step].get(name, math.nan)
            return -math.inf if math.isnan(score) else sign * score

        return max(metrics_by_step, key=value)

    steps = {
        "last": max(metrics_by_step),
        "selected on development pairs": best_step(metric, 1 if greater_is_better else -1),
        "selected on test sets": best_step(average),
    }
    return [(f"{selection}, step {step}", _correlations(metrics_by_step[step])) for selection, step in steps.items()]


def _correlations(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.endswith("_spearman")}
