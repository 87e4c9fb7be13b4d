"""`mocose prepare`: make a training file of documents."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.train import guard
from mocose_hf.errors import InputError, one_line, printable

DESCRIPTION = """Make a training file of documents: folders, patterns or files of .txt, .md, .html, .pdf, .csv, .tsv,
.jsonl and .parquet. Splits them into sentences or passages, drops what is too short, too long, repeated or nearly
repeated, and shows what was dropped and some of what was kept."""


def build_parser(program: str = "mocose prepare") -> argparse.ArgumentParser:
    """Return the parser of `mocose prepare`."""
    parser = CommandParser(program, description=DESCRIPTION)
    parser.add_argument("inputs", nargs="+", help="Folders, patterns such as 'docs/**/*.md', or files.")
    parser.add_argument("-o", "--output", required=True, help="The .parquet or .txt file to write.")
    parser.add_argument("--unit", choices=["sentence", "passage"], default="sentence", help="Default: sentence.")
    parser.add_argument("--text_column", default="text", help="The column of the texts in tables (default: text).")
    parser.add_argument("--language", default="en", help="By whose rules sentences are split (default: en).")
    parser.add_argument("--keep_languages", nargs="+", default=[], help="Codes such as en de; default: all.")
    parser.add_argument("--min_chars", type=int, default=15, help="Shortest text to keep (default: 15).")
    parser.add_argument("--max_chars", type=int, default=1000, help="Longest text to keep (default: 1000).")
    parser.add_argument(
        "--near_duplicates",
        type=_threshold,
        default=0.8,
        help="Similarity from which the later of two texts is dropped, in (0, 1], or none (default: 0.8).",
    )
    parser.add_argument("--sample", type=int, default=20, help="Texts to show (default: 20).")
    parser.add_argument("--overwrite", action="store_true", help="Replace the output file if it exists.")
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose prepare") -> int:
    """Run the command and return its exit code, as `mocose_hf.cli.train.main` does."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: run(build_parser(program).parse_args(argv)), program)


def run(options: argparse.Namespace) -> None:
    """Prepare the texts, write them and print the account.

    Raises:
        InputError: If an input cannot be read, nothing is left, or the output exists.
    """
    from mocose_hf.data.documents import find_documents
    from mocose_hf.data.prepare import prepare

    output = Path(options.output)
    if output.suffix not in (".parquet", ".txt"):
        raise InputError(f"output: {output} is neither .parquet nor .txt; name one of these.")
    if output.exists() and not options.overwrite:
        raise InputError(f"output: {output} exists; give another name or --overwrite.")
    paths = [path for path in find_documents(options.inputs) if path.resolve() != output.resolve()]
    done = prepare(
        paths,
        unit=options.unit,
        text_column=options.text_column,
        language=options.language,
        min_chars=options.min_chars,
        max_chars=options.max_chars,
        languages=options.keep_languages,
        near_duplicates=options.near_duplicates,
    )
    if not done.texts:
        raise InputError(f"inputs: nothing is left of {done.read:,} texts; look at --min_chars and --max_chars.")
    try:
        done.write(output)
    except OSError as error:
        raise InputError(f"output: {output} cannot be written ({one_line(error)}); give another.") from error
    print(f"{len(paths):>10,}  files")
    print(f"{done.read:>10,}  {options.unit}s read")
    for reason, count in done.dropped.most_common():
        print(f"{count:>10,}  dropped: {reason}")
    print(f"{len(done.texts):>10,}  written to {printable(str(output))}")
    if options.sample > 0:
        print("\nSome of them:")
        for text in done.sample(options.sample):
            print(f"  {printable(text)}")


def _threshold(text: str) -> float | None:
    if text.lower() == "none":
        return None
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return number
