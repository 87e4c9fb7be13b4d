"""Nothing runs from a file: real starts and real resumes on files that would, each proven to do so elsewhere."""

import ast
import builtins
import contextlib
import importlib.util
import json
import os
import pickle
import pickletools
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers.dynamic_module_utils
import yaml
from attacks import FORMATS, Attack, save_zip
from builders import HELPERS, REPOSITORY, sentences, tiny_bert_config, tiny_model
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BertModel

from mocose_hf import MoCoSEForPreTraining, load_tokenizer
from mocose_hf.models.loading import load_encoder
from mocose_hf.models.sentence_transformers_format import read_layout
from mocose_hf.training.checkpoint import read_manifest, write_manifest

sys.path.insert(0, str(REPOSITORY))

import run_mocose

OPENED = (
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "rng_state_0.pth",
    "scaler.pt",
    "global_step3/mp_rank_00_model_states.pt",
    "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt",
)
NEVER_OPENED = ("training_args.bin", "pytorch_model.bin", "optimizer.bin", "scheduler.bin")


def unpickle(file: Path) -> None:
    """Load a file without restriction, as an attacker hopes for."""
    with contextlib.suppress(Exception), file.open("rb") as opened:  # torch would look at the name
        torch.load(opened, weights_only=False)
    with contextlib.suppress(Exception):
        pickle.loads(file.read_bytes())


def assert_live(file: Path, marker: Path) -> None:
    """Check that nothing ran so far, and that the file would have run something."""
    assert not marker.exists(), f"{file} was run"
    unpickle(file)
    assert marker.exists(), f"{file} would not have done anything"


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_json(path: Path, **entries) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, content | entries)


