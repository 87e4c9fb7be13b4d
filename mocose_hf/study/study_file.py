"""A study of one's own, from a YAML or JSON file: a grid over options, or a search through a space of them."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mocose_hf.errors import InputError, one_line
from mocose_hf.study.declarations import FILE_NAME, Cell, Study
from mocose_hf.study.redaction import is_secret

_ABOUT = {"title", "question", "source", "options", "default", "plot", "x_label", "equivalence_bound"}
_OF_CELLS = {"default", "plot", "source", "x_label", "equivalence_bound"}
_WAYS = {"grid", "cells", "search"}
_RANGE = {"low", "high", "log", "step"}
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}
_MOST_CHARACTERS = 1_000_000
_MOST_VALUES = 100_000
_MOST_CELLS = 10_000
_DEEPEST = 20


@dataclass(frozen=True)
class Search:
    """A space of options that optuna's TPE sampler draws from, after the options as they are.

    Args:
        name: What it is called.
        title, question: As of a `Study`.
        space: For each option, what it may be.
        trials: How many settings are tried, the options as they are among them.
        options: Options of all of them.
    """

    name: str
    title: str
    question: str
    space: Mapping[str, BaseDistribution]
    trials: int
    options: Mapping[str, object] = field(default_factory=dict)


def read_study_file(path: str | Path) -> Study | Search:
    """Read a study.

    The file is a mapping with one of `grid` (option: list of values; all combinations are run), `cells` (label:
    mapping of options) and `search` (`trials`, and `space`, option: list of choices or mapping of low, high and,
    where wanted, log or step), and, where wanted, `title`, `question`, `options` of all cells, `default` (a cell's
    label), `source`, `plot`, `x_label` and `equivalence_bound`. Its name is that of the file.

    Raises:
        InputError: With the file and the remedy.
    """
    path = Path(path)
    if not FILE_NAME.fullmatch(path.stem):
        raise InputError(
            f"{path}: the study and the files of its report are called as this file, so rename it: letters, digits, "
            "'.', '_' and '-'."
        )
    try:
        made = _parse(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; `python -m mocose_hf.study list` names the studies.") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); it should be YAML or JSON in UTF-8.") from error
    if not isinstance(made, dict) or len(_WAYS & made.keys()) != 1:
        raise InputError(f"{path}: is to be a mapping with one of grid, cells and search; see docs/study.md.")
    unknown = sorted(str(name) for name in made.keys() - _ABOUT - _WAYS)
    if unknown:
        raise InputError(f"{path}: `{unknown[0][:40]}` is unknown; there are {', '.join(sorted(_ABOUT | _WAYS))}.")
    try:
        return _build(path.stem, made)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {one_line(error)}; mend it, see docs/study.md.") from error


def _parse(path: Path) -> object:
    """Return what the file holds: mappings, lists, strings, numbers, booleans and None.

    Raises:
        OSError, ValueError, yaml.YAMLError, RecursionError: If it cannot be read, or is too large once its aliases are
            resolved.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = file.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"it has over {_MOST_CHARACTERS:,} characters")
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    _check_node(node, {})
    return loader.construct_document(node)


class _Loader(yaml.SafeLoader):
    """Take dates for text, as options have none."""

    yaml_implicit_resolvers: ClassVar[dict] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _check_node(node: yaml.Node, sizes: dict[int, int], depth: int = 1) -> int:
    """Return the number of values in a node with its aliases resolved.

    Args:
        node: The node.
        sizes: The numbers of the nodes that were seen before, 0 of those that are not counted to the end.
        depth: How deep the node is nested.

    Raises:
        ValueError: If these are too many, an alias stands inside of what it names, a key stands twice, or a value has
            a tag of its own.
    """
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise ValueError(f"line {node.start_mark.line + 1}: an alias stands inside of what it names")
        return sizes[id(node)]
    sizes[id(node)] = 0
    where = f"line {node.start_mark.line + 1}"
    if node.tag not in _TAGS:
        raise ValueError(f"{where}: the tag {node.tag.replace('tag:yaml.org,2002:', '!!')[:40]}")
    if depth > _DEEPEST:
        raise ValueError(f"{where}: nested over {_DEEPEST} deep")
    parts = []
    if isinstance(node, yaml.MappingNode):
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [value for (_, value), count in Counter(keys).items() if count > 1]:
            raise ValueError(f"{where}: `{twice[0][:40]}` stands twice; drop one")
        parts = itertools.chain(*node.value)
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    size = 1
    for part in parts:
        size += _check_node(part, sizes, depth + 1)
        if size > _MOST_VALUES:
            raise ValueError(f"{where}: over {_MOST_VALUES:,} values with aliases resolved")
    sizes[id(node)] = size
    return size


