"""`mocose demo`: search a file and compare sentences in the browser."""

import argparse
import sys
from collections.abc import Sequence

from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.search import positive, silence_transformers
from mocose_hf.cli.train import guard
from mocose_hf.errors import InputError, one_line


def build_parser(program: str = "mocose demo") -> argparse.ArgumentParser:
    """Return the parser of `mocose demo`."""
    parser = CommandParser(
        program,
        description="Serve a page on this machine alone: search a file by meaning and compare two sentences, with one "
        "encoder or with the start and the trained one side by side.",
    )
    parser.add_argument("model", help="An output directory of `mocose train`, a model directory or a hub id.")
    parser.add_argument(
        "corpus",
        help="A .txt (one text a line), .csv, .tsv, .jsonl or .parquet file; also .gz, or a pattern in quotes.",
    )
    parser.add_argument("--start", help="A second encoder to compare with, such as the one the training began with.")
    parser.add_argument("--text_column", default="text", help="The column of the texts (default: text).")
    parser.add_argument("--top_k", type=positive, default=10, help="Results per query (default: 10).")
    parser.add_argument("--port", type=int, default=7860, help="The port; 0 for any free one (default: 7860).")
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose demo") -> int:
    """Serve the page until Ctrl-C and return the exit code, as `mocose_hf.cli.train.main` does."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: serve(build_parser(program).parse_args(argv)), program)


def serve(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: If a model or the file cannot be read, or the port cannot be used.
    """
    try:
        server = build_server(options)
    except (OSError, OverflowError) as error:
        raise InputError(f"port: {options.port} cannot be used ({one_line(error)}); give another.") from error
    print(f"Open {server.url} in a browser; end with Ctrl-C.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def build_server(options: argparse.Namespace):
    """Load the encoders, open their indexes and return the server.

    Raises:
        InputError: If a model or the file cannot be read.
        OSError, OverflowError: If the port is in use or no port.
    """
    from mocose_hf.search.corpus import open_corpus
    from mocose_hf.search.demo import DemoServer, Engine

    silence_transformers()
    engines = []
    for name in filter(None, (options.start, options.model)):
        progress = sys.stderr.isatty()
        encoder, index, _ = open_corpus(name, options.corpus, options.text_column, show_progress=progress)
        engines.append(Engine(name, encoder, index))
    return DemoServer(engines, options.port, options.top_k)