def arguments(encoder_dir, text_file, output_dir, *more) -> list[str]:
    argv = ["--model_name_or_path", encoder_dir, "--train_file", text_file, "--output_dir", output_dir]
    argv += ["--per_device_train_batch_size", "4", "--queue_size", "16", "--queue_init_size", "4", "--save_steps", "3"]
    return [*map(str, argv), "--use_cpu", "--disable_tqdm", "true", *more]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n".join(sentences(26)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, encoder_dir, text_file) -> Path:
    """The output directory of a tiny run, with checkpoints at steps 3 and 6."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    assert run_mocose.main(arguments(encoder_dir, text_file, folder)) == 0
    return folder


@pytest.fixture
def interrupted(finished, tmp_path) -> Path:
    """The same after step 3."""
    shutil.copytree(finished / "checkpoint-3", tmp_path / "out" / "checkpoint-3")
    return tmp_path / "out"


@pytest.fixture
def resume(interrupted, encoder_dir, text_file, capsys):
    """Sign the checkpoint as it lies there, go on from it, and return the exit code and what was said last."""

    def run() -> tuple[int, str]:
        checkpoint = interrupted / "checkpoint-3"
        write_manifest(checkpoint, read_manifest(checkpoint))
        capsys.readouterr()
        code = run_mocose.main(arguments(encoder_dir, text_file, interrupted, "--resume_from_checkpoint", "true"))
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return code, error.rstrip("\n").rpartition("\n")[2]

    return run


@pytest.mark.parametrize("save", FORMATS)
@pytest.mark.parametrize("name", OPENED)
def test_going_on_from_a_forged_checkpoint_is_refused_and_runs_nothing(interrupted, tmp_path, resume, name, save):
    marker, file = tmp_path / "marker", interrupted / "checkpoint-3" / name
    file.parent.mkdir(exist_ok=True)
    save({"state": {}, "_": Attack(marker)}, file)
    code, said = resume()
    assert code == 2
    assert said.startswith(f"run_mocose.py: {file}: holds more than tensors and numbers")
    assert not (interrupted / "checkpoint-6").exists()
    assert_live(file, marker)


@pytest.mark.parametrize("name", NEVER_OPENED)
def test_pickles_beside_a_checkpoint_are_left_closed(interrupted, finished, tmp_path, resume, name):
    marker, file = tmp_path / "marker", interrupted / "checkpoint-3" / name
    save_zip(Attack(marker), file)
    assert resume()[0] == 0
    first, second = (load_file(folder / "mocose" / "model.safetensors") for folder in (finished, interrupted))
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert_live(file, marker)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("save", FORMATS)
def test_a_pickle_in_place_of_the_weights_of_a_checkpoint_is_left_closed(interrupted, tmp_path, resume, name, save):
    marker, checkpoint = tmp_path / "marker", interrupted / "checkpoint-3"
    (checkpoint / "model.safetensors").unlink()
    save(Attack(marker), checkpoint / name)
    code, said = resume()
    assert code == 2
    assert "model.safetensors" in said
    assert_live(checkpoint / name, marker)


def test_the_environment_cannot_lift_the_restriction(interrupted, tmp_path, resume, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    marker, file = tmp_path / "marker", interrupted / "checkpoint-3" / "optimizer.pt"
    save_zip({"state": {}, "_": Attack(marker)}, file)
    assert resume()[0] == 2
    assert not marker.exists()
    with pytest.warns(UserWarning, match="forcing weights_only=False"):
        torch.load(file)
    assert marker.exists(), "the variable should lift torch's default"


@pytest.fixture
def model_dir(encoder_dir, tmp_path) -> Path:
    return Path(shutil.copytree(encoder_dir, tmp_path / "model"))


@pytest.fixture
def start(model_dir, text_file, tmp_path, capsys, monkeypatch):
    """Start a training from `model_dir`, which is to be refused in one line and without a question; returns it."""
    asked = []
    monkeypatch.setattr(builtins, "input", lambda prompt="": asked.append(prompt) or "y")

    def run() -> str:
        capsys.readouterr()
        assert run_mocose.main(arguments(model_dir, text_file, tmp_path / "out")) == 2
        error = capsys.readouterr().err
        assert asked == []
        assert not (tmp_path / "out").exists()
        said = error.rstrip("\n").rpartition("\n")[2]
        head = f"run_mocose.py: --model_name_or_path {model_dir}: cannot be loaded ("
        assert said.startswith(head)
        assert said.endswith("); give a directory with config.json, weights and tokenizer, or a model id of the hub.")
        assert "trust_remote_code" not in error
        assert "…" not in said
        return said.removeprefix(head)

    return run


NO_SAFETENSORS = (
    "no model.safetensors was found; weights in pickles, such as pytorch_model.bin, can run code and are not loaded: "
    "convert them in a throw-away environment by AutoModel.from_pretrained(old).save_pretrained(new), and "
    "AutoTokenizer likewise);"
)


@pytest.mark.parametrize("save", FORMATS)
def test_an_encoder_in_a_pickle_is_refused_with_the_remedy(model_dir, tmp_path, start, save):
    marker = tmp_path / "marker"
    (model_dir / "model.safetensors").unlink()
    save(Attack(marker), model_dir / "pytorch_model.bin")
    assert start().startswith(NO_SAFETENSORS)
    assert_live(model_dir / "pytorch_model.bin", marker)


def shards(directory: Path, index: str, shard: str) -> Path:
    (directory / "model.safetensors").unlink()
    names = BertModel(tiny_bert_config()).state_dict()
    write_json(directory / index, {"metadata": {}, "weight_map": dict.fromkeys(names, shard)})
    return directory / shard


def named_in_config(directory: Path) -> Path:
    edit_json(directory / "config.json", transformers_weights="adapter_model.bin")
    return directory / "adapter_model.bin"


def in_a_folder(directory: Path) -> Path:
    files = list(directory.iterdir())
    for file in files:
        (directory / "0_Transformer").mkdir(exist_ok=True)
        file.rename(directory / "0_Transformer" / file.name)
    write_json(
        directory / "modules.json", [{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    )
    (directory / "0_Transformer" / "model.safetensors").unlink()
    return directory / "0_Transformer" / "pytorch_model.bin"


@pytest.mark.parametrize(
    "place",
    [
        lambda directory: shards(directory, "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
        lambda directory: shards(directory, "model.safetensors.index.json", "pytorch_model-00001-of-00001.bin"),
        named_in_config,
        in_a_folder,
    ],
    ids=["shards", "shards of a safetensors index", "named in the configuration", "folder of its own"],
)
def test_an_encoder_in_a_pickle_elsewhere_is_refused_too(model_dir, tmp_path, start, place):
    file = place(model_dir)
    save_zip(Attack(tmp_path / "marker"), file)
    assert start().startswith(NO_SAFETENSORS)
    assert_live(file, tmp_path / "marker")


@pytest.mark.parametrize("save", FORMATS)
def test_a_pickle_named_safetensors_is_refused(model_dir, tmp_path, start, save):
    save(Attack(tmp_path / "marker"), model_dir / "model.safetensors")
    start()
    assert_live(model_dir / "model.safetensors", tmp_path / "marker")


def test_a_pickle_beside_safetensors_is_left_closed(model_dir, tmp_path):
    save_zip(Attack(tmp_path / "marker"), model_dir / "pytorch_model.bin")
    expected = load_file(model_dir / "model.safetensors")
    loaded = load_encoder(str(model_dir)).encoder.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert_live(model_dir / "pytorch_model.bin", tmp_path / "marker")


def test_safetensors_in_shards_are_loaded(model_dir):
    expected = load_file(model_dir / "model.safetensors")
    AutoModel.from_pretrained(model_dir).save_pretrained(model_dir, max_shard_size="20KB")
    (model_dir / "model.safetensors").unlink(missing_ok=True)
    assert len(list(model_dir.glob("model-*.safetensors"))) > 1
    loaded = load_encoder(str(model_dir)).encoder.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_the_remedy_works(model_dir, tmp_path, tokenizer):
    expected = load_file(model_dir / "model.safetensors")
    (model_dir / "model.safetensors").unlink()
    torch.save(expected, model_dir / "pytorch_model.bin")
    with pytest.raises(OSError, match=re.escape(NO_SAFETENSORS[:40])):
        load_encoder(str(model_dir))
    AutoModel.from_pretrained(model_dir).save_pretrained(tmp_path / "new")
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(tmp_path / "new")
    source = load_encoder(str(tmp_path / "new"))
    loaded = source.encoder.state_dict()
    assert source.pooler is not None
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert load_tokenizer(str(tmp_path / "new")).get_vocab() == tokenizer.get_vocab()


def test_a_mocose_model_in_a_pickle_is_refused(model_dir, tmp_path, start):
    tiny_model().save_pretrained(model_dir)
    assert load_encoder(str(model_dir)).pooling_mode == "cls"
    (model_dir / "model.safetensors").unlink()
    save_zip(Attack(tmp_path / "marker"), model_dir / "pytorch_model.bin")
    assert start().startswith(NO_SAFETENSORS)
    assert_live(model_dir / "pytorch_model.bin", tmp_path / "marker")


@pytest.fixture
def hub_cache(model_dir, tmp_path) -> Path:
    """A cache in which `some/encoder` of the hub lies; returns the folder of its files."""
    repository = tmp_path / "cache" / "models--some--encoder"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(model_dir, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    return snapshot


def test_a_pickle_of_the_hub_is_neither_loaded_nor_handed_to_a_bot_to_convert(hub_cache, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("transformers.modeling_utils.is_offline_mode", lambda: False)
    monkeypatch.setattr("transformers.modeling_utils.auto_conversion", lambda *a, **k: called.append(a) or (None,) * 3)
    load_encoder("some/encoder", cache_dir=str(tmp_path / "cache"))
    (hub_cache / "model.safetensors").unlink()
    save_zip(Attack(tmp_path / "marker"), hub_cache / "pytorch_model.bin")
    with pytest.raises(OSError, match=re.escape(NO_SAFETENSORS[:40])):
        load_encoder("some/encoder", cache_dir=str(tmp_path / "cache"))
    assert called == []
    with pytest.raises(OSError):  # noqa: PT011
        AutoModel.from_pretrained("some/encoder", cache_dir=str(tmp_path / "cache"), use_safetensors=True)
    assert len(called) == 1, "transformers alone would have asked the bot"
    assert_live(hub_cache / "pytorch_model.bin", tmp_path / "marker")


CODE = """
import os
from transformers import BertConfig, BertModel, BertTokenizer

