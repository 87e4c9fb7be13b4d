"""`python -m mocose_hf.study` from end to end, on tiny models and text."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import REPOSITORY, sentences

from mocose_hf.study.cli import main, parse_options
from mocose_hf.study.paper_studies import PAPER_STUDIES
from mocose_hf.study.storage import open_storage
from mocose_hf.study.trial_runner import TrialRunner
from mocose_hf.study.trial_store import TrialStore

GRID = """
question: Which decay?
grid:
  ema_decay: [0.5, 0.9]
  temperature: [0.05, 0.1]
"""


WHOLE = ("headline", "augmentations", "recipes")
"""Studies whose cells differ in more than a number, so that all of them run."""


@pytest.fixture
def files(tmp_path) -> Path:
    texts = sentences(40, seed=5)
    lines = [f"{text}\t{text} today\t{text} often" for text in sentences(600, seed=1)]
    (tmp_path / "text.tsv").write_text("text\tparaphrase\tback_translation\n" + "\n".join(lines) + "\n")
    pairs = "".join(f"{i * 0.25:.2f}\t{texts[i]}\t{texts[i + 20]}\n" for i in range(20))
    (tmp_path / "pairs.tsv").write_text(pairs)
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path


@pytest.fixture
def options(files, encoder_dir) -> list[str]:
    """Options that keep a study tiny; the output directory is `study`."""
    return [
        "--encoder", str(encoder_dir), "--train_file", str(files / "text.tsv"),
        "--validation_file", str(files / "pairs.tsv"), "--output_dir", str(files / "study"),
        "--max_steps", "2", "--eval_steps", "2", "--learning_rate", "1e-3", "--use_cpu",
        "--collapse_check_steps", "0", "--save_strategy", "no", "--load_best_model_at_end", "false",
    ]  # fmt: skip


def table(folder: Path, name: str) -> list[dict[str, str]]:
    """Read the CSV of a study's trials without the run times."""
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def some_of(study) -> list[str]:
    """Return the labels of at most five cells: the default, the first, the last, and two between."""
    labels = [cell.label for cell in study.cells]
    spread = [labels[i * (len(labels) - 1) // 3] for i in range(4)]
    return list(dict.fromkeys([study.default_label, *spread]))


@pytest.mark.parametrize("name", PAPER_STUDIES)
def test_each_named_study_runs_and_is_reported(name, options, files, capsys):
    study = PAPER_STUDIES[name]
    labels = [cell.label for cell in study.cells] if name in WHOLE else some_of(study)
    code = main(["run", name, *options, "--seeds", "0", "--cells", *labels])
    output = capsys.readouterr()
    assert code == 0, output.err
    folder = files / "study"
    rows = table(folder, name)
    skipped = output.out.count("Skipped:")  # synonyms, if WordNet is missing
    assert skipped <= 1
    assert [row["state"] for row in rows] == ["complete"] * (len(labels) - skipped)
    assert all(float(row["dev_spearman"]) <= 100 for row in rows)
    for ending in ("_summary.csv", ".md", ".tex", ".png", ".svg"):
        assert (folder / f"{name}{ending}").stat().st_size > 100, ending
    assert study.question in (folder / "index.html").read_text(encoding="utf-8")


def test_the_options_of_all_cells_can_be_used(options, files):
    common = parse_options(options)
    common["model_name_or_path"] = common.pop("encoder")
    del common["output_dir"]
    for study in PAPER_STUDIES.values():
        cells = {cell.label: cell.options for cell in study.cells if not cell.optional}
        TrialRunner(study.name, dict(study.options) | common, files).validate(cells)


def start(options: list[str], *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mocose_hf.study", "run", *more, *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def read_until(process: subprocess.Popen, words: str, times: int) -> list[str]:
    """Read the output of a command until `times` lines contain these words."""
    lines = []
    while sum(words in line for line in lines) < times:
        line = process.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
    return lines


@pytest.mark.slow
def test_a_killed_study_ends_with_the_table_of_one_that_was_not(options, files):
    grid = str(files / "grid.yaml")
    (files / "grid.yaml").write_text("grid: {ema_decay: [0.5, 0.9]}")
    options = [*options, "--seeds", "0", "1", "--max_steps", "30", "--eval_steps", "6", "--save_strategy", "steps"]
    assert main(["run", grid, *options]) == 0
    whole = table(files / "study", "grid")

    options[options.index("--output_dir") + 1] = str(files / "killed")
    started = []
    for times in (2, 1):
        process = start(options, grid)
        started += read_until(process, "started", times)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start(options, grid)
    lines = [*started, *process.stdout]
    assert process.wait() == 0, "".join(lines)

    assert any("the worker died; the trial resumes" in line for line in lines)
    assert sum("started." in line for line in lines) == 4 + 2
    assert table(files / "killed", "grid") == whole
    assert (files / "killed" / "grid.md").read_text() == (files / "study" / "grid.md").read_text()


@pytest.mark.slow
def test_two_workers_share_the_trials_of_a_storage_and_none_runs_twice(options, files):
    grid, url = str(files / "grid.yaml"), f"sqlite:///{files / 'shared' / 'trials.db'}"
    workers = [start(options, grid, "--storage", url, "--seeds", "0", "1", "2") for _ in range(2)]
    output = [worker.communicate(timeout=300)[0] for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], output
    started = [line for lines in output for line in lines.splitlines() if line.endswith("started.")]
    assert len(started) == len(set(started)) == 12
    store = TrialStore(open_storage(url), "grid")
    store.load()
    assert [result.state for result in store.results()] == ["complete"] * 12
    assert main(["report", str(files / "study"), "--storage", url]) == 0
    assert len(table(files / "study", "grid")) == 12


@pytest.mark.slow
def test_an_interrupted_study_ends_with_75_and_resumes(options, files):
    options = [*options, "--max_steps", "400", "--per_device_train_batch_size", "1", "--seeds", "0"]
    process = start([*options, "--save_strategy", "steps", "--save_steps", "5"], "table3", "--cells", "η = 0.5")
    read_until(process, "started", 1)
    while process.poll() is None and not list((files / "study").rglob("checkpoint-*")):
        time.sleep(0.1)  # until it trains
    process.send_signal(signal.SIGTERM)
    output = process.stdout.read()
    assert process.wait() == 75, output
    assert "interrupted; the same command resumes" in output
    store = TrialStore(open_storage(f"sqlite:///{files / 'study' / 'study.db'}"), "table3")
    store.load()
    assert [result.state for result in store.results()] == ["waiting"]


def test_a_failed_trial_is_reported_with_its_reason_and_may_be_tried_again(options, files, capsys):
    (files / "mine.yaml").write_text("cells:\n  good:\n  bad: {learning_rate: 1e30, max_grad_norm: 0}\n")
    command = ["run", str(files / "mine.yaml"), *options, "--seeds", "0"]
    assert main(command) == 1
    output = capsys.readouterr()
    assert "1 trials failed; the report gives the reasons." in output.err
    assert "mine: bad, seed 0: failed: " in output.out
    assert "not finite" in (files / "study" / "mine.md").read_text()

    assert main(command) == 1
    assert "started" not in capsys.readouterr().out
    assert main([*command, "--retry_failed"]) == 1
    assert capsys.readouterr().out.count("started") == 1


def test_a_search_is_run_and_reported(options, files):
    (files / "search.yaml").write_text(
        "search:\n  trials: 3\n  space:\n    temperature: {low: 0.02, high: 0.2, log: true}\n"
    )
    assert main(["run", str(files / "search.yaml"), *options, "--seeds", "0", "1"]) == 0
    rows = table(files / "study", "search")
    assert [row["cell"] for row in rows[:2]] == ["the options as given"] * 2
    assert len({row["cell"] for row in rows}) == 3
    assert len(rows) == 6


def test_the_lists_show_studies_and_cells(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in PAPER_STUDIES)
    assert main(["list", "table7"]) == 0
    output = capsys.readouterr().out
    assert "¼, K = 512" in output
    assert "77.30" in output
    assert "--queue_size 512 --queue_init_size 128" in output


def test_solve_shows_the_settings_of_a_distance(files, capsys):
    assert main(["solve", "--d_trace", "14.67", "--batch_size", "64", "--train_file", str(files / "text.tsv")]) == 0
    output = capsys.readouterr().out
    assert "0.8501" in output
    assert "512" in output
    assert "holds 85.33% of the sentences" in output
    assert "By default η rises to 1" in output
    main(["solve", "--d-trace", "14.67"])
    output = capsys.readouterr().out
    assert re.search(r"0\.8501 +\| +512 \| +128 \| +14\.67", output)
    assert "the sentences" not in output


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run", "table33"], "table33: no such study; choose one of headline, table3"),
        (["run", "none.yaml"], "none.yaml: no such file"),
        (["run", "table3"], "--encoder is needed"),
        (["run", "table3", "--encoder", "ENCODER"], "--train_file or --dataset_name is needed"),
        (["run", "table3", "--encoder", "ENCODER", "--train_file", "TEXT"], "--senteval_dir or --validation_file is"),
        (["run", "table3", "more", "--encoder", "E"], "more: no such study"),
        (["run", "table3", "--seeds", "x"], "argument --seeds: invalid int value: 'x'"),
        (["run", "table3", "--cells", "η = 7"], "--cells 'η = 7': no cell of these studies"),
        (["run", "table3", "--temprature", "1", "--encoder", "E", "--train_file", "t"], "unknown option --temprature"),
        (["report", "nowhere"], "nowhere: has no study.db"),
        (["solve", "--d_trace", "0.5"], "`d_trace` is 0.5"),
        (["run", "--train_file", "TEXT", "table3"], "text.tsv: no such study; choose one of headline"),
        (["run", "--train_file", "TEXT", "table3"], "The names of studies come before all options"),
        (["run", "table3", "--seed", "7"], "--seed cannot be set for a trial"),
        (["report", "nowhere", "--storage", "sqlite:///none.db"], "--storage sqlite:///none.db: cannot be opened"),
        (["solve", "--d_trace", "5", "--k", "3"], "unknown argument --k"),
        (["list", "table33"], "table33: no such study"),
        (["draw"], "invalid choice: 'draw'"),
        ([], "the following arguments are required"),
    ],
)
def test_bad_input_fails_with_one_line(argv, expected, encoder_dir, files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    places = {"ENCODER": str(encoder_dir), "TEXT": "text.tsv"}
    assert main([places.get(argument, argument) for argument in argv]) == 2
    output = capsys.readouterr().err
    assert expected in output
    assert output.startswith("python -m mocose_hf.study: ")
    assert output.count("\n") == 1
    assert not list(files.rglob("*.db"))


def test_a_storage_without_a_study_has_no_report(files, capsys):
    open_storage(f"sqlite:///{files / 'study' / 'study.db'}")
    assert main(["report", str(files / "study")]) == 2
    assert "holds no study yet" in capsys.readouterr().err


def test_names_of_options_may_have_dashes(options, files):
    (files / "mine.yaml").write_text("cells: {start: {baseline: start}}")
    options[options.index("--output_dir") : options.index("--max_steps")] = ["--output-dir", str(files / "dashed")]
    assert main(["run", str(files / "mine.yaml"), *options, "--seeds", "0"]) == 0
    assert [row["state"] for row in table(files / "dashed", "mine")] == ["complete"]


def test_a_study_without_trials_is_reported(files, capsys):
    store = TrialStore(open_storage(f"sqlite:///{files / 'study' / 'study.db'}"), "table3")
    store.begin({"encoder": "bert", "sentences": "1f2e"})
    store.declare(PAPER_STUDIES["table3"].as_dict())
    assert main(["report", str(files / "study")]) == 0
    assert "How slowly should the target follow?" in capsys.readouterr().out


def test_another_study_of_the_same_name_fails(options, files, capsys):
    grid = files / "grid.yaml"
    grid.write_text("grid: {ema_decay: [0.5]}")
    assert main(["run", str(grid), *options, "--seeds", "0"]) == 0
    assert main(["run", str(grid), *options, "--seeds", "0", "--max_seq_length", "9"]) == 2
    assert (
        "the study grid of this storage began with other settings: `max_seq_length` was None"
        in capsys.readouterr().err
    )


def test_the_page_keeps_the_studies_of_earlier_commands(options, files, capsys):
    for name, rate in (("first", "0.5"), ("second", "0.9")):
        (files / f"{name}.yaml").write_text(f"question: The {name}?\ngrid: {{ema_decay: [{rate}]}}")
        assert main(["run", str(files / f"{name}.yaml"), *options, "--seeds", "0"]) == 0
    shown = capsys.readouterr().out.split("second: ema_decay")[-1]
    page = (files / "study" / "index.html").read_text(encoding="utf-8")
    assert "The first?" in page
    assert "The second?" in page
    assert "The second?" in shown
    assert "The first?" not in shown


def test_options_are_taken_as_typed():
    given = ["--max_steps", "3", "--use_cpu", "--eval_tasks", "sts12", "stsb", "--learning-rate=1e-5"]
    assert parse_options(given) == {
        "max_steps": "3",
        "use_cpu": True,
        "eval_tasks": ["sts12", "stsb"],
        "learning_rate": "1e-5",
    }


def test_results_of_trials_stand_in_their_folders(options, files):
    grid = files / "grid.yaml"
    grid.write_text("grid: {ema_decay: [0.5]}")
    main(["run", str(grid), *options, "--seeds", "4"])
    (result,) = (files / "study" / "grid").rglob("result.json")
    assert json.loads(result.read_text())["seed"] == 4
