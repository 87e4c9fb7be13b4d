"""`mocose merge`: average the weights of two encoders, and score the averages."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mocose_hf.cli.export import validate_new_directory
from mocose_hf.cli.messages import CommandParser
from mocose_hf.cli.search import positive, silence_transformers
from mocose_hf.cli.train import guard, prepare_process
from mocose_hf.errors import InputError, escape_controls, one_line
from mocose_hf.files import validate_suffix

DESCRIPTION = """Average the weights of an encoder and of one trained from it (WiSE-FT, arXiv 2109.01903).

A weight of 0 is the start and 1 is the trained encoder. A smaller weight keeps more of what the start can do on other
text, and less of the training. Several weights with a measure print a table, from which you choose:

  mocose merge START out --curve --label_file topics.csv --senteval_dir senteval --plot curve.svg
  mocose merge START out --weight 0.5 -o merged
"""

_CURVE = (0.0, 0.25, 0.5, 0.75, 1.0)

_MEASURES = ("label_file", "retrieval_file", "validation_file", "senteval_dir", "eval_tasks")


def build_parser(program: str = "mocose merge") -> argparse.ArgumentParser:
    """Return the parser of `mocose merge`."""
    parser = CommandParser(program, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", help="The encoder that training started from: a directory or a hub id.")
    parser.add_argument("trained", help="Output directory of `mocose train`, or any encoder trained from the start.")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weight", nargs="+", type=_weight, help="Weight of the trained encoder, in [0, 1]; several make a curve."
    )
    weights.add_argument("--curve", action="store_true", help="The weights 0, 0.25, 0.5, 0.75 and 1.")
    parser.add_argument("-o", "--output_dir", help="Directory to write the merged encoder to; must be new or empty.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--save_weight", type=_weight, help="Which of several weights -o saves.")
    choice.add_argument("--best", action="store_true", help="Save the weight that is best on the first measure.")
    parser.add_argument("--label_file", nargs="+", help="Files with columns label and text; scored by P@10.")
    parser.add_argument("--retrieval_file", nargs="+", help="Files with columns query and text; scored by nDCG@10.")
    parser.add_argument("--validation_file", help="Pairs with a score; scored by Spearman's correlation.")
    parser.add_argument("--senteval_dir", help="Folder in SentEval's layout, for STS: what the encoder may forget.")
    parser.add_argument("--eval_tasks", nargs="+", help="Tasks of that folder (default: sts, which takes minutes).")
    parser.add_argument("--allow_partial_tasks", action="store_true", help="Score tasks with missing rows too.")
    parser.add_argument("--plot", help="Draw the curve into this .svg or .png file.")
    parser.add_argument("--scores", help="Write all scores into this .json or .csv file.")
    parser.add_argument("--batch_size", type=positive, default=64, help="Texts per forward (default: 64).")
    return parser


def main(argv: Sequence[str] | None = None, program: str = "mocose merge") -> int:
    """Merge two encoders and return the exit code: 0, 2 for bad input, 1 if the disk failed."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: _merge(build_parser(program).parse_args(argv)), program)


def _merge(arguments: argparse.Namespace) -> None:
    weights = _validate(arguments)
    prepare_process()
    silence_transformers()
    from mocose_hf.cli.factory import build_plain, load_start
    from mocose_hf.evaluation.score_tables import text_table
    from mocose_hf.evaluation.weight_curve import curve_table, main_metrics, plot_curve, write_scores
    from mocose_hf.models.merging import EncoderMerger, validate_same_vocabulary

    score, first = _read_measures(arguments)
    (start, first_tokenizer), (trained, tokenizer) = map(load_start, (arguments.start, arguments.trained))
    validate_same_vocabulary(first_tokenizer, tokenizer)
    merger = EncoderMerger(start, trained)
    points = []
    for weight in weights if score is not None else ():
        merger.set_weight(weight)
        points.append((weight, score(build_plain(arguments.trained, trained), tokenizer)))
    saved = weights[0] if arguments.save_weight is None else arguments.save_weight
    if points:
        metrics = main_metrics(list(points[0][1]), first)
        if arguments.best:
            saved = max(points, key=lambda point: point[1][metrics[0]])[0]
        marks = {0.0: "(start)", 1.0: "(trained)"}
        print(text_table(curve_table(points, metrics, marks)))
        try:
            if arguments.scores:
                write_scores(points, arguments.scores)
            if arguments.plot:
                plot_curve(points, metrics, arguments.plot)
        except OSError as error:
            raise InputError(f"the scores cannot be written ({one_line(error)}); name another file.") from error
    if arguments.output_dir:
        merger.set_weight(saved)
        _save(build_plain(arguments.trained, trained), tokenizer, Path(arguments.output_dir))
        print(escape_controls(f"Merged encoder, weight {saved:g}: {arguments.output_dir}"))


