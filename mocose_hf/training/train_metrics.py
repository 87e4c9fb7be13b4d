"""What a training step tells of itself, summed up between two lines of the log; part of a checkpoint."""

import json
from pathlib import Path

import torch
from torch import Tensor

from mocose_hf.errors import InputError, one_line
from mocose_hf.models.modeling_base import ContrastiveOutput
from mocose_hf.training.checkpoint import TRAIN_METRICS_FILE

NAMES = ("loss", "contrastive_accuracy", "query_std", "key_std")


class TrainMetrics:
    """Mean over the forwards of all processes since the last line of the log; equal on all processes.

    The trainer of transformers sums the loss by itself, but forgets the sum where a run is interrupted between two
    lines.

    Attributes:
        keys_per_step: The most keys that entered the queue in one optimizer step of this run, 0 before the first.
    """

    def __init__(self):
        self._sums: Tensor | None  # (len(NAMES),) float32, on the device of training
        self.load(None, torch.device("cpu"))

    def add(self, forward: Tensor) -> None:
        """Count one forward: (W, len(NAMES)), a row of `measure` for each of W processes."""
        values = forward.mean(0)
        self._sums = values if self._sums is None else self._sums + values
        self._forwards += 1

    def means(self) -> dict[str, float]:
        """Return the means since the last call, none where nothing was counted, and start anew."""
        if self._sums is None:
            return {}
        sums = self._sums.tolist()
        self._loss_of_lines += sums[0]
        self._forwards_of_lines += self._forwards
        means = {name: total / self._forwards for name, total in zip(NAMES, sums, strict=True)}
        self._sums, self._forwards = None, 0
        return means

    def mean_loss(self) -> float:
        """Return the mean loss of the whole run so far, over all its interrupted parts."""
        rest = 0.0 if self._sums is None else self._sums[0].item()
        return (self._loss_of_lines + rest) / max(1, self._forwards_of_lines + self._forwards)

    def save(self, checkpoint: str | Path) -> None:
        """Write everything, to the last bit, into a checkpoint."""
        sums = None if self._sums is None else self._sums.tolist()
        state = {
            "sums": sums,
            "forwards": self._forwards,
            "loss_of_lines": self._loss_of_lines,
            "forwards_of_lines": self._forwards_of_lines,
            "keys_per_step": self.keys_per_step,
        }
        (Path(checkpoint) / TRAIN_METRICS_FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def load(self, checkpoint: str | Path | None, device: torch.device) -> None:
        """Go on from where a checkpoint stands, None for the start of a run.

        Raises:
            InputError: Where its file does not hold what `save` wrote.
        """
        path = None if checkpoint is None else Path(checkpoint) / TRAIN_METRICS_FILE
        try:
            state = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
            sums = state.get("sums")
            self._sums = None if sums is None else torch.tensor(sums, device=device).reshape(len(NAMES))
            self._forwards = int(state.get("forwards", 0))
            self._loss_of_lines = float(state.get("loss_of_lines", 0.0))
            self._forwards_of_lines = int(state.get("forwards_of_lines", 0))
            self.keys_per_step = int(state.get("keys_per_step", 0))
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({one_line(error)}); go on from another checkpoint.") from error


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
