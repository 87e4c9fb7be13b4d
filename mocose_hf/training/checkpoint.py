"""Checkpoints that are complete or not there: a manifest written last, verified before anything is loaded."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import logging

from mocose_hf.errors import InputError, one_line, printable
from mocose_hf.models.modeling_base import ContrastiveModel

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
"""Name of the file that makes a checkpoint complete: run, step, and size and sha256 of every other file."""

STATE_FILE = "trainer_state.json"
WEIGHTS_FILE = "model.safetensors"
TRAIN_METRICS_FILE = "train_metrics.json"
PREFIX = "checkpoint-"
_PICKLES = (".pt", ".pth")
_BYTES_AT_ONCE = 1 << 20
_LONGEST_NAME = 80


@dataclass
class FoundCheckpoint:
    """The checkpoint to go on from.

    Args:
        path: None for a fresh start.
        skipped: One phrase for each newer checkpoint that is not complete: its path and why.
    """

    path: str | None
    skipped: list[str] = field(default_factory=list)


def write_manifest(checkpoint: str | Path, run: dict) -> None:
    """Make a checkpoint complete: flush its files to the disk and write their sizes and sha256, all or nothing.

    Args:
        checkpoint: The directory, written to its end by all processes.
        run: What the run was made with, as JSON takes it; `read_manifest` returns it.
    """
    checkpoint = Path(checkpoint)
    files = {str(path.relative_to(checkpoint).as_posix()): file_entry(path, flush=True) for path in _files(checkpoint)}
    text = json.dumps({"run": run, "files": files}, indent=2) + "\n"
    unfinished = checkpoint / f"{MANIFEST}.tmp"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(checkpoint / MANIFEST)
    _flush_directory(checkpoint)
    _flush_directory(checkpoint.parent)


def read_manifest(checkpoint: str | Path) -> dict:
    """Return what `write_manifest` was given as `run`."""
    return _read(Path(checkpoint))["run"]


def find_corruption(checkpoint: str | Path) -> str | None:
    """Return why a checkpoint cannot be gone on from, None where every file is as its manifest says."""
    checkpoint = Path(checkpoint)
    try:
        if not checkpoint.is_dir():
            return "no such directory"
        manifest = _read(checkpoint)
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so its save did not come to an end"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its {MANIFEST} cannot be read ({one_line(error)})"
    for name, expected in manifest["files"].items():
        try:
            reason = _why_other(checkpoint / name, name[:_LONGEST_NAME], expected)
        except (OSError, ValueError) as error:
            reason = f"{name[:_LONGEST_NAME]} cannot be read ({one_line(error)})"
        if reason is not None:
            return reason
    return None


def require_complete(best: str | Path) -> None:
    """Raise an `InputError` where the best checkpoint of a run, which is to be loaded, is not complete."""
    reason = find_corruption(best)
    if reason is not None:
        raise InputError(f"{best}: the best checkpoint is not complete: {reason}; put it back, or train again.")


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | bool | None) -> FoundCheckpoint:
    """Find the checkpoint to go on from: the newest complete one for true, the one named, none for false.

    Raises:
        InputError: Where the named one is not complete.
    """
    wanted = str(resume_from_checkpoint or "false")
    if wanted.lower() == "false":
        return FoundCheckpoint(None)
    if wanted.lower() != "true":
        reason = find_corruption(wanted)
        if reason is None:
            return FoundCheckpoint(wanted)
        raise InputError(
            f"--resume_from_checkpoint {wanted}: no complete checkpoint: {reason}; name another {PREFIX}N folder, or "
            "true for the newest complete one."
        )
    skipped = []
    for path in sorted(checkpoints(output_dir), key=step_of, reverse=True):
        reason = find_corruption(path)
        if reason is None:
            return FoundCheckpoint(str(path), skipped)
        skipped.append(f"{path}: {reason}")
    return FoundCheckpoint(None, skipped)


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoints in a directory, complete or not, in no order."""
    try:
        return [path for path in Path(output_dir).glob(f"{PREFIX}*") if path.is_dir() and step_of(path) >= 0]
    except (OSError, ValueError):  # a name that no directory can have
        return []


def step_of(checkpoint: str | Path) -> int:
    """Return the optimizer step in a checkpoint's name, −1 where there is none."""
    number = Path(checkpoint).name.removeprefix(PREFIX)
    return int(number) if number.isascii() and number.isdigit() else -1


def remove_checkpoint(checkpoint: str | Path) -> None:
    """Clear the place of a checkpoint that is about to be written; its manifest goes first.

    Of a link only the link goes.
    """
    checkpoint = Path(checkpoint)
    if checkpoint.is_symlink():
        checkpoint.unlink()
    elif checkpoint.is_dir():
        (checkpoint / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)


