import importlib.util
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from builders import HELPERS, REPOSITORY, sentences, tiny_bert_config, tiny_model, write_tokenizer
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, BertModel

from mocose_hf import load_tokenizer
from mocose_hf.cli.options import parse_command_line
from mocose_hf.errors import InputError, install_command
from mocose_hf.evaluation import evaluate_pairs
from mocose_hf.models.ema import update_ema
from mocose_hf.parallel.deepspeed import (
    checkpoint_globals,
    keep_weights_in_float32,
    local_values,
    validate_deepspeed_checkpoint,
    validate_whole_weights,
    whole_weights,
)
from mocose_hf.training.checkpoint import validate_pickles

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="deepspeed is not installed: pip install mocose_hf[deepspeed]",
)


@pytest.fixture(scope="module")
def small_encoder_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("small_encoder")
    write_tokenizer(directory)
    torch.manual_seed(7)
    BertModel(tiny_bert_config(num_hidden_layers=1)).save_pretrained(directory)
    return directory


def environment(**more) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | {k: str(v) for k, v in more.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_encoder_dir):
    """What `train_with_deepspeed.py` leaves behind: its folder, and its report of each run."""
    folder = tmp_path_factory.mktemp("deepspeed")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [
            *launcher,
            str(HELPERS / "train_with_deepspeed.py"),
            str(small_encoder_dir),
            str(folder),
        ],
        cwd=REPOSITORY,
        env=environment(TORCH_EXTENSIONS_DIR=folder / "compiled"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return SimpleNamespace(folder=folder, report=json.loads((folder / "report.json").read_text()))


@needs_deepspeed
@pytest.mark.slow
class TestOnTwoProcesses:
    @pytest.mark.parametrize("accumulation", [1, 2])
    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_each_stage_ends_in_the_weights_and_queue_of_plain_ddp(self, runs, stage, accumulation):
        self.compare(runs, f"zero{stage}-{accumulation}", f"ddp-{accumulation}", stage)

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_each_stage_takes_the_fgsm_step_and_the_rates_of_plain_ddp(self, runs, stage):
        self.compare(runs, f"zero{stage}-fgsm", "ddp-fgsm", stage)

    @pytest.mark.parametrize(("name", "sharded"), [("shards-1", True), ("residents-1", False)])
    def test_ema_moves_shards_and_resident_weights_alike(self, runs, name, sharded):
        report = runs.report[name]
        assert (report["resident"] == 0) == sharded
        assert (report["sharded"] == 0) != sharded
        self.compare(runs, name, "ddp-1", 3)

    @staticmethod
    def compare(runs, name, plain_name, stage):
        plain, zero = (load_file(runs.folder / f"{n}.safetensors") for n in (plain_name, name))
        report = runs.report[name]
        assert report["processes"] == runs.report[plain_name]["processes"] == 2
        assert (runs.report[plain_name]["stage"], report["stage"]) == (None, stage)
        assert report["optimizer"].startswith("DeepSpeedZeroOptimizer")
        assert report["processes_agree"]
        assert plain.keys() == zero.keys()
        for key in plain:
            torch.testing.assert_close(zero[key], plain[key], atol=1e-6, rtol=0, msg=key)
        exact = ("queue.row_ids", "queue.enqueued_at", "queue.pointer", "queue.num_filled")
        assert all(torch.equal(zero[key], plain[key]) for key in exact)

    def test_default_threshold_shards_some_weights_and_leaves_some_resident(self, runs):
        assert min(runs.report["zero3-1"][kind] for kind in ("sharded", "resident")) > 10

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_resumed_run_ends_in_the_same_bits_with_or_without_evaluation(self, runs, stage):
        report = runs.report[f"resumed{stage}"]
        assert report["different"] == []
        assert sum("optim_states" in file for file in report["files"]) == 2
        assert sum("rng_state" in file for file in report["files"]) == 2
        whole, resumed = (
            load_file(runs.folder / f"{n}{stage}/checkpoint-6/model.safetensors") for n in ("whole", "resumed")
        )
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_a_queue_in_bfloat16_stays_so_beside_weights_in_float32(self, runs, stage):
        for name in (f"whole{stage}", f"resumed{stage}"):
            assert runs.report[name]["dtypes"] == ["torch.bfloat16", "torch.float32"]
            assert runs.report[name]["processes_agree"]
            saved = load_file(runs.folder / name / "checkpoint-6" / "model.safetensors")
            assert {n for n, v in saved.items() if v.dtype == torch.bfloat16} == {"queue.rows"}

    @pytest.mark.parametrize("stage", [1, 2, 3])
    def test_best_checkpoint_is_loaded_whole_and_scores_as_the_sharded_model(self, runs, stage, small_encoder_dir):
        report = runs.report[f"resumed{stage}"]
        assert report["best"].endswith("checkpoint-4")
        state = load_file(runs.folder / f"resumed{stage}.safetensors")
        loaded = AutoModelForPreTraining.from_pretrained(report["best"])
        light = AutoModel.from_pretrained(report["best"])
        assert [n for n, v in loaded.state_dict().items() if n in state and not torch.equal(v, state[n])] == []
        assert [n for n, v in light.state_dict().items() if not torch.equal(v, state[f"mocose.{n}"])] == []
        pairs = {"score": [float(i % 6) for i in range(12)], "sentence1": sentences(12), "sentence2": sentences(12, 1)}
        scores = evaluate_pairs(loaded, load_tokenizer(small_encoder_dir), Dataset.from_dict(pairs))
        assert scores["dev_spearman"] == pytest.approx(report["spearman"], abs=1e-9)

    @pytest.mark.parametrize("stage", [2, 3])
    def test_bf16_computes_in_bfloat16_and_keeps_weights_target_and_queue_in_float32(self, runs, stage):
        report = runs.report[f"bf16-{stage}"]
        assert report["computed"] == ["torch.bfloat16"]
        assert report["dtypes"] == ["torch.float32"]
        assert report["off"] <= 1e-7 < 1e-5 < report["moved"]
        rows = load_file(runs.folder / f"bf16-{stage}.safetensors")["queue.rows"]
        assert (rows != rows.bfloat16().float()).float().mean() > 0.5

    def test_nothing_was_compiled(self, runs):
        assert not (runs.folder / "compiled").exists()

    def test_other_processes_stages_or_damaged_files_raise_an_error(self, runs, tmp_path):
        checkpoint = runs.folder / "whole3" / "checkpoint-6"
        settings = SimpleNamespace(deepspeed="zero3.json", world_size=2, hf_deepspeed_config=stage_config(3))
        validate_deepspeed_checkpoint(checkpoint, settings)
        validate_pickles(checkpoint, checkpoint_globals(settings))
        for change, said in [
            ({"world_size": 4}, "was written by 2 processes, but now there are 4; start 2"),
            ({"hf_deepspeed_config": stage_config(2)}, "was written under ZeRO-3; set `deepspeed`"),
            ({"deepspeed": None}, "was written under DeepSpeed; set `deepspeed`"),
        ]:
            with pytest.raises(InputError, match=said):
                validate_deepspeed_checkpoint(checkpoint, SimpleNamespace(**vars(settings) | change))
        with pytest.raises(InputError, match="was written without DeepSpeed; leave out `deepspeed`"):
            validate_deepspeed_checkpoint(tmp_path, settings)

    def test_code_in_a_checkpoint_raises_an_error_before_it_runs(self, tmp_path):
        (tmp_path / "global_step1").mkdir()
        (tmp_path / "latest").write_text("global_step1")
        path = tmp_path / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
        torch.save({"state": Payload(tmp_path / "ran")}, path)
        with pytest.raises(InputError, match=r"optim_states\.pt: holds more than tensors and numbers"):
            validate_pickles(tmp_path, checkpoint_globals(SimpleNamespace(deepspeed="zero2.json")))
        assert not (tmp_path / "ran").exists()


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def stage_config(stage: int):
    return SimpleNamespace(is_zero3=lambda: stage == 3)


@needs_deepspeed
@pytest.mark.slow
def test_the_command_trains_resumes_and_exports_under_zero3(tmp_path, small_encoder_dir):
    (tmp_path / "text.txt").write_text("\n".join(sentences(48)) + "\n")
    made = sentences(24, seed=9)
    (tmp_path / "pairs.tsv").write_text("".join(f"{i / 2}\t{made[i]}\t{made[12 + i]}\n" for i in range(11)))
    options = {
        "model_name_or_path": small_encoder_dir,
        "train_file": tmp_path / "text.txt",
        "validation_file": tmp_path / "pairs.tsv",
        "per_device_train_batch_size": 4,
        "eval_steps": 3,
        "save_total_limit": 3,
        "queue_size": 20,
        "queue_init_size": 4,
        "bf16": "true",
        "use_cpu": "true",
    }
    argv = [str(part) for name, value in options.items() for part in (f"--{name}", value)]

    def command(output_dir, *more):
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
        launcher += ["--config_file", str(REPOSITORY / "configs" / "accelerate" / "zero3.yaml")]
        done = subprocess.run(
            [*launcher, str(REPOSITORY / "run_mocose.py"), *argv, "--output_dir", str(output_dir), *more],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]

    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    command(whole)
    assert json.loads((whole / "training_args.json").read_text())["deepspeed"] == "ds_configs/zero3.json"
    assert (whole / "checkpoint-6" / "global_step6").is_dir()
    light = AutoModel.from_pretrained(whole / "mocose").encoder.state_dict()
    plain = AutoModel.from_pretrained(whole).state_dict()
    assert [name for name in light if not torch.equal(light[name], plain[name])] == []
    assert light["embeddings.word_embeddings.weight"].shape == (120, 32)

    shutil.copytree(whole / "checkpoint-3", interrupted / "checkpoint-3")
    command(interrupted, "--resume_from_checkpoint", "true")
    first, second = (load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (whole, interrupted))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def zero3(**more) -> dict:
    gather = {"stage3_gather_16bit_weights_on_model_save": True}
    return {"zero_optimization": {"stage": 3} | gather | more}


def refusal(argv: list[str]) -> str:
    with pytest.raises(InputError) as caught:
        parse_command_line([*argv, "--use_cpu", "true"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@needs_deepspeed
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (zero3() | {"optimizer": {"type": "AdamW"}}, "`optimizer` is not supported; remove it, and set `learning_r"),
        (zero3() | {"scheduler": {}}, "`scheduler` is not supported; remove it, and set `lr_scheduler_type`"),
        (zero3() | {"fp16": {"enabled": True}}, "`fp16.enabled` is not supported; remove it, and set `bf16`"),
        (zero3() | {"bf16": {"enabled": True}}, '`bf16.enabled` is not supported; write "auto", and set `bf16`'),
        (
            zero3(offload_optimizer={"device": "cpu"}),
            "`zero_optimization.offload_optimizer.device` is not supported; ",
        ),
        (zero3(offload_param={"device": "nvme"}), "`zero_optimization.offload_param.device` is not supported; "),
        (zero3(zero_hpz_partition_size=8), "`zero_optimization.zero_hpz_partition_size` is not supported; "),
        (
            zero3(stage3_gather_16bit_weights_on_model_save="auto"),
            "`zero_optimization.stage3_gather_16bit_weights_on_",
        ),
        (
            {"train_batch_size": "auto"},
            "`zero_optimization.stage` is 0, 1, 2 or 3, not None; ds_configs/ has examples",
        ),
        ([1], "a DeepSpeed configuration is a JSON object; start from ds_configs/"),
        ('{"zero_optimization": ', "not valid JSON (Expecting value: line 1 column 23 (char 22)); correct it"),
        (None, "cannot be read as a DeepSpeed configuration; give a JSON file"),
    ],
)
def test_unusable_configurations_raise_an_error_that_names_them(tmp_path, monkeypatch, config, said):
    monkeypatch.setenv("LOCAL_RANK", "0")
    path = tmp_path / "ds.json"
    if config is not None:
        path.write_text(config if isinstance(config, str) else json.dumps(config))
    assert refusal(["--deepspeed", str(path)]).startswith(f"{path}: {said}")


@needs_deepspeed
def test_deepspeed_without_a_launcher_or_a_gpu_raises_an_error(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    path = str(REPOSITORY / "ds_configs" / "zero2.json")
    assert refusal(["--deepspeed", path]).startswith("`deepspeed` needs a launcher that gives each process its rank; ")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(InputError, match="there is no GPU; set `use_cpu`"):
        parse_command_line(["--deepspeed", path])
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert refusal([]).startswith("ACCELERATE_USE_DEEPSPEED is set, as by ")


def test_missing_deepspeed_raises_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refusal(["--deepspeed", "zero2.json"]).endswith(f"run `{install_command('deepspeed')}`")


def test_float16_and_differing_arguments_raise_an_error():
    config = SimpleNamespace(config={}, mismatches=["- ds gradient_clipping=2.0 vs hf max_grad_norm=1.0"])
    settings = {"deepspeed_plugin": object(), "mixed_precision": "no", "hf_deepspeed_config": config}
    with pytest.raises(ValueError, match=r"\(ds gradient_clipping=2.0 vs hf max_grad_norm=1.0\); write \"auto\""):
        keep_weights_in_float32(SimpleNamespace(**settings))
    with pytest.raises(ValueError, match="`fp16` is not supported under DeepSpeed; set `bf16` instead"):
        keep_weights_in_float32(SimpleNamespace(**settings | {"mixed_precision": "fp16"}))


def sharded(values: list[float], resident: bool, alone: bool = False) -> torch.Tensor:
    """A tensor as ZeRO-3 leaves it: the first half in the shard of this process, or all where it is alone."""
    whole = torch.tensor(values)
    tensor = whole if resident else torch.empty(0)
    tensor.ds_tensor = whole if alone else whole[: len(values) // 2].clone()
    tensor.ds_status = SimpleNamespace(name="AVAILABLE" if resident else "NOT_AVAILABLE")
    return tensor


def test_ema_moves_what_is_held_once_whether_shard_or_whole_or_both_in_one():
    for options in ({"resident": False}, {"resident": True}, {"resident": True, "alone": True}):
        target, online = sharded([0.0, 0.0, 0.0, 0.0], **options), sharded([4.0, 8.0, 12.0, 16.0], **options)
        update_ema(*zip(*local_values([(target, online)]), strict=True), 0.75)
        assert target.ds_tensor.tolist() == [1.0, 2.0, 3.0, 4.0][: len(target.ds_tensor)]
        assert target.tolist() == ([1.0, 2.0, 3.0, 4.0] if options["resident"] else [])


class Announced:
    """A configuration as `TrainingArguments` announces it to transformers, which keeps a weak reference."""

    config: dict = {}

    def is_zero3(self):
        return True


def test_pairs_of_parameters_are_compared_by_their_whole_shapes():
    """Under ZeRO-3 a parameter holds nothing between forwards, or all of it, the other of its pair aside."""
    model = tiny_model()
    target, online = next((t, o) for t, o in model.momentum_pairs() if t.ndim == 2)
    online.ds_shape, online.data = online.shape, torch.empty(0)
    assert len(model.momentum_pairs()) > 1
    target.ds_shape = torch.Size([1, 1])
    with pytest.raises(ValueError, match="was changed after the model was built"):
        model.momentum_pairs()


def test_models_are_built_whole_though_zero3_is_announced():
    from transformers.integrations import deepspeed as integration

    plain = tiny_model().state_dict()
    announced = Announced()
    integration.set_hf_deepspeed_config(announced)
    try:
        with whole_weights():
            assert not integration.is_deepspeed_zero3_enabled()
            model = tiny_model()
        assert integration.is_deepspeed_zero3_enabled()
    finally:
        integration.unset_hf_deepspeed_config()
    assert all(torch.equal(value, plain[name]) for name, value in model.state_dict().items())


def test_a_model_built_in_shards_raises_an_error():
    model = tiny_model()
    next(model.parameters()).ds_id = 0
    with pytest.raises(ValueError, match="cannot be built in shards; call its constructor"):
        validate_whole_weights(model)
