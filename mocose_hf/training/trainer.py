"""The trainer of momentum contrast."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import TrainOutput

from mocose_hf.data.collator import ViewEpochCallback
from mocose_hf.data.fingerprints import text_number
from mocose_hf.data.streaming import InfiniteStream, StreamResumeCallback
from mocose_hf.data.text_augmentation import TextAugmentation
from mocose_hf.errors import TrainingInterrupted
from mocose_hf.evaluation.development import DevelopmentSets, score_sets
from mocose_hf.evaluation.optional_libraries import validate_sentence_transformers
from mocose_hf.evaluation.sts import STSTask
from mocose_hf.files import read_json_object
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.prompts import set_prompts
from mocose_hf.models.saved_files import equalize_file_modes, make_tokenizer_portable
from mocose_hf.training.base_trainer import changed_arguments
from mocose_hf.training.callbacks.checkpoint_saver import CheckpointSaver, update_best_checkpoint
from mocose_hf.training.callbacks.collapse_monitor import CollapseMonitor
from mocose_hf.training.callbacks.end_of_run import EndOfRun, has_ended
from mocose_hf.training.callbacks.momentum_update import MomentumUpdate
from mocose_hf.training.callbacks.nan_monitor import NaNMonitor
from mocose_hf.training.callbacks.preemption import IgnoreSignalsWorkerInit, PreemptionHandler
from mocose_hf.training.callbacks.progress import ProgressDisplay
from mocose_hf.training.checkpoint import (
    PREFIX,
    TRAIN_RESULTS_FILE,
    FoundCheckpoint,
    load_weights,
    read_state,
    step_of,
    validate_complete,
    validate_disk_space,
)
from mocose_hf.training.data_preparation import build_augmentation, count_training_tokens, prepare_data
from mocose_hf.training.parameter_groups import set_head_learning_rate
from mocose_hf.training.queue_monitor.callback import QueueMonitor
from mocose_hf.training.queue_prefill import prefill_queue
from mocose_hf.training.resume import describe_run, resolve_resume_checkpoint, restore_callback_states
from mocose_hf.training.run_lock import lock_output_dir
from mocose_hf.training.schedule_free import ScheduleFreeWeights
from mocose_hf.training.scoring_trainer import ScoringTrainer
from mocose_hf.training.train_metrics import MetricSource, TrainMetrics
from mocose_hf.training.training_args import MoCoSETrainingArguments
from mocose_hf.training.validation.inputs import (
    validate_arguments,
    validate_finite_weights,
    validate_model,
    validate_model_init,
    validate_optimizer,
)
from mocose_hf.training.validation.transformers_options import validate_trainer_options
from mocose_hf.training.whitening import whiten_embeddings

ARGUMENTS_FILE = "training_args.json"

UNWHITENED = "unwhitened"
"""The first part of the names of the start's scores before `whitening`, in the log."""


