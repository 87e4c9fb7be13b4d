"""Read your own study from a YAML or JSON file: a grid of options, named cells, or a search."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mocose_hf.errors import InputError, one_line
from mocose_hf.study.metrics import describe_metric
from mocose_hf.study.redaction import is_secret
from mocose_hf.study.study import AS_GIVEN, FILE_NAME, SCORE, Cell, Study, TrialResult, validate_metric

_FIELDS = {"title", "question", "source", "options", "default", "plot", "x_label", "equivalence_bound", "metric"}
_CELL_FIELDS = {"default", "plot", "source", "x_label", "equivalence_bound"}
"""Fields that have no meaning in a search."""
_KINDS = {"grid", "cells", "search"}
_RANGE = {"low", "high", "log", "step"}
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}
_MAX_CHARACTERS = 1_000_000
_MAX_VALUES = 100_000
_MAX_CELLS = 10_000
_MAX_DEPTH = 20


@dataclass(frozen=True)
class Search:
    """A search through a space of options with optuna's TPE sampler.

    Args:
        name: Its name.
        title, question: As for a `Study`.
        space: The distribution of each option.
        trials: The number of settings to try, the options as given included.
        options: Options of all settings.
        metric: The figure to optimise, as for a `Study`.
    """

    name: str
    title: str
    question: str
    space: Mapping[str, BaseDistribution]
    trials: int
    options: Mapping[str, object] = field(default_factory=dict)
    metric: str = SCORE

    def __post_init__(self):
        validate_metric(self.metric)


def study_of_search(declaration: Mapping[str, str], results: Sequence[TrialResult]) -> Study:
    """Return a study whose cells are the settings that a search has tried: `AS_GIVEN` first, then the best first.

    Args:
        declaration: The name, title, question and metric of the search.
        results: Its trials.
    """
    metric = describe_metric(declaration.get("metric", SCORE))
    scores: dict[str, list[float]] = {AS_GIVEN: []}
    for result in results:
        scores.setdefault(result.cell, [])
        if result.state == "complete" and metric.name in result.figures:
            scores[result.cell].append(metric.sign * result.figures[metric.name])
    tried = [label for label in scores if label != AS_GIVEN]
    tried.sort(key=lambda label: fmean(scores[label]) if scores[label] else float("-inf"), reverse=True)
    name, title, question = (declaration[key] for key in ("name", "title", "question"))
    return Study(name, title, question, "a search", list(map(Cell, (AS_GIVEN, *tried))), metric=metric.name)


def read_study_file(path: str | Path) -> Study | Search:
    """Read a study or a search.

    The file is a mapping with one of these keys:

    * `grid`: options and lists of values; all combinations run.
    * `cells`: labels and mappings of options.
    * `search`: `trials`, and `space`: options and either lists of choices, or mappings of `low`, `high` and optionally
      `log` or `step`.

    Optional keys are `title`, `question`, `source`, `options` (of all cells), `default` (a label), `plot`, `x_label`,
    `equivalence_bound` and `metric`. The study has the name of the file.

    Raises:
        InputError: If the file cannot be used.
    """
    path = Path(path)
    if not FILE_NAME.fullmatch(path.stem):
        raise InputError(
            f"{path}: the study and the files of its report get the name of this file, so rename it: use letters, "
            "digits, '.', '_' and '-'."
        )
    try:
        content = _parse(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `python -m mocose_hf.study list` shows the studies.") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); write YAML or JSON in UTF-8.") from error
    if not isinstance(content, dict) or len(_KINDS & content.keys()) != 1:
        raise InputError(f"{path}: must be a mapping with one of grid, cells and search; see docs/study.md.")
    unknown = sorted(str(name) for name in content.keys() - _FIELDS - _KINDS)
    if unknown:
        raise InputError(f"{path}: `{unknown[0][:40]}` is unknown; choose from {', '.join(sorted(_FIELDS | _KINDS))}.")
    try:
        return _build(path.stem, content)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {one_line(error)}; see docs/study.md.") from error


def _parse(path: Path) -> object:
    """Return the content of a file: mappings, lists, strings, numbers, booleans and None.

    Raises:
        OSError, ValueError, yaml.YAMLError, RecursionError: If it cannot be read, or is too large with its aliases
            resolved.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(_MAX_CHARACTERS + 1)
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"it has over {_MAX_CHARACTERS:,} characters")
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _validate_node(node, {})
    return loader.construct_document(node)


