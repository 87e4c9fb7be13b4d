"""Read the code blocks, inline code and links of the documents."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from builders import REPOSITORY

PAGES = sorted([path for pattern in ("*.md", "docs/*.md", "skills/*/*.md") for path in REPOSITORY.glob(pattern)])
"""All documents but the pages of the API reference, which hold directives only."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Args:
        language: The word after the fence, "" if there is none.
        code: The lines between the fences.
        mark: The comment on the line before, such as "not run: it needs the hub".
        line: The number of its first line.
    """

    language: str
    code: str
    mark: str
    line: int

    @property
    def runs(self) -> bool:
        """Whether a test has to run the block."""
        return not self.mark.startswith("not run: ")


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a document."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["language"].strip(), m["code"], m["mark"] or "", text[: m.start("code")].count("\n") + 1)
        for m in _BLOCK.finditer(text)
    ]


def read_prose(page: Path) -> str:
    """Return a document without its fenced blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """Return the inline code of a document."""
    return re.findall(r"`([^`\n]+)`", read_prose(page))


def shell_commands(code: str) -> list[list[str]]:
    """Return the words of each command of a shell block, without comments, ellipses and variables set before it."""
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = [word for word in shlex.split(part, comments=True) if word not in ("…", "...")]
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words:
                commands.append(words)
    return commands


def anchors(page: Path) -> set[str]:
    """Return the anchors of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", read_prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
