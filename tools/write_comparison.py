"""Write the table of docs/compare.md from docs/compare.yaml, which has the evidence for each cell.

python tools/write_comparison.py    # a test fails if the table is older than the evidence
"""

from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "compare.md"
COLUMNS = {
    "ours": "mocose_hf",
    "sentence_transformers": "sentence-transformers 6.2",
    "simcse": "SimCSE's code",
    "authors": "MoCoSE's code",
    "trl": "trl",
}
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def read_comparison() -> dict:
    """Return the sources and rows of docs/compare.yaml."""
    return yaml.safe_load((DOCS / "compare.yaml").read_text(encoding="utf-8"))


def render_table() -> str:
    """Return the table in Markdown; a cell about another repository links to the file at the commit."""
    comparison = read_comparison()
    lines = [f"| | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in comparison["rows"]:
        cells = [_link(row[column], comparison["sources"].get(column)) for column in COLUMNS]
        lines.append(f"| {row['feature']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _link(cell: dict, source: dict | None) -> str:
    if source is None or cell["cell"] == "–":
        return cell["cell"]
    path, _, commit = cell["at"].partition("@")
    return f"[{cell['cell']}](https://github.com/{source['repository']}/blob/{commit}/{path})"


def render() -> str:
    """Return the page with the table of the evidence."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + render_table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
