"""The queue of negatives: a ring buffer of past keys that is part of the model's state."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mocose_hf.models.queue_weighting import half_life_log_weights, window_log_weights


class NegativeQueue(nn.Module):
    """Hold the newest `size` keys, each with the optimizer step and the sentence it came from.

    The queue starts with `init_size` random unit rows and grows with each `enqueue` until it holds `size` rows. From
    then on it drops the oldest rows first (https://arxiv.org/abs/2202.13093, section 3.3; the queue is MoCo's,
    https://arxiv.org/abs/1911.05722). All state is in registered buffers, which are saved and loaded with the model.

    Buffers:
        rows: (size, dim) of `dtype`, in ring order; slots never filled are zero.
        enqueued_at: (size,) int64, the optimizer step that made the row, 0 for a random row, −1 for an empty slot.
        row_ids: (size,) int64, the id of the row's sentence, −1 if it is unknown.
        ids_text: scalar int64, a hash of the text whose sentences `row_ids` number; 0 if unknown.
        pointer: scalar int64, the slot that is written next.
        num_filled: scalar int64, the number of slots in use.

    Args:
        size: K ≥ 0; 0 is no queue.
        dim: D ≥ 1.
        init_size: Number of random rows to start with, at most `size`.
        dtype: The type that rows are rounded to. torch.bfloat16 takes half the memory of torch.float32. It changes the
            cosine with a unit vector by at most 2⁻⁸ = 0.004, and by 0.0001 on average (root mean square over random
            vectors of 256 dimensions; the largest of 40 million changes was 0.0006).

    Raises:
        ValueError: If a number is outside its range.

    Examples:
        >>> queue = NegativeQueue(size=3, dim=2)
        >>> queue.enqueue(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), step=1)
        >>> queue.stored_keys()  # newest first
        tensor([[0., 1.],
                [1., 0.]])
        >>> queue.enqueue(torch.tensor([[-1.0, 0.0], [0.0, -1.0]]), step=2)
        >>> queue.stored_keys()  # the oldest row was dropped
        tensor([[ 0., -1.],
                [-1.,  0.],
                [ 0.,  1.]])
        >>> queue.ages(step=3)
        tensor([1, 1, 2])
    """

    def __init__(self, size: int, dim: int, init_size: int = 0, dtype: torch.dtype = torch.float32):
        super().__init__()
        if size < 0 or dim < 1 or not 0 <= init_size <= size:
            raise ValueError(
                f"A queue needs `size` ≥ 0, `dim` ≥ 1 and 0 ≤ `init_size` ≤ `size`, but they are {size}, {dim} and "
                f"{init_size}."
            )
        self.size, self.dim, self.init_size, self.dtype = size, dim, init_size, dtype
        self.rows: Tensor
        self.enqueued_at: Tensor
        self.row_ids: Tensor
        self.ids_text: Tensor
        self.pointer: Tensor
        self.num_filled: Tensor
        for name, value in self.initial_state().items():
            self.register_buffer(name, value)

    def initial_state(self) -> dict[str, Tensor]:
        """Return fresh values for all buffers; the random rows come from torch's global generator."""
        rows = torch.zeros(self.size, self.dim, dtype=self.dtype)
        rows[: self.init_size] = F.normalize(torch.randn(self.init_size, self.dim), dim=-1)
        enqueued_at = torch.full((self.size,), -1, dtype=torch.int64)
        enqueued_at[: self.init_size] = 0
        return {
            "rows": rows,
            "enqueued_at": enqueued_at,
            "row_ids": torch.full((self.size,), -1, dtype=torch.int64),
            "ids_text": torch.tensor(0),
            "pointer": torch.tensor(self.init_size % max(self.size, 1)),
            "num_filled": torch.tensor(self.init_size),
        }

    def clear(self) -> None:
        """Empty all slots in place."""
        self.rows.zero_()
        self.enqueued_at.fill_(-1)
        self.row_ids.fill_(-1)
        self.pointer.zero_()
        self.num_filled.zero_()

    @torch.no_grad()
    def enqueue(self, keys: Tensor, sentence_ids: Tensor | None = None, step: int = 0) -> None:
        """Write keys into the ring in place; a full queue overwrites its oldest rows.

        Run the backward pass of a loss over `rows` first: torch cannot differentiate rows that were overwritten.

        Args:
            keys: (B, dim), L2-normalised, for any B; of more than `size` rows the last `size` stay. They are rounded
                to the queue's `dtype`.
            sentence_ids: (B,) integers; −1 for all if None.
            step: The optimizer step that the keys belong to, counted from 1.

        Raises:
            ValueError: If a shape does not fit.
        """
        if keys.ndim != 2 or keys.shape[1] != self.dim:
            raise ValueError(f"The queue takes keys of shape (B, {self.dim}), not {tuple(keys.shape)}.")
        if sentence_ids is not None and sentence_ids.shape != keys.shape[:1]:
            raise ValueError(f"{len(keys)} keys need {len(keys)} sentence ids, not {tuple(sentence_ids.shape)}.")
        if self.size == 0 or len(keys) == 0:
            return
        num_kept = min(len(keys), self.size)
        slots = (self.pointer + torch.arange(num_kept, device=self.pointer.device)) % self.size
        self.rows.index_copy_(0, slots, keys[-num_kept:].to(self.rows))
        # `enqueued_at[slots] = step` would copy the number to a GPU, which forces a synchronisation.
        self.enqueued_at.index_fill_(0, slots, step)
        if sentence_ids is None:
            self.row_ids.index_fill_(0, slots, -1)
        else:
            self.row_ids.index_copy_(0, slots, sentence_ids[-num_kept:].to(self.row_ids))
        self.pointer.add_(num_kept).remainder_(self.size)
        self.num_filled.add_(num_kept).clamp_(max=self.size)

    @torch.no_grad()
    def use_ids_of(self, text: int) -> None:
        """Forget the sentence ids in the queue unless they number the sentences of this text.

        A sentence's id is its row number, so ids of another text would mask true negatives. The keys stay.

        Args:
            text: A hash of the text, in [0, 2⁶³); 0 if unknown, which never equals another text.
        """
        if text == 0 or int(self.ids_text) != text:
            self.row_ids.fill_(-1)
        self.ids_text.fill_(text)

    def log_weights(self, window: str = "all", softness: float = 0.0, half_life: float | None = None) -> Tensor:
        """Return the log of each slot's weight, which the losses add to its logits: (size,) float32, −∞ if empty.

        With it, all of `rows` can serve as negatives in memory order: nothing is copied, shapes stay constant while
        the queue fills, and a GPU needs no synchronisation.

        Args:
            window, softness: Which of the slots in use count, as in `window_log_weights`; the others have −∞.
            half_life: Optimizer steps after which a row counts half, as in `half_life_log_weights`.
        """
        is_empty = self.enqueued_at < 0
        log_weights = self.rows.new_zeros(self.size, dtype=torch.float32).masked_fill_(is_empty, float("-inf"))
        if window != "all":
            log_weights = log_weights + window_log_weights(self.ranks(), self.num_filled, window, softness)
        if half_life is not None:
            log_weights = log_weights + half_life_log_weights(self.slot_ages(), half_life)
        return log_weights

    def ranks(self) -> Tensor:
        """Return the rank of each slot by age: (size,) int64, 0 for the newest, from `num_filled` on for empty slots.

        It is its own inverse: the same numbers are the slots in order of rank.
        """
        return (self.pointer - 1 - torch.arange(self.size, device=self.pointer.device)) % max(self.size, 1)

    def slot_ages(self) -> Tensor:
        """Return how many optimizer steps each slot's row is older than the newest row: (size,) int64.

        No row is younger than a row that came after it. Rows of an earlier training, whose steps were counted
        separately, are therefore as old as the oldest row of this training. Values of empty slots are meaningless.
        """
        slots = self.ranks()
        steps = self.enqueued_at[slots]
        return (steps[:1] - steps).clamp_(min=0).cummax(0).values[slots]

    def newest_first(self) -> Tensor:
        """Return the slots in use, newest first: (N,) int64. On a GPU, reading N forces a synchronisation."""
        return (self.pointer - 1 - torch.arange(int(self.num_filled), device=self.pointer.device)) % max(self.size, 1)

    def stored_keys(self) -> Tensor:
        """Return a copy of the rows in use, newest first: (N, dim) of `dtype`."""
        return self.rows[self.newest_first()]

    def sentence_ids(self) -> Tensor:
        """Return the sentence id of each stored key, newest first: (N,), −1 if unknown."""
        return self.row_ids[self.newest_first()]

    def ages(self, step: int) -> Tensor:
        """Return the age of each stored key at optimizer step `step`, newest first: (N,), in optimizer steps."""
        return step - self.enqueued_at[self.newest_first()]

    def extra_repr(self) -> str:  # noqa: D102
        return f"size={self.size}, dim={self.dim}, init_size={self.init_size}, dtype={self.dtype}"
