"""Optimizers with two sets of weights: they train one, and evaluate and save the other, an average."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mocose_hf.errors import InputError, one_line

TRAINING_WEIGHTS_FILE = "training_weights.safetensors"


class ScheduleFreeWeights:
    """Put the averaged weights into the model while it is scored or saved, and restore the trained ones bit for bit.

    Schedule-free optimizers (https://arxiv.org/abs/2405.15682) have methods `train` and `eval` for the switch, which
    transformers calls too. Their `train` rounds, so this class keeps a copy of the trained weights. It does nothing
    with any other optimizer.
    """

    def __init__(self):
        self._model: nn.Module | None = None
        self._optimizer: Any = None  # an optimizer with `train` and `eval`

    def begin(self, model: nn.Module, optimizer) -> None:
        """Begin a training.

        Args:
            model: The model whose trainable parameters the optimizer holds.
            optimizer: The optimizer of `Trainer`, with or without the wrapper of accelerate.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)
        has_two_sets = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))
        self._model, self._optimizer = model, optimizer if has_two_sets else None

    def end(self) -> None:
        """End a training, with the averaged weights in the model."""
        if self._optimizer is not None:
            self._optimizer.eval()
        self._optimizer = None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Keep the averaged weights in the model inside a `with` block."""
        if self._optimizer is None:
            yield
            return
        trained = {name: value.detach().clone() for name, value in self._trainable().items()}
        self._optimizer.eval()
        try:
            yield
        finally:
            self._optimizer.train()
            self._copy(trained)

    def save(self, checkpoint: str | Path) -> None:
        """Write the trained weights into a checkpoint, whose model holds the averaged ones."""
        if self._optimizer is not None:
            weights = {name: value.detach().contiguous() for name, value in self._trainable().items()}
            save_file(weights, Path(checkpoint) / TRAINING_WEIGHTS_FILE)

    def load(self, checkpoint: str | Path) -> None:
        """Load the trained weights from a checkpoint.

        Raises:
            InputError: If they are missing or do not fit.
        """
        if self._optimizer is None:
            return
        path = Path(checkpoint) / TRAINING_WEIGHTS_FILE
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({one_line(error)}); resume from another checkpoint.") from error
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in self._trainable().items()}:
            raise InputError(f"{path}: does not fit the trained weights; repeat the options of the run.")
        self._copy(weights)

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self._model.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def _copy(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._trainable().items():
            parameter.copy_(weights[name])
