"""Whatever is wrong with an input, the command ends with code 2 and one line that says where, and writes nothing."""

import csv
import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from builders import REPOSITORY, sentences, tiny_bert_config, write_tokenizer
from folder_contents import contents
from malformed import (
    CHECKPOINTS,
    CONFIGS,
    GOOD,
    GOOD_PAIRS,
    MODELS,
    PAIRS,
    TEXT,
    TEXTS,
    VALUES,
    damaged,
    mutated,
    parquet,
)
from transformers import BertModel

from mocose_hf.cli.config_file import read_config_file
from mocose_hf.data.sentences import read_sentences
from mocose_hf.data.streaming import SentenceStream
from mocose_hf.errors import InputError
from mocose_hf.evaluation import read_scored_pairs
from mocose_hf.training.checkpoint import find_corruption, write_manifest

sys.path.insert(0, str(REPOSITORY))

import run_mocose

STREAMED = {"streaming": "true", "max_steps": "2"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "good.txt").write_bytes(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def end(folder, encoder_dir, capsys):
    """Run the command, and return its exit code and the line it ends with."""

    def run(*first, **options) -> tuple[int, str]:
        good = {"model_name_or_path": encoder_dir, "train_file": "good.txt", "output_dir": "out", "use_cpu": "true"}
        options = {name: value for name, value in (good | options).items() if value is not None}
        argv = [*map(str, first), *[str(part) for name, value in options.items() for part in (f"--{name}", value)]]
        capsys.readouterr()
        sys.stderr.reconfigure(errors="backslashreplace")  # as Python's own is
        code = run_mocose.main(argv)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        *before, last = err.removesuffix("\n").split("\n")
        assert last.startswith("run_mocose.py: "), err[-600:]
        assert not any(line.startswith("run_mocose.py: ") for line in before)
        return code, last.removeprefix("run_mocose.py: ")

    return run


@pytest.fixture
def refused(folder, end):
    """Run the command on what is to be refused, and return the line it says; all files stay as they were."""

    def run(*first, **options) -> str:
        before = contents(folder)
        code, said = end(*first, **options)
        assert code == 2
        assert contents(folder) == before
        assert len(said) < 1000
        assert "\ufffd" not in said
        return said

    return run


def earlier_run(folder: Path) -> dict:
    """Fill the output directory, and return the option that would replace what is in it."""
    for name in ("model.safetensors", "checkpoint-5/model.safetensors", "sentence_encoder/config.json", "notes.txt"):
        (folder / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "out" / name).write_bytes(name.encode())
    return {"overwrite_output_dir": "true"}


def test_the_corpus_is_large():
    assert len(TEXTS) + len(PAIRS) + len(CONFIGS) + len(VALUES) + len(MODELS) + len(CHECKPOINTS) > 250


@pytest.mark.parametrize("way", ["whole", "streaming"])
@pytest.mark.parametrize(("name", "content", "problem", "remedy"), TEXTS.values(), ids=TEXTS)
def test_text_is_refused_before_training(refused, folder, name, content, problem, remedy, way):
    path = folder / name
    path.write_bytes(content)
    options = STREAMED | earlier_run(folder) if way == "streaming" else {}
    said = refused(train_file=path, **options)
    problem, remedy = (text[way] if isinstance(text, dict) else text for text in (problem, remedy))
    assert said.startswith(f"{path}{problem}")
    assert remedy in said.removeprefix(f"{path}{problem}") or remedy in problem


NOT_UTF8 = {
    "a.txt": TEXT + "Käfer".encode("latin-1"),
    "two words.txt": TEXT + "Käfer".encode("latin-1"),
    "a.txt.gz": gzip.compress(TEXT + "Käfer".encode("latin-1")),
    "b.txt": (TEXT.decode() + "Käfer").encode("utf-16"),
    "c.txt": (TEXT.decode() + "Käfer").encode("utf-32"),
    "b.txt.gz": gzip.compress((TEXT.decode() + "Käfer").encode("utf-16")),
}


@pytest.mark.skipif(shutil.which("iconv") is None, reason="there is no iconv")
@pytest.mark.parametrize("name", NOT_UTF8)
def test_the_command_that_a_refusal_gives_makes_the_file_usable(refused, folder, name):
    (folder / name).write_bytes(NOT_UTF8[name])
    command = re.search(r"convert it: (.*)", refused(train_file=name))[1]
    subprocess.run(command, shell=True, check=True, cwd=folder, capture_output=True)
    made = re.search(r"> *(new\S+)$", command)[1]
    assert list(read_sentences(folder / made).dataset["text"]) == [*GOOD, "Käfer"]


LONG = sentences(600, seed=3)
LATE = {
    "late.txt": ("\n".join(LONG) + "\nKäfer\n").encode("latin-1"),
    "late.csv": ("text,id\n" + "".join(f"{text},1\n" for text in LONG) + "a cat\n").encode(),
    "late.jsonl": ("".join(json.dumps({"text": text}) + "\n" for text in LONG) + '{"txt": "a"}\n').encode(),
    "late.txt.gz": gzip.compress(("\n".join(LONG)).encode())[:-9],
    "late.parquet": damaged(
        parquet(LONG * 4, row_group_size=600, compression="none", use_dictionary=False), 40_000, 60
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_a_late_bad_row_ends_streaming_with_its_line_and_keeps_the_checkpoints(end, folder, name):
    path = folder / name
    path.write_bytes(LATE[name])
    size = {"per_device_train_batch_size": "32", "queue_size": "64", "queue_init_size": "8", "save_steps": "3"}
    stream = {"streaming": "true", "max_steps": "100", "shuffle_buffer_size": "4", "disable_tqdm": "true"}
    code, said = end(train_file=path, **size, **stream)
    assert code == 2
    line = {"late.txt": ", line 601: ", "late.csv": ", line 602: ", "late.jsonl": ", line 601: "}.get(name, ": not a")
    assert said.startswith(f"{path}{line}")
    checkpoints = list((folder / "out").glob("checkpoint-*"))
    assert checkpoints
    assert [find_corruption(checkpoint) for checkpoint in checkpoints] == [None] * len(checkpoints)


def test_the_line_stands_apart_from_the_progress_bar(end, folder):
    (folder / "bad.txt").write_bytes(TEXT + b"\xe4\n")
    code, said = end(train_file="bad.txt", **STREAMED)
    assert code == 2
    assert said.startswith("bad.txt, line 81: not UTF-8")


KINDS = {"large": pa.large_string(), "view": pa.string_view(), "words": pa.dictionary(pa.int32(), pa.string())}
ODD_BUT_GOOD = {
    **{f"{name}.parquet": parquet(pa.array(GOOD).cast(kind)) for name, kind in KINDS.items()},
    "members.txt.gz": gzip.compress(TEXT[:500]) + gzip.compress(TEXT[500:]),
    "padded.txt.gz": gzip.compress(TEXT) + bytes(512),
    "marked.csv": b"\xef\xbb\xbftext\n" + TEXT,
    "other.jsonl": b"".join(b'{"text": "%s", "x": [NaN, -1e999, {}]}\n' % text.encode() for text in GOOD),
}


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_what_is_odd_but_good_is_read(folder, name):
    (folder / name).write_bytes(ODD_BUT_GOOD[name])
    assert list(read_sentences(name).dataset["text"]) == GOOD
    assert [row["text"] for row in SentenceStream(name).one_pass()] == GOOD


@pytest.mark.parametrize("train_file", ["good.txt", None], ids=["training", "scoring"])
@pytest.mark.parametrize(("content", "problem", "remedy"), PAIRS.values(), ids=PAIRS)
def test_development_pairs_are_refused_before_anything_is_scored(
    refused, folder, content, problem, remedy, train_file
):
    (folder / "bad.tsv").write_bytes(content)
    said = refused(train_file=train_file, validation_file="bad.tsv", max_steps="1")
    assert said.startswith(f"bad.tsv{problem}")
    assert remedy in said


@pytest.mark.parametrize("train_file", ["good.txt", None], ids=["training", "scoring"])
def test_development_pairs_of_one_sentence_are_refused(refused, folder, train_file):
    (folder / "bad.tsv").write_bytes(b"1.0\ta cat\ta cat\n5.0\ta cat\ta cat\n")
    assert refused(train_file=train_file, validation_file="bad.tsv", max_steps="1").startswith("bad.tsv: ")


GLUE = b"index genre filename year old_index source1 source2 sentence1 sentence2 score".split()
SENTEVAL = {
    "Latin-1": (b"g\tf\ty\t1\t5.0\ta\tb\ng\tf\ty\t1\t4.0\tK\xe4\tb\n", ", line 2: not UTF-8"),
    "UTF-16": ("g\tf\ty\t1\t5.0\ta\tb\n".encode("utf-16"), ", line 1: UTF-16"),
    "commas": (b"g,f,y,1,5.0,a,b\n", ", line 1: 1 tab-separated fields, but 7"),
    "nan": (b"g\tf\ty\t1\tnan\ta\tb\n", ", line 1: the score 'nan' is no number"),
    "header": (
        b"genre\tfile\tyear\tid\tscore\ta\tb\n",
        ", line 1: the score 'score' is no number; fetch the file again",
    ),
    "GLUE's columns": (b"\t".join(GLUE) + b"\n", ", line 1: 10 tab-separated fields, as in GLUE's files"),
    "GLUE's columns without header": (b"0\tg\tf\ty\t0\tu\tv\ta\tb\t5.0\n", ", line 1: 10 tab-separated fields"),
    "a score above 5": (b"g\tf\ty\t1\t5.5\ta\tb\n", ", line 1: the score 5.5 is not in [0, 5]"),
    "one score": (b"g\tf\ty\t1\t5.0\ta\tb\n", ": 1 scored pairs of one score"),
    "one sentence": (b"g\tf\ty\t1\t5.0\ta\ta\ng\tf\ty\t1\t4.0\ta\ta\n", ": "),
    "a directory": (None, ": is a directory"),
}


@pytest.mark.parametrize(("content", "problem"), SENTEVAL.values(), ids=SENTEVAL)
def test_a_folder_of_senteval_is_refused_by_file_and_line(refused, folder, content, problem):
    path = folder / "senteval" / "downstream" / "STS" / "STSBenchmark" / "sts-dev.csv"
    (path if content is None else path.parent).mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    assert refused(senteval_dir=folder / "senteval", allow_partial_tasks="true", max_steps="1").startswith(
        f"{path}{problem}"
    )


@pytest.mark.parametrize(("text", "line", "word"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_is_refused_by_its_line_and_runs_nothing(refused, folder, text, line, word):
    (folder / "bad.yaml").write_text(text, encoding="utf-8")
    said = refused("bad.yaml", max_steps="1" if "max_steps" not in text else None)
    assert said.startswith(f"bad.yaml, line {line}: ")
    assert word in said


@pytest.mark.parametrize("name", ["bad.yaml", "bad.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[1]",
        b"null",
        b"{",
        b'{"seed": 1}{"seed": 2}',
        bytes(range(256)),
        "{}".encode("utf-16"),
        b"[" * 5000,
    ],
    ids=["empty", "blank", "list", "null", "brace", "two", "binary", "UTF-16", "deep"],
)
def test_what_is_no_configuration_is_refused(refused, folder, name, content):
    (folder / name).write_bytes(content)
    assert re.match(rf"{name}(, line 1|, line 2)?: .*(mend|write|should be)", refused(name))


@pytest.mark.parametrize(
    "option", ["train_file", "validation_file", "senteval_dir", "model_name_or_path", "output_dir"]
)
@pytest.mark.parametrize("value", ['"a\\0b.txt"', '"\\ud800.txt"'], ids=["zero", "surrogate"])
def test_a_path_that_no_file_can_have_is_refused(refused, folder, option, value):
    (folder / "run.yaml").write_text(f"max_steps: 1\n{option}: {value}\n", encoding="utf-8")
    assert refused("run.yaml", **{option: None})


@pytest.mark.parametrize(("option", "value"), VALUES, ids=lambda text: text[:20] or "nothing")
def test_a_value_is_refused_by_its_option(refused, folder, option, value):
    said = refused(**({"max_steps": "1"} | {option: value}))
    assert option in said or (option.endswith("_file") and value[:99] in said)


@pytest.mark.parametrize("argument", ["--un\nknown", "st\nray", "", "--"])
def test_an_argument_that_is_none_is_refused_in_one_line(refused, argument):
    assert refused(argument).startswith("unknown option ")


def test_a_file_name_with_a_line_feed_is_reported_in_one_line(refused, folder):
    (folder / "a\nb.txt").write_bytes(b"\n")
    assert "b.txt" in refused(train_file="a\nb.txt")


def test_a_file_name_that_is_not_utf8_is_no_reason_to_fail(folder, encoder_dir):
    name = os.fsdecode(b"caf\xe9.txt")
    (folder / name).write_bytes(TEXT)
    argv = ["--model_name_or_path", encoder_dir, "--train_file", name, "--output_dir", "out", "--use_cpu"]
    assert run_mocose.main([*map(str, argv), "--max_steps", "1"]) == 0


@pytest.mark.parametrize("more", [{}, {"overwrite_output_dir": "true"}, {"resume_from_checkpoint": "true"}], ids=str)
@pytest.mark.parametrize(
    "name", ["dangling", "loop", "loop/out", "x" * 300, "/proc/none", "good.txt/out", "/dev/null"]
)
def test_an_output_directory_that_cannot_be_made_is_refused(refused, folder, name, more):
    (folder / "dangling").symlink_to("/none/at/all")
    (folder / "loop").symlink_to("loop")
    said = refused(output_dir=name, max_steps="1", **more)
    assert said.startswith(f"--output_dir {name[:99]}")
    assert "name " in said


@pytest.mark.parametrize("spoil", MODELS.values(), ids=MODELS)
def test_a_model_is_refused_by_its_directory_and_runs_nothing(refused, folder, encoder_dir, monkeypatch, spoil):
    spoil(Path(shutil.copytree(encoder_dir, folder / "model")))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    said = refused(model_name_or_path="model", max_steps="1", **earlier_run(folder))
    assert said.startswith("--model_name_or_path model: cannot be loaded (")
    assert "trust_remote_code" not in said


SETTINGS = {"per_device_train_batch_size": 16, "queue_size": 32, "queue_init_size": 4, "save_steps": 2, "max_steps": 4}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoder_dir) -> Path:
    """The output directory of a run, with checkpoints at steps 2 and 4."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "good.txt").write_bytes(TEXT)
    options = {"model_name_or_path": encoder_dir, "train_file": folder / "good.txt", "output_dir": folder / "out"}
    options |= SETTINGS | {"use_cpu": "true", "disable_tqdm": "true"}
    assert run_mocose.main([str(part) for name, value in options.items() for part in (f"--{name}", value)]) == 0
    return folder / "out"


@pytest.mark.parametrize("spoil", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_is_refused_by_its_name(refused, folder, finished, spoil):
    spoil(Path(shutil.copytree(finished, folder / "out")) / "checkpoint-2")
    said = refused(resume_from_checkpoint="out/checkpoint-2", disable_tqdm="true", **SETTINGS)
    assert "out/checkpoint-2" in said
    assert re.search(r"name another|repeat that run's|resume from", said)


@pytest.mark.parametrize("output_dir", ["out", "another"])
@pytest.mark.parametrize("changed", ["data", "model", "seed", "temperature", "queue_size", "max_steps"])
def test_a_checkpoint_of_another_run_is_refused_by_its_name(refused, folder, finished, changed, output_dir):
    shutil.copytree(finished, folder / "out")
    options = SETTINGS | {"resume_from_checkpoint": "out/checkpoint-2", "output_dir": output_dir}
    if changed == "data":
        (folder / "good.txt").write_bytes(TEXT.replace(b"cat", b"cow"))
    elif changed == "model":
        write_tokenizer(folder / "model")
        BertModel(tiny_bert_config(hidden_size=16)).save_pretrained(folder / "model")
        options["model_name_or_path"] = "model"
    else:
        options[changed] = {"seed": 1, "temperature": 0.1, "queue_size": 16, "max_steps": 9}[changed]
    assert refused(**options).startswith("out/checkpoint-2")


TRICKY = ["Käfer", "日本語 🙂", 'a, "b"']
TABLE = io.StringIO()
csv.writer(TABLE).writerows([["text", "id"], *[[text, i] for i, text in enumerate(GOOD[:30] + TRICKY)]])
TYPED = {"seed": 5, "learning_rate": 3e-5, "report_to": ["none"], "lr_scheduler_kwargs": {"a": [1, {"b": "c"}]}}
WHOLE = {
    "a.txt": "\n".join(GOOD[:30] + TRICKY).encode(),
    "a.csv": TABLE.getvalue().encode(),
    "a.tsv": b"text\tid\n" + b"".join(text.encode() + b"\t1\n" for text in GOOD[:30] + TRICKY),
    "a.jsonl": b"".join(json.dumps({"text": text, "id": 1}).encode() + b"\n" for text in GOOD[:30] + TRICKY),
    "a.parquet": parquet(GOOD[:30] + TRICKY, row_group_size=10),
    "pairs.tsv": GOOD_PAIRS + "2.5\tKäfer\tx\n".encode(),
    "a.yaml": b"seed: 5 # one\nreport_to: [none]\nlr_scheduler_kwargs: {a: [1, {b: c}], d: e}\nqueue_size: 64\n",
    "a.json": json.dumps(TYPED, indent=1).encode(),
    "manifest.json": b"",
}
WHOLE |= {f"{name}.gz": gzip.compress(WHOLE[name], mtime=0) for name in ("a.txt", "a.csv", "a.jsonl", "a.parquet")}


def read(path: Path) -> list[str]:
    """Return the texts of a file by all that reads files of its kind."""
    if path.suffix in (".yaml", ".json"):
        return [value for entry in read_config_file(str(path)).values() for value in entry.values]
    if path.name == "pairs.tsv":
        pairs = read_scored_pairs(path)
        return [*pairs["sentence1"], *pairs["sentence2"]]
    texts = list(read_sentences(path).dataset["text"])
    assert list(dict.fromkeys(row["text"] for row in SentenceStream(path).one_pass())) == texts
    return texts


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("start", range(0, 40, 20))
def test_whatever_bytes_change_a_file_is_read_or_refused_in_one_line(tmp_path, monkeypatch, name, start):
    monkeypatch.chdir(tmp_path)
    for seed in range(start, start + 20):
        path, chance = tmp_path / name, random.Random(f"{seed} {name}")
        if name == "manifest.json":
            (tmp_path / "trainer_state.json").write_text("{}")
            write_manifest(tmp_path, {"seed": 1})
        path.write_bytes(mutated(WHOLE[name] or path.read_bytes(), chance))
        place = f"seed {seed}, {name}: {path.read_bytes()[:3000]!r}"
        try:
            said = find_corruption(tmp_path) if name == "manifest.json" else None
            texts = [] if name == "manifest.json" else read(path)
        except InputError as error:
            said, texts = str(error), []
            assert said.startswith(str(path)), place
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} at {place}") from error
        assert said is None or ("\n" not in said and 0 < len(said) < 1000), place
        assert all(isinstance(text, str) and text.strip("\r\n") == text and "\ufffd" not in text for text in texts), (
            place
        )
