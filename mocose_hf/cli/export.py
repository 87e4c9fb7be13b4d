"""`mocose export`: write the plain encoder of a model, which other libraries load without this package."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.train import guard, prepare_process
from mocose_hf.errors import InputError

DESCRIPTION = """Write the plain encoder of a model with its pooling, tokenizer and settings.

Training writes it at the root of its output directory; this command makes it from any model directory.
SentenceTransformer, AutoModel and pipeline("feature-extraction") load the result without mocose_hf.
"""


def build_parser(program: str = "mocose export") -> argparse.ArgumentParser:
    """Build the parser of `mocose export`."""
    parser = CommandParser(program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Output directory of `mocose train`, another model directory, or a hub id.")
    parser.add_argument("directory", help="Directory to write; must be new or empty.")
    parser.add_argument("--model_revision", help="Branch, tag or commit of a model on the hub.")
    parser.add_argument("--cache_dir", help="Directory for downloaded models.")
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose export") -> int:
    """Export a model and return the exit code: 0, 2 for bad input, 1 if the disk failed."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: _export(argv, program), program)


def _export(argv: list[str], program: str) -> None:
    arguments = build_parser(program).parse_args(argv)
    directory = validate_new_directory(arguments.directory)
    prepare_process()
    from mocose_hf.cli.factory import build_plain, load_start
    from mocose_hf.cli.output_dir import saving
    from mocose_hf.export.sentence_encoder import export_sentence_encoder

    source, tokenizer = load_start(arguments.model, revision=arguments.model_revision, cache_dir=arguments.cache_dir)
    model = build_plain(arguments.model, source)
    with saving(str(directory), remedy="mend the cause, such as a full disk, and repeat the command"):
        export_sentence_encoder(model, tokenizer, directory)
    print(f"Plain encoder: {directory}")


def validate_new_directory(path: str) -> Path:
    """Return a directory to write, or raise an `InputError` if it exists and is not empty."""
    directory = Path(path)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: exists and is not an empty directory; name another.")
    return directory
