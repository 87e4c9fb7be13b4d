"""`mocose export`: write the plain encoder of a model, also as ONNX, with int8 weights or as a static model."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.train import guard, prepare_process
from mocose_hf.errors import InputError, escape_controls

DESCRIPTION = """Write the plain encoder of a model with its pooling, tokenizer and settings.

SentenceTransformer, AutoModel and pipeline("feature-extraction") load the result without mocose_hf.

  --to onnx    also writes onnx/model.onnx, for onnxruntime
  --to int8    also writes onnx/model_int8.onnx: a quarter of the size, for CPUs
  --to static  writes a model2vec model instead: one vector a token, no transformer

With a measure, such as --label_file, it prints scores, size and speed before and after.
"""

TARGETS = ("onnx", "int8", "static")

_ELSEWHERE = {
    "openvino": "optimum-intel, which writes it, does not allow the transformers that this package needs; export the "
    'plain encoder and load it in another environment by SentenceTransformer(directory, backend="openvino")',
    "binary": "it is a form of embeddings, not of an encoder; export the plain encoder and call "
    'SentenceTransformer(directory).encode(texts, precision="ubinary")',
}
"""Forms that other libraries have, and how to get them."""

_MEASURES = ("label_file", "retrieval_file", "validation_file")


def build_parser(program: str = "mocose export") -> argparse.ArgumentParser:
    """Build the parser of `mocose export`."""
    parser = CommandParser(program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Output directory of `mocose train`, another model directory, or a hub id.")
    parser.add_argument("directory", help="Directory to write; must be new or empty.")
    parser.add_argument(
        "--to", type=_target, choices=TARGETS, help="Another form of the encoder (default: the plain one alone)."
    )
    parser.add_argument("--label_file", nargs="+", help="Files with columns label and text, to compare by.")
    parser.add_argument("--retrieval_file", nargs="+", help="Files with columns query and text, to compare by.")
    parser.add_argument("--validation_file", help="Pairs with a score, to compare by.")
    parser.add_argument("--model_revision", help="Branch, tag or commit of a model on the hub.")
    parser.add_argument("--cache_dir", help="Directory for downloaded models.")
    return parser


def _target(name: str) -> str:
    if name in _ELSEWHERE:
        raise argparse.ArgumentTypeError(f"{name}: {_ELSEWHERE[name]}")
    return name


def main(argv: Sequence[str] | None = None, program: str = "mocose export") -> int:
    """Export a model and return the exit code: 0, 2 for bad input, 1 if the disk failed."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: _export(build_parser(program).parse_args(argv)), program)


def validate_new_directory(path: str) -> Path:
    """Return a directory to write, or raise an `InputError` if it exists and is not empty."""
    directory = Path(path)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory}: exists and is not an empty directory; name another.")
    return directory


def _export(arguments: argparse.Namespace) -> None:
    directory = validate_new_directory(arguments.directory)
    measured = any(getattr(arguments, name) for name in _MEASURES)
    if measured and arguments.to is None:
        raise InputError(f"a measure compares the forms of an encoder; give --to, one of {', '.join(TARGETS)}.")
    prepare_process()
    _validate_libraries(arguments.to)
    from mocose_hf.cli.factory import build_plain, load_start
    from mocose_hf.cli.output_dir import saving
    from mocose_hf.export.sentence_encoder import export_sentence_encoder

    development = _read_development(arguments) if measured else None
    source, tokenizer = load_start(arguments.model, revision=arguments.model_revision, cache_dir=arguments.cache_dir)
    if arguments.to == "static" and source.dense is not None:
        raise InputError(
            f"{arguments.model}: has a dense layer behind its pooling, such as whitening, which a static model cannot "
            "keep; give --to onnx or --to int8."
        )
    model = build_plain(arguments.model, source)
    size = sum(parameter.nbytes for parameter in model.mocose.parameters())
    rows = [_measure("before", model.mocose, tokenizer, development)] if measured else []
    with saving(str(directory), remedy="mend the cause, such as a full disk, and repeat the command"):
        if arguments.to == "static":
            exported, written = _write_static(model, tokenizer, directory)
        else:
            export_sentence_encoder(model, tokenizer, directory)
            exported, written = _write_onnx(arguments.to, model.mocose, directory)
    if measured:
        rows.append(_measure(arguments.to, exported, tokenizer, development))
        _print_comparison(rows, [size, written.stat().st_size])
    kind = {None: "Plain encoder", "static": "Static model"}.get(arguments.to, f"Plain encoder with {written.name}")
    print(escape_controls(f"{kind}: {directory}"))


def _validate_libraries(target: str | None) -> None:
    if target in ("onnx", "int8"):
        from mocose_hf.export.onnx_model import validate_libraries

        validate_libraries()
    elif target == "static":
        from mocose_hf.export.static_model import validate_libraries

        validate_libraries()


def _read_development(arguments: argparse.Namespace):
    from mocose_hf.cli.options import read_options
    from mocose_hf.cli.scoring import read_development

    values = {name: getattr(arguments, name) for name in _MEASURES}
    return read_development(read_options({"model_name_or_path": arguments.model, **values}))


def _write_onnx(target: str | None, model, directory: Path):
    """Write the ONNX files that the target needs; return the model that runs the last one, and its path."""
    if target is None:
        return model, directory
    import torch

    from mocose_hf.export.onnx_model import INT8_FILE, ONNX_FILE, OnnxEncoder, write_int8, write_onnx

    path = directory / ONNX_FILE
    write_onnx(model.encoder, path)
    if target == "int8":
        path = directory / INT8_FILE
        write_int8(directory / ONNX_FILE, path)
        (directory / ONNX_FILE).unlink()
    model.encoder = OnnxEncoder(path, threads=torch.get_num_threads())
    return model, path


def _write_static(model, tokenizer, directory: Path):
    """Distil and write a static model; return it, and the path of its weights."""
    import tempfile

    from mocose_hf.export.sentence_encoder import export_sentence_encoder
    from mocose_hf.export.static_model import StaticEncoder

    with tempfile.TemporaryDirectory() as plain:
        static = StaticEncoder.distil(export_sentence_encoder(model, tokenizer, plain))
    static.save(directory)
    return static, directory / "model.safetensors"


def _measure(name: str, model, tokenizer, development) -> tuple[str, dict[str, float], float]:
    """Return the name, the scores and the seconds that embedding and scoring took."""
    from mocose_hf.evaluation.development import score_sets

    start = time.perf_counter()
    scores = score_sets(model, tokenizer, development, show_progress_bar=sys.stderr.isatty())
    return name, scores, time.perf_counter() - start


def _print_comparison(rows: list[tuple[str, dict[str, float], float]], sizes: list[int]) -> None:
    from mocose_hf.evaluation.score_tables import text_table
    from mocose_hf.evaluation.weight_curve import main_metrics, metric_title

    metrics = main_metrics(list(rows[0][1]), None)
    body = [
        [name, *(f"{scores[metric]:.2f}" for metric in metrics), f"{size / 1e6:.2f}", f"{rows[0][2] / seconds:.1f}"]
        for (name, scores, seconds), size in zip(rows, sizes, strict=True)
    ]
    print(text_table(("Scores × 100", ["", *map(metric_title, metrics), "MB", "speed ratio"], body)))
