"""`mocose search`: find the texts of a file that mean what a query says."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.train import guard
from mocose_hf.errors import printable

DESCRIPTION = """Search a file by meaning.

The first search embeds all texts and keeps the embeddings beside the model; later ones open them again, as long as
model and file are the same. Without a query, queries are read from the terminal or from standard input, one a line.
"""


def build_parser(program: str = "mocose search") -> argparse.ArgumentParser:
    """Return the parser of `mocose search`."""
    parser = CommandParser(program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="An output directory of `mocose train`, a model directory or a hub id.")
    parser.add_argument(
        "corpus",
        help="A .txt (one text a line), .csv, .tsv, .jsonl or .parquet file; also .gz, or a pattern in quotes.",
    )
    parser.add_argument("query", nargs="*", help="What to search for; several words are one query.")
    parser.add_argument("--text_column", default="text", help="The column of the texts (default: text).")
    parser.add_argument("--top_k", type=positive, default=10, help="Results per query (default: 10).")
    parser.add_argument("--json", action="store_true", help="Print one JSON object per query.")
    parser.add_argument("--exact", action="store_true", help="Compare with every text even if there is a graph index.")
    parser.add_argument("--index_dir", help="The folder of the index (default: beside the model).")
    parser.add_argument("--batch_size", type=positive, default=128, help="Texts per forward (default: 128).")
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose search") -> int:
    """Run the command and return its exit code, as `mocose_hf.cli.train.main` does."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: search(build_parser(program).parse_args(argv)), program)


def search(options: argparse.Namespace) -> None:
    """Open or build the index and answer the queries, until the reader of the output has seen enough."""
    try:
        _answer(options)
    except BrokenPipeError:  # as of `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def silence_transformers() -> None:
    """Show neither bars of loading nor reports of weights that sentence embeddings do not need."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


def _answer(options: argparse.Namespace) -> None:
    from mocose_hf.search.corpus import open_corpus

    silence_transformers()
    encoder, index, is_new = open_corpus(
        options.model,
        options.corpus,
        text_column=options.text_column,
        index_dir=options.index_dir,
        exact=options.exact,
        batch_size=options.batch_size,
        show_progress=sys.stderr.isatty(),
    )
    if is_new:
        sys.stderr.write(f"Indexed {len(index):,} texts.\n")
    for query in [" ".join(options.query)] if options.query else _read_queries():
        hits = index.search(encoder.encode([query], ("query",)), options.top_k, options.exact)[0]
        if options.json:
            print(json.dumps({"query": query, "results": [vars(hit) for hit in hits]}, ensure_ascii=False), flush=True)
        else:
            for hit in hits:
                print(f"{hit.score:6.3f}  {printable(hit.text)}", flush=True)


def _read_queries() -> Iterator[str]:
    is_terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("query> ") if is_terminal else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            return
        if not line and not is_terminal:
            return
        if line.strip():
            yield line.strip()


def positive(text: str) -> int:
    """Return the whole number above 0 that an option has."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
