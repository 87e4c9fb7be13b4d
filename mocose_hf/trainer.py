"""The trainer: the only place where training state moves."""

import time
from collections import defaultdict

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics

from mocose_hf.callbacks import CollapseAlarm
from mocose_hf.data import SentenceCollator, with_sentence_ids
from mocose_hf.distributed import broadcast, gather_rows
from mocose_hf.encoding import encoder_max_length
from mocose_hf.evaluation.sts import evaluate_pairs
from mocose_hf.modeling_mocose import MoCoSEForPreTraining
from mocose_hf.momentum import cosine_ema_decay, maximum_traceable_distance
from mocose_hf.training_args import MoCoSETrainingArguments


class MoCoSETrainer(Trainer):
    """Train a `MoCoSEForPreTraining` and score its sentence embeddings on development pairs.

    After each optimizer step that was not skipped, and nowhere else, the target moves and the keys of all processes
    and micro-batches enter the queue, in the order of the global batch. The target then stands where the next batch
    needs it: after optimizer step k it moves with η_{k+1}.

    Args:
        model: A `MoCoSEForPreTraining`.
        args: `MoCoSETrainingArguments`.
        train_dataset: A `datasets.Dataset` with a column `text`, and optionally `key_text`, the key view's own text,
            and `sentence_id`.
        eval_dataset: Development pairs: a `datasets.Dataset` with columns `score`, `sentence1`, `sentence2`.
        processing_class: The tokenizer; the default collator and the evaluation need it.
        options: As `transformers.Trainer` takes them.

    Raises:
        TypeError, ValueError: Where a combination cannot work, before training starts.
    """

    def __init__(
        self,
        model: MoCoSEForPreTraining,
        args: MoCoSETrainingArguments,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        data_collator=None,
        **options,
    ):
        _check_arguments(model, args, processing_class, data_collator)
        if data_collator is None:
            data_collator = SentenceCollator(processing_class, args.max_seq_length)
            columns = getattr(train_dataset, "column_names", None)
            if columns is not None and "text" not in columns:
                raise ValueError(f"The training set has no column `text`, only {', '.join(columns)}; rename one.")
        if train_dataset is not None:
            if args.dataloader_drop_last and len(train_dataset) < args.global_batch_size:
                raise ValueError(
                    f"The training set has {len(train_dataset)} rows, but one batch takes {args.global_batch_size}; "
                    "give more or lower `per_device_train_batch_size`."
                )
            train_dataset = with_sentence_ids(train_dataset)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            **options,
        )
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError("DeepSpeed and FSDP are not supported; train on several processes without them (DDP).")
        self.begin_training()
        self.add_callback(_MomentumStep(self))
        self.add_callback(CollapseAlarm())

    def begin_training(self) -> None:
        """Check the model, forget what an interrupted training left, and give all processes one queue."""
        _check_model(self.model)
        self._pending: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        for buffer in self.model.queue.buffers():
            broadcast(buffer)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss and put the batch's keys aside until the optimizer step is done."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self._pending.append((loss.detach(), outputs.key_embeddings, outputs.sentence_ids))
            self._record(outputs)
        return (loss, outputs) if return_outputs else loss

    def step_momentum(self, step: int) -> None:
        """Move target and queue once, after optimizer step `step`, and forget the keys put aside.

        Does nothing but forget them where the optimizer step was skipped, as fp16 does on overflow.

        Raises:
            FloatingPointError: On all processes, where a loss or a key is not finite; nothing enters the queue.
        """
        pending, self._pending = self._pending, []
        if self.accelerator.optimizer_step_was_skipped:
            return
        model = self.accelerator.unwrap_model(self.model)
        gathered = [
            (gather_rows(loss[None]), gather_rows(keys), ids if ids is None else gather_rows(ids))
            for loss, keys, ids in pending
        ]
        if not all(loss.isfinite().all() and keys.isfinite().all() for loss, keys, _ in gathered):
            raise FloatingPointError(
                f"The loss or a key of step {step} is not finite; lower `learning_rate`, or train in float32."
            )
        for _, keys, sentence_ids in gathered:
            model.queue.enqueue(keys, sentence_ids, step=step)
        model.update_target(self.ema_decay_at(step + 1))

    def ema_decay_at(self, step: int) -> float:
        """Return η_s of this run, s counted from 1."""
        horizon = self.args.ema_schedule_steps or self.state.max_steps
        return cosine_ema_decay(step, horizon, self.args.ema_decay, self.args.ema_decay_end)

    def keys_per_step(self) -> int:
        """Return how many keys enter the queue in one optimizer step."""
        return self.args.global_batch_size * self.args.gradient_accumulation_steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to each line of the training log what the loss does not show.

        `contrastive_accuracy` (share of queries nearest to their own key), `query_std`, `key_std` (standard deviation
        over the batch, mean over dimensions; 1/√D where embeddings spread evenly, 0 where they collapse),
        `ema_decay` (η last used), `queue_fill` (rows), `d_trace` (the paper's, of η_1 and K) and `current_d_trace`
        (of η and fill at this moment; left out at η = 1), and what each `CollapseAlarm` measured since the last line.
        """
        if "loss" in logs:
            means = [total / self._counts[name] for name, total in self._sums.items()]
            if means:
                means = gather_rows(torch.stack(means)[None]).mean(0)  # over the processes
            logs.update(zip(self._sums, map(float, means), strict=True))
            logs.update(self._momentum_metrics())
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, CollapseAlarm):
                    logs.update(callback.pop_metrics())
            self._sums.clear()
            self._counts.clear()
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Score the sentence embedding on scored pairs; training state is left as it is.

        Args:
            eval_dataset: Pairs as in the constructor, which is the default, or a dict of several such.
            ignore_keys: Not used; kept for `Trainer`.
            metric_key_prefix: What each name starts with.

        Returns:
            `eval_stsb_spearman` (Spearman of cosine and score, × 100), `eval_alignment`, `eval_uniformity` and the
            time taken. The first name is the same for any development pairs.
        """
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("`evaluate` needs scored pairs; give the trainer an `eval_dataset`.")
        if isinstance(eval_dataset, dict):
            metrics = {}
            for name, pairs in eval_dataset.items():
                metrics |= self.evaluate(pairs, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        start = time.time()
        model = self.accelerator.unwrap_model(self.model)
        scores = evaluate_pairs(model, self.processing_class, eval_dataset, batch_size=self.args.eval_batch_size)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=len(eval_dataset))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _record(self, outputs) -> None:
        hits = outputs.logits.detach().argmax(-1) == outputs.labels
        values = {
            "contrastive_accuracy": hits.float().mean(),
            "query_std": outputs.query_embeddings.detach().std(0, correction=0).mean(),
            "key_std": outputs.key_embeddings.std(0, correction=0).mean(),
        }
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] += 1

    def _momentum_metrics(self) -> dict[str, float]:
        queue = self.accelerator.unwrap_model(self.model).queue
        decay = self.ema_decay_at(self.state.global_step + 1)
        fill = int(queue.fill)
        metrics = {"ema_decay": decay, "queue_fill": fill}
        distances = {
            "d_trace": (self.args.ema_decay, queue.size),
            "current_d_trace": (decay, fill),
        }
        for name, (eta, size) in distances.items():
            if eta < 1.0:
                metrics[name] = maximum_traceable_distance(eta, size, self.keys_per_step())
        return metrics


