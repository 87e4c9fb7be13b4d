"""Write docs/command-line.md, the options of `mocose train` by group, from the parser's help.

python tools/write_options.py    # a test fails if the page is older than the parser
"""

from pathlib import Path

from mocose_hf.cli.parser import GROUPS, build_parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "command-line.md"

INTRODUCTION = """# Options of mocose train

`python tools/write_options.py` writes this page from `mocose train --help all`. All other fields of
`transformers.TrainingArguments` are options too ([options.md](options.md)). [method.md](method.md) explains the
options of the method, and [your-own-text.md](your-own-text.md) those of the data.
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
    return "\n".join(lines)


def _without_default(text: str) -> str:
    return text.replace("%(default)s", "").replace(" (default: )", "").replace("%%", "%")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
