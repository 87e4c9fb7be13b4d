"""The trainer: the only place where training state moves."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, enable_full_determinism, set_seed
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PredictionOutput, TrainOutput, speed_metrics
from transformers.utils import logging

from mocose_hf.cli.output_dir import ALL_RESULTS_FILE, TRAIN_RESULTS_FILE, check_space
from mocose_hf.data.collator import ViewEpochCallback
from mocose_hf.data.fingerprints import text_number
from mocose_hf.data.streaming import InfiniteStream, StreamResumeCallback
from mocose_hf.data.text_augmentation import TextAugmentation
from mocose_hf.errors import InputError, one_line, printable
from mocose_hf.evaluation.checkpoint_selection import score_test_sets, scores_by_step
from mocose_hf.evaluation.development import score_sets
from mocose_hf.evaluation.pairs import PAIR_METRICS
from mocose_hf.evaluation.sentence_embeddings import embed
from mocose_hf.evaluation.sts import STSTask
from mocose_hf.files import read_json_object, replacing, write_text
from mocose_hf.models.ema import constant_distance_ema_decay, maximum_traceable_distance
from mocose_hf.models.lower_casing import lower_case
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.models.saved_files import equalize_file_modes, make_tokenizer_portable
from mocose_hf.parallel.collectives import any_process, broadcast, gather_rows
from mocose_hf.training.callbacks.checkpoint_saver import CheckpointSaver
from mocose_hf.training.callbacks.collapse_monitor import CollapseMonitor
from mocose_hf.training.callbacks.end_of_run import EndOfRun, has_ended
from mocose_hf.training.callbacks.nan_monitor import NaNMonitor
from mocose_hf.training.callbacks.preemption import IgnoreSignalsWorkerInit, PreemptionHandler, TrainingInterrupted
from mocose_hf.training.checkpoint import PREFIX, STATE_FILE, load_weights, read_state, require_complete, step_of
from mocose_hf.training.parameter_groups import set_head_learning_rate
from mocose_hf.training.queue_monitor.callback import QueueMonitor
from mocose_hf.training.queue_prefill import prefill_queue
from mocose_hf.training.resume import describe_run, resolve_resume_checkpoint, restore_callback_states
from mocose_hf.training.run_lock import lock_output_dir
from mocose_hf.training.schedule_free import ScheduleFreeWeights
from mocose_hf.training.train_metrics import TrainMetrics, measure
from mocose_hf.training.training_args import MoCoSETrainingArguments
from mocose_hf.training.validation.arguments import check_augmentations, check_values
from mocose_hf.training.validation.inputs import (
    check_arguments,
    check_development_pairs,
    check_metric,
    check_model,
    check_model_init,
    check_optimizer,
    count_training_tokens,
    make_augmentation,
    prepare_data,
    texts_of,
)
from mocose_hf.training.validation.transformers_options import check_trainer_options

logger = logging.get_logger(__name__)

ARGUMENTS_FILE = "training_args.json"


class MoCoSETrainer(Trainer):
    """Train a `MoCoSEForPreTraining` and score its sentence embeddings on development pairs.

    After each optimizer step that was not skipped, and nowhere else, the target moves and the keys of all processes
    and micro-batches enter the queue, in the order of the global batch. The target then stands where the next batch
    needs it: after optimizer step k it moves with η_{k+1}.

    Numbers that are not finite end a training within their step; on a GPU, which is not to wait for that, before the
    next step changes the weights (under DeepSpeed, which does so in its backward pass, by its end), and before
    anything is logged, evaluated or saved. The model in memory may hold some by then, no checkpoint does.

    Args:
        model: A `MoCoSEForPreTraining`; None with `model_init`.
        args: `MoCoSETrainingArguments`.
        train_dataset: A `datasets.Dataset` with a column `text`, and optionally `key_text`, the key view's own text,
            and `sentence_id`, numbers or strings; or a list of such rows or of sentences; or a `SentenceStream` or any
            other iterable dataset of such rows, with `max_steps`.
        eval_dataset: Development pairs: a `datasets.Dataset` with columns `score`, `sentence1`, `sentence2`; or
            `DevelopmentSets` of pairs, retrieval and labelled texts; or a dict of several.
        processing_class: The tokenizer; the default collator and the evaluation need it.
        test_tasks: STS test sets to score at each evaluation beside `eval_dataset`, as the released code of the paper
            does; they have no say in which checkpoint is best unless `metric_for_best_model` gives it to them.
        key_augmentation: Makes the target's text of a sentence, or of its `key_text`, with a generator to draw from;
            see `SentenceCollator`. A resumed run is to be given the same one.
        model_init: Returns a new model, for each training and each trial of `hyperparameter_search`; it may take the
            trial.
        options: As `transformers.Trainer` takes them.

    Attributes:
        selects_start: Whether the start is a candidate for the best checkpoint. It takes part as `checkpoint-0` if
            `load_best_model_at_end` and `eval_on_start` are true.

    Raises:
        TypeError, ValueError: If a combination cannot work, before training starts.
    """

    selects_start = True

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
        model_init: Callable[..., ContrastiveModel] | None = None,
        **options,
    ):
        check_trainer_options(options)
        if (model is None) == (model_init is None):
            raise ValueError("MoCoSETrainer needs a `model` or a `model_init`; give one of the two.")
        if model_init is not None:
            check_model_init(args, **options)
            self.model_init = model_init
            model = self._build_model(args)
        if processing_class is not None and getattr(model.config, "do_lower_case", False):
            processing_class = lower_case(processing_class)
        check_arguments(model, args, processing_class, data_collator)
        model.augmentation = make_augmentation(args, processing_class, model)
        given_collator = data_collator
        train_dataset, data_collator = prepare_data(
            train_dataset, data_collator, args, processing_class, model, key_augmentation
        )
        self.token_counts = count_training_tokens(train_dataset, data_collator, args)
        check_optimizer(args, **options)
        self._check_evaluation(args, eval_dataset, test_tasks)
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
        self._built: ContrastiveModel | None = None
        self._given_collator, self._key_augmentation = given_collator, key_augmentation
        if self.is_fsdp_enabled:
            raise ValueError(
                "FSDP is not supported; set `deepspeed` to ds_configs/zero3.json, which shards as FSDP does."
            )
        self._test_tasks = test_tasks
        self._saved_metrics: dict[str, float] = {}
        self._train_metrics = TrainMetrics()
        self._checkpoint_saver = CheckpointSaver(self._train_metrics)
        self._preemption = PreemptionHandler()
        self._nan_monitor = NaNMonitor(late=self.args.device.type == "cuda")
        self._queue_monitor = QueueMonitor()
        self._schedule_free = ScheduleFreeWeights()
        self._is_training = False
        self._trial = None
        self.resumed_from: str | None = None
        self.begin_training()
        end_of_run = EndOfRun(self._preemption)
        for callback in (_MomentumStep(self), CollapseMonitor(), end_of_run, self._preemption, self._checkpoint_saver):
            self.add_callback(callback)
        if self.args.queue_monitor_steps > 0:
            self.add_callback(self._queue_monitor)
        if isinstance(train_dataset, InfiniteStream):
            self.add_callback(StreamResumeCallback(train_dataset))
        elif getattr(self.data_collator, "draws_views", False):
            self.add_callback(ViewEpochCallback(self.data_collator))

    def _check_evaluation(self, args, eval_dataset, test_tasks) -> None:
        """Check what will be evaluated; of a subclass that evaluates in its own way nothing is known."""
        if eval_dataset is None or type(self).evaluate is not MoCoSETrainer.evaluate:
            return
        selects = args.metric_for_best_model is not None and args.eval_strategy != "no"
        scored_with_tests = test_tasks and args.best_metric not in PAIR_METRICS
        check_development_pairs(eval_dataset, args.best_metric if selects and not scored_with_tests else None)

    def init_hf_repo(self, *args, **options) -> None:
        """Create the repository of `push_to_hub` as `transformers.Trainer` does.

        Raises:
            InputError: If that fails, with the reason.
        """
        try:
            super().init_hf_repo(*args, **options)
        except Exception as error:  # of the network, of the hub, of names and of tokens
            raise InputError(
                f"`push_to_hub` cannot create or reach the repository ({one_line(error)}); check the network, the "
                "token and `hub_model_id`, or leave it out and upload the finished folder."
            ) from error

    def _build_model(self, args, trial=None) -> ContrastiveModel:
        """Build a new model by `model_init` from the seed."""
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
        return super().call_model_init(trial)

    def call_model_init(self, trial=None) -> ContrastiveModel:
        """Return the new model of a training, which `train` has built, or one that is built now."""
        model, self._built = self._built, None
        return super().call_model_init(trial) if model is None else model

    def _start_anew(self, trial) -> None:
        """Build the model of this training, and prepare it and the data with the arguments of the trial."""
        if trial is not None:
            self._hp_search_setup(trial)
            check_values(self.args)
            check_augmentations(self.args)
        self.model = self._built = model = self._build_model(self.args, trial)
        check_arguments(model, self.args, self.processing_class, self._given_collator)
        model.augmentation = make_augmentation(self.args, self.processing_class, model)
        self.train_dataset, self.data_collator = prepare_data(
            self.train_dataset, self._given_collator, self.args, self.processing_class, model, self._key_augmentation
        )

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction=None, backend=None, hp_name=None, **options
    ):
        """Search as `transformers.Trainer` does, by default for the score that selects the best checkpoint.

        Args:
            hp_space, n_trials, backend, hp_name, options: As there.
            compute_objective: Returns the number to optimise from the metrics of an evaluation. By default it is
                `metric_for_best_model`: of the best evaluation so far with `load_best_model_at_end`, else of the last.
            direction: maximize or minimize; needed with `compute_objective`, and known without.

        Raises:
            ValueError: If there are no development pairs, or the direction is missing or wrong.
        """
        if self.eval_dataset is None:
            raise ValueError("`hyperparameter_search` compares scores; give the trainer an `eval_dataset`.")
        if compute_objective is None:
            greater = self.args.greater_is_better is not False
            known = "maximize" if greater else "minimize"
            if direction not in (None, known):
                raise ValueError(f"`direction` is {direction!s:.40}, but {self.args.best_metric} is to be {known}d.")
            compute_objective, direction = self._score_to_optimize, known
        elif direction is None:
            raise ValueError("`direction` is needed with `compute_objective`; give maximize or minimize.")
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction, backend, hp_name, **options
        )

    def _score_to_optimize(self, metrics: dict[str, float]) -> float:
        if not self.args.load_best_model_at_end:
            return metrics[f"eval_{self.args.best_metric}"]
        scores = scores_by_step(self.state.log_history, self.args.best_metric).values()
        return max(scores) if self.args.greater_is_better is not False else min(scores)

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, **options) -> TrainOutput:
        """Train to the end, from a complete checkpoint where one is asked for.

        Args:
            resume_from_checkpoint: A directory; or true for the newest complete checkpoint of the output directory, a
                fresh start where there is none. The end is then the same to the bit as without the interruption. At
                the end of a run, which a callback may have stopped, no step is trained: its weights, the best ones
                where they are asked for, are loaded, and the metrics that it saved are returned.
                With `load_best_model_at_end` these are the weights of the start if no checkpoint scored better.
            trial: Of `hyperparameter_search`, which sets it.
            options: As `transformers.Trainer.train` takes them.

        Raises:
            InputError: Where the checkpoint is not complete or of another run, the disk is too small, or another
                process trains in the output directory.
            FloatingPointError: Where a loss, gradient or key is not finite, as the class says.
            SaveError: Where a checkpoint could not be written; the one before it is good.
            TrainingInterrupted: After SIGTERM or SIGINT, when the step is done and saved.
        """
        with lock_output_dir(self.args.output_dir, self.args):
            return self._train_alone(resume_from_checkpoint, trial, **options)

    def _train_alone(self, resume_from_checkpoint: str | bool | None, trial, **options) -> TrainOutput:
        """Train as `train` says, in an output directory that no other process uses."""
        if self.model_init is not None:
            self._start_anew(trial)
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        given = (self.processing_class, self.data_collator)
        run = describe_run(self.args, self.model, self.train_dataset, max_steps, *given)
        checkpoint, said = resolve_resume_checkpoint(resume_from_checkpoint, run, self.args, self.model)
        for message in said:
            self._warn(message)
        if checkpoint is not None:
            state = read_state(checkpoint)
            if state.global_step >= max_steps or has_ended(state):
                return self._load_finished(checkpoint)
        check_space(self.args, self.model, max_steps)
        if checkpoint is None:
            for queue in self.model.queues():
                queue.use_ids_of(text_number(run["training_data"]))
        self._checkpoint_saver.begin(run, self.args.save_total_limit)
        self._train_metrics.load(checkpoint, self.args.device)
        self._queue_monitor.begin(self.args, checkpoint)
        self._is_training, self.resumed_from = True, checkpoint
        settings = {
            "save_total_limit": None,  # the keeper deletes, when the successor is complete
            "eval_on_start": self.args.eval_on_start and checkpoint is None,  # a resumed run scored its start before
            "restore_callback_states_from_checkpoint": False,  # done in place, see `resume_training`
        }
        try:
            with _changed(self.args, settings), self._preemption.listening(self.args, self.is_world_process_zero()):
                output = super().train(resume_from_checkpoint=checkpoint, trial=trial, **options)
        except Exception as error:
            failure = self._checkpoint_saver.failure(error)
            if failure is None:
                raise
            raise failure from error
        finally:
            self._is_training = False
            self._close_progress_bar()
        if self._preemption.agreed:
            raise TrainingInterrupted(self._preemption.report(self.state))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            require_complete(self.state.best_model_checkpoint)
            if step_of(self.state.best_model_checkpoint) == 0:
                self._warn(
                    f"No checkpoint has a better {self.args.best_metric} than the start, so the weights of the start "
                    "are loaded; try a lower `learning_rate`, other `max_steps`, or more text."
                )
        return output

    def create_optimizer(self, model=None):
        """Build the optimizer as `Trainer` does, with groups of the heads' own where they have a rate of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.head_learning_rate is not None:
            set_head_learning_rate(optimizer, self.model, self.args.head_learning_rate)
        return optimizer

    def get_train_dataloader(self):
        """Return the loader of `Trainer`; its workers live on when a signal goes to the whole process group."""
        loader = super().get_train_dataloader()
        if self.args.dataloader_num_workers > 0:
            loader.worker_init_fn = IgnoreSignalsWorkerInit(loader.worker_init_fn)
        return loader

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and tokenizer, and the arguments as JSON where `Trainer` leaves a pickle of them."""
        folder = Path(output_dir or self.args.output_dir)
        self._nan_monitor.check()
        self._check_weights()
        if _internal_call and folder.name == f"checkpoint-{self.state.global_step}":
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

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write `{split}_results.json` and, if `combined`, `all_results.json` with what this trainer has saved so far.

        Unlike in `Trainer`, figures that another run left in `all_results.json` do not count.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        write_text(folder / f"{split}_results.json", json.dumps(metrics, indent=4, sort_keys=True) + "\n")
        if combined:
            self._saved_metrics |= metrics
            write_text(folder / ALL_RESULTS_FILE, json.dumps(self._saved_metrics, indent=4, sort_keys=True) + "\n")

    def save_state(self) -> None:
        """Write the state of the run beside the model."""
        if self.is_world_process_zero():
            with replacing(Path(self.args.output_dir) / STATE_FILE) as unfinished:
                self.state.save_to_json(str(unfinished))

    def begin_training(self) -> None:
        """Check the model, forget what an interrupted training left, and give all processes one queue."""
        check_model(self.model)
        self._pending: list[_Forward] = []
        self._gradient_norm: Tensor | None = None
        self._nan_monitor.reset()
        self._scale = self._loss_scale()
        if self.args.queue_prefill and self._is_training and self.resumed_from is None:
            self._prefill_queue()
        for queue in self.model.queues():
            for buffer in queue.buffers():
                broadcast(buffer)
        queues = self.model.queues()
        # Counted here from now on, because reading it from a GPU forces a synchronisation.
        self._num_queued = int(queues[0].num_filled) if queues else 0

    def _prefill_queue(self) -> None:
        """Fill the queues with keys of training sentences."""
        collator = self.data_collator.without_views()
        model = self.accelerator.unwrap_model(self.model)
        dtype = torch.bfloat16 if self.args.bf16 else None
        prefill_queue(model, self.train_dataset, collator, self.args.train_batch_size, self.args.seed, dtype)

    def resume_training(self) -> None:
        """Take up what `Trainer` does not take up from the checkpoint that it has just loaded, if there is one."""
        self._schedule_free.begin(self.accelerator.unwrap_model(self.model), self.optimizer)
        if self.resumed_from is not None:
            restore_callback_states(self.callback_handler.callbacks, self.state)
            self._schedule_free.load(self.resumed_from)
            self.compare_checkpoint(self.resumed_from)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss and put the batch's keys aside until the optimizer step is done."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            keys = outputs.key_embeddings.detach()
            reverse_keys = outputs.reverse_key_embeddings
            self._pending.append(_Forward(measure(loss, outputs), keys, outputs.sentence_ids, reverse_keys))
            if self._queue_monitor.is_due(self.args, self.state):
                self._queue_monitor.note(outputs, self._momentum_metrics())
        return (loss, outputs) if return_outputs else loss

    def note_gradient(self) -> None:
        """Keep the norm of the gradient that the optimizer is about to use, and the scale of fp16.

        Raises:
            FloatingPointError: As `step_momentum`, of the step before, where that was not looked at until now.
        """
        self._nan_monitor.check()
        self._scale = self._loss_scale()
        if self.is_deepspeed_enabled:  # which keeps the gradients to itself, and has made the step by now
            self._gradient_norm = torch.as_tensor(self.model_wrapped.get_global_grad_norm(), device=self.args.device)
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self._gradient_norm = torch.nn.utils.get_total_norm(gradients) if gradients else None

    def step_momentum(self, step: int) -> None:
        """Move target and queue once, after optimizer step `step`, and forget the keys put aside.

        Does nothing but forget them where the optimizer step was skipped, as fp16 does on overflow.

        Raises:
            FloatingPointError: On all processes, where a loss or a key is not finite, or the gradient of a step that
                was not skipped; nothing enters the queue. On a GPU not here but by the next step, evaluation or save.
        """
        forwards = [forward.gather() for forward in self._pending]
        gradient_norm, skipped = self._gradient_norm, self._step_was_skipped()
        self._pending, self._gradient_norm = [], None
        watched = [part for forward in forwards for part in forward.numbers()]
        if gradient_norm is not None and not skipped:
            watched.append(gradient_norm)
        self._nan_monitor.record(step, watched)
        for forward in forwards:
            self._train_metrics.add(forward.measures)
        if skipped:
            return
        model = self.accelerator.unwrap_model(self.model)
        entering = sum(len(forward.keys) for forward in forwards)
        self._train_metrics.keys_per_step = max(self._train_metrics.keys_per_step, entering)
        for forward in forwards:
            for queue, keys in zip(model.queues(), (forward.keys, forward.reverse_keys), strict=False):
                queue.enqueue(keys, forward.sentence_ids, step=step)
        if model.queue is not None:
            self._num_queued = min(self._num_queued + entering, model.queue.size)
        model.update_target(self.ema_decay_at(step + 1))

    def ema_decay_at(self, step: int) -> float:
        """Return η_s of this run, s counted from 1; with constant_distance, η for the present fill of the queue."""
        if self.args.ema_schedule == "constant_distance":
            size, keys = self.model.config.queue_size, self.keys_per_step()
            return constant_distance_ema_decay(self.args.ema_decay, size, self._num_queued, keys)
        horizon = self.args.ema_schedule_steps or self.state.max_steps
        model = self.accelerator.unwrap_model(self.model)
        return model.ema_decay_at(step, horizon, self.args.ema_decay, self.args.ema_decay_end)

    def checkpoint_path(self, step: int) -> str:
        """Return the directory of the checkpoint of an optimizer step."""
        return str(Path(self._get_output_dir(self._trial)) / f"{PREFIX}{step}")

    def compare_checkpoint(self, checkpoint: str) -> None:
        """Make a checkpoint the best one if its step scored better than the best one so far.

        `Trainer` remembers the best evaluation, but no checkpoint if that step was not saved.
        """
        if not self.args.load_best_model_at_end:
            return
        scores = scores_by_step(self.state.log_history, self.args.best_metric)
        score, best = scores.get(step_of(checkpoint)), self.state.best_model_checkpoint
        best_score = None if best is None else scores.get(step_of(best))
        sign = 1 if self.args.greater_is_better else -1
        if score is not None and (best_score is None or sign * score > sign * best_score):
            self.state.best_model_checkpoint = checkpoint

    def keys_per_step(self) -> int:
        """Return how many keys enter the queue in a full optimizer step: counted, or before that one per row."""
        expected = self.args.global_batch_size * self.args.gradient_accumulation_steps
        return self._train_metrics.keys_per_step or expected

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to each line of the training log what the loss does not show, and keep it exact over interruptions.

        `contrastive_accuracy` (share of queries nearest to their own key), `query_std`, `key_std` (standard deviation
        over the batch, mean over dimensions; 1/√D where embeddings spread evenly, 0 where they collapse),
        `ema_decay` (η last used), `queue_fill` (rows), `d_trace` (the paper's, of η_1 and K) and `current_d_trace`
        (of η and fill at this moment; left out at η = 1), all four where there is a target, and what each
        `CollapseMonitor` and `QueueMonitor` measured since the last line.
        """
        self._nan_monitor.check()
        if "loss" in logs:
            logs.update(self._train_metrics.means() | self._momentum_metrics())
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, CollapseMonitor | QueueMonitor):
                    logs.update(callback.pop_metrics())
        if "train_loss" in logs:
            logs["train_loss"] = self._train_metrics.mean_loss()
            self._schedule_free.end()  # the last line comes before the best checkpoint is loaded
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Score the sentence embedding on development sets; training state is left as it is.

        Args:
            eval_dataset: Pairs or sets as in the constructor, which are the default, or a dict of several such.
            ignore_keys: Not used; kept for `Trainer`.
            metric_key_prefix: What each name starts with.

        Returns:
            `eval_dev_spearman` (Spearman of cosine and score, × 100), `eval_dev_alignment`, `eval_dev_uniformity` and
            the time taken. Of `DevelopmentSets` also the figures of
            their tasks, such as `eval_shop_mrr_at_10` of a task `shop`. With `test_tasks` and the default pairs
            also the Spearman of each, such as `eval_sts12_spearman` and `eval_stsb_spearman`, and their mean
            `eval_sts_avg_spearman`.
        """
        self._nan_monitor.check()
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("`evaluate` needs scored pairs or other sets; give the trainer an `eval_dataset`.")
        sets = {metric_key_prefix: eval_dataset}
        if isinstance(eval_dataset, dict):
            sets = {f"{metric_key_prefix}_{name}": pairs for name, pairs in eval_dataset.items()}
        metrics = {}
        model = self.accelerator.unwrap_model(self.model)
        encoding = {"batch_size": self.args.eval_batch_size, "autocast_dtype": self.args.evaluation_dtype}
        scores_tests = eval_dataset is self.eval_dataset and self._test_tasks
        for prefix, pairs in sets.items():
            start = time.time()
            with self._schedule_free.averaged():
                # A start of one direction cannot be trained to be better; what collapses later scores low.
                needs_spread = self._is_training and self.state.global_step == 0
                scores = score_sets(model, self.processing_class, pairs, needs_spread=needs_spread, **encoding)
                figures = {f"{prefix}_{name}": value for name, value in scores.items()}
                if scores_tests and prefix == list(sets)[-1]:
                    scores = score_test_sets(model, self.processing_class, self._test_tasks, **encoding)
                    figures |= {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            figures |= speed_metrics(prefix, start, num_samples=len(pairs))
            self.log(dict(figures))
            metrics |= figures
        selects = self._is_training and metric_key_prefix == "eval" and self.args.metric_for_best_model is not None
        if selects:
            check_metric(self.args.best_metric, metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if selects and self.args.load_best_model_at_end and self.selects_start and self.state.global_step == 0:
            self._save_start(metrics)
        return metrics

    def predict(
        self, test_dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Embed the `text` of every row, in the order given.

        Args:
            test_dataset: A `datasets.Dataset` or any iterable of rows with `text`, or a list of sentences.
            ignore_keys: Not used; kept for `Trainer`.
            metric_key_prefix: What each name of `metrics` starts with.

        Returns:
            `predictions`, (N, H) float32 sentence embeddings as `encode` gives them; `label_ids` None; `metrics`, the
            time taken.

        Raises:
            ValueError: If a row has no text, or the trainer no tokenizer.
        """
        self._nan_monitor.check()
        if self.processing_class is None:
            raise ValueError("`predict` needs the tokenizer; give it to the trainer as `processing_class`.")
        texts = texts_of(test_dataset)
        start = time.time()
        model = self.accelerator.unwrap_model(self.model)
        encoding = {"batch_size": self.args.eval_batch_size, "autocast_dtype": self.args.evaluation_dtype}
        with self._schedule_free.averaged():
            embeddings = embed(model, self.processing_class, texts, **encoding)
        metrics = speed_metrics(metric_key_prefix, start, num_samples=len(texts))
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(predictions=embeddings(texts).numpy(), label_ids=None, metrics=metrics)

    def _save_start(self, metrics: dict[str, float]) -> None:
        """Make the start a candidate for the best checkpoint: note its score and save it as `checkpoint-0`."""
        self._determine_best_metric(metrics, self._trial)
        # `Trainer` looks for the folder of the best step only if that is not 0.
        self.state.best_model_checkpoint = self.checkpoint_path(0)
        self._save_checkpoint(self.model_wrapped, self._trial)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _loss_scale(self) -> float:
        """Return the factor of the loss under fp16, 1 otherwise."""
        scaler = getattr(self.accelerator, "scaler", None)
        return 1.0 if scaler is None else scaler.get_scale()

    def _step_was_skipped(self) -> bool:
        """Return whether the optimizer left the weights alone because the gradient overflowed.

        A fused optimizer is called all the same, so accelerate does not notice (1.15), but the scale falls.
        """
        return self.accelerator.optimizer_step_was_skipped or self._loss_scale() < self._scale

    def _check_weights(self) -> None:
        """Raise a `FloatingPointError`, on all processes, where a weight or key to be saved is not finite."""
        held = (getattr(parameter, "ds_tensor", parameter) for parameter in self.model.parameters())
        # The sum of unit rows is finite if they are; a look at each row would take memory for as many again.
        queued = (queue.rows.sum() for queue in self.model.queues())
        bad = not all(part.isfinite().all() for part in (*held, *queued))
        if any_process(bad, self.args.device):
            raise FloatingPointError(
                f"A weight or a queued key is not finite after step {self.state.global_step}; lower `learning_rate` "
                "or `weight_decay`. Checkpoints before it are good."
            )

    def _close_progress_bar(self) -> None:
        """Let what is said next begin on a line of its own."""
        for callback in self.callback_handler.callbacks:
            bar = getattr(callback, "training_bar", None)
            if bar is not None:
                bar.close()

    def _load_finished(self, checkpoint: str) -> TrainOutput:
        """Load what a finished run ended with."""
        self.state = state = read_state(checkpoint)
        self.compare_checkpoint(checkpoint)
        best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
        source = Path(checkpoint).parent / Path(best).name if best else Path(checkpoint)
        require_complete(source)
        load_weights(self.model, source)
        self._queue_monitor.draw(self.args)
        stopped = f" of {state.max_steps}, where a callback stopped it" if state.global_step < state.max_steps else ""
        self._warn(
            f"{checkpoint} is at the end of its run, step {state.global_step}{stopped}: no step is left to train."
        )
        metrics = read_json_object(Path(checkpoint).parent / TRAIN_RESULTS_FILE)
        return TrainOutput(state.global_step, metrics.get("train_loss", 0.0), metrics)

    def _warn(self, message: str) -> None:
        if self.is_world_process_zero():
            logger.warning(printable(message))

    def _momentum_metrics(self) -> dict[str, float]:
        model = self.accelerator.unwrap_model(self.model)
        if not model.momentum_pairs():
            return {}
        decay = self.ema_decay_at(self.state.global_step + 1)
        fill = len(model.queue.newest_first())
        metrics = {"ema_decay": decay, "queue_fill": fill}
        distances = {
            "d_trace": (self.args.ema_decay, model.config.queue_size),
            "current_d_trace": (decay, fill),
        }
        for name, (eta, size) in distances.items():
            if eta < 1.0:
                metrics[name] = maximum_traceable_distance(eta, size, self.keys_per_step())
        return metrics


