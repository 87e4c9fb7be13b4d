"""`mocose report`: the page of a run, or of several side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mocose_hf.errors import EXIT_BAD_INPUT, InputError, one_line, printable


def build_parser(program: str = "mocose report") -> argparse.ArgumentParser:
    """Return the parser of `mocose report`."""
    parser = argparse.ArgumentParser(
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


def main(arguments: Sequence[str] | None = None, program: str = "mocose report") -> int:
    """Run the command and return its exit code."""
    options = build_parser(program).parse_args(arguments)
    from mocose_hf.report.run_page import PAGE_FILE, read_run, write_page

    try:
        runs = [read_run(folder) for folder in options.output_dirs]
        for run, folder in zip(runs, options.output_dirs, strict=True):
            run.name = folder
        is_one = len(runs) == 1
        path = Path(options.output or (Path(options.output_dirs[0]) / PAGE_FILE if is_one else "comparison.html"))
        write_page(runs, path)
    except (InputError, OSError) as error:
        sys.stderr.write(f"{program}: {printable(one_line(error))}\n")
        return EXIT_BAD_INPUT
    for run in runs:
        print(printable(run.verdict if is_one else f"{run.name}: {run.verdict}"))
    print(printable(f"Page: {path}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
