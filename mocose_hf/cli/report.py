"""`mocose report`: the page of a run, or of several side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.train import guard
from mocose_hf.errors import InputError, one_line, printable


def build_parser(program: str = "mocose report") -> argparse.ArgumentParser:
    """Return the parser of `mocose report`."""
    parser = CommandParser(
        program,
        description="Write report.html: scores, curves, nearest texts before and after, data and settings of a run. "
        "Several runs are put side by side.",
    )
    parser.add_argument("output_dirs", nargs="+", help="Output directories of finished trainings.")
    parser.add_argument(
        "-o",
        "--output",
        help="What to write (default: report.html in the directory; comparison.html if several).",
    )
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose report") -> int:
    """Run the command and return its exit code, as `mocose_hf.cli.train.main` does."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: report(build_parser(program).parse_args(argv)), program)


def report(options: argparse.Namespace) -> None:
    """Read the runs, write their page and print their verdicts.

    Raises:
        InputError: If a folder is not the output directory of a finished run, or the page cannot be written.
    """
    from mocose_hf.report.run_page import PAGE_FILE, read_run, write_page

    runs = [read_run(folder) for folder in options.output_dirs]
    for run, folder in zip(runs, options.output_dirs, strict=True):
        run.name = folder
    is_one = len(runs) == 1
    path = Path(options.output or (Path(options.output_dirs[0]) / PAGE_FILE if is_one else "comparison.html"))
    try:
        write_page(runs, path)
    except OSError as error:
        raise InputError(f"output: {path} cannot be written ({one_line(error)}); give another.") from error
    for run in runs:
        print(printable(run.verdict if is_one else f"{run.name}: {run.verdict}"))
    print(printable(f"Page: {path}"))
