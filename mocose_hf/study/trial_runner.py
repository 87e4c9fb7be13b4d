"""Run one trial of a study: train, or score a baseline without training, and evaluate the result."""

import gc
import hashlib
import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from mocose_hf.cli.factory import build_model, build_trainer, validate_model_options
from mocose_hf.cli.idle_options import find_idle
from mocose_hf.cli.options import Options, build_parser, read_options, read_values, validate_option_names
from mocose_hf.data.text_augmentation import build_key_augmentation
from mocose_hf.errors import InputError, TrainingInterrupted, one_line
from mocose_hf.evaluation.checkpoint_selection import is_greater_better
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.evaluation.development import score_sets
from mocose_hf.evaluation.geometry import GeometryTask
from mocose_hf.evaluation.similarity import pair_cosines
from mocose_hf.evaluation.tasks import averages, embed_tasks
from mocose_hf.evaluation.tfidf import TfidfModel
from mocose_hf.study.redaction import is_secret, redact_text, secret_values
from mocose_hf.study.study import BASELINE, BASELINES, SCORE, TrialResult
from mocose_hf.study.trial_data import TrialData
from mocose_hf.training.callbacks.collapse_monitor import CollapseMonitor
from mocose_hf.training.checkpoint import checkpoints, find_checkpoint

RESULT_FILE = "result.json"

_SAME_SCORE = 1e-3
"""Two scores of one model on the same pairs differ by less than this, in points of Spearman × 100."""

_COSINE_DECIMALS = 8  # fewer would turn the cosines of a collapsed encoder into ties

_MAX_FOLDER_NAME = 200
"""Characters of the longest folder name; file systems allow 255."""

_QUIET = {"report_to": "none", "disable_tqdm": True}
_STUDY_OPTIONS = {
    "seed": "a study runs each cell with the seeds of --seeds",
    "output_dir": "each trial has its own folder in the study's --output_dir",
    "overwrite_output_dir": "finished trials are kept; to start over, give another --output_dir",
    "save_only_encoder": "a study saves no model; without --keep_models it keeps no checkpoints either",
    "license": "a study writes no model card",
    "language": "a study writes no model card",
    "resume_from_checkpoint": "the same command resumes interrupted trials",
}
"""Options that the study sets for each trial, and where to choose them instead."""


@dataclass
class _Outcome:
    """The measured part of a `TrialResult`."""

    figures: dict[str, float]
    curve: list[tuple[int, float]] = field(default_factory=list)
    spectrum: list[float] = field(default_factory=list)
    pair_scores: list[float] = field(default_factory=list)
    pair_cosines: list[float] = field(default_factory=list)


