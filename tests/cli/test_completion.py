"""`mocose completion`: what a shell offers after the script is loaded."""

import shutil
import subprocess

import pytest

from mocose_hf.cli import completion
from mocose_hf.cli import main as console
from mocose_hf.cli.parser import build_parser
from mocose_hf.recipes import RECIPES

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in completion.SHELLS:
        (folder / shell).write_text(completion.completion_script(shell), encoding="utf-8")
    return folder


def offered(scripts, folder, *words: str) -> set[str]:
    """Return what bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {scripts / 'bash'}; COMP_WORDS=(mocose {line}); COMP_CWORD={len(words)}; "
        "eval \"$(complete -p mocose | sed 's/.*-F \\([^ ]*\\).*/\\1/')\"; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {entry.strip() for entry in done.stdout.splitlines() if entry.strip()}


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_offers_commands_options_choices_and_files(scripts, tmp_path):
    (tmp_path / "sentences.txt").write_text("a\n")
    (tmp_path / "sent").mkdir()

    def offers(*words):
        return offered(scripts, tmp_path, *words)

    assert offers("") >= set(console.COMMANDS)
    assert offers("tr") == {"train"}
    assert offers("study", "") >= {"list", "run", "report", "solve"}
    assert offers("study", "run", "--see") == {"--seeds"}
    shown = {f"--{action.dest}" for actions in build_parser().shown_options().values() for action in actions}
    assert offers("train", "--") - {"--help", "--version"} >= shown
    assert not any("-" in name.removeprefix("--") for name in offers("train", "--"))
    assert offers("train", "--recipe", "") == set(RECIPES)
    assert offers("export", "model", "out", "--to", "o") >= {"onnx"}
    assert {name.rstrip("/") for name in offers("train", "--train_file", "sen")} == {"sentences.txt", "sent"}
    assert {name.rstrip("/") for name in offers("search", "sen")} == {"sentences.txt", "sent"}
    assert offers("completion", "z") == {"zsh"}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_is_valid(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)


def test_a_missing_library_and_a_wrong_shell_end_in_one_line(monkeypatch, capsys):
    assert console.dispatch(["completion", "csh"]) == 2
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert console.dispatch(["completion", "bash"]) == 2
    wrong, missing = capsys.readouterr().err.splitlines()
    assert "bash" in wrong
    assert "[completion]'" in missing
