"""What a person at the terminal can put right."""

_LONGEST_REASON = 300


class InputError(ValueError):
    """Say in one line what was given, what is needed and what to do; the command ends with exit code 2."""


def input_error_line(error: InputError) -> str:
    """Return the one line of the error, which stands at the end of a traceback where a DataLoader worker raised it."""
    message = str(error)
    if message.startswith("Caught InputError in DataLoader worker"):
        message = message.rstrip("\n").rpartition("\n")[2].removeprefix(f"{InputError.__module__}.InputError: ")
    return message


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without its full stop, for use inside a sentence."""
    message = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
    return message if len(message) <= _LONGEST_REASON else f"{message[: _LONGEST_REASON - 1]}…"
