"""The changes to `transformers.Trainer` that do not depend on the method: repository, saved files, models to order."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerControl, TrainingArguments, enable_full_determinism, set_seed
from transformers.utils import logging

from mocose_hf.errors import InputError, one_line, printable
from mocose_hf.evaluation.checkpoint_selection import scores_by_step
from mocose_hf.export.hub_upload import upload_output_dir
from mocose_hf.export.sentence_encoder import save_model_and_encoder
from mocose_hf.files import replacing, write_text
from mocose_hf.models.modeling_base import ContrastiveModel
from mocose_hf.parallel.deepspeed import whole_model
from mocose_hf.training.callbacks.progress import ProgressDisplay
from mocose_hf.training.checkpoint import ALL_RESULTS_FILE, STATE_FILE
from mocose_hf.training.validation.arguments import validate_augmentations, validate_values

logger = logging.get_logger(__name__)


class BaseTrainer(Trainer):
    """A `Trainer` that names its files, messages and searched score as this package does.

    With `model_init`, a subclass calls `build_new_model` at the start of each training, before `Trainer.train`, so
    that it can prepare the data for the model. `Trainer.train` then receives the same model.
    """

    _new_model: ContrastiveModel | None = None
    train_dataset: Any
    data_collator: Any
    control: TrainerControl

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._saved_metrics: dict[str, float] = {}

    def init_hf_repo(self, *args, **options) -> None:
        """Create the repository of `push_to_hub` as `transformers.Trainer` does.

        Raises:
            InputError: If that fails, with the reason.
        """
        try:
            super().init_hf_repo(*args, **options)
        except Exception as error:  # network, hub, names and tokens raise many kinds
            raise InputError(
                f"`push_to_hub` cannot create or reach the repository ({one_line(error)}); check the network, the "
                "token and `hub_model_id`, or leave it out and upload the finished folder."
            ) from error

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> None:
        """Write the plain encoder and, in mocose/, the whole model to the output directory, and upload it.

        `Trainer` would upload the whole model at the root, which other libraries do not load.

        Args:
            commit_message: The message of the commit.
            token: The access token; default: that of the arguments.
            revision: The branch; default: that of the arguments.
            private: Whether a new repository is private; default: as the arguments say.

        Raises:
            InputError: If the repository cannot be created, or the base of an adapter is a path of this machine.
            SaveError: If the upload fails.
        """
        base = (self.accelerator.unwrap_model(self.model).config.peft_config or {}).get("base_model_name_or_path")
        if base is not None and Path(base).is_dir():
            raise InputError(
                f"`push_to_hub` would upload the path {base}, the base of the adapter; start from a hub id, or upload "
                "the result of `export_sentence_encoder`."
            )
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        model = whole_model(self)
        if self.is_world_process_zero():
            token, revision = token or self.args.hub_token, revision or self.args.hub_revision
            save_model_and_encoder(model, self.processing_class, self.args.output_dir)
            upload_output_dir(self.args.output_dir, self.hub_model_id, token, revision, commit_message)

    def build_model(self, args, trial=None) -> ContrastiveModel:
        """Build a model by `model_init` from the seed of the arguments."""
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)
        return super().call_model_init(trial)

    def build_new_model(self, trial) -> ContrastiveModel:
        """Build the model of a training, with the arguments of the trial if there is one.

        Raises:
            ValueError: If a value of the trial is outside its range.
        """
        if trial is not None:
            self._hp_search_setup(trial)
            validate_values(self.args)
            validate_augmentations(self.args)
        self.model = self._new_model = self.build_model(self.args, trial)
        return self.model

    def call_model_init(self, trial=None) -> ContrastiveModel:
        """Return the model that `build_new_model` has built for this training, or build one."""
        model, self._new_model = self._new_model, None
        return super().call_model_init(trial) if model is None else model

    def hyperparameter_search(
        self, hp_space=None, compute_objective=None, n_trials=20, direction=None, backend=None, hp_name=None, **options
    ):
        """Search as `transformers.Trainer` does, by default for the score that selects the best checkpoint.

        Args:
            hp_space, n_trials, backend, hp_name, options: As in `transformers.Trainer`.
            compute_objective: Returns the number to optimise from the metrics of an evaluation. The default is
                `metric_for_best_model`: of the best evaluation so far with `load_best_model_at_end`, else of the last.
            direction: maximize or minimize. It is needed with `compute_objective`, and known without.

        Raises:
            ValueError: If there are no development pairs, or the direction is missing or wrong.
        """
        if self.eval_dataset is None:
            raise ValueError("`hyperparameter_search` compares scores; give the trainer an `eval_dataset`.")
        if compute_objective is None:
            known = "minimize" if self.args.greater_is_better is False else "maximize"
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
        return min(scores) if self.args.greater_is_better is False else max(scores)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write `{split}_results.json` and, if `combined`, `all_results.json` with everything this trainer has saved.

        Unlike `Trainer`, it drops the metrics that another run has left in `all_results.json`.
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
            with replacing(Path(self.args.output_dir) / STATE_FILE) as temporary:
                self.state.save_to_json(str(temporary))

    def _close_progress_bar(self) -> None:
        """Close the progress bar, so that the next message begins on a new line."""
        for callback in self.callback_handler.callbacks:
            bar = callback if isinstance(callback, ProgressDisplay) else getattr(callback, "training_bar", None)
            if bar is not None:
                bar.close()

    def _warn(self, message: str) -> None:
        if self.is_world_process_zero():
            logger.warning(printable(message))


@contextmanager
def changed_arguments(args: TrainingArguments, values: dict[str, object]) -> Iterator[None]:
    """Change arguments inside a `with` block."""
    before = {name: getattr(args, name) for name in values}
    try:
        for name, value in values.items():
            setattr(args, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)
