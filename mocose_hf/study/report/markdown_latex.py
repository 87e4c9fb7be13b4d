"""A study in Markdown and in LaTeX: its tables, and the notes below them."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from mocose_hf.study.analysis.analysis import Analysis
from mocose_hf.study.report.interpretation import answer, notes, trial_notes
from mocose_hf.study.report.run_settings import settings_sentence
from mocose_hf.study.report.tables import Table, cell_table, study_table
from mocose_hf.study.study import printable_line
from mocose_hf.templates import escaping_environment


def _greek(letter: str) -> str:
    name = unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda")
    return name if letter.islower() else name.capitalize()


_JOINER = "\u2060"

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "[": "{[}",  # otherwise it becomes an argument of the line break before it
    "*": "{*}",
    _JOINER: "{}",
    "/": r"/\allowbreak{}",  # otherwise a path is wider than the page
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"${mark}$" for mark in "<>|"},
    '"': "''",
    **dict(zip("“”‘’–—…", ["``", "''", "`", "'", "--", "---", r"\ldots{}"], strict=True)),
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "·": r"$\cdot$",
    "−": "$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "¼": r"$\frac{1}{4}$",
    "½": r"$\frac{1}{2}$",
    "¾": r"$\frac{3}{4}$",
    "²": "$^2$",
    "³": "$^3$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    **{letter: f"$\\{_greek(letter)}$" for letter in "αβγδζηθικλμνξπρστυχψωΓΔΘΛΞΠΣΦΨΩ"},
    "ε": r"$\varepsilon$",
    "φ": r"$\varphi$",
}
"""LaTeX for special characters, in text and without packages."""

_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327"
"""Accents that pdflatex can set without a package."""

_LETTERS = "ÆæŒœØøßŁł"

_LONGEST_NAME = 30
"""Characters of the longest name that stays on one line."""


@dataclass(frozen=True)
class _Part:
    """A table and the sentences below it."""

    table: Table
    sentences: Sequence[str]

    @property
    def name_column(self) -> Markup:
        """The LaTeX type of the first column, which wraps long names."""
        return Markup("p{4.5cm}" if max(len(row[0].text) for row in self.table.rows) > _LONGEST_NAME else "l")


def study_markdown(analysis: Analysis) -> str:
    """Return a study in GitHub's Markdown: title, question, answer, tables, notes and settings."""
    template = _markdown_environment().get_template("study.md")
    parts = _parts(analysis, settings_sentence(analysis))
    return template.render(study=analysis.study, answer=answer(analysis), parts=parts)


def markdown_table(table: Table) -> str:
    """Return a table in GitHub's Markdown; the default is in bold."""
    module: Any = _markdown_environment().get_template("tables.md").module
    return str(module.table(table))


def study_latex(analysis: Analysis) -> str:
    """Return a study as LaTeX table environments, for UTF-8 input and the packages booktabs and graphicx."""
    label = "tab:" + re.sub("[^A-Za-z0-9]+", "-", analysis.study.name)
    parts = _parts(analysis, settings_sentence(analysis, shorten=True))
    return _latex_environment().get_template("study.tex").render(study=analysis.study, label=label, parts=parts)


def latex_table(table: Table) -> str:
    """Return a table as a LaTeX tabular environment with the rules of booktabs; the default is in bold."""
    module: Any = _latex_environment().get_template("tables.tex").module
    return str(module.table(table, _Part(table, ()).name_column))


def _parts(analysis: Analysis, settings: str) -> list[_Part]:
    """Return the main table of a study with its notes, and for a grid also the table of its cells."""
    table = study_table(analysis)
    sentences = [*trial_notes(analysis), *table.legend, *notes(analysis), *([settings] if settings else [])]
    parts = [_Part(table, sentences)]
    if analysis.has_columns:
        cells = cell_table(analysis)
        parts.append(_Part(cells, cells.legend))
    return parts


@lru_cache
def _markdown_environment() -> Environment:
    return escaping_environment(__package__, _markdown)


@lru_cache
def _latex_environment() -> Environment:
    # LaTeX uses braces and per cent signs itself.
    return escaping_environment(
        __package__,
        latex,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )


def latex(text: str) -> str:
    """Return text as LaTeX source that pdflatex accepts without further packages.

    Special characters and Greek letters become commands. Accented Latin letters stay; other letters lose their
    accents. Any other character is shown as its code point.
    """
    text = re.sub("-(?=-)", f"-{_JOINER}", " ".join(text.split()))  # otherwise two hyphens become a dash
    return "".join(map(_latex_character, unicodedata.normalize("NFC", text)))


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character in _LETTERS or (character.isascii() and character.isprintable()):
        return character
    letter, *accents = list(unicodedata.normalize("NFD", character))
    if letter.isascii() and letter.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS:
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (
        "".join(_LATEX.get(mark, mark) for mark in plain)
        if plain.strip() and plain.isprintable()
        else f"[U+{ord(character):04X}]"
    )


def _markdown(text: str) -> str:
    """Return text on one line, with the special characters of Markdown escaped."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", printable_line(" ".join(text.split())))
