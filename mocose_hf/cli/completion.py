"""`mocose completion`: a script that lets a shell complete commands and options."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mocose_hf.cli.main import COMMANDS
from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.train import guard
from mocose_hf.errors import InputError, install_command
from mocose_hf.recipes import RECIPES

SHELLS = ("bash", "zsh", "fish")

DESCRIPTION = """Print a script that lets your shell complete commands, options and file names.

  bash:  mocose completion bash > ~/.local/share/bash-completion/completions/mocose
  zsh:   mocose completion zsh > a file _mocose in a folder of $fpath
  fish:  mocose completion fish > ~/.config/fish/completions/mocose.fish

Create the folder first if it is missing, and write the script again after an update. A completion starts no Python.
"""

_FILE_WORDS = ("file", "dir", "path", "output", "model", "corpus", "folder", "encoder", "runs", "sources")
"""Words in the names of arguments that take files or folders."""


def build_parser(program: str = "mocose completion") -> argparse.ArgumentParser:
    """Return the parser of `mocose completion`."""
    parser = CommandParser(program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shell", choices=SHELLS, help="The shell.")
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose completion") -> int:
    """Run the command and return its exit code, as `mocose_hf.cli.train.main` does."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: print(completion_script(build_parser(program).parse_args(argv).shell)), program)


def completion_script(shell: str) -> str:
    """Return the script for a shell.

    Args:
        shell: One of `SHELLS`.

    Raises:
        InputError: If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise InputError(f"completion needs shtab; run {install_command('completion')}.") from error
    return shtab.complete(whole_parser(), shell)


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser with a subparser for each command, whose actions name the files that shtab should offer."""
    from shtab import FILE

    parser = argparse.ArgumentParser("mocose")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, (function, summary) in COMMANDS.items():
        module = import_module(function.partition(":")[0])
        if not hasattr(module, "build_parser"):  # `train` and `evaluate` share theirs
            module = import_module("mocose_hf.cli.parser")
        known = module.build_parser(f"mocose {name}")
        command = commands.add_parser(name, help=summary, parents=[known], add_help=not known.add_help)
        for action in command._actions:
            _complete(action, FILE)
    return parser


def _complete(action: argparse.Action, file) -> None:
    """Leave one spelling of an option, and offer files if it takes some."""
    if action.dest == "recipe":
        action.choices = list(RECIPES)
    spelt = [option for option in action.option_strings if "-" not in option.lstrip("-")]
    action.option_strings = spelt or action.option_strings
    if isinstance(action, argparse._SubParsersAction):
        for part in {id(parser): parser for parser in action.choices.values()}.values():
            for nested in part._actions:
                _complete(nested, file)
    elif action.nargs != 0 and action.choices is None and set(action.dest.split("_")) & set(_FILE_WORDS):
        action.complete = file  # type: ignore[attr-defined]
