"""Running means of what each training step measures, written to the log and to checkpoints."""

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mocose_hf.errors import InputError, one_line
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.training.checkpoint import TRAIN_METRICS_FILE

NAMES = ("loss", "contrastive_accuracy", "query_std", "key_std")


@runtime_checkable
class MetricSource(Protocol):
    """A callback whose measurements the trainer adds to the next line of the training log."""

    def pop_metrics(self) -> dict[str, float]:
        """Return the metrics measured since the last call, by name."""
        ...


class TrainMetrics:
    """Means over the forwards of all processes since the last line of the log; equal on all processes.

    `Trainer` sums the loss too, but loses the sum if a run is interrupted between two lines.

    Attributes:
        keys_per_step: The most keys that entered the queue in one optimizer step of this run, 0 before the first.
    """

    def __init__(self):
        self._forwards: int
        self._logged_loss: float
        self._logged_forwards: int
        self._sums: Tensor | None  # (len(NAMES),) float32, on the device of training
        self.load(None, torch.device("cpu"))

    def add(self, forward: Tensor) -> None:
        """Add one forward: (W, len(NAMES)), a row of `measure` for each of W processes."""
        values = forward.mean(0)
        self._sums = values if self._sums is None else self._sums + values
        self._forwards += 1

    def pop_means(self) -> dict[str, float]:
        """Return the means since the last call, and reset them. If there was no forward, the result is empty."""
        if self._sums is None:
            return {}
        sums = self._sums.tolist()
        self._logged_loss += sums[0]
        self._logged_forwards += self._forwards
        means = {name: total / self._forwards for name, total in zip(NAMES, sums, strict=True)}
        self._sums, self._forwards = None, 0
        return means

    def mean_loss(self) -> float:
        """Return the mean loss of the run so far, including the parts before each interruption."""
        unlogged = 0.0 if self._sums is None else self._sums[0].item()
        return (self._logged_loss + unlogged) / max(1, self._logged_forwards + self._forwards)

    def save(self, checkpoint: str | Path) -> None:
        """Write the exact state into a checkpoint."""
        state = {
            "sums": None if self._sums is None else self._sums.tolist(),
            "forwards": self._forwards,
            "logged_loss": self._logged_loss,
            "logged_forwards": self._logged_forwards,
            "keys_per_step": self.keys_per_step,
        }
        (Path(checkpoint) / TRAIN_METRICS_FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def load(self, checkpoint: str | Path | None, device: torch.device) -> None:
        """Load the state from a checkpoint; None resets it for the start of a run.

        Raises:
            InputError: If the file does not hold what `save` wrote.
        """
        path = None if checkpoint is None else Path(checkpoint) / TRAIN_METRICS_FILE
        try:
            state = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            sums = state.get("sums")
            self._sums = None if sums is None else torch.tensor(sums, device=device).reshape(len(NAMES))
            self._forwards = int(state.get("forwards", 0))
            self._logged_loss = float(state.get("logged_loss", 0.0))
            self._logged_forwards = int(state.get("logged_forwards", 0))
            self.keys_per_step = int(state.get("keys_per_step", 0))
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({one_line(error)}); resume from another checkpoint.") from error


@torch.no_grad()
def measure(loss: Tensor, outputs: ContrastiveOutput) -> Tensor:
    """Return the values of `NAMES` for one forward of this process: (1, len(NAMES)) float32."""
    values = (
        loss.detach().float(),
        outputs.is_top1.float().mean(),
        outputs.query_embeddings.std(0, correction=0).mean(),
        outputs.key_embeddings.std(0, correction=0).mean(),
    )
    return torch.stack(values)[None]
