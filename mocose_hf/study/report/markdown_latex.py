"""A study in Markdown and in LaTeX, its table and what is to be said below it."""

import re
import unicodedata
from collections.abc import Sequence

from mocose_hf.study.analysis.analysis import Analysis
from mocose_hf.study.plain_text import visible
from mocose_hf.study.report.interpretation import notes
from mocose_hf.study.report.run_settings import settings_sentence
from mocose_hf.study.report.tables import Entry, Table, cell_table, study_table


def _greek(letter: str) -> str:
    name = unicodedata.name(letter).rpartition(" ")[2].lower().replace("lamda", "lambda")
    return name if letter.islower() else name.capitalize()


_JOINER = "\u2060"

_LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "[": "{[}",  # or it is an argument of the line's end before it
    "*": "{*}",
    _JOINER: "{}",
    "/": r"/\allowbreak{}",  # or a path is wider than the page
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
"""What stands for a mark in LaTeX, in text and with no package."""

_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u030c\u0327"
"""Accents over or under a letter that pdflatex sets in its first font."""

_LETTERS = "ÆæŒœØøßŁł"

_LONGEST_NAME = 30
"""Characters of a name that stay on one line."""


def study_markdown(made: Analysis) -> str:
    """Return a study in GitHub's Markdown: title, question, tables, notes and settings."""
    source = f" ({_markdown(made.study.source)})" if made.study.source else ""
    blocks = [f"## {_markdown(made.study.title)}{source}", _markdown(made.study.question)]
    for table, sentences in _tables(made, settings_sentence(made)):
        blocks += [markdown_table(table), "\n".join(f"* {_markdown(line)}" for line in sentences)]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table in GitHub's Markdown; the default is in bold."""
    lines = [
        [_markdown_entry(entry) for entry in table.head],
        ["---", *["---:"] * (len(table.head) - 1)],
        *([_markdown_entry(entry) for entry in row] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def study_latex(made: Analysis) -> str:
    """Return a study as table environments of LaTeX, for UTF-8 input and the packages booktabs and graphicx."""
    study = made.study
    source = f" ({latex(study.source)})" if study.source else ""
    captions = [f"{latex(study.title)}{source}. {latex(study.question)}", f"{latex(study.title)}: each cell."]
    label = re.sub("[^A-Za-z0-9]+", "-", study.name)
    lines = [r"% The preamble needs \usepackage[utf8]{inputenc}, \usepackage{booktabs} and \usepackage{graphicx}."]
    tables = _tables(made, settings_sentence(made, shortened=True))
    for (table, sentences), caption, ending in zip(tables, captions, ("", "-cells"), strict=False):
        lines += _environment(table, sentences, caption, f"tab:{label}{ending}")
    return "\n".join(lines) + "\n"


def _tables(made: Analysis, settings: str) -> list[tuple[Table, list[str]]]:
    """Return the table of a study and, of a grid, that of its cells with their tests, each with what stands below."""
    table = study_table(made)
    tables = [(table, [*table.legend, *notes(made), *([settings] if settings else [])])]
    if made.has_columns:
        cells = cell_table(made)
        tables.append((cells, list(cells.legend)))
    return tables


def _environment(table: Table, sentences: Sequence[str], caption: str, label: str) -> list[str]:
    return [
        r"\begin{table}[htbp]",
        r"\centering",
        f"\\caption{{{caption}}}",
        f"\\label{{{label}}}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",  # made narrower, never wider
        *latex_table(table).splitlines(),
        "}",
        "",
        r"\medskip",
        r"\begin{minipage}{\linewidth}",
        r"\sloppy",
        *(f"{latex(line)}\\par" for line in sentences),
        r"\end{minipage}",
        r"\end{table}",
    ]


def latex_table(table: Table) -> str:
    """Return a table as a tabular environment of LaTeX with the rules of booktabs; the default is in bold."""
    lines = [
        f"\\begin{{tabular}}{{{_name_column(table)}{'r' * (len(table.head) - 1)}}}",
        r"\toprule",
        *_latex_lines(table.head),
        r"\midrule",
        *(line for row in table.rows for line in _latex_lines(row)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def latex(text: str) -> str:
    """Return a text as LaTeX shows it, in what pdflatex takes without a further package.

    Marks and Greek letters are set by commands, accented Latin letters stay, other letters lose their accents, and
    what then is still no ASCII is named by its code point.
    """
    text = re.sub("-(?=-)", f"-{_JOINER}", " ".join(text.split()))  # or two hyphens are set as one dash
    return "".join(map(_latex_character, unicodedata.normalize("NFC", text)))


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character in _LETTERS or (character.isascii() and character.isprintable()):
        return character
    letter, *accents = unicodedata.normalize("NFD", character)
    if letter.isascii() and letter.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS:
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (
        "".join(_LATEX.get(mark, mark) for mark in plain)
        if plain.strip() and plain.isprintable()
        else f"[U+{ord(character):04X}]"
    )


def _name_column(table: Table) -> str:
    """Return the kind of the first column, whose names are broken into lines where one is long."""
    return r"p{4.5cm}" if max(len(row[0].text) for row in table.rows) > _LONGEST_NAME else "l"


def _latex_lines(row: Sequence[Entry]) -> list[str]:
    """Return a row, and in a smaller hand what stands below its entries."""
    lines = [_latex_line(row)]
    if any(entry.below for entry in row):
        below = (f"{{\\scriptsize {latex(entry.below)}}}" if entry.below else "" for entry in row)
        lines.append(" & ".join(below) + r" \\[1pt]")
    return lines


def _latex_line(row: Sequence[Entry]) -> str:
    texts = (f"\\textbf{{{latex(entry.text)}}}" if entry.is_default else latex(entry.text) for entry in row)
    return " & ".join(texts) + r" \\"


def _markdown_entry(entry: Entry) -> str:
    text = _markdown(entry.text)
    text = f"**{text}**" if entry.is_default and text else text
    return f"{text}<br>{_markdown(entry.below)}" if entry.below else text


def _markdown(text: str) -> str:
    """Return a text on one line, with what Markdown takes for marks escaped."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", visible(" ".join(text.split())))
