"""Write, verify and delete checkpoints: a manifest, written last, marks a checkpoint as complete."""

import hashlib
import json
import math
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
from mocose_hf.files import nearest_folder, write_text
from mocose_hf.models.modeling_base import ContrastiveModel

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
"""The file that makes a checkpoint complete: the description of the run, and size and sha256 of every other file."""

STATE_FILE = "trainer_state.json"
WEIGHTS_FILE = "model.safetensors"
TRAIN_METRICS_FILE = "train_metrics.json"
ALL_RESULTS_FILE = "all_results.json"
TRAIN_RESULTS_FILE = "train_results.json"
PREFIX = "checkpoint-"
_PICKLES = (".pt", ".pth")
_BYTES_AT_ONCE = 1 << 20
_SMALL_FILES = 32 << 20
"""Bytes of a checkpoint beside its weights and moments, and of the logs: an upper bound."""

_LONGEST_NAME = 80


@dataclass(frozen=True)
class FoundCheckpoint:
    """The checkpoint to resume from, every file of which has been compared with its manifest.

    Args:
        path: The checkpoint; None for a fresh start.
        skipped: For each newer checkpoint that is not complete, its path and the reason.
    """

    path: str | None
    skipped: list[str] = field(default_factory=list)


def write_manifest(checkpoint: str | Path, run: dict) -> None:
    """Make a checkpoint complete: flush its files to the disk, then write their sizes and sha256 atomically.

    Args:
        checkpoint: The directory; all processes have finished writing to it.
        run: The description of the run, as JSON can hold it; `read_manifest` returns it.
    """
    checkpoint = Path(checkpoint)
    files = {str(path.relative_to(checkpoint).as_posix()): file_entry(path, flush=True) for path in _files(checkpoint)}
    text = json.dumps({"run": run, "files": files}, indent=2) + "\n"
    write_text(checkpoint / MANIFEST, text)
    _flush_directory(checkpoint)
    _flush_directory(checkpoint.parent)


def read_manifest(checkpoint: str | Path) -> dict:
    """Return the description of the run that `write_manifest` stored."""
    return _read(Path(checkpoint))["run"]


def find_corruption(checkpoint: str | Path) -> str | None:
    """Return why a checkpoint is not complete, None if every file matches its manifest."""
    checkpoint = Path(checkpoint)
    try:
        if not checkpoint.is_dir():
            return "no such directory"
        manifest = _read(checkpoint)
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so its save did not finish"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"its {MANIFEST} cannot be read ({one_line(error)})"
    for name, expected in manifest["files"].items():
        try:
            reason = _find_difference(checkpoint / name, name[:_LONGEST_NAME], expected)
        except (OSError, ValueError) as error:
            reason = f"{name[:_LONGEST_NAME]} cannot be read ({one_line(error)})"
        if reason is not None:
            return reason
    return None


def validate_complete(best: str | Path) -> None:
    """Raise an `InputError` if the best checkpoint of a run is not complete."""
    reason = find_corruption(best)
    if reason is not None:
        raise InputError(f"{best}: the best checkpoint is not complete: {reason}; put it back, or train again.")


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | bool | None) -> FoundCheckpoint:
    """Find the checkpoint to resume from, and compare every file of it with its manifest.

    Args:
        output_dir: The directory with the checkpoints of the run.
        resume_from_checkpoint: True for the newest complete checkpoint, a path for that one, false for none.

    Raises:
        InputError: If the checkpoint with that path is not complete.
    """
    wanted = str(resume_from_checkpoint or "false")
    if wanted.lower() == "false":
        return FoundCheckpoint(None)
    if wanted.lower() != "true":
        reason = find_corruption(wanted)
        if reason is None:
            return FoundCheckpoint(wanted)
        raise InputError(
            f"`resume_from_checkpoint` {wanted}: no complete checkpoint: {reason}; name another {PREFIX}N folder, or "
            "true for the newest complete one."
        )
    skipped: list[str] = []
    for path in sorted(checkpoints(output_dir), key=step_of, reverse=True):
        reason = find_corruption(path)
        if reason is None:
            return FoundCheckpoint(str(path), skipped)
        skipped.append(f"{path}: {reason}")
    return FoundCheckpoint(None, skipped)


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Return all checkpoints in a directory, complete or not, in no particular order."""
    try:
        return [path for path in Path(output_dir).glob(f"{PREFIX}*") if path.is_dir() and step_of(path) >= 0]
    except (OSError, ValueError):  # a name that no directory can have
        return []


def step_of(checkpoint: str | Path) -> int:
    """Return the optimizer step in the name of a checkpoint, −1 if it has none."""
    number = Path(checkpoint).name.removeprefix(PREFIX)
    return int(number) if number.isascii() and number.isdigit() else -1


def remove_checkpoint(checkpoint: str | Path) -> None:
    """Delete a checkpoint, its manifest first. If it is a symbolic link, only the link is deleted."""
    checkpoint = Path(checkpoint)
    if checkpoint.is_symlink():
        checkpoint.unlink()
    elif checkpoint.is_dir():
        (checkpoint / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(checkpoint)


def rotate_checkpoints(
    output_dir: str | Path, limit: int | None, best: str | Path | None, newest: str | Path | None = None
) -> None:
    """Delete the oldest complete checkpoints until at most `limit` are left.

    The newest and the best one always stay. Incomplete folders stay too and do not count. If a checkpoint cannot be
    deleted, this warns and continues.

    Args:
        output_dir: The directory with the checkpoints.
        limit: None, 0 or less to delete none.
        best: The best checkpoint.
        newest: The checkpoint just written; by default the one with the highest step. The directory may hold later
            steps of a run that was resumed from an earlier checkpoint.
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
            logger.warning(printable(f"{path}: this old checkpoint cannot be deleted ({one_line(error)}); delete it."))