def _build(name: str, made: dict) -> Study | Search:
    about = {key: str(made.get(key, "")) for key in ("title", "question")}
    about["title"] = about["title"] or name
    options = _mapping(made.get("options") or {}, "options")
    if "search" in made:
        search = _mapping(made["search"], "search")
        needless = sorted((_OF_CELLS & made.keys()) | (search.keys() - {"trials", "space"}))
        if needless:
            raise ValueError(f"`{needless[0][:40]}` has no meaning in a search, which has `trials` and `space`")
        space = {name: _distribution(name, values) for name, values in _mapping(search.get("space"), "space").items()}
        if not space:
            raise ValueError("`space` names no option; give one its choices or its range")
        return Search(name, **about, space=space, trials=_count(search.get("trials")), options=options)
    cells = _cells_of_grid(made["grid"]) if "grid" in made else _cells(made["cells"])
    more = {key: str(made[key]) for key in ("default", "plot", "x_label", "source") if key in made}
    if "equivalence_bound" in made:
        more["equivalence_bound"] = _number(made["equivalence_bound"])
        if more["equivalence_bound"] is None:
            raise ValueError(f"`equivalence_bound` is a number above 0, not {str(made['equivalence_bound'])[:40]!r}")
    return Study(name, **about, cells=cells, options=options, **{"source": "", **more})


def _cells(made: object) -> list[Cell]:
    cells = _mapping(made, "cells").items()
    return [Cell(label, options=_mapping(options or {}, label)) for label, options in cells]


def _cells_of_grid(made: object) -> list[Cell]:
    """Return a cell for each combination; of two options, the second makes the columns."""
    grid = _mapping(made, "grid")
    empty = [option for option, values in grid.items() if values == []]
    if empty or not grid:
        raise ValueError(
            f"`{empty[0]}` has no values; list some" if empty else "`grid` names no option; list values of one"
        )
    number = math.prod(len(values) if isinstance(values, list) else 1 for values in grid.values())
    if number > _MOST_CELLS:
        raise ValueError(f"the grid has {number:,} cells, {_MOST_CELLS:,} at most; list fewer values, or use `search`")
    if secret := next(filter(is_secret, grid), None):
        raise ValueError(f"`{secret}` is a secret, which labels would show; give it on the command line")
    cells = []
    for values in itertools.product(*(v if isinstance(v, list) else [v] for v in grid.values())):
        options = dict(zip(grid, values, strict=True))
        words = [f"{option} = {value}" for option, value in options.items()]
        row, column = words if len(words) == 2 else (", ".join(words), "")
        cells.append(Cell(row, column, options, x=_number(values[0])))
    return cells


def _number(value: object) -> float | None:
    """Return a value as a number; None where it is none. YAML takes 1e-5 for a word."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _distribution(option: str, values: object) -> BaseDistribution:
    try:
        return _choices_or_range(option, values)
    except ValueError as error:  # optuna's, which do not say of what
        message = str(error)
        raise ValueError(message if f"`{option}`" in message else f"`{option}`: {message}") from error


def _choices_or_range(option: str, values: object) -> BaseDistribution:
    if isinstance(values, list):
        return CategoricalDistribution(values)
    given = _mapping(values, option)
    ends = [_number(given.get(end)) for end in ("low", "high")]
    if None in ends or not given.keys() <= _RANGE:
        raise ValueError(f"`{option}` is a list of choices, or a mapping of low, high and, where wanted, log or step")
    if all(isinstance(given[end], int) for end in ("low", "high")):
        return IntDistribution(**given)
    return FloatDistribution(**given | {"low": ends[0], "high": ends[1]})


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`trials` of a search is a whole number, at least 1, not {value!r}")
    return value


def _mapping(value: object, name: object) -> dict:
    if not isinstance(value, dict) or not all(isinstance(key, (str, int, float)) for key in value):
        raise ValueError(f"`{name}` is to be a mapping")
    return {str(key): part for key, part in value.items()}
