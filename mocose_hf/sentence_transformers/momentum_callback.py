"""Move the target and fill the queue of a `MomentumContrastLoss` after each optimizer step."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback

from mocose_hf.errors import InputError, one_line
from mocose_hf.files import replacing
from mocose_hf.models.ema import maximum_traceable_distance
from mocose_hf.parallel.collectives import broadcast, process_count
from mocose_hf.sentence_transformers.momentum_loss import MomentumContrastLoss
from mocose_hf.training.callbacks.nan_monitor import NaNMonitor
from mocose_hf.training.checkpoint import PREFIX
from mocose_hf.training.train_metrics import TrainMetrics

STATE_FILE = "momentum_contrast.safetensors"
"""The file in a checkpoint that holds targets and queues."""


class MomentumCallback(TrainerCallback):
    """Move the target once per optimizer step, then let the keys of the step enter the queue.

    The keys of all processes and micro-batches enter in the order of the global batch. After optimizer step k the
    target moves with η_{k+1}. If the optimizer skipped a step, as fp16 does on overflow, neither changes. Each
    checkpoint gets targets, queues and settings in `momentum_contrast.safetensors`, from which a resumed run continues
    bit for bit.

    Each line of the training log gets `contrastive_accuracy` (share of queries whose own key is nearest), `query_std`
    and `key_std` (standard deviation over the batch, mean over dimensions: 1/√D if embeddings spread evenly, 0 in a
    collapse), `ema_decay` (η last used), `queue_fill` (rows) and `d_trace` (the maximum traceable distance, in
    optimizer steps; absent at η = 1). They are printed and in `trainer.state.log_history`. Trackers such as
    TensorBoard come before any callback of a user, so they do not get them.

    Args:
        loss: The `MomentumContrastLoss` of the trainer, a wrapper such as `MatryoshkaLoss`, or a dict or list of
            losses. Several datasets can share one loss.
        resume_from_checkpoint: The checkpoint that `trainer.train` resumes from, if it is not in the output directory.

    Raises:
        ValueError: If there is no `MomentumContrastLoss` in `loss`.
    """

    def __init__(
        self,
        loss: nn.Module | Mapping[str, nn.Module] | Iterable[nn.Module],
        resume_from_checkpoint: str | Path | None = None,
    ):
        parts = [loss] if isinstance(loss, nn.Module) else list(loss.values() if isinstance(loss, Mapping) else loss)
        modules = (module for part in parts for module in part.modules())
        self._losses = list(dict.fromkeys(module for module in modules if isinstance(module, MomentumContrastLoss)))
        if not self._losses:
            raise ValueError("`MomentumCallback` takes a `MomentumContrastLoss`, or losses that contain one.")
        self._resume_from = resume_from_checkpoint
        self._metrics = TrainMetrics()

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        """Start target and queue, or restore them from the checkpoint that the run resumes from.

        Raises:
            InputError: If the checkpoint has no state for this loss.
            ValueError: If the trainer shards the model, or several losses meet several processes.
        """
        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            raise ValueError(
                "`MomentumContrastLoss` needs whole weights in each process, so `deepspeed` and `fsdp` do not work; "
                "train by MoCoSETrainer, which takes `deepspeed`."
            )
        if len(self._losses) > 1 and process_count() > 1:
            raise ValueError(
                f"There are {len(self._losses)} momentum losses on {process_count()} processes, which may take "
                "batches of different datasets at a time; share one loss among the datasets."
            )
        for loss in self._losses:
            if model is not None and loss.online_model() is not model:
                raise ValueError("The loss was built for another model than the trainer's; build it for that model.")
        self._nan_monitor = NaNMonitor(late=args.device.type == "cuda")
        self._optimizer = optimizer
        folder = self._checkpoint(args, state) if state.global_step > 0 else None
        self._metrics.load(folder, args.device)
        if folder is None:
            for loss in self._losses:
                loss.begin_training()
        else:
            self._restore(folder)
        for loss in self._losses:
            for queue in loss.queues():
                for buffer in queue.buffers():
                    broadcast(buffer)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Check the numbers of the step before."""
        self._nan_monitor.check()

    def on_step_end(self, args, state, control, **kwargs):
        """Move the targets and enqueue the keys of the optimizer step.

        Raises:
            FloatingPointError: If a loss or a key is not finite. On a GPU it is raised later: by the next step, log or
                save.
            RuntimeError: If the trainer did not use the loss.
        """
        forwards = [[forward.gather() for forward in loss.take_forwards()] for loss in self._losses]
        together = [forward for part in forwards for forward in part]
        if not together and state.global_step == 1:
            raise RuntimeError("The trainer did not use the loss of `MomentumCallback`; give both the same loss.")
        self._nan_monitor.record(state.global_step, [value for forward in together for value in forward.values()])
        for forward in together:
            self._metrics.add(forward.measures)
        if getattr(self._optimizer, "step_was_skipped", False):
            return
        count = sum(len(forward.keys) for forward in together)
        self._metrics.keys_per_step = max(self._metrics.keys_per_step, count)
        for loss, part in zip(self._losses, forwards, strict=True):
            loss.update_target(loss.ema_decay_at(state.global_step + 1, state.max_steps))
            for forward in part:
                for queue, keys in zip(loss.queues(), (forward.keys, forward.reverse_keys), strict=False):
                    queue.enqueue(keys, forward.sentence_ids, step=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Add the metrics since the last line to a line of the training log."""
        self._nan_monitor.check()
        if logs is None or "loss" not in logs:
            return
        means = self._metrics.pop_means()
        means.pop("loss", None)  # the trainer's own
        metrics = means | self._momentum_metrics(state)
        logs.update(metrics)
        if state.log_history:
            state.log_history[-1].update(metrics)

    def on_save(self, args, state, control, **kwargs):
        """Write targets, queues and settings into the checkpoint."""
        self._nan_monitor.check()
        folder = Path(args.output_dir) / f"{PREFIX}{state.global_step}"
        if args.save_only_model or not state.is_world_process_zero or not folder.is_dir():
            return
        tensors = {
            f"{number}.{name}": tensor.cpu().contiguous()
            for number, loss in enumerate(self._losses)
            for name, tensor in loss.momentum_state().items()
        }
        metadata = {"settings": self._settings(), "model": _digest(self._losses[0].online_model())}
        with replacing(folder / STATE_FILE) as unfinished:
            save_file(tensors, unfinished, metadata)
        self._metrics.save(folder)

    def _momentum_metrics(self, state) -> dict[str, float]:
        loss = self._losses[0]
        decay, filled = loss.ema_decay_at(state.global_step + 1, state.max_steps), int(loss.queue.num_filled)
        metrics = {"ema_decay": decay, "queue_fill": filled}
        if decay < 1.0:
            metrics["d_trace"] = maximum_traceable_distance(decay, filled, max(self._metrics.keys_per_step, 1))
        return metrics

    def _checkpoint(self, args, state) -> Path:
        """Return the checkpoint that the trainer has loaded; callbacks are not told."""
        named = self._resume_from or args.resume_from_checkpoint
        if named and str(named).lower() != "true":
            return Path(named)
        return Path(args.output_dir) / f"{PREFIX}{state.global_step}"

    def _restore(self, folder: Path) -> None:
        path, device = folder / STATE_FILE, self._losses[0].target.device
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}: cannot be read ({one_line(error)}); resume from a checkpoint of a run with "
                "`MomentumCallback`, and name it by `resume_from_checkpoint` if it is not in the output directory."
            ) from error
        if metadata.get("settings") != self._settings():
            raise InputError(
                f"{path}: the checkpoint has {metadata.get('settings')}, but this run {self._settings()}; build the "
                "losses with the same values."
            )
        if metadata.get("model") != _digest(self._losses[0].online_model()):
            raise InputError(
                f"{path}: belongs to other weights than the trainer has loaded; name the checkpoint that you resume "
                "from in `MomentumCallback(loss, resume_from_checkpoint=...)` too."
            )
        for number, loss in enumerate(self._losses):
            loss.resume_training()
            for name, tensor in loss.momentum_state().items():
                tensor.copy_(tensors[f"{number}.{name}"])

    def _settings(self) -> str:
        return json.dumps([loss.settings for loss in self._losses])


@torch.no_grad()
def _digest(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of all tensors of a model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
