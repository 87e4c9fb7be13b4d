"""Options of the command line: one path for those typed and those in a configuration file."""

import argparse
import difflib
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from mocose_hf.cli.config_file import ConfigEntry, locate, read_config_file
from mocose_hf.cli.idle_options import find_idle
from mocose_hf.compat import parser_actions
from mocose_hf.errors import InputError, escape_controls, one_line
from mocose_hf.evaluation.held_out import NAME as DEV_FROM_TEXT
from mocose_hf.evaluation.labels import METRICS as LABEL_METRICS
from mocose_hf.evaluation.labels import V_MEASURE
from mocose_hf.evaluation.pairs import PAIR_METRICS
from mocose_hf.evaluation.retrieval import METRICS as RETRIEVAL_METRICS
from mocose_hf.evaluation.retrieval import retrieval_task_name
from mocose_hf.evaluation.task_names import task_name
from mocose_hf.models.configuration_mocose import MoCoSEConfig
from mocose_hf.models.registry import ALGORITHMS
from mocose_hf.recipes import RECIPES
from mocose_hf.training.training_args import MoCoSETrainingArguments

DESCRIPTION = "Train a sentence encoder on unlabelled text by momentum contrast (MoCoSE, arXiv 2202.13093)."


USAGE = "run_mocose.py [config.yaml | config.json] [--option value ...]"

EPILOG = (
    "A first argument ending in .yaml, .yml or .json gives defaults, one option a line, that later options override. "
    "Training happens if and only if there is a --train_file or a --dataset_name; without, the model is scored on "
    "--eval_tasks, or on development pairs. Exit codes: 0 done; 2 bad input, nothing written; 75 told to stop by "
    "SIGTERM or SIGINT, all saved, the same command with --resume_from_checkpoint true goes on; 1 numbers, embeddings "
    "or disk gone bad, the last complete checkpoint is good; 130 ended at once by a second Ctrl-C. Every other field "
    "of transformers.TrainingArguments is an option too: "
    "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
)

TRANSFORMERS_OPTIONS = {
    "output_dir": "Directory of checkpoints, model, sentence_encoder/ and scores; needed for training.",
    "max_steps": "Optimizer steps at most, whatever num_train_epochs says; -1 for no limit.",
    "gradient_accumulation_steps": "Forwards per optimizer step; keys of all enter the queue together (paper: 1).",
    "lr_scheduler_type": "Schedule of the learning rate (paper: linear decay).",
    "warmup_steps": "Steps of rising learning rate, or their share of the run where below 1 (paper: 0).",
    "max_grad_norm": "Norm at which gradients are clipped (paper: 1.0).",
    "seed": "Seed of heads, queue, dropout and data order.",
    "do_eval": "Whether to score the finished model on eval_tasks; implied by these.",
    "bf16": "Whether to compute in bfloat16; weights, target and loss stay in float32, the queue in queue_dtype.",
    "tf32": "Whether float32 products of an Ampere or newer GPU may have 10 bits of mantissa.",
    "torch_compile": "Whether to compile the model, which takes minutes at the start.",
    "bf16_full_eval": "Whether to score in bfloat16.",
    "activation_checkpointing": "Whether to save memory by computing activations twice.",
    "use_cpu": "Whether to leave a GPU alone.",
    "deepspeed": "DeepSpeed's configuration, such as ds_configs/zero2.json; the launcher's where not given.",
    "dataloader_num_workers": "Processes that tokenise ahead of training; 0 for none.",
    "eval_strategy": "When to evaluate: no, steps or epoch; steps if there is a development set.",
    "load_best_model_at_end": "Whether to end with the best checkpoint; true if there is a development set.",
    "metric_for_best_model": "Score that decides which is best; by default dev_spearman of pairs, NAME_ndcg_at_10 of "
    "the first retrieval_file or NAME_precision_at_10 of the first label_file.",
    "resume_from_checkpoint": "true for the newest complete checkpoint of output_dir, if any, or the path of one.",
    "report_to": "Where to send logs: tensorboard, wandb, ...; none for nowhere.",
    "push_to_hub": "Whether to upload the finished model.",
    "hub_model_id": "Repository to upload to; the name of output_dir where not given.",
}
"""The fields of `transformers.TrainingArguments` that the help shows, each in one sentence."""


