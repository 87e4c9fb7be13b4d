"""The figures of a trial that a study can rank its cells by."""

import re
from dataclasses import dataclass

from mocose_hf.study.study import SCORE

_TEST_AVERAGE = re.compile(r"sts_avg(?:_of_(\d+))?_spearman")
_LAST_OR_START = re.compile(r"(last|start)_(.+)")
_WORDS = {"ndcg": "nDCG", "mrr": "MRR", "knn": "kNN", "stsb": "STS-B", "sickr": "SICK-R"}
_MEASURES = re.compile(r"(.+)_((?:ndcg|mrr|recall|precision)_at_\d+|knn_accuracy_at_\d+|v_measure)")
_RAW = re.compile(r"(?:.*_)?(?:alignment\w*|uniformity\w*|mean_cosine|effective_rank)")
"""Figures that are not multiplied by 100."""


@dataclass(frozen=True)
class Metric:
    """A figure of a trial.

    Args:
        name: Its name among the figures of a trial.
        title: Its name in a heading.
        unit: What it measures, as the label of an axis.
        greater_is_better: Whether a greater figure is better.
        decimals: Decimals in tables.
    """

    name: str
    title: str
    unit: str
    greater_is_better: bool = True
    decimals: int = 2

    @property
    def phrase(self) -> str:
        """Its name within a sentence."""
        return f"{self.title[:1].lower()}{self.title[1:]}" if self.title[1:2].islower() else self.title

    @property
    def sign(self) -> int:
        """1 if a greater figure is better, −1 otherwise."""
        return 1 if self.greater_is_better else -1


def describe_metric(name: str) -> Metric:
    """Return the metric of a figure's name."""
    from mocose_hf.evaluation.checkpoint_selection import is_greater_better  # loads torch

    if found := _LAST_OR_START.fullmatch(name):
        metric = describe_metric(found[2])
        when = "last evaluation" if found[1] == "last" else "start"
        return Metric(name, f"{metric.title}, {when}", metric.unit, metric.greater_is_better, metric.decimals)
    title, unit = _title_and_unit(name)
    return Metric(name, title, unit, is_greater_better(name), 4 if _RAW.fullmatch(name) else 2)


def is_test_average(name: str) -> bool:
    """Return whether a figure is a mean over STS test sets."""
    return _TEST_AVERAGE.fullmatch(name) is not None


def num_test_sets(name: str) -> int:
    """Return the number of STS test sets that an average covers."""
    count = _TEST_AVERAGE.fullmatch(name)[1]
    return int(count) if count else 7


def _title_and_unit(name: str) -> tuple[str, str]:
    if name == SCORE:
        return "Development pairs", "Spearman × 100"
    if is_test_average(name):
        return f"Mean of {num_test_sets(name)} STS test sets", "Spearman × 100"
    if _RAW.fullmatch(name):
        words = _in_words(name.removeprefix("dev_"))
        return f"{words[:1].upper()}{words[1:]}{', development pairs' * name.startswith('dev_')}", words
    if found := _MEASURES.fullmatch(name):
        measure = _in_words(found[2])
        return f"{found[1]}, {measure}", f"{measure} × 100"
    if name.endswith("_spearman"):
        return f"{_in_words(name.removesuffix('_spearman')).replace('sts1', 'STS1')}, test set", "Spearman × 100"
    if name.endswith("_accuracy"):
        return _in_words(name), "accuracy, %"
    return _in_words(name), _in_words(name)


def _in_words(name: str) -> str:
    """Return a name for a heading: `mrr_at_10` becomes MRR@10."""
    words = name.replace("_at_", "@").replace("v_measure", "V-measure").split("_")
    split = (word.partition("@") for word in words)
    return " ".join(f"{_WORDS.get(word, word)}{at}{rank}" for word, at, rank in split)
