"""One run of the training command: from parsed options to a saved model, or to scores."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mocose_hf.cli.changed_settings import changed_settings
from mocose_hf.cli.dry_run import dry_run
from mocose_hf.cli.factory import build_model, build_trainer, read_training_sentences
from mocose_hf.cli.merging import merge_with_start
from mocose_hf.cli.options import Options
from mocose_hf.cli.output_dir import (
    clear_output_dir,
    keep_only_encoder,
    saving,
    validate_output_dir,
    validate_start_stays,
)
from mocose_hf.cli.recipe_choice import choose_recipe, record_choice
from mocose_hf.cli.run_report import show_page, write_run_page
from mocose_hf.cli.scoring import (
    compare,
    evaluate_alone,
    evaluate_trained,
    is_start,
    read_development,
    read_evaluation_tasks,
    report,
    score,
    with_held_out,
)
from mocose_hf.cli.validation import validate_options
from mocose_hf.errors import InputError, printable
from mocose_hf.evaluation.score_tables import markdown_table, tables
from mocose_hf.export.hub_upload import upload_output_dir
from mocose_hf.export.model_card import RunRecord, build_model_card, write_model_card
from mocose_hf.export.sentence_encoder import save_model_and_encoder
from mocose_hf.files import write_text
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.parallel.deepspeed import whole_model
from mocose_hf.training.checkpoint import FoundCheckpoint, find_checkpoint
from mocose_hf.training.run_lock import lock_output_dir
from mocose_hf.training.trainer import ARGUMENTS_FILE, MoCoSETrainer


def run(options: Options, command: str) -> None:
    """Validate all options before anything is written, then train, score, save and report.

    Args:
        options: As parsed.
        command: The command as typed, for the model card.
    """
    for notice in options.notices:
        options.say(notice)
    validate_options(options)
    if options.data.dry_run:
        resolve_start(options)
        return dry_run(options)
    with ExitStack() as locks:
        lock_output(options, locks)
        if options.trains:
            train(options, command, locks)
        else:
            development, tasks = read_development(options), read_evaluation_tasks(options)
            model, tokenizer = build_model(options)
            evaluate_alone(options, model.mocose, tokenizer, development, tasks)


def train(options: Options, command: str, locks: ExitStack) -> None:
    """Train, score, save and report; `locks` holds the output directory until the end."""
    is_new = not os.path.isdir(options.output_dir)
    checkpoint = resolve_start(options)
    development, tasks = read_development(options), read_evaluation_tasks(options)
    sentences = read_training_sentences(options)
    development = with_held_out(development, sentences)
    options, choice = choose_recipe(options, development, sentences, checkpoint.path)
    model, tokenizer = build_model(options)
    with removing_empty_output(options.output_dir):
        trainer = build_trainer(options, model, tokenizer, sentences, development, tasks)
        if not trainer.token_counts.warnings():  # which the trainer has printed
            options.say(f"{options.source}: {trainer.token_counts.summary()}")
        lock_output(options, locks, must_be_empty=is_new)
        if checkpoint.path is None and options.data.overwrite_output_dir:
            with options.training.main_process_first(local=False):
                clear_output_dir(options.output_dir)
        record_choice(options, choice)
        result = trainer.train(resume_from_checkpoint=checkpoint)
    merge_with_start(trainer, options)
    with saving(options.output_dir):
        scores = score(trainer, options, result.metrics)
        selections = compare(trainer, tasks)
        save(trainer, options)
        results = evaluate_trained(trainer, options, tasks, scores, selections)
        record = describe_run(trainer, options, sentences, scores, results, command)
        write_card(trainer, options, record)
        page = write_run_page(trainer, options, sentences, record)
    report(options, scores, results, selections, keeps_start=is_start(trainer))
    if page is not None:
        show_page(options, page)
    push(trainer, options)
    if options.data.save_only_encoder and trainer.is_world_process_zero():
        keep_only_encoder(options.output_dir)


def lock_output(options: Options, locks: ExitStack, must_be_empty: bool = False) -> None:
    """Lock the output directory against other runs until `locks` closes; without a directory, do nothing."""
    if options.output_dir is not None:
        locks.enter_context(lock_output_dir(options.output_dir, options.training, must_be_empty))


def resolve_start(options: Options) -> FoundCheckpoint:
    """Find the checkpoint to resume from; for a fresh start, check that the output directory may be written to."""
    training = options.training
    found = find_checkpoint(options.output_dir, training.resume_from_checkpoint)
    for reason in found.skipped:
        options.say(f"Skipped {reason}.")
    if found.path is not None:
        if Path(found.path).resolve().parent != Path(options.output_dir).resolve():
            validate_output_dir(options.output_dir, options.data.overwrite_output_dir, resume_wanted=False)
        options.say(f"Resuming from {found.path}.")
        return found
    resume_wanted = str(training.resume_from_checkpoint or "false").lower() == "true"
    validate_output_dir(options.output_dir, options.data.overwrite_output_dir, resume_wanted)
    if options.data.overwrite_output_dir:
        validate_start_stays(options.output_dir, options.model.model_name_or_path)
    if resume_wanted:
        options.say(f"There is no complete checkpoint in {options.output_dir} to resume from; starting at step 0.")
    return found


@contextmanager
def removing_empty_output(output_dir: str) -> Iterator[None]:
    """Remove the output directory that `Trainer` made, if the input turns out to be unusable."""
    existed = Path(output_dir).exists()
    try:
        yield
    except InputError:
        if not existed:
            with suppress(OSError, ValueError):  # the directory is not empty, or its name is not valid
                Path(output_dir).rmdir()
        raise


def save(trainer: MoCoSETrainer, options: Options) -> None:
    """Write the plain encoder, the whole model and the settings of the run, without any pickle."""
    model = whole_model(trainer)
    if not trainer.is_world_process_zero():
        return
    output_dir = Path(options.output_dir)
    data = options.data
    save_model_and_encoder(model, trainer.processing_class, output_dir, data.save_only_encoder, data.merge_adapter)
    write_text(output_dir / ARGUMENTS_FILE, options.training.to_json_string() + "\n")
    trainer.save_state()


def describe_run(trainer: MoCoSETrainer, options: Options, sentences, scores, results, command: str) -> RunRecord:
    """Collect what the model card and the page of the run say."""
    training, model = options.training, trainer.accelerator.unwrap_model(trainer.model)
    config, algorithm = model.config, ALGORITHMS[model.algorithm]
    shown: tuple[str, ...] = (
        "learning_rate",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "world_size",
    )
    shown += ("max_steps", "max_seq_length")
    shown += ("ema_decay", "ema_decay_end") if model.momentum_pairs() else ()
    streams = options.data.streaming
    shown += () if streams else ("num_train_epochs",)
    return RunRecord(
        start=options.model.model_name_or_path,
        command=command,
        seed=training.seed,
        source=options.source,
        data=printable(f"{sentences.summary()} {trainer.token_counts.summary()}"),
        data_sha256="" if streams else sentences.sha256,
        data_fingerprint=sentences.fingerprint if streams else "",
        scores=scores,
        approach=algorithm.approach,
        method=algorithm.method,
        settings={"algorithm": model.algorithm}
        | _adapter_settings(options)
        | {name: getattr(training, name) for name in shown}
        | {name: getattr(config, name) for name in config.option_names()},
        results="\n\n".join(markdown_table(table) for table in tables(results)),
        changed_settings={"algorithm": model.algorithm}
        | {name: getattr(training, name) for name in shown}
        | changed_settings(options, model),
        is_start=is_start(trainer),
        repo_id=trainer.hub_model_id or training.hub_model_id or "",
        name=Path(options.output_dir).resolve().name,
        task_scores=dict(results[-1][1]) if results else {},
        license=options.data.license,
        language=options.data.language,
        dataset=options.data.dataset_name,
        has_whole_model=not options.data.save_only_encoder,
    )


def _adapter_settings(options: Options) -> dict[str, object]:
    """Return the options of the adapter, with the defaults filled in; empty if the encoder itself is trained."""
    config = options.model.peft_config() or {}
    return {
        f"lora_{name.removeprefix('lora_')}": config[name] for name in config if name not in ("peft_type", "task_type")
    }


def write_card(trainer: MoCoSETrainer, options: Options, record: RunRecord) -> None:
    """Write the model card at the root of the output directory."""
    if trainer.is_world_process_zero():
        config = trainer.accelerator.unwrap_model(trainer.model).config
        has_dense = config.dense_activation is not None
        card = build_model_card(record, config.pooling_mode, config.similarity_fn_name, has_dense)
        write_model_card(options.output_dir, card)


def push(trainer: MoCoSETrainer, options: Options) -> None:
    """Upload the output directory if `push_to_hub` is true."""
    if options.training.push_to_hub and trainer.is_world_process_zero():
        upload_output_dir(
            options.output_dir, trainer.hub_model_id, options.training.hub_token, options.training.hub_revision
        )
