"""Storages with other studies, or with damaged content, fail with one line."""

import json
import shutil
import sqlite3
from pathlib import Path

import optuna
import pytest
from builders import sentences

from mocose_hf.errors import InputError
from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.cli import main
from mocose_hf.study.storage import open_storage
from mocose_hf.study.trial_store import TrialStore

STUDY = Study("mine", "Mine", "Which?", "", [Cell("a"), Cell("b", options={"ema_decay": 0.5})], plot="")


def fill(path: Path) -> None:
    """Write a storage with two complete trials and a waiting one."""
    store = TrialStore(open_storage(f"sqlite:///{path}"), "mine")
    store.begin({"encoder": "bert"})
    store.declare(STUDY.as_dict())
    store.enqueue([("a", (0,)), ("b", (0,)), ("a", (1,))], {cell.label: cell.options for cell in STUDY.cells})
    for _ in range(2):
        lease = store.claim()
        store.record(lease, TrialResult("mine", lease.cell, 0, "complete", {"dev_spearman": 50.0}))


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("good") / "study.db"
    fill(path)
    return path


@pytest.fixture
def database(good, tmp_path) -> Path:
    return Path(shutil.copy(good, tmp_path / "study.db"))


def execute(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def set_attribute(path: Path, table: str, key: str, text: str) -> None:
    with sqlite3.connect(path) as connection:
        changed = connection.execute(f"UPDATE {table} SET value_json = ? WHERE key = ?", (text, key)).rowcount
    connection.close()
    assert changed, f"there is no {key}"


def report(path: Path, capsys) -> tuple[int, str, str]:
    code = main(["report", str(path.parent)])
    output = capsys.readouterr()
    return code, output.out, output.err


def assert_fails(path: Path, expected: str, capsys) -> None:
    code, _, error = report(path, capsys)
    assert code == 2
    assert error.count("\n") == 1
    assert expected in error
    assert not (path.parent / "index.html").exists()


ABOUT = STUDY.as_dict()
RESULT = TrialResult("mine", "a", 0, "complete", {"dev_spearman": 50.0}).as_dict()


def test_the_storage_that_the_others_are_made_from_is_reported(database, capsys):
    code, output, _ = report(database, capsys)
    assert code == 0
    assert "2 of 3 trials are complete, 1 waiting." in output


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"not a database at all\n", "file is not a database"),
        (b"", "holds no study yet"),
        (b"SQLite format 3\x00" + bytes(range(256)) * 8, "cannot be opened"),
    ],
)
def test_a_file_that_is_no_storage_fails(tmp_path, content, expected, capsys):
    (tmp_path / "study.db").write_bytes(content)
    assert_fails(tmp_path / "study.db", expected, capsys)


def test_a_truncated_storage_fails(database, capsys):
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 3])
    assert_fails(database, "cannot be", capsys)


def test_the_database_of_another_program_fails_and_stays_unchanged(tmp_path, capsys):
    execute(tmp_path / "study.db", "CREATE TABLE bookmarks (url TEXT)")
    before = (tmp_path / "study.db").read_bytes()
    assert_fails(tmp_path / "study.db", "the database of another program, with the table bookmarks", capsys)
    assert (tmp_path / "study.db").read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE trials",
        "DROP TABLE trial_user_attributes",
        "DROP TABLE study_user_attributes",
        "UPDATE alembic_version SET version_num = 'v99.0.0.a'",
        "UPDATE version_info SET schema_version = 999",
        "UPDATE trials SET state = 'HAPPY'",
        "UPDATE trials SET number = NULL",
        "UPDATE trial_params SET distribution_json = '{}'",
        "UPDATE trial_params SET param_value = 17",
        "UPDATE trial_values SET value_type = 'x'",
        "UPDATE studies SET study_name = '../mine'",
        "UPDATE studies SET study_name = ''",
        "DELETE FROM studies",
        "DELETE FROM study_directions",
    ],
)
def test_damaged_tables_fail_with_one_line(database, statement, capsys):
    execute(database, statement)
    code, _, error = report(database, capsys)
    assert error.count("\n") <= 1
    assert code == (2 if error else 0)


