"""The documents: their code runs, their commands parse, and what they name exists."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from builders import REPOSITORY, sentences
from markdown_pages import PAGES, anchors, inline_code, read_blocks, read_prose, shell_commands
from senteval_folder import write_senteval
from torch.distributed.run import get_args_parser

import mocose_hf
from mocose_hf.cli.options import parse_command_line, validate_option_names
from mocose_hf.models import loading
from mocose_hf.study import cli as study_cli
from mocose_hf.study.paper_studies import PAPER_STUDIES
from mocose_hf.study.study_file import read_study_file

sys.path.insert(0, str(REPOSITORY))

import run_mocose

ENCODERS = ("sentence-transformers/all-MiniLM-L6-v2", "bert-base-uncased", "any/encoder", "ENCODER")
"""Names of encoders in the documents; a tiny one takes their place."""

LANGUAGES = {"bash", "python", "yaml", "text", "bibtex"}

FOREIGN_OPTIONS = {
    "--config_file", "--max-restarts", "--nproc_per_node", "--num_processes", "--quiet", "--shutdown-timeout",
    "--help", "--lowest", "--list", "--limit", "--signal",
}  # fmt: skip
"""Options of launchers and tools that the text mentions."""

FOLDERS = "benchmarks|configs|docs|ds_configs|examples|mocose_hf|results|skills|tests|tools"

page_of = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


@page_of
def test_each_block_names_its_language_and_why_it_is_not_run(page):
    for block in read_blocks(page):
        assert block.language in LANGUAGES or block.language.startswith("{"), f"line {block.line}"
        assert not block.mark.startswith("not run") or len(block.mark) > len("not run: ..."), f"line {block.line}"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with the files that the documents name."""
    text = sentences(200)
    (tmp_path / "sentences.txt").write_text("\n".join(text) + "\n")
    rows = [f"{i * 0.4:.1f}\t{text[i]}\t{text[i + 12]}\n" for i in range(12)]
    (tmp_path / "pairs.tsv").write_text("".join(rows))
    (tmp_path / "search.tsv").write_text("query\ttext\n" + "".join(f"{t.split()[1]}\t{t}\n" for t in text[:20]))
    (tmp_path / "topics.csv").write_text("label,text\n" + "".join(f"{i % 2},{t}\n" for i, t in enumerate(text[:20])))
    write_senteval(tmp_path / "senteval")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.language == "python" and block.runs for block in read_blocks(page))],
    ids=lambda page: page.name,
)
def test_python_blocks_run(page, encoder_dir, folder, monkeypatch):
    """The blocks of a page run in their order and share their names."""
    blocks = [block for block in read_blocks(page) if block.language == "python" and block.runs]
    arguments = mocose_hf.MoCoSETrainingArguments

    def tiny_arguments(output_dir, **fields):
        small = {"per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
        return arguments(output_dir, **small | fields | {"max_steps": 2})

    monkeypatch.setattr(mocose_hf, "MoCoSETrainingArguments", tiny_arguments)
    if not any("trainer.train()" in block.code for block in blocks):
        argv = ["--model_name_or_path", str(encoder_dir), "--train_file", "sentences.txt", "--output_dir", "out"]
        argv += ["--max_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu", "--disable_tqdm", "true"]
        assert run_mocose.main(argv) == 0
    names = {}
    for block in blocks:
        code = block.code.replace('"senteval"', '"senteval", allow_partial_tasks=True')
        for encoder in ENCODERS:
            code = code.replace(f'"{encoder}"', repr(str(encoder_dir)))
        exec(compile("\n" * (block.line - 1) + code, str(page), "exec"), names)


@page_of
def test_shell_commands_parse(page, monkeypatch):
    """Options exist and their values are valid; files of the repository exist."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(loading, "load_encoder", None)  # nothing loads
    for block in read_blocks(page):
        if block.language == "bash" and block.runs:
            for words in shell_commands(block.code):
                try:
                    _parse(words)
                except (mocose_hf.errors.InputError, SystemExit) as error:
                    pytest.fail(f"line {block.line}: {' '.join(words)}: {error}")


def _parse(words: list[str]) -> None:
    """Parse a command with the parser of its program."""
    program, rest = words[0], words[1:]
    if program == "make":
        assert set(rest) <= set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)), rest
    elif program == "pip":
        _check_pip(rest)
    elif program == "accelerate":
        arguments = launch_command_parser().parse_args(rest[1:])
        assert Path(arguments.config_file).is_file()
        assert arguments.training_script == "run_mocose.py"
        parse_command_line([*arguments.training_script_args, "--use_cpu"])
    elif program == "torchrun":
        arguments = get_args_parser().parse_args(rest)
        parse_command_line([*arguments.training_script_args, "--use_cpu"])
    elif program == "pytest":
        _check_pytest(rest)
    elif program == "mocose" and rest[0] in ("train", "evaluate"):
        is_encoder = rest[0] == "evaluate" and not rest[1].startswith("-")
        parse_command_line([*(["--model_name_or_path"] if is_encoder else []), *rest[1:], "--use_cpu"])
    elif program == "mocose" and rest[0] != "study":
        import_module(f"mocose_hf.cli.{rest[0]}").build_parser().parse_args(rest[1:])
    elif program == "mocose" or rest[:2] == ["-m", "mocose_hf.study"]:
        rest = rest if program == "mocose" else rest[1:]
        options, others = study_cli.build_parser().parse_known_args(rest[1:])
        names = getattr(options, "studies", [])
        assert all(name in PAPER_STUDIES or name.endswith(".yaml") for name in names), names
        parse_command_line([*others, "--use_cpu"])
    elif rest[0] == "run_mocose.py":
        assert parse_command_line([*rest[1:], *([] if "--use_cpu" in rest else ["--use_cpu"])])
    elif rest[:2] == ["-m", "pytest"]:
        _check_pytest(rest[2:])
    else:
        assert program == "python", f"no parser is known for {program}; mark the block as not run"
        source = (REPOSITORY / rest[0]).read_text()
        for option in (word for word in rest[1:] if word.startswith("--") and word != "--help"):
            assert f'"{option}"' in source, option


def _check_pip(words: list[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for before, word in pairwise(words):
        if before in ("-r", "--requirement"):
            assert (REPOSITORY / word).is_file()
        for extra in re.findall(r"(?:mocose_hf|\.|\.whl)\[([\w,]+)\]", word):
            assert set(extra.split(",")) <= set(project["optional-dependencies"])


def _check_pytest(words: list[str]) -> None:
    paths = [word.split("::")[0] for word in words if word.startswith("tests/")]
    assert all((REPOSITORY / path).exists() for path in paths), paths
    if "-k" in words:
        wanted = words[words.index("-k") + 1]
        assert any(wanted in (REPOSITORY / path).read_text() for path in paths), wanted


@page_of
def test_yaml_blocks_are_studies(page, tmp_path):
    for block in read_blocks(page):
        if block.language == "yaml" and block.runs:
            name = re.match(r"# (\S+\.yaml):", block.code)
            assert name, f"line {block.line}: the first line names the file"
            (tmp_path / name[1]).write_text(block.code)
            assert read_study_file(str(tmp_path / name[1])).name == Path(name[1]).stem


@page_of
def test_named_files_commands_and_options_exist(page):
    """Inline code names only files, tests and options that exist."""
    options = set(FOREIGN_OPTIONS)
    for source in REPOSITORY.glob("[!.]*/**/*.py"):
        options |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source.read_text()))
    for code in inline_code(page):
        for path in re.findall(rf"(?<![\w/.…])((?:{FOLDERS})/[\w./-]*)", code):
            is_built = path.startswith("docs/_build/")  # by `make docs`
            assert is_built or (REPOSITORY / path.split("::")[0].rstrip(".")).exists(), code
        if code.startswith(("pytest ", "python tests/")):
            _parse(code.split())
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            if option not in options:
                validate_option_names([option.removeprefix("--")])


@page_of
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read_prose(page)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_readme_fits_on_a_few_screens():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 150


def test_the_skill_has_the_head_that_agents_read():
    for page in (REPOSITORY / "skills").glob("*/SKILL.md"):
        _, head, body = page.read_text(encoding="utf-8").split("---\n", 2)
        fields = yaml.safe_load(head)
        assert fields["name"] == page.parent.name
        assert 100 < len(fields["description"]) <= 1024
        assert fields["license"] == "Apache-2.0"
        assert len(body.splitlines()) <= 120


def test_the_figure_is_what_its_script_draws():
    source = "import sys; sys.path.insert(0, 'tools'); import draw_method; sys.stdout.write(draw_method.draw())"
    drawn = subprocess.run([sys.executable, "-c", source], capture_output=True, encoding="utf-8", cwd=REPOSITORY)
    assert drawn.stdout == (REPOSITORY / "docs" / "images" / "method.svg").read_text(encoding="utf-8")


def test_the_import_rule_of_the_documents_is_the_one_that_is_checked():
    config = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [sorted(layer.split(" : ")) for layer in reversed(config["contracts"][0]["layers"])]
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    rule = re.search(r"^`compat`.*?(?=\n\n)", text, re.M | re.S)[0]
    assert [re.findall(r"`(\w+)`", layer) for layer in rule.split("<")] == layers
    assert all(f"`mocose_hf/{name}/`" in text for layer in layers[1:] for name in layer)


def test_the_page_of_options_is_what_the_parser_says():
    sys.path.insert(0, str(REPOSITORY / "tools"))
    from write_options import PAGE, render

    assert PAGE.read_text(encoding="utf-8") == render(), "run: python tools/write_options.py"


def test_the_losses_and_evaluators_of_sentence_transformers_exist():
    pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import evaluation, losses

    page = (REPOSITORY / "docs" / "coming-from.md").read_text(encoding="utf-8")
    names = re.findall(r"`(\w+(?:Loss|Evaluator))`", page)
    assert len(names) >= 7
    assert all(hasattr(losses, name) or hasattr(evaluation, name) for name in names)
