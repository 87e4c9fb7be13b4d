"""The output directory: nothing in it is overwritten unasked, and an interrupted run is found again."""

import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.trainer_callback import TrainerState

from mocose_hf.errors import InputError, one_line
from mocose_hf.export import SENTENCE_ENCODER
from mocose_hf.modeling_mocose import MoCoSEForPreTraining

STATE_FILE = "trainer_state.json"
WEIGHTS_FILE = "model.safetensors"


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | bool | None) -> str | None:
    """Return the checkpoint to go on from: the newest for "true", None for a fresh start, or the one named.

    Raises:
        InputError: Where the named one is no checkpoint.
    """
    wanted = str(resume_from_checkpoint or "false").lower()
    if wanted == "false":
        return None
    if wanted == "true":
        complete = [p for p in Path(output_dir).glob("checkpoint-*") if (p / STATE_FILE).is_file()]
        numbered = [p for p in complete if p.name.removeprefix("checkpoint-").isdigit()]
        return str(max(numbered, key=lambda p: int(p.name.removeprefix("checkpoint-")))) if numbered else None
    if not (Path(resume_from_checkpoint) / STATE_FILE).is_file():
        raise InputError(
            f"--resume_from_checkpoint {resume_from_checkpoint}: no checkpoint, as it has no {STATE_FILE}; name a "
            "checkpoint-N folder, or true for the newest."
        )
    return str(resume_from_checkpoint)


def check_output_dir(output_dir: str | Path, overwrite: bool, resume_wanted: bool) -> None:
    """Raise an `InputError` where a training that starts anew would write over what is there."""
    path = Path(output_dir)
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            what = "is a file" if folder == path else f"{folder} is a file"
            raise InputError(f"--output_dir {path}: {what}; name a directory.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        if resume_wanted:
            raise InputError(
                f"--output_dir {path}: is not empty, but holds no complete checkpoint to go on from; name another, or "
                "replace what is there with --overwrite_output_dir."
            )
        raise InputError(
            f"--output_dir {path}: is not empty; name another, go on with --resume_from_checkpoint true, or replace "
            "the earlier run with --overwrite_output_dir."
        )


def clear_output_dir(output_dir: str | Path) -> None:
    """Remove checkpoints and export of an earlier run, and leave files of any other kind alone."""
    path = Path(output_dir)
    for folder in [*path.glob("checkpoint-*"), path / SENTENCE_ENCODER]:
        if folder.is_dir():
            shutil.rmtree(folder)


def read_state(checkpoint: str | Path) -> TrainerState:
    """Read how far the run of a checkpoint had come."""
    return TrainerState.load_from_json(str(Path(checkpoint) / STATE_FILE))


def check_checkpoint(model: MoCoSEForPreTraining, checkpoint: str | Path) -> None:
    """Raise an `InputError` where a checkpoint lacks a weight or a part of the queue, or has another shape of one."""
    path = Path(checkpoint) / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as file:
            saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); go on from an earlier checkpoint.") from error
    shared = set(model._keys_to_ignore_on_save)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in shared}
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            raise InputError(
                f"{path}: `{name}` has the shape {saved.get(name)}, but {expected.get(name)} is needed; repeat the "
                "options of the run that made it."
            )


def load_weights(model: MoCoSEForPreTraining, checkpoint: str | Path) -> None:
    """Load all weights and the queue of a checkpoint into a model of the same configuration, in place."""
    check_checkpoint(model, checkpoint)
    model.load_state_dict(load_file(Path(checkpoint) / WEIGHTS_FILE), strict=False)
