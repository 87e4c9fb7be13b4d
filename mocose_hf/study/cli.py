"""The command line of the study of negatives: list, run, report and solve."""

import argparse
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError
from transformers.utils import logging

from mocose_hf.data.sentences import read_sentences
from mocose_hf.errors import (
    EXIT_BAD_INPUT,
    EXIT_CTRL_C,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    InputError,
    input_error_line,
    one_line,
    printable,
)
from mocose_hf.evaluation.score_tables import Table, text_table
from mocose_hf.study.declarations import Study
from mocose_hf.study.paper_studies import NAMED_STUDIES
from mocose_hf.study.plain_text import visible
from mocose_hf.study.redaction import redact_options, redact_text, secret_values
from mocose_hf.study.report.write_report import write_report
from mocose_hf.study.results import TrialResult
from mocose_hf.study.searches import as_study
from mocose_hf.study.storage import open_storage, study_names
from mocose_hf.study.study_file import Search, read_study_file
from mocose_hf.study.traceable_distance import solve
from mocose_hf.study.trial_store import TrialStore
from mocose_hf.study.worker import Worker
from mocose_hf.training.callbacks.preemption import TrainingInterrupted

PROGRAM = "python -m mocose_hf.study"

DESCRIPTION = "Ask the paper's questions about the negatives again, with seeds and error bars, or ones of your own."

EPILOG = f"""examples:
  {PROGRAM} list table7
  {PROGRAM} run table3 --encoder ENCODER --train_file sentences.txt --senteval_dir senteval --seeds 0 1 2
  {PROGRAM} run my-grid.yaml --encoder ENCODER --train_file sentences.txt --validation_file pairs.tsv --max_steps 200
  {PROGRAM} report runs/study
  {PROGRAM} solve --d_trace 14.67 --batch_size 64 --train_file sentences.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is done; 1 is done with failed trials, 2 bad input, 75 told to stop, with all that was done kept, and 130 Ctrl-C
    outside training, or a second one.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    arguments = _underscored(sys.argv[1:] if argv is None else argv)
    try:
        options, rest = build_parser().parse_known_args(arguments)
        return options.action(options, rest)
    except InputError as error:
        return _end(redact_text(input_error_line(error), _secrets(arguments)), EXIT_BAD_INPUT)
    except (SQLAlchemyError, OptunaError) as error:
        reason = redact_text(one_line(error), _secrets(arguments))
        return _end(f"the storage failed ({reason}); what it has is kept, and the same command resumes.", EXIT_STOPPED)
    except TrainingInterrupted:
        return _end("told to stop; the same command goes on with the trial that it was in.", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        return _end("ended at once by Ctrl-C; finished trials are kept, and the same command goes on.", EXIT_CTRL_C)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the four actions."""
    parser = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(required=True, metavar="list|run|report|solve")

    listing = actions.add_parser("list", help="Show the studies, or the cells of some.", allow_abbrev=False)
    listing.add_argument("studies", nargs="*", help="Names; all where none is given.")
    listing.set_defaults(action=list_studies)

    running = actions.add_parser(
        "run",
        help="Run what is left of some studies, and write their report.",
        description="Run what is left of some studies, and write their report. Several workers may be started by the "
        "same command, on any machine that reaches the storage. All options of run_mocose.py may be given; over them "
        "stand those of a cell.",
        allow_abbrev=False,
    )
    running.add_argument("studies", nargs="+", help="Names, and files of studies of your own (.yaml, .json).")
    running.add_argument("--encoder", help="The encoder to start from, as --model_name_or_path of run_mocose.py.")
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Seeds of each cell [0 1 2].")
    running.add_argument("--storage", help="An optuna storage [sqlite:///OUTPUT_DIR/study.db].")
    running.add_argument("--output_dir", default="runs/study", help="For reports, and a folder a trial [runs/study].")
    running.add_argument("--cells", nargs="+", help="Labels of the cells to run, of each study that has them; all.")
    running.add_argument("--retry_failed", action="store_true", help="Run failed trials once more.")
    running.add_argument("--keep_models", action="store_true", help="Keep the checkpoints of finished trials.")
    running.set_defaults(action=run_studies)

    reporting = actions.add_parser(
        "report", help="Write tables, plots and a page of what is there.", allow_abbrev=False
    )
    reporting.add_argument("folder", help="The output directory of the runs.")
    reporting.add_argument("studies", nargs="*", help="Names; all where none is given.")
    reporting.add_argument("--storage", help="An optuna storage [sqlite:///FOLDER/study.db].")
    reporting.set_defaults(action=report_studies)

    solving = actions.add_parser("solve", help="Which η and K give a traceable distance.", allow_abbrev=False)
    solving.add_argument("--d_trace", type=float, required=True, help="Maximum traceable distance, optimizer steps.")
    solving.add_argument("--batch_size", type=int, default=64, help="Keys that enter the queue in a step [64].")
    solving.add_argument("--train_file", help="The sentences, to see which queues they allow.")
    solving.set_defaults(action=solve_distance)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help.")


