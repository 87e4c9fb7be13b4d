"""Draw the figure of the method: docs/images/method.svg.

    python tools/draw_method.py

The figure brings its own background, so it is legible on a light and on a dark page.
"""

from pathlib import Path

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "method.svg"

WIDTH, HEIGHT = 1040, 420
ONLINE, TARGET, QUEUE = 120, 250, 360
"""Middle of each row."""

STYLE = """
  .page { fill: #ffffff; stroke: #d0d7de; }
  text { font: 15px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328; }
  .small { font-size: 13px; fill: #59636e; }
  .name { font-weight: 600; }
  .middle { text-anchor: middle; }
  .online { fill: #ddf4ff; stroke: #0969da; }
  .target { fill: #f6f8fa; stroke: #59636e; stroke-dasharray: 5 3; }
  .shared { fill: #fff8c5; stroke: #9a6700; }
  .loss { fill: #ffebe9; stroke: #cf222e; }
  .queue { fill: #dafbe1; stroke: #1a7f37; }
  .arrow { fill: none; stroke: #1f2328; stroke-width: 1.6; }
  .average { stroke: #59636e; stroke-dasharray: 5 3; }
  .head { fill: #1f2328; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #3d444d; }
    text { fill: #f0f6fc; }
    .small { fill: #9198a1; }
    .online { fill: #12263f; stroke: #4493f8; }
    .target { fill: #212830; stroke: #9198a1; }
    .shared { fill: #2f2a12; stroke: #d29922; }
    .loss { fill: #3a1d20; stroke: #f85149; }
    .queue { fill: #122d1b; stroke: #3fb950; }
    .arrow { stroke: #f0f6fc; }
    .average { stroke: #9198a1; }
    .head { fill: #f0f6fc; }
  }
"""


def box(x: int, y: float, width: int, height: int, kind: str, *lines: str) -> str:
    """Draw a box around its left edge `x` and middle `y`, with one or more lines of text."""
    parts = [f'<rect class="{kind}" x="{x}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="6"/>']
    first = y + 5 - 9 * (len(lines) - 1)
    parts += [label(x + width / 2, first + 18 * i, line, "middle") for i, line in enumerate(lines)]
    return "\n".join(parts)


def label(x: float, y: float, text: str, classes: str = "") -> str:
    """Write text on a base line."""
    return f'<text class="{classes}" x="{x:g}" y="{y:g}">{text}</text>'


def arrow(path: str, classes: str = "") -> str:
    """Draw an arrow along an SVG path."""
    return f'<path class="arrow {classes}" d="{path}" marker-end="url(#head)"/>'


def draw() -> str:
    """Return the figure as SVG."""
    loss_x = 905
    columns = {"encoder": (320, 100), "pool": (448, 56), "pooler": (532, 72), "projection": (632, 96)}
    parts = [
        f'<rect class="page" x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="8"/>',
        box(20, (ONLINE + TARGET) / 2, 92, 44, "target", "sentence"),
        box(190, (ONLINE + TARGET) / 2, 96, TARGET - ONLINE + 50, "shared", "shared", "embedding", "layer"),
        arrow(f"M 112 {(ONLINE + TARGET) / 2 - 8} C 150 {(ONLINE + TARGET) / 2 - 8} 140 {ONLINE} 186 {ONLINE}"),
        arrow(f"M 112 {(ONLINE + TARGET) / 2 + 8} C 150 {(ONLINE + TARGET) / 2 + 8} 140 {TARGET} 186 {TARGET}"),
        label(100, ONLINE + 4, "dropout", "small"),
        label(100, TARGET + 4, "dropout", "small"),
        label(320, 42, "online branch: trained by gradient", "name"),
        label(320, TARGET + 48, "target branch: no gradient", "name"),
        label(320, TARGET + 66, "moving average of the online branch", "small"),
    ]
    for row, kind in ((ONLINE, "online"), (TARGET, "target")):
        end = 286
        for name, (x, width) in columns.items():
            parts += [arrow(f"M {end} {row} H {x - 4}"), box(x, row, width, 44, kind, name)]
            end = x + width
        if kind == "online":
            parts += [arrow(f"M {end} {row} H 756"), box(760, row, 88, 44, kind, "predictor")]
            end = 848
        parts.append(arrow(f"M {end} {row} H {loss_x - 4}"))
    for x, width in (columns[name] for name in ("encoder", "pooler", "projection")):
        middle = x + width / 2
        parts.append(arrow(f"M {middle:g} {ONLINE + 22} V {TARGET - 26}", "average"))
        parts.append(label(middle + 7, (ONLINE + TARGET) / 2 + 5, "EMA η", "small"))
    parts += [
        arrow(f"M 476 {ONLINE - 22} V {ONLINE - 44} H 500"),
        label(506, ONLINE - 40, "sentence embedding, what users get", "small"),
        label(866, ONLINE - 10, "q", "name"),
        label(866, TARGET - 10, "k", "name"),
        label(866, QUEUE - 10, "n", "name"),
        box(
            loss_x,
            (ONLINE + QUEUE) / 2,
            116,
            QUEUE - ONLINE + 50,
            "loss",
            "InfoNCE, τ",
            "",
            "q near k,",
            "q far from",
            "other keys",
            "and from n",
        ),
        arrow(f"M 834 {TARGET} V {QUEUE - 27}"),
        label(742, TARGET + 44, "after the step", "small"),
        arrow(f"M 848 {QUEUE} H {loss_x - 4}"),
    ]
    cells = 7
    parts += [
        f'<rect class="queue" x="{820 - 32 * i}" y="{QUEUE - 22}" width="28" height="44" rx="4"/>'
        for i in range(cells)
    ]
    parts += [
        label(820, QUEUE + 42, "newest", "small middle"),
        label(642, QUEUE + 42, "oldest", "small middle"),
        label(320, QUEUE + 5, "queue: the K newest keys", "name"),
    ]
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path class="head" d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>'
    )
    title = "MoCoSE: an online branch gives queries, a target branch keys, and a queue of past keys the negatives"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            head,
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(draw(), encoding="utf-8")
