"""One trial of a study: a training, or a baseline without one, scored on development pairs and on test sets."""

import gc
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback

from mocose_hf.cli.factory import (
    build_model,
    build_trainer,
    check_model_options,
    fingerprint_encoder,
    read_encoder_config,
    read_training_sentences,
)
from mocose_hf.cli.options import Options, check_option_names, parse_command_line
from mocose_hf.cli.scoring import read_development, read_evaluation_tasks, with_held_out
from mocose_hf.data.text_augmentation import build_key_augmentation
from mocose_hf.errors import InputError, one_line
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.evaluation.development import DevelopmentSets, score_sets
from mocose_hf.evaluation.geometry import GeometryTask
from mocose_hf.evaluation.pairs import DEV_SPEARMAN, PAIR_METRICS
from mocose_hf.evaluation.similarity import pair_cosines
from mocose_hf.evaluation.tasks import averages, embed_tasks
from mocose_hf.evaluation.tfidf import TfidfModel
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.study.declarations import BASELINE, BASELINES
from mocose_hf.study.digests import content_sha256
from mocose_hf.study.provenance import ENCODER_DIGEST, OF_CONTENT, SENTENCES
from mocose_hf.study.redaction import is_secret, redact_text, secret_values
from mocose_hf.study.results import SCORE, TrialResult
from mocose_hf.training.callbacks.collapse_monitor import CollapseMonitor
from mocose_hf.training.callbacks.preemption import TrainingInterrupted
from mocose_hf.training.checkpoint import checkpoints, find_checkpoint

RESULT_FILE = "result.json"

_SAME_SCORE = 1e-3
"""Points of Spearman × 100 by which two scores of one model on the same pairs may differ, by rounding."""

_COSINE_DECIMALS = 8  # or cosines of a collapsed encoder would be ties

_LONGEST_NAME = 200
"""Characters of the longest name of a folder; file systems take 255."""

_QUIET = {"report_to": "none", "disable_tqdm": True}
_OF_THE_STUDY = {
    "seed": "a study runs each cell with all seeds that --seeds names",
    "output_dir": "each has a folder of its own in the study's --output_dir",
    "overwrite_output_dir": "finished trials are kept; give another --output_dir of the study to begin anew",
    "resume_from_checkpoint": "the same command goes on with what was interrupted",
}
"""Options that a trial has from its study, and where they are chosen."""