@dataclass
class ModelArguments:
    """Where to start from."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Encoder to start from: a hub id or directory, plain, sentence-transformers or MoCoSE."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a model on the hub."})
    cache_dir: str | None = field(default=None, metadata={"help": "Directory of downloaded models."})
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention of the encoder: eager, sdpa, flash_attention_2; its own by default."},
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": f"Options that go together, as a configuration file has them: {', '.join(RECIPES)}. Lines of a "
            "configuration file and typed options override a recipe's."
        },
    )
    merge_with_start: float = field(
        default=0.0,
        metadata={
            "help": "Share of the start in the weights of the exported encoder, in [0, 1). More of it keeps more of "
            "what the start can do on other text (WiSE-FT), and less of the training."
        },
    )
    algorithm: str = field(
        default="mocose",
        metadata={
            "help": "How to train: mocose, the paper's method; released, as its authors' code does; or simcse, the "
            "baseline without target and queue, which has no options for these."
        },
    )
    stale_fgsm_epsilon: float | None = field(
        default=None,
        metadata={
            "help": "With algorithm released, the step ε by which word embeddings go along the sign of the batch "
            "before's gradient, 0 for none; 5e-9 where not given (released: 5e-9)."
        },
    )

    def __post_init__(self):
        if not 0.0 <= self.merge_with_start < 1.0:
            raise ValueError(f"`merge_with_start` lies in [0, 1), but is {self.merge_with_start}.")
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"`algorithm` is one of {', '.join(ALGORITHMS)}, but is {self.algorithm:.40}.")


@dataclass
class DataArguments:
    """What to train and evaluate on, and where results may go."""

    _argument_group_name = "data and output"

    train_file: str | None = field(
        default=None,
        metadata={"help": "Sentences: .txt (one a line), .csv, .tsv, .jsonl, .parquet, or one of these and .gz."},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the hub to read sentences from."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    dataset_split: str = field(default="train", metadata={"help": "Split of that dataset."})
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of that dataset; the newest by default."}
    )
    encoding: str | None = field(
        default=None,
        metadata={
            "help": "Encoding of train_file if it is not UTF-8, such as cp1252 or utf-16. It also applies to "
            "development files that are not UTF-8."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Whether to read the sentences while training, from a corpus larger than memory; needs max_steps, "
            "num_train_epochs has no meaning, and duplicates are kept, as telling them would take memory."
        },
    )
    shuffle_buffer_size: int = field(
        default=10_000,
        metadata={"help": "Sentences among which streaming draws the next; 1 for the order of the file."},
    )
    text_column: str = field(default="text", metadata={"help": "Column of the sentences."})
    key_column: str | None = field(
        default=None, metadata={"help": "Column of the text that the target sees instead, which makes rows pairs."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Whether to replace an earlier run, or earlier scores, in output_dir."}
    )


@dataclass
class EvaluationArguments:
    """What to score on, while training and afterwards."""

    _argument_group_name = "evaluation"

    validation_file: str | None = field(
        default=None,
        metadata={
            "help": "Development pairs: .csv, .tsv, .jsonl or .parquet with columns sentence1, sentence2, score, or a "
            "TSV of score, sentence, sentence without header; scores on any scale."
        },
    )
    validation_dataset_name: str | None = field(
        default=None,
        metadata={"help": "Development pairs on the hub: a dataset with columns sentence1, sentence2, score."},
    )
    validation_dataset_split: str = field(default="validation", metadata={"help": "Split of that dataset."})
    retrieval_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Development sets of retrieval: .csv, .tsv, .jsonl or .parquet with columns query, text, or "
            "folders in BEIR's layout; scored as NAME_ndcg_at_10, NAME_mrr_at_10, NAME_recall_at_1, _10, _100."
        },
    )
    label_file: list[str] | None = field(
        default=None,
        metadata={
            "help": "Development sets of labelled texts: .csv, .tsv, .jsonl or .parquet with columns label, text; "
            "scored as NAME_precision_at_10, NAME_knn_accuracy_at_1, NAME_knn_accuracy_at_10 on 4,000 rows at most."
        },
    )
    v_measure: bool = field(
        default=False,
        metadata={"help": "Whether each label_file is clustered by k-means too, for NAME_v_measure; takes seconds."},
    )
    dev_from_text: int = field(
        default=0,
        metadata={
            "help": "Rows of the training text that are not trained on but make a development set, for those without "
            "labels: half of the words of each are to find the other half; of pairs, the text its key. 0 for none."
        },
    )
    senteval_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder in SentEval's layout: its downstream/STS/STSBenchmark/sts-dev.csv gives development "
            "pairs, and all tasks are read from it; STS tasks come from the hub where it is not given."
        },
    )
    eval_tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "What the finished model is scored on: sts, transfer, geometry, or single tasks such as sts12 "
            "stsb sickr mr trec; sts where do_eval is given alone."
        },
    )
    report_test_selection: bool = field(
        default=False,
        metadata={
            "help": "Whether to score the STS test sets at each evaluation too, as the authors' code does, and report "
            "what selecting the checkpoint on them is worth; metric_for_best_model still selects the one that is kept."
        },
    )
    allow_partial_tasks: bool = field(
        default=False,
        metadata={"help": "Whether to score tasks whose files hold other numbers of examples than are published."},
    )

    def __post_init__(self):
        if self.dev_from_text < 0:
            raise ValueError(f"`dev_from_text` is a number of rows, 0 or above, but is {self.dev_from_text}.")
        if self.eval_tasks is not None:
            self.eval_tasks = [name for word in self.eval_tasks for name in word.replace(",", " ").lower().split()]
            if not self.eval_tasks:
                raise ValueError("`eval_tasks` names nothing; give sts, transfer, geometry or single tasks.")


def _method_arguments() -> type:
    """Make a dataclass of the fields of `MoCoSEConfig`, so that each is declared once."""
    columns = []
    for f in fields(MoCoSEConfig):
        if "help" in f.metadata:
            # What a model directory says of its pooling holds unless the option is given.
            unset = f.name == "pooling_mode"
            kind, default = (str | None, None) if unset else (f.type, f.default)
            columns.append((f.name, kind, field(default=default, metadata={"help": f.metadata["help"]})))
    made = make_dataclass("MethodArguments", columns)
    made._argument_group_name = "method"
    return made


MethodArguments = _method_arguments()


@dataclass
class Options:
    """All options of one command, parsed and checked one by one.

    Args:
        method: A dataclass with the fields of `MoCoSEConfig`.
        output_dir: As given, None where it was not.
        config_file: The entries of the configuration file that no typed option overrides.
        notices: Lines to print: the entries that have no effect, and why.
        arguments: What was typed.
    """

    model: ModelArguments
    method: object
    data: DataArguments
    evaluation: EvaluationArguments
    training: MoCoSETrainingArguments
    output_dir: str | None
    config_file: dict[str, ConfigEntry]
    notices: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    @property
    def trains(self) -> bool:
        """Whether there is text to train on."""
        return bool(self.data.train_file or self.data.dataset_name)

    @property
    def develops(self) -> bool:
        """Whether there is a development set."""
        wanted = self.evaluation
        return bool(self.has_own_sets or wanted.senteval_dir or (self.trains and wanted.dev_from_text))

    @property
    def has_own_sets(self) -> bool:
        """Whether there are files or datasets to develop on, apart from SentEval's and the training text."""
        wanted = self.evaluation
        return any((wanted.validation_file, wanted.validation_dataset_name, wanted.retrieval_file, wanted.label_file))

    @property
    def development_figures(self) -> list[str]:
        """The names of what the development sets are scored by, see `development_figures`."""
        return development_figures(self.evaluation)

    def say(self, line: str) -> None:
        """Print on the first process alone, with control characters escaped apart from line feeds."""
        if self.training.process_index == 0:
            print(escape_controls(line))

    def with_recipe(self, name: str) -> "Options":
        """Return the options of the same command with another recipe."""
        return parse_command_line(self.arguments, name)

    def locate(self, message: str) -> str:
        """Put file and line in front of a complaint about a value that the configuration file gave."""
        return locate(message, self.config_file)


