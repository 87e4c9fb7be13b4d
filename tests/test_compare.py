"""Each cell of docs/compare.md has evidence that holds."""

import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from builders import REPOSITORY

from mocose_hf.cli.parser import build_parser

sys.path.insert(0, str(REPOSITORY / "tools"))
from write_comparison import COLUMNS, PAGE, read_comparison, render

ROWS = read_comparison()["rows"]
row_of = pytest.mark.parametrize("row", ROWS, ids=[row["feature"] for row in ROWS])


def test_the_table_is_that_of_the_evidence():
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python tools/write_comparison.py"
    assert len(ROWS) >= 15


@row_of
def test_our_cells_hold(row):
    evidence = dict(row["ours"])
    assert evidence.pop("cell")
    assert evidence
    options = {action.dest for action in build_parser("mocose train")._actions}
    for kind, value in evidence.items():
        if kind == "test":
            path, _, name = value.partition("::")
            assert f"def {name or 'test_'}" in (REPOSITORY / path).read_text(encoding="utf-8"), value
        elif kind == "options":
            assert set(value) <= options
        elif kind == "absent_options":
            assert not [option for option in options for word in value if word in option.split("_")]
        elif kind == "text":
            assert value[1] in " ".join((REPOSITORY / value[0]).read_text(encoding="utf-8").split())
        elif kind == "absent_files":
            listed = subprocess.run(["git", "ls-files", value], cwd=REPOSITORY, capture_output=True, text=True)
            assert listed.stdout == ""
        else:
            pytest.fail(f"unknown evidence: {kind}")


@row_of
def test_cells_of_sentence_transformers_hold(row):
    package = pytest.importorskip("sentence_transformers")
    evidence = dict(row["sentence_transformers"])
    assert evidence.pop("cell")
    assert evidence
    for kind, value in evidence.items():
        if kind == "names":
            assert [name for name in value if find_name(package, name) is None] == []
        elif kind == "absent":
            sources = Path(package.__file__).parent.rglob("*.py")
            found = [path.name for path in sources if re.search(value, path.read_text(encoding="utf-8"), re.I)]
            assert found == []
        elif kind == "parameter":
            assert value[1] in inspect.signature(find_name(package, value[0])).parameters
        elif kind == "requires":
            assert value in importlib.metadata.requires("sentence-transformers")
        elif kind == "no_command":
            assert not importlib.metadata.distribution("sentence-transformers").entry_points.select(
                group="console_scripts"
            )
        else:
            pytest.fail(f"unknown evidence: {kind}")


def find_name(package, name: str):
    """Return an attribute or submodule of a package by its dotted name, or None."""
    found = package
    for part in name.split("."):
        if not hasattr(found, part):
            try:
                importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return None
        found = getattr(found, part)
    return found


@row_of
def test_cells_of_other_repositories_name_a_file_at_a_commit(row):
    for column in list(COLUMNS)[2:]:
        assert set(row[column]) == {"cell", "at"}
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", row[column]["at"])
        assert row[column]["cell"]


def test_each_figure_stands_in_the_pages_of_results():
    text = PAGE.read_text(encoding="utf-8").partition("## Figures")[2]
    sources = "".join((PAGE.parent / name).read_text(encoding="utf-8") for name in ("results.md", "performance.md"))
    figures = re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", text)
    assert len(figures) >= 12
    assert [figure for figure in figures if figure not in sources] == []
