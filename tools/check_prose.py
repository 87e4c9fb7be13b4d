"""Count habits that make the project hard to read, in documents, docstrings, comments and messages.

    python tools/check_prose.py [--limit 10] [--list]

Fails if there are more than `--limit` of them. CONTRIBUTING.md has the rules.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = (
    "*.md",
    "docs/**/*.md",
    "skills/**/*.md",
    ".github/**/*.md",
    "configs/**/*.yaml",
    "mocose_hf/recipes/*.yaml",
)
CODE = ("*.py", "mocose_hf/**/*.py", "benchmarks/*.py", "examples/*.py", "tools/*.py", "docs/**/*.py")

LONGEST_SENTENCE = 35
HABITS = {
    'sentence that begins with "Where"': r"(?:^|[.!?:;]\s+|\n\s*\n\s*)Where\b(?![^.]*\?)",
    '"where" for "if"': r"\bwhere (?:there|it|they|no(?:ne|t|thing)?|neither|that is|an?|one) "
    r"|\b(?:none|false|true|0) where\b",
    '"is refused"': r"\b(?:is|are|be|being) refused\b",
    '"goes on from"': r"\b(?:go|goes|going|went) on from\b",
    '"on end"': r"\bon end\b",
    '"is said"': r"\b(?:is|are|be) said\b",
    '"hangs on"': r"\bhangs? on\b",
    '"told apart"': r"\b(?:tell|told|tells)\b[^.]{0,40}\bapart\b",
    '"noise floor"': r"\bnoise floors?\b",
    '"passed over"': r"\bpassed over\b",
    '"what is to be"': r"\bwhat (?:is|are) to be\b",
    '"one\'s own"': r"\bof one's own\b",
}


def document_text(path: Path) -> str:
    """Return a document without code blocks, tables, HTML comments and inline code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return "\n".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    text = re.sub(r"```.*?```|<!--.*?-->", "\n\n", text, flags=re.DOTALL)
    text = re.sub(r"^\s*\|.*$|^#.*$|^ {4,}\S.*$", "\n", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def code_texts(path: Path) -> Iterator[str]:
    """Return docstrings, other strings and comments of a module."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
    comments = [
        t.string.lstrip("# ")
        for t in tokenize.generate_tokens(io.StringIO(source).readline)
        if t.type == tokenize.COMMENT
    ]
    yield "\n".join(comments)


def sentences(text: str) -> Iterator[str]:
    """Return the sentences of a document; list items and paragraphs end one."""
    for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s+", text):
        yield from re.split(r"(?<=[.!?:;])\s+", " ".join(block.split()))


def find_habits() -> Iterator[tuple[str, Path, str]]:
    """Return each finding: the habit, the file and the words around it."""
    for path in sorted({path for pattern in DOCUMENTS for path in REPOSITORY.glob(pattern)}):
        text = document_text(path)
        yield from ((habit, path, words) for habit, words in _matches(text))
        for sentence in sentences(text):
            if len(sentence.split()) > LONGEST_SENTENCE:
                yield f"sentence of more than {LONGEST_SENTENCE} words", path, sentence[:100]
    for path in sorted({path for pattern in CODE for path in REPOSITORY.glob(pattern)} - {Path(__file__)}):
        for text in code_texts(path):
            yield from ((habit, path, words) for habit, words in _matches(text))


def _matches(text: str) -> Iterator[tuple[str, str]]:
    for habit, pattern in HABITS.items():
        for match in re.finditer(pattern, text, re.IGNORECASE if habit != next(iter(HABITS)) else 0):
            yield habit, " ".join(text[max(0, match.start() - 30) : match.end() + 50].split())


def main() -> int:
    """Print the counts and return 1 if there are too many."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--limit", type=int, default=10, help="How many findings are still accepted.")
    parser.add_argument("--list", action="store_true", help="Print each finding with its file.")
    options = parser.parse_args()
    findings = list(find_habits())
    if options.list:
        for habit, path, words in findings:
            print(f"{path.relative_to(REPOSITORY)}: {habit}: {words}")
    for habit, count in Counter(habit for habit, _, _ in findings).most_common():
        print(f"{count:5}  {habit}")
    print(f"{len(findings):5}  in all; at most {options.limit} are accepted")
    return int(len(findings) > options.limit)


if __name__ == "__main__":
    sys.exit(main())
