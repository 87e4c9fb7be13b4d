"""What a person at the terminal can put right, each told in one line."""

_LONGEST_REASON = 300


class InputError(ValueError):
    """Say in one line what was given, what is needed and what to do; the command ends with exit code 2."""


class CollapseError(RuntimeError):
    """Say that the embeddings collapsed and `stop_on_collapse` stopped the run; the command ends with exit code 1."""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without its full stop, for use inside a sentence."""
    message = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
    return message if len(message) <= _LONGEST_REASON else f"{message[: _LONGEST_REASON - 1]}…"
