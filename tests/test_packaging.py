"""What pyproject.toml declares, against what the package imports."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from builders import REPOSITORY

from mocose_hf import errors

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTION_OF = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "bs4": "beautifulsoup4",
    "markdown_it": "markdown-it-py",
}
PULLED_IN = {"tokenizers": "transformers"}
"""Packages that a declared one always brings with it."""


EXTRAS = PROJECT["optional-dependencies"]

UNLOCKED = ("onnx", "static", "tensorboard", "trackio")
"""Extras whose tests are skipped if they are not installed."""


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    """All packages but those of the documentation, which is built in an environment of its own."""
    extras = {name: lines for name, lines in PROJECT["optional-dependencies"].items() if name != "docs"}
    ranges = PROJECT["dependencies"] + [line for lines in extras.values() for line in lines]
    return {normalize(re.split(r"[\[<>=]", line)[0]) for line in ranges} - {"mocose-hf"}


def locked(file: str) -> set[str]:
    lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
    return {normalize(line.split("==")[0]) for line in lines if "==" in line}


def imported() -> set[str]:
    packages = set()
    for path in (REPOSITORY / "mocose_hf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                packages |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                packages.add(node.module.split(".")[0])
    packages -= set(sys.stdlib_module_names) | {"mocose_hf"}
    return {normalize(DISTRIBUTION_OF.get(name, PULLED_IN.get(name, name))) for name in packages}


def test_every_imported_package_is_declared():
    assert imported() - declared() == set()


def test_every_declared_package_is_locked():
    optional = {normalize(re.split(r"[\[<>=]", line)[0]) for name in UNLOCKED for line in EXTRAS[name]}
    assert declared() - optional - locked("requirements.txt") - locked("requirements-dev.txt") == set()


def test_the_quickstart_installs_no_development_tools():
    assert locked("requirements.txt") & {"pytest", "ruff", "deepspeed", "mypy", "sentence-transformers"} == set()


def test_rooms_import_one_way():
    pytest.importorskip("importlinter")
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("is_checkout", [True, False])
def test_the_install_hint_fits_a_checkout_and_a_wheel(is_checkout, tmp_path, monkeypatch):
    package = tmp_path / "mocose_hf"
    monkeypatch.setattr(errors, "__file__", str(package / "errors.py"))
    if not is_checkout:
        assert errors.install_command("prepare") == "pip install 'mocose_hf[prepare]'"
        return
    (tmp_path / "pyproject.toml").touch()
    assert errors.install_command("prepare") == f"pip install -e '{tmp_path}[prepare]'"
    monkeypatch.chdir(tmp_path)
    assert errors.install_command("prepare") == "pip install -e '.[prepare]'"


def test_each_extra_of_a_hint_exists():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "mocose_hf").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"install_command\([\"'](\w+)[\"']\)", text)}
    assert named
    assert named <= set(extras)
