"""Clocks, memory and profiles of training, as callbacks that any Trainer takes."""

import resource
import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback

WARM_UP_STEPS = 2


def clock(device: torch.device) -> float:
    """Return CPU seconds of this process; for a GPU wall seconds after a synchronisation."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory of this process in GB: tensors on a GPU, otherwise resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the size of the process that started this one
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def wall_and_cpu_seconds() -> tuple[float, float]:
    """Return wall seconds, and CPU seconds of this process and its finished children."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + workers.ru_utime + workers.ru_stime


class StepMeter(TrainerCallback):
    """Measure `seconds` per step over `steps` steps, from the end of the warm-up on, and `memory_gb` by then."""

    def __init__(self, steps: int):
        self._steps = steps

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        if state.global_step == WARM_UP_STEPS:
            self._start = clock(args.device)
        if state.global_step == WARM_UP_STEPS + self._steps:
            self.seconds = (clock(args.device) - self._start) / self._steps
            self.memory_gb = peak_memory_gb(args.device)


class LaunchCounter(TrainerCallback):
    """Count `launches`, the kernels that the last step starts on a GPU."""

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        if state.global_step == state.max_steps - 1:
            self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profile.start()
        if state.global_step == state.max_steps:
            torch.cuda.synchronize(args.device)
            self._profile.stop()
            events = self._profile.key_averages()
            self.launches = sum(event.count for event in events if event.key.startswith("cudaLaunchKernel"))


class Profiler(TrainerCallback):
    """Record all steps after the warm-up; write a trace for Perfetto or chrome://tracing, print the top operators."""

    def __init__(self, trace: Path, steps: int):
        self._trace, self._steps = trace, steps

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: D102
        on_gpu = args.device.type == "cuda"
        self._sort_by = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
        self._profile = profile(
            activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu,
            schedule=schedule(wait=WARM_UP_STEPS - 1, warmup=1, active=self._steps, repeat=1),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def on_step_end(self, args, state, control, **kwargs):  # noqa: D102
        self._profile.step()

    def on_train_end(self, args, state, control, **kwargs):  # noqa: D102
        self._profile.stop()

    def _write(self, finished: profile) -> None:
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        finished.export_chrome_trace(str(self._trace))
        print(finished.key_averages().table(sort_by=self._sort_by, row_limit=20, max_name_column_width=48))