os.makedirs({marker!r}, exist_ok=True)


class OwnConfig(BertConfig):
    model_type = "own-kind"


class OwnModel(BertModel):
    config_class = OwnConfig


class OwnTokenizer(BertTokenizer):
    pass
"""


@pytest.fixture
def code(model_dir, tmp_path, monkeypatch):
    """Put code into `model_dir`; returns the marker that it leaves when it is imported."""
    (model_dir / "own.py").write_text(CODE.format(marker=str(tmp_path / "marker")), encoding="utf-8")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "marker"


OWN_MODEL = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel", "AutoModelForPreTraining": "own.OwnModel"}


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_a_model_that_needs_its_own_code_is_refused_without_a_question(model_dir, code, start, own_tokenizer):
    edit_json(model_dir / "config.json", model_type="own-kind", auto_map=OWN_MODEL)
    if own_tokenizer:
        auto_map = {"AutoTokenizer": ["own.OwnTokenizer", None]}
        edit_json(model_dir / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)
    assert start().startswith("it needs Python code that comes with it, which is not run; start from a model type")
    assert not code.exists()
    AutoModel.from_pretrained(model_dir, trust_remote_code=True)
    assert code.exists()


def test_code_beside_a_model_of_a_known_kind_is_not_run(model_dir, code):
    edit_json(model_dir / "config.json", auto_map=OWN_MODEL)
    auto_map = {"AutoTokenizer": ["own.OwnTokenizer", None]}
    edit_json(model_dir / "tokenizer_config.json", auto_map=auto_map)
    assert type(load_encoder(str(model_dir)).encoder) is BertModel
    assert len(load_tokenizer(str(model_dir))) > 40
    assert not code.exists()
    AutoModel.from_pretrained(model_dir, trust_remote_code=True)
    assert code.exists()


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("name", ["AutoConfig", "AutoModel", "AutoTokenizer", "BertModel", "models"])
def test_a_tokenizer_class_that_is_no_tokenizer_is_refused(model_dir, code, start, name, file):
    edit_json(model_dir / "config.json", model_type="own-kind", auto_map=OWN_MODEL)
    edit_json(model_dir / file, tokenizer_class=name)
    assert start().startswith(f"its `tokenizer_class` is {name}, which is no tokenizer; fetch the model again")
    assert not code.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("kind", ["bert", "mocose"])
def test_a_configuration_that_names_a_kernel_of_the_hub_is_refused(model_dir, start, key, kind):
    if kind == "mocose":
        tiny_model().save_pretrained(model_dir)
    edit_json(model_dir / "config.json", **{key: "someone/kernel"})
    assert start().startswith(f"its configuration asks for {key.lstrip('_')}: someone/kernel, which is code on the")


def test_an_adapter_which_names_another_model_is_refused(model_dir, start):
    write_json(model_dir / "adapter_config.json", {"base_model_name_or_path": "some/other", "peft_type": "LORA"})
    assert start().startswith("it is an adapter of another model; merge the two")


def test_modules_of_a_sentence_transformers_model_are_not_imported(model_dir, code, monkeypatch):
    monkeypatch.syspath_prepend(str(model_dir))
    modules = [{"path": "", "type": "own.Transformer"}, {"path": "1_Own", "type": "own.OwnModel"}]
    write_json(model_dir / "modules.json", modules)
    layout = read_layout(str(model_dir))
    assert layout.other_modules == ("OwnModel",)
    assert type(load_encoder(str(model_dir)).encoder) is BertModel
    load_tokenizer(str(model_dir))
    assert "own" not in sys.modules
    assert not code.exists()


@pytest.mark.parametrize(
    "modules",
    [{}, [1], [{"type": "models.Transformer"}], [{"path": None, "type": "models.Transformer"}], "x", [{"path": ""}]],
)
def test_modules_that_are_none_are_refused(model_dir, start, modules):
    write_json(model_dir / "modules.json", modules)
    assert "modules.json: not a list of `path` and `type`; fetch the model again" in start()


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_modules_that_lie_outside_the_model_are_refused(model_dir, start, path):
    write_json(model_dir / "modules.json", [{"path": path, "type": "models.Transformer"}])
    assert f"modules.json: {path} lies outside the model; fetch the model again" in start()


def test_a_file_of_a_layout_that_is_no_object_is_refused(model_dir, start):
    write_json(model_dir / "modules.json", [{"path": "", "type": "models.Transformer"}])
    write_json(model_dir / "sentence_bert_config.json", [1])
    assert "sentence_bert_config.json: not a JSON object" in start()


def test_a_chat_template_is_carried_along_and_not_rendered(model_dir, text_file, tmp_path):
    template = "{{ 1 / 0 }}"
    (model_dir / "chat_template.jinja").write_text(template, encoding="utf-8")
    assert run_mocose.main(arguments(model_dir, text_file, tmp_path / "out", "--max_steps", "1")) == 0
    tokenizer = load_tokenizer(str(tmp_path / "out"))
    assert tokenizer.chat_template == template
    with pytest.raises(ZeroDivisionError):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}])


@pytest.mark.parametrize("streaming", ["false", "true"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_dataset_script_is_not_run(encoder_dir, text_file, tmp_path, capsys, monkeypatch, folder, streaming):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / ("own/own.py" if folder else "own.py")
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\n", encoding="utf-8")
    argv = arguments(encoder_dir, text_file, tmp_path / "out", "--streaming", streaming, "--max_steps", "1")
    argv[argv.index("--train_file") : argv.index("--train_file") + 2] = [
        "--dataset_name",
        "own" if folder else "own.py",
    ]
    assert run_mocose.main(argv) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"--dataset_name own(\.py)?: cannot be loaded \(.*scripts are no longer supported", said)
    assert not (tmp_path / "marker").exists()
    subprocess.run([sys.executable, str(script)], check=True)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("option", ["seed", "include_for_metrics", "accelerator_config"])
def test_tags_of_a_configuration_file_make_no_objects(encoder_dir, text_file, tmp_path, capsys, option):
    marker, config = tmp_path / "marker", tmp_path / "run.yaml"
    value = f"!!python/object/apply:os.mkdir [{marker}]"
    value = f"{{split_batches: {value}}}" if option == "accelerator_config" else value
    config.write_text(f"{option}: {value}\n", encoding="utf-8")
    with contextlib.suppress(yaml.YAMLError):
        run_mocose.main([str(config), *arguments(encoder_dir, text_file, tmp_path / "out", "--max_steps", "1")])
    assert not marker.exists()
    yaml.unsafe_load(config.read_text(encoding="utf-8"))
    assert marker.exists()


def unpickles(file: Path) -> bool:
    """Return whether a file is a pickle, or a zip archive as torch makes them, whatever its name.

    The length at the start of a safetensors file may read as a pickle of one value, so that format goes first.
    """
    with contextlib.suppress(SafetensorError), safe_open(file, framework="pt"):
        return False
    if zipfile.is_zipfile(file):
        return True
    try:
        return len(list(pickletools.genops(file.read_bytes()))) > 0
    except Exception:  # pickletools raises many kinds
        return False


def test_what_is_shared_holds_no_pickle_and_no_code(finished, tmp_path):
    for save in FORMATS:
        save({"a": torch.ones(2)}, tmp_path / save.__name__)
        assert unpickles(tmp_path / save.__name__)
    files = [path for path in finished.rglob("*") if path.is_file()]
    shared = [path for path in files if not path.relative_to(finished).parts[0].startswith("checkpoint-")]
    assert len(shared) > 10
    assert {path.suffix for path in shared} <= {".html", ".json", ".jsonl", ".safetensors", ".md", ".txt"}
    assert [path for path in shared if unpickles(path)] == []
    assert {path.name for path in files if unpickles(path)} == {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert [path for path in files if path.suffix in (".bin", ".py", ".pkl")] == []
    assert [path for path in shared if path.suffix == ".json" and "auto_map" in path.read_text(encoding="utf-8")] == []


def test_saving_a_model_alone_leaves_no_pickle(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert int(MoCoSEForPreTraining.from_pretrained(tmp_path).queue.num_filled) == 4


UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "imp"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.read_pickle", "torch.hub.load"}
UNSAFE_CALLS |= {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.package"}


def unsafe_parts(source: str) -> list[str]:
    """Return what in a source could run something out of a file, a line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Attribute) and node.attr in ("Loader", "FullLoader", "UnsafeLoader"):
            found.append(f"line {node.lineno}: {node.attr}")
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        bad = name in UNSAFE_CALLS
        bad |= name.endswith("torch.load") and keywords.get("weights_only") != "True"
        bad |= "pickle_module" in keywords or keywords.get("allow_pickle", "False") != "False"
        bad |= keywords.get("trust_remote_code", "False") != "False" or keywords.get("shell", "False") != "False"
        if bad:
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=True, pickle_module=x)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.compose(text, Loader=yaml.UnsafeLoader)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=given)",
        "load_dataset(name, trust_remote_code=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_unsafe_code_finds_it(source):
    assert len(unsafe_parts(source)) == 1


