"""A configuration file: options in YAML or JSON, read as if each had been typed."""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from mocose_hf.errors import InputError, one_line

MAX_BYTES = 2**20
"""The largest configuration file that is read."""


class ConfigFileError(InputError):
    """A fault of a configuration file, whose options are written without dashes."""


@dataclass
class ConfigEntry:
    """One option of a configuration file: its name, its values as typed, its file and line, and its recipe if any."""

    name: str
    values: list[str]
    place: str
    recipe: str | None = None

    def as_typed(self) -> list[str]:
        """Return the entry as arguments; one value is joined to its name, as it may start with a dash."""
        return [f"--{self.name}={self.values[0]}"] if len(self.values) == 1 else [f"--{self.name}", *self.values]


def read_config_file(path: str) -> dict[str, ConfigEntry]:
    """Read a flat YAML or JSON mapping as if its entries had been typed, with the line of each.

    All scalars stay strings, so that `no` is "no" and `1e-5` is "1e-5". An empty value or null leaves an option out.
    An empty list gives an entry without values.

    Raises:
        InputError: With file, line and remedy.
    """
    node = _compose(path)
    if not isinstance(node, yaml.MappingNode) or node.tag not in _PLAIN_TAGS:
        raise ConfigFileError(f"{path}, line 1: not a mapping; write one `option: value` a line.")
    entries: dict[str, ConfigEntry] = {}
    seen = {id(node)}
    for key, value in node.value:
        place = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigFileError(f"{place}: an option's name is a word; write `option: value`.")
        name = key.value.replace("-", "_")
        if name in entries:
            raise ConfigFileError(f"{place}: `{name[:40]}` stands twice, first at {entries[name].place}; drop one.")
        try:
            _check_plain([key, value], seen)
            values = _as_typed(value)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            why = str(getattr(error, "problem", error))[:99]
            raise ConfigFileError(
                f"{place}: `{name[:40]}` has no plain value ({why}); write words and numbers."
            ) from error
        if values is not None:
            entries[name] = ConfigEntry(name, values, place)
    return entries


def _compose(path: str) -> yaml.Node | None:
    """Return the nodes of a YAML or JSON file; makes no objects of them."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigFileError(
                f"{path}: larger than {MAX_BYTES // 2**20} MiB; a configuration is one option a line."
            )
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
        if Path(path).suffix == ".json":
            text = text.replace("\t", " ")  # YAML takes JSON but for tabs, which stand nowhere inside its strings
        loader = yaml.BaseLoader(text)
        return loader.get_single_node()
    except InputError:
        raise
    except FileNotFoundError:
        raise ConfigFileError(f"{path}: no such file; check the path of the configuration.") from None
    except RecursionError:
        line, problem = loader.get_mark().line, "nested too deep"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)  # a ReaderError has a position instead
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        problem = (getattr(error, "problem", None) or one_line(error))[:99]
    except (OSError, ValueError) as error:
        raise ConfigFileError(
            f"{path}: cannot be read ({one_line(error)}); it should be YAML or JSON in UTF-8."
        ) from error
    raise ConfigFileError(f"{path}, line {line + 1}: not valid YAML or JSON ({problem}); mend the line.")


def locate(message: str, config: dict[str, ConfigEntry]) -> str:
    """Put file and line before a complaint about an option that the file gave; say how to override a recipe."""
    entries = [config[name] for name in re.findall(r"\w+", message) if name in config]
    if not entries:
        return message
    first = entries[0]
    override = f" (the recipe {first.recipe} sets `{first.name}`; --{first.name} overrides it)" if first.recipe else ""
    return f"{first.place}: {message}{override}"


_PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}


def _check_plain(nodes: list[yaml.Node], seen: set[int]) -> None:
    """Raise a `ValueError` at an alias, a tag or deep nesting, which no option has; `seen` grows by all nodes."""
    left = [(node, 1) for node in nodes]
    while left:
        node, depth = left.pop()
        if id(node) in seen:
            raise ValueError("an alias")
        if node.tag not in _PLAIN_TAGS:
            raise ValueError(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')[:40]}")
        if depth > 20:
            raise ValueError("nested over 20 deep")
        seen.add(id(node))
        if isinstance(node, yaml.CollectionNode):
            parts = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
            left += [(part, depth + 1) for part in parts]


def _as_typed(node: yaml.Node) -> list[str] | None:
    if isinstance(node, yaml.ScalarNode):
        return None if _is_null(node) else [node.value]
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for part in parts:
        _mark_nulls(part)
    return [p.value if p.id == "scalar" else json.dumps(yaml.safe_load(yaml.serialize(p))) for p in parts]


def _is_null(node: yaml.ScalarNode) -> bool:
    return node.value in ("", "null", "~") and not node.style


def _mark_nulls(node: yaml.Node) -> None:
    """Tag the nulls inside a mapping, which `yaml.BaseLoader` reads as words; `_check_plain` limits the depth."""
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _mark_nulls(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _mark_nulls(value)
    elif _is_null(node):
        node.tag = "tag:yaml.org,2002:null"
