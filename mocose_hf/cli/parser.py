"""The parser of the training options: it converts values, suggests names and prints help by group."""

import argparse
import difflib
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from transformers import HfArgumentParser

from mocose_hf.cli.arguments import DataArguments, EvaluationArguments, MethodArguments, ModelArguments
from mocose_hf.compat import parser_actions
from mocose_hf.errors import InputError
from mocose_hf.training.training_args import MoCoSETrainingArguments

PROGRAM = "run_mocose.py"

DESCRIPTION = "Train a sentence encoder on unlabelled text by momentum contrast (MoCoSE, arXiv 2202.13093)."

EPILOG = (
    "The configuration file holds one option a line, in YAML or JSON; typed options override it. The command trains "
    "if there is a --train_file or a --dataset_name. Otherwise it scores the model on --eval_tasks or on development "
    "sets. Exit codes: 0 done; 2 bad input, nothing written; 75 stopped by SIGTERM or SIGINT, all saved, resume with "
    "--resume_from_checkpoint true; 1 stopped because numbers, embeddings or the disk failed, the last complete "
    "checkpoint is intact; 130 stopped at once by a second Ctrl-C. All other fields of "
    "transformers.TrainingArguments are options too: "
    "https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments"
)

TRANSFORMERS_OPTIONS = {
    "output_dir": "Directory for the plain encoder, scores, mocose/ (the whole model) and checkpoints.",
    "max_steps": "Maximum number of optimizer steps, overrides `num_train_epochs`; -1 for no limit.",
    "gradient_accumulation_steps": "Forward passes per optimizer step; the keys of all enter the queue together "
    "(paper: 1).",
    "lr_scheduler_type": "Learning rate schedule (paper: linear decay).",
    "warmup_steps": "Warm-up steps of the learning rate, or their share of the run if below 1 (paper: 0).",
    "max_grad_norm": "Maximum gradient norm for clipping (paper: 1.0).",
    "seed": "Seed for heads, queue, dropout and data order.",
    "do_eval": "Whether to score the finished model on `eval_tasks`; naming tasks implies it.",
    "bf16": "Whether to compute in bfloat16; weights, target and loss stay in float32, the queue in `queue_dtype`.",
    "tf32": "Whether float32 matrix products may use TF32 on Ampere and newer GPUs.",
    "torch_compile": "Whether to compile the model; compiling takes minutes at the start.",
    "bf16_full_eval": "Whether to evaluate in bfloat16.",
    "activation_checkpointing": "Whether to recompute activations in the backward pass to save memory.",
    "use_cpu": "Whether to train on the CPU even if there is a GPU.",
    "deepspeed": "DeepSpeed configuration, such as ds_configs/zero2.json; default: the launcher's.",
    "dataloader_num_workers": "Number of worker processes that tokenise ahead; 0 for none.",
    "eval_strategy": "When to evaluate: no, steps or epoch; default: steps if there is a development set.",
    "load_best_model_at_end": "Whether to keep the best checkpoint; default: true if there is a development set.",
    "metric_for_best_model": "Score that selects the best checkpoint; default: dev_spearman of pairs, NAME_ndcg_at_10 "
    "of the first `retrieval_file`, or NAME_precision_at_10 of the first `label_file`.",
    "resume_from_checkpoint": "Checkpoint to resume from: a path, or true for the newest complete one in "
    "`output_dir`; with true, the run starts fresh if there is none.",
    "report_to": "Experiment trackers: tensorboard, wandb, ...; none for none.",
    "push_to_hub": "Whether to upload the finished model to the hub.",
    "hub_model_id": "Repository to upload to; default: the name of `output_dir`.",
}
"""Fields of `transformers.TrainingArguments` that the help shows, each with its help text."""

FIXED_OPTIONS = (
    "ddp_broadcast_buffers",
    "ddp_find_unused_parameters",
    "hub_strategy",
    "logging_nan_inf_filter",
    "remove_unused_columns",
)
"""Training arguments whose default differs from transformers' and that the trainer sets or checks; help hides them."""

GROUPS = {
    "model": "the start, and the algorithm",
    "method": "heads, loss, queue and target branch",
    "data and output": "training text, and what may be overwritten",
    "evaluation": "development sets and test tasks",
    "training": "schedule, augmentation, monitoring, precision, checkpoints, hub",
}
"""The groups of options, in the order of the help."""

_OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "model": "model_name_or_path",
}
"""Names that other programs use, if they are too different for a suggestion by spelling."""

_NOT_TYPED = object()


