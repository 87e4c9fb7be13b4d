"""The options of one command: from typed arguments, a configuration file, a recipe or a dict to dataclasses."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mocose_hf.cli.arguments import DataArguments, EvaluationArguments, MethodArguments, ModelArguments
from mocose_hf.cli.config_file import ConfigEntry, ConfigFileError, locate, read_config_file
from mocose_hf.cli.parser import PROGRAM, OptionParser, build_parser
from mocose_hf.data.open_file import describe_files, find_files
from mocose_hf.errors import InputError, escape_controls, one_line
from mocose_hf.recipes import RECIPES
from mocose_hf.terminal import paint
from mocose_hf.training.training_args import MoCoSETrainingArguments

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")

_LIST_OR_WORD = ("optim_target_modules",)
"""Options that take one word when typed, but hold a list in the arguments that a run saves."""


@dataclass
class Options:
    """All options of one command, each of them valid on its own.

    Args:
        model, method, data, evaluation, training: The options by group.
        output_dir: As given, None if it was not.
        config_file: The entries of the configuration file that no typed option overrides.
        notices: Lines to print: the entries that have no effect, and why.
        typed: The values of the options that were typed.
        entries: All entries of the configuration file.
    """

    model: ModelArguments
    method: MethodArguments
    data: DataArguments
    evaluation: EvaluationArguments
    training: MoCoSETrainingArguments
    output_dir: str | None
    config_file: dict[str, ConfigEntry]
    notices: list[str] = field(default_factory=list)
    typed: dict[str, object] = field(default_factory=dict)
    entries: dict[str, ConfigEntry] = field(default_factory=dict)

    @property
    def trains(self) -> bool:
        """Whether there is training text."""
        return bool(self.data.train_file or self.data.dataset_name)

    @property
    def source(self) -> str:
        """The name of the training text in messages: the file, the first of several, or the dataset."""
        data = self.data
        return describe_files(find_files(data.train_file)) if data.train_file else str(data.dataset_name)

    @property
    def develops(self) -> bool:
        """Whether there is a development set."""
        evaluation = self.evaluation
        return bool(self.has_own_sets or evaluation.senteval_dir or (self.trains and evaluation.dev_from_text))

    @property
    def has_own_sets(self) -> bool:
        """Whether there is a development set other than SentEval's and held-out training text."""
        evaluation = self.evaluation
        own = (evaluation.validation_file, evaluation.validation_dataset_name)
        return any((*own, evaluation.retrieval_file, evaluation.label_file))

    @property
    def development_metrics(self) -> list[str]:
        """The names of the development scores, see `development_metrics`."""
        return development_metrics(self.evaluation)

    def say(self, line: str, colour: str = "") -> None:
        """Print a line on the first process only, in a colour of `paint`.

        Control characters except line feeds are escaped.
        """
        if self.training.process_index == 0:
            print(paint(escape_controls(line), colour, sys.stdout))

    def with_recipe(self, name: str) -> "Options":
        """Return the options of the same command with another recipe."""
        return _resolve(build_parser(), self.typed, self.entries, name)

    def with_values(self, values: Mapping[str, object]) -> "Options":
        """Return the options of the same command and recipe with other values, as if these had been typed."""
        return _resolve(build_parser(), {**self.typed, **values}, self.entries, self.model.recipe)

    def locate(self, message: str) -> str:
        """Put file and line before a message about a value of the configuration file."""
        return locate(message, self.config_file)


def parse_command_line(argv: Sequence[str], program: str = PROGRAM) -> Options:
    """Parse the arguments of the training command.

    Raises:
        InputError: If an option or a line of the configuration file cannot be used.
        SystemExit: After printing the help.
    """
    if "--help" in argv or "-h" in argv:
        _print_help(argv, program)
    config_path, argv = _split_config(argv)
    parser = build_parser(program)
    typed = parser.parse_typed(argv)
    return _resolve(parser, typed, read_config_file(config_path) if config_path else {})


def read_options(values: Mapping[str, object]) -> Options:
    """Return the options of a dict, such as a cell of a study; None leaves an option out.

    Words are converted as if they had been typed, so that "1e-5" and 1e-5 are the same learning rate.

    Raises:
        InputError: If a name is no option or a value cannot be used.
    """
    parser = build_parser()
    return _resolve(parser, _convert(parser, values), {})


def read_values(values: Mapping[str, object]) -> Namespace:
    """Return the value of every option of a dict, with defaults and the recipe, without building or checking more.

    Raises:
        InputError: If a name is no option or a value cannot be converted.
    """
    parser = build_parser()
    typed = _convert(parser, values)
    recipe = _read_recipe({}, typed)
    of_recipe = {name: parser.convert(name, entry.values) for name, entry in recipe.items()}
    return Namespace(**(parser.defaults() | of_recipe | typed))


def _convert(parser: OptionParser, values: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in values.items() if value is not None}
    parser.validate_names(given)
    return {name: parser.convert(name, _as_words(value)) for name, value in given.items()}


def validate_option_names(names: Iterable[str]) -> None:
    """Raise an `InputError` for the first name that is no option, with a suggestion."""
    build_parser().validate_names(names)


