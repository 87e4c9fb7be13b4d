"""The page of a finished run, and the nearest texts before and after on the terminal."""

from pathlib import Path

from mocose_hf.cli.factory import hub_options
from mocose_hf.cli.options import Options
from mocose_hf.data.sentences import sample_rows
from mocose_hf.errors import InputError, printable
from mocose_hf.export.model_card import RunRecord, library_versions
from mocose_hf.report.neighbours import Neighbours, compare_neighbours
from mocose_hf.report.run_page import PAGE_FILE, Run, read_run, write_page, write_record
from mocose_hf.search.encoder import SentenceEncoder
from mocose_hf.training.trainer import MoCoSETrainer

_SEARCHED = 500
"""Texts among which neighbours are searched: they are encoded twice."""


def write_run_page(trainer: MoCoSETrainer, options: Options, sentences, record: RunRecord) -> Run | None:
    """Write report.html and what it is made from into the output directory; None on all but the first process."""
    if not trainer.is_world_process_zero():
        return None
    metric, settings = options.training.best_metric, record.settings.items()
    run = Run(
        name=options.output_dir,
        metric=metric if any(metric in figures for _, figures in record.scores) else "",
        greater_is_better=options.training.greater_is_better,
        scores=record.scores,
        settings={name: value if isinstance(value, int | float | str) else str(value) for name, value in settings},
        data=printable(f"{record.source}: {record.data}"),
        command=record.command,
        versions=library_versions(),
        neighbours=[] if record.is_start else _neighbours(trainer, options, sentences),
    )
    write_record(run, options.output_dir)
    run = read_run(options.output_dir)
    write_page([run], Path(options.output_dir) / PAGE_FILE)
    return run


def show_page(options: Options, run: Run) -> None:
    """Say where the page is, and what the nearest texts of one text were and are."""
    options.say(f"Page of the run: {Path(options.output_dir) / PAGE_FILE}")
    for entry in run.neighbours[:1]:
        options.say(f"\n{printable(f'Nearest to: {entry.text}')}")
        for when, side in (("start", entry.before), ("trained", entry.after)):
            for score, text in side:
                options.say(printable(f"  {when:<7}  {score:5.2f}  {text}"))
    options.say(f"\n{printable(run.verdict)}", "bold")


def _neighbours(trainer: MoCoSETrainer, options: Options, sentences) -> list[Neighbours]:
    """Compare the start with the trained encoder; without the start, say so and compare nothing."""
    model = trainer.accelerator.unwrap_model(trainer.model).mocose
    try:
        start = SentenceEncoder.load(
            options.model.model_name_or_path, model.config.pooling_mode, **hub_options(options)
        )
    except InputError as error:
        options.say(f"The page has no nearest texts: {error}")
        return []
    rows, _ = sample_rows(sentences if options.data.streaming else sentences.dataset, _SEARCHED)
    trained = SentenceEncoder(model, trainer.processing_class, "")
    start.model.to(model.device)
    return compare_neighbours([row["text"] for row in rows], start.encode, trained.encode)
