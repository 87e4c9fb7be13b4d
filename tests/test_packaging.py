"""What pyproject.toml declares, against what the package imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from zipfile import ZipFile

import pytest
from builders import REPOSITORY

from mocose_hf import errors
from mocose_hf.version import __version__

sys.path.insert(0, str(REPOSITORY / "tools"))

from check_release import find_faults

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A copy of the checkout, and the wheel that is built of it without a network."""
    if int(getattr(pytest.importorskip("setuptools"), "__version__", "0").split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or newer")
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(REPOSITORY / "mocose_hf", folder / "mocose_hf", ignore=ignored)
    shutil.copytree(REPOSITORY / "tests" / "helpers", folder / "tests" / "helpers", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, folder)
    program = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    (folder / "dist").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, "dist"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, folder / "dist" / done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel):
    folder, path = wheel
    files = ZipFile(path).namelist()
    data = {name.rpartition(".")[2] for name in files if ".dist-info/" not in name}
    assert {"py", "typed", "yaml", "html", "css", "md", "tex"} <= data
    assert not [name for name in files if name.startswith(("tests/", "build/"))]
    entry = next(name for name in files if name.endswith("entry_points.txt"))
    assert "mocose = mocose_hf.cli.main:main" in ZipFile(path).read(entry).decode()
    assert [fault for fault in find_faults("v0", path.parent, folder) if path.name in fault.split(" ")[:1]] == []


@pytest.mark.slow
def test_the_check_before_a_release_names_each_fault(wheel, tmp_path):
    folder, path = wheel
    dist, repository = tmp_path / "dist", tmp_path / "repository"
    dist.mkdir()
    shutil.copytree(folder / "mocose_hf", repository / "mocose_hf")
    shutil.copy(path, dist)
    (dist / f"mocose_hf-{__version__}.tar.gz").touch()
    (repository / "CHANGELOG.md").write_text(f"## [{__version__}] - 2026-12-01\n")
    assert find_faults(f"v{__version__}", dist, repository) == []
    (repository / "mocose_hf" / "new.css").touch()
    (repository / "mocose_hf" / "py.typed").unlink()
    (repository / "CHANGELOG.md").write_text(f"## [{__version__}] - unreleased\n")
    (dist / "other.whl.txt").touch()
    tag, changes, names, lacks, holds = find_faults("v9", dist, repository)
    assert "version.py" in tag
    assert "YYYY-MM-DD" in changes
    assert "other.whl.txt" in names
    assert lacks.endswith("lacks mocose_hf/new.css.")
    assert "holds mocose_hf/py.typed" in holds
