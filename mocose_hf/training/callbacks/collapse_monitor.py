"""Detect a collapse of the sentence embeddings, which the loss does not show."""

import itertools

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from mocose_hf.data.streaming import InfiniteStream
from mocose_hf.errors import CollapseError
from mocose_hf.evaluation.geometry import effective_rank, uniformity
from mocose_hf.parallel.collectives import broadcast

logger = logging.get_logger(__name__)

LEAST_SHARES = {"embedding_std": 0.2, "embedding_uniformity": 0.05, "embedding_rank": 0.35}
"""Minimum share of its best value in the run that each quantity has in a healthy training.

Healthy trainings of pretrained encoders went down to 0.57, 0.3 and 0.53. In a collapse either the first two fall to
0.1 and 0.02 or less, or the third to 0.2 or less.
"""

MOST_PROBE_ROWS, LEAST_PROBE_ROWS = 32, 8
CHECKS_TO_ALARM, RECENT_CHECKS = 2, 3
"""How many of the most recent checks must be low: a collapse can pause for one check before it completes."""

RECOVERY = 1.5
"""A collapse is over once each quantity exceeds its minimum share by this factor."""


def measure_spread(embeddings: Tensor) -> dict[str, float]:
    """Measure how sentence embeddings spread on the unit sphere.

    Args:
        embeddings: (N, H), N ≥ 2; normalised here.

    Returns:
        `embedding_std`: standard deviation over the rows, mean over dimensions, times √H; 1 if they spread evenly,
        0 if they are equal.
        `embedding_uniformity`: as `uniformity`, in [−8, 0], 0 if they are equal.
        `embedding_rank`: effective rank of the centred rows, divided by the largest possible rank,
        min(N − 1, H); in [0, 1].
    """
    unit = F.normalize(embeddings.double(), dim=-1)
    rows, width = unit.shape
    return {
        "embedding_std": unit.std(0, correction=0).mean().item() * width**0.5,
        "embedding_uniformity": uniformity(unit),
        "embedding_rank": effective_rank(unit - unit.mean(0)) / min(rows - 1, width),
    }


