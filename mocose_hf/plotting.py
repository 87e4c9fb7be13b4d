"""Create, style and save figures without pyplot, so that the caller's windows and state stay untouched."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mocose_hf.errors import InputError, install_command
from mocose_hf.files import validate_suffix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

# Okabe and Ito's colours, distinct under all common colour blindness; grey replaces yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

INK, FAINT = "#333333", "#E3E3E3"


Style: TypeAlias = dict[str, Any]
"""Options of a line or a text, as matplotlib takes them."""


def line_style(number: int) -> Style:
    """Return colour and dashes of a line; neighbours differ in both, so that they are distinct in grey too."""
    turns = number + number // len(COLOURS)
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[turns % len(DASHES)]}


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches.

    Raises:
        InputError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"plots need matplotlib: {install_command('evaluation')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(figure: "Figure", *place: int, **options) -> "Axes":
    """Return new axes of a figure; arguments as `add_subplot` takes them."""
    axes = figure.add_subplot(*place, **options)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    return axes


def set_literal_text(text, name: str) -> None:
    """Set a matplotlib text to a name literally, even if it has dollar signs."""
    text.set_parse_math(False)
    text.set_text(name)


def figure_bytes(figure: "Figure", suffix: str) -> bytes:
    """Return the content of a figure's file; equal figures give equal bytes."""
    import matplotlib

    # Without date, version and random names, so that equal figures give equal bytes.
    metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mocose_hf"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # missing in the font, in an encoder's name
        figure.savefig(content, format=suffix[1:], dpi=200, metadata=metadata)
    return content.getvalue()


def save_figure(figure: "Figure | None", path: str | Path) -> bool:
    """Write a figure into a .png or .svg file, and return whether there is a figure.

    Raises:
        InputError: If the name has another suffix.
    """
    suffix = validate_suffix(path, SUFFIXES)
    if figure is None:
        return False
    Path(path).write_bytes(figure_bytes(figure, suffix))
    return True
