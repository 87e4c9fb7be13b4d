"""Intervals over development pairs, compared with a slow bootstrap that uses scipy's correlation."""

import json
import math

import numpy as np
import pytest
from scipy import stats
from study_results import complete

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import analyse
from mocose_hf.study.analysis.pair_bootstrap import RESAMPLES, PairResamples, pair_intervals
from mocose_hf.study.report.csv_export import summary_csv
from mocose_hf.study.report.tables import cell_table


def pairs(seed: int, noise: float, size: int = 60) -> dict[str, list[float]]:
    """Scores of 0 to 5 with ties, the same for all seeds, and cosines that follow them with some noise."""
    scores = np.random.default_rng(99).integers(0, 6, size).astype(float)
    cosines = scores + np.random.default_rng(seed).normal(0, noise, size)
    return {"pair_scores": scores.tolist(), "pair_cosines": cosines.round(1).tolist()}


def trial(cell: str, seed: int, noise: float, **more) -> TrialResult:
    of_pairs = pairs(seed + 1000 * ord(cell[0]), noise) | more
    score = 100 * stats.spearmanr(of_pairs["pair_cosines"], of_pairs["pair_scores"]).statistic
    return complete("s", cell, seed, score, **of_pairs)


def test_each_resampled_set_has_scipys_correlation():
    data = pairs(0, 1.0)
    draw = np.random.default_rng(3)
    counts = draw.multinomial(60, np.full(60, 1 / 60), size=20)
    found = PairResamples(data["pair_scores"], counts.T).spearman(data["pair_cosines"])
    for of_set, value in zip(counts, found, strict=True):
        drawn = np.repeat(np.arange(60), of_set)
        sides = (np.array(data[name])[drawn] for name in ("pair_cosines", "pair_scores"))
        assert value == pytest.approx(100 * stats.spearmanr(*sides).statistic)
    constant = PairResamples([0.0, 1.0], np.ones((2, 1), dtype=int)).spearman([1.0, 1.0])
    assert math.isnan(constant[0])


def test_the_interval_is_that_of_a_slow_bootstrap():
    trials = {cell: [trial(cell, seed, noise) for seed in range(2)] for cell, noise in (("a", 2.0), ("b", 1.0))}
    trials["b"].append(trial("b", 7, 50.0))  # a seed that the default does not have
    interval = pair_intervals(trials, "a")["b"]
    counts = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), size=RESAMPLES)
    differences = []
    for of_set in counts:
        drawn = np.repeat(np.arange(60), of_set)
        scores = np.array(trials["a"][0].pair_scores)[drawn]
        means = [
            np.mean([stats.spearmanr(np.array(t.pair_cosines)[drawn], scores).statistic for t in trials[cell][:2]])
            for cell in "ba"
        ]
        differences.append(100 * (means[0] - means[1]))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))


def test_the_interval_holds_the_truth_in_95_of_100_sets_of_pairs():
    """Both cells are equally good by construction, so their true difference is 0."""
    inside = 0
    for study in range(200):
        draw = np.random.default_rng(study)
        quality = draw.normal(size=100)
        sides = [quality + draw.normal(size=100) for _ in range(2)]
        trials = {
            cell: [TrialResult("s", cell, 0, "complete", pair_scores=quality.tolist(), pair_cosines=side.tolist())]
            for cell, side in zip("ab", sides, strict=True)
        }
        interval = pair_intervals(trials, "a")["b"]
        inside += interval.low < 0 < interval.high
    assert 0.9 < inside / 200 < 0.99


def test_a_cell_that_is_not_trained_is_compared_with_all_seeds():
    trained = [trial("a", seed, 1.0) for seed in range(3)]
    start = trial("s", 0, 1.0)
    fixed = pair_intervals({"a": trained, "s": [start]}, "a", fixed=["s"])["s"]
    copies = [TrialResult(**vars(start) | {"seed": seed}) for seed in range(3)]
    assert fixed == pair_intervals({"a": trained, "s": copies}, "a")["s"]
    assert fixed != pair_intervals({"a": trained, "s": [start]}, "a")["s"]


def test_without_the_same_pairs_there_is_no_interval():
    trained = [trial("a", seed, 1.0) for seed in range(2)]
    without = [complete("s", "b", seed, 70.0) for seed in range(2)]
    other = [trial("c", 0, 1.0, pair_scores=[float(i) for i in range(60)])]
    assert pair_intervals({"a": trained, "b": without, "c": other}, "a") == {}
    assert pair_intervals({"a": trained, "b": without}, "b") == {}
    assert pair_intervals({}, "a") == {}


def test_a_report_shows_the_interval_over_pairs():
    study = Study("s", "S", "?", "", [Cell("a"), Cell("b"), Cell("start", options={"baseline": "start"})])
    results = [trial(cell, seed, noise) for cell, noise in (("a", 1.0), ("b", 3.0)) for seed in range(3)]
    analysis = analyse(study, [*results, trial("start", 0, 2.0)])
    heads = [(entry.text, entry.below) for entry in cell_table(analysis).head]
    place = heads.index(("95 % CI", "over pairs"))
    entries = [row[place].text for row in cell_table(analysis).rows]
    interval = analysis.cells[1].over_pairs
    assert entries[0] == "–"
    assert entries[1] == f"[−{-interval.low:.2f}, −{-interval.high:.2f}]"
    assert entries[2].startswith("[")
    assert f"{interval.low},{interval.high}" in summary_csv(analysis)
    heads = [entry.below for entry in cell_table(analyse(study, [complete("s", "a", 0, 70.0)])).head]
    assert "over pairs" not in heads


def test_a_result_is_written_so_that_it_can_be_read():
    result = trial("a", 3, 1.0, spectrum=[2.0, 1.0])
    text = result.as_json()
    assert TrialResult.from_dict(json.loads(text)) == result
    assert len(text.splitlines()) < 40
    with pytest.raises(ValueError, match="have different lengths"):
        TrialResult.from_dict(result.as_dict() | {"pair_scores": [1.0]})
