"""The folder of a report: its files, its page, and the effect of a second or a killed report."""

import base64
import csv
import re
import sys
import xml.etree.ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from study_results import NASTY, all_studies, complete, decay_study, queue_study

from mocose_hf.errors import InputError, SaveError
from mocose_hf.study import Cell, Study, storage, trial_store
from mocose_hf.study import cli as command
from mocose_hf.study.report.write_report import MANIFEST, PAGE, write_report
from mocose_hf.study.study import StudyData

pytest.importorskip("matplotlib")

SHA256 = "0123456789abcdef" * 4
SETTINGS = {"sentences": SHA256, "max_steps": "300", "encoder": "a <tiny> & random one", "cell a": {"ema_decay": "1"}}
ENDINGS = (".csv", "_summary.csv", ".md", ".tex", ".png", ".svg")
WITH_CURVES = ("collapse", "spectrum")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Parse a page, and check that its tags are closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def small(name: str = "small", plot: str = "", score: float = 70.0) -> StudyData:
    study = Study(name, "Small", "Why?", "", [Cell("a"), Cell("b")], plot=plot)
    return StudyData(study, [complete(name, cell, seed, score + seed) for cell in "ab" for seed in range(2)])


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("study") / "new" / "report"
    return folder, write_report(folder, with_settings())


def with_settings() -> list[StudyData]:
    return [
        StudyData(*both, SETTINGS | {"max_steps": str(number)}) for number, both in enumerate(all_studies(), start=300)
    ]


def endings(name: str) -> list[str]:
    return [*ENDINGS[:4], *(["_curves.csv"] if name in WITH_CURVES else []), *ENDINGS[4:]]


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page((report[0] / PAGE).read_text(encoding="utf-8"))


# Files


def test_each_study_has_its_files_and_the_page_is_last(report):
    folder, paths = report
    names = [f"{study.name}{ending}" for study, _ in all_studies() for ending in endings(study.name)]
    assert [path.name for path in paths] == [*names, PAGE]
    assert all(path.parent == folder and path.stat().st_size for path in paths)
    assert {path.name for path in folder.iterdir()} == {*names, PAGE, MANIFEST}