def parse_command_line(argv: list[str], recipe: str | None = None) -> Options:
    """Parse the arguments of `run_mocose.py`.

    Args:
        argv: What was typed.
        recipe: The recipe to take instead of the one that is typed or in the configuration file.

    Raises:
        InputError: Where an option or a line of the configuration file cannot be used.
        SystemExit: After printing the help.
    """
    arguments = argv
    config, file_names = {}, set()
    if argv and not argv[0].startswith("-") and Path(argv[0]).suffix in (".yaml", ".yml", ".json"):
        config, argv = read_config_file(argv[0]), argv[1:]
    typed = _typed(argv)
    entries = _read_recipe(config, typed if recipe is None else typed | {"recipe": recipe})
    if entries:
        config, file_names = entries | config, set(config)
    parser = build_parser()
    known = {action.dest: action for action in parser_actions(parser)}
    for entry in config.values():
        if entry.name not in known:
            raise InputError(f"{entry.place}: unknown option `{entry.name[:40]}`; {_hint(entry.name, known)}")
        if not entry.values and known[entry.name].nargs not in ("+", "*") and entry.name not in _LIST_OR_WORD:
            raise InputError(f"{entry.place}: `{entry.name}` has no value, only an empty list; write one.")
        if len(entry.values) > 1 and known[entry.name].nargs not in ("+", "*"):
            raise InputError(f"{entry.place}: `{entry.name}` takes one value, not {len(entry.values)}; keep one.")
    in_force, notices = _entries_in_force(parser, config, argv, typed, {*typed, *file_names})
    given = {name: entry.values[-1] for name, entry in in_force.items()} | typed
    if "fsdp" in given:
        raise InputError("--fsdp is not supported; give --deepspeed ds_configs/zero3.json, which shards as FSDP does.")
    from_config = [part for entry in in_force.values() for part in entry.as_typed()]
    try:
        model, method, data, evaluation, training, rest = parser.parse_args_into_dataclasses(
            _development_defaults(parser, from_config + argv, given) + from_config + argv,
            return_remaining_strings=True,
            look_for_args_file=False,
        )
    except (ValueError, TypeError, ImportError) as error:  # InputError is a ValueError
        raise InputError(locate(one_line(error), in_force)) from error
    for argument in rest:
        name = argument.lstrip("-").split("=")[0]
        hint = _hint(name.replace("-", "_"), known)
        if not argument.startswith("-") and Path(argument).exists():
            hint = "an option takes one file; join several into one first."
        raise InputError(f"unknown option {argument[:99]}; {hint}")
    if recipe is not None:
        model.recipe = recipe
    parts = (model, method, data, evaluation, training)
    options = Options(*parts, given.get("output_dir"), in_force, notices, arguments)
    # Transformers sets `do_eval` of itself where there is an `eval_strategy`.
    is_saved = "local_rank" in config  # which only a saved training_args.json has, and it has all fields
    _check_switches(options, typed if is_saved else given)
    asked = "do_eval" in given and string_to_bool(given["do_eval"] or "true") and not options.has_own_sets
    if evaluation.eval_tasks is None and asked:
        if options.trains and not evaluation.senteval_dir:
            raise InputError("--do_eval: there is nothing to score on; give --senteval_dir or name --eval_tasks.")
        evaluation.eval_tasks = ["sts"]
    return options


