"""Choosing the algorithm on the command line."""

import subprocess
import sys

import pytest
from builders import REPOSITORY, sentences, tiny_bert_config
from transformers import AutoConfig, BertModel

from mocose_hf.cli.options import parse_command_line
from mocose_hf.errors import InputError
from mocose_hf.models.loading import PretrainedEncoder
from mocose_hf.models.registry import ALGORITHMS
from run_mocose import main

QUEUE = ["--queue_size", "16", "--queue_init_size", "4"]


@pytest.fixture
def command(tmp_path, encoder_dir):
    """What starts a training of a few steps, less its algorithm."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sentences(24)) + "\n", encoding="utf-8")
    paths = [
        "--output_dir",
        str(tmp_path / "out"),
        "--model_name_or_path",
        str(encoder_dir),
        "--train_file",
        str(text),
    ]
    steps = "--per_device_train_batch_size 8 --max_steps 2 --save_steps 1 --use_cpu true --disable_tqdm true"
    return [*paths, *steps.split()]


def source() -> PretrainedEncoder:
    return PretrainedEncoder(BertModel(tiny_bert_config()), None, "cls")


def given(**options) -> dict:
    return {name: None for name in ("stale_fgsm_epsilon", "pooling_mode")} | options


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_has_the_name_of_its_model(name):
    model = ALGORITHMS[name].from_encoder(source(), given(temperature=0.1))
    assert type(model) is ALGORITHMS[name].model
    assert model.algorithm == name
    assert model.config.temperature == 0.1


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("mocose", "stale_fgsm_epsilon", 1e-9), ("simcse", "stale_fgsm_epsilon", 0.0), ("simcse", "queue_size", 64)],
)
def test_options_of_other_algorithms_raise_an_error_that_names_them(name, option, value):
    with pytest.raises(ValueError, match=f"`{option}` is {value}, but the algorithm {name} has no such option"):
        ALGORITHMS[name].from_encoder(source(), given(**{option: value}))


def test_options_of_other_algorithms_at_their_default_are_ignored():
    assert ALGORITHMS["simcse"].from_encoder(source(), given(queue_size=512)).queues() == []


def test_epsilon_reaches_the_released_model_and_defaults_to_the_authors():
    released = ALGORITHMS["released"]
    assert released.from_encoder(source(), given()).config.stale_fgsm_epsilon == 5e-9
    assert released.from_encoder(source(), given(stale_fgsm_epsilon=0.0)).config.stale_fgsm_epsilon == 0.0


def test_an_unknown_algorithm_raises_an_error():
    with pytest.raises(InputError, match="`algorithm` is one of mocose, released, simcse, but is moco"):
        parse_command_line(["--algorithm", "moco"])


def test_the_released_recipe_is_that_of_the_paper_but_for_the_algorithm():
    files = [str(REPOSITORY / "configs" / f"{name}-bert-base.yaml") for name in ("paper", "released")]
    paper, released = (parse_command_line([file, "--train_file", "text.txt"]) for file in files)
    assert (paper.model.algorithm, released.model.algorithm) == ("mocose", "released")
    assert released.model.stale_fgsm_epsilon == 5e-9
    assert released.method == paper.method
    assert released.training.to_dict() == paper.training.to_dict()


@pytest.mark.parametrize("name", ["released", "simcse"])
def test_the_command_trains_saves_and_rejects_another_algorithm_on_resume(tmp_path, command, capsys, name):
    command = [*command, *(QUEUE if name == "released" else []), "--algorithm", name]
    assert main(command) == 0
    out = tmp_path / "out"
    card = (out / "README.md").read_text()
    assert f"| `algorithm` | `{name}` |" in card
    assert ALGORITHMS[name].method in card
    assert f"trained by {ALGORITHMS[name].approach}" in card
    assert ("`ema_decay`" in card) == (name == "released")
    assert AutoConfig.from_pretrained(out / "mocose").model_type == f"mocose_{name}"

    assert main([*command, "--resume_from_checkpoint", "true"]) == 0
    other = [*command[:-2], "--resume_from_checkpoint", "true"]
    capsys.readouterr()
    assert main(other) == 2
    assert f"--algorithm was {name} and is mocose now" in capsys.readouterr().err
    pairs = str(REPOSITORY / "examples" / "data" / "pairs.tsv")
    assert main(["--do_eval", "--model_name_or_path", str(out), "--validation_file", pairs]) == 0
    start = ["--output_dir", str(tmp_path / "again"), "--model_name_or_path", str(out)]
    assert main([*start, *command[4:]]) == 0


def test_the_package_alone_does_not_load_what_the_study_adds():
    loaded = "any(name.startswith('mocose_hf.study') for name in sys.modules)"
    code = f"import sys, mocose_hf.training.trainer, mocose_hf.export.sentence_encoder; sys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("mocose", {"stale_fgsm_epsilon"}),
        ("released", set()),
        ("simcse", {"stale_fgsm_epsilon", "queue_size", "num_predictor_layers", "ema_decay", "ema_schedule"}),
    ],
)
def test_an_algorithm_knows_which_options_of_others_it_has_no_place_for(name, lacking):
    options = {"stale_fgsm_epsilon", "queue_size", "num_predictor_layers", "ema_decay", "ema_schedule"}
    options |= {"temperature", "learning_rate", "pooling_mode", "max_steps"}
    assert {option for option in options if ALGORITHMS[name].lacks(option)} == lacking
