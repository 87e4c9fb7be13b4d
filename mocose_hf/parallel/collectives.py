"""The little that the model needs to know of other processes."""

import os
import sys
import threading
from typing import NoReturn

import torch
from torch import Tensor, distributed

from mocose_hf.compat import run_exit_functions


def process_index() -> int:
    """Return this process's rank, 0 where there is one process."""
    return 0 if _alone() else distributed.get_rank()


def process_count() -> int:
    """Return the number of processes."""
    return 1 if _alone() else distributed.get_world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (B, …) of all W processes as (W·B, …) in the order of their ranks, without gradient.

    Every process must give the same number of rows.
    """
    if _alone():
        return rows.detach()
    gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, rows.detach().contiguous())
    return torch.cat(gathered)


def gather_rows_with_gradient(rows: Tensor) -> Tensor:
    """Return the rows of all processes as `gather_rows` does, with gradient where `rows` has it.

    The gradient of a process's rows is the sum of those that all processes have for them. Where each takes the mean
    over its own queries, and gradients of weights are averaged over processes, as under DistributedDataParallel, that
    is the gradient of the mean over all queries. Every process must run its backward.
    """
    if not rows.requires_grad:
        return gather_rows(rows)
    return rows if _alone() else _GatherRows.apply(rows)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows):
        ctx.count = len(rows)
        return gather_rows(rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        total = gradient.contiguous().clone()  # not ours to change
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.count
        return total[first : first + ctx.count]


def any_process(flag: bool, device: torch.device) -> bool:
    """Return on all processes whether the flag is set on one of them; `device` is where they talk."""
    return flag if _alone() else bool(gather_rows(torch.tensor([flag], dtype=torch.uint8, device=device)).any())


def broadcast(tensor: Tensor) -> None:
    """Overwrite the tensor in place with that of the first process."""
    if not _alone():
        distributed.broadcast(tensor, src=0)


def wait_for_all() -> None:
    """Wait until every process has come here."""
    if not _alone():
        distributed.barrier()


def end_process(code: int) -> NoReturn:
    """End this process as `sys.exit(code)` does, but, where it has talked to others, before torch can abort it.

    A thread of torch's (2.13, gloo) that lets go of a tensor while the interpreter is taken apart ends the process by
    SIGABRT, whatever it has achieved (the fault: https://github.com/pytorch/pytorch/pull/179291), and
    `destroy_process_group` does not end that thread where DistributedDataParallel has been used. So what is to be
    done at the end is done here, and the interpreter left as it is.
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


def _alone() -> bool:
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
