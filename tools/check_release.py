"""Check what is about to be published.

python tools/check_release.py v0.1.0 dist/    # the tag, and the folder of `python -m build`
"""

import re
import sys
from pathlib import Path
from zipfile import ZipFile

REPOSITORY = Path(__file__).resolve().parents[1]

PACKAGE = "mocose_hf"


def find_faults(tag: str, dist: Path, repository: Path = REPOSITORY) -> list[str]:
    """Return what is wrong with a release, one sentence each.

    Args:
        tag: The tag, v and the version.
        dist: The folder with the wheel and the source distribution.
        repository: The checkout that they were built from.
    """
    version = re.search(r'__version__ = "(.+)"', (repository / PACKAGE / "version.py").read_text(encoding="utf-8"))[1]
    faults = [] if tag == f"v{version}" else [f"The tag is {tag}, but version.py says {version}."]
    changes = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        faults.append(f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD`.")
    expected = {f"{PACKAGE}-{version}-py3-none-any.whl", f"{PACKAGE}-{version}.tar.gz"}
    built = {path.name for path in dist.iterdir()}
    if built != expected:
        faults.append(f"{dist} holds {', '.join(sorted(built)) or 'nothing'}, not {', '.join(sorted(expected))}.")
    for wheel in dist.glob("*.whl"):
        faults += _compare_files(wheel, repository)
    return faults


def _compare_files(wheel: Path, repository: Path) -> list[str]:
    """Return how the files of a wheel differ from those of the package."""
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    paths = (repository / PACKAGE).rglob("*")
    source = {
        path.relative_to(repository).as_posix()
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    faults = [f"{wheel.name} lacks {name}." for name in sorted(source - packed)]
    return faults + [f"{wheel.name} holds {name}, which is not in the package." for name in sorted(packed - source)]


if __name__ == "__main__":
    found = find_faults(sys.argv[1], Path(sys.argv[2]))
    print("\n".join(found) or "The release is consistent.")
    sys.exit(bool(found))
