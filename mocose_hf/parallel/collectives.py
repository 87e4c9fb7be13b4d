"""Collective operations between processes, each of which also works with one process."""

import os
import sys
import threading
from typing import NoReturn

import torch
from torch import Tensor, distributed

from mocose_hf.compat import run_exit_functions


def process_index() -> int:
    """Return this process's rank, 0 if there is one process."""
    return 0 if _is_alone() else distributed.get_rank()


def process_count() -> int:
    """Return the number of processes."""
    return 1 if _is_alone() else distributed.get_world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (B, …) of all W processes as (W·B, …) in the order of their ranks, without gradient.

    Every process must pass the same number of rows.
    """
    if _is_alone():
        return rows.detach()
    gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, rows.detach().contiguous())
    return torch.cat(gathered)


def gather_rows_with_gradient(rows: Tensor) -> Tensor:
    """Return the rows of all processes as `gather_rows` does, with gradient if `rows` has it.

    The gradient of a process's rows is the sum of the gradients that all processes compute for them. If each process
    takes the mean over its own queries, and gradients of weights are averaged over processes as in
    DistributedDataParallel, this equals the gradient of the mean over all queries. Every process must run its backward
    pass.
    """
    if not rows.requires_grad:
        return gather_rows(rows)
    return rows if _is_alone() else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        ctx.count = len(rows)
        return gather_rows(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        total = gradient.contiguous().clone()  # autograd may still use the original
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.count
        return total[first : first + ctx.count]


def any_process(flag: bool, device: torch.device) -> bool:
    """Return on all processes whether the flag is set on any of them; `device` is where they communicate."""
    return flag if _is_alone() else bool(gather_rows(torch.tensor([flag], dtype=torch.uint8, device=device)).any())


def broadcast(tensor: Tensor) -> None:
    """Overwrite the tensor in place with the first process's."""
    if not _is_alone():
        distributed.broadcast(tensor, src=0)


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if not _is_alone():
        distributed.barrier()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code; after collective operations, end it before torch can abort it.

    While the interpreter shuts down, a thread of torch 2.13 (gloo) that releases a tensor ends the process by SIGABRT
    (https://github.com/pytorch/pytorch/pull/179291). `destroy_process_group` does not end that thread if
    DistributedDataParallel was used. This function therefore runs the exit functions itself and skips the shutdown of
    the interpreter.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        sys.exit(code)
    distributed.destroy_process_group()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    run_exit_functions()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_alone() -> bool:
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
