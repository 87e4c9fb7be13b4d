"""Write report.html: what a run did to the encoder, in one page without scripts or outside files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mocose_hf.errors import InputError
from mocose_hf.evaluation.score_tables import measure_label
from mocose_hf.files import read_json_object, write_text
from mocose_hf.report.charts import Chart, line_chart
from mocose_hf.report.neighbours import Neighbours
from mocose_hf.templates import html_environment

PAGE_FILE = "report.html"
RECORD_FILE = "run_record.json"
"""What `read_run` reads of a run beside its log."""

_STATE_FILE, _QUEUE_FILE = "trainer_state.json", "queue_monitor.jsonl"


@dataclass
class Run:
    """A finished run.

    Args:
        name: What to call it.
        metric: The development measure that chose the checkpoint, such as `dev_spearman`; "" for none.
        greater_is_better: Whether more of it is better.
        scores: What was scored (start, baselines, best, last), and its figures × 100 by name.
        settings: The options that define the training.
        data: One line on the training text.
        lengths: How many sentences have how many tokens: upper bound of the bin and count.
        command: The command.
        versions: Of the libraries.
        log: The trainer's log.
        queue: The records of the queue monitor.
        neighbours: Of some texts, before and after.
    """

    name: str
    metric: str = ""
    greater_is_better: bool = True
    scores: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    settings: dict[str, object] = field(default_factory=dict)
    data: str = ""
    lengths: list[tuple[int, int]] = field(default_factory=list)
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    log: list[dict] = field(default_factory=list)
    queue: list[dict] = field(default_factory=list)
    neighbours: list[Neighbours] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One sentence: what the training did to the development score."""
        by_name = dict(self.scores)
        kept = next((row for row in reversed(self.scores) if row[0].startswith(("best", "last"))), None)
        start = by_name.get("start", {}).get(self.metric)
        score = None if kept is None else kept[1].get(self.metric)
        if start is None or score is None:
            return (
                "There is no development score of start and result, so nothing tells whether the encoder got better."
            )
        change, label = score - start, measure_label(self.metric)
        figures = f"{label} {start:.2f} → {score:.2f} ({change:+.2f})"
        if change == 0:
            return f"No checkpoint scored better than the start, which was kept: {label} {start:.2f}."
        is_better = (change > 0) == self.greater_is_better
        checkpoint = kept[0].replace(", ", " checkpoint, ")
        weak = "; a weak measure, made of the training text" if "dev_from_text" in self.metric else ""
        return f"The encoder got {'better' if is_better else 'worse'}: {figures} at the {checkpoint}{weak}."

    @property
    def queue_ages(self) -> list[dict]:
        """The ages of the queue's rows by step, as the queue monitor recorded them."""
        quantiles = ((entry["step"], entry["age_quantiles"]) for entry in self.queue if entry.get("age_quantiles"))
        return [{"step": step, "median": ages[len(ages) // 2], "oldest": ages[-1]} for step, ages in quantiles]


def write_record(run: Run, output_dir: str | Path) -> None:
    """Write what the page needs beside the log."""
    record = {name: value for name, value in asdict(run).items() if name not in ("log", "queue")}
    write_text(Path(output_dir) / RECORD_FILE, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def read_run(output_dir: str | Path) -> Run:
    """Read a finished run.

    Raises:
        InputError: If the folder is not the output directory of a finished run.
    """
    folder = Path(output_dir)
    record, state = read_json_object(folder / RECORD_FILE), read_json_object(folder / _STATE_FILE)
    if not record:
        raise InputError(f"{folder}: it has no {RECORD_FILE}; give the output directory of a finished training.")
    try:
        record["neighbours"] = [Neighbours(**entry) for entry in record.get("neighbours", [])]
        run = Run(**record)
    except TypeError as error:
        raise InputError(f"{folder / RECORD_FILE}: it is damaged or of another release; train again.") from error
    run.log = [entry for entry in state.get("log_history", []) if isinstance(entry, dict)]
    run.queue = list(_read_lines(folder / _QUEUE_FILE))
    return run


def write_page(runs: Sequence[Run], path: str | Path) -> None:
    """Write the page of a run, or of several side by side."""
    measures = list(dict.fromkeys(name for run in runs for _, figures in run.scores for name in figures))
    main = [run.metric for run in runs if run.metric in measures]
    measures.sort(key=lambda name: (name not in main, name))
    labels, only_set = _column_labels(measures)
    settings = list(dict.fromkeys(name for run in runs for name in run.settings))
    differing = [name for name in settings if len({str(run.settings.get(name)) for run in runs}) > 1]
    page = (
        html_environment(__package__)
        .get_template("run.html")
        .render(
            runs=runs,
            measures=measures,
            labels=dict(zip(measures, labels, strict=True)),
            only_set=only_set,
            charts=_charts({run.name if len(runs) > 1 else "": run for run in runs}),
            settings=differing if len(runs) > 1 else settings,
        )
    )
    write_text(path, page)


def _column_labels(measures: Sequence[str]) -> tuple[list[str], str]:
    """Return a column's heading for each measure, and the development set if all measures share one, else ""."""
    labels = [measure_label(name) for name in measures]
    sets = {label.rpartition(" (")[2] for label in labels if label.endswith(")")}
    if len(sets) != 1 or not all(label.endswith(")") for label in labels):
        return labels, ""
    return [label.rpartition(" (")[0] for label in labels], sets.pop().removesuffix(")")


def _charts(runs: Mapping[str, Run]) -> list[Chart]:
    """Lay out all curves, a line for each run and quantity."""

    def lines(quantities: Mapping[str, str], source: str = "log") -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for run_name, run in runs.items():
            for key, label in quantities.items():
                values: dict[float, float] = {}
                for entry in getattr(run, source):
                    if key in entry:  # the checkpoint that was kept is scored again at the last step
                        values.setdefault(entry["step"], entry[key])
                found[", ".join(filter(None, (run_name, label)))] = list(values.items())
        return found

    metrics = {f"eval_{run.metric}": measure_label(run.metric) for run in runs.values() if run.metric}
    charts = [
        line_chart("Development score", lines(metrics), "Higher is better, unless the measure is a distance."),
        line_chart("Loss", lines({"loss": "loss"}), "The scale depends on the loss: compare runs of one recipe only."),
        line_chart(
            "Alignment and uniformity",
            lines({"eval_dev_alignment": "alignment", "eval_dev_uniformity": "uniformity"}),
            "Lower is better for both. Uniformity near 0 means that all embeddings are alike.",
        ),
        line_chart(
            "Age of the queue's rows",
            lines({"oldest": "oldest", "median": "median"}, "queue_ages"),
            "Gradient steps since a key was put into the queue.",
        ),
        line_chart(
            "Drift of the queue's keys",
            lines({"key_drift": "cosine"}, "queue"),
            "Cosine of a stored key and the same text encoded now: 1 means that the key is up to date.",
        ),
        line_chart("Traceable distance", lines({"d_trace": "d_trace"}), "How far back keys of the queue reach."),
        line_chart(
            "Spread of queries and keys",
            lines({"query_std": "queries", "key_std": "keys"}),
            "Standard deviation over a batch: 1/√D for D even dimensions.",
        ),
        line_chart(
            "Spread of embeddings",
            lines({"embedding_std": "embeddings"}),
            "Of some training sentences: 1 if they spread evenly. A fall towards 0 is collapse.",
        ),
    ]
    # A single point is no curve, and the table has its figure.
    return [chart for chart in charts if chart is not None and any(len(line.points) > 1 for line in chart.lines)]


def _read_lines(path: Path) -> Iterable[dict]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            yield entry
