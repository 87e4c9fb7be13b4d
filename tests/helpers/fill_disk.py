"""Let the disk fill up at one point of a run of the command, then make room and go on; prints what was found.

Called with a folder on a small file system of its own and the point.
"""

import contextlib
import io
import sys
from pathlib import Path

import torch
from builders import REPOSITORY
from interruptions import STEPS, make_inputs, same_end
from transformers import Trainer

sys.path.insert(0, str(REPOSITORY))

import run_mocose
from mocose_hf.cli import run
from mocose_hf.training.callbacks import checkpoint_saver as checkpoint_saver

SAVE_THAT_FAILS = 3


def fill(folder: Path) -> None:
    """Write until nothing more can be written."""
    with contextlib.suppress(OSError), (folder / "ballast").open("ab", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass


def before(owner, name: str, folder: Path, wanted=lambda *args: True, call: int = SAVE_THAT_FAILS) -> None:
    """Let the disk fill up before one call of a function, counting those that are wanted."""
    function, calls = getattr(owner, name), 0

    def filling(*args, **kwargs):
        nonlocal calls
        calls += bool(wanted(*args))
        if calls == call and wanted(*args):
            fill(folder)
        return function(*args, **kwargs)

    setattr(owner, name, filling)


def arm(point: str, folder: Path) -> None:
    if point == "weights":
        before(Trainer, "save_model", folder)
    elif point in ("optimizer.pt", "rng_state.pth"):
        before(torch, "save", folder, lambda value, path, *rest: str(path).endswith(point))
    elif point == "manifest":
        before(checkpoint_saver, "write_manifest", folder)
    else:
        before(run, "save_model_and_encoder", folder, call=1)


def main(disk: str, point: str) -> None:
    folder = Path(disk)
    whole = folder.parent / "whole"
    inputs = folder.parent / "inputs"
    if inputs.is_dir():
        options = (inputs / "options").read_text().split("\n")
    else:
        inputs.mkdir()
        options = make_inputs(inputs)
        (inputs / "options").write_text("\n".join(options))
        assert run_mocose.main([*options, "--output_dir", str(whole)]) == 0
    arm(point, folder)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run_mocose.main([*options, "--output_dir", str(folder / "out")])
    (folder / "ballast").unlink()
    line = said.getvalue().splitlines()[-1]
    assert code == 1, f"ended with {code}: {said.getvalue()}"
    assert "cannot be written" in line, line
    assert "--resume_from_checkpoint true" in line, line
    assert "Traceback" not in said.getvalue()
    print(f"{point}: {line}")
    assert run_mocose.main([*options, "--output_dir", str(folder / "out")]) == 0
    found = same_end(whole, folder / "out")
    assert not found, found
    assert (folder / "out" / f"checkpoint-{STEPS}").is_dir()
    print(f"{point}: same bits after going on")


if __name__ == "__main__":
    main(*sys.argv[1:])
