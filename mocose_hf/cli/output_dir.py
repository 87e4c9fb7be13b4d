"""The output directory: nothing in it is overwritten unasked, and there is room for what will be written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mocose_hf.errors import InputError, SaveError, one_line
from mocose_hf.evaluation.score_tables import GEOMETRY_FILES, RESULT_FILES
from mocose_hf.export.sentence_encoder import ADAPTER_FILES, ENCODER_FILES, WHOLE_MODEL
from mocose_hf.files import nearest_folder, read_json_object
from mocose_hf.models.sentence_transformers_format import MODEL_FILE
from mocose_hf.report.run_page import PAGE_FILE, RECORD_FILE
from mocose_hf.training.callbacks.train_log import TRAIN_LOG_FILE
from mocose_hf.training.checkpoint import (
    ALL_RESULTS_FILE,
    STATE_FILE,
    TRAIN_RESULTS_FILE,
    checkpoints,
    remove_checkpoint,
    step_of,
)
from mocose_hf.training.queue_monitor.plot import QUEUE_MONITOR_FILES

CHOICE_FILE = "recipe.json"
"""Which recipe a run chose before training, and by which scores."""

_LOGS = "runs"

_EARLIER_ENCODER = "sentence_encoder"
"""The folder of the plain encoder in the layout before this one, which had the whole model at the root."""

_MODEL_FILES = (
    *ENCODER_FILES,
    *ADAPTER_FILES,
    "modules.json",
    "sentence_bert_config.json",
    MODEL_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "README.md",
)
_MODEL_FOLDERS = ("1_Pooling", "2_Dense", "2_Normalize", "3_Normalize")


def validate_output_dir(output_dir: str | Path, overwrite: bool, resume_wanted: bool) -> None:
    """Raise an `InputError` if a new training would overwrite files.

    A run that was killed before its first complete checkpoint leaves files behind. If `resume_wanted` is true, they
    are allowed, because the run writes them again.
    """
    path = Path(output_dir)
    try:
        _check_place(path)
        entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    except InputError:
        raise
    except (OSError, ValueError) as error:  # too long, a loop of links, a byte that no name may have
        raise output_dir_error(output_dir, error) from error
    if not entries or overwrite:
        return
    if resume_wanted:
        leftovers = {folder.name for folder in checkpoints(path)} | {
            _LOGS,
            CHOICE_FILE,
            TRAIN_LOG_FILE,
            *QUEUE_MONITOR_FILES,
        }
        other = [name for name in entries if name not in leftovers]
        if "modules.json" in other and TRAIN_RESULTS_FILE in other:
            raise InputError(
                f"--output_dir {path}: holds a finished run without checkpoints; use it as it is, or replace it with "
                "--overwrite_output_dir."
            )
        if other:
            raise InputError(
                f"--output_dir {path}: holds {other[0]}, but no complete checkpoint to resume from; name another, "
                "or replace its files with --overwrite_output_dir."
            )
        return
    raise InputError(
        f"--output_dir {path}: is not empty; name another, resume with --resume_from_checkpoint true, or replace "
        "the earlier run with --overwrite_output_dir."
    )


def validate_start_stays(output_dir: str | Path, start: str) -> None:
    """Raise an `InputError` if `clear_output_dir` would remove the encoder that a run starts from.

    Args:
        output_dir: The output directory that is about to be cleared.
        start: Name or path of the encoder.
    """
    path, source = Path(output_dir).resolve(), Path(start).resolve()
    if not source.is_dir() or not source.is_relative_to(path):
        return
    first, *_ = (*source.relative_to(path).parts, "")
    if first in ("", WHOLE_MODEL, _EARLIER_ENCODER) or step_of(first) >= 0:
        raise InputError(
            f"--model_name_or_path {start}: lies in --output_dir {output_dir}, whose model --overwrite_output_dir "
            "removes; name another output directory."
        )


def validate_results_dir(output_dir: str | Path, overwrite: bool) -> None:
    """Raise an `InputError` if scores would overwrite earlier ones, or the directory cannot be made."""
    path = Path(output_dir)
    try:
        _check_place(path)
        earlier = [name for name in (*RESULT_FILES, *GEOMETRY_FILES) if (path / name).exists()]
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise output_dir_error(output_dir, error) from error
    existing = nearest_folder(path)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"--output_dir {path}: {existing} cannot be written into; name another directory.")
    if earlier and not overwrite:
        raise InputError(
            f"--output_dir {path}: holds {earlier[0]} of an earlier evaluation; give another directory, or "
            "--overwrite_output_dir true."
        )


def output_dir_error(output_dir: str | Path, error: Exception) -> InputError:
    """Return what to say where the output directory cannot be made."""
    return InputError(f"--output_dir {output_dir}: cannot be made ({one_line(error)}); name another directory.")


def _check_place(path: Path) -> None:
    for folder in (path, *path.parents):
        if folder.is_symlink() and not folder.exists():
            raise InputError(f"--output_dir {path}: {folder} is a link to nothing; name another directory.")
        if folder.exists() and not folder.is_dir():
            what = "is a file" if folder == path else f"{folder} is a file"
            raise InputError(f"--output_dir {path}: {what}; name a directory.")


def clear_output_dir(output_dir: str | Path) -> None:
    """Remove checkpoints, models, scores and records of an earlier run, and leave files of any other kind alone."""
    path = Path(output_dir)
    clear_results(path)
    _clear_model(path)
    for name in (
        CHOICE_FILE,
        TRAIN_LOG_FILE,
        PAGE_FILE,
        RECORD_FILE,
        *QUEUE_MONITOR_FILES,
        ALL_RESULTS_FILE,
        TRAIN_RESULTS_FILE,
        STATE_FILE,
    ):
        (path / name).unlink(missing_ok=True)
    for folder in [*checkpoints(path), path / _EARLIER_ENCODER]:
        remove_checkpoint(folder)


def keep_only_encoder(output_dir: str | Path) -> None:
    """Remove checkpoints and the whole model of a finished run; encoder, card, report and records stay.

    The newest checkpoint goes first: if this is interrupted, the run resumes from an older one and ends the same.
    """
    path = Path(output_dir)
    for folder in sorted(checkpoints(path), key=step_of, reverse=True):
        remove_checkpoint(folder)
    if _is_whole_model(path / WHOLE_MODEL):
        remove_checkpoint(path / WHOLE_MODEL)


def _clear_model(path: Path) -> None:
    """Remove the encoder at the root and the whole model of an earlier run, in the present or the earlier layout."""
    if _is_whole_model(path / WHOLE_MODEL):
        remove_checkpoint(path / WHOLE_MODEL)
    if not (path / "modules.json").is_file() and not _is_whole_model(path):
        return
    for pattern in _MODEL_FILES:
        for file in path.glob(pattern):
            file.unlink()
    for name in _MODEL_FOLDERS:
        remove_checkpoint(path / name)


def _is_whole_model(folder: Path) -> bool:
    return str(read_json_object(folder / "config.json").get("model_type")).startswith("mocose")


def clear_results(output_dir: str | Path) -> None:
    """Remove the scores of an earlier evaluation."""
    for name in (*RESULT_FILES, *GEOMETRY_FILES):
        (Path(output_dir) / name).unlink(missing_ok=True)


AFTER_TRAINING = (
    "training is done: put the cause right, such as a full disk, and repeat the command with "
    "--resume_from_checkpoint true, which writes them again"
)


@contextmanager
def saving(output_dir: str | None, remedy: str = AFTER_TRAINING) -> Iterator[None]:
    """Turn what goes wrong while results are written into one line, a `SaveError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # safetensors, tokenizers and torch each raise kinds of their own on a full disk
        if not _is_of_the_disk(error):
            raise
        raise SaveError(f"{output_dir}: the results cannot be written ({one_line(error)}); {remedy}.") from error


def _is_of_the_disk(error: Exception) -> bool:
    """Return whether an error came from writing, whatever library raised it."""
    return isinstance(error, OSError) or any(part in str(error) for part in ("os error", "PytorchStreamWriter"))