def list_studies(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the studies, or the cells of those that are named."""
    _refuse(rest)
    if not options.studies:
        rows = [[study.name, str(len(study.cells)), study.source, study.question] for study in NAMED_STUDIES.values()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        for name, cells, source, question in rows:
            _say(f"{name:<{widths[0]}}  {cells:>{widths[1]}} cells  {source:<{widths[2]}}  {question}")
        return 0
    for study in (_study(name) for name in options.studies):
        if isinstance(study, Search):
            raise InputError(f"{study.name} is a search, which has no cells before it is run; name a study.")
        _say(f"{text_table(_cell_table(study))}\n")
    return 0


def run_studies(options: argparse.Namespace, rest: list[str]) -> int:
    """Run what is left of some studies, and write their report."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a trial runs in one process; start several workers with the same command instead.")
    common = parse_options(rest)
    if options.encoder is not None:
        common["model_name_or_path"] = options.encoder
    studies = [_study(name, rest) for name in options.studies]
    _check_cells(options.cells, studies)
    workers = [
        Worker(study, options.seeds, common, options.output_dir, _say, options.cells, options.keep_models)
        for study in studies
    ]
    for worker in workers:
        worker.check()
    storage = open_storage(options.storage or _storage_in(options.output_dir))
    for worker, study in zip(workers, studies, strict=True):
        worker.prepare(TrialStore(storage, study.name), options.retry_failed)
    results = [worker.work() for worker in workers]
    _report(Path(options.output_dir), storage, shown=[study.name for study in studies])
    states = [result.state for of_study in results for result in of_study]
    if "running" in states:
        _say(f"{states.count('running')} trials are still run by other workers, the last of which reports on all.")
    if "interrupted" in states:
        _say(f"{states.count('interrupted')} trials lost their workers; the same command takes them up again.")
    if failed := states.count("failed"):
        return _end(f"{failed} trials failed; the report has their reasons.", EXIT_STOPPED)
    return 0


def report_studies(options: argparse.Namespace, rest: list[str]) -> int:
    """Write tables, plots and a page of what a storage holds."""
    _refuse(rest)
    folder = Path(options.folder)
    if options.storage is None and not (folder / "study.db").is_file():
        raise InputError(
            f"{folder}: holds no study.db; give the --output_dir of a run, and its --storage if it had one."
        )
    storage = open_storage(options.storage or _storage_in(folder), make=False)
    there = study_names(storage)
    if not there:
        raise InputError(f"{folder}: its storage holds no study yet; run one first.")
    unknown = [name for name in options.studies if name not in there]
    if unknown:
        raise InputError(f"{unknown[0]}: is not in the storage, which has {', '.join(there)}.")
    _report(folder, storage, shown=options.studies or there, only=options.studies)
    return 0


