"""Distil an encoder into one vector a token, which embeds text without a transformer (model2vec)."""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mocose_hf.errors import InputError, install_command


def validate_libraries() -> None:
    """Raise an `InputError` if a library that distillation needs is not installed."""
    for library in ("model2vec", "skeletoken"):
        if importlib.util.find_spec(library) is None:
            raise InputError(
                f"a static model needs {library}, which is not installed; run {install_command('static')}."
            )


class StaticEncoder:
    """A static model with the `encode` of this package.

    Args:
        model: A `model2vec.StaticModel`.
    """

    def __init__(self, model):
        self.model = model

    @classmethod
    def distil(cls, directory: str | Path) -> "StaticEncoder":
        """Distil a plain encoder: each token of its vocabulary is embedded alone, then reduced by PCA.

        Args:
            directory: A plain encoder.
        """
        from model2vec.distill import distill

        return cls(distill(str(directory), device="cpu"))

    def save(self, directory: str | Path) -> None:
        """Write it as a directory that model2vec and sentence-transformers load."""
        self.model.save_pretrained(Path(directory))

    def encode(self, sentences: list[str], tokenizer=None, *, batch_size: int = 1024, **_) -> Tensor:
        """Return the embeddings of N sentences, (N, D) float32; the model has its own tokenizer."""
        embeddings = self.model.encode(sentences, batch_size=batch_size, use_multiprocessing=False)
        return torch.from_numpy(np.asarray(embeddings, dtype=np.float32))