class CollapseMonitor(TrainerCallback, ExportableState):
    """Warn if the sentence embeddings collapse, or stop the run with `stop_on_collapse`.

    Before training and every `collapse_check_steps` optimizer steps, the online encoder embeds the same training
    sentences as a user would: pooled, without heads and with dropout off. Their number is that of a device in an
    optimizer step, at most `MOST_PROBE_ROWS`, so that all checks cost well below 1 % of the training. The outputs of
    the training step are no substitute: dropout alone spreads them, by about √p at a dropout of p in the last layer
    of the heads, in a collapsed model too.

    A collapse means that a quantity of `measure_spread` is below its share (`LEAST_SHARES`) of its best value so far
    in `CHECKS_TO_ALARM` of the last `RECENT_CHECKS` checks. It is over once all are above `RECOVERY` times that. The
    values of encoders differ widely, so an encoder whose embeddings are similar from the start raises no alarm.

    It draws no random number and does not change the model. It stays silent with fewer than `LEAST_PROBE_ROWS`
    sentences, which are too few. All processes use the measurements of the first one. Its state is part of each
    checkpoint and is always restored.

    Attributes:
        best: The best value of each quantity so far in this run.
        latest: The measurements since the last line of the log.
        recent_checks: Whether each of the most recent checks was low, oldest first.
        warned: Whether the current collapse has been reported.
        alarm_step: The optimizer step of the first report, None before.

    Raises:
        CollapseError: After the optimizer step, on all processes, with `stop_on_collapse`.
    """

    def __init__(self):
        self._probe: list[str] = []
        self.latest: dict[str, float]
        self._reset()

    def state(self) -> dict:
        """Return the state for a checkpoint, as JSON can hold it."""
        return {"args": {}, "attributes": {name: getattr(self, name) for name in self._initial_state()}}

    def pop_metrics(self) -> dict[str, float]:
        """Return the measurements since the last call; empty if there are none."""
        latest, self.latest = self.latest, {}
        return latest

    def on_train_begin(self, args, state, control, model=None, processing_class=None, train_dataloader=None, **kwargs):
        """Choose the sentences and measure the start, or restore the state of the checkpoint."""
        self._reset()
        rows = min(MOST_PROBE_ROWS, args.local_batch_size * args.gradient_accumulation_steps)
        is_active = args.collapse_check_steps > 0 and processing_class is not None
        dataset = getattr(train_dataloader, "dataset", None)
        self._probe = _probe_sentences(getattr(dataset, "dataset", dataset), rows) if is_active else []
        saved = (state.stateful_callbacks or {}).get(type(self).__name__) if state.global_step else None
        if saved:
            saved = saved[0] if isinstance(saved, list) else saved
            for name in self._initial_state():
                setattr(self, name, saved["attributes"][name])
        elif self._probe:
            self.best = self._measure(args, model, processing_class)
        if args.stop_on_collapse and not self._probe:
            logger.warning(
                "`stop_on_collapse` has no effect: it needs a tokenizer, a dataset with a column `text`, and at least "
                f"{LEAST_PROBE_ROWS} different sentences in it and in an optimizer step of each device."
            )

    def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        """Measure, compare with the best values, and warn or stop."""
        if not self._probe or state.global_step % args.collapse_check_steps:
            return
        self.latest = self._measure(args, model, processing_class)
        shares = {}
        for name, value in self.latest.items():
            best = self.best.get(name, 0.0)
            self.best[name] = max(value, best, key=abs)
            shares[name] = abs(value / self.best[name]) if self.best[name] else 1.0
        low = [name for name, share in shares.items() if share < LEAST_SHARES[name]]
        self.recent_checks = [*self.recent_checks, bool(low)][-RECENT_CHECKS:]
        if low and sum(self.recent_checks) >= CHECKS_TO_ALARM:
            message = self._message(low, state.global_step, model.collapse_remedies)
            if args.stop_on_collapse:
                raise CollapseError(message)
            if not self.warned and state.is_world_process_zero:
                logger.warning(message)
            self.warned = True
            self.alarm_step = state.global_step if self.alarm_step is None else self.alarm_step
        elif all(share > RECOVERY * LEAST_SHARES[name] for name, share in shares.items()):
            self.warned = False

    def _message(self, low: list[str], step: int, remedies: str) -> str:
        values = ", ".join(
            f"`{name}` is {self.latest[name]:.3g}, and {self.best[name] * LEAST_SHARES[name]:.3g} to "
            f"{self.best[name]:.3g} is healthy in this run"
            for name in low
        )
        return f"The sentence embeddings have collapsed at step {step}: {values}. Start again {remedies}."

    def _measure(self, args, model, tokenizer) -> dict[str, float]:
        """Measure the probe sentences; empty if a number is not finite, which the trainer reports."""
        embeddings = model.encode(self._probe, tokenizer, max_seq_length=args.max_seq_length)
        spread = measure_spread(embeddings.nan_to_num())
        values = torch.tensor(list(spread.values()), device=args.device)
        values[~embeddings.isfinite().all()] = torch.nan
        broadcast(values)
        return dict(zip(spread, values.tolist(), strict=True)) if values.isfinite().all() else {}

    def _reset(self) -> None:
        for name, value in self._initial_state().items():
            setattr(self, name, value)

    @staticmethod
    def _initial_state() -> dict:
        return {"best": {}, "latest": {}, "recent_checks": [], "warned": False, "alarm_step": None}


def _probe_sentences(train_dataset, rows: int) -> list[str]:
    """Return different training sentences, evenly spaced, or the first of a stream; none if there are too few."""
    if isinstance(train_dataset, InfiniteStream):
        texts = [row.get("text") for row in itertools.islice(train_dataset.one_pass(), rows)]
    elif isinstance(train_dataset, Dataset) and "text" in train_dataset.column_names:
        step = max(len(train_dataset) // rows, 1)
        texts = train_dataset[: step * rows : step]["text"]
    else:
        return []
    sentences = [text for text in dict.fromkeys(texts) if isinstance(text, str)]
    return sentences if len(sentences) >= LEAST_PROBE_ROWS else []
