"""Write the report of studies into a folder: tables, plots and one page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mocose_hf.cli.output_dir import saving
from mocose_hf.errors import InputError
from mocose_hf.plotting import figure_bytes
from mocose_hf.study.analysis.analysis import Analysis, analyse
from mocose_hf.study.report.csv_export import curves_csv, summary_csv, trials_csv
from mocose_hf.study.report.html_page import PageEntry, page
from mocose_hf.study.report.markdown_latex import study_latex, study_markdown
from mocose_hf.study.report.plots import study_figure
from mocose_hf.study.study import FILE_NAME, StudyData

PAGE = "index.html"

MANIFEST = "report_files.json"
"""The names of the files that reports wrote into a folder. A later report may overwrite them."""

_ENDINGS = (".csv", "_summary.csv", "_curves.csv", ".md", ".tex", ".png", ".svg")
_REMEDY = "free some space and report again; the files of earlier reports are intact"


def write_report(folder: str | Path, studies: Sequence[StudyData]) -> list[Path]:
    """Write tables and a plot of each study, and one page of all.

    For each study: `<name>.csv` (one row per trial), `<name>_summary.csv` (per cell), `<name>_curves.csv` (per
    evaluation and singular value, if there are any), `<name>.md`, `<name>.tex`, and `<name>.png` and `<name>.svg` if
    it has a plot. `index.html` shows all studies.

    All content is built before anything is written. Each file replaces its predecessor atomically, the page last, so
    a killed report leaves the old page intact. The same results give the same bytes.

    Args:
        folder: The folder; created if missing. Files of earlier reports are overwritten. Files that a study no longer
            has are deleted.
        studies: The studies.

    Returns:
        The paths of the files, the page last.

    Raises:
        InputError: If a study's name is not valid as a file name, two studies would write the same file, a file in
            the way belongs to no report, or matplotlib is missing.
        SaveError: If the files cannot be written.
    """
    folder = Path(folder)
    contents = _build(studies)
    with saving(str(folder), _REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        earlier = _read_manifest(folder)
        _validate_free(folder, contents, earlier)
        obsolete = {f"{data.study.name}{ending}" for data in studies for ending in _ENDINGS} & earlier
        obsolete -= contents.keys()
        # Written first, so that the files of a killed report are known to belong to one.
        _replace(folder / MANIFEST, _manifest(earlier | contents.keys()))
        for name, content in contents.items():
            _replace(folder / name, content)
        for name in sorted(obsolete):
            (folder / name).unlink(missing_ok=True)
        _replace(folder / MANIFEST, _manifest((earlier | contents.keys()) - obsolete))
    return [folder / name for name in contents]


def _build(studies: Sequence[StudyData]) -> dict[str, bytes]:
    """Return the content of all files by name, the page last."""
    files: dict[str, bytes] = {}
    entries = []
    for data in studies:
        name = data.study.name
        if not FILE_NAME.fullmatch(name):
            raise InputError(f"study {name!r}: is not a valid file name; use letters, digits, '.', '_' and '-'.")
        analysis = analyse(data.study, data.results, data.settings, data.skipped)
        own = _study_files(analysis)
        duplicates = sorted(own.keys() & (files.keys() | {PAGE, MANIFEST}))
        if duplicates:
            raise InputError(f"study {name!r}: another study also writes {duplicates[0]}; rename one of them.")
        files |= own
        entries.append(PageEntry(analysis, own.get(f"{name}.svg"), list(own)))
    return files | {PAGE: page(entries).encode()}


def _study_files(analysis: Analysis) -> dict[str, bytes]:
    name = analysis.study.name
    texts = {
        f"{name}.csv": trials_csv(analysis),
        f"{name}_summary.csv": summary_csv(analysis),
        f"{name}.md": study_markdown(analysis),
        f"{name}.tex": study_latex(analysis),
    }
    if (curves := curves_csv(analysis)) is not None:
        texts[f"{name}_curves.csv"] = curves
    files = {file: text.encode() for file, text in texts.items()}
    figure = study_figure(analysis)
    if figure is not None:
        files |= {f"{name}{suffix}": figure_bytes(figure, suffix) for suffix in (".png", ".svg")}
    return files


def _read_manifest(folder: Path) -> set[str]:
    """Return the names of the files that earlier reports wrote into the folder."""
    path = folder / MANIFEST
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {name for name in names if Path(name).name == name}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: was not written by a report; move it away or choose another folder.") from error


def _validate_free(folder: Path, contents: Mapping[str, bytes], earlier: set[str]) -> None:
    for name in contents:
        if name not in earlier and (folder / name).exists():
            raise InputError(
                f"{folder / name}: exists, but no report wrote it; move it away or choose another folder."
            )


def _manifest(names: set[str]) -> bytes:
    return (json.dumps({"files": sorted(names)}, indent=2) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its path, and move it there atomically."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
