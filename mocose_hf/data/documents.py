"""Take the running text out of files: text, Markdown, HTML, PDF and tables."""

import glob
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from mocose_hf.data.readers import iterate_lines, read_rows
from mocose_hf.errors import InputError, install_command, one_line

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")

_HTML_BLOCKS = [
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "li",
    "td",
    "th",
    "dd",
    "dt",
    "blockquote",
    "figcaption",
    "summary",
]
_HTML_SKIPPED = [
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "nav",
    "header",
    "footer",
    "form",
    "button",
    "pre",
]
_HTML_INLINE = {
    "a", "abbr", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd",
    "label", "mark", "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
}  # fmt: skip
"""Elements that may stand inside a word; all others end it."""


def find_documents(inputs: Iterable[str]) -> list[Path]:
    """Return the files of folders (recursively), patterns and paths, each once, in a fixed order.

    Raises:
        InputError: If an input names no file, or a file named outright has a suffix that is not read.
    """
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            paths = [file for file in sorted(path.rglob("*")) if file.is_file() and _suffix(file) in READERS]
        elif path.is_file():
            if _suffix(path) not in READERS:
                raise InputError(f"inputs: {entry} is none of {', '.join(READERS)}; convert it.")
            paths = [path]
        else:
            matches = sorted(map(Path, glob.glob(entry, recursive=True)))
            paths = [file for file in matches if file.is_file() and _suffix(file) in READERS]
        if not paths:
            raise InputError(f"inputs: {entry} names no file that can be read ({', '.join(READERS)}); check the path.")
        found |= dict.fromkeys(paths)
    return list(found)


def read_blocks(path: Path, text_column: str = "text") -> Iterator[str]:
    """Read a file's paragraphs, headings, list items or rows as one-line texts, without markup or code blocks.

    Lines of a .txt file are joined to paragraphs if it has blank lines; otherwise each line is a text of its own.

    Args:
        path: The file.
        text_column: The column of the texts in a table.

    Raises:
        InputError: If it cannot be read, or the library for it is missing.
    """
    try:
        for block in READERS[_suffix(path)](path, text_column):
            if text := " ".join(block.split()):
                yield text
    except ImportError as error:
        raise InputError(f"{path}: reading it needs {error.name}; run: {install_command('prepare')}") from error


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else (suffixes or [""])[-1]


def _read_text(path: Path, text_column: str) -> Iterator[str]:
    lines = list(iterate_lines(path))
    while lines and not lines[-1].strip():
        lines.pop()
    if all(line.strip() for line in lines):
        yield from lines
        return
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        else:
            yield " ".join(paragraph)
            paragraph = []


def _read_markdown(path: Path, text_column: str) -> Iterator[str]:
    from markdown_it import MarkdownIt

    text = "\n".join(iterate_lines(path))
    if text.startswith("---\n"):  # front matter
        text = text.partition("\n---")[2].partition("\n")[2]
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "inline":
            yield "".join(_inline_text(child) for child in token.children or [])


def _inline_text(token) -> str:
    if token.type in ("text", "code_inline"):
        return token.content
    return " " if token.type in ("softbreak", "hardbreak") else ""


def _read_html(path: Path, text_column: str) -> Iterator[str]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(_read_bytes(path), "html.parser")
    for tag in soup(_HTML_SKIPPED):
        tag.decompose()
    for tag in soup(lambda tag: tag.name not in _HTML_INLINE):
        tag.insert_before("\n")
        tag.append("\n")
    blocks = soup(_HTML_BLOCKS)
    if not blocks:
        yield from soup.get_text().split("\n")
    for block in blocks:  # each text belongs to the innermost block around it
        yield "".join(text for text in block.strings if text.find_parent(_HTML_BLOCKS) is block)


def _read_bytes(path: Path) -> bytes:
    """Return the bytes of a page, whose encoding the parser finds out."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: it cannot be read ({one_line(error)}); leave it out.") from error


def _read_pdf(path: Path, text_column: str) -> Iterator[str]:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        for page in PdfReader(path).pages:
            for paragraph in page.extract_text().split("\n\n"):
                yield paragraph.replace("-\n", "")
    except (PyPdfError, OSError, ValueError) as error:
        raise InputError(f"{path}: it is no readable PDF ({one_line(error)}); leave it out.") from error


def _read_table(path: Path, text_column: str) -> Iterator[str]:
    return (row.text for row in read_rows(path, text_column) if row.text)


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_text,
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
    **dict.fromkeys(TABLES, _read_table),
}
"""By suffix; each but .pdf may be gzipped and named .gz."""
