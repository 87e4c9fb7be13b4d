"""Check for libraries of extras, which not every evaluation needs."""

import importlib.util

from mocose_hf.errors import InputError, install_command


def has_sklearn() -> bool:
    """Return whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


def validate_sklearn(purpose: str) -> None:
    """Check that scikit-learn is installed.

    Args:
        purpose: What needs it, such as "V-measure".

    Raises:
        InputError: With the command that installs it.
    """
    if not has_sklearn():
        raise InputError(f"{purpose} needs scikit-learn, which is not installed; run {install_command('evaluation')}.")


def validate_sentence_transformers(purpose: str) -> None:
    """Check that sentence-transformers is installed; otherwise as `validate_sklearn`."""
    if importlib.util.find_spec("sentence_transformers") is None:
        command = install_command("sentence-transformers")
        raise InputError(f"{purpose} needs sentence-transformers, which is not installed; run {command}.")
