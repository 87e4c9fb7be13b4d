"""A trainer that scores sentence embeddings, and embeds texts, while it trains and afterwards."""

import time
from collections.abc import Sequence
from pathlib import Path

from transformers.trainer_utils import PredictionOutput, speed_metrics

from mocose_hf.evaluation.checkpoint_selection import score_test_sets
from mocose_hf.evaluation.development import score_sets
from mocose_hf.evaluation.pairs import PAIR_METRICS
from mocose_hf.evaluation.sentence_embeddings import embed
from mocose_hf.evaluation.sts import STSTask
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.training.base_trainer import BaseTrainer
from mocose_hf.training.callbacks.nan_monitor import NaNMonitor
from mocose_hf.training.data_preparation import texts_of
from mocose_hf.training.schedule_free import ScheduleFreeWeights
from mocose_hf.training.validation.inputs import validate_development_pairs, validate_metric


class ScoringTrainer(BaseTrainer):
    """Evaluate on development sets, test sets and evaluators of sentence-transformers, and predict embeddings.

    Attributes:
        selects_start: Whether the start is a candidate for the best checkpoint. With `load_best_model_at_end` and
            `eval_on_start` it is saved as `checkpoint-0`.
    """

    selects_start = True
    _is_training: bool
    _test_tasks: Sequence[STSTask]
    _nan_monitor: NaNMonitor
    _schedule_free: ScheduleFreeWeights

    def _validate_evaluation(self, args, eval_dataset, test_tasks) -> None:
        if eval_dataset is None or type(self).evaluate is not ScoringTrainer.evaluate:
            return  # a subclass may evaluate anything
        selects = args.metric_for_best_model is not None and args.eval_strategy != "no"
        scored_otherwise = (test_tasks or self._evaluator) and args.best_metric not in PAIR_METRICS
        validate_development_pairs(eval_dataset, args.best_metric if selects and not scored_otherwise else None)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Score the sentence embeddings on development sets, without changing the training state.

        Args:
            eval_dataset: Pairs or sets as in the constructor, by default those; or a dict of several.
            ignore_keys: Unused; part of the signature of `Trainer`.
            metric_key_prefix: The first part of each name.

        Returns:
            For pairs `eval_dev_spearman` (Spearman correlation of cosine and score, × 100), `eval_dev_alignment`,
            `eval_dev_uniformity`; for each task of `DevelopmentSets` its metrics, such as `eval_shop_mrr_at_10`; and
            the time taken. `test_tasks` are scored together with the default pairs: `eval_sts12_spearman`,
            `eval_stsb_spearman`, …, and their mean `eval_sts_avg_spearman`. So is the `evaluator`.
        """
        self._nan_monitor.check()
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ValueError("`evaluate` needs scored pairs or other sets; give the trainer an `eval_dataset`.")
        sets = {metric_key_prefix: eval_dataset}
        if isinstance(eval_dataset, dict):
            sets = {f"{metric_key_prefix}_{name}": pairs for name, pairs in eval_dataset.items()}
        metrics: dict[str, float] = {}
        model = self.accelerator.unwrap_model(self.model)
        encoding = self.args.evaluation_encoding
        scores_tests = eval_dataset is self.eval_dataset and self._test_tasks
        for prefix, pairs in sets.items():
            start = time.time()
            with self._schedule_free.averaged():
                # Equal embeddings at the start cannot be trained. A later collapse shows as a low score.
                needs_spread = self._is_training and self.state.global_step == 0
                scores = score_sets(model, self.processing_class, pairs, needs_spread=needs_spread, **encoding)
                prefixed = {f"{prefix}_{name}": value for name, value in scores.items()}
                if scores_tests and prefix == list(sets)[-1]:
                    scores = score_test_sets(model, self.processing_class, self._test_tasks, **encoding)
                    prefixed |= {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
                if self._evaluator is not None and eval_dataset is self.eval_dataset and prefix == list(sets)[-1]:
                    scores = self._run_evaluator(model)
                    prefixed |= {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
            prefixed |= speed_metrics(prefix, start, num_samples=len(pairs))
            self.log(dict(prefixed))
            metrics |= prefixed
        selects = self._is_training and metric_key_prefix == "eval" and self.args.metric_for_best_model is not None
        if selects:
            validate_metric(self.args.best_metric, metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if selects and self.args.load_best_model_at_end and self.selects_start and self.state.global_step == 0:
            self._save_start(metrics)
        return metrics

    def _run_evaluator(self, model: ContrastiveModel) -> dict[str, float]:
        """Return the metrics of the evaluator by name; each process runs the whole of it."""
        from mocose_hf.evaluation.live_model import run_evaluator

        folder = Path(self.args.output_dir) / "eval" if self.is_world_process_zero() else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        epoch, step = self.state.epoch or 0, self.state.global_step
        options = {"autocast_dtype": self.args.evaluation_dtype}
        return run_evaluator(self._evaluator, model, self.processing_class, folder, epoch, step, **options)

    def predict(
        self, test_dataset, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Embed the `text` of every row, in the given order.

        Args:
            test_dataset: A `datasets.Dataset` or any iterable of rows with `text`, or a list of sentences.
            ignore_keys: Unused; part of the signature of `Trainer`.
            metric_key_prefix: The first part of each name in `metrics`.

        Returns:
            `predictions`, (N, H) float32 sentence embeddings as `encode` returns them; `label_ids` None; `metrics`,
            the time taken.

        Raises:
            ValueError: If a row has no text, or the trainer no tokenizer.
        """
        self._nan_monitor.check()
        if self.processing_class is None:
            raise ValueError("`predict` needs the tokenizer; give it to the trainer as `processing_class`.")
        texts = texts_of(test_dataset)
        start = time.time()
        model = self.accelerator.unwrap_model(self.model)
        encoding = self.args.evaluation_encoding
        with self._schedule_free.averaged():
            embeddings = embed(model, self.processing_class, texts, **encoding)
        metrics = speed_metrics(metric_key_prefix, start, num_samples=len(texts))
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(predictions=embeddings(texts).numpy(), label_ids=None, metrics=metrics)

    def _save_start(self, metrics: dict[str, float]) -> None:
        """Record the score of the start, and save it as a candidate for the best checkpoint."""
        raise NotImplementedError