def build_parser(program: str = PROGRAM) -> "OptionParser":
    """Build the parser of all options; its help shows ours and the most used ones of transformers."""
    MoCoSETrainingArguments._argument_group_name = "training"
    parser = OptionParser(
        (ModelArguments, MethodArguments, DataArguments, EvaluationArguments, MoCoSETrainingArguments),
        prog=program,
        description=DESCRIPTION,
        usage=f"{program} [config.yaml | config.json] [--option value ...]\n       {program} --help [GROUP | all]",
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    inherited = {f.name for f in fields(MoCoSETrainingArguments)} - set(MoCoSETrainingArguments.__annotations__)
    for action in parser_actions(parser):
        if action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
        elif action.dest in TRANSFORMERS_OPTIONS:
            action.help = TRANSFORMERS_OPTIONS[action.dest]
        elif action.dest in inherited or action.dest in FIXED_OPTIONS:
            action.help = argparse.SUPPRESS
        if action.dest == "report_to":
            action.nargs = "+"  # the arguments that a run saves hold a list
    parser.set_defaults(output_dir=None, report_to="none")
    return parser


class OptionParser(HfArgumentParser):
    """A parser whose options may come from the command line, a configuration file or a dict."""

    @property
    def actions(self) -> dict[str, argparse.Action]:
        """The action of each option, by the name of its field; of a switch, not its negation."""
        actions: dict[str, argparse.Action] = {}
        for action in parser_actions(self):
            actions.setdefault(action.dest, action)
        return actions

    def error(self, message: str):
        """Raise an `InputError` instead of ending the process."""
        raise InputError(message)

    def defaults(self) -> dict[str, object]:
        """Return the default of each option."""
        return vars(self.parse_known_args([])[0])

    def parse_typed(self, argv: Sequence[str]) -> dict[str, object]:
        """Return the options that were typed, by name.

        Raises:
            InputError: If an option is unknown or a value cannot be converted.
        """
        untouched = argparse.Namespace(**dict.fromkeys(self.actions, _NOT_TYPED))
        typed, unknown = self.parse_known_args(list(argv), untouched)
        for argument in unknown:
            raise InputError(f"unknown option {argument[:99]}; {self._explain_unknown(argument)}")
        return {name: value for name, value in vars(typed).items() if value is not _NOT_TYPED}

    def convert(self, name: str, values: Sequence[str]) -> object:
        """Convert the words that stand for an option's value, as if they had been typed.

        Raises:
            InputError: If they do not fit the option.
        """
        action = self.actions[name]
        if action.nargs not in ("+", "*") and len(values) > 1:
            self._fail(action, f"takes one value, not {len(values)}; keep one.")
        converted = [self._convert_one(action, value) for value in values]
        return converted if action.nargs in ("+", "*") else converted[0]

    def _convert_one(self, action: argparse.Action, text: str) -> object:
        convert: Any = action.type or str
        try:
            value = convert(text)
        except argparse.ArgumentTypeError as error:
            self._fail(action, str(error), error)
        except (TypeError, ValueError) as error:
            self._fail(action, f"invalid {getattr(convert, '__name__', convert)} value: {text!r}", error)
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(repr(choice) for choice in action.choices)
            self._fail(action, f"invalid choice: {text!r} (choose from {choices})")
        return value

    @staticmethod
    def _fail(action: argparse.Action, message: str, cause: Exception | None = None) -> None:
        raise InputError(str(argparse.ArgumentError(action, message))) from cause

    def validate_names(self, names: Iterable[str]) -> None:
        """Raise an `InputError` for the first name that is no option, with a suggestion."""
        for name in names:
            if name not in self.actions:
                raise InputError(f"unknown option --{name[:99]}; {self.suggest(name)}")

    def suggest(self, name: str) -> str:
        """Return what to do about an option that does not exist."""
        if name in _OTHER_NAMES:
            return f"did you mean `{_OTHER_NAMES[name]}`?"
        close = difflib.get_close_matches(name[:99], self.actions, n=1)
        return f"did you mean `{close[0]}`?" if close else f"`{self.prog} --help all` lists the options."

    def _explain_unknown(self, argument: str) -> str:
        if argument.startswith("-"):
            return self.suggest(argument.lstrip("-").split("=")[0].replace("-", "_"))
        return "an option takes one value; join several files into one first."

    def shown_options(self) -> dict[str, list[argparse.Action]]:
        """Return the options that the help shows, by group."""
        groups: dict[str, list[argparse.Action]] = {title: [] for title in GROUPS}
        for dataclass_type in self.dataclass_types:
            names = {f.name for f in fields(dataclass_type)}
            shown = [a for a in self.actions.values() if a.dest in names and a.help != argparse.SUPPRESS]
            groups[dataclass_type._argument_group_name] += shown
        return groups

    def format_overview(self) -> str:
        """Return the help that lists the names of all shown options by group."""
        lines = [f"usage: {self.usage}", "", DESCRIPTION, "", "groups of options:"]
        for title, actions in self.shown_options().items():
            lines += ["", f"  {title}: {GROUPS[title]}"]
            names = " ".join(action.dest for action in actions)
            lines += textwrap.wrap(names, 116, initial_indent="    ", subsequent_indent="    ")
        first = next(iter(GROUPS))
        lines += ["", f"`{self.prog} --help {first}` explains the options of a group, `--help all` those of all."]
        return "\n".join([*lines, "", textwrap.fill(EPILOG, 118), ""])

    def format_group(self, name: str) -> str:
        """Return the help of one group, or of all.

        Args:
            name: The first word of a group, or "all".

        Raises:
            InputError: If there is no such group.
        """
        if name == "all":
            return self.format_help()
        for title, actions in self.shown_options().items():
            if name in (title, title.split()[0]):
                formatter = self._get_formatter()
                formatter.start_section(title)
                formatter.add_arguments(actions)
                formatter.end_section()
                return formatter.format_help()
        words = ", ".join(title.split()[0] for title in GROUPS)
        raise InputError(f"--help {name[:40]}: no such group of options; choose one of {words}, all.")


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
        hidden = default is None or default is argparse.SUPPRESS or isinstance(default, (dict, list))
        return action.help if hidden else f"{action.help} [{str(getattr(default, 'value', default)).lower()}]"
