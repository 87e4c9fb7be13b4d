"""No secret of a study reaches its storage, its results, its report or its output."""

import json

import pytest
from builders import sentences

from mocose_hf.errors import InputError
from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.cli import main
from mocose_hf.study.redaction import is_secret, redact_options, redact_text
from mocose_hf.study.report.write_report import write_report
from mocose_hf.study.storage import open_storage
from mocose_hf.study.study import StudyData
from mocose_hf.study.study_file import Search, read_study_file
from mocose_hf.study.trial_runner import TrialRunner
from mocose_hf.study.trial_store import TrialStore
from mocose_hf.study.worker import Worker

TOKEN = "hf_" + "Zx9Q" * 8
PASSWORD = "Sw0rd-0f-Test"


@pytest.fixture
def study_files(tmp_path):
    texts = sentences(40, seed=5)
    (tmp_path / "text.txt").write_text("\n".join(sentences(600, seed=1)) + "\n")
    (tmp_path / "pairs.tsv").write_text("".join(f"{i * 0.25:.2f}\t{texts[i]}\t{texts[i + 20]}\n" for i in range(20)))
    return tmp_path


@pytest.fixture
def study_options(study_files, encoder_dir) -> list[str]:
    """Options that keep a study tiny; the output directory is `study`."""
    return [
        "--encoder", str(encoder_dir), "--train_file", str(study_files / "text.txt"),
        "--validation_file", str(study_files / "pairs.tsv"), "--output_dir", str(study_files / "study"),
        "--max_steps", "2", "--eval_steps", "2", "--use_cpu", "--collapse_check_steps", "0",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["hub_token", "--hub-token", "api_key", "PASSWORD", "aws_secret_access_key", "token"])
def test_options_that_hold_a_secret_are_known_by_their_names(name):
    assert is_secret(name)