def _read_recipe(config: dict[str, ConfigEntry], typed: dict[str, str]) -> dict[str, ConfigEntry]:
    """Return the entries of the recipe that a typed option or else a line of the file names; empty if none does."""
    in_file = config["recipe"].values[-1:] if "recipe" in config else []
    names = [typed["recipe"]] if "recipe" in typed else in_file
    if not names:
        return {}
    if names[0] not in RECIPES:
        place = "" if "recipe" in typed else f"{config['recipe'].place}: "
        raise InputError(f"{place}--recipe is one of {', '.join(RECIPES)}, but is {names[0]!s:.40}.")
    entries = read_config_file(str(RECIPES[names[0]]))
    return {name: replace(entry, recipe=names[0]) for name, entry in entries.items()}


_LIST_OR_WORD = ("optim_target_modules",)
"""Options that take one word when typed but may hold a list in the arguments that a run saves."""


def _entries_in_force(
    parser: "_Parser",
    config: dict[str, ConfigEntry],
    argv: list[str],
    typed: dict[str, str],
    overrides: set[str],
) -> tuple[dict[str, ConfigEntry], list[str]]:
    """Return the entries of a configuration file that have an effect, and a notice about each other one.

    Entries that a typed option overrides need no notice, nor do empty lists, which leave an option out.
    """
    in_force = {name: entry for name, entry in config.items() if name not in typed and entry.values}
    notices = []
    for name, entry in list(in_force.items()):
        if name.endswith("_token") and entry.values == [f"<{name.upper()}>"]:
            notices.append(f"{entry.place}: `{name}` is ignored because a saved file does not hold the token itself.")
            del in_force[name]
    in_file = {name: entry.values[-1] for name, entry in config.items() if entry.values}
    while in_force:
        arguments = [part for entry in in_force.values() for part in entry.as_typed()] + argv
        try:
            values, _ = parser.parse_known_args(arguments)
        except InputError as error:
            raise InputError(locate(str(error), in_force)) from error
        idle = find_idle(values, in_file, overrides)
        if not idle:
            break
        for name in [name for name in in_force if name in idle]:
            entry = in_force.pop(name)
            if getattr(values, name) != parser.get_default(name):
                notices.append(f"{entry.place}: `{name}` is ignored because {idle[name]}.")
        overrides |= idle.keys()  # without these, others may have no effect
    return in_force, notices


