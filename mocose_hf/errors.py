"""Errors that a person at the terminal can put right, each in one line."""

import unicodedata
from pathlib import Path

EXIT_STOPPED = 1
"""Exit code if numbers, embeddings or the disk went bad; a run can resume from what it saved before."""

EXIT_BAD_INPUT = 2
"""Exit code for input that cannot be used; nothing was written."""

EXIT_INTERRUPTED = 75
"""Exit code after SIGTERM or SIGINT: all is saved, and the same command with --resume_from_checkpoint true resumes."""

EXIT_CTRL_C = 130
"""Exit code after SIGINT outside training, or after a second one: nothing more was saved."""

_JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji need."""

_LONGEST_REASON = 300
_LONGEST_LINE = 900


def escape_controls(text: str) -> str:
    """Return a text whose characters cannot steer a terminal or reorder others; line feeds stay."""
    return "".join(map(_escaped, text)) if not text.isprintable() else text


def _escaped(character: str) -> str:
    harmless = character.isprintable() or character == "\n" or unicodedata.category(character) == "Zs"
    return character if harmless or character in _JOINERS else character.encode("unicode_escape").decode()


def install_command(extra: str) -> str:
    """Return the command that installs the libraries of an extra, for a checkout or for an installed wheel.

    Args:
        extra: A name under `[project.optional-dependencies]` in pyproject.toml.
    """
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "pyproject.toml").is_file():
        return f"pip install 'mocose_hf[{extra}]'"
    return f"pip install -e '{'.' if checkout == Path.cwd() else checkout}[{extra}]'"


class InputError(ValueError):
    """Say in one line what was given, what is needed and what to do; the command ends with exit code 2.

    The message may quote files, names and models of others, so its control characters are escaped.
    """

    def __init__(self, message: str = ""):
        super().__init__(escape_controls(str(message)))


class TrainingInterrupted(SystemExit):
    """A signal ended training early, and its state was saved. If nobody catches it, the program exits with code 75.

    75 is EX_TEMPFAIL of sysexits.h: nothing is wrong, try again.
    """

    def __init__(self, message: str):
        super().__init__(EXIT_INTERRUPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class CollapseError(RuntimeError):
    """Say that the embeddings collapsed and `stop_on_collapse` stopped the run; the command ends with exit code 1."""


class SaveError(OSError):
    """Say in one line what could not be written, why, and what is safe; the command ends with exit code 1."""


def input_error_line(error: InputError) -> str:
    """Return the one line of the error, which is the last line of a traceback if a DataLoader worker raised it."""
    message = str(error)
    if message.startswith("Caught InputError in DataLoader worker"):
        message = message.rstrip("\n").rpartition("\n")[2].removeprefix(f"{InputError.__module__}.InputError: ")
    return message


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without its full stop, for use inside a sentence."""
    message = escape_controls(" ".join(str(error).split()).rstrip(". ")) or type(error).__name__
    return message if len(message) <= _LONGEST_REASON else f"{message[: _LONGEST_REASON - 1]}…"


def printable(line: str) -> str:
    """Return a line with control characters escaped and cut to a length that can be read, for a terminal."""
    shown = escape_controls(line).replace("\n", "\\n")
    return shown if len(shown) <= _LONGEST_LINE else f"{shown[: _LONGEST_LINE - 1]}…"