def solve_distance(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the pairs of η and K that give a distance, and what the sentences say to them."""
    _refuse(rest)
    sentences = len(read_sentences(options.train_file).dataset) if options.train_file else None
    try:
        settings = solve(options.d_trace, options.batch_size, sentences)
    except ValueError as error:
        raise InputError(one_line(error)) from error
    head = ["--ema_decay", "--queue_size", "--queue_init_size", "d_trace"]
    rows = [
        [f"{found.ema_decay:.4f}", str(found.queue_size), str(found.queue_init_size), f"{found.d_trace:.2f}"]
        for found in settings
    ]
    if sentences is not None:
        head.append("the sentences")
        rows = [[*row, found.note or "-"] for row, found in zip(rows, settings, strict=True)]
    _say(text_table((f"d_trace = {options.d_trace:g} at batches of {options.batch_size}", head, rows)))
    _say(
        "This is the distance with the given η and a full queue. By default η rises from there to 1 over the run, and "
        "the distance with it: --ema_decay_end of the same value keeps η, and --ema_schedule constant_distance keeps "
        "the distance while the queue grows, too."
    )
    return 0


def _underscored(arguments: Sequence[str]) -> list[str]:
    """Return arguments with names of options as they are declared: `run_mocose.py` takes dashes in them too."""
    split = (argument.partition("=") for argument in arguments)
    return [
        f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else argument
        for argument, (name, equals, value) in zip(arguments, split, strict=True)
    ]


def _secrets(arguments: Sequence[str]) -> list[str]:
    """Return the secrets among the arguments, which no error may show."""
    values = {}
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            values[name] = value if equals else following
    return secret_values(values)


def parse_options(arguments: Sequence[str]) -> dict[str, object]:
    """Return options of `run_mocose.py` as typed, by name; the parser of that command checks them later.

    Raises:
        InputError: Where one does not begin with two dashes.
    """
    options: dict[str, object] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            options[name] = value if equals else True
        elif name is None:
            raise InputError(f"unknown argument {argument[:99]}; options begin with two dashes.")
        else:
            before = options[name]
            options[name] = (
                argument if before is True else [*([before] if isinstance(before, str) else before), argument]
            )
    return options


def _study(name: str, rest: Sequence[str] = ()) -> Study | Search:
    """Return a study by its name or file; `rest` are options that stand beside it, whose values it may be one of."""
    if name in NAMED_STUDIES:
        return NAMED_STUDIES[name]
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        return read_study_file(name)
    place = " Names of studies come before all options." if rest else ""
    raise InputError(
        f"{name[:60]}: no such study; there are {', '.join(NAMED_STUDIES)}, and files of your own (.yaml).{place}"
    )


def _check_cells(labels: Sequence[str] | None, studies: Sequence[Study | Search]) -> None:
    known = {cell.label for study in studies if isinstance(study, Study) for cell in study.cells}
    for label in labels or ():
        if label not in known:
            raise InputError(f"--cells {label[:60]!r}: no cell of these studies; `{PROGRAM} list NAME` shows them.")


def _cell_table(study: Study) -> Table:
    rows = [
        [
            cell.label,
            "-" if cell.paper is None else f"{cell.paper:.2f}",
            " ".join(f"--{name} {value}" for name, value in redact_options(study.options_of(cell)).items())
            or "the defaults",
        ]
        for cell in study.cells
    ]
    return f"{study.name}: {study.title} ({study.source})", ["cell", "paper", "options"], rows


def _declared(store: TrialStore, results: list[TrialResult]) -> Study:
    """Return the study that a storage holds; of a search, with the settings that were tried as its cells."""
    kept = store.about()
    if "cells" in kept:
        return Study.from_dict(kept)
    return as_study(kept["name"], kept["title"], kept["question"], results)


def _report(folder: Path, storage: BaseStorage, shown: Sequence[str], only: Sequence[str] = ()) -> None:
    """Write the report of a storage's studies, and print the tables of some.

    Args:
        folder: Where to.
        storage: The storage.
        shown: Names of those to print.
        only: Names of those to report; all of the storage where there is none.
    """
    made = []
    for name in only or study_names(storage):
        store = TrialStore(storage, name)
        try:
            store.load()
        except InputError as error:
            if name in shown:
                raise
            _say(f"Not reported: {error}")  # which must not keep a finished run from its report
            continue
        if not store.about():  # another study, or one that was stopped before its first trial
            _say(f"Not reported: the study {name} of this storage, which another program made or which was not begun.")
            continue
        results = store.results()
        made.append((_declared(store, results), results, store.run(), store.about().get("left_out", ())))
    if not made:
        raise InputError("the storage holds no study that can be reported; run one first.")
    for path in write_report(folder, made):
        if path.suffix == ".md" and path.stem in shown:
            _say(f"\n{path.read_text(encoding='utf-8')}")
    _say(f"Report: {folder / 'index.html'}")


def _storage_in(folder: str | Path) -> str:
    return f"sqlite:///{Path(folder) / 'study.db'}"


def _refuse(rest: list[str]) -> None:
    if rest:
        raise InputError(f"unknown argument {rest[0][:99]}; see {PROGRAM} --help.")


def _say(line: str) -> None:
    print("\n".join(map(visible, redact_text(line).split("\n"))), flush=True)


def _end(line: str, code: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {printable(line)}\n")
    return code
