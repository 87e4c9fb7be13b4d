"""Numbers gone bad in training: told before anything is made of them, without keeping a GPU waiting."""

import torch
from torch import Tensor


class NaNMonitor:
    """Raise an error where the numbers of an optimizer step are not all finite.

    To read a number of a GPU is to wait until the GPU has done all it was told, while it then waits for the next
    step. So there the one flag of a step goes to memory behind the step's other work, and is looked at when the next
    step is about to change the weights. A training calls `look` then, and before it logs, evaluates or saves.

    Args:
        late: Whether to look that late and not at once, which costs nothing where the numbers are in memory anyhow.
    """

    def __init__(self, late: bool):
        self._late = late
        self.forget()

    def forget(self) -> None:
        """Begin anew, with nothing to look at."""
        self._finite: Tensor | None = None  # () bool in memory, once `_copied`
        self._copied: torch.cuda.Event | None = None
        self._step = 0

    def note(self, step: int, parts: list[Tensor]) -> None:
        """Take the numbers of optimizer step `step`, floating tensors of one device; look at them at once, or later.

        Raises:
            FloatingPointError: As `look`, for this step unless late, and for the one before.
        """
        self.look()
        if not parts:
            return
        finite = torch.cat([part.reshape(-1) for part in parts]).isfinite().all()
        self._finite, self._step = finite.to("cpu", non_blocking=True), step  # from CUDA into pinned memory
        if finite.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        if not self._late:
            self.look()

    def look(self) -> None:
        """Look at the step noted last, if it has not been.

        Raises:
            FloatingPointError: Where its numbers were not all finite.
        """
        if self._finite is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        finite, step = bool(self._finite), self._step
        self.forget()
        if not finite:
            raise FloatingPointError(
                f"The loss, the gradient or a key of step {step} is not finite; lower `learning_rate`, or train in "
                "float32. Checkpoints before it are good."
            )