def _check_switches(options: Options, given: dict[str, str]) -> None:
    """Refuse `do_train` and `do_eval` if they say other than the other options."""
    switches = {name: string_to_bool(given[name] or "true") for name in ("do_train", "do_eval") if name in given}
    if switches.get("do_train", options.trains) != options.trains:
        raise InputError(
            "--do_train false: there is text to train on; leave out --train_file or --dataset_name."
            if options.trains
            else "--do_train: there is nothing to train on; give --train_file or --dataset_name."
        )
    if not switches.get("do_eval", True) and options.evaluation.eval_tasks:
        raise InputError("--do_eval false: --eval_tasks asks for scores; leave out one of them.")


def check_option_names(names: Iterable[str]) -> None:
    """Refuse names that are no options of `run_mocose.py`.

    Raises:
        InputError: Naming the first of them, and what it may have been meant to be.
    """
    known = {action.dest: action for action in build_parser()._actions}
    for name in names:
        if name not in known:
            raise InputError(f"unknown option --{name[:99]}; {_hint(name, known)}")


def printable_command(argv: list[str]) -> str:
    """Return the command as it was typed, for a model card, with tokens of access left out."""
    shown, secret = [], False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if secret:
            argument = "***"
        elif name.startswith("--") and name.endswith("token") and equals:
            argument = f"{name}=***"
        secret = argument.startswith("--") and argument.endswith("token")
        shown.append(argument.encode(errors="backslashreplace").decode())  # a file's name may be no UTF-8
    return shlex.join(["run_mocose.py", *shown])