def test_no_source_unpickles_evaluates_or_trusts():
    sources = [REPOSITORY / "run_mocose.py"]
    for folder in ("mocose_hf", "examples", "benchmarks"):
        sources += sorted((REPOSITORY / folder).rglob("*.py"))
    assert len(sources) > 25
    found = {str(path): unsafe_parts(path.read_text(encoding="utf-8")) for path in sources}
    assert {path: parts for path, parts in found.items() if parts} == {}


def test_a_torch_whose_restriction_can_be_bypassed_is_not_accepted():
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert [int(part) for part in re.search(r'"torch>=(\d+)\.(\d+)', project).groups()] >= [2, 10]
    assert "CVE-2026-24747" in (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")


def test_every_loader_of_a_model_declines_its_code():
    tree = ast.parse((REPOSITORY / "mocose_hf" / "models" / "loading.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    loads = [node for node in calls if ast.unparse(node.func).endswith(".from_pretrained")]
    assert len(loads) == 4
    assert all("trust_remote_code=False" in ast.unparse(node) for node in loads)


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="deepspeed is not installed: pip install mocose_hf[deepspeed]",
)


def poison(folder: Path, marker: Path) -> None:
    for file in folder.glob("*.pt"):
        save_zip({"_": Attack(marker)}, file)


def forge_plain(checkpoint: Path, marker: Path) -> None:
    poison(checkpoint / "global_step3", marker)


def forge_latest(checkpoint: Path, marker: Path) -> None:
    """Have `latest`, which tells DeepSpeed where to read, point out of the checkpoint."""
    poison(Path(shutil.copytree(checkpoint / "global_step3", checkpoint.parent / "elsewhere")), marker)
    (checkpoint / "latest").write_text("../elsewhere", encoding="utf-8")


def forge_link(checkpoint: Path, marker: Path) -> None:
    poison((checkpoint / "global_step3").rename(checkpoint.parent / "elsewhere"), marker)
    (checkpoint / "global_step3").symlink_to("../elsewhere", target_is_directory=True)


def forge_best(checkpoint: Path, marker: Path) -> None:
    """Have the state name another checkpoint as the best, which is loaded at the end of training."""
    best = Path(shutil.copytree(checkpoint, checkpoint.with_name("checkpoint-2")))
    poison(best / "global_step3", marker)
    write_manifest(best, read_manifest(best))
    edit_json(checkpoint / "trainer_state.json", best_model_checkpoint=str(best), best_global_step=2, best_metric=1e9)


FORGERIES = {"plain": forge_plain, "latest": forge_latest, "link": forge_link, "best": forge_best}


def go_on_from_forgeries(encoder_dir: str, text_file: str, folder: str) -> None:
    """Train under DeepSpeed, and go on from each forgery; writes report.json, and is run in a process of its own."""
    pairs = Path(folder) / "pairs.tsv"
    made = sentences(24, seed=5)
    pairs.write_text("".join(f"{i * 0.4:.1f}\t{made[i]}\t{made[i + 12]}\n" for i in range(12)), encoding="utf-8")
    more = ["--deepspeed", str(REPOSITORY / "ds_configs" / "zero2.json"), "--save_total_limit", "5"]
    more += ["--validation_file", str(pairs), "--eval_steps", "3"]
    out = Path(folder) / "out"
    report = {"whole": run_mocose.main(arguments(encoder_dir, text_file, out, *more))}
    for name, forge in FORGERIES.items():
        checkpoint = Path(folder) / name / "checkpoint-3"
        shutil.copytree(out / "checkpoint-3", checkpoint)
        forge(checkpoint, Path(folder) / f"marker-{name}")
        write_manifest(checkpoint, read_manifest(checkpoint))
        argv = arguments(encoder_dir, text_file, checkpoint.parent, *more, "--resume_from_checkpoint", "true")
        try:
            report[name] = run_mocose.main(argv)
        except Exception as error:  # what an attack that ran leads to
            report[name] = repr(error)
        write_json(Path(folder) / "report.json", report)


@pytest.fixture(scope="module")
def forgeries(tmp_path_factory, encoder_dir, text_file):
    """The folder of `go_on_from_forgeries`."""
    folder = tmp_path_factory.mktemp("forgeries")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{REPOSITORY}:{HELPERS}",
        "TORCH_EXTENSIONS_DIR": str(folder / "compiled"),
    }
    done = subprocess.run(
        [sys.executable, __file__, str(encoder_dir), str(text_file), str(folder)],
        env=os.environ | process,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["whole"] == 0
    return folder


@needs_deepspeed
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "latest",
        "link",
        "best",
    ],
)
def test_deepspeed_is_handed_no_forged_checkpoint(forgeries, name):
    marker = forgeries / f"marker-{name}"
    assert not marker.exists()
    assert json.loads((forgeries / "report.json").read_text(encoding="utf-8"))[name] == 2
    file = next(file for file in (forgeries / name).rglob("*optim_states.pt") if b"mkdir" in file.read_bytes())
    assert_live(file, marker)


if __name__ == "__main__":
    go_on_from_forgeries(*sys.argv[1:])
