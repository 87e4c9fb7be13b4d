"""Write tables, plots and one page of studies into a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mocose_hf.cli.output_dir import saving
from mocose_hf.errors import InputError
from mocose_hf.plotting import figure_bytes
from mocose_hf.study.analysis.analysis import Analysis, analyse
from mocose_hf.study.declarations import FILE_NAME
from mocose_hf.study.report.csv_export import curves_csv, summary_csv, trials_csv
from mocose_hf.study.report.html_page import Shown, page
from mocose_hf.study.report.markdown_latex import study_latex, study_markdown
from mocose_hf.study.report.plots import study_figure

PAGE = "index.html"

WRITTEN = "report_files.json"
"""Names of the files that reports wrote into a folder, which a later one may write over."""

_ENDINGS = (".csv", "_summary.csv", "_curves.csv", ".md", ".tex", ".png", ".svg")
_REMEDY = "what an earlier report wrote is there still; make room and report again"


def write_report(folder: str | Path, studies: Sequence[tuple]) -> list[Path]:
    """Write a report of studies: tables and a plot of each, and one page of all.

    For each study `<name>.csv` (a line for each trial), `<name>_summary.csv` (for each cell), `<name>_curves.csv` (for
    each evaluation and singular value) where there are any, `<name>.md`, `<name>.tex`, and `<name>.png` and
    `<name>.svg` where there is a plot; `index.html` with all of them. Everything is made before anything is written,
    each file takes the place of its predecessor in one step, and the page is the last: a report that is killed leaves
    the page before it whole. The same results give the same bytes.

    Args:
        folder: Made where it is not there. Files of earlier reports are written over; of a study that is reported
            again, those that it no longer has are deleted.
        studies: For each the arguments of `analyse`: the study and its trials and, where they are known, its settings
            and the cells that were left out.

    Returns:
        The paths of the files, the page last.

    Raises:
        InputError: Where a study's name makes no file name, two studies would write the same file, a file that no
            report wrote is in the way, or matplotlib is missing.
        SaveError: Where the files cannot be written.
    """
    folder = Path(folder)
    made = _make(studies)
    with saving(str(folder), _REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        earlier = _earlier(folder)
        _check_free(folder, made, earlier)
        gone = {f"{study.name}{ending}" for study, *_ in studies for ending in _ENDINGS} & earlier - made.keys()
        # Written first: what a killed report leaves is known as such.
        _replace(folder / WRITTEN, _as_json(earlier | made.keys()))
        for name, content in made.items():
            _replace(folder / name, content)
        for name in sorted(gone):
            (folder / name).unlink(missing_ok=True)
        _replace(folder / WRITTEN, _as_json((earlier | made.keys()) - gone))
    return [folder / name for name in made]


def _make(studies: Sequence[tuple]) -> dict[str, bytes]:
    """Return the content of all files by name, the page last."""
    files: dict[str, bytes] = {}
    shown = []
    for study, *known in studies:
        if not FILE_NAME.fullmatch(study.name):
            raise InputError(f"study {study.name!r}: no name for files; use letters, digits, '.', '_' and '-'.")
        made = analyse(study, *known)
        own = _study_files(made)
        twice = sorted(own.keys() & (files.keys() | {PAGE, WRITTEN}))
        if twice:
            raise InputError(f"study {study.name!r}: another one writes {twice[0]} too; rename one of them.")
        files |= own
        shown.append(Shown(made, own.get(f"{study.name}.svg"), list(own)))
    return files | {PAGE: page(shown).encode()}


def _study_files(made: Analysis) -> dict[str, bytes]:
    name = made.study.name
    texts = {
        f"{name}.csv": trials_csv(made),
        f"{name}_summary.csv": summary_csv(made),
        f"{name}.md": study_markdown(made),
        f"{name}.tex": study_latex(made),
    }
    if (curves := curves_csv(made)) is not None:
        texts[f"{name}_curves.csv"] = curves
    files = {file: text.encode() for file, text in texts.items()}
    figure = study_figure(made)
    if figure is not None:
        files |= {f"{name}{suffix}": figure_bytes(figure, suffix) for suffix in (".png", ".svg")}
    return files


def _earlier(folder: Path) -> set[str]:
    """Return the names of the files that earlier reports wrote into the folder."""
    place = folder / WRITTEN
    try:
        names = json.loads(place.read_text(encoding="utf-8"))["files"]
        return {name for name in names if Path(name).name == name}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{place}: is not as a report writes it; move it away or name another folder.") from error


def _check_free(folder: Path, made: Mapping[str, bytes], earlier: set[str]) -> None:
    for name in made:
        if name not in earlier and (folder / name).exists():
            raise InputError(
                f"{folder / name}: is there and of no earlier report; move it away or name another folder."
            )


def _as_json(names: set[str]) -> bytes:
    return (json.dumps({"files": sorted(names)}, indent=2) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place and put it there in one step."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
