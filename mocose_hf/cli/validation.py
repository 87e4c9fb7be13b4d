"""Checks across the options of one command, before anything is read or written."""

from pathlib import Path

from transformers.trainer_utils import IntervalStrategy

from mocose_hf.cli.arguments import LORA_OPTIONS
from mocose_hf.cli.options import Options
from mocose_hf.cli.output_dir import validate_results_dir
from mocose_hf.data.streaming import validate_stream_arguments
from mocose_hf.errors import InputError
from mocose_hf.models.adapters import require_peft
from mocose_hf.models.registry import ALGORITHMS


def validate_options(options: Options) -> None:
    """Raise an `InputError` for the first combination of options that cannot work."""
    if options.model.model_name_or_path is None:
        raise InputError("--model_name_or_path is required: the hub id or directory of the encoder to start from.")
    if options.data.train_file and options.data.dataset_name:
        raise InputError("--train_file and --dataset_name are both given; drop one.")
    evaluation = options.evaluation
    own_files = options.data.train_file or evaluation.validation_file or evaluation.retrieval_file
    if options.data.encoding is not None and not (own_files or evaluation.label_file):
        raise InputError("--encoding is for --train_file and development files; leave it out without these.")
    needs_test_sets = bool(evaluation.eval_tasks or evaluation.report_test_selection)
    if evaluation.validation_file and evaluation.senteval_dir and not needs_test_sets:
        raise InputError("--validation_file and --senteval_dir are both given; drop one, or name --eval_tasks.")
    strategy = IntervalStrategy(options.training.eval_strategy)
    evaluates = options.trains and strategy != IntervalStrategy.NO
    if evaluation.report_test_selection and not (evaluates and evaluation.senteval_dir):
        raise InputError(
            "--report_test_selection scores test sets at each evaluation of a training; give --train_file and "
            "--senteval_dir, and leave out --eval_strategy no."
        )
    if options.trains and options.output_dir is None:
        raise InputError("--output_dir is required for training: the directory for model and checkpoints.")
    if evaluation.validation_file and evaluation.validation_dataset_name:
        raise InputError("--validation_file and --validation_dataset_name are both given; drop one.")
    if evaluation.v_measure and not evaluation.label_file:
        raise InputError("--v_measure clusters each --label_file; give one, or leave it out.")
    if evaluation.dev_from_text and (options.data.streaming or not options.trains):
        reason = "a stream has no known end" if options.data.streaming else "there is no training text"
        raise InputError(f"--dev_from_text holds out rows of the training text, but {reason}; leave it out.")
    if strategy != IntervalStrategy.NO and not options.develops:
        raise InputError(
            f"--eval_strategy {strategy.value} needs a development set; give --validation_file, --retrieval_file, "
            "--label_file, --senteval_dir or --dev_from_text."
        )
    metric, known = options.training.best_metric, options.development_metrics
    known = [*known, "sts_avg_spearman"] if evaluation.report_test_selection else known
    by_tests = evaluation.report_test_selection and metric.startswith("sts_avg")
    if options.training.load_best_model_at_end and metric not in known and not by_tests:
        raise InputError(f"--metric_for_best_model {metric}: is not scored; choose one of {', '.join(known)}.")
    if not options.trains and not options.develops and not evaluation.eval_tasks:
        raise InputError(
            "there is nothing to do: give --train_file or --dataset_name to train, and --eval_tasks, "
            "--validation_file, --retrieval_file, --label_file or --senteval_dir to score."
        )
    if options.model.merge_with_start and (not options.trains or options.training.deepspeed):
        reason = "DeepSpeed shards the weights" if options.trains else "nothing is trained"
        raise InputError(f"--merge_with_start moves trained weights, but {reason}; leave it out.")
    if options.data.dry_run and (not options.trains or options.training.deepspeed):
        reason = "DeepSpeed needs its launcher" if options.trains else "nothing is trained"
        raise InputError(f"--dry_run tries a training in one process, but {reason}; leave it out.")
    _validate_adapter(options)
    if not options.trains:
        for name in ("save_only_encoder", "license", "language"):
            if getattr(options.data, name):
                raise InputError(f"--{name} is about the model of a training, but nothing is trained; leave it out.")
    if not options.trains and options.output_dir is not None:
        validate_results_dir(options.output_dir, options.data.overwrite_output_dir)
    if options.data.negative_column is not None:
        _validate_negative_column(options)
    if options.data.streaming:
        try:
            validate_stream_arguments(options.training)
        except InputError as error:
            raise InputError(options.locate(f"--streaming: {error}")) from error


def _validate_adapter(options: Options) -> None:
    """Raise an `InputError` if an option of the adapter has no effect, or the adapter cannot be trained."""
    model = options.model
    if not model.use_peft:
        for name in LORA_OPTIONS:
            if getattr(model, name) is not None:
                raise InputError(f"--{name} is of the adapter of --use_peft, which is false; give --use_peft true.")
        if not options.data.merge_adapter:
            raise InputError("--merge_adapter false: there is no adapter; give --use_peft true, or leave it out.")
        return
    if not options.trains:
        raise InputError("--use_peft trains an adapter, but nothing is trained; leave it out.")
    if model.algorithm == "released":
        raise InputError(
            "--use_peft freezes the word embeddings, which the algorithm released trains through the keys too; leave "
            "it out, or give --algorithm mocose."
        )
    only_encoder = options.data.save_only_encoder and options.data.merge_adapter
    if options.training.push_to_hub and not only_encoder and Path(model.model_name_or_path).is_dir():
        raise InputError(
            f"--push_to_hub would upload the path {model.model_name_or_path}, the base of the adapter; start from a "
            "hub id, or give --save_only_encoder true."
        )
    require_peft()


def _validate_negative_column(options: Options) -> None:
    """Raise an `InputError` if no term of the loss takes hard negatives, or the column is a positive one too."""
    data, name = options.data, options.data.negative_column
    if ALGORITHMS[options.model.algorithm].lacks("in_batch_weight"):
        raise InputError(
            f"--negative_column {name}: hard negatives belong to the in-batch term, which the algorithm "
            f"{options.model.algorithm} does not have; leave it out, or give --recipe pairs."
        )
    if options.method.in_batch_weight == 0.0:
        raise InputError(
            f"--negative_column {name}: hard negatives belong to the in-batch term, but --in_batch_weight is 0; give "
            "--recipe pairs, or --in_batch_weight 1."
        )
    if name in (data.text_column, *(data.key_column or ())):
        raise InputError(
            f"--negative_column {name}: is also --{'text' if name == data.text_column else 'key'}_column; name the "
            "column of hard negatives."
        )
