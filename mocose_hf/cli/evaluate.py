"""`mocose evaluate`: score an encoder without training it."""

import sys
from collections.abc import Sequence

from mocose_hf.cli.train import PROGRAM, guard, prepare_process
from mocose_hf.errors import InputError


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Score an encoder as the options ask, and return the exit code, as `mocose_hf.cli.train.main` does.

    A first argument that is neither an option nor a configuration file is the encoder. Without any development set
    and task, the tasks are the seven STS sets.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: _evaluate(argv, program), program)


def _evaluate(argv: list[str], program: str) -> None:
    prepare_process()
    from mocose_hf.cli.options import CONFIG_SUFFIXES, parse_command_line, printable_command

    command = printable_command(argv, program)
    if argv and not argv[0].startswith("-") and not argv[0].endswith(CONFIG_SUFFIXES):
        argv = ["--model_name_or_path", *argv]
    options = parse_command_line(argv, program)
    if options.trains:
        raise InputError(
            "`train_file` or `dataset_name` is given, but this command does not train; use `mocose train`."
        )
    if not options.develops and options.evaluation.eval_tasks is None:
        options.evaluation.eval_tasks = ["sts"]
    from mocose_hf.cli.run import run  # loads datasets and the Trainer, which --help does not need

    run(options, command)
