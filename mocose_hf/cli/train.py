"""The training command: exit codes and messages around `mocose_hf.cli.run`."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence

from mocose_hf.cli.config_file import ConfigFileError
from mocose_hf.cli.messages import add_dashes
from mocose_hf.errors import (
    EXIT_BAD_INPUT,
    EXIT_CTRL_C,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    CollapseError,
    InputError,
    SaveError,
    TrainingInterrupted,
    input_error_line,
    printable,
)

PROGRAM = "run_mocose.py"

_SECONDS_FOR_THE_FIRST = 3


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Train or score as the options ask, and return the exit code.

    Args:
        argv: The arguments, those of the process if None.
        program: The name that messages begin with.

    Returns:
        0 if all is done; 2 for bad input, with nothing written; 1 if numbers, embeddings or the disk failed; 75 after
        SIGTERM or SIGINT, with everything saved; 130 after a second Ctrl-C, or one outside training. Each code but 0
        comes with one line on standard error.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    return guard(lambda: _train(argv, program), program)


def _train(argv: list[str], program: str) -> None:
    prepare_process()
    from mocose_hf.cli.options import parse_command_line, printable_command

    options = parse_command_line(argv, program)
    from mocose_hf.cli.run import run  # loads datasets and the Trainer, which --help does not need

    run(options, printable_command(argv, program))


def prepare_process() -> None:
    """End with the launcher that started this process, and silence what libraries say about themselves."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    from mocose_hf.parallel.launcher import end_with_launcher

    end_with_launcher()
    transformers_logging.disable_progress_bar()  # of each load and save, also of downloads
    # Of torch, about an argument that accelerate gives.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
    if sys.stderr.isatty():
        enable_progress_bars()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        logging.getLogger("DeepSpeed").addFilter(_is_about_this_run)


def _is_about_this_run(record: logging.LogRecord) -> bool:
    """Return whether a message of DeepSpeed matters: transformers imports it even if `deepspeed` is not given."""
    return "Setting accelerator to CPU" not in str(record.msg) or any(a.startswith("--deepspeed") for a in sys.argv)


def guard(command: Callable[[], None], program: str) -> int:
    """Run a command and return its exit code; each failure that a user can mend becomes one line."""
    try:
        command()
    except InputError as error:
        line = input_error_line(error)
        return _end(program, line if isinstance(error, ConfigFileError) else add_dashes(line), EXIT_BAD_INPUT)
    except (FloatingPointError, CollapseError, SaveError) as error:
        return _end(program, add_dashes(str(error)), EXIT_STOPPED)
    except TrainingInterrupted as error:
        return _end(program, add_dashes(str(error)), EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        return _end(program, "stopped at once by Ctrl-C; complete checkpoints can be resumed from.", EXIT_CTRL_C)
    return 0


def _end(program: str, line: str, code: int) -> int:
    """Write the line once for all processes: the first writes at once, the others only if they are alone."""
    if int(os.environ.get("RANK", 0)) > 0:
        if code == EXIT_INTERRUPTED:  # all processes stop together
            return code
        time.sleep(_SECONDS_FOR_THE_FIRST)  # the launcher ends this process once the first one has failed
    sys.stderr.write(f"{program}: {printable(line)}\n")
    return code
