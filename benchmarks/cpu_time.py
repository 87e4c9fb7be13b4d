"""CPU seconds of a training step."""

import time

from transformers import TrainerCallback

WARM_UP_STEPS = 2


class CpuTime(TrainerCallback):
    """Measure CPU seconds per step, from the end of the warm-up to the end of training."""

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        if state.global_step == WARM_UP_STEPS:
            self._start = time.process_time()
        if state.global_step == state.max_steps:
            self.seconds = (time.process_time() - self._start) / (state.max_steps - WARM_UP_STEPS)
