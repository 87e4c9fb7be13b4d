"""Line charts as SVG for a page, in the page's own colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 12, 10, 28
_DASHES = ("", "6 4", "2 3", "8 3 2 3")
_MARKS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Line:
    """A line of a chart in pixels.

    Args:
        name: For the legend.
        path: The `d` of an SVG path; with a gap for each missing value.
        points: x, y in pixels, and the text that a pointer shows.
        dashes: `stroke-dasharray`, so that lines differ without colour.
        mark: The shape of its points.
        colour: The number of its colour in the page's style.
    """

    name: str
    path: str
    points: list[tuple[float, float, str]]
    dashes: str
    mark: str
    colour: int


@dataclass(frozen=True)
class Chart:
    """A chart in pixels.

    Args:
        title: What it shows.
        note: How to read it.
        lines: Its lines.
        x_ticks, y_ticks: Pixel and label of each tick.
        summary: The chart in words, for who cannot see it.
    """

    title: str
    note: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    summary: str


def line_chart(title: str, series: Mapping[str, Sequence[tuple[float, float]]], note: str = "") -> Chart | None:
    """Lay out lines over steps.

    Args:
        title: What the chart shows.
        series: Points (x, y) of each line by name; values that are no finite number are left out.
        note: How to read it.

    Returns:
        The chart, None if there is no point.
    """
    finite = {
        name: [(x, y) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]
        for name, points in series.items()
    }
    finite = {name: points for name, points in finite.items() if points}
    if not finite:
        return None
    xs, ys = zip(*(point for points in finite.values() for point in points), strict=True)
    x_ticks, y_ticks = _ticks(min(xs), max(xs), whole=True), _ticks(min(ys), max(ys))
    x_span = min(*x_ticks, *xs), max(*x_ticks, *xs)
    y_span = min(*y_ticks, *ys), max(*y_ticks, *ys)

    def place_x(x: float) -> float:
        return round(_LEFT + (x - x_span[0]) / ((x_span[1] - x_span[0]) or 1) * (WIDTH - _LEFT - _RIGHT), 1)

    def place_y(y: float) -> float:
        return round(
            HEIGHT - _BOTTOM - (y - y_span[0]) / ((y_span[1] - y_span[0]) or 1) * (HEIGHT - _TOP - _BOTTOM), 1
        )

    lines = []
    for number, (name, points) in enumerate(finite.items()):
        pixels = [(place_x(x), place_y(y), f"{name}, step {x:g}: {y:.4g}") for x, y in points]
        path = " ".join(f"{'L' if place else 'M'}{x},{y}" for place, (x, y, _) in enumerate(pixels))
        style = number % len(_DASHES)
        lines.append(Line(name, path, pixels, _DASHES[style], _MARKS[style], number % 6))
    summary = "; ".join(
        f"{name} from {points[0][1]:.4g} at step {points[0][0]:g} to {points[-1][1]:.4g} at step {points[-1][0]:g}"
        for name, points in finite.items()
    )
    return Chart(
        title,
        note,
        lines,
        [(place_x(tick), f"{tick:g}") for tick in x_ticks],
        [(place_y(tick), f"{tick:.6g}") for tick in y_ticks],
        summary,
    )


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return three to six round numbers from about `low` to about `high`."""
    if low == high:
        return [low]
    rough = (high - low) / 4
    scale = 10 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole and scale <= 1 else (1, 2, 2.5, 5, 10)  # 2.5 steps are no whole number
    step = next(factor * scale for factor in factors if factor * scale >= rough)
    step = max(1.0, step) if whole else step
    first = math.floor(low / step)
    return [round(number * step, 10) for number in range(first, math.ceil(high / step) + 1)]