def test_the_files_hold_the_study(report):
    folder, _ = report
    with (folder / "ema_decay.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 27
    with (folder / "queue_summary.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
    assert (folder / "queue.md").read_text(encoding="utf-8").startswith("## Queue size (Table 7)")
    assert r"\end{table}" in (folder / "queue.tex").read_text(encoding="utf-8")
    assert (folder / "queue.png").read_bytes().startswith(b"\x89PNG")
    assert xml.etree.ElementTree.parse(folder / "queue.svg").getroot().tag.endswith("}svg")


def test_the_same_results_give_the_same_bytes(report, tmp_path):
    write_report(tmp_path, with_settings())
    first = contents(tmp_path)
    assert first == contents(report[0])
    write_report(tmp_path, with_settings())
    assert contents(tmp_path) == first


def test_without_a_plot_there_is_no_picture_and_matplotlib_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    paths = write_report(tmp_path, [small()])
    assert [path.name for path in paths] == ["small.csv", "small_summary.csv", "small.md", "small.tex", PAGE]
    assert Page((tmp_path / PAGE).read_text(encoding="utf-8")).all("img") == []


def test_nothing_is_written_if_matplotlib_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="plots need matplotlib"):
        write_report(tmp_path / "out", [StudyData(*decay_study())])
    assert not (tmp_path / "out").exists()


# The page


def test_the_page_needs_nothing_beside_it(report, page):
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        assert not any(name.startswith("on") for name in attributes)
        source = attributes.get("src", "data:")
        assert source.startswith("data:image/svg+xml;base64,") or source == "data:"
        assert not re.match(r"\w+:|//", attributes.get("href", ""))
    style = re.search(r"<style>(.*?)</style>", (report[0] / PAGE).read_text(encoding="utf-8"), re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    assert style.count("{") == style.count("}")
    for rule in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print"):
        assert rule in style


def test_a_section_leads_with_its_answer_and_picture_and_folds_the_explanations(report):
    text = (report[0] / PAGE).read_text(encoding="utf-8")
    section = re.findall(r'<section id=".*?</section>', text, re.DOTALL)[0]
    order = [
        "How slow should the target be?",
        '<p class="answer">Best: “η = 0.85”',
        "<img",
        "<table",
        "24 of 27 trials",
    ]
    assert [section.index(part) for part in order] == sorted(section.index(part) for part in order)
    unfolded = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "Minimum detectable difference" in text
    for explanation in ("Minimum detectable difference", "“Not significant” does not mean equal", "max_steps"):
        assert explanation not in unfolded
    assert "<details open" not in text
    assert text.index("How to read these figures") > text.rindex("<section id=")


def test_links_lead_somewhere(report, page):
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    hrefs = [attributes["href"] for attributes in page.all("a")]
    assert len(hrefs) == len(set(hrefs)) == 4 + 4 * 6 + 2
    for href in hrefs:
        assert href[1:] in ids if href.startswith("#") else (report[0] / href).is_file()
    assert len(ids) == sum("id" in attributes for _, attributes in page.tags)


def test_plots_are_in_the_page_and_named(report, page):
    images = page.all("img")
    assert len(images) == 4
    for image, (study, _) in zip(images, all_studies(), strict=True):
        assert base64.b64decode(image["src"].partition(",")[2]) == (report[0] / f"{study.name}.svg").read_bytes()
        assert study.title in image["alt"]


def test_the_page_has_labels_notes_and_warnings(page):
    text = "".join(page.text)
    for part in (NASTY, "How slow should the target be?", "Minimum detectable difference", "27"):
        assert part in text
    assert "Failed: “η = 0.75”, seed 42: the disk | is full <now> & 100%." in text
    assert "“Not significant” does not mean equal" in text
    assert ("html", {"lang": "en"}) in page.tags
    assert any("width=device-width" in attributes.get("content", "") for attributes in page.all("meta"))


def test_each_row_of_a_table_has_all_its_cells(report):
    text = (report[0] / PAGE).read_text(encoding="utf-8")
    tables = re.findall(r"<table>.*?</table>", text, re.DOTALL)
    assert len(tables) == 1 + 4 + 1  # the overview, the studies, the cells of the grid
    for table in tables:
        rows = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        assert len({len(re.findall(r"<t[hd][ >]", row)) for row in rows}) == 1
    assert tables[1].count('class="default"') >= 4


def test_each_section_lists_the_settings(report):
    """Each section lists the settings of its own study only."""
    text = (report[0] / PAGE).read_text(encoding="utf-8")
    sections = re.findall(r'<section id=".*?</section>', text, re.DOTALL)
    for steps, section in enumerate(sections, start=300):
        assert f"<dt>max_steps</dt><dd>{steps}</dd>" in section
        assert f"<dt>SHA-256 of the training sentences</dt><dd>{SHA256}</dd>" in section
        assert "<dt>encoder</dt><dd>a &lt;tiny&gt; &amp; random one</dd>" in section
        assert "<dt>cell a</dt>" not in section
    assert "<dt>seeds</dt><dd>42, 43, 44</dd>" in sections[0]
    assert "<dt>seeds</dt><dd>42, 43</dd>" in sections[1]
    assert "<dt>learning_rate</dt><dd>3e-05</dd>" in sections[0]  # of the trials' own options
    assert "<dt>η = 0.5</dt><dd>--ema_decay 0.5</dd>" in sections[0]
    assert "<dt>ema_decay</dt>" not in sections[0]
    assert "max_steps" not in text.partition("<section id=")[0]


def test_markdown_and_latex_list_the_settings(report):
    text = (report[0] / "ema_decay.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("* Settings: "))
    for part in (r"encoder a \<tiny\> \& random one", f"training sentences {SHA256}", "seeds 42, 43, 44"):
        assert part in line
    text = (report[0] / "ema_decay.tex").read_text(encoding="utf-8")
    assert r"encoder a $<$tiny$>$ \& random one" in text
    assert r"SHA-256 of the training sentences 0123456789ab\ldots{}; seeds 42, 43, 44" in text


def test_control_characters_do_not_reach_the_page(tmp_path):
    data = replace(small(), settings={"data": "a\x00b\x1b[31mc"})
    write_report(tmp_path, [data])
    assert b"ab[31mc" in (tmp_path / PAGE).read_bytes()


def test_no_study_at_all_is_a_page(tmp_path):
    (path,) = write_report(tmp_path, [])
    Page(path.read_text(encoding="utf-8"))


def test_the_overview_counts_only_existing_tests(report, tmp_path):
    """Cells with a single seed are not tested, so they do not count."""
    names = ("one", "two")
    studies = [Study(name, name, "Why?", "", [Cell("a"), Cell("b")], plot="") for name in names]
    results = [[complete(name, cell, 0, 70.0) for cell in "ab"] for name in names]
    results[1] += [complete("two", "a", 1, 71.0), complete("two", "b", 1, 76.0)]
    write_report(tmp_path, [StudyData(*both) for both in zip(studies, results, strict=True)])
    overview = (tmp_path / PAGE).read_text(encoding="utf-8").partition("<h2>Overview</h2>")[2].partition("</table>")[0]
    last = re.findall(r"<td>([^<]*)(?:<span class=\"below\">([^<]*)</span>)?</td>\s*</tr>", overview)
    assert last == [("–", "–"), ("0 of 1", "0 of 1")]


def test_the_alternative_text_gives_the_ends_of_lines(page):
    alternatives = [image["alt"] for image in page.all("img")]
    assert "table below" in alternatives[0]
    assert re.search(r"last evaluations of each cell: with predictor, 6\d\.\d\d; without", alternatives[2])
    assert "singular value of each cell: start, 380.00 to 9.00; SimCSE, 260.00 to" in alternatives[3]


def test_curves_and_singular_values_are_in_a_file(report):
    lines = read_csv(report[0] / "collapse_curves.csv")
    _, results = all_studies()[2]
    points = [(trial.cell, str(trial.seed), step, score) for trial in results for step, score in trial.curve]
    assert [(d["cell"], d["seed"], int(d["position"]), float(d["value"])) for d in lines] == points
    assert {line["series"] for line in lines} == {"dev_spearman"}
    lines = read_csv(report[0] / "spectrum_curves.csv")
    assert [line["position"] for line in lines[:64]] == [str(index) for index in range(1, 65)]
    assert float(lines[64]["value"]) == all_studies()[3][1][1].spectrum[0]
    assert {line["series"] for line in lines} == {"singular_value"}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Stored:
    """A stored study that skipped an optional cell."""

    def __init__(self, storage, name: str):
        self.name, self.skipped = name, storage

    def load(self):
        pass

    def declaration(self) -> dict:
        cells = [Cell("a"), Cell("b", optional=True)]
        return Study(self.name, "Mine", "Why?", "", cells, plot="").as_dict() | self.skipped

    def settings(self) -> dict:
        return {"max_steps": "9", "cell a": {}}

    def results(self) -> list:
        return [complete(self.name, "a", 0, 70.0)]


def test_the_command_reports_the_settings_of_a_storage(tmp_path, monkeypatch, capsys):
    """The report includes the skipped cells, which are no field of the study."""
    monkeypatch.setattr(trial_store, "TrialStore", Stored)
    monkeypatch.setattr(storage, "study_names", lambda _: ["mine"])
    command._report(tmp_path, {"left_out": ["b"]}, shown=["mine"])
    output = capsys.readouterr().out
    assert "1 of 1 trials are complete." in output
    assert "Skipped, because its requirements were missing: “b”." in output
    assert r"Settings: seeds 0; max\_steps 9." in output
    command._report(tmp_path, {}, shown=["mine"])
    assert "Skipped" not in capsys.readouterr().out


# A second report


def test_a_second_report_writes_over_the_first_and_leaves_other_files(tmp_path):
    write_report(tmp_path, [small(score=70.0)])
    (tmp_path / "trials").mkdir()
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    before = contents_of_files(tmp_path)
    write_report(tmp_path, [small(score=72.0)])
    after = contents_of_files(tmp_path)
    assert {name for name in before if before[name] == after[name]} == {"mine.txt", MANIFEST}
    assert before.keys() == after.keys()


def contents_of_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_file_of_someone_else_is_not_written_over(tmp_path):
    (tmp_path / "small.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"small\.csv: exists, but no report wrote it; move it away"):
        write_report(tmp_path, [small()])
    assert contents_of_files(tmp_path) == {"small.csv": b"mine"}
    (tmp_path / MANIFEST).write_text('{"files": 3}', encoding="utf-8")
    with pytest.raises(InputError, match="was not written by a report"):
        write_report(tmp_path, [small("other")])


def test_obsolete_files_of_a_study_are_deleted_and_other_studies_stay(tmp_path):
    write_report(tmp_path, [small("one", "bars"), small("two", "bars")])
    write_report(tmp_path, [small("one", "")])
    names = contents_of_files(tmp_path).keys()
    assert "one.png" not in names
    assert "one.svg" not in names
    assert {"one.csv", "two.png", "two.csv"} <= names
    write_report(tmp_path, [small("two", "bars")])  # the manifest still lists its files


@pytest.mark.parametrize("number", range(7))
def test_a_killed_report_leaves_whole_files(tmp_path, monkeypatch, number):
    """The report dies when it is about to replace file number `number`."""
    write_report(tmp_path, [small(score=70.0)])
    before = contents_of_files(tmp_path)
    replace, done = Path.replace, []

    def killed(self, target):
        if len(done) == number:
            raise KeyboardInterrupt
        done.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, [small(score=72.0)])
    monkeypatch.undo()
    after = contents_of_files(tmp_path)
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == set(done) - {MANIFEST}
    assert (PAGE in changed) == (number == 6)  # after all the others
    write_report(tmp_path, [small(score=72.0)])


def test_a_first_report_that_was_killed_can_be_written_again(tmp_path, monkeypatch):
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda self, target: replace(self, target) if "md" not in target.name else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path, [small()])
    monkeypatch.undo()
    assert (tmp_path / "small.csv").is_file()
    write_report(tmp_path, [small()])


def test_a_full_disk_fails_with_one_line(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        SaveError, match=r"the results cannot be written \(.*No space left on device\); free some space"
    ):
        write_report(tmp_path, [small()])
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_fails(tmp_path):
    (tmp_path / "out").write_text("", encoding="utf-8")
    with pytest.raises(SaveError, match="out: the results cannot be written"):
        write_report(tmp_path / "out", [small()])


# Names


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "with space", "ä"])
def test_invalid_study_names_fail(tmp_path, name):
    with pytest.raises(InputError, match="not a valid file name"):
        write_report(tmp_path / "out", [small(name)])
    assert not (tmp_path / "out").exists()


def test_two_studies_with_the_same_file_fail(tmp_path):
    for one, other in (("a", "a"), ("a", "a_summary")):
        with pytest.raises(InputError, match="another study also writes a"):
            write_report(tmp_path, [small(one), small(other)])


def test_a_large_grid_is_reported(tmp_path):
    write_report(tmp_path, [StudyData(*queue_study("bars"))])
    assert (tmp_path / "queue.png").is_file()
