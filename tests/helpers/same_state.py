"""Tell in what two checkpoints differ: every tensor, optimizer, scheduler, RNG, log; not times and places."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

TIMES = ("_runtime", "_per_second")
PLACES = ("best_model_checkpoint",)


def differences(first: Path, second: Path, log: bool = True) -> list[str]:
    """Return the names of all that differs, empty where nothing does."""
    names = [sorted(p.relative_to(d).as_posix() for p in d.rglob("*") if p.is_file()) for d in (first, second)]
    if names[0] != names[1]:
        return [f"files {sorted(set(names[0]) ^ set(names[1]))}"]
    found, compared = [], 0
    for name in names[0]:
        suffix = Path(name).suffix
        if suffix == ".safetensors":
            pair = [load_file(folder / name) for folder in (first, second)]
        elif suffix in (".pt", ".pth"):
            with safe_globals():
                pair = [torch.load(folder / name, weights_only=True) for folder in (first, second)]
        elif name == "trainer_state.json":
            pair = [_state(folder / name, log) for folder in (first, second)]
        elif name == "train_metrics.json":
            pair = [json.loads((folder / name).read_text()) for folder in (first, second)]
        else:
            continue
        compared += 1
        found += [f"{name}: {place}" for place in _unequal(*pair)]
    assert compared >= 5, f"only {compared} files of {first} were compared"
    return found


def _state(path: Path, log: bool) -> dict:
    state = {name: value for name, value in json.loads(path.read_text()).items() if name not in PLACES}
    state["log_history"] = [
        {name: value for name, value in line.items() if not name.endswith(TIMES)}
        for line in state["log_history"]
        if log
    ]
    return state


def _unequal(first, second, place: str = "") -> list[str]:
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [place]
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{place} keys {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [d for name in first for d in _unequal(first[name], second[name], f"{place}/{name}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            return [f"{place} length {len(first)} and {len(second)}"]
        return [d for i, (a, b) in enumerate(zip(first, second, strict=True)) for d in _unequal(a, b, f"{place}/{i}")]
    if hasattr(first, "tobytes"):
        return [] if first.tobytes() == second.tobytes() else [place]
    return [] if first == second else [f"{place}: {first!r} and {second!r}"]
