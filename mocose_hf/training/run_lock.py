"""One run at a time in an output directory."""

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

_held: dict[str, int] = {}
"""The directories that this process holds, each with its open file."""


@contextmanager
def one_run(output_dir: str | Path, args, must_be_empty: bool = False) -> Iterator[None]:
    """Hold the directory, if it exists, for all processes of a run; every one of them must call it.

    Args:
        output_dir: The directory; the first process holds it.
        args: The training arguments.
        must_be_empty: Whether the directory was new when the command began, so that anything in it is another run's.

    Raises:
        InputError: On all processes, if another run holds the directory or has written into it.
    """
    refusal = None
    with ExitStack() as held:
        if args.process_index == 0 and os.path.isdir(output_dir):
            try:
                held.enter_context(exclusive(output_dir))
                if must_be_empty:
                    _check_empty(output_dir)
            except InputError as error:
                refusal = error
        if any_process(refusal is not None, args.device):
            raise refusal or InputError(f"`output_dir` {output_dir}: another run is writing there.")
        yield


@contextmanager
def exclusive(output_dir: str | Path) -> Iterator[None]:
    """Hold an existing directory, so that no other process runs in it; the same process may hold it again inside.

    The kernel locks the directory itself (flock) and drops the lock when the process ends, however it ends. No file is
    written. A file system without locks gives a warning.

    Raises:
        InputError: If another process holds it.
    """
    path = os.path.realpath(output_dir)
    if fcntl is None or path in _held:
        yield
        return
    _lock(path, output_dir)
    try:
        yield
    finally:
        if path in _held:  # not in a forked child
            os.close(_held.pop(path))


def _lock(path: str, output_dir: str | Path) -> None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        _warn(output_dir, error)
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held[path] = file
    except OSError as error:
        os.close(file)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            _warn(output_dir, error)
            return
        holder = _holder(path)
        process = f" (process {holder})" if holder else ""
        raise InputError(
            f"`output_dir` {output_dir}: another run{process} is writing there; wait for its end, stop it, or name "
            "another directory."
        ) from error


def _check_empty(output_dir: str | Path) -> None:
    entry = next(Path(output_dir).iterdir(), None)
    if entry is not None:
        raise InputError(
            f"`output_dir` {output_dir}: another run has written {entry.name} there since this command began; name "
            "another, or repeat the command."
        )


def _warn(output_dir: str | Path, error: OSError) -> None:
    logger.warning(printable(f"{output_dir}: cannot be locked ({one_line(error)}); start no second run in it."))


def _holder(path: str) -> int | None:
    """Return the process that holds a directory, None if the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        inode = str(os.stat(path).st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            entry = line.split()
            if "->" not in entry and entry[1] == "FLOCK" and entry[5].split(":")[2] == inode:
                return int(entry[4])
    return None


def _forget_locks() -> None:
    """Close a parent's locks in a forked child, such as a worker of a data loader, which may outlive the parent."""
    for file in _held.values():
        with suppress(OSError):
            os.close(file)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_locks)