def _validate(arguments: argparse.Namespace) -> list[float]:
    """Return the weights, or raise an `InputError` for options that do not fit together."""
    weights = [*_CURVE] if arguments.curve else sorted({*(arguments.weight or [0.5])})
    measured = any(getattr(arguments, name) for name in _MEASURES)
    if not arguments.output_dir and not measured:
        raise InputError(
            "there is nothing to do: give -o DIR to save the merged encoder, or a measure, such as --label_file."
        )
    if len(weights) > 1 and not measured:
        raise InputError(
            f"{len(weights)} weights need a measure to compare them; give one, such as --label_file, or one --weight."
        )
    if arguments.eval_tasks and not arguments.senteval_dir:
        raise InputError("--eval_tasks names tasks of --senteval_dir; give that folder.")
    for name in ("plot", "scores"):
        if getattr(arguments, name) and not measured:
            raise InputError(f"--{name} shows scores; give a measure, such as --label_file.")
    if arguments.plot and len(weights) < 2:
        raise InputError("--plot draws a curve; give --curve or several values of --weight.")
    if (arguments.best or arguments.save_weight is not None) and not arguments.output_dir:
        raise InputError(f"--{'best' if arguments.best else 'save_weight'} chooses what -o saves; give -o DIR.")
    if arguments.best and not measured:
        raise InputError("--best needs a measure to choose the weight; give one, such as --label_file.")
    if arguments.save_weight is not None and arguments.save_weight not in weights:
        listed = ", ".join(f"{weight:g}" for weight in weights)
        raise InputError(f"--save_weight {arguments.save_weight:g}: is none of the weights {listed}; choose one.")
    if arguments.output_dir and len(weights) > 1 and not arguments.best and arguments.save_weight is None:
        raise InputError("-o saves one encoder of several weights; say which: --save_weight W, or --best.")
    if arguments.output_dir:
        validate_new_directory(arguments.output_dir)
    from mocose_hf.plotting import SUFFIXES

    if arguments.plot:
        validate_suffix(arguments.plot, SUFFIXES)
    if arguments.scores:
        from mocose_hf.evaluation.weight_curve import SCORE_SUFFIXES

        validate_suffix(arguments.scores, SCORE_SUFFIXES)
    return weights


def _read_measures(arguments: argparse.Namespace):
    """Read the development sets and tasks.

    Returns:
        A function of model and tokenizer that returns the scores by name, None if there is no measure; and the name of
        the first measure, None if there is no development set.
    """
    from mocose_hf.cli.options import read_options
    from mocose_hf.cli.scoring import read_development, read_evaluation_tasks
    from mocose_hf.evaluation.development import score_sets
    from mocose_hf.evaluation.tasks import embed_tasks, score_tasks

    values = {name: getattr(arguments, name) for name in (*_MEASURES, "allow_partial_tasks")}
    if not any(values[name] for name in _MEASURES):
        return None, None
    if arguments.senteval_dir and not arguments.eval_tasks:
        values["eval_tasks"] = ["sts"]
    options = read_options({"model_name_or_path": arguments.trained, **values})
    development, tasks = read_development(options), read_evaluation_tasks(options).final
    encoding = {"batch_size": arguments.batch_size, "show_progress_bar": sys.stderr.isatty(), "needs_spread": True}

    def score(model, tokenizer) -> dict[str, float]:
        scores = {} if development is None else score_sets(model.mocose, tokenizer, development, **encoding)
        if tasks:
            scores |= score_tasks(tasks, embed_tasks(model.mocose, tokenizer, tasks, **encoding))
        return scores

    return score, None if development is None else options.development_metrics[0]


def _save(model, tokenizer, directory: Path) -> None:
    from mocose_hf.cli.output_dir import saving
    from mocose_hf.export.sentence_encoder import export_sentence_encoder

    with saving(str(directory), remedy="mend the cause, such as a full disk, and repeat the command"):
        export_sentence_encoder(model, tokenizer, directory)


def _weight(text: str) -> float:
    """Return the weight that an option has."""
    weight = float(text)
    if not 0.0 <= weight <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return weight
