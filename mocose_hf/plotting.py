"""How figures look and how they are saved: without pyplot, so that no window and no state of the caller is touched."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mocose_hf.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

# Okabe & Ito's colours, told apart under every common colour blindness, with grey for yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

INK, FAINT = "#333333", "#E3E3E3"


def line_style(number: int) -> dict[str, str]:
    """Return colour and dashes of a line; neighbours differ in both, so that they are told apart in grey too."""
    turns = number + number // len(COLOURS)
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[turns % len(DASHES)]}


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches.

    Raises:
        InputError: Where matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib: pip install 'mocose_hf[evaluation]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(figure: "Figure", *place: int, **options) -> "Axes":
    """Return new axes of a figure, where and with what `add_subplot` takes."""
    axes = figure.add_subplot(*place, **options)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(which="both", color=INK, labelcolor=INK)
    return axes


def write_as_it_is(text, name: str) -> None:
    """Show a name in a text of matplotlib as it is, whatever marks it holds."""
    text.set_parse_math(False)
    text.set_text(name)


def check_suffix(path: str | Path) -> str:
    """Return how the name of a file of a figure ends, in small letters.

    Raises:
        InputError: Where it is none of `SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: the name should end in {' or '.join(SUFFIXES)}; rename it.")
    return suffix


def figure_bytes(figure: "Figure", suffix: str) -> bytes:
    """Return the content of a figure's file, the same for the same figure."""
    import matplotlib

    # No date, version or random name in the file: the same numbers give the same bytes.
    metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mocose_hf"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks, in an encoder's name
        figure.savefig(content, format=suffix[1:], dpi=200, metadata=metadata)
    return content.getvalue()


def save_figure(figure: "Figure | None", path: str | Path) -> bool:
    """Write a figure into a .png or .svg file, the same bytes for the same figure; return whether there is one.

    Raises:
        InputError: Where the name ends otherwise.
    """
    suffix = check_suffix(path)
    if figure is None:
        return False
    Path(path).write_bytes(figure_bytes(figure, suffix))
    return True
