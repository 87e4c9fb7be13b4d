"""Move the target and fill the queue, once per optimizer step."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from mocose_hf.models.ema import constant_distance_ema_decay, maximum_traceable_distance
from mocose_hf.models.modeling_base import ContrastiveModel, ContrastiveOutput
from mocose_hf.parallel.collectives import broadcast, gather_rows
from mocose_hf.training.callbacks.nan_monitor import NaNMonitor
from mocose_hf.training.train_metrics import TrainMetrics, measure


@dataclass
class RecordedForward:
    """The values of one forward that the end of the optimizer step needs, of this process or of all."""

    measures: Tensor
    keys: Tensor
    sentence_ids: Tensor | None
    reverse_keys: Tensor | None = None

    def values(self) -> list[Tensor]:
        """Return the tensors that must be finite."""
        return [part for part in (self.measures, self.keys, self.reverse_keys) if part is not None]

    def gather(self) -> "RecordedForward":
        """Return the same of all processes, in the order of the global batch."""
        parts = (self.measures, self.keys, self.sentence_ids, self.reverse_keys)
        return RecordedForward(*(None if part is None else gather_rows(part) for part in parts))


class MomentumUpdate(TrainerCallback):
    """Move the target and enqueue the keys of all micro-batches and processes after each optimizer step.

    After optimizer step k the target moves with η_{k+1}, so that it is ready for the next batch. If the optimizer
    skipped a step, as fp16 does on overflow, neither target nor queue changes. It comes first in the list of
    callbacks: its `on_step_end` precedes the log, the evaluation and the save of the step.

    Args:
        trainer: The trainer.
        train_metrics: Receives the measurements of each forward.
        nan_monitor: Checks the numbers of each step.
    """

    def __init__(self, trainer: Trainer, train_metrics: TrainMetrics, nan_monitor: NaNMonitor):
        self._trainer = trainer
        self._train_metrics = train_metrics
        self._nan_monitor = nan_monitor
        self.reset()

    def reset(self) -> None:
        """Drop what an interrupted training has left, and copy the queue of the first process to all others."""
        self._forwards: list[RecordedForward] = []
        self._gradient_norm: Tensor | None = None
        self._loss_scale = self._read_loss_scale()
        self._nan_monitor.reset()
        for queue in self._model.queues():
            for buffer in queue.buffers():
                broadcast(buffer)
        queues = self._model.queues()
        # Counted from here on, because reading it from a GPU forces a synchronisation.
        self._num_filled = int(queues[0].num_filled) if queues else 0

    def record_forward(self, loss: Tensor, outputs: ContrastiveOutput) -> None:
        """Keep the keys and measurements of a forward in training until the optimizer step is done."""
        keys = outputs.key_embeddings.detach()
        measures = measure(loss, outputs)
        self._forwards.append(RecordedForward(measures, keys, outputs.sentence_ids, outputs.reverse_key_embeddings))

    def on_train_begin(self, args, state, control, **kwargs):
        """Let the trainer prepare the training, which resets this object, before other callbacks begin."""
        self._trainer.begin_training()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Keep the norm of the gradient that the optimizer is about to use, and the loss scale of fp16."""
        self._nan_monitor.check()
        self._loss_scale = self._read_loss_scale()
        if self._trainer.is_deepspeed_enabled:  # it hides the gradients, and has already made the step
            norm = self._trainer.model_wrapped.get_global_grad_norm()
            self._gradient_norm = torch.as_tensor(norm, device=args.device)
            return
        gradients = [parameter.grad for parameter in self._trainer.model.parameters() if parameter.grad is not None]
        self._gradient_norm = torch.nn.utils.get_total_norm(gradients) if gradients else None

    def on_step_end(self, args, state, control, **kwargs):
        """Move the target and enqueue the keys of the optimizer step.

        Raises:
            FloatingPointError: On all processes, if a loss or a key is not finite, or the gradient of a step that was
                not skipped. The queue does not change. On a GPU it is raised later: by the next step, evaluation or
                save.
        """
        step = state.global_step
        forwards = [forward.gather() for forward in self._forwards]
        gradient_norm, skipped = self._gradient_norm, self._was_skipped()
        self._forwards, self._gradient_norm = [], None
        values = [value for forward in forwards for value in forward.values()]
        if gradient_norm is not None and not skipped:
            values.append(gradient_norm)
        self._nan_monitor.record(step, values)
        for forward in forwards:
            self._train_metrics.add(forward.measures)
        if skipped:
            return
        model = self._model
        count = sum(len(forward.keys) for forward in forwards)
        self._train_metrics.keys_per_step = max(self._train_metrics.keys_per_step, count)
        for forward in forwards:
            for queue, keys in zip(model.queues(), (forward.keys, forward.reverse_keys), strict=False):
                queue.enqueue(keys, forward.sentence_ids, step=step)
        if model.queue is not None:
            self._num_filled = min(self._num_filled + count, model.queue.size)
        model.update_target(self.ema_decay_at(step + 1))

    def ema_decay_at(self, step: int) -> float:
        """Return η_s of this run, s counted from 1; with constant_distance, η for the current fill of the queue."""
        args, model = self._trainer.args, self._model
        if args.ema_schedule == "constant_distance":
            size, keys = model.config.queue_size, self.keys_per_step()
            return constant_distance_ema_decay(args.ema_decay, size, self._num_filled, keys)
        steps = args.ema_schedule_steps or self._trainer.state.max_steps
        return model.ema_decay_at(step, steps, args.ema_decay, args.ema_decay_end)

    def keys_per_step(self) -> int:
        """Return how many keys enter the queue in a full optimizer step; before the first, one for each row."""
        args = self._trainer.args
        return self._train_metrics.keys_per_step or args.global_batch_size * args.gradient_accumulation_steps

    def metrics(self) -> dict[str, float]:
        """Return decay, fill of the queue and maximum traceable distances; empty for a model without a target."""
        model = self._model
        if not model.momentum_pairs():
            return {}
        decay = self.ema_decay_at(self._trainer.state.global_step + 1)
        num_filled = len(model.queue.newest_first())
        metrics = {"ema_decay": decay, "queue_fill": num_filled}
        distances = {
            "d_trace": (self._trainer.args.ema_decay, model.config.queue_size),
            "current_d_trace": (decay, num_filled),
        }
        for name, (eta, size) in distances.items():
            if eta < 1.0:
                metrics[name] = maximum_traceable_distance(eta, size, self.keys_per_step())
        return metrics

    @property
    def _model(self) -> ContrastiveModel:
        return self._trainer.accelerator.unwrap_model(self._trainer.model)

    def _read_loss_scale(self) -> float:
        """Return the loss scale of fp16, 1 in other precisions."""
        scaler = getattr(self._trainer.accelerator, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    def _was_skipped(self) -> bool:
        """Return whether the optimizer skipped the step because the gradient overflowed.

        accelerate (1.15) does not notice with a fused optimizer, whose `step` is called regardless. The loss scale
        falls in that case too.
        """
        return self._trainer.accelerator.optimizer_step_was_skipped or self._read_loss_scale() < self._loss_scale