@pytest.mark.parametrize(
    ("table", "key", "value", "expected"),
    [
        ("study", "about", "{not json", "the storage cannot be read ("),
        ("study", "about", "3", "`about` cannot be '3'"),
        ("study", "about", "{}", "`name` is missing"),
        ("study", "about", {**ABOUT, "cells": 3}, "`cells` cannot be '3'"),
        ("study", "about", {**ABOUT, "cells": []}, "has no cells"),
        ("study", "about", {**ABOUT, "cells": [{"column": "x"}]}, "`row` is missing"),
        ("study", "about", {**ABOUT, "cells": [{"row": "x", "paper": "high"}]}, "`paper` cannot be 'high'"),
        ("study", "about", {**ABOUT, "title": None}, "`title` cannot be 'None'"),
        ("study", "about", {**ABOUT, "default": "c"}, "'c', which is not a cell"),
        ("study", "about", {**ABOUT, "name": "../x"}, "not a valid file name"),
        ("study", "about", {**ABOUT, "left_out": 3}, "`left_out` cannot be '3'"),
        ("study", "run", "[1]", "`run` cannot be '[1]'"),
        ("trial", "cell", "3", "trial 0: `cell` cannot be '3'"),
        ("trial", "seeds", '"01"', "trial 0: `seeds` cannot be '01'"),
        ("trial", "seeds", "[]", "trial 0: `seeds` cannot be '[]'"),
        ("trial", "worker", '{"host": 3}', "trial 0: `host` cannot be '3'"),
        ("trial", "worker", '"me"', "trial 0: `worker` cannot be 'me'"),
        ("trial", "alive", '"now"', "trial 0: `alive` cannot be 'now'"),
        ("trial", "result of seed 0", "[]", "trial 0: '[]' is not a mapping"),
        ("trial", "result of seed 0", "{}", "trial 0: `study` is missing"),
        ("trial", "result of seed 0", {**RESULT, "state": "done"}, "trial 0: `state` cannot be 'done'"),
        ("trial", "result of seed 0", {**RESULT, "state": []}, "trial 0: `state` cannot be '[]'"),
        ("trial", "result of seed 0", {**RESULT, "figures": {}}, "trial 0: a complete trial needs a number"),
        ("trial", "result of seed 0", {**RESULT, "figures": {"dev_spearman": 10**400}}, "trial 0: `figures` cannot"),
        ("trial", "result of seed 0", {**RESULT, "figures": [1]}, "trial 0: `figures` cannot be '[1]'"),
        ("trial", "result of seed 0", {**RESULT, "curve": [[1]]}, "trial 0: `curve` cannot be '[[1]]'"),
        ("trial", "result of seed 0", {**RESULT, "spectrum": ["x"]}, "trial 0: `spectrum` cannot be"),
        ("trial", "result of seed 0", {**RESULT, "options": 3}, "trial 0: `options` cannot be '3'"),
        (
            "trial",
            "result of seed 0",
            {**RESULT, "seed": 7},
            "`result of seed 0` belongs to the cell 'a' with",
        ),
    ],
)
def test_damaged_attributes_fail_with_one_line(database, table, key, value, expected, capsys):
    text = value if isinstance(value, str) else json.dumps(value)
    set_attribute(database, f"{table}_user_attributes", key, text)
    assert_fails(database, expected, capsys)


def test_unknown_fields_of_later_versions_are_ignored(database, capsys):
    cells = [{**cell, "colour": "red"} for cell in ABOUT["cells"]]
    set_attribute(database, "study_user_attributes", "about", json.dumps({**ABOUT, "cells": cells, "mood": "good"}))
    code, output, error = report(database, capsys)
    assert code == 0, error
    assert "2 of 3 trials are complete" in output


# Other studies in the same storage


def other_study(path: Path, name: str, direction: str = "minimize") -> None:
    study = optuna.create_study(study_name=name, storage=f"sqlite:///{path}", direction=direction)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)


@pytest.fixture
def options(encoder_dir, tmp_path) -> list[str]:
    texts = sentences(40, seed=5)
    (tmp_path / "text.txt").write_text("\n".join(sentences(600, seed=1)) + "\n")
    (tmp_path / "pairs.tsv").write_text("".join(f"{i * 0.25:.2f}\t{texts[i]}\t{texts[i + 20]}\n" for i in range(20)))
    (tmp_path / "starts.yaml").write_text("cells: {start: {baseline: start}}")
    return [
        str(tmp_path / "starts.yaml"), "--encoder", str(encoder_dir), "--train_file", str(tmp_path / "text.txt"),
        "--validation_file", str(tmp_path / "pairs.tsv"), "--output_dir", str(tmp_path), "--use_cpu", "--seeds", "0",
    ]  # fmt: skip


def test_a_storage_may_hold_another_optuna_study(tmp_path, options, capsys):
    for name in ("aaa", "zzz"):
        other_study(tmp_path / "study.db", name)
    assert main(["run", *options]) == 0
    output = capsys.readouterr().out
    assert "1 of 1 trials are complete." in output
    assert "Not reported: the study aaa of this storage" in output
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["report", str(tmp_path), "zzz"]) == 2
    assert "holds no study that can be reported" in capsys.readouterr().err


def test_another_programs_study_of_the_same_name_is_not_taken_over(tmp_path, options, capsys):
    other_study(tmp_path / "study.db", "starts", "maximize")
    assert main(["run", *options]) == 2
    assert "the study starts of this storage belongs to another program" in capsys.readouterr().err
    assert optuna.load_study(study_name="starts", storage=f"sqlite:///{tmp_path / 'study.db'}").user_attrs == {}


def test_a_damaged_study_beside_it_does_not_keep_a_run_from_its_report(database, options, capsys):
    set_attribute(database, "study_user_attributes", "about", "3")
    assert main(["run", *options]) == 0
    output = capsys.readouterr().out
    assert "Not reported: the study mine of this storage cannot be read" in output
    assert "1 of 1 trials are complete." in output


def test_a_damaged_study_fails_before_it_runs(database, options, capsys):
    set_attribute(database, "trial_user_attributes", "result of seed 0", "[]")
    Path(options[0]).rename(database.parent / "mine.yaml")
    assert main(["run", str(database.parent / "mine.yaml"), *options[1:]]) == 2
    output = capsys.readouterr()
    assert "trial 0: '[]' is not a mapping" in output.err
    assert "started" not in output.out


def test_a_storage_that_fails_while_it_is_used_ends_in_one_line(database, options, capsys, monkeypatch):
    def fail(self, lease, result):
        execute(database, "DROP TABLE trial_user_attributes")
        record(self, lease, result)

    record = TrialStore.record
    monkeypatch.setattr(TrialStore, "record", fail)
    assert main(["run", *options]) == 1
    output = capsys.readouterr().err
    assert "the storage failed (" in output
    assert output.count("\n") == 1


def test_a_study_is_read_from_what_it_was_stored_as():
    assert Study.from_dict(json.loads(json.dumps(STUDY.as_dict()))) == STUDY
    with pytest.raises(ValueError, match="`question` cannot be"):
        Study.from_dict(STUDY.as_dict() | {"question": 3})
    with pytest.raises(InputError):
        open_storage("sqlite:////proc/none/study.db")
