"""Lock an output directory, so that only one run at a time uses it."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from transformers.utils import logging

from mocose_hf.errors import InputError, one_line, printable
from mocose_hf.parallel.collectives import any_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.get_logger(__name__)

_locked: dict[str, int] = {}
"""The directories that this process has locked, each with its file descriptor."""


@contextmanager
def lock_output_dir(output_dir: str | Path, args, must_be_empty: bool = False) -> Iterator[None]:
    """Lock the output directory, if it exists, for all processes of a run. Every process must call this.

    Args:
        output_dir: The directory; the first process locks it.
        args: The training arguments.
        must_be_empty: Whether the directory was new when the command began. Anything in it belongs to another run.

    Raises:
        InputError: On all processes, if another run has locked the directory or has written into it.
    """
    refusal = None
    with ExitStack() as stack:
        if args.process_index == 0 and os.path.isdir(output_dir):
            try:
                stack.enter_context(lock_directory(output_dir))
                if must_be_empty:
                    _validate_empty(output_dir)
            except InputError as error:
                refusal = error
        if any_process(refusal is not None, args.device):
            raise refusal or InputError(f"`output_dir` {output_dir}: another run is writing there.")
        yield


@contextmanager
def lock_directory(path: str | Path) -> Iterator[None]:
    """Lock an existing directory against other processes; the process itself may lock it again.

    The kernel locks the directory itself (flock), and unlocks it when the process ends for any reason. No lock file is
    written. If the file system has no locks, this warns and continues.

    Raises:
        InputError: If another process has locked it.
    """
    real_path = os.path.realpath(path)
    if fcntl is None or real_path in _locked:
        yield
        return
    _lock(real_path, path)
    try:
        yield
    finally:
        if real_path in _locked:  # not in a forked child
            os.close(_locked.pop(real_path))


def _lock(real_path: str, output_dir: str | Path) -> None:
    try:
        file = os.open(real_path, os.O_RDONLY)
    except OSError as error:
        _warn(output_dir, error)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _locked[real_path] = file
    except OSError as error:
        os.close(file)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            _warn(output_dir, error)
            return
        holder = _find_holder(real_path)
        process = f" (process {holder})" if holder else ""
        raise InputError(
            f"`output_dir` {output_dir}: another run{process} is writing there; wait for its end, stop it, or name "
            "another directory."
        ) from error


def _validate_empty(output_dir: str | Path) -> None:
    entry = next(Path(output_dir).iterdir(), None)
    if entry is not None:
        raise InputError(
            f"`output_dir` {output_dir}: another run has written {entry.name} there since this command began; name "
            "another, or repeat the command."
        )


def _warn(output_dir: str | Path, error: OSError) -> None:
    logger.warning(printable(f"{output_dir}: cannot be locked ({one_line(error)}); start no second run in it."))


def _find_holder(path: str) -> int | None:
    """Return the process that has locked a directory, None if the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        inode = str(os.stat(path).st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            entry = line.split()
            if "->" not in entry and entry[1] == "FLOCK" and entry[5].split(":")[2] == inode:
                return int(entry[4])
    return None


def _unlock_in_child() -> None:
    """Close the locks of the parent in a forked child; a data loader's worker may outlive its parent."""
    for file in _locked.values():
        with suppress(OSError):
            os.close(file)
    _locked.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_unlock_in_child)
