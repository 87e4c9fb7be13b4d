"""Folders that look like checkpoints."""

from pathlib import Path

from mocose_hf.training.checkpoint import (
    WEIGHTS_FILE,
    checkpoints,
    step_of,
    write_manifest,
)

RUN = {"seed": 1, "training_data": None}


SHARD = "global_step3/rank_0.pt"


def unfinished(parent: Path, step: int) -> Path:
    folder = parent / f"checkpoint-{step}"
    (folder / SHARD).parent.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
    (folder / WEIGHTS_FILE).write_bytes(bytes(range(200)))
    (folder / SHARD).write_bytes(b"shard")
    return folder


def complete(parent: Path, *steps: int) -> Path:
    """Write checkpoints, and return the last one."""
    for step in steps:
        folder = unfinished(parent, step)
        write_manifest(folder, RUN)
    return folder


def steps_in(parent: Path) -> list[int]:
    return sorted(step_of(path) for path in checkpoints(parent))
