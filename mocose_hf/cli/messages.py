"""Messages of the command line: the library names Python arguments, and the command line adds the dashes."""

import argparse
import re
from functools import cache
from typing import NoReturn

from mocose_hf.errors import InputError


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are an `InputError`, so that each becomes one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the error with the command that explains the options."""
        raise InputError(f"{message}; see `{self.prog} --help`.")


def add_dashes(message: str) -> str:
    """Return a message with `name` written as --name, if the training command has an option of that name."""
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if found[1] in _option_names() else found[0], message)


@cache
def _option_names() -> frozenset[str]:
    from mocose_hf.cli.parser import build_parser  # loads torch, which only a message needs

    return frozenset(build_parser().actions)
