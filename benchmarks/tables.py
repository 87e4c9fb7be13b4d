"""Ratios within rounds, and Markdown tables of them."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from variants import QUEUE_SIZE, THROUGHPUTS, Variant

from mocose_hf.evaluation.score_tables import Table, markdown_table

Figures = dict[str, list[dict[str, float]]]
"""The measurements of each variant, by round."""

NOT_MEASURED = "–"

_RATES = ("per_second", "per_cpu_second")


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median and, with more than one value, minimum and maximum."""
    median = format(statistics.median(values), form)
    return f"{median} ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else median


def ratios(figures: Figures, name: str, base: str, what: str) -> list[float]:
    """Return the ratio of a metric to that of the base in each round; empty if the base was not measured."""
    return [own[what] / its[what] for own, its in zip(figures[name], figures.get(base, []), strict=base in figures)]


def report(figures: Figures, batch_size: int, on_gpu: bool = False) -> str:
    """Return all tables that have measurements, each below a line that describes it."""
    seconds = "s per step" if on_gpu else "CPU s per step"
    names = [name for name in figures if name not in THROUGHPUTS]
    steps = [name for name in names if not _is_sized(name)]
    queues = [name for name in names if Variant.parse(name).queue_size]
    batches = [name for name in names if Variant.parse(name).batch_size and name not in queues]
    tables = [
        step_table(figures, steps, seconds, on_gpu),
        queue_table(figures, queues, seconds),
        batch_table(figures, batches, seconds, batch_size),
        throughput_table(figures, [name for name in THROUGHPUTS if name in figures]),
    ]
    return "\n\n".join(markdown_table(table) for table in tables if table[2])


def step_table(figures: Figures, names: Sequence[str], seconds: str, on_gpu: bool) -> Table:
    """Compare steps with sentence-transformers' one, with the released one and with the floor."""
    header = ["variant", seconds, "over mnrl", "over released", "over GEMM floor", "peak GB", "over mnrl"]
    header += ["TFLOP/s as if padded", "launches per step"] * on_gpu
    rows = []
    for name in names:
        bases = [Variant.parse(name).base(recipe) for recipe in ("mnrl", "released", "gemm_floor")]
        row = [f"`{name}`", spread(_values(figures[name], "seconds"), ".3f")]
        row += [_ratio(figures, name, base, "seconds") for base in bases]
        row += [spread(_values(figures[name], "memory_gb")), _ratio(figures, name, bases[0], "memory_gb")]
        if on_gpu:
            first = figures[name][0]
            speeds = [one["flops"] / one["seconds"] / 1e12 for one in figures[name]] if "flops" in first else []
            row.append(spread(speeds, ".1f") if speeds else NOT_MEASURED)
            row.append(spread(_values(figures[name], "launches"), ".0f") if "launches" in first else NOT_MEASURED)
        rows.append(row)
    return "Training step; each ratio is to the variant of the same precision:", header, rows


def queue_table(figures: Figures, names: Sequence[str], seconds: str) -> Table:
    """Compare queues of several sizes with the usual one."""
    rows = []
    for name in names:
        base = replace(Variant.parse(name), queue_size=None).name
        row = [f"`{name}`", spread(_values(figures[name], "seconds"), ".3f"), _ratio(figures, name, base, "seconds")]
        row += [spread(_values(figures[name], "memory_gb")), _ratio(figures, name, base, "memory_gb")]
        rows.append(row)
    over = f"over K={QUEUE_SIZE}"
    return "Size of the queue, full from the start:", ["variant", seconds, over, "peak GB", over], rows


def batch_table(figures: Figures, names: Sequence[str], seconds: str, batch_size: int) -> Table:
    """Compare steps with sentence-transformers' one of the same batch size, the usual size among them."""
    usual = {replace(Variant.parse(name), batch_size=None).name for name in names}
    rows = {}
    for name in [name for name in figures if name in usual] + list(names):
        variant, rounds = Variant.parse(name), figures[name]
        sentences = variant.batch_size or batch_size
        row = [f"`{name}`", str(sentences), spread(_values(rounds, "seconds"), ".3f")]
        row.append(spread([1000 * one["seconds"] / sentences for one in rounds], ".1f"))
        row += [_ratio(figures, name, variant.base("mnrl"), what) for what in ("seconds", "memory_gb")]
        rows[name] = (sentences, row)
    header = ["variant", "B", seconds, "ms per sentence", "over mnrl", "peak memory over mnrl"]
    in_order = [row for _, row in sorted(rows.values(), key=lambda sized: sized[0])]
    return "Size of the batch:", header, in_order


def throughput_table(figures: Figures, names: Sequence[str]) -> Table:
    """Compare loaders and encoders, each with the first of its kind."""
    bases = {"loading_2_workers": "loading", "encoding": "encoding_file_order"}
    rows = []
    for name in names:
        row = [f"`{name}`"] + [spread(_values(figures[name], what), ",.0f") for what in _RATES]
        rows.append(row + [_ratio(figures, name, bases.get(name, name), what) for what in _RATES])
    header = ["variant", "sentences per s", "sentences per CPU s", "over plain, per s", "over plain, per CPU s"]
    return "Around training:", header, rows


def _is_sized(name: str) -> bool:
    variant = Variant.parse(name)
    return variant.queue_size is not None or variant.batch_size is not None


def _values(rounds: Sequence[dict[str, float]], what: str) -> list[float]:
    return [one[what] for one in rounds]


def _ratio(figures: Figures, name: str, base: str, what: str) -> str:
    found = ratios(figures, name, base, what)
    return spread(found) if found else NOT_MEASURED
