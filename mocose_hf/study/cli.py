"""The command line of studies: list, run, report and solve."""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
from mocose_hf.study.redaction import redact_options, redact_text, secret_values
from mocose_hf.study.study import Study, StudyData, TrialResult, printable_line

if TYPE_CHECKING:  # these load torch or optuna, so each action imports what it needs
    from optuna.storages import BaseStorage

    from mocose_hf.study.study_file import Search
    from mocose_hf.study.trial_store import TrialStore

PROGRAM = "python -m mocose_hf.study"

DESCRIPTION = "Repeat the paper's experiments on the negatives, or run your own, with seeds and error bars."

EPILOG = f"""examples:
  {PROGRAM} list table7
  {PROGRAM} run table3 --encoder ENCODER --train_file sentences.txt --senteval_dir senteval --seeds 0 1 2
  {PROGRAM} run my-grid.yaml --encoder ENCODER --train_file sentences.txt --validation_file pairs.tsv --max_steps 200
  {PROGRAM} report runs/study
  {PROGRAM} solve --d_trace 14.67 --batch_size 64 --train_file sentences.txt
"""


class StorageError(RuntimeError):
    """A storage that failed while it was in use; the command ends with exit code 1."""


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the command and return its exit code.

    0: done. 1: done, but trials failed, or the storage failed. 2: bad input. 75: interrupted by a signal, everything
    is saved. 130: Ctrl-C outside training, or a second Ctrl-C.
    """
    arguments = _with_underscores(sys.argv[1:] if argv is None else argv)
    try:
        options, rest = build_parser(program).parse_known_args(arguments)
        return options.action(options, rest)
    except InputError as error:
        return _end(program, redact_text(input_error_line(error), _secrets(arguments)), EXIT_BAD_INPUT)
    except StorageError as error:
        reason = redact_text(one_line(error), _secrets(arguments))
        return _end(
            program, f"the storage failed ({reason}); its content is kept, and the same command resumes.", EXIT_STOPPED
        )
    except KeyboardInterrupt:
        return _end(program, "stopped by Ctrl-C; finished trials are kept, and the same command resumes.", EXIT_CTRL_C)


def build_parser(program: str = PROGRAM) -> argparse.ArgumentParser:
    """Build the parser of the four actions."""
    parser = _Parser(
        prog=program,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(required=True, metavar="list|run|report|solve")

    listing = actions.add_parser("list", help="Show the studies, or the cells of the named ones.", allow_abbrev=False)
    listing.add_argument("studies", nargs="*", help="Names of studies; all by default.")
    listing.set_defaults(action=list_studies)

    running = actions.add_parser(
        "run",
        help="Run the remaining trials of the named studies, and write the report.",
        description="Run the remaining trials of the named studies, and write the report. To add workers, start the "
        "same command again on any machine that reaches the storage. All options of run_mocose.py are accepted; the "
        "options of a cell override them.",
        allow_abbrev=False,
    )
    running.add_argument("studies", nargs="+", help="Names of studies, or files with your own (.yaml, .json).")
    running.add_argument("--encoder", help="Encoder to start from, as --model_name_or_path of run_mocose.py.")
    running.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="Seeds of each cell [0 1 2].")
    running.add_argument("--storage", help="URL of an optuna storage [sqlite:///OUTPUT_DIR/study.db].")
    running.add_argument("--output_dir", default="runs/study", help="Folder of reports and trials [runs/study].")
    running.add_argument("--cells", nargs="+", help="Labels of the cells to run; all by default.")
    running.add_argument("--retry_failed", action="store_true", help="Run failed trials once more.")
    running.add_argument("--keep_models", action="store_true", help="Keep the checkpoints of finished trials.")
    running.set_defaults(action=run_studies)

    reporting = actions.add_parser(
        "report", help="Write tables, plots and a page of the results so far.", allow_abbrev=False
    )
    reporting.add_argument("folder", help="Output directory of the runs.")
    reporting.add_argument("studies", nargs="*", help="Names of studies; all by default.")
    reporting.add_argument("--storage", help="URL of an optuna storage [sqlite:///FOLDER/study.db].")
    reporting.set_defaults(action=report_studies)

    solving = actions.add_parser(
        "solve", help="Find the η and K that give a maximum traceable distance.", allow_abbrev=False
    )
    solving.add_argument("--d_trace", type=float, required=True, help="Maximum traceable distance, optimizer steps.")
    solving.add_argument("--batch_size", type=int, default=64, help="Keys that enter the queue per step [64].")
    solving.add_argument("--train_file", help="Training sentences, to check the queue sizes against their number.")
    solving.set_defaults(action=solve_distance)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see {self.prog} --help.")


def list_studies(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the studies, or the cells of the named ones."""
    from mocose_hf.study.paper_studies import PAPER_STUDIES

    _validate_no_rest(rest)
    if not options.studies:
        rows = [[study.name, str(len(study.cells)), study.source, study.question] for study in PAPER_STUDIES.values()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        for name, cells, source, question in rows:
            _say(f"{name:<{widths[0]}}  {cells:>{widths[1]}} cells  {source:<{widths[2]}}  {question}")
        return 0
    from mocose_hf.evaluation.score_tables import text_table

    for study in map(_find_study, options.studies):
        if not isinstance(study, Study):
            raise InputError(f"{study.name}: is a search, whose cells do not exist before it runs; name a study.")
        _say(f"{text_table(_cell_table(study))}\n")
    return 0


def run_studies(options: argparse.Namespace, rest: list[str]) -> int:
    """Run the remaining trials of the named studies, and write the report."""
    from transformers.utils import logging

    from mocose_hf.errors import TrainingInterrupted
    from mocose_hf.study.storage import open_storage
    from mocose_hf.study.trial_store import TrialStore
    from mocose_hf.study.worker import Worker

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("a trial runs in one process; start several workers with the same command instead.")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    common = parse_options(rest)
    if options.encoder is not None:
        common["model_name_or_path"] = options.encoder
    studies = [_find_study(name, rest) for name in options.studies]
    _validate_cells(options.cells, studies)
    workers = [
        Worker(study, options.seeds, common, options.output_dir, _say, options.cells, options.keep_models)
        for study in studies
    ]
    for worker in workers:
        worker.validate()
    try:
        with _storage_errors():
            storage = open_storage(options.storage or _default_storage(options.output_dir))
            for worker, study in zip(workers, studies, strict=True):
                worker.prepare(TrialStore(storage, study.name, study.metric), options.retry_failed)
            results = [result for worker in workers for result in worker.work()]
            _report(Path(options.output_dir), storage, shown=[study.name for study in studies])
    except TrainingInterrupted:
        return _end(PROGRAM, "interrupted; the same command resumes the trial.", EXIT_INTERRUPTED)
    return _end_of_run([result.state for result in results])


def _end_of_run(states: Sequence[str]) -> int:
    if "running" in states:
        _say(f"Other workers still run {states.count('running')} trials; the last one writes the complete report.")
    if "interrupted" in states:
        _say(f"{states.count('interrupted')} trials lost their workers; the same command resumes them.")
    if failed := states.count("failed"):
        return _end(PROGRAM, f"{failed} trials failed; the report gives the reasons.", EXIT_STOPPED)
    return 0


def report_studies(options: argparse.Namespace, rest: list[str]) -> int:
    """Write tables, plots and a page of the content of a storage."""
    from mocose_hf.study.storage import open_storage, study_names

    _validate_no_rest(rest)
    folder = Path(options.folder)
    if options.storage is None and not (folder / "study.db").is_file():
        raise InputError(
            f"{folder}: has no study.db; give the --output_dir of a run, and its --storage if it had one."
        )
    with _storage_errors():
        storage = open_storage(options.storage or _default_storage(folder), create=False)
        names = study_names(storage)
        if not names:
            raise InputError(f"{folder}: its storage holds no study yet; run one first.")
        unknown = [name for name in options.studies if name not in names]
        if unknown:
            raise InputError(f"{unknown[0]}: is not in the storage, which has {', '.join(names)}.")
        _report(folder, storage, shown=options.studies or names, only=options.studies)
    return 0


def solve_distance(options: argparse.Namespace, rest: list[str]) -> int:
    """Print the pairs of η and K that give a maximum traceable distance, with a remark on the sentences."""
    from mocose_hf.data.sentences import read_sentences
    from mocose_hf.evaluation.score_tables import text_table
    from mocose_hf.study.traceable_distance import solve

    _validate_no_rest(rest)
    num_sentences = len(read_sentences(options.train_file).dataset) if options.train_file else None
    try:
        settings = solve(options.d_trace, options.batch_size, num_sentences)
    except ValueError as error:
        raise InputError(one_line(error)) from error
    head = ["--ema_decay", "--queue_size", "--queue_init_size", "d_trace"]
    rows = [
        [f"{setting.ema_decay:.4f}", str(setting.queue_size), str(setting.queue_init_size), f"{setting.d_trace:.2f}"]
        for setting in settings
    ]
    if num_sentences is not None:
        head.append("the sentences")
        rows = [[*row, setting.note or "-"] for row, setting in zip(rows, settings, strict=True)]
    _say(text_table((f"d_trace = {options.d_trace:g} at batch size {options.batch_size}", head, rows)))
    _say(
        "This holds for a constant η and a full queue. By default η rises to 1 over the run, and the distance with "
        "it. To keep η, set --ema_decay_end to the same value. To keep the distance while the queue fills, set "
        "--ema_schedule constant_distance."
    )
    return 0


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn the errors of a storage into `StorageError`."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, OptunaError) as error:
        raise StorageError(one_line(error)) from error


def _with_underscores(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with underscores in option names; like `run_mocose.py`, the command accepts dashes too."""
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
    """Return typed options of `run_mocose.py` by name, as strings. The parser of that command validates them later.

    Raises:
        InputError: If an argument belongs to no option.
    """
    options: dict[str, object] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            options[name] = value if equals else True
        elif name is None:
            raise InputError(f"{argument[:99]}: is not an option; write --option value.")
        elif options[name] is True:
            options[name] = argument
        else:
            earlier = options[name]
            options[name] = [*earlier, argument] if isinstance(earlier, list) else [earlier, argument]
    return options


def _find_study(name: str, rest: Sequence[str] = ()) -> "Study | Search":
    """Return the study of a name or of a file.

    Raises:
        InputError: If there is none.
    """
    from mocose_hf.study.paper_studies import PAPER_STUDIES

    if Path(name).suffix.lower() in (".yaml", ".yml", ".json"):
        from mocose_hf.study.study_file import read_study_file

        return read_study_file(name)
    if name not in PAPER_STUDIES:
        hint = f" The names of studies come before all options, so {rest[0][:40]} must come later." if rest else ""
        raise InputError(
            f"{name[:60]}: no such study; choose one of {', '.join(PAPER_STUDIES)}, or give a .yaml or .json file."
            f"{hint}"
        )
    return PAPER_STUDIES[name]


def _validate_cells(labels: Sequence[str] | None, studies: Sequence["Study | Search"]) -> None:
    known = {cell.label for study in studies if isinstance(study, Study) for cell in study.cells}
    for label in labels or ():
        if label not in known:
            raise InputError(f"--cells {label[:60]!r}: no cell of these studies; `{PROGRAM} list NAME` shows them.")


def _cell_table(study: Study) -> tuple[str, list[str], list[list[str]]]:
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


def _declared_study(store: "TrialStore", results: Sequence[TrialResult]) -> Study:
    """Return the study in a storage. The cells of a search are the settings that it has tried."""
    declaration = store.declaration()
    if "cells" in declaration:
        return Study.from_dict(declaration)
    from mocose_hf.study.study_file import study_of_search

    return study_of_search(declaration, results)


def _report(folder: Path, storage: "BaseStorage", shown: Sequence[str], only: Sequence[str] = ()) -> None:
    """Write the report of the studies in a storage, and print the tables of some.

    Args:
        folder: The folder of the report.
        storage: The storage.
        shown: The studies to print.
        only: The studies to report; all if empty.
    """
    from mocose_hf.study.report.write_report import write_report
    from mocose_hf.study.storage import study_names
    from mocose_hf.study.trial_store import TrialStore

    studies = []
    for name in only or study_names(storage):
        store = TrialStore(storage, name)
        try:
            store.load()
        except InputError as error:
            if name in shown:
                raise
            _say(f"Not reported: {error}")  # a damaged study must not block the report of a finished run
            continue
        declaration = store.declaration()
        if not declaration:  # another program's study, or one that stopped before its first trial
            _say(f"Not reported: the study {name} of this storage has no trials of this program.")
            continue
        results = store.results()
        study = _declared_study(store, results)
        studies.append(StudyData(study, results, store.settings(), declaration.get("left_out", ())))
    if not studies:
        raise InputError("the storage holds no study that can be reported; run one first.")
    for path in write_report(folder, studies):
        if path.suffix == ".md" and path.stem in shown:
            _say(f"\n{path.read_text(encoding='utf-8')}")
    _say(f"Report: {folder / 'index.html'}")


def _default_storage(folder: str | Path) -> str:
    return f"sqlite:///{Path(folder) / 'study.db'}"


def _validate_no_rest(rest: list[str]) -> None:
    if rest:
        raise InputError(f"unknown argument {rest[0][:99]}; see {PROGRAM} --help.")


def _say(line: str) -> None:
    print("\n".join(map(printable_line, redact_text(line).split("\n"))), flush=True)


def _end(program: str, line: str, code: int) -> int:
    sys.stderr.write(f"{program}: {printable(line)}\n")
    return code
