"""What a folder holds."""

from pathlib import Path


def contents(directory: Path) -> dict[str, bytes | None]:
    """Return what lies in a directory: the content of each file by its path, None for folders."""
    paths = sorted(directory.rglob("*"))
    return {str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None for path in paths}
