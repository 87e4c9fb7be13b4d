"""Plot MRR@10 over CPU seconds from results/pairs: python benchmarks/plot_time_to_quality.py [FILE.svg]."""

import csv
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mocose_hf.plotting import figure_bytes, new_axes, new_figure  # noqa: E402

START = 65.13
TFIDF = 65.85
GREY = "#808080"  # readable on white and on black
STYLES = {
    "pairs": ("--recipe pairs, batch 64", "#D55E00", "o"),
    "mnrl": ("MultipleNegativesRankingLoss, batch 64", "#2B8CD0", "s"),
    "cached": ("CachedMultipleNegativesRankingLoss, batch 512", "#009E73", "^"),
}


def read_points(path: Path) -> dict[str, dict[float, list[float]]]:
    """Return the test scores of all seeds by loss and by CPU seconds, from the rows marked `plotted`."""
    points = defaultdict(lambda: defaultdict(list))
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["set"] == "test" and row["plotted"] == "yes":
                points[row["loss"]][float(row["charged_seconds"])].append(float(row["mrr10"]))
    return points


def main(target: str = str(ROOT / "docs/images/time-to-quality.svg")) -> None:
    """Write the figure."""
    figure = new_figure(6.4, 3.6)
    figure.patch.set_alpha(0.0)
    axes = new_axes(figure, 1, 1, 1)
    axes.patch.set_alpha(0.0)
    axes.axhline(TFIDF, color=GREY, linestyle=":", linewidth=1.2)
    axes.annotate(
        "TF-IDF, characters 3-5",
        (1.0, TFIDF),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        color=GREY,
        fontsize=8,
    )
    for loss, by_seconds in read_points(ROOT / "results/pairs/runs.csv").items():
        label, colour, marker = STYLES[loss]
        seconds = [0.0, *sorted(by_seconds)]
        scores = [START, *(mean(by_seconds[s]) for s in seconds[1:])]
        dashes = "-" if len(seconds) > 2 else "--"  # nothing was measured on the way
        axes.plot(seconds, scores, color=colour, marker=marker, linestyle=dashes, label=label)
        for s in seconds[1:]:
            axes.scatter([s] * len(by_seconds[s]), by_seconds[s], color=colour, marker=marker, s=10, alpha=0.5)
    axes.set_xlabel("CPU seconds of training, one thread", color=GREY)
    axes.set_ylabel("MRR@10, name → summary", color=GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=GREY, grid_color=GREY, grid_alpha=0.25)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.18))
    Path(target).write_bytes(figure_bytes(figure, ".svg"))


if __name__ == "__main__":
    main(*sys.argv[1:])