def rotate_checkpoints(
    output_dir: str | Path, limit: int | None, best: str | Path | None, newest: str | Path | None = None
) -> None:
    """Delete the oldest checkpoints until at most `limit` complete ones are left.

    The newest complete one and the best one always stay, and so do folders that are not complete: they are not ours
    to judge, and count for nothing. One that cannot be deleted stays, with a warning.

    Args:
        output_dir: The directory they are in.
        limit: None, 0 or less to delete none.
        best: The best one.
        newest: The one just written, where later steps of another part of the run lie beside it.
    """
    if not limit or limit < 0:
        return
    complete = sorted((path for path in checkpoints(output_dir) if (path / MANIFEST).is_file()), key=step_of)
    kept = {Path(path).name for path in (newest or max(complete, key=step_of, default=None), best) if path}
    others = [path for path in complete if path.name not in kept]
    surplus = len(complete) - max(limit, len(complete) - len(others))
    for path in others[: max(surplus, 0)]:
        try:
            remove_checkpoint(path)
        except OSError as error:
            logger.warning(
                printable(f"{path}: an old checkpoint that cannot be deleted ({one_line(error)}); delete it.")
            )


def read_state(checkpoint: str | Path, remedy: str = "go on from another checkpoint") -> TrainerState:
    """Read how far the run of a checkpoint, or of a finished model, had come.

    Raises:
        InputError: Where the file says no such thing.
    """
    path = Path(checkpoint) / STATE_FILE
    try:
        state = TrainerState.load_from_json(str(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); {remedy}.") from error
    if not isinstance(state.global_step, int) or state.global_step < 0 or not isinstance(state.log_history, list):
        raise InputError(f"{path}: is no state of a run; {remedy}.")
    return state


def check_parts(checkpoint: str | Path) -> None:
    """Raise an `InputError` where a checkpoint lacks what a run needs beside its weights to go on exactly."""
    names = [path.name for path in Path(checkpoint).iterdir()]
    optimizer = ("latest",) if "latest" in names else ("optimizer.pt", "scheduler.pt")  # DeepSpeed has its own
    missing = [name for name in (STATE_FILE, TRAIN_METRICS_FILE, *optimizer) if name not in names]
    if not any(name.startswith("rng_state") for name in names):
        missing.append("rng_state.pth")
    if missing:
        raise InputError(f"{checkpoint}: has no {missing[0]}; go on from another checkpoint.")


def check_pickles(checkpoint: str | Path, allowed: list | None = None) -> None:
    """Raise an `InputError` where a file of a checkpoint holds anything but tensors, numbers and their containers.

    Each is read by torch's restricted unpickler, which runs no code from the file
    (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only); tensors stay on the disk.

    Args:
        checkpoint: The directory.
        allowed: Further classes and functions that its files may name.
    """
    for path in sorted(Path(checkpoint).rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path}: is a link to another folder; go on from a checkpoint of your own.")
        if path.suffix not in _PICKLES or not path.is_file():
            continue
        try:
            with safe_globals(), torch.serialization.safe_globals(allowed or []):
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # the unpickler and the zip reader raise many kinds
            raise InputError(
                f"{path}: holds more than tensors and numbers, or is damaged ({_first_sentence(error)}); nothing of "
                "it was run; go on from a checkpoint of your own."
            ) from error


def check_weights(model: ContrastiveModel, checkpoint: str | Path) -> None:
    """Raise an `InputError` where a checkpoint lacks a weight or a part of the queue, or has another shape of one."""
    path = Path(checkpoint) / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); go on from an earlier checkpoint.") from error
    shared = set(model._keys_to_ignore_on_save or ())
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in shared}
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise InputError(
                f"{path}: `{name}` has the shape {saved.get(name)}, but {expected.get(name)} is needed; repeat the "
                "options of the run that made it."
            )


def load_weights(model: ContrastiveModel, checkpoint: str | Path) -> None:
    """Load all weights and the queue of a checkpoint into a model of the same configuration, in place."""
    check_weights(model, checkpoint)
    model.load_state_dict(load_file(Path(checkpoint) / WEIGHTS_FILE), strict=False)


def _read(checkpoint: Path) -> dict:
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(part), dict) for part in ("run", "files")):
        raise ValueError("not a manifest")
    for name, entry in manifest["files"].items():
        if not isinstance(entry, dict) or not isinstance(entry.get("size"), int):
            raise ValueError(f"{name[:40]} has no size")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name[:40]} lies elsewhere")
    if STATE_FILE not in manifest["files"]:
        raise ValueError(f"{STATE_FILE} is not in it")
    return manifest


def _why_other(path: Path, name: str, expected: dict) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != expected["size"]:
        return f"{name} has {size} bytes instead of {expected['size']}"
    return None if file_entry(path) == expected else f"{name} has changed since it was written"


def _files(checkpoint: Path) -> list[Path]:
    own = (checkpoint / MANIFEST, checkpoint / f"{MANIFEST}.tmp")
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path not in own)


def file_entry(path: Path, flush: bool = False) -> dict:
    """Return size (bytes) and sha256 (hex) of a file, and where asked for have it on the disk by then."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
            size += len(block)
        if flush:
            os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _flush_directory(directory: Path) -> None:
    """Make new names in a directory outlive a loss of power, where the file system can."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_sentence(error: Exception) -> str:
    """Leave out what torch advises on loading such a file all the same."""
    return one_line(error).split(". ")[0].split(" (1)")[0].rstrip(". ")
