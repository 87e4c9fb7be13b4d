"""Write docs/command-line.md: the options of `mocose train` from the parser's help, then those of transformers.

python tools/write_options.py    # a test fails if the page is older than the parser
"""

import textwrap
from pathlib import Path

from mocose_hf.cli.parser import GROUPS, build_parser
from mocose_hf.training.validation.transformers_options import (
    SUPPORTED,
    TRAINER_SUPPORTED,
    TRAINER_UNSUPPORTED,
    UNSUPPORTED,
)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"

INTRODUCTION = """# Options of mocose train

`python tools/write_options.py` writes this page from `mocose train --help all`. [method.md](method.md) explains the
options of the method, [your-own-text.md](your-own-text.md) those of the data, and
[negatives.md](negatives.md) how to choose η, K and the batch.

All fields of `transformers.TrainingArguments` are options too. Each [works](#options-of-transformers-that-work), or
[fails](#options-of-transformers-that-fail) with its name before training.
"""


def render() -> str:
    """Return the page."""
    parser = build_parser("mocose train")
    lines = [INTRODUCTION]
    for title, actions in parser.shown_options().items():
        lines += [f"## {title.capitalize()}", "", f"{GROUPS[title].capitalize()}.", ""]
        lines += ["| option | default | meaning |", "|---|---|---|"]
        for action in actions:
            is_given = action.default not in (None, "", [])
            default = f"`{str(action.default).lower() if isinstance(action.default, bool) else action.default}`"
            meaning = " ".join(_without_default(str(action.help)).replace("|", "\\|").split())
            choices = f" One of {', '.join(f'`{choice}`' for choice in action.choices)}." if action.choices else ""
            lines.append(f"| `--{action.dest}` | {default if is_given else ''} | {meaning}{choices} |")
        lines.append("")
    return "\n".join([*lines, *_transformers_options()])


def _transformers_options() -> list[str]:
    """Return the sections about `TrainingArguments` and `Trainer`."""
    plain = " ".join(name for name, note in sorted(SUPPORTED.items()) if not note)
    noted = {name: note for name, note in SUPPORTED.items() if note}
    arguments = {name: f"works{': ' if note else ''}{note}" for name, note in TRAINER_SUPPORTED.items()}
    arguments |= {name: f"fails: {reason}" for name, reason in TRAINER_UNSUPPORTED.items()}
    return [
        "## Options of transformers that work",
        "",
        "As transformers documents them:",
        "",
        "```text",
        *textwrap.wrap(plain, 118),
        "```",
        "",
        "With a remark:",
        "",
        *_table(noted, "option", "remark"),
        "## Options of transformers that fail",
        "",
        "Any value but the default fails with the reason.",
        "",
        *_table(UNSUPPORTED, "option", "reason"),
        "## Arguments of the trainer",
        "",
        "Those of `transformers.Trainer` that `MoCoSETrainer` accepts from Python ([python.md](python.md)).",
        "",
        *_table(arguments, "argument", ""),
    ]


def _table(rows: dict[str, str], *head: str) -> list[str]:
    names = [f"| `{name}` | {note} |" for name, note in sorted(rows.items())]
    return [f"| {' | '.join(head)} |", "|---|---|", *names, ""]


def _without_default(text: str) -> str:
    return text.replace("%(default)s", "").replace(" (default: )", "").replace("%%", "%")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