class TrialRunner:
    """Run cells on the same sentences, development pairs and test sets, which are read once.

    Args:
        study: Name of the study.
        options: Options of `run_mocose.py` that all cells have in common.
        folder: Where each trial gets a folder of its own.
        spectrum: Whether to keep the singular values of the development sentences' embeddings.
        keep_models: Whether checkpoints stay when a trial is done.
    """

    def __init__(
        self,
        study: str,
        options: Mapping[str, object],
        folder: str | Path,
        spectrum: bool = False,
        keep_models: bool = False,
    ):
        self._study, self._options, self._folder = study, _QUIET | dict(options), Path(folder)
        self._spectrum, self._keep_models = spectrum, keep_models
        self._read: dict[tuple, object] = {}
        self._digests: dict[str, dict[str, str]] = {}

    def check(self, cells: Mapping[str, Mapping[str, object]]) -> None:
        """Check the options of all cells and read what they share, before anything is run; no model is built.

        Raises:
            InputError: Naming the cell whose options cannot be used.
        """
        _refuse_options_of_a_study(self._options)
        for label, options in cells.items():
            with self._told_of(label):
                _refuse_options_of_a_study(options)
                baseline = options.get(BASELINE)
                if baseline is not None and baseline not in BASELINES:
                    raise _unknown_baseline(baseline)
                parsed = self._parse(label, options, 0)
            if parsed.model.model_name_or_path is None:
                raise InputError("--encoder is needed: a hub id or directory of the encoder to start from.")
            if not parsed.trains:
                raise InputError("--train_file or --dataset_name is needed: the sentences to train on.")
            wanted = parsed.evaluation
            if not (wanted.validation_file or wanted.validation_dataset_name or wanted.senteval_dir):
                raise InputError(
                    "--senteval_dir or --validation_file is needed: a study compares Spearman on development pairs, "
                    "and keeps the figures of other sets beside it."
                )
            encoder = self._encoder(parsed)
            with self._told_of(label):
                check_model_options(parsed, *encoder)
            self._read_all(label, parsed)
            self._digests[label] = self._digests_of(parsed)

    def check_names(self, options: Iterable[str]) -> None:
        """Refuse names of a search's space that are no options of a trial, and secrets, which its labels would show.

        Raises:
            InputError: Naming the first of them.
        """
        options = list(options)
        for name in filter(is_secret, options):
            raise InputError(f"--{name} is a secret, which a search would store; give it on the command line.")
        _refuse_options_of_a_study(options)
        check_option_names(options)

    def digests(self, cell: str) -> dict[str, str]:
        """Return what tells the data and the encoder of a cell, which `check` has seen, from others."""
        return self._digests[cell]

    def run(
        self, cell: str, options: Mapping[str, object], seed: int, beat: Callable[[], None] = lambda: None
    ) -> TrialResult:
        """Run one cell with one seed, from its newest checkpoint where it was interrupted.

        Args:
            cell: Its label.
            options: Its options, over those in common.
            seed: Its seed.
            beat: Called now and then.

        Returns:
            A complete result, or one that failed with its reason: numbers, embeddings or options that are bad.

        Raises:
            TrainingInterrupted: After SIGTERM or SIGINT, when its step is done and saved.
        """
        start = time.monotonic()
        try:
            parsed = self._parse(cell, options, seed)
            baseline = options.get(BASELINE)
            made = self._score_baseline(parsed, baseline) if baseline else self._train(parsed, beat)
        except (TrainingInterrupted, KeyboardInterrupt):
            raise
        except Exception as error:  # each cause fails its own trial and no other
            told = isinstance(error, (InputError, FloatingPointError, RuntimeError, OSError, ValueError))
            reason = one_line(error) if told else f"{type(error).__name__}: {one_line(error)}"
            made = {"state": "failed", "reason": redact_text(reason, secret_values(self._options | dict(options)))}
        result = TrialResult(self._study, cell, seed, options=_plain(self._options | dict(options)), **made)
        if result.state == "complete":
            result.figures["seconds"] = round(time.monotonic() - start, 1)
        self._keep(result)
        gc.collect()
        return result

    def folder_of(self, cell: str, seed: int) -> Path:
        """Return the folder of a trial."""
        return self._folder / _as_file_name(cell) / f"seed-{seed}"

    @contextmanager
    def _told_of(self, label: str) -> Iterator[None]:
        """Name the cell in front of what is wrong with it."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self._study}, cell {label}: {error}") from error

    def _read_all(self, label: str, options: Options) -> None:
        """Read what a cell shares with others, and what only the augmentation of its text asks for."""
        self._sentences(options)
        self._development(options)
        self._tasks(options)
        training = options.training
        if training.key_augmentation is not None:
            try:
                build_key_augmentation(training.key_augmentation, training.key_augmentation_rate)
            except ValueError as error:
                raise InputError(f"{self._study}, cell {label}: {one_line(error)}.") from error

    def _parse(self, cell: str, options: Mapping[str, object], seed: int) -> Options:
        """Return the options of a cell, over those of all cells for which its algorithm has a place."""
        algorithm = ALGORITHMS.get(options.get("algorithm", self._options.get("algorithm", "mocose")))
        given = {
            name: value for name, value in self._options.items() if algorithm is None or not algorithm.lacks(name)
        }
        given |= {**options, "seed": seed, "output_dir": str(self.folder_of(cell, seed))}
        given.pop(BASELINE, None)
        if "senteval_dir" in given:
            given.setdefault("eval_tasks", ["sts"])
        if given.get("eval_tasks") == "none":
            del given["eval_tasks"]
        return parse_command_line(as_arguments(given))

    def _train(self, options: Options, beat: Callable[[], None]) -> dict:
        development, tasks = self._development(options), self._tasks(options)
        model, tokenizer = build_model(options)
        going_on = find_checkpoint(options.output_dir, "true").path
        trainer = build_trainer(options, model, tokenizer, self._sentences(options), development, tasks)
        trainer.selects_start = False  # a cell is scored by what its training makes
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Beat(beat))
        trainer.train(resume_from_checkpoint=going_on)
        made = _summarise(trainer.state, getattr(development, "metric_names", ()))
        for alarm in trainer.callback_handler.callbacks:
            if isinstance(alarm, CollapseMonitor) and alarm.alarm_step is not None:
                made["figures"]["alarm_step"] = float(alarm.alarm_step)
        encoder = trainer.accelerator.unwrap_model(trainer.model)
        args = trainer.args
        encoding = {"batch_size": args.eval_batch_size, "autocast_dtype": args.evaluation_dtype}
        return self._finish(made, options, encoder, tokenizer, **encoding)

    def _score_baseline(self, options: Options, baseline: str) -> dict:
        if baseline == "tfidf":
            model, tokenizer = TfidfModel(self._sentences(options).dataset["text"]), None
        elif baseline == "start":
            model, tokenizer = build_model(options)
        else:
            raise _unknown_baseline(baseline)
        scores = score_sets(model, tokenizer, self._development(options))
        figures = {"dev_step": 0.0, **scores}
        return self._finish({"state": "complete", "figures": figures}, options, model, tokenizer)

    def _finish(self, made: dict, options: Options, model, tokenizer, **encoding) -> dict:
        """Add the figures of the test sets, the spectrum and the cosines of the development pairs."""
        for task in self._tasks(options).final:
            made["figures"] |= task.score(embed_tasks(model, tokenizer, [task]))
        made["figures"] |= averages(made["figures"])
        pairs = self._pairs(options)
        geometry = GeometryTask(pairs)
        embeddings = embed_tasks(model, tokenizer, [geometry], **encoding)
        if self._spectrum:
            made["spectrum"] = geometry.spectrum(embeddings).tolist()
        cosines = pair_cosines(embeddings(list(pairs["sentence1"])), embeddings(list(pairs["sentence2"])))
        # Without the best checkpoint loaded, the model is another one than the score is of.
        if abs(spearman(cosines, pairs["score"]) - made["figures"][SCORE]) < _SAME_SCORE:
            made["pair_scores"] = [float(score) for score in pairs["score"]]
            made["pair_cosines"] = [round(cosine, _COSINE_DECIMALS) for cosine in cosines.tolist()]
        return made

    def _keep(self, result: TrialResult) -> None:
        """Write the result beside what the trial leaves, and take its checkpoints away."""
        folder = self.folder_of(result.cell, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT_FILE).write_text(result.as_json(), encoding="utf-8")
        if not self._keep_models:
            for checkpoint in checkpoints(folder):
                shutil.rmtree(checkpoint, ignore_errors=True)

    def _sentences(self, options: Options):
        data = options.data
        names = ("train_file", "encoding", "dataset_name", "dataset_split", "text_column", "key_column")
        key = ("sentences", options.evaluation.dev_from_text, *(getattr(data, name) for name in names))
        return self._once(key, lambda: read_training_sentences(options))

    def _pairs(self, options: Options):
        development = self._development(options)
        return development.pairs if isinstance(development, DevelopmentSets) else development

    def _development(self, options: Options):
        wanted, sentences = options.evaluation, self._sentences(options)
        names = ("validation_file", "validation_dataset_name", "validation_dataset_split", "senteval_dir", "v_measure")
        files = tuple(wanted.retrieval_file or ()), tuple(wanted.label_file or ())
        key = ("development", id(sentences), *files, *(getattr(wanted, name) for name in names))
        return self._once(key, lambda: with_held_out(read_development(options), sentences))

    def _tasks(self, options: Options):
        wanted = options.evaluation
        key = ("tasks", wanted.senteval_dir, tuple(wanted.eval_tasks or ()), wanted.report_test_selection)
        return self._once(key, lambda: read_evaluation_tasks(options))

    def _encoder(self, options: Options):
        return self._once(("encoder's configuration", *_encoder_key(options)), lambda: read_encoder_config(options))

    def _digests_of(self, options: Options) -> dict[str, str]:
        """Return the digests of what `_read_all` read, and of the encoder."""
        sentences, pairs, tasks = self._sentences(options), self._pairs(options), self._tasks(options)
        return {
            SENTENCES: sentences.fingerprint if options.data.streaming else sentences.sha256,
            f"{OF_CONTENT}development pairs": self._digest(pairs),
            **self._digest_of_sets(options),
            f"{OF_CONTENT}test sets": self._digest(tasks) if tasks.final or tasks.during_training else "none",
            ENCODER_DIGEST: self._once(("encoder", *_encoder_key(options)), lambda: fingerprint_encoder(options)),
        }

    def _digest_of_sets(self, options: Options) -> dict[str, str]:
        """Return the digest of the development sets that are not pairs, if there are any."""
        development = self._development(options)
        tasks = development.tasks if isinstance(development, DevelopmentSets) else ()
        if not tasks:
            return {}
        content = [[task.name, task.sentences(), task.targets()] for task in tasks]
        return {f"{OF_CONTENT}development sets": content_sha256(content)}

    def _digest(self, value: object) -> str:
        """Return the digest of what `_once` has read and keeps."""
        return self._once(("digest", id(value)), lambda: content_sha256(value))

    def _once(self, key: tuple, read: Callable[[], object]):
        if key not in self._read:
            self._read[key] = read()
        return self._read[key]


class _Beat(TrainerCallback):
    """Tell other workers that this one is alive."""

    def __init__(self, beat: Callable[[], None]):
        self._beat = beat

    def on_step_end(self, args, state, control, **kwargs):
        self._beat()

    def on_evaluate(self, args, state, control, **kwargs):
        self._beat()


def _refuse_options_of_a_study(options: Iterable[str]) -> None:
    """Refuse what a trial has from its study, and would be ignored."""
    for name in options:
        if name in _OF_THE_STUDY:
            raise InputError(f"--{name} is not for a trial to choose: {_OF_THE_STUDY[name]}.")


def _unknown_baseline(baseline: object) -> InputError:
    return InputError(f"the baseline {baseline!r} is unknown; there are {' and '.join(BASELINES)}.")


def _encoder_key(options: Options) -> tuple:
    source = options.model
    return source.model_name_or_path, source.model_revision, source.cache_dir


def as_arguments(options: Mapping[str, object]) -> list[str]:
    """Return options as they are typed; those that are None are left out."""
    arguments = []
    for name, value in options.items():
        if value is None:
            continue
        if isinstance(value, Sequence) and not isinstance(value, str):
            arguments += [f"--{name}", *map(str, value)]
        else:
            arguments.append(f"--{name}={str(value).lower() if isinstance(value, bool) else value}")
    return arguments


def _summarise(state, names: Sequence[str] = ()) -> dict:
    """Return the figures and the curve of a finished training; `names` are figures of sets that are not pairs."""
    of_step: dict[int, dict] = {}
    for entry in state.log_history:
        if f"eval_{DEV_SPEARMAN}" in entry:
            of_step.setdefault(entry["step"], entry)
    curve = [(step, entry[f"eval_{DEV_SPEARMAN}"]) for step, entry in sorted(of_step.items())]
    trained = {step: score for step, score in curve if step > 0}
    if not trained:
        raise InputError("no evaluation took place; leave out --eval_strategy no.")
    best = state.best_global_step if state.best_global_step in trained else max(trained, key=trained.get)
    figures = {SCORE: trained[best], "dev_step": float(best), "last_dev_spearman": curve[-1][1]}
    if 0 in of_step:
        figures["start_dev_spearman"] = curve[0][1]
    for name in (*PAIR_METRICS[1:], *names):
        if f"eval_{name}" in of_step[best]:
            figures[name] = of_step[best][f"eval_{name}"]
    return {"state": "complete", "figures": figures, "curve": curve}


def _as_file_name(label: str) -> str:
    """Return a label with what no file system minds; different labels of a study stay different."""
    plain = (c if c.isascii() and (c.isalnum() or c in "-.=,") else "_" if c == " " else f"_{ord(c):x}" for c in label)
    name = "".join(plain)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 17]}-{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """Return options as JSON can hold them."""
    kinds = (bool, int, float, str, list)
    given = {name: value for name, value in options.items() if value is not None}
    return {name: value if isinstance(value, kinds) else str(value) for name, value in given.items()}