class _Loader(yaml.SafeLoader):
    """Read dates as text, because no option is a date."""

    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _validate_node(node: yaml.Node, sizes: dict[int, int], depth: int = 1) -> int:
    """Return the number of values in a node with its aliases resolved.

    Args:
        node: The node.
        sizes: The number of values of each visited node, 0 for those that are still being counted.
        depth: The nesting depth of the node.

    Raises:
        ValueError: If there are too many values, an alias contains itself, a key appears twice, or a value has a
            custom tag.
    """
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias contains itself")
        return sizes[id(node)]
    sizes[id(node)] = 0
    place = f"line {node.start_mark.line + 1}"
    if node.tag not in _TAGS:
        raise ValueError(f"{place}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')[:40]} is not supported")
    if depth > _MAX_DEPTH:
        raise ValueError(f"{place}: nested over {_MAX_DEPTH} deep")
    parts: Iterable = ()
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if duplicates := [value for (_, value), count in Counter(keys).items() if count > 1]:
            raise ValueError(f"{place}: `{duplicates[0][:40]}` appears twice; remove one")
        parts = itertools.chain(*node.value)
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    size = 1
    for part in parts:
        size += _validate_node(part, sizes, depth + 1)
        if size > _MAX_VALUES:
            raise ValueError(f"{place}: over {_MAX_VALUES:,} values with aliases resolved")
    sizes[id(node)] = size
    return size


def _build(name: str, content: dict) -> Study | Search:
    texts = {key: str(content.get(key, "")) for key in ("title", "question")}
    texts["title"] = texts["title"] or name
    texts["metric"] = str(content.get("metric", SCORE))
    options = _mapping(content.get("options") or {}, "options")
    if "search" in content:
        return _build_search(name, content, texts, options)
    cells = _cells_of_grid(content["grid"]) if "grid" in content else _cells(content["cells"])
    more: dict[str, Any] = {
        key: str(content[key]) for key in ("default", "plot", "x_label", "source") if key in content
    }
    if "equivalence_bound" in content:
        more["equivalence_bound"] = _number(content["equivalence_bound"])
        if more["equivalence_bound"] is None:
            raise ValueError(
                f"`equivalence_bound` is {str(content['equivalence_bound'])[:40]!r}, but must be a number above 0"
            )
    return Study(name, cells=cells, options=options, **{"source": "", **texts, **more})


def _build_search(name: str, content: dict, texts: dict[str, str], options: dict) -> Search:
    search = _mapping(content["search"], "search")
    meaningless = sorted((_CELL_FIELDS & content.keys()) | (search.keys() - {"trials", "space"}))
    if meaningless:
        raise ValueError(f"`{meaningless[0][:40]}` has no meaning in a search, which has `trials` and `space`")
    space = {name: _distribution(name, values) for name, values in _mapping(search.get("space"), "space").items()}
    if not space:
        raise ValueError("`space` has no option; give at least one with its choices or its range")
    return Search(name, **texts, space=space, trials=_count(search.get("trials")), options=options)


def _cells(value: object) -> list[Cell]:
    cells = _mapping(value, "cells").items()
    return [Cell(label, options=_mapping(options or {}, label)) for label, options in cells]


def _cells_of_grid(value: object) -> list[Cell]:
    """Return a cell for each combination. With two options, the second one gives the columns."""
    grid = _mapping(value, "grid")
    empty = [option for option, values in grid.items() if values == []]
    if empty or not grid:
        raise ValueError(
            f"`{empty[0]}` has no values; list some" if empty else "`grid` has no option; give at least one"
        )
    number = math.prod(len(values) if isinstance(values, list) else 1 for values in grid.values())
    if number > _MAX_CELLS:
        raise ValueError(
            f"the grid has {number:,} cells, over the limit of {_MAX_CELLS:,}; list fewer values, or use `search`"
        )
    if secret := next(filter(is_secret, grid), None):
        raise ValueError(f"`{secret}` is a secret, which labels would show; give it on the command line")
    cells = []
    for values in itertools.product(*(v if isinstance(v, list) else [v] for v in grid.values())):
        options = dict(zip(grid, values, strict=True))
        words = [f"{option} = {value}" for option, value in options.items()]
        row, column = words if len(words) == 2 else (", ".join(words), "")
        cells.append(Cell(row, column, options, x=_number(values[0])))
    return cells


def _number(value: Any) -> float | None:
    """Return a value as a number, None if it is not one. YAML reads 1e-5 as a string."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _distribution(option: str, values: object) -> BaseDistribution:
    try:
        return _choices_or_range(option, values)
    except ValueError as error:  # optuna's do not name the option
        message = str(error)
        raise ValueError(message if f"`{option}`" in message else f"`{option}`: {message}") from error


def _choices_or_range(option: str, values: object) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution(values)
    given = _mapping(values, option)
    ends = [_number(given.get(end)) for end in ("low", "high")]
    if None in ends or not given.keys() <= _RANGE:
        raise ValueError(f"`{option}` must be a list of choices, or a mapping of low, high and optionally log or step")
    if all(isinstance(given[end], int) for end in ("low", "high")):
        return IntDistribution(**given)
    return FloatDistribution(**given | {"low": ends[0], "high": ends[1]})


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`trials` is {value!r}, but must be a whole number of at least 1")
    return value


def _mapping(value: object, name: object) -> dict:
    if not isinstance(value, dict) or not all(isinstance(key, (str, int, float)) for key in value):
        raise ValueError(f"`{name}` must be a mapping")
    return {str(key): part for key, part in value.items()}
