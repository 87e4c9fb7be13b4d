"""Make text of unknown content safe to print and to open in a spreadsheet."""

import re
import unicodedata

_JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji need."""

_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What makes a spreadsheet take a cell for a formula, also in full width."""


def visible(text: str) -> str:
    """Return a text on one line, with characters escaped that would steer a terminal or change the order of others."""
    return "".join(_visible(character) for character in re.sub(r"[\t\n\v\f\r]+", " ", text).strip())


def spreadsheet_cell(value: object) -> object:
    """Return a value for CSV such that no spreadsheet runs it: a text that begins a formula gets a ' in front."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _is_number(text) else text


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
