"""The little that the model needs to know of other processes."""

import torch
from torch import Tensor, distributed


def process_index() -> int:
    """Return this process's rank, 0 where there is one process."""
    return 0 if _alone() else distributed.get_rank()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (B, …) of all W processes as (W·B, …) in the order of their ranks, without gradient.

    Every process must give the same number of rows.
    """
    if _alone():
        return rows.detach()
    gathered = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, rows.detach().contiguous())
    return torch.cat(gathered)


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


def leave_others() -> None:
    """Take leave of the other processes before this one ends, or torch may end it by an abort (2.13)."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _alone() -> bool:
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
