"""Make text of unknown content safe to print and to open in a spreadsheet."""

import re

from mocose_hf.errors import escape_controls

_FORMULA_STARTS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What makes a spreadsheet take a cell for a formula, also in full width."""


def visible(text: str) -> str:
    """Return a text on one line, with characters escaped that would steer a terminal or change the order of others."""
    return escape_controls(re.sub(r"[\t\n\v\f\r]+", " ", text).strip())


def spreadsheet_cell(value: object) -> object:
    """Return a value for CSV such that no spreadsheet runs it: a text that begins a formula gets a ' in front."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