@contextmanager
def _changed(args: MoCoSETrainingArguments, values: dict[str, object]) -> Iterator[None]:
    """Give arguments other values for the time of a `with` block."""
    before = {name: getattr(args, name) for name in values}
    try:
        for name, value in values.items():
            setattr(args, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)


class _MomentumStep(TrainerCallback):
    """Call the trainer at the start and once per optimizer step, before that step's log, evaluation and save."""

    def __init__(self, trainer: MoCoSETrainer):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer.begin_training()
        self._trainer.resume_training()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._trainer.note_gradient()

    def on_step_end(self, args, state, control, **kwargs):
        self._trainer.step_momentum(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        self._trainer.compare_checkpoint(self._trainer.checkpoint_path(state.global_step))


@dataclass
class _Forward:
    """What one forward leaves for the end of its optimizer step, of this process or of all."""

    measures: Tensor
    keys: Tensor
    sentence_ids: Tensor | None
    reverse_keys: Tensor | None = None

    def numbers(self) -> list[Tensor]:
        """Return what must be finite."""
        return [part for part in (self.measures, self.keys, self.reverse_keys) if part is not None]

    def gather(self) -> "_Forward":
        parts = (self.measures, self.keys, self.sentence_ids, self.reverse_keys)
        return _Forward(*(None if part is None else gather_rows(part) for part in parts))
