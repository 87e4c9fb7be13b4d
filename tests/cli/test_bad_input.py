"""Every bad input ends with exit code 2 and one line that names it and a remedy, and nothing is written."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import REPOSITORY
from folder_contents import contents
from huggingface_hub.errors import OfflineModeIsEnabled
from malformed import GOOD, GOOD_PAIRS

sys.path.insert(0, str(REPOSITORY))

import run_mocose
from mocose_hf.data.text_augmentation import read_wordnet


def seen_lines(text: str) -> list[str]:
    """Return the lines that a terminal shows; a progress bar that wiped itself is none."""
    return [line.rsplit("\r", 1)[-1] for line in text.removesuffix("\n").split("\n")]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A current directory with good sentences and pairs in it."""
    (tmp_path / "good.txt").write_text("\n".join(GOOD) + "\n", encoding="utf-8")
    (tmp_path / "good.tsv").write_bytes(GOOD_PAIRS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(folder, encoder_dir, capsys):
    """Run the command on what should be refused and return the one line it says.

    The good arguments are those of a training; each can be replaced, or left out by None.
    """

    def run(*more, config: str | None = None, **replaced) -> str:
        good = {"model_name_or_path": encoder_dir, "train_file": "good.txt", "output_dir": "out", "use_cpu": "true"}
        options = {name: value for name, value in (good | replaced).items() if value is not None}
        argv = [] if config is None else [config]
        argv += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        before = contents(folder)
        capsys.readouterr()
        code = run_mocose.main([*argv, *map(str, more)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert err.endswith("\n")
        lines = seen_lines(err)
        assert len(lines) == 1, lines
        assert lines[0].startswith("run_mocose.py: ")
        assert code == 2
        assert contents(folder) == before
        return lines[0].removeprefix("run_mocose.py: ")

    return run


def test_a_json_error_speaks_of_one_line_number(refused, folder):
    (folder / "bad.jsonl").write_text('{"text": "a"}\n{"text": "a ca', encoding="utf-8")
    said = refused(train_file="bad.jsonl")
    assert said.count("line") - said.count("each line") == 1


def test_training_file_that_is_missing(refused, folder):
    path = folder / "none.txt"
    assert refused(train_file=path) == f"{path}: no such file; check the path."


@pytest.mark.parametrize("name", ["texts.txt", "texts"])
def test_training_file_that_is_a_directory(refused, folder, name):
    (folder / name).mkdir()
    assert refused(train_file=folder / name) == f"{folder / name}: is a directory; give the file in it."


def test_training_file_that_may_not_be_read(refused, folder, monkeypatch):
    open_path = Path.open

    def refuse(path, *mode, **options):
        if path.name == "locked.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return open_path(path, *mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    path = folder / "locked.txt"
    assert refused(train_file=path) == f"{path}: cannot be read (Permission denied); check its permissions."


def test_key_column_of_a_text_file(refused):
    said = refused(key_column="other")
    assert said.startswith("good.txt: a text file has no columns")
    assert ".csv" in said


def test_a_negative_column_that_no_term_uses(refused):
    said = refused(negative_column="worse")
    assert said.startswith(
        "--negative_column worse: hard negatives belong to the in-batch term, but --in_batch_weight"
    )
    assert "--recipe pairs" in said
    said = refused(negative_column="worse", algorithm="simcse")
    assert said.startswith("--negative_column worse: hard negatives belong to the in-batch term, which the algorithm")
    said = refused(negative_column="text", in_batch_weight=1)
    assert said == "--negative_column text: is also --text_column; name the column of hard negatives."


def test_dataset_that_cannot_be_loaded(refused):
    said = refused(train_file=None, dataset_name="nobody/nothing")
    assert said.startswith("--dataset_name nobody/nothing: cannot be loaded (")
    assert "check name and split" in said


def test_development_pairs_that_are_missing(refused, folder):
    path = folder / "none.tsv"
    assert refused(validation_file=path) == f"{path}: no such file; check the path."


def test_senteval_dir_without_its_file(refused, folder):
    path = folder / "senteval"
    path.mkdir()
    said = refused(senteval_dir=path)
    assert said == f"{path}/downstream/STS/STSBenchmark/sts-dev.csv: no such file; check the path."


def test_senteval_line_that_is_short(refused, folder):
    path = folder / "senteval" / "downstream" / "STS" / "STSBenchmark" / "sts-dev.csv"
    path.parent.mkdir(parents=True)
    path.write_text("g\tf\ty\t1\t5.0\ta\tb\ng\tf\ty\t1\t4.0\ta\n", encoding="utf-8")
    said = refused(train_file=None, senteval_dir=folder / "senteval")
    assert said.startswith(f"{path}, line 2: 6 tab-separated fields, but 7 are needed; ")


@pytest.mark.parametrize("count", [1499, 1501, 40])
@pytest.mark.parametrize("train_file", ["good.txt", None], ids=["training", "scoring"])
def test_development_pairs_of_senteval_are_counted(refused, folder, train_file, count):
    path = folder / "senteval" / "downstream" / "STS" / "STSBenchmark" / "sts-dev.csv"
    path.parent.mkdir(parents=True)
    lines = [f"g\tf\ty\t1\t{i % 6}\ta {i}\tb {i}\n" for i in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    message = refused(train_file=train_file, senteval_dir=folder / "senteval")
    assert message.startswith(
        f"{path}, line {count}: the file ends after {count:,} scored pairs, but STS-B dev has 1,500; "
    )
    assert "--allow_partial_tasks" in message


def test_configuration_that_is_missing(refused):
    assert refused(config="none.yaml") == "none.yaml: no such file; check the path of the configuration."


@pytest.mark.parametrize("name", ["nobody/nothing", "a/b/c", "no-such-model"])
def test_model_that_is_unknown(refused, name):
    said = refused(model_name_or_path=name)
    assert said.startswith(f"--model_name_or_path {name}: cannot be loaded (")
    assert "give a directory with config.json, weights and tokenizer, or a model id of the hub" in said


def test_model_that_is_a_file(refused, folder):
    said = refused(model_name_or_path=folder / "good.txt")
    assert said.startswith(f"--model_name_or_path {folder / 'good.txt'}: ")
    assert "give a directory" in said


@pytest.fixture
def model_copy(folder, encoder_dir) -> Path:
    directory = folder / "model"
    shutil.copytree(encoder_dir, directory)
    return directory


def empty(directory):
    for path in directory.iterdir():
        path.unlink()


def no_weights(directory):
    (directory / "model.safetensors").unlink()


def cut_weights(directory):
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])


def no_tokenizer(directory):
    for path in directory.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()


def broken_config(directory):
    (directory / "config.json").write_text("{", encoding="utf-8")


def broken_modules(directory):
    (directory / "modules.json").write_text("[{", encoding="utf-8")


def other_pooling(directory):
    modules = [{"path": "", "type": "models.Transformer"}, {"path": "1_Pooling", "type": "models.Pooling"}]
    (directory / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text('{"pooling_mode": "weightedmean"}', encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "remedy"),
    [
        (empty, "give a directory with config.json, weights and tokenizer"),
        (no_weights, "give a directory with config.json, weights and tokenizer"),
        (cut_weights, "give a directory with config.json, weights and tokenizer"),
        (no_tokenizer, "tokenizer"),
        (broken_config, "config.json"),
        (broken_modules, "modules.json"),
        (other_pooling, "pooling_mode"),
    ],
)
def test_model_directory_that_is_incomplete(refused, model_copy, spoil, remedy):
    spoil(model_copy)
    said = refused(model_name_or_path=model_copy)
    assert str(model_copy) in said
    assert remedy in said


def test_model_is_needed(refused):
    said = refused(model_name_or_path=None)
    assert said.startswith("--model_name_or_path is required: ")


def test_output_dir_is_needed_for_training(refused):
    assert refused(output_dir=None).startswith("--output_dir is required for training: ")


def test_neither_training_nor_development(refused):
    said = refused(train_file=None)
    assert said.startswith("there is nothing to do: give --train_file or --dataset_name")
    assert all(name in said for name in ("--validation_file", "--retrieval_file", "--label_file", "--senteval_dir"))


def test_two_sources_of_one_thing(refused):
    said = refused(dataset_name="some/texts")
    assert said == "--train_file and --dataset_name are both given; drop one."
    said = refused(validation_file="good.tsv", senteval_dir="senteval")
    assert said == "--validation_file and --senteval_dir are both given; drop one, or name --eval_tasks."


def test_output_dir_that_is_not_empty(refused, folder):
    (folder / "out" / "checkpoint-5").mkdir(parents=True)
    (folder / "out" / "model.safetensors").write_bytes(b"earlier")
    said = refused()
    assert said.startswith("--output_dir out: is not empty; ")
    assert "--resume_from_checkpoint true" in said
    assert "--overwrite_output_dir" in said


def test_an_earlier_run_is_kept_until_all_else_is_right(refused, folder):
    (folder / "out" / "checkpoint-5").mkdir(parents=True)
    (folder / "out" / "checkpoint-5" / "model.safetensors").write_bytes(b"earlier")
    (folder / "out" / "sentence_encoder").mkdir()
    (folder / "bad.txt").write_bytes(b"")
    refused(train_file="bad.txt", overwrite_output_dir="true")
    refused(model_name_or_path="nobody/nothing", overwrite_output_dir="true")


def test_an_earlier_run_is_kept_if_the_trainer_raises_an_error(folder, encoder_dir):
    (folder / "out" / "checkpoint-5").mkdir(parents=True)
    (folder / "out" / "checkpoint-5" / "model.safetensors").write_bytes(b"earlier")
    before = contents(folder)
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", "good.txt", "--output_dir", "out", "--use_cpu"]
    assert run_mocose.main([*argv, "--overwrite_output_dir", "--eval_strategy", "steps"]) == 2
    assert contents(folder) == before


def test_output_dir_that_is_a_file(refused, folder):
    (folder / "out").write_text("mine", encoding="utf-8")
    assert refused() == "--output_dir out: is a file; name a directory."


def test_output_dir_below_a_file(refused):
    said = refused(output_dir="good.txt/out")
    assert said.startswith("--output_dir good.txt/out: ")
    assert "file" in said


def test_checkpoint_that_is_none(refused, folder):
    (folder / "checkpoint-5").mkdir()
    for name in ("checkpoint-5", "none"):
        said = refused(resume_from_checkpoint=name)
        assert said.startswith(f"--resume_from_checkpoint {name}: no complete checkpoint")
        assert "name another checkpoint-N folder, or true for the newest complete one" in said


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ({"temperature": "-1"}, "--temperature is a number above 0, but is -1.0", "above 0"),
        ({"temperature": "nan"}, "--temperature is a number above 0, but is nan", "above 0"),
        ({"queue_init_size": "600"}, "--queue_init_size is 600 but --queue_size is 512", "lower the first or raise"),
        ({"pooling_mode": "sum"}, "--pooling_mode is one of", "cls, mean, max, lasttoken"),
        ({"queue_dtype": "float16"}, "--queue_dtype is one of", "float32, bfloat16, not 'float16'"),
        ({"head_dropout_prob": "1"}, "--head_dropout_prob lies in [0, 1), but is 1.0", "[0, 1)"),
        ({"num_predictor_layers": "-1"}, "--num_predictor_layers is a number of at least 0, but is -1", "at least 0"),
        ({"num_projection_layers": "0", "projection_dim": "8"}, "--projection_dim 8 needs", "raise it or leave"),
        ({"ema_decay": "2"}, "--ema_decay lies in [0, 1], but is 2.0", "[0, 1]"),
        ({"max_seq_length": "2"}, "--max_seq_length is at least 3", "at least 3"),
        ({"temperature": "warm"}, "argument --temperature: invalid float value: 'warm'", "float"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_method_value(refused, options, problem, remedy):
    said = refused(**options)
    assert said.startswith(problem)
    assert remedy in said


@pytest.mark.parametrize(
    "options",
    [
        {"seed": "-5"},
        {"seed": str(2**32)},
        {"per_device_train_batch_size": "0"},
        {"gradient_accumulation_steps": "0"},
        {"metric_for_best_model": "elegance", "validation_file": "good.tsv", "max_steps": "1"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_training_value(refused, options):
    assert next(iter(options)) in refused(**options)


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ({"token_cutoff": "1"}, "--token_cutoff lies in [0, 1), but is 1.0", "[0, 1)"),
        ({"feature_cutoff": "-0.1"}, "--feature_cutoff lies in [0, 1), but is -0.1", "[0, 1)"),
        ({"embedding_noise": "nan"}, "--embedding_noise is a number, 0 or above, but is nan", "0 or above"),
        ({"fgsm_epsilon": "-1"}, "--fgsm_epsilon is a number, 0 or above, but is -1.0", "0 or above"),
        ({"augment_view": "target", "token_cutoff": "0.1"}, "--augment_view is one of", "query, key, both"),
        ({"augment_view": "key"}, "--augment_view is key, but none of", "give one, or leave it out"),
        ({"position_shuffle": "often"}, "argument --position_shuffle/--position-shuffle: Truthy", "true/false"),
        ({"key_augmentation": "os:getcwd"}, "--key_augmentation is one of synonyms, typos", "but is os:getcwd"),
        ({"key_augmentation_rate": "0"}, "--key_augmentation_rate lies in (0, 1], but is 0.0", "(0, 1]"),
        ({"key_augmentation_rate": "0.5"}, "--key_augmentation_rate is of a --key_augmentation", "name one"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_augmentation_value(refused, options, problem, remedy):
    said = refused(**options)
    assert said.startswith(problem)
    assert remedy in said


def test_synonyms_without_wordnet(refused, monkeypatch):
    pytest.importorskip("nltk", reason="nltk is not installed: pip install mocose_hf[synonyms]")

    def find(name):
        raise LookupError(name)

    monkeypatch.setattr("nltk.data.find", find)
    read_wordnet.cache_clear()
    assert refused(key_augmentation="synonyms").endswith("run `python -m nltk.downloader wordnet`")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fp16": "true"}, "--fp16 needs a GPU, but this command computes on the CPU; "),
        ({"fp16": "true", "use_cpu": None}, "--fp16 needs a GPU, but this command computes on the CPU; "),
        (
            {"bf16": "true", "use_cpu": None},
            "--bf16 finds no GPU; set --use_cpu to compute in bfloat16 on the CPU, or ",
        ),
        ({"bf16_full_eval": "true", "use_cpu": None}, "--bf16_full_eval finds no GPU; set --use_cpu to "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_precision_that_the_cpu_does_not_have(refused, options, message):
    assert refused(**options).startswith(message)


class NoRoute(Exception):
    """What a client of HTTP raises, which is no `OSError`."""


@pytest.mark.parametrize(
    "error", [NoRoute("no route to host"), OfflineModeIsEnabled("offline mode is enabled")], ids=repr
)
def test_pushing_to_a_hub_that_cannot_be_reached(refused, monkeypatch, error):
    def create_repo(*args, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    message = refused(push_to_hub="true", max_steps="1")
    assert message.startswith(f"--push_to_hub cannot create or reach the repository ({error})")
    assert "leave it out" in message


STREAMED = {"streaming": "true", "max_steps": "3"}


@pytest.mark.parametrize(
    ("options", "problem", "remedy"),
    [
        ({"max_steps": None}, "--streaming: --max_steps must be given", "set it"),
        ({"dataloader_drop_last": "false"}, "--streaming: --dataloader_drop_last must stay true", "leave it out"),
        ({"accelerator_config": '{"dispatch_batches": true}'}, "--streaming: --accelerator_config asks", "leave both"),
        ({"accelerator_config": '{"split_batches": true}'}, "--streaming: --accelerator_config asks", "leave both"),
        ({"shuffle_buffer_size": "0"}, "--shuffle_buffer_size is 0", "give 1"),
        ({"per_device_train_batch_size": "81"}, "good.txt: 80 rows to train on, but one batch takes 81", "give more"),
        ({"train_file": "none.txt"}, "none.txt: no such file", "check the path"),
        ({"train_file": "good.doc"}, "good.doc: ", "rename it"),
        ({"train_file": "blank.txt"}, "blank.txt: 0 rows to train on", "give more"),
        ({"train_file": "bad.csv"}, "bad.csv, line 1: no column `text`", "--text_column"),
        ({"train_file": None, "dataset_name": "nobody/nothing"}, "--dataset_name nobody/nothing: ", "check name"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_streaming(refused, folder, options, problem, remedy):
    (folder / "blank.txt").write_text("\n \n", encoding="utf-8")
    (folder / "good.doc").write_text("a cat\n", encoding="utf-8")
    (folder / "bad.csv").write_text("id\n1\n", encoding="utf-8")
    said = refused(**STREAMED | options)
    assert said.startswith(problem)
    assert remedy in said


def test_streaming_without_an_end_is_reported_with_the_line_of_the_configuration(refused, folder):
    (folder / "run.yaml").write_text("streaming: true\nmax_steps: -1\n", encoding="utf-8")
    assert refused(config="run.yaml").startswith("run.yaml, line 1: --streaming: --max_steps must be given")


def test_evaluation_without_development_pairs(refused):
    assert "eval_strategy" in refused(eval_strategy="steps")


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash_attn is installed")
def test_attention_whose_package_is_missing(refused):
    assert "flash" in refused(attn_implementation="flash_attention_2").lower()


@pytest.mark.skipif(importlib.util.find_spec("comet_ml") is not None, reason="comet_ml is installed")
def test_logging_whose_package_is_missing(refused):
    assert "comet" in refused(report_to="comet_ml").lower()


ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"


@pytest.mark.parametrize(
    "options",
    [
        {"train_file": f"{ESCAPES}.txt"},
        {"train_file": "column.csv"},
        {"train_file": "column.csv", "text_column": ESCAPES},
        {"train_file": "value.jsonl"},
        {"train_file": "table.txt"},
        {"validation_file": "pairs.tsv"},
        {"model_name_or_path": ESCAPES},
        {"output_dir": f"good.txt/{ESCAPES}"},
        {"resume_from_checkpoint": ESCAPES},
        {"queue_window": ESCAPES},
        {"key_augmentation": ESCAPES},
        {"encoding": ESCAPES},
        {ESCAPES: "1"},
        {"config": "escapes.yaml"},
        {"eval_tasks": ESCAPES, "senteval_dir": "senteval"},
    ],
    ids=lambda options: ascii(next(iter(options)))[:20],
)
def test_text_of_others_cannot_steer_the_terminal(refused, folder, options):
    (folder / "column.csv").write_text(f"{ESCAPES},id\na,1\n", encoding="utf-8")
    (folder / "value.jsonl").write_text(json.dumps({"text": [ESCAPES]}) + "\n", encoding="utf-8")
    (folder / "table.txt").write_text(f"text\t{ESCAPES}\n" + "a\tb\n" * 5, encoding="utf-8")
    (folder / "pairs.tsv").write_text(f"{ESCAPES}\ta\tb\n", encoding="utf-8")
    (folder / "escapes.yaml").write_text(json.dumps({ESCAPES: 1}), encoding="utf-8")
    assert refused(**options).isprintable()


def test_file_names_cannot_steer_the_terminal_in_a_run_that_works(folder, encoder_dir, capfd):
    text, pairs = folder / f"{ESCAPES}.txt", folder / f"{ESCAPES}.tsv"
    shutil.copy(folder / "good.txt", text)
    shutil.copy(folder / "good.tsv", pairs)
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", text.name, "--validation_file", pairs.name]
    argv += ["--output_dir", f"out{ESCAPES}", "--max_steps", "1", "--use_cpu", "--per_device_train_batch_size", "8"]
    assert run_mocose.main(argv) == 0
    out, err = capfd.readouterr()
    assert "\\x1b]0;title" in out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & {*out, *err}


def test_unknown_option(refused):
    assert refused("--queue_s", "9") == "unknown option --queue_s; did you mean --queue_size?"


def test_standard_error_that_is_no_terminal_holds_no_progress_bar(folder, encoder_dir, capsys):
    (folder / "bad.txt").write_text("\n\n", encoding="utf-8")
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", "bad.txt", "--output_dir", "out"]
    assert run_mocose.main(argv) == 2
    said = "run_mocose.py: bad.txt: all 2 rows are blank; it needs one sentence a line or row.\n"
    assert capsys.readouterr().err == said


def test_the_command_ends_with_status_2(folder):
    argv = ["--model_name_or_path", "model", "--train_file", "none.txt", "--output_dir", "out"]
    before = contents(folder)
    ended = subprocess.run(
        [sys.executable, str(REPOSITORY / "run_mocose.py"), *argv],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        timeout=120,
    )
    assert ended.returncode == 2
    assert ended.stderr == "run_mocose.py: none.txt: no such file; check the path.\n"
    assert ended.stdout == ""
    assert contents(folder) == before
