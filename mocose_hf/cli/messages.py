"""Messages of the command line: the library names Python arguments, and the command line adds the dashes."""

import re
from functools import cache


def add_dashes(message: str) -> str:
    """Return a message with `name` written as --name, if the training command has an option of that name."""
    names = _option_names()
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if found[1] in names else found[0], message)


@cache
def _option_names() -> frozenset[str]:
    from mocose_hf.cli.parser import build_parser  # loads torch, which only a message needs

    return frozenset(build_parser().actions)