class TrialRunner:
    """Run cells on the same sentences, development sets and test sets, which are read once.

    Args:
        study: The name of the study.
        options: Options of `run_mocose.py` for all cells.
        folder: The parent of the folders of the trials.
        spectrum: Whether to keep the singular values of the embeddings of the development pairs.
        keep_models: Whether to keep the checkpoints of finished trials.
        metric: The figure that ranks the cells. A development figure also selects the checkpoint of each run, unless
            the options set `metric_for_best_model`.
    """

    def __init__(
        self,
        study: str,
        options: Mapping[str, object],
        folder: str | Path,
        spectrum: bool = False,
        keep_models: bool = False,
        metric: str = SCORE,
    ):
        self._study, self._options, self._folder = study, _QUIET | dict(options), Path(folder)
        self._spectrum, self._keep_models, self._metric = spectrum, keep_models, metric
        self._data = TrialData()
        self._digests: dict[str, dict[str, str]] = {}

    def validate(self, cells: Mapping[str, Mapping[str, object]]) -> None:
        """Check the options of all cells and read their data, without building a model.

        Raises:
            InputError: If the options of a cell cannot be used, or one of them has no effect.
        """
        _validate_trial_options(self._options)
        for label, cell in cells.items():
            with self._errors_of(label):
                _validate_trial_options(cell)
                _validate_baseline(cell.get(BASELINE))
                options = self._parse(label, cell, 0)
            if options.model.model_name_or_path is None:
                raise InputError("--encoder is needed: a hub id or directory of the encoder to start from.")
            if not options.trains:
                raise InputError("--train_file or --dataset_name is needed: the sentences to train on.")
            self._validate_metric(options)
            encoder = self._data.encoder(options)
            with self._errors_of(label):
                validate_model_options(options, *encoder)
                _validate_augmentation(options)
                _validate_effect(cell, options)
            self._digests[label] = self._data.digests(options)

    def validate_space(self, options: Iterable[str]) -> None:
        """Check the option names of a search space.

        Raises:
            InputError: If a name is no option of a trial, or a secret, which the labels of the search would show.
        """
        options = list(options)
        for name in filter(is_secret, options):
            raise InputError(f"--{name} is a secret, which a search would store; give it on the command line.")
        _validate_trial_options(options)
        validate_option_names(options)

    def digests(self, cell: str) -> dict[str, str]:
        """Return the digests of the data and the encoder of a cell. Call `validate` first."""
        return self._digests[cell]

    def run(
        self, cell: str, options: Mapping[str, object], seed: int, heartbeat: Callable[[], None] = lambda: None
    ) -> TrialResult:
        """Run one cell with one seed. An interrupted trial resumes from its newest checkpoint.

        Args:
            cell: The label of the cell.
            options: Its options, which override the common ones.
            seed: The seed.
            heartbeat: Called after each step and evaluation.

        Returns:
            A complete result, or a failed one with the reason.

        Raises:
            TrainingInterrupted: After SIGTERM or SIGINT, once the current step is saved.
        """
        start, given = time.monotonic(), self._options | dict(options)
        try:
            given = self._in_force(options)
            parsed = self._parse(cell, options, seed)
            baseline: Any = options.get(BASELINE)
            outcome = self._score_baseline(parsed, baseline) if baseline else self._train(parsed, heartbeat)
            outcome.figures["seconds"] = round(time.monotonic() - start, 1)
            result = TrialResult(self._study, cell, seed, "complete", options=_plain(given), **vars(outcome))
        except (TrainingInterrupted, KeyboardInterrupt):
            raise
        except Exception as error:  # any other error fails only its own trial
            is_expected = isinstance(error, (InputError, FloatingPointError, RuntimeError, OSError, ValueError))
            reason = one_line(error) if is_expected else f"{type(error).__name__}: {one_line(error)}"
            reason = redact_text(reason, secret_values(given))
            result = TrialResult(self._study, cell, seed, "failed", reason=reason, options=_plain(given))
        self._save(result)
        gc.collect()
        return result

    def folder_of(self, cell: str, seed: int) -> Path:
        """Return the folder of a trial."""
        return self._folder / _as_folder_name(cell) / f"seed-{seed}"

    @contextmanager
    def _errors_of(self, label: str) -> Iterator[None]:
        """Prefix errors with the study and the cell."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._study}, cell {label}: {error}") from error

    def _in_force(self, cell: Mapping[str, object]) -> dict[str, object]:
        """Return all options of a cell: its own, and the common ones that its own leave an effect.

        The rules are those of a configuration file whose options are overridden on the command line.
        """
        common = {name: value for name, value in self._options.items() if name not in cell}
        overrides = {*cell}
        while overrides and common:
            values = read_values(_with_default_tasks(common | dict(cell)))
            idle = find_idle(values, {name: str(value) for name, value in common.items()}, overrides)
            if not idle:
                break
            common = {name: value for name, value in common.items() if name not in idle}
            overrides |= idle.keys()  # without these, others may have no effect
        return common | dict(cell)

    def _validate_metric(self, options: Options) -> None:
        """Check that the trials have the metric, and the pairs that a spectrum needs."""
        if not options.develops:
            raise InputError(
                "--senteval_dir or --validation_file is needed: a study ranks its cells by Spearman on development "
                "pairs. A study file can set another `metric`, for --retrieval_file or --label_file."
            )
        has_pairs = self._data.development_sets(options).pairs is not None
        if not has_pairs and (self._metric.endswith(SCORE) or self._spectrum):
            raise InputError(
                "--senteval_dir or --validation_file is needed: this study needs development pairs. To rank the cells "
                "by other development sets, write a study file with `metric`."
            )
        if not self._data.has_metric(self._metric, options):
            raise InputError(
                f"{self._study}: `metric` {self._metric} is not a figure of these trials; choose one of "
                f"{', '.join(self._data.development_sets(options).metric_names)}, or give the data that it needs."
            )

    def _parse(self, cell: str, options: Mapping[str, object], seed: int) -> Options:
        """Return the parsed options of a trial."""
        given = self._in_force(options) | {"seed": seed, "output_dir": str(self.folder_of(cell, seed))}
        given = _with_default_tasks(given)
        parsed = read_options(given)
        metric = self._metric.removeprefix("last_")
        if metric in parsed.development_metrics[1:] and "metric_for_best_model" not in given:
            return read_options(given | {"metric_for_best_model": metric})
        return parsed

    def _train(self, options: Options, heartbeat: Callable[[], None]) -> _Outcome:
        development, tasks = self._data.development(options), self._data.tasks(options)
        model, tokenizer = build_model(options)
        checkpoint = find_checkpoint(options.output_dir, "true").path
        trainer = build_trainer(options, model, tokenizer, self._data.sentences(options), development, tasks)
        trainer.selects_start = False  # the score of a cell should come from its training
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Heartbeat(heartbeat))
        trainer.train(resume_from_checkpoint=checkpoint)
        figures = self._data.development_sets(options).metric_names
        metric = self._metric.removeprefix("last_")
        outcome = _summarise(trainer.state, figures, metric if metric in figures else figures[0])
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, CollapseMonitor) and callback.alarm_step is not None:
                outcome.figures["alarm_step"] = float(callback.alarm_step)
        encoder = trainer.accelerator.unwrap_model(trainer.model)
        encoding = trainer.args.evaluation_encoding
        self._evaluate(outcome, options, encoder, tokenizer, **encoding)
        return outcome

    def _score_baseline(self, options: Options, baseline: str) -> _Outcome:
        _validate_baseline(baseline)
        if baseline == "tfidf":
            model, tokenizer = TfidfModel(self._data.sentences(options).dataset["text"]), None
        else:
            model, tokenizer = build_model(options)
        scores = score_sets(model, tokenizer, self._data.development(options))
        last = {f"last_{name}": score for name, score in scores.items() if f"last_{name}" == self._metric}
        outcome = _Outcome({**scores, **last, "dev_step": 0.0})
        self._evaluate(outcome, options, model, tokenizer)
        return outcome

    def _evaluate(self, outcome: _Outcome, options: Options, model, tokenizer, **encoding) -> None:
        """Add the figures of the test sets, the spectrum and the cosines of the development pairs."""
        for task in self._data.tasks(options).final:
            outcome.figures |= task.score(embed_tasks(model, tokenizer, [task]))
        outcome.figures |= averages(outcome.figures)
        pairs = self._data.development_sets(options).pairs
        if pairs is None:
            return
        geometry = GeometryTask(pairs)
        embeddings = embed_tasks(model, tokenizer, [geometry], **encoding)
        if self._spectrum:
            outcome.spectrum = geometry.spectrum(embeddings).tolist()
        cosines = pair_cosines(embeddings(list(pairs["sentence1"])), embeddings(list(pairs["sentence2"])))
        # Without load_best_model_at_end, the model is not the one that the score belongs to.
        if abs(spearman(cosines, pairs["score"]) - outcome.figures[SCORE]) < _SAME_SCORE:
            outcome.pair_scores = [float(score) for score in pairs["score"]]
            outcome.pair_cosines = [round(cosine, _COSINE_DECIMALS) for cosine in cosines.tolist()]

    def _save(self, result: TrialResult) -> None:
        """Write the result into the folder of the trial, and delete its checkpoints."""
        folder = self.folder_of(result.cell, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).write_text(result.as_json(), encoding="utf-8")
        if not self._keep_models:
            for checkpoint in checkpoints(folder):
                shutil.rmtree(checkpoint, ignore_errors=True)


class _Heartbeat(TrainerCallback):
    """Tell other workers that this one is alive."""

    def __init__(self, heartbeat: Callable[[], None]):
        self._heartbeat = heartbeat

    def on_step_end(self, args, state, control, **kwargs):
        self._heartbeat()

    def on_evaluate(self, args, state, control, **kwargs):
        self._heartbeat()


def _validate_trial_options(options: Iterable[str]) -> None:
    """Raise an `InputError` if an option belongs to the study and would be ignored."""
    for name in options:
        if name in _STUDY_OPTIONS:
            raise InputError(f"--{name} cannot be set for a trial: {_STUDY_OPTIONS[name]}.")


def _validate_baseline(baseline: object) -> None:
    if baseline is not None and baseline not in BASELINES:
        raise InputError(f"the baseline {baseline!r} is unknown; choose {' or '.join(BASELINES)}.")


def _validate_augmentation(options: Options) -> None:
    """Raise an `InputError` if an augmentation of the text lacks its data."""
    training = options.training
    if training.key_augmentation is not None:
        try:
            build_key_augmentation(training.key_augmentation, training.key_augmentation_rate)
        except ValueError as error:
            raise InputError(f"{one_line(error)}.") from error


def _validate_effect(cell: Mapping[str, object], options: Options) -> None:
    """Raise an `InputError` if an option of a cell has no effect, unless it is off or has its default value."""
    parts = (options.model, options.method, options.data, options.evaluation, options.training)
    values = Namespace(**{name: value for part in parts for name, value in vars(part).items()})
    parser = build_parser()
    for name, value in cell.items():
        if value in (None, 0) or getattr(values, name, None) == parser.get_default(name):
            continue
        if reason := find_idle(values, {name: str(value)}, {*vars(values)} - {name}).get(name):
            raise InputError(f"`{name}` {value} has no effect because {reason}; leave it out.")


def _with_default_tasks(options: Mapping[str, object]) -> dict[str, object]:
    """Return options for the command line: without the baseline, and with STS as the default test sets."""
    given = {name: value for name, value in options.items() if name != BASELINE}
    if "senteval_dir" in given:
        given.setdefault("eval_tasks", ["sts"])
    if given.get("eval_tasks") == "none":
        del given["eval_tasks"]
    return given


def _summarise(state, figure_names: Sequence[str], metric: str) -> _Outcome:
    """Return the figures and the curve of a finished training.

    Args:
        state: The state of the trainer.
        figure_names: The names of the development figures.
        metric: The development figure of the curve.
    """
    by_step: dict[int, dict] = {}
    for entry in state.log_history:
        if f"eval_{metric}" in entry:
            by_step.setdefault(entry["step"], entry)
    curve = [(step, entry[f"eval_{metric}"]) for step, entry in sorted(by_step.items())]
    trained = {step: score for step, score in curve if step > 0}
    if not trained:
        raise InputError("no evaluation took place; leave out --eval_strategy no.")
    choose = max if is_greater_better(metric) else min
    best = state.best_global_step if state.best_global_step in trained else choose(trained, key=trained.get)
    figures = {name: by_step[best][f"eval_{name}"] for name in figure_names if f"eval_{name}" in by_step[best]}
    figures |= {"dev_step": float(best), f"last_{metric}": curve[-1][1]}
    if 0 in by_step:
        figures[f"start_{metric}"] = curve[0][1]
    return _Outcome(figures, curve)


def _as_folder_name(label: str) -> str:
    """Return a label as a folder name that every file system accepts. Different labels give different names."""
    safe = (c if c.isascii() and (c.isalnum() or c in "-.=,") else "_" if c == " " else f"_{ord(c):x}" for c in label)
    name = "".join(safe)
    if len(name) <= _MAX_FOLDER_NAME:
        return name
    return f"{name[: _MAX_FOLDER_NAME - 17]}-{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """Return options as JSON can hold them."""
    kinds = (bool, int, float, str, list)
    given = {name: value for name, value in options.items() if value is not None}
    return {name: value if isinstance(value, kinds) else str(value) for name, value in given.items()}