@pytest.mark.parametrize("name", ["token_cutoff", "key_column", "max_seq_length", "tokenizer", "key_augmentation"])
def test_other_options_are_not_masked(name):
    assert redact_options({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot reach the hub as {TOKEN}.", "cannot reach the hub as ***."),
        ("https://user:p@ss/word@host/data.csv", "https://user:***@host/data.csv"),
        ("https://abcdef@host/data.csv", "https://***@host/data.csv"),
        ("https://host/a@b", "https://host/a@b"),
        ('{"api_key": "abc", "k": 1}', '{"api_key": "***", "k": 1}'),
        ("postgresql://host/db?user=me&password=abc&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("η = 0.5, the default", "η = 0.5, the default"),
    ],
)
def test_secrets_inside_a_text_are_masked(text, shown):
    assert redact_text(text) == shown


def test_options_are_masked_in_depth_and_keep_their_kind():
    options = {"hub_token": TOKEN, "seed": 3, "eval_tasks": ["sts", TOKEN], "deepspeed": {"auth": {"password": "x"}}}
    assert redact_options(options) == {
        "hub_token": "***",
        "seed": 3,
        "eval_tasks": ["sts", "***"],
        "deepspeed": {"auth": {"password": "***"}},
    }
    assert redact_options({"hub_token": None}) == {"hub_token": None}


def files_with(folder, *secrets: str) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths
    return [path.name for path in paths if any(secret.encode() in path.read_bytes() for secret in secrets)]


def test_no_file_of_a_study_holds_a_secret(study_options, study_files, capsys):
    """This covers secrets from the command line and from a study file."""
    own = f"hf_{'a1B2' * 8}"
    (study_files / "mine.yaml").write_text(f"cells:\n  a:\n  b: {{hub_token: {own}}}\n")
    code = main(["run", str(study_files / "mine.yaml"), *study_options, "--hub-token", TOKEN, "--seeds", "0"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert main(["list", str(study_files / "mine.yaml")]) == 0
    output = "".join([captured.out, captured.err, *capsys.readouterr()])
    assert files_with(study_files / "study", TOKEN, own) == []
    assert not any(secret in output for secret in (TOKEN, own))
    (result, _) = (study_files / "study" / "mine").rglob("result.json")
    assert json.loads(result.read_text())["options"]["hub_token"] == "***"
    assert "option_hub_token" in (study_files / "study" / "mine.csv").read_text()


def test_workers_with_other_tokens_share_a_study(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    store = TrialStore(open_storage(url), "mine")
    store.begin({"hub_token": TOKEN, "max_steps": "3"})
    store.begin({"hub_token": "***", "max_steps": "3"})
    assert store.settings() == {"hub_token": "***", "max_steps": "3"}
    with pytest.raises(InputError) as error:
        store.begin({"max_steps": "3"})
    assert TOKEN not in str(error.value)


def test_a_report_from_python_masks_secrets_too(tmp_path):
    pytest.importorskip("matplotlib")
    cells = [Cell("a", options={"hub_token": TOKEN}), Cell("b")]
    study = Study("s", "S", "?", "", cells, options={"train_file": f"https://me:{PASSWORD}@host/text.csv"})
    results = [TrialResult("s", "a", 0, "complete", {"dev_spearman": 1.0}, options={"hub_token": TOKEN, "x": "1"})]
    results.append(TrialResult("s", "b", 0, "waiting"))
    write_report(tmp_path, [StudyData(study, results, {"hub_token": TOKEN})])
    assert files_with(tmp_path, TOKEN, PASSWORD) == []


def test_a_secret_makes_no_cells(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"grid: {{hub_token: [{TOKEN}, x]}}")
    with pytest.raises(InputError, match="`hub_token` is a secret") as error:
        read_study_file(path)
    assert TOKEN not in str(error.value)
    with pytest.raises(InputError, match="--hub_token is a secret"):
        Worker(Search("mine", "Mine", "", {"hub_token": None}, trials=2), (0,), {}, tmp_path, print).validate()


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD}@host:54x2/db",
        f"postgresql://user:{PASSWORD}",
        f"postgresql+nothing://user:{PASSWORD}@host/db",
        f"postgresql://user:a@{PASSWORD}@host/db",
        f"postgresql://user:a@b/{PASSWORD}@host/db",
        f"postgresql://host:54x2/db?user=me&password={PASSWORD}",
        f"nothing://host/db?user=me&password={PASSWORD}",
        f"user:{PASSWORD}@host/db",
        f"host=h user=u password={PASSWORD}",
    ],
)
@pytest.mark.parametrize("action", ["run", "report"])
def test_no_error_shows_the_password_of_a_storage(action, url, study_options, study_files, capsys):
    argv = ["run", "table3", *study_options] if action == "run" else ["report", str(study_files)]
    assert main([*argv, "--storage", url]) == 2
    output = capsys.readouterr()
    assert PASSWORD not in output.out + output.err
    assert output.err.count("\n") == 1
    assert "--storage" in output.err


def test_a_path_that_is_no_url_is_shown(tmp_path):
    with pytest.raises(InputError, match=r"--storage runs/study\.db: cannot be opened \(it is not a valid URL"):
        open_storage("runs/study.db")


def test_no_error_shows_a_secret_of_the_command_line(study_options, capsys):
    assert (
        main(["run", "table3", *study_options, "--hub_token", "short-one", "short-one-too", "--x", "short-one"]) == 2
    )
    output = capsys.readouterr().err
    assert "short-one" not in output


def test_the_reason_of_a_failed_trial_shows_no_secret(tmp_path):
    options = {"hub_token": "unguessable", "hub_tokken": "unguessable"}
    result = TrialRunner("s", options, tmp_path).run("a", {}, seed=0)
    assert result.state == "failed"
    assert "unknown option --hub_tokken" in result.reason
    assert "unguessable" not in result.reason
    assert files_with(tmp_path, "unguessable") == []
