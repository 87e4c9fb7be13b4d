"""What the command scores a model on, and how it writes and tells the figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from mocose_hf.cli.options import Options
from mocose_hf.cli.output_dir import clear_results, saving
from mocose_hf.errors import InputError, install_command
from mocose_hf.evaluation.checkpoint_selection import average_name, compare_selections, is_greater_better
from mocose_hf.evaluation.development import DevelopmentSets, score_sets
from mocose_hf.evaluation.geometry import GeometryTask
from mocose_hf.evaluation.geometry_plots import plot_alignment_uniformity, plot_spectrum
from mocose_hf.evaluation.labels import LabelTask, read_label_task
from mocose_hf.evaluation.optional_libraries import has_sklearn
from mocose_hf.evaluation.pairs import DEV_SPEARMAN, PAIR_METRICS, load_scored_pairs, read_scored_pairs
from mocose_hf.evaluation.retrieval import DEVELOPMENT_SPLITS, SPLITS, RetrievalTask, read_retrieval_task
from mocose_hf.evaluation.score_tables import (
    RESULT_FILES,
    RUN_PLOT,
    SPECTRUM_PLOT,
    SPECTRUM_TABLE,
    TITLES,
    Row,
    development_tables,
    tables,
    text_table,
    write_results,
    write_spectrum,
)
from mocose_hf.evaluation.sts import STSTask, read_stsb
from mocose_hf.evaluation.tasks import Task, embed_tasks, read_tasks, score_tasks
from mocose_hf.export.sentence_encoder import WHOLE_MODEL
from mocose_hf.training.checkpoint import STATE_FILE, read_state, step_of
from mocose_hf.training.trainer import UNWHITENED, MoCoSETrainer

START_IS_BEST = (
    "No checkpoint has a better {metric} than the start, so both are the start, as if it had not been trained; try a "
    "lower --learning_rate, another --max_steps, or more text."
)
"""The last line of a run that made nothing better."""


@dataclass
class Tasks:
    """What is scored beside the development pairs.

    Args:
        final: Tasks for the finished model.
        during_training: Test sets for each evaluation of a run.
    """

    final: list[Task] = field(default_factory=list)
    during_training: list[STSTask] = field(default_factory=list)


def read_pairs(options: Options):
    """Read the development pairs and print their number; None if there are none, or tasks are scored instead.

    Raises:
        InputError: If a file cannot be read, or STS-B dev is not complete and `allow_partial_tasks` is false.
    """
    wanted = options.evaluation
    if wanted.validation_file:
        source, pairs = wanted.validation_file, read_scored_pairs(wanted.validation_file, options.data.encoding)
    elif wanted.validation_dataset_name:
        source = f"{wanted.validation_dataset_name} ({wanted.validation_dataset_split})"
        pairs = load_scored_pairs(wanted.validation_dataset_name, wanted.validation_dataset_split)
    elif wanted.senteval_dir is None or (not options.trains and wanted.eval_tasks):
        return None
    else:
        source = f"{wanted.senteval_dir}, STS-B dev"
        pairs = read_stsb(wanted.senteval_dir, allow_partial_tasks=wanted.allow_partial_tasks)
    options.say(f"{source}: {len(pairs):,} development pairs.")
    return pairs


def read_development(options: Options) -> Dataset | DevelopmentSets | None:
    """Read all development sets and print what they hold.

    Returns:
        Pairs alone if there is no other set; None if there is none at all.

    Raises:
        InputError: If a file cannot be read, or two sets have one name.
    """
    wanted = options.evaluation
    pairs = read_pairs(options)
    splits = DEVELOPMENT_SPLITS if options.trains else SPLITS
    encoding = options.data.encoding
    sets: list[RetrievalTask | LabelTask] = [
        read_retrieval_task(path, splits, encoding) for path in wanted.retrieval_file or ()
    ]
    sets += [read_label_task(path, wanted.v_measure, encoding) for path in wanted.label_file or ()]
    for task in sets:
        options.say(task.summary())
    return DevelopmentSets(pairs, sets) if sets else pairs


def with_held_out(development: Dataset | DevelopmentSets | None, sentences) -> Dataset | DevelopmentSets | None:
    """Add the development set that was made of the training text, if there is one."""
    held_out = getattr(sentences, "held_out", None)
    if held_out is None:
        return development
    sets = development if isinstance(development, DevelopmentSets) else DevelopmentSets(development)
    return DevelopmentSets(sets.pairs, [*sets.tasks, held_out])


def read_evaluation_tasks(options: Options) -> Tasks:
    """Read what the finished model is scored on, and the test sets to score during training; tell which are absent.

    Raises:
        InputError: If a task cannot be read, or the best checkpoint should be selected by missing test sets.
    """
    wanted, tasks = options.evaluation, Tasks()
    try:
        if wanted.eval_tasks:
            tasks.final = _read(options, wanted.eval_tasks)
        if wanted.report_test_selection:
            sets = _read(options, ["sts"])
            tasks.during_training = [replace(task, development=None) for task in sets if isinstance(task, STSTask)]
    except InputError as error:
        raise InputError(options.locate(str(error))) from error
    metric = options.training.best_metric
    if tasks.during_training and metric.startswith("sts_avg") and metric != average_name(tasks.during_training):
        raise InputError(
            f"--metric_for_best_model {metric}: is not scored with the test sets that are there; give "
            f"{average_name(tasks.during_training)}."
        )
    return tasks


def _read(options: Options, names: Sequence[str]) -> list[Task]:
    folder = options.evaluation.senteval_dir
    tasks, missing = read_tasks(names, folder, options.evaluation.allow_partial_tasks)
    if missing:
        absent = ", ".join(TITLES.get(name, name.upper()) for name in missing)
        options.say(f"{folder}: {absent} not there, so left out, and no mean is that of all seven.")
    if folder is None and any(task.name == "sickr" for task in tasks):
        options.say("SICK-R of the hub is all of SICK, 9,927 pairs; papers score SentEval's 4,927.")
    return tasks


def score(trainer: MoCoSETrainer, options: Options, metrics: dict[str, float]) -> list[Row]:
    """Return the scores at the start, from the log, of TF-IDF, and of the model as it is saved, measured now."""
    if metrics:
        trainer.save_metrics("train", metrics)
    if trainer.eval_dataset is None:
        return []
    names = _as_sets(trainer.eval_dataset).metric_names
    evaluations = [entry for entry in trainer.state.log_history if f"eval_{names[0]}" in entry]
    best = trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
    # The best of the checkpoints: `best_global_step` is the best of the evaluations, which may not have been saved.
    end = f"best, step {step_of(best)}" if best else f"last, step {trainer.state.global_step}"
    share = options.model.merge_with_start
    if best and step_of(best) == 0:
        end = f"{end}: the start" if is_start(trainer) else f"{end}: whitened, not trained"
    elif share:
        end = f"{end}, merged with {share:g} of the start"
    start = [("start", _scores(e, names)) for e in evaluations if e["step"] == 0][:1]
    unwhitened = [_scores(e, names, UNWHITENED) for e in trainer.state.log_history if f"{UNWHITENED}_{names[0]}" in e]
    if unwhitened:
        start = [("start", unwhitened[0]), *(("start, whitened", scores) for _, scores in start)]
    final = trainer.evaluate()
    trainer.save_metrics("eval", final)
    last = [("last, step {step}".format(**e), _scores(e, names)) for e in _last_evaluation(trainer, evaluations)]
    return [*start, *_baselines(trainer.eval_dataset, options), *last, (end, _scores(final, names))]


def _last_evaluation(trainer: MoCoSETrainer, evaluations: list[dict]) -> list[dict]:
    """Return the evaluation at the end of training if the model that is kept is that of another step."""
    step, best = trainer.state.global_step, trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
    # The first evaluation of the step; `Trainer` may score the model that is kept again.
    return [e for e in evaluations if best and e["step"] == step != step_of(best)][:1]


def _baselines(development: Dataset | DevelopmentSets, options: Options) -> list[Row]:
    """Score TF-IDF on the development sets, on the first process; say so if scikit-learn is missing."""
    if options.training.process_index != 0:
        return []
    if not has_sklearn():
        options.say(f"TF-IDF is not scored: scikit-learn is not installed; run {install_command('evaluation')}.")
        return []
    return _as_sets(development).score_baselines()


def _as_sets(development: Dataset | DevelopmentSets) -> DevelopmentSets:
    return development if isinstance(development, DevelopmentSets) else DevelopmentSets(development)


def is_start(trainer: MoCoSETrainer) -> bool:
    """Return whether the model that is kept is the start, because no checkpoint scored better.

    If whitening has changed the start, it is not.
    """
    best = trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
    is_whitened = trainer.accelerator.unwrap_model(trainer.model).config.whitening > 0.0
    return bool(best) and step_of(best) == 0 and not is_whitened


def compare(trainer: MoCoSETrainer, tasks: Tasks) -> list[Row]:
    """Return the test figures of the last checkpoint, and of those selected on development pairs and on test sets."""
    if not tasks.during_training:
        return []
    names = _as_sets(trainer.eval_dataset).metric_names
    metric = trainer.args.best_metric if trainer.args.best_metric in names else DEV_SPEARMAN
    average = average_name(tasks.during_training)
    return compare_selections(trainer.state.log_history, average, metric, is_greater_better(metric))


def evaluate_trained(
    trainer: MoCoSETrainer, options: Options, tasks: Tasks, scores: list[Row], selections: list[Row]
) -> list[Row]:
    """Score the model as it is saved on the tasks, and write the figures beside those of the development pairs."""
    if not tasks.final and not selections:
        return []
    training, name = options.training, scores[-1][0] if scores else f"last, step {trainer.state.global_step}"
    encoding = training.evaluation_encoding
    results = []
    if tasks.final:
        model = trainer.accelerator.unwrap_model(trainer.model)
        embeddings = embed_tasks(model, trainer.processing_class, tasks.final, **encoding)
        results.append((name, score_tasks(tasks.final, embeddings)))
    if trainer.is_world_process_zero():
        _write(options, scores, results, selections)
    if tasks.final:
        _plot_geometry(options, tasks.final, embeddings, name, trainer.state.log_history)
    return results


def evaluate_alone(
    options: Options, model, tokenizer, development: Dataset | DevelopmentSets | None, tasks: Tasks
) -> None:
    """Score a model without training it, write the scores if there is an output directory, and report."""
    training, source = options.training, options.model.model_name_or_path
    name = f"{_short(source)}, {model.config.pooling_mode} pooling"
    first = training.process_index == 0
    writes = first and options.output_dir is not None
    model.to(training.device)
    dtype = training.evaluation_dtype
    if dtype is None and (training.bf16 or training.fp16):
        dtype = torch.bfloat16 if training.bf16 else torch.float16
    encoding = {
        "batch_size": training.eval_batch_size,
        "autocast_dtype": dtype,
        "show_progress_bar": first,
        "needs_spread": True,
    }
    scores, results = [], []
    if development is not None:
        figures = score_sets(model, tokenizer, development, **encoding)
        scores = [*_baselines(development, options), (name, figures)]
    with saving(options.output_dir, remedy="put the cause right, such as a full disk, and repeat the command"):
        if tasks.final:
            embeddings = embed_tasks(model, tokenizer, tasks.final, **encoding)
            results.append((name, score_tasks(tasks.final, embeddings, show_progress=first)))
        if writes:
            Path(options.output_dir).mkdir(parents=True, exist_ok=True)
            clear_results(options.output_dir)
            _write(options, scores, results)
            if tasks.final:
                _plot_geometry(options, tasks.final, embeddings, name, _log_of(source, options))
    report(options, scores, results)


def _write(options: Options, scores: list[Row], results: list[Row], selections: Sequence[Row] = ()) -> None:
    """Write the scores of the development sets, the tasks and the three selections."""
    made = [*development_tables(scores), *tables(results), *tables(selections)]
    figures: dict[str, Any] | None = None
    if results or selections:
        figures = {f"eval_{name}": value for _, row in [*scores[-1:], *results] for name, value in row.items()}
        if selections:
            figures["selections"] = [{"selection": how, **row} for how, row in selections]
    write_results(options.output_dir, [*scores, *results, *selections], made, figures)


def _plot_geometry(options: Options, tasks: Sequence[Task], embeddings, name: str, log_history: list[dict]) -> None:
    """Write and plot spectrum and run, if geometry is among the tasks and there is an output directory."""
    for task in tasks:
        if isinstance(task, GeometryTask) and options.output_dir is not None and options.training.process_index == 0:
            folder, spectrum = Path(options.output_dir), task.spectrum(embeddings)
            write_spectrum(folder / SPECTRUM_TABLE, spectrum)
            plot_spectrum({name: spectrum}, folder / SPECTRUM_PLOT)
            plot_alignment_uniformity(log_history, folder / RUN_PLOT)


def _log_of(model_name_or_path: str, options: Options) -> list[dict]:
    """Return the log of the run that made a model; empty if there is no such file beside it."""
    if not (Path(model_name_or_path) / STATE_FILE).is_file():
        return []
    try:
        state = read_state(model_name_or_path, remedy="the way of its run is not plotted")
    except InputError as error:
        options.say(str(error))
        return []
    return [entry for entry in state.log_history if isinstance(entry, dict)]


def report(
    options: Options,
    scores: list[Row],
    results: Sequence[Row] = (),
    selections: Sequence[Row] = (),
    keeps_start: bool = False,
) -> None:
    """Print the scores, the files of the results, and whether the model kept is the start."""
    pairs = [(when, metrics) for when, metrics in scores if DEV_SPEARMAN in metrics]
    colour = _colour(options, scores)
    if pairs:
        width = max(17, *(len(when) for when, _ in pairs))
        options.say(f"\n{'development pairs':<{width}}  {'Spearman':>8}  {'alignment':>9}  {'uniformity':>10}")
    for when, metrics in pairs:
        alignment, uniformity = (f"{metrics[n]:.4f}" if n in metrics else "-" for n in PAIR_METRICS[1:])
        line = f"{when:<{width}}  {metrics[DEV_SPEARMAN]:>8.2f}  {alignment:>9}  {uniformity:>10}"
        options.say(line, colour if when == scores[-1][0] else "")
    for table in development_tables([(when, _without(PAIR_METRICS, metrics)) for when, metrics in scores]):
        options.say("")
        lines = text_table(table).split("\n")
        for number, line in enumerate(lines, start=1):
            options.say(line, colour if number == len(lines) - 1 else "")  # the model that is kept
    if pairs and pairs[0][0] == "start" and pairs[-1][1][DEV_SPEARMAN] < pairs[0][1][DEV_SPEARMAN]:
        options.say("The trained encoder scores below the one it started from; try fewer steps or a lower rate.")
    for table in tables(results):
        options.say(f"\n{text_table(table)}")
    if selections:
        options.say("\nWhat selecting the checkpoint on the test sets would be worth:")
        options.say("\n".join(text_table(table) for table in tables(selections)))
    if options.output_dir is None:
        options.say("\nGive --output_dir to keep all figures as JSON, CSV and Markdown.")
    elif results or selections or not options.trains:
        options.say(f"\nAll figures: {', '.join(str(Path(options.output_dir) / name) for name in RESULT_FILES)}")
    if options.trains:
        options.say(f"\nPlain encoder: {options.output_dir}")
        if not options.data.save_only_encoder:
            options.say(f"Whole model: {Path(options.output_dir) / WHOLE_MODEL}")
    if keeps_start:
        options.say(f"\n{START_IS_BEST.format(metric=options.training.best_metric)}")


def _colour(options: Options, scores: list[Row]) -> str:
    """Return green if the model that is kept is better than the start, yellow if it is worse, else no colour."""
    metric = options.training.best_metric
    start, kept = dict(scores).get("start", {}).get(metric), scores[-1][1].get(metric) if scores else None
    if start is None or kept is None or start == kept:
        return ""
    return "green" if (kept > start) == is_greater_better(metric) else "yellow"


def _without(names: Sequence[str], metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in names}


def _short(source: str) -> str:
    """Return the end of a path, or a model's id as it is."""
    return str(Path(*Path(source).resolve().parts[-2:])) if Path(source).is_dir() else source


def _scores(metrics: dict[str, float], names: Sequence[str], prefix: str = "eval") -> dict[str, float]:
    return {name: metrics[f"{prefix}_{name}"] for name in names if f"{prefix}_{name}" in metrics}