class MoCoSETrainer(ScoringTrainer):
    """Train a `MoCoSEForPreTraining` and score its sentence embeddings on development pairs.

    After each optimizer step the target moves, and the keys of all processes and micro-batches enter the queue in the
    order of the global batch; see `MomentumUpdate`. A number that is not finite ends a training before it is logged or
    saved; see `NaNMonitor`. The model in memory may hold such numbers by then, but no checkpoint does.

    Args:
        model: A `MoCoSEForPreTraining`; None with `model_init`.
        args: `MoCoSETrainingArguments`.
        train_dataset: A `datasets.Dataset` with a column `text`, and optionally `key_text`, the text of the key view,
            and `sentence_id`, numbers or strings; or a list of such rows or of sentences; or a `SentenceStream` or any
            other iterable dataset of such rows, with `max_steps`.
        eval_dataset: Development pairs: a `datasets.Dataset` with columns `score`, `sentence1`, `sentence2`; or
            `DevelopmentSets` of pairs, retrieval and labelled texts; or a dict of several.
        processing_class: The tokenizer; the default collator and the evaluation need it.
        test_tasks: STS test sets to score at each evaluation too, as the released code of the paper does. They select
            the best checkpoint only if `metric_for_best_model` names one of their scores.
        key_augmentation: Makes the target's text of a sentence, or of its `key_text`, from a random generator; see
            `SentenceCollator`. A resumed run needs the same one.
        evaluator: An evaluator of sentence-transformers, or a list of them, to score the model at each evaluation too,
            with or without an `eval_dataset`. Its metrics get `eval_` before their names, and
            `metric_for_best_model` can name one. Its files are in `eval/` of the output directory.
        model_init: Returns a new model, for each training and each trial of `hyperparameter_search`; it may take the
            trial.
        options: As `transformers.Trainer` takes them.

    Attributes:
        token_counts: Truncated sentences and unknown tokens in a sample of the training set, None if not counted.

    Raises:
        TypeError, ValueError: If arguments do not work together.
    """

    def __init__(
        self,
        model: ContrastiveModel | None = None,
        args: MoCoSETrainingArguments | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        data_collator=None,
        test_tasks: Sequence[STSTask] = (),
        key_augmentation: TextAugmentation | None = None,
        evaluator=None,
        model_init: Callable[..., ContrastiveModel] | None = None,
        **options,
    ):
        validate_trainer_options(options)
        if (model is None) == (model_init is None):
            raise ValueError("MoCoSETrainer needs a `model` or a `model_init`; give one of the two.")
        if model_init is not None:
            validate_model_init(args, **options)
            self.model_init = model_init
            model = self.build_model(args)
        if processing_class is not None and getattr(model.config, "do_lower_case", False):
            processing_class = lower_case(processing_class)
        self._given_collator, self._key_augmentation = data_collator, key_augmentation
        train_dataset, data_collator = self._prepare(model, args, train_dataset, processing_class)
        self.token_counts = count_training_tokens(train_dataset, data_collator, args)
        validate_optimizer(args, **options)
        self._evaluator = None
        if evaluator is not None:
            validate_sentence_transformers("`evaluator`")
            if processing_class is None:
                raise ValueError("`evaluator` needs the tokenizer; give it to the trainer as `processing_class`.")
            from mocose_hf.evaluation.live_model import build_evaluator

            self._evaluator = build_evaluator(evaluator)
            eval_dataset = DevelopmentSets() if eval_dataset is None else eval_dataset
        self._validate_evaluation(args, eval_dataset, test_tasks)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=data_collator,
            **options,
        )
        self.model_init = model_init
        if self.is_fsdp_enabled:
            raise ValueError(
                "FSDP is not supported; set `deepspeed` to ds_configs/zero3.json, which shards as FSDP does."
            )
        self._test_tasks = test_tasks
        self._is_training = False
        self._resumed_from: str | None = None
        self._trial = None
        self._counted_loader = None
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        display = self.callback_handler.callbacks[-1]  # of transformers; in a notebook it is a table, which stays
        if type(display) in (ProgressCallback, PrinterCallback):
            self.remove_callback(display)
            self.add_callback(ProgressDisplay)
        self._train_metrics = TrainMetrics()
        self._nan_monitor = NaNMonitor(late=self.args.device.type == "cuda")
        self._momentum = MomentumUpdate(self, self._train_metrics, self._nan_monitor)
        self._checkpoint_saver = CheckpointSaver(self._train_metrics)
        self._preemption = PreemptionHandler()
        self._queue_monitor = QueueMonitor()
        self._schedule_free = ScheduleFreeWeights()
        callbacks = [self._momentum, CollapseMonitor(), EndOfRun(self._preemption)]
        for callback in (*callbacks, self._preemption, self._checkpoint_saver):
            self.add_callback(callback)
        if self.args.queue_monitor_steps > 0:
            self.add_callback(self._queue_monitor)
        if isinstance(self.train_dataset, InfiniteStream):
            self.add_callback(StreamResumeCallback(self.train_dataset))
        elif getattr(self.data_collator, "draws_views", False):
            self.add_callback(ViewEpochCallback(self.data_collator))

    def _prepare(self, model, args, train_dataset, processing_class):
        """Validate the model, give it its augmentation, and return the dataset and the collator for it."""
        if isinstance(model, ContrastiveModel) and isinstance(args, MoCoSETrainingArguments):
            set_prompts(model.config, args.prompt, args.query_prompt, args.key_prompt)
        validate_arguments(model, args, processing_class, self._given_collator)
        model.augmentation = build_augmentation(args, processing_class, model)
        return prepare_data(train_dataset, self._given_collator, args, processing_class, model, self._key_augmentation)

    def train(
        self, resume_from_checkpoint: str | bool | FoundCheckpoint | None = None, trial=None, **options
    ) -> TrainOutput:
        """Train to the end, optionally from a complete checkpoint.

        A resumed run ends bit for bit as it would have without the interruption. If the checkpoint is the end of its
        run, no step is trained: its weights, or the best ones, are loaded, and the saved metrics are returned.
        With `load_best_model_at_end` the start is loaded if no checkpoint scored better.

        Args:
            resume_from_checkpoint: A directory, or the result of `find_checkpoint`; or true for the newest complete
                checkpoint of the output directory, if there is one.
            trial: Set by `hyperparameter_search`.
            options: As `transformers.Trainer.train` takes them.

        Raises:
            InputError: If the checkpoint is incomplete or of another run, the disk is too small, or another process
                trains in the output directory.
            FloatingPointError: If a loss, gradient or key is not finite.
            SaveError: If a checkpoint cannot be written; the one before it is good.
            TrainingInterrupted: After SIGTERM or SIGINT, once the step is done and saved.
        """
        with lock_output_dir(self.args.output_dir, self.args):
            return self._train(resume_from_checkpoint, trial, **options)

    def _train(self, resume_from_checkpoint, trial, **options) -> TrainOutput:
        if self.model_init is not None:
            model = self.build_new_model(trial)
            self.train_dataset, self.data_collator = self._prepare(
                model, self.args, self.train_dataset, self.processing_class
            )
        args, max_steps = self.args, self._count_steps()
        run: dict[str, Any] = describe_run(
            args, self.model, self.train_dataset, max_steps, self.processing_class, self.data_collator
        )
        start = resolve_resume_checkpoint(resume_from_checkpoint, run, args, self.model)
        for notice in start.notices:
            self._warn(notice)
        checkpoint = start.checkpoint
        if checkpoint is not None:
            state = read_state(checkpoint)
            if state.global_step >= max_steps or has_ended(state):
                return self._load_finished(checkpoint)
        validate_disk_space(args, self.model, max_steps)
        if checkpoint is None:
            for queue in self.model.queues():
                queue.use_ids_of(text_number(run["training_data"]))
        self._train_metrics.load(checkpoint, args.device)
        self._queue_monitor.begin(args, checkpoint)
        self._is_training, self._resumed_from = True, checkpoint
        settings = {
            "eval_on_start": args.eval_on_start and checkpoint is None,  # a resumed run has scored its start
            "restore_callback_states_from_checkpoint": False,  # `restore_callback_states` does it in place
        }
        try:
            with (
                changed_arguments(args, settings),
                self._checkpoint_saver.saving(args, run),
                self._preemption.listening(args, self.is_world_process_zero()),
            ):
                output = super().train(resume_from_checkpoint=checkpoint, trial=trial, **options)
        finally:
            self._is_training, self._counted_loader = False, None
            self._close_progress_bar()
        if self._preemption.agreed:
            raise TrainingInterrupted(self._preemption.report(self.state))
        best = self.state.best_model_checkpoint
        if args.load_best_model_at_end and best:
            validate_complete(best)
            if step_of(best) == 0:
                self._warn(
                    f"No checkpoint has a better {args.best_metric} than the start, so the weights of the start are "
                    "loaded; try a lower `learning_rate`, other `max_steps`, or more text."
                )
        return output

    def _count_steps(self) -> int:
        """Return the optimizer steps of the run, and keep the data loader that tells them for the training."""
        loader = self.get_train_dataloader()
        *_, max_steps = self.set_initial_training_values(self.args, loader)
        # A loader takes its order from the global seed, which `Trainer` sets anew for `model_init`.
        # A subclass may wrap the loader, but must not do so twice.
        is_own = type(self).get_train_dataloader is MoCoSETrainer.get_train_dataloader
        self._counted_loader = loader if self.model_init is None and is_own else None
        return max_steps

    def begin_training(self) -> None:
        """Prepare model, queue and callbacks, once `Trainer` has loaded the checkpoint if there is one."""
        validate_model(self.model)
        model = self.accelerator.unwrap_model(self.model)
        if self._resumed_from is None:
            self._fit_to_sentences(model)
        self._momentum.reset()
        self._schedule_free.begin(model, self.optimizer)
        if self._resumed_from is not None:
            restore_callback_states(self.callback_handler.callbacks, self.state)
            self._schedule_free.load(self._resumed_from)
            update_best_checkpoint(self.args, self.state, self._resumed_from)

    def _fit_to_sentences(self, model: ContrastiveModel) -> None:
        """Whiten the embeddings and fill the queue by training sentences, as far as the options ask for it."""
        args = self.args
        if not (model.config.whitening or args.queue_prefill):
            return
        source = (self.train_dataset, self.data_collator.without_views(), args.train_batch_size, args.seed)
        if model.config.whitening:
            if args.eval_on_start and self.eval_dataset is not None and not isinstance(self.eval_dataset, dict):
                scores = score_sets(model, self.processing_class, self.eval_dataset, **args.evaluation_encoding)
                self.log({f"{UNWHITENED}_{name}": value for name, value in scores.items()})
            whiten_embeddings(model, *source)
        if args.queue_prefill:
            prefill_queue(model, *source, torch.bfloat16 if args.bf16 else None)

    def create_optimizer(self, model=None):
        """Build the optimizer as `Trainer` does; the heads form groups of their own if they have a learning rate."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.head_learning_rate is not None:
            set_head_learning_rate(optimizer, self.model, self.args.head_learning_rate)
        return optimizer

    def get_train_dataloader(self):
        """Return the data loader of `Trainer`; its workers survive a signal to the process group."""
        loader, self._counted_loader = self._counted_loader, None
        if loader is None:
            loader = super().get_train_dataloader()
            if self.args.dataloader_num_workers > 0:
                loader.worker_init_fn = IgnoreSignalsWorkerInit(loader.worker_init_fn)
        return loader

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss, and keep the keys of the batch until the optimizer step is done."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self._momentum.record_forward(loss, outputs)
            if self._queue_monitor.is_due(self.args, self.state):
                self._queue_monitor.record_forward(outputs, self._momentum.metrics())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add metrics of the method to each line of the training log, exact over interruptions.

        `contrastive_accuracy` is the share of queries whose own key is nearest. `query_std` and `key_std` are the
        standard deviation over the batch, mean over dimensions: 1/√D if embeddings spread evenly, 0 in a collapse.
        Models with a target add `ema_decay` (η last used), `queue_fill` (rows), `d_trace` (the paper's, of η_1 and K)
        and `current_d_trace` (of the current η and fill; absent at η = 1). Each `MetricSource` among the callbacks
        adds its measurements since the last line.
        """
        self._nan_monitor.check()
        if "loss" in logs:
            logs.update(self._train_metrics.pop_means() | self._momentum.metrics())
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, MetricSource):
                    logs.update(callback.pop_metrics())
        if "train_loss" in logs:
            logs["train_loss"] = self._train_metrics.mean_loss()
            self._schedule_free.end()  # the last line comes before the best checkpoint is loaded
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and tokenizer, and the arguments as JSON instead of the pickle of `Trainer`."""
        folder = Path(output_dir or self.args.output_dir)
        self._nan_monitor.check()
        validate_finite_weights(self.model, self.args, self.state.global_step)
        if _internal_call and folder.name == f"{PREFIX}{self.state.global_step}":
            self._checkpoint_saver.start(folder, self.args.should_save)
        with self._schedule_free.averaged():
            super().save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            if _internal_call:
                self._schedule_free.save(folder)
            equalize_file_modes(folder)
            make_tokenizer_portable(folder)
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            (folder / ARGUMENTS_FILE).write_text(self.args.to_json_string() + "\n", encoding="utf-8")
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_start(self, metrics: dict[str, float]) -> None:
        """Record the score of the start, and save it as `checkpoint-0`."""
        self._determine_best_metric(metrics, self._trial)
        # `Trainer` looks for the folder of the best step only if that is not 0.
        self.state.best_model_checkpoint = str(Path(self._get_output_dir(self._trial)) / f"{PREFIX}0")
        self._save_checkpoint(self.model_wrapped, self._trial)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _load_finished(self, checkpoint: str) -> TrainOutput:
        """Load the weights, the state and the metrics with which a finished run ended."""
        self.state = state = read_state(checkpoint)
        update_best_checkpoint(self.args, state, checkpoint)
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        source = Path(checkpoint).parent / Path(best).name if best else Path(checkpoint)
        if source != Path(checkpoint):
            validate_complete(source)
        load_weights(self.model, source)
        self._queue_monitor.draw(self.args)
        stopped = f" of {state.max_steps}, where a callback stopped it" if state.global_step < state.max_steps else ""
        self._warn(
            f"{checkpoint} is at the end of its run, step {state.global_step}{stopped}: no step is left to train."
        )
        metrics = read_json_object(Path(checkpoint).parent / TRAIN_RESULTS_FILE)
        return TrainOutput(state.global_step, metrics.get("train_loss", 0.0), metrics)