def _typed(argv: list[str]) -> dict[str, str]:
    """Return the options that were typed, by field name, each with its last value."""
    typed, name = {}, None
    for argument in argv:
        if argument.startswith("--"):
            name, _, value = argument.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            typed[name] = value
        elif name is not None:
            typed[name] = argument
    return typed


def development_figures(wanted) -> list[str]:
    """Return the names of what the development sets are scored by; the first one selects if none is named.

    A set of the user's own goes before STS-B, and pairs before retrieval, labels and the training text.

    Args:
        wanted: `EvaluationArguments`, or anything with its fields.
    """
    names = [
        f"{retrieval_task_name(path)}_{figure}" for path in wanted.retrieval_file or () for figure in RETRIEVAL_METRICS
    ]
    of_labels = (*LABEL_METRICS, V_MEASURE) if wanted.v_measure else LABEL_METRICS
    names += [f"{task_name(path)}_{figure}" for path in wanted.label_file or () for figure in of_labels]
    if wanted.dev_from_text:
        names += [f"{DEV_FROM_TEXT}_{figure}" for figure in RETRIEVAL_METRICS]
    if wanted.validation_file or wanted.validation_dataset_name:
        return [*PAIR_METRICS, *names]
    return [*names, *(PAIR_METRICS if wanted.senteval_dir else ())]


def _development_defaults(parser: "_Parser", arguments: list[str], given: dict[str, str]) -> list[str]:
    """Return the options that development sets switch on: evaluation, and keeping the best checkpoint."""
    figures = development_figures(parser.parse_known_args(arguments)[0])
    if not figures:
        return []
    strategy = given.get("eval_strategy", "steps")
    defaults = ["--eval_strategy", strategy, "--eval_on_start", "true"]
    if strategy != "no":
        defaults += ["--save_strategy", strategy]
        if given.get("save_strategy", strategy) in (strategy, "best"):
            defaults += ["--load_best_model_at_end", "true", "--metric_for_best_model", figures[0]]
    return defaults


def build_parser() -> "_Parser":
    """Build the parser whose help shows our options and the most used ones of transformers, grouped."""
    MoCoSETrainingArguments._argument_group_name = "training"
    parser = _Parser(
        (ModelArguments, MethodArguments, DataArguments, EvaluationArguments, MoCoSETrainingArguments),
        description=DESCRIPTION,
        usage=USAGE,
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    inherited = {f.name for f in fields(MoCoSETrainingArguments)} - set(MoCoSETrainingArguments.__annotations__)
    for action in parser_actions(parser):
        if action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
        elif action.dest in TRANSFORMERS_OPTIONS:
            action.help = TRANSFORMERS_OPTIONS[action.dest]
        elif action.dest in inherited or (action.help or "").startswith("Kept "):
            action.help = argparse.SUPPRESS
        if action.dest == "report_to":
            action.nargs = "+"  # several loggers may be typed, as a run's saved arguments list them
    parser.set_defaults(output_dir=None, report_to="none")
    return parser


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise InputError(message)


class _HelpFormatter(argparse.HelpFormatter):
    """Show each option once, under the name of its field, with its default."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=118)

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = next(o for o in reversed(action.option_strings) if o.startswith("--"))
        return next((o for o in action.option_strings if "_" in o), name)

    def _get_help_string(self, action):
        default = action.default
        shown = default is None or default is argparse.SUPPRESS or isinstance(default, (dict, list))
        return action.help if shown else f"{action.help} [{str(getattr(default, 'value', default)).lower()}]"


_OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "model": "model_name_or_path",
}
"""What other programs call these options, where their spelling does not tell."""


def _hint(name: str, known: dict[str, argparse.Action]) -> str:
    if name in _OTHER_NAMES:
        return f"did you mean `{_OTHER_NAMES[name]}`?"
    close = difflib.get_close_matches(name[:99], known, n=1)
    return f"did you mean `{close[0]}`?" if close else "`run_mocose.py --help` lists the options."
