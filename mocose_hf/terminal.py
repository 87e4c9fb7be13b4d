"""Colours on a terminal."""

import os
from typing import TextIO

_CODES = {"green": "32", "yellow": "33", "bold": "1"}


def can_show_colours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal with colours, and NO_COLOR (https://no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Return a text in green, yellow or bold if the stream can show it, else the text as it is.

    Args:
        text: The text, whose control characters are escaped.
        colour: green, yellow, bold, or "" for none.
        stream: Where the text will be written.
    """
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and can_show_colours(stream) else text