class _MomentumStep(TrainerCallback):
    """Call the trainer at the start and once per optimizer step, before that step's log, evaluation and save."""

    def __init__(self, trainer: MoCoSETrainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer.begin_training()

    def on_step_end(self, args, state, control, **kwargs):
        self._trainer.step_momentum(state.global_step)


def _check_arguments(model, args, processing_class, data_collator) -> None:
    if not isinstance(model, MoCoSEForPreTraining):
        raise TypeError(
            f"MoCoSETrainer trains a MoCoSEForPreTraining, not a {type(model).__name__}; "
            "start with MoCoSEForPreTraining.from_encoder_pretrained(...)."
        )
    if not isinstance(args, MoCoSETrainingArguments):
        raise TypeError(f"MoCoSETrainer takes MoCoSETrainingArguments, not {type(args).__name__}.")
    if processing_class is None and data_collator is None:
        raise ValueError("MoCoSETrainer needs the tokenizer; give it as `processing_class`.")
    if processing_class is not None:
        longest = encoder_max_length(processing_class, model.config.encoder_config)
        if args.max_seq_length > longest:
            raise ValueError(f"`max_seq_length` is {args.max_seq_length}, but the encoder takes {longest}; lower it.")
    _check_model(model)


def _check_model(model) -> None:
    """Refuse a model whose target would be trained or whose moving average would be rounded away."""
    trainable = sum(target.requires_grad for target, _ in model.momentum_pairs())
    if trainable:
        raise ValueError(f"{trainable} parameters of the target are trainable; call `model.freeze_target()` first.")
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise ValueError(
            "All weights must be in float32 for training; call `model.float()`, and set `bf16` for speed."
        )
