#!/usr/bin/env python
"""Train and score a MoCoSE sentence encoder from the command line.

One process:        python run_mocose.py --model_name_or_path ENCODER --train_file sentences.txt --output_dir out
Several processes:  torchrun --nproc_per_node 8 run_mocose.py configs/paper-bert-base.yaml --train_file text.txt ...
With DeepSpeed:     accelerate launch --config_file configs/accelerate/zero2.yaml run_mocose.py ...
Score alone:        python run_mocose.py --do_eval --model_name_or_path out --senteval_dir data/senteval \
                        --eval_tasks sts transfer geometry --output_dir scores
More than memory:   python run_mocose.py ... --train_file large.txt --streaming --max_steps 100000
Go on:              the command that was interrupted, with --resume_from_checkpoint true
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from mocose_hf.cli.factory import build_model, build_trainer, read_training_sentences
from mocose_hf.cli.merging import merge_with_start
from mocose_hf.cli.options import Options, parse_command_line, printable_command
from mocose_hf.cli.output_dir import check_output_dir, check_results_dir, clear_output_dir, saving
from mocose_hf.cli.recipe_choice import choose_recipe, record_choice
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
from mocose_hf.data.streaming import validate_stream_arguments
from mocose_hf.errors import (
    EXIT_BAD_INPUT,
    EXIT_CTRL_C,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    CollapseError,
    InputError,
    SaveError,
    input_error_line,
    printable,
)
from mocose_hf.evaluation.score_tables import markdown_table, tables
from mocose_hf.export.hub_upload import upload_output_dir
from mocose_hf.export.model_card import RunRecord, build_model_card, write_model_card
from mocose_hf.export.sentence_encoder import SENTENCE_ENCODER, export_sentence_encoder
from mocose_hf.files import write_text
from mocose_hf.models.loading import save_tokenizer
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.models.saved_files import equalize_file_modes
from mocose_hf.parallel.collectives import end_process
from mocose_hf.parallel.deepspeed import whole_model
from mocose_hf.parallel.launcher import end_with_launcher
from mocose_hf.training.callbacks.preemption import TrainingInterrupted
from mocose_hf.training.checkpoint import FoundCheckpoint, find_checkpoint
from mocose_hf.training.run_lock import lock_output_dir
from mocose_hf.training.trainer import ARGUMENTS_FILE, MoCoSETrainer

_SECONDS_FOR_THE_FIRST = 3


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is done; 2 is bad input, with nothing written; 1 is a run that stopped where numbers, embeddings or the disk went
    bad, and 75 one that was told to stop, both with the last checkpoint complete; 130 is a second Ctrl-C, or one
    outside training. All but the first are told in one line.
    """
    argv = sys.argv[1:] if argv is None else argv
    end_with_launcher()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        run(parse_command_line(argv), command=printable_command(argv))
    except InputError as error:
        return _end(input_error_line(error), EXIT_BAD_INPUT)
    except (FloatingPointError, CollapseError, SaveError) as error:
        return _end(str(error), EXIT_STOPPED)
    except TrainingInterrupted as error:
        return _end(str(error), EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        return _end("ended at once by Ctrl-C; complete checkpoints are good to go on from.", EXIT_CTRL_C)
    return 0


def run(options: Options, command: str) -> None:
    """Check everything before anything is written, then train, score, save and report."""
    for notice in options.notices:
        options.say(notice)
    check_options(options)
    with ExitStack() as held:
        hold_output_dir(options, held)
        if options.trains:
            train(options, command, held)
        else:
            development, tasks = read_development(options), read_evaluation_tasks(options)
            model, tokenizer = build_model(options)
            evaluate_alone(options, model.mocose, tokenizer, development, tasks)


def train(options: Options, command: str, held: ExitStack) -> None:
    """Train, score, save and report; `held` keeps the output directory to the end."""
    is_new = not os.path.isdir(options.output_dir)
    checkpoint = plan_start(options)
    development, tasks = read_development(options), read_evaluation_tasks(options)
    sentences = read_training_sentences(options)
    development = with_held_out(development, sentences)
    options, choice = choose_recipe(options, development, sentences, checkpoint.path)
    model, tokenizer = build_model(options)
    with refusing(options.output_dir):
        trainer = build_trainer(options, model, tokenizer, sentences, development, tasks)
        options.say(f"{options.data.train_file or options.data.dataset_name}: {trainer.token_counts.summary()}")
        hold_output_dir(options, held, must_be_empty=is_new)
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
        write_cards(trainer, options, sentences, scores, results, command)
    report(options, scores, results, selections, keeps_start=is_start(trainer))
    push(trainer, options)


def hold_output_dir(options: Options, held: ExitStack, must_be_empty: bool = False) -> None:
    """Keep other runs out of the output directory, if it exists, until `held` is closed."""
    folder = options.output_dir
    if folder is None:
        return
    held.enter_context(lock_output_dir(folder, options.training, must_be_empty))


def check_options(options: Options) -> None:
    """Refuse combinations that cannot work."""
    if options.model.model_name_or_path is None:
        raise InputError("--model_name_or_path is needed: a hub id or directory of the encoder to start from.")
    if options.data.train_file and options.data.dataset_name:
        raise InputError("--train_file and --dataset_name are both given; drop one.")
    wanted = options.evaluation
    has_files = options.data.train_file or wanted.validation_file or wanted.retrieval_file or wanted.label_file
    if options.data.encoding is not None and not has_files:
        raise InputError("--encoding is for --train_file and development files; leave it out without these.")
    if wanted.validation_file and wanted.senteval_dir and not wanted.eval_tasks and not wanted.report_test_selection:
        raise InputError("--validation_file and --senteval_dir are both given; drop one, or name --eval_tasks.")
    strategy = IntervalStrategy(options.training.eval_strategy)
    evaluates = options.trains and strategy != IntervalStrategy.NO
    if wanted.report_test_selection and not (evaluates and wanted.senteval_dir):
        raise InputError(
            "--report_test_selection scores test sets at each evaluation of a training; give --train_file, "
            "--senteval_dir, and no --eval_strategy no."
        )
    if options.trains and options.output_dir is None:
        raise InputError("--output_dir is needed for training: the directory for model and checkpoints.")
    if wanted.validation_file and wanted.validation_dataset_name:
        raise InputError("--validation_file and --validation_dataset_name are both given; drop one.")
    if wanted.v_measure and not wanted.label_file:
        raise InputError("--v_measure clusters each --label_file; give one, or leave it out.")
    if wanted.dev_from_text and (options.data.streaming or not options.trains):
        reason = "a stream is not known before" if options.data.streaming else "there is no training text"
        raise InputError(f"--dev_from_text holds out rows of the training text, but {reason}; leave it out.")
    if strategy != IntervalStrategy.NO and not options.develops:
        raise InputError(
            f"--eval_strategy {strategy.value} needs a development set; give --validation_file, --retrieval_file, "
            "--label_file, --senteval_dir or --dev_from_text."
        )
    metric, known = options.training.best_metric, options.development_figures
    known = [*known, "sts_avg_spearman"] if wanted.report_test_selection else known
    by_tests = wanted.report_test_selection and metric.startswith("sts_avg")
    if options.training.load_best_model_at_end and metric not in known and not by_tests:
        raise InputError(f"--metric_for_best_model {metric}: is not scored; choose one of {', '.join(known)}.")
    if not options.trains and not options.develops and not wanted.eval_tasks:
        raise InputError(
            "there is nothing to do: give --train_file or --dataset_name to train, and --eval_tasks, "
            "--validation_file, --retrieval_file, --label_file or --senteval_dir to score."
        )
    if options.model.merge_with_start and (not options.trains or options.training.deepspeed):
        reason = "DeepSpeed holds the weights in parts" if options.trains else "nothing is trained"
        raise InputError(f"--merge_with_start moves trained weights, but {reason}; leave it out.")
    if not options.trains and options.output_dir is not None:
        check_results_dir(options.output_dir, options.data.overwrite_output_dir)
    if options.data.streaming:
        try:
            validate_stream_arguments(options.training)
        except InputError as error:
            raise InputError(options.locate(f"--streaming: {error}")) from error


def plan_start(options: Options) -> FoundCheckpoint:
    """Find the checkpoint to resume from; for a fresh start, check that the output directory is free."""
    training = options.training
    found = find_checkpoint(options.output_dir, training.resume_from_checkpoint)
    for reason in found.skipped:
        options.say(f"Skipped {reason}.")
    if found.path is not None:
        if Path(found.path).resolve().parent != Path(options.output_dir).resolve():
            check_output_dir(options.output_dir, options.data.overwrite_output_dir, resume_wanted=False)
        options.say(f"Resuming from {found.path}.")
        return found
    wanted = str(training.resume_from_checkpoint or "false").lower() == "true"
    check_output_dir(options.output_dir, options.data.overwrite_output_dir, wanted)
    if wanted:
        options.say(f"There is no complete checkpoint in {options.output_dir} to go on from; starting at step 0.")
    return found


@contextmanager
def refusing(output_dir: str) -> Iterator[None]:
    """Leave no empty output directory behind where input is refused after `Trainer` made it."""
    was_there = Path(output_dir).exists()
    try:
        yield
    except InputError:
        if not was_there:
            with suppress(OSError, ValueError):  # there is something in it by now, or it can have no such name
                Path(output_dir).rmdir()
        raise


def save(trainer: MoCoSETrainer, options: Options) -> None:
    """Write the model, the plain encoder and the run's settings; nothing here is a pickle."""
    model = whole_model(trainer)
    if not trainer.is_world_process_zero():
        return
    output_dir = Path(options.output_dir)
    model.save_pretrained(output_dir)
    equalize_file_modes(output_dir)
    save_tokenizer(trainer.processing_class, output_dir)
    export_sentence_encoder(model, trainer.processing_class, output_dir / SENTENCE_ENCODER)
    write_text(output_dir / ARGUMENTS_FILE, options.training.to_json_string() + "\n")
    trainer.save_state()


def write_cards(trainer: MoCoSETrainer, options: Options, sentences, scores, results, command: str) -> None:
    """Write the model card beside the model and beside the plain encoder."""
    if not trainer.is_world_process_zero():
        return
    training, model = options.training, trainer.accelerator.unwrap_model(trainer.model)
    config, algorithm = model.config, ALGORITHMS[model.algorithm]
    shown = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "world_size")
    shown += ("max_steps", "max_seq_length")
    shown += ("ema_decay", "ema_decay_end") if model.momentum_pairs() else ()
    streams = options.data.streaming
    shown += () if streams else ("num_train_epochs",)
    record = RunRecord(
        start=options.model.model_name_or_path,
        command=command,
        seed=training.seed,
        data=printable(
            f"{options.data.train_file or options.data.dataset_name}: {sentences.summary()} "
            f"{trainer.token_counts.summary()}"
        ),
        data_sha256="" if streams else sentences.sha256,
        data_fingerprint=sentences.fingerprint if streams else "",
        scores=scores,
        approach=algorithm.approach,
        method=algorithm.method,
        settings={"algorithm": model.algorithm}
        | {name: getattr(training, name) for name in shown}
        | {name: getattr(config, name) for name in config.option_names()},
        results="\n\n".join(markdown_table(table) for table in tables(results)),
        is_start=is_start(trainer),
    )
    output_dir = Path(options.output_dir)
    for directory in (output_dir, output_dir / SENTENCE_ENCODER):
        write_model_card(directory, build_model_card(record, config.pooling_mode, config.similarity_fn_name))


def push(trainer: MoCoSETrainer, options: Options) -> None:
    """Upload the finished output directory if `push_to_hub` asks for it."""
    if options.training.push_to_hub and trainer.is_world_process_zero():
        upload_output_dir(
            options.output_dir, trainer.hub_model_id, options.training.hub_token, options.training.hub_revision
        )


def _end(line: str, code: int) -> int:
    """Write the line, once for all processes: the first one writes at once, the others only if they are alone."""
    if int(os.environ.get("RANK", 0)) > 0:
        if code == EXIT_INTERRUPTED:  # all processes agree to stop
            return code
        time.sleep(_SECONDS_FOR_THE_FIRST)  # a launcher ends this process once the first one has failed
    sys.stderr.write(f"run_mocose.py: {printable(line)}\n")
    return code


if __name__ == "__main__":
    end_process(main())