def read_state(checkpoint: str | Path, remedy: str = "resume from another checkpoint") -> TrainerState:
    """Read the state of the run of a checkpoint, or of a finished model.

    Raises:
        InputError: If the file is missing or is no state of a run.
    """
    path = Path(checkpoint) / STATE_FILE
    try:
        state = TrainerState.load_from_json(str(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); {remedy}.") from error
    if not isinstance(state.global_step, int) or state.global_step < 0 or not isinstance(state.log_history, list):
        raise InputError(f"{path}: is not the state of a run; {remedy}.")
    return state


def validate_parts(checkpoint: str | Path) -> None:
    """Raise an `InputError` if a checkpoint lacks a file that an exact resume needs."""
    names = [path.name for path in Path(checkpoint).iterdir()]
    optimizer = ("latest",) if "latest" in names else ("optimizer.pt", "scheduler.pt")  # DeepSpeed has its own
    missing = [name for name in (STATE_FILE, TRAIN_METRICS_FILE, *optimizer) if name not in names]
    if not any(name.startswith("rng_state") for name in names):
        missing.append("rng_state.pth")
    if missing:
        raise InputError(f"{checkpoint}: has no {missing[0]}; resume from another checkpoint.")


def validate_pickles(checkpoint: str | Path, allowed: list | None = None) -> None:
    """Raise an `InputError` if a file of a checkpoint holds anything but tensors, numbers and their containers.

    Torch's restricted unpickler reads them without running code from the file
    (https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only); tensors stay on disk.

    Args:
        checkpoint: The directory.
        allowed: Additional classes and functions that the files may name.
    """
    for path in sorted(Path(checkpoint).rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path}: is a link to another folder; resume from a checkpoint of your own.")
        if path.suffix not in _PICKLES or not path.is_file():
            continue
        try:
            with safe_globals(), torch.serialization.safe_globals(allowed or []):
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # the unpickler and the zip reader raise many kinds
            raise InputError(
                f"{path}: holds more than tensors and numbers, or is damaged ({_first_sentence(error)}); none of "
                "its code was run; resume from a checkpoint of your own."
            ) from error


def validate_weights(model: ContrastiveModel, checkpoint: str | Path) -> None:
    """Raise an `InputError` if a weight or a queue buffer of a checkpoint is missing or has another shape."""
    path = Path(checkpoint) / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); resume from an earlier checkpoint.") from error
    shared = set(model._keys_to_ignore_on_save or ())
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in shared}
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise InputError(
                f"{path}: `{name}` has the shape {saved.get(name)}, but {expected.get(name)} is needed; repeat the "
                "options of the run that made it."
            )


def validate_disk_space(args, model: ContrastiveModel, max_steps: int) -> None:
    """Raise an `InputError` if the disk has no room for the checkpoints and the results of a run."""
    path, needed = Path(args.output_dir), needed_disk_space(args, model, max_steps)
    free = shutil.disk_usage(nearest_folder(path)).free
    if free < needed:
        raise InputError(
            f"`output_dir` {path}: {_megabytes(free)} are free, but the checkpoints and the model of this run take "
            f"{_megabytes(needed)}; free some, name another directory, or lower `save_total_limit`."
        )


def needed_disk_space(args, model: ContrastiveModel, max_steps: int) -> int:
    """Return the bytes that the checkpoints and the results of a run still take at most.

    A checkpoint holds the weights without the base of an adapter, the queue and, for each trained weight, the two
    moments of AdamW. The results hold the encoder as well.
    """
    model_bytes = sum(tensor.nbytes for tensor in {*model.parameters(), *model.buffers()})
    moments = 2 * sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    adapter = model.mocose.adapter
    base_bytes = 0 if adapter is None else sum(tensor.nbytes for tensor in adapter.frozen(model.mocose.encoder))
    size = model_bytes - base_bytes + moments + _SMALL_FILES
    count = _count_future_checkpoints(args, max_steps) + bool(args.load_best_model_at_end and args.eval_on_start)
    if args.save_total_limit and args.save_total_limit > 0:
        count = min(count, args.save_total_limit + 1)  # a new checkpoint is complete before the oldest is deleted
    present = sum((folder / MANIFEST).is_file() for folder in checkpoints(Path(args.output_dir)))
    return max(1, count - present) * size + 2 * model_bytes


def _count_future_checkpoints(args, max_steps: int) -> int:
    """Return the largest number of checkpoints that a run may write; a signal may ask for one in any run."""
    if args.save_strategy == "no":
        return 1
    by_epoch = args.save_strategy == "epoch" or (args.save_strategy == "best" and args.eval_strategy == "epoch")
    if by_epoch:
        return max(1, min(math.ceil(args.num_train_epochs), max_steps))
    interval = args.save_steps if args.save_strategy == "steps" else args.eval_steps
    steps = interval if interval >= 1 else math.ceil(interval * max_steps)
    return math.ceil(max_steps / max(1, steps))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def load_weights(model: ContrastiveModel, checkpoint: str | Path) -> None:
    """Load the weights and the queue of a checkpoint into a model of the same configuration, in place."""
    validate_weights(model, checkpoint)
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


def _find_difference(path: Path, name: str, expected: dict) -> str | None:
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
    """Return size (bytes) and sha256 (hex) of a file, and optionally flush it to the disk."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
            size += len(block)
        if flush:
            os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _flush_directory(directory: Path) -> None:
    """Make new names in a directory survive a power failure, if the file system supports it."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:  # Windows opens no directories
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_sentence(error: Exception) -> str:
    """Return the reason without torch's advice to load the file regardless."""
    return one_line(error).split(". ")[0].split(" (1)")[0].rstrip(". ")
