"""The console command `mocose`: it finds the subcommand and imports no more than that."""

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from mocose_hf.errors import EXIT_BAD_INPUT, printable
from mocose_hf.version import __version__

COMMANDS = {
    "prepare": ("mocose_hf.cli.prepare:main", "make a training file of documents"),
    "train": ("mocose_hf.cli.train:main", "train a sentence encoder, then score and save it"),
    "evaluate": ("mocose_hf.cli.evaluate:main", "score an encoder on development sets and tasks"),
    "export": ("mocose_hf.cli.export:main", "write the plain encoder of a trained model for other libraries"),
    "merge": ("mocose_hf.cli.merge:main", "average the weights of an encoder and one trained from it"),
    "report": ("mocose_hf.cli.report:main", "write the page of a run, or of several side by side"),
    "search": ("mocose_hf.cli.search:main", "find the texts of a file that mean what a query says"),
    "demo": ("mocose_hf.cli.demo:main", "search a file and compare sentences in the browser"),
    "completion": ("mocose_hf.cli.completion:main", "print a script that completes commands in your shell"),
    "study": ("mocose_hf.study.cli:main", "compare recipes over several seeds, with error bars"),
}
"""The function of each subcommand, as `module:function`, and its help; a new subcommand is one more line."""


def main() -> NoReturn:
    """Run a subcommand and end the process: the entry point of the installed command."""
    code = dispatch(sys.argv[1:])
    if "torch" not in sys.modules:
        sys.exit(code)
    from mocose_hf.parallel.collectives import end_process

    end_process(code)


def dispatch(arguments: Sequence[str]) -> int:
    """Run a subcommand and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(format_help())
        return 0
    name, *rest = arguments
    if name == "--version":
        print(f"mocose {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name[:99], COMMANDS, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"choose one of {', '.join(COMMANDS)}."
        sys.stderr.write(f"mocose: {printable(name[:99])}: no such command; {hint}\n")
        return EXIT_BAD_INPUT
    return load_command(name)(rest, program=f"mocose {name}")


def load_command(name: str) -> Callable[..., int]:
    """Import the function of a subcommand, which takes the arguments and the program's name."""
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(import_module(module), function)


def format_help() -> str:
    """Return the help of `mocose`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mocose COMMAND [arguments]",
            "",
            "Train sentence embeddings on unlabelled text by momentum contrast (MoCoSE, arXiv 2202.13093).",
            "",
            "commands:",
            *lines,
            "",
            "`mocose COMMAND --help` explains a command.",
        ]
    )
