"""Momentum contrast as a loss of sentence-transformers, for its own trainer.

Raises:
    ImportError: If sentence-transformers is not installed; the message has the command.
"""

import importlib.util

from mocose_hf.errors import install_command

if importlib.util.find_spec("sentence_transformers") is None:
    raise ImportError(
        "mocose_hf.sentence_transformers needs the library sentence-transformers, which is not installed; run "
        f"{install_command('sentence-transformers')}."
    )

from mocose_hf.sentence_transformers.momentum_callback import MomentumCallback
from mocose_hf.sentence_transformers.momentum_loss import MomentumContrastLoss

__all__ = ["MomentumCallback", "MomentumContrastLoss"]
