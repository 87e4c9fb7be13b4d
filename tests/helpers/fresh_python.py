"""Run code in a fresh interpreter, to see what it imports."""

import subprocess
import sys

HEAVY = ("datasets", "evaluate", "pandas", "scipy", "sklearn", "torch._dynamo", "transformers.trainer")
"""Modules that take seconds to import and that no help, no list and no public name should need."""


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(code: str) -> set[str]:
    """Return the names of all modules that a fresh interpreter has imported after the code."""
    return set(run_python(f"{code}\nimport sys; print(); print(*sys.modules)").splitlines()[-1].split())
