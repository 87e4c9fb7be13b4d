"""The console command `mocose`: it finds its subcommands, starts fast, and each does what its help says."""

import re

import pytest
from builders import REPOSITORY, sentences
from fresh_python import HEAVY, imported_by
from safetensors.torch import load_file

from mocose_hf.cli import main as console
from mocose_hf.cli.evaluate import main as evaluate
from mocose_hf.version import __version__


def test_the_help_and_the_version_load_no_library(capsys):
    for argument in ("--help", "--version", "trian"):
        loaded = imported_by(f"from mocose_hf.cli.main import dispatch; dispatch([{argument!r}])")
        assert "mocose_hf.cli.main" in loaded
        assert not {"torch", "transformers", "numpy", "yaml", *HEAVY} & loaded
    assert console.dispatch([]) == 0
    shown = capsys.readouterr().out
    assert set(re.findall(r"^  (\w+)  ", shown, re.MULTILINE)) == {*console.COMMANDS}
    assert console.dispatch(["--version"]) == 0
    assert capsys.readouterr().out == f"mocose {__version__}\n"


def test_an_unknown_command_ends_in_one_line(capsys):
    assert console.dispatch(["trian", "--seed", "1"]) == 2
    assert capsys.readouterr().err == "mocose: trian: no such command; did you mean `train`?\n"
    assert console.dispatch(["\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [*console.COMMANDS])
def test_each_command_has_a_help_under_its_own_name(name, capsys):
    with pytest.raises(SystemExit) as ended:
        console.dispatch([name, "--help"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith(f"usage: mocose {name} ")


@pytest.mark.parametrize("name", ["prepare", "export", "merge", "report", "search", "demo"])
def test_a_wrong_option_ends_in_one_line_that_names_the_help(name, capsys):
    assert console.dispatch([name, "a", "b", "--no_such_option"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mocose {name}: ")
    assert error.endswith(f"see `mocose {name} --help`.\n")
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["mocose_hf.cli.train:main(['--help'])", "mocose_hf.study.cli:main(['list'])"], ids=["help", "list"]
)
def test_help_and_list_load_nothing_heavy(command):
    module, _, call = command.partition(":")
    without_peft = "import sys; sys.modules['peft'] = None"  # transformers imports it and scipy
    code = f"import contextlib, {module}\nwith contextlib.suppress(SystemExit): {module}.{call}"
    loaded = imported_by(f"{without_peft}\n{code}")
    assert module in loaded
    assert not {*HEAVY, "optuna", "sqlalchemy", "mocose_hf.training.trainer"} & loaded


def test_the_installed_command_is_the_dispatcher():
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert 'mocose = "mocose_hf.cli.main:main"' in project
    assert callable(console.main)


def test_train_export_and_evaluate(tmp_path, encoder_dir, text_file, capsys):
    pairs, made = tmp_path / "pairs.tsv", sentences(20, seed=3)
    pairs.write_text("".join(f"{i}\t{made[i]}\t{made[i + 10]}\n" for i in range(10)), encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text("max_steps: 2\nqueue_size: 8\nper_device_train_batch_size: 4\nuse_cpu: true\n", encoding="utf-8")
    out, exported = tmp_path / "out", tmp_path / "exported"
    options = ["--model_name_or_path", str(encoder_dir), "--train_file", str(text_file), "--output_dir", str(out)]
    assert console.dispatch(["train", "--config", str(config), *options]) == 0
    assert "mocose train --config" in (out / "README.md").read_text(encoding="utf-8")

    assert console.dispatch(["export", str(out), str(exported)]) == 0
    assert {path.name for path in exported.iterdir()} < {path.name for path in out.iterdir()}
    first, second = (load_file(folder / "model.safetensors") for folder in (out, exported))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    for name in ("config.json", "modules.json"):
        assert (out / name).read_bytes() == (exported / name).read_bytes()

    scores = []
    for folder in (out, exported):
        capsys.readouterr()
        assert console.dispatch(["evaluate", str(folder), "--validation_file", str(pairs), "--use_cpu"]) == 0
        scores.append(re.findall(r"pooling +([\d.-]+)", capsys.readouterr().out))
    assert len(scores[0]) == 1
    assert scores[0] == scores[1]


def test_export_and_evaluate_refuse_what_they_cannot_use(tmp_path, encoder_dir, text_file, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine", encoding="utf-8")
    for arguments, said in (
        (["export", str(encoder_dir), str(tmp_path / "full")], "not an empty directory; name another"),
        (["export", str(encoder_dir)], "required: directory"),
        (["export", str(tmp_path / "none"), str(tmp_path / "new")], "cannot be loaded"),
        (["evaluate", str(encoder_dir), "--train_file", str(text_file)], "--train_file or --dataset_name is given"),
        (["evaluate", str(encoder_dir), "--sead", "1"], "did you mean --seed?"),
    ):
        assert console.dispatch(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mocose {arguments[0]}: ")
        assert said in line
    assert (tmp_path / "full" / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "new").exists()


def test_evaluate_alone_scores_the_sts_tasks(encoder_dir, monkeypatch):
    runs = []
    monkeypatch.setattr("mocose_hf.cli.run.run", lambda options, command: runs.append((options, command)))
    assert evaluate([str(encoder_dir), "--use_cpu"], program="mocose evaluate") == 0
    (options, command), *_ = runs
    assert options.evaluation.eval_tasks == ["sts"]
    assert options.model.model_name_or_path == str(encoder_dir)
    assert command == f"mocose evaluate {encoder_dir} --use_cpu"
