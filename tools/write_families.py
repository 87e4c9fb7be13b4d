"""Write the table of docs/families.md, what each family of encoders can do, by trying it on tiny models.

python tools/write_families.py    # tests/models/test_decoders.py fails if the table is older than the code
"""

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- table by tools/write_families.py -->\n", "<!-- end of table -->"


def render() -> str:
    """Return the table in Markdown."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    from abilities import ABILITIES, find_abilities
    from builders import write_tokenizer
    from decoders import DECODERS
    from families import FAMILIES

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = write_tokenizer(Path(folder))
    lines = [f"| family | {' | '.join(ABILITIES)} |", "|---" * (len(ABILITIES) + 1) + "|"]
    lines += [f"| {' | '.join([family, *find_abilities(family, tokenizer)])} |" for family in (*FAMILIES, *DECODERS)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    start, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(start + BEGIN + render() + END + rest.split(END)[1], encoding="utf-8")
