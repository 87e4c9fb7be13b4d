"""Stop a training at the first number that is not finite, without making a GPU wait."""

import torch
from torch import Tensor


class NaNMonitor:
    """Raise an error if the numbers of an optimizer step are not all finite.

    Reading a value from a GPU forces a synchronisation. So on a GPU each step leaves a single flag, which is copied to
    the host asynchronously and read just before the next step changes the weights. A training also reads it before it
    logs, evaluates or saves.

    Args:
        late: Whether to read the flag of a step at the next `check` instead of at once. Waiting has no benefit on a
            CPU.
    """

    def __init__(self, late: bool):
        self._late = late
        self.reset()

    def reset(self) -> None:
        """Drop the recorded step, if there is one."""
        self._finite: Tensor | None = None  # () bool on the host, valid after `_copied`
        self._copied: torch.cuda.Event | None = None
        self._step = 0

    def record(self, step: int, values: list[Tensor]) -> None:
        """Record the numbers of an optimizer step, and check the step before. Unless `late`, check this step too.

        Args:
            step: The optimizer step.
            values: Floating-point tensors on one device.

        Raises:
            FloatingPointError: If a checked step has a number that is not finite.
        """
        self.check()
        if not values:
            return
        finite = torch.cat([value.reshape(-1) for value in values]).isfinite().all()
        self._finite, self._step = finite.to("cpu", non_blocking=True), step  # from CUDA into pinned memory
        if finite.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        if not self._late:
            self.check()

    def check(self) -> None:
        """Check the recorded step, unless it has been checked.

        Raises:
            FloatingPointError: If its numbers were not all finite.
        """
        if self._finite is None:
            return
        if self._copied is not None:
            self._copied.synchronize()
        finite, step = bool(self._finite), self._step
        self.reset()
        if not finite:
            raise FloatingPointError(
                f"The loss, the gradient or a key of step {step} is not finite; lower `learning_rate`, or train in "
                "float32. Earlier checkpoints are good."
            )