def _print_help(argv: Sequence[str], program: str) -> None:
    place = next(number for number, argument in enumerate(argv) if argument in ("--help", "-h"))
    group = next(iter(argv[place + 1 :]), "-")
    parser = build_parser(program)
    print(parser.format_overview() if group.startswith("-") else parser.format_group(group), end="")
    raise SystemExit(0)


def _split_config(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the path of the configuration file, given first or by --config, and the other arguments."""
    paths, others = [], []
    arguments = iter(argv)
    for number, argument in enumerate(arguments):
        is_first_file = number == 0 and not argument.startswith("-") and Path(argument).suffix in CONFIG_SUFFIXES
        if is_first_file:
            paths.append(argument)
        elif argument == "--config":
            paths.append(next(arguments, ""))
        elif argument.startswith("--config="):
            paths.append(argument.partition("=")[2])
        else:
            others.append(argument)
    if len(paths) > 1:
        raise InputError(f"--config {paths[1][:99]}: {paths[0][:99]} is already the configuration; drop one of them.")
    if paths and not paths[0]:
        raise InputError("--config: expected one argument; name a .yaml or .json file.")
    return (paths[0] if paths else None), others


def _resolve(
    parser: OptionParser, typed: dict[str, object], entries: dict[str, ConfigEntry], recipe: str | None = None
) -> Options:
    """Merge typed options over the configuration file, over a recipe, over defaults.

    Args:
        parser: Converts the entries.
        typed: Values of the typed options.
        entries: The configuration file.
        recipe: The recipe to take instead of the one that is typed or in the file.
    """
    recipe_entries = _read_recipe(entries, typed if recipe is None else typed | {"recipe": recipe})
    overrides = {*typed, *entries} if recipe_entries else {*typed}
    is_saved = "local_rank" in entries  # only a saved training_args.json has it, and that file has all fields
    config = recipe_entries | entries
    _validate_entries(parser, config)
    in_force, from_config, notices = _entries_in_force(parser, config, typed, overrides)
    given = from_config | typed
    if "fsdp" in given:
        raise InputError("--fsdp is not supported; give --deepspeed ds_configs/zero3.json, which shards as FSDP does.")
    values = parser.defaults() | given
    values |= development_defaults(Namespace(**values), given) | given
    try:
        groups = [kind(**{f.name: values[f.name] for f in fields(kind) if f.init}) for kind in parser.dataclass_types]
    except (ValueError, TypeError, ImportError) as error:  # InputError is a ValueError
        raise InputError(locate(one_line(error), in_force)) from error
    model, method, data, evaluation, training = groups
    if recipe is not None:
        model.recipe = recipe
    parts = (model, method, data, evaluation, training)
    output_dir: Any = given.get("output_dir")
    options = Options(*parts, output_dir, in_force, notices, typed, entries)
    # Transformers sets `do_eval` itself if there is an `eval_strategy`.
    _validate_switches(options, typed if is_saved else given)
    if evaluation.eval_tasks is None and given.get("do_eval") and not options.has_own_sets:
        if options.trains and not evaluation.senteval_dir:
            raise InputError("--do_eval: there is nothing to score on; give --senteval_dir or name --eval_tasks.")
        evaluation.eval_tasks = ["sts"]
    return options


def _read_recipe(config: dict[str, ConfigEntry], typed: dict[str, object]) -> dict[str, ConfigEntry]:
    """Return the entries of the recipe that a typed option or else the file names; empty if none does."""
    in_file = config["recipe"].values[-1:] if "recipe" in config else []
    names = [typed["recipe"]] if "recipe" in typed else in_file
    if not names:
        return {}
    if names[0] not in RECIPES:
        place = "" if "recipe" in typed else f"{config['recipe'].place}: "
        raise InputError(f"{place}--recipe is one of {', '.join(RECIPES)}, but is {names[0]!s:.40}.")
    entries = read_config_file(str(RECIPES[names[0]]))
    return {name: replace(entry, recipe=names[0]) for name, entry in entries.items()}


def _validate_entries(parser: OptionParser, config: dict[str, ConfigEntry]) -> None:
    """Raise an `InputError` for the first entry that is no option, or has too few or too many values."""
    actions = parser.actions
    for entry in config.values():
        if entry.name not in actions:
            raise ConfigFileError(f"{entry.place}: unknown option `{entry.name[:40]}`; {parser.suggest(entry.name)}")
        takes_several = actions[entry.name].nargs in ("+", "*")
        if not entry.values and not takes_several and entry.name not in _LIST_OR_WORD:
            raise ConfigFileError(f"{entry.place}: `{entry.name}` has no value, only an empty list; write one.")
        if len(entry.values) > 1 and not takes_several:
            raise ConfigFileError(f"{entry.place}: `{entry.name}` takes one value, not {len(entry.values)}; keep one.")


def _entries_in_force(
    parser: OptionParser, config: dict[str, ConfigEntry], typed: dict[str, object], overrides: set[str]
) -> tuple[dict[str, ConfigEntry], dict[str, object], list[str]]:
    """Return the entries of a configuration file that have an effect, their values, and a notice about each other one.

    Entries that a typed option overrides need no notice, nor do empty lists, which leave an option out.
    """
    if not config:
        return {}, {}, []
    from mocose_hf.cli.idle_options import find_idle  # loads the models, which --help does not need

    in_force = {name: entry for name, entry in config.items() if name not in typed and entry.values}
    notices = []
    for name, entry in list(in_force.items()):
        if name.endswith("_token") and entry.values == [f"<{name.upper()}>"]:
            notices.append(f"{entry.place}: `{name}` is ignored because a saved file does not hold the token itself.")
            del in_force[name]
    in_file = {name: entry.values[-1] for name, entry in config.items() if entry.values}
    defaults = parser.defaults()
    values: dict[str, object] = {}
    for name, entry in in_force.items():
        try:
            values[name] = parser.convert(name, entry.values)
        except InputError as error:
            raise InputError(locate(str(error), {name: entry})) from error
    while idle := find_idle(Namespace(**(defaults | values | typed)), in_file, overrides):
        for name in [name for name in in_force if name in idle]:
            entry = in_force.pop(name)
            if values.pop(name) != defaults[name]:
                notices.append(f"{entry.place}: `{name}` is ignored because {idle[name]}.")
        if not in_force:
            break
        overrides = overrides | idle.keys()  # without these, others may have no effect
    return in_force, values, notices


def _validate_switches(options: Options, given: Mapping[str, object]) -> None:
    """Raise an `InputError` if `do_train` or `do_eval` contradicts the other options."""
    if given.get("do_train", options.trains) != options.trains:
        raise InputError(
            "--do_train false: there is text to train on; leave out --train_file or --dataset_name."
            if options.trains
            else "--do_train: there is nothing to train on; give --train_file or --dataset_name."
        )
    if not given.get("do_eval", True) and options.evaluation.eval_tasks:
        raise InputError("--do_eval false: --eval_tasks asks for scores; leave out one of them.")


def _as_words(value: object) -> list[str]:
    """Return a value of a dict as words."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [str(part).lower() if isinstance(part, bool) else str(part) for part in values]


def printable_command(argv: Sequence[str], program: str = PROGRAM) -> str:
    """Return the command as it was typed, without access tokens, for a model card."""
    shown, secret = [], False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if secret:
            argument = "***"
        elif name.startswith("--") and name.endswith("token") and equals:
            argument = f"{name}=***"
        secret = argument.startswith("--") and argument.endswith("token")
        shown.append(argument.encode(errors="backslashreplace").decode())  # a file name may not be UTF-8
    return shlex.join([*program.split(), *shown])


def development_metrics(evaluation) -> list[str]:
    """Return the names of the development scores; the first one selects the best checkpoint by default.

    A set of the user's own goes before STS-B, and pairs before retrieval, labels and the training text.

    Args:
        evaluation: `EvaluationArguments`, or anything with its fields.
    """
    sets = (evaluation.validation_file, evaluation.validation_dataset_name, evaluation.retrieval_file)
    if not any((*sets, evaluation.label_file, evaluation.dev_from_text, evaluation.senteval_dir)):
        return []
    # On use, because these load datasets and scipy.
    from mocose_hf.evaluation.held_out import NAME as DEV_FROM_TEXT
    from mocose_hf.evaluation.labels import METRICS as LABEL_METRICS
    from mocose_hf.evaluation.labels import V_MEASURE
    from mocose_hf.evaluation.pairs import PAIR_METRICS
    from mocose_hf.evaluation.retrieval import METRICS as RETRIEVAL_METRICS
    from mocose_hf.evaluation.retrieval import retrieval_task_name
    from mocose_hf.evaluation.task_names import task_name

    names = [
        f"{retrieval_task_name(path)}_{metric}"
        for path in evaluation.retrieval_file or ()
        for metric in RETRIEVAL_METRICS
    ]
    of_labels = (*LABEL_METRICS, V_MEASURE) if evaluation.v_measure else LABEL_METRICS
    names += [f"{task_name(path)}_{metric}" for path in evaluation.label_file or () for metric in of_labels]
    if evaluation.dev_from_text:
        names += [f"{DEV_FROM_TEXT}_{metric}" for metric in RETRIEVAL_METRICS]
    if evaluation.validation_file or evaluation.validation_dataset_name:
        return [*PAIR_METRICS, *names]
    return [*names, *(PAIR_METRICS if evaluation.senteval_dir else ())]


def development_defaults(values: Namespace, given: Mapping[str, object]) -> dict[str, object]:
    """Return the options that a development set turns on: evaluation, and keeping the best checkpoint."""
    metrics = development_metrics(values)
    if not metrics:
        return {}
    strategy = _plain(given.get("eval_strategy", "steps"))
    defaults: dict[str, object] = {"eval_strategy": strategy, "eval_on_start": True}
    if strategy != "no":
        defaults["save_strategy"] = strategy
        if _plain(given.get("save_strategy", strategy)) in (strategy, "best"):
            defaults |= {"load_best_model_at_end": True, "metric_for_best_model": metrics[0]}
    return defaults


def _plain(choice: object) -> str:
    return str(getattr(choice, "value", choice))
