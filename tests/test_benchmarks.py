"""The parts of `make benchmark`, and the whole of it on a tiny encoder."""

import copy
import csv
import json
import math
import os
import subprocess
import sys

import pytest
import torch
import training_step
from builders import REPOSITORY, random_batch, sentences, tiny_bert_config, tiny_model
from gemm_floor import GemmFloor, encoder_forward_flops
from measure import Job, measure
from released_step import ReleasedMoCoSE
from tables import ratios, report, spread
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertModel, DistilBertConfig
from variants import BF16_STEPS, Variant, default_names, usual_names, validate_name

from mocose_hf.evaluation.score_tables import markdown_table

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


# The released step, against loops.

QUEUE_SIZE, TAU, ETA, HORIZON, LEARNING_RATE = 6, 0.05, 0.85, 15_000, 0.3


def slow_cosine(a: list, b: list):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def slow_steps(model: ReleasedMoCoSE, batches: list[torch.Tensor]) -> tuple[list[float], list[list[float]]]:
    """Train with plain gradient descent; return the loss of each step and the queue at the end, newest row first."""
    online, target = copy.deepcopy(model), copy.deepcopy(model)  # of `target` only the online half is used
    queue = model.queue.tolist()
    losses = []
    for step, ids in enumerate(batches, start=1):
        eta = 1 - (1 - ETA) * (math.cos(math.pi * step / HORIZON) + 1) / 2
        for part in ("encoder.encoder", "pooler", "projection"):
            moved, followed = target.get_submodule(part), online.get_submodule(part)
            for p, q in zip(moved.parameters(), followed.parameters(), strict=True):
                p.data.copy_(eta * p.data + (1 - eta) * q.data)

        types = torch.zeros_like(ids)
        views = []
        for branch in (online, target):
            states = branch.encoder.encoder(online.encoder.embeddings(ids, types)).last_hidden_state
            views.append(branch.projection(branch.pooler(states[:, 0])))
        queries, keys = online.predictor(views[0]).unbind(), views[1].unbind()
        loss = 0.0
        for i, query in enumerate(queries):
            candidates = [key.unbind() for key in keys] + queue
            powers = [torch.exp(slow_cosine(query.unbind(), candidate) / TAU) for candidate in candidates]
            loss = loss - torch.log(powers[i] / sum(powers)) / len(queries)

        trained = [*online.encoder.parameters(), *online.pooler.parameters(), *online.projection.parameters()]
        trained += [*online.predictor.parameters(), *target.projection.parameters()]
        gradients = torch.autograd.grad(loss, trained)
        for p, gradient in zip(trained, gradients, strict=True):
            p.data -= LEARNING_RATE * gradient
        queue = [key.tolist() for key in keys] + queue
        queue = queue[:QUEUE_SIZE]
        losses.append(loss.item())
    return losses, queue


def test_the_released_step_is_that_of_a_slow_loop():
    torch.manual_seed(3)
    config = tiny_bert_config(hidden_size=8, intermediate_size=12, num_hidden_layers=1, **NO_DROPOUT)
    model = ReleasedMoCoSE(BertModel(config), QUEUE_SIZE, TAU, ETA, HORIZON, dropout=0.0).double()
    batches = [random_batch(seed, rows=4, length=5)["input_ids"] for seed in range(3)]
    losses, queue = slow_steps(model, batches)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    found = []
    for ids in batches:
        optimizer.zero_grad()
        loss = model(ids)["loss"]
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found == pytest.approx(losses, abs=1e-9)
    torch.testing.assert_close(model.queue, torch.tensor(queue, dtype=torch.float64), atol=1e-9, rtol=0)
    assert abs(losses[0] - losses[1]) > 1e-3


# The floor.


def test_the_floor_counts_what_is_worked_by_hand():
    config = tiny_bert_config(hidden_size=8, intermediate_size=16, num_hidden_layers=2)
    layer_linear = 2 * 15 * (4 * 8 * 8 + 2 * 8 * 16)  # 15 tokens; Q, K, V, O; two of the feed-forward part
    layer_attention = 2 * (2 * 6 * 5 * 5 * 4)  # scores and context; 3 sentences × 2 heads, 5 tokens, 4 wide
    forward = 2 * (layer_linear + layer_attention)
    assert (layer_linear, layer_attention, forward) == (15_360, 2_400, 35_520)
    head = 2 * 3 * 8 * 8  # (3, 8) × (8, 8)
    logits = 2 * 3 * (3 + 7) * 8
    by_hand = 4 * forward + (3 * 4 + 2) * head + 2 * logits  # 4 heads online, 2 in the target
    floor = GemmFloor(config, batch_size=3, length=5, queue_size=7)
    assert floor.flops == by_hand == 148_416
    assert encoder_forward_flops(config, 3, 5) == forward


def test_the_floor_multiplies_what_a_step_of_the_model_does():
    model = tiny_model(queue_size=16, queue_init_size=16)
    model.config.encoder_config._attn_implementation = "eager"
    for branch in (model.mocose.encoder, model.target["encoder"]):
        branch.set_attn_implementation("eager")
    model.only_first_token = False
    with FlopCounterMode(display=False) as counter:
        model(**random_batch(rows=4, length=7)).loss.backward()
    assert GemmFloor(model.config.encoder_config, 4, 7, 16).flops == counter.get_total_flops()


def test_the_floor_writes_over_nothing_that_it_reads():
    floor = GemmFloor(tiny_bert_config(), batch_size=3, length=5, queue_size=7)
    read = {part.data_ptr() for product in floor.products for part in (product.left, product.right)}
    assert not read & {product.out.data_ptr() for product in floor.products}
    for product in floor.products:
        product.run()
        torch.testing.assert_close(product.out, product.left @ product.right)


def test_the_floor_is_not_guessed():
    with pytest.raises(ValueError, match="not for distilbert"):
        GemmFloor(DistilBertConfig(), 2, 4, 8)


# Names.


def test_a_name_is_what_it_stands_for():
    assert Variant.parse("mocose_padding_free_bf16_k4096_b32") == Variant(
        "mocose", padding_free=True, bf16=True, queue_size=4096, batch_size=32
    )
    assert Variant.parse("mocose_lora_k65536") == Variant("mocose", lora=True, queue_size=65536)
    assert Variant.parse("mocose_lora_dropout") == Variant("mocose", lora=True, dropout=True)
    assert Variant.parse("cached_mnrl_b8") == Variant("cached_mnrl", batch_size=8)
    assert [validate_name(name) for name in usual_names()] == list(usual_names())
    assert Variant.parse("mocose_all_rows_bf16_k9_b8").base("mnrl") == "mnrl_bf16_b8"


@pytest.mark.parametrize(
    "name", ["simcse", "mnrl_k512", "released_padding_free", "mocose_k0", "mocose_dropout", "mocose_b32_bf16", ""]
)
def test_what_is_no_name_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=r"is no variant; the usual ones are mocose, ") as refused:
        validate_name(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bfloat16_is_left_out_if_the_processor_has_none(monkeypatch, has_bf16):
    monkeypatch.setattr("variants.has_bf16", lambda use_cpu: has_bf16)
    names, left_out = default_names(use_cpu=True, bert_like=True)
    assert set(BF16_STEPS) <= set(names if has_bf16 else usual_names())
    assert left_out == ({} if has_bf16 else {"this processor has no bfloat16 instructions": list(BF16_STEPS)})
    assert set(names) | {name for missing in left_out.values() for name in missing} == set(usual_names())


# Tables.


def rounds(seconds: list[float], memory: list[float], **more) -> list[dict[str, float]]:
    return [{"seconds": s, "memory_gb": m, **more} for s, m in zip(seconds, memory, strict=True)]


MADE_UP = {
    "mocose": rounds([1.0, 3.0, 2.0], [1.0, 1.0, 1.5]),
    "mnrl": rounds([2.0, 4.0, 8.0], [2.0, 2.0, 2.0]),
    "mocose_k4096": rounds([2.0, 3.0, 6.0], [2.0, 2.0, 3.0]),
    "mnrl_b32": rounds([1.0, 1.0, 4.0], [1.0, 1.0, 1.0]),
    "mocose_b32": rounds([0.5, 0.8, 1.6], [0.5, 0.5, 0.5]),
    "mocose_bf16": rounds([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "encoding_file_order": [{"per_second": 100.0, "per_cpu_second": 50.0}] * 3,
    "encoding": [{"per_second": rate, "per_cpu_second": rate} for rate in (100.0, 200.0, 300.0)],
}


def test_ratios_are_taken_within_a_round():
    assert ratios(MADE_UP, "mocose", "mnrl", "seconds") == [0.5, 0.75, 0.25]
    assert ratios(MADE_UP, "mocose", "released", "seconds") == []
    assert spread([0.5, 0.75, 0.25]) == "0.50 (0.25–0.75)"  # the ratio of the medians is 0.50 too, but not its spread
    assert spread([0.5]) == "0.50"
    with pytest.raises(ValueError, match="zip"):
        ratios(MADE_UP | {"mnrl": MADE_UP["mnrl"][:2]}, "mocose", "mnrl", "seconds")


def test_the_tables_show_each_variant_over_its_base():
    lines = report(MADE_UP, batch_size=64).splitlines()
    assert (
        "| `mocose` | 2.000 (1.000–3.000) | 0.50 (0.25–0.75) | – | – | 1.00 (1.00–1.50) | 0.50 (0.50–0.75) |" in lines
    )
    assert "| `mocose_bf16` | 0.500 (0.500–0.500) | – | – | – | 0.50 (0.50–0.50) | – |" in lines
    k4096 = "| `mocose_k4096` | 3.000 (2.000–6.000) | 2.00 (1.00–3.00) | 2.00 (2.00–3.00) | 2.00 (2.00–2.00) |"
    assert k4096 in lines
    sizes = [line for line in lines if line.startswith(("| `mocose_b32`", "| `mnrl_b32`", "| `mocose` | 64"))]
    assert sizes == [
        "| `mnrl_b32` | 32 | 1.000 (1.000–4.000) | 31.2 (31.2–125.0) | 1.00 (1.00–1.00) | 1.00 (1.00–1.00) |",
        "| `mocose_b32` | 32 | 0.800 (0.500–1.600) | 25.0 (15.6–50.0) | 0.50 (0.40–0.80) | 0.50 (0.50–0.50) |",
        "| `mocose` | 64 | 2.000 (1.000–3.000) | 31.2 (15.6–46.9) | 0.50 (0.25–0.75) | 0.50 (0.50–0.75) |",
    ]
    assert "| `encoding` | 200 (100–300) | 200 (100–300) | 2.00 (1.00–3.00) | 4.00 (2.00–6.00) |" in lines
    assert "released" not in report({"mocose_b32": MADE_UP["mocose_b32"]}, batch_size=64)


def test_a_gpu_adds_speed_and_launches():
    figures = {
        "mocose": rounds([0.5], [1.0], flops=1e12, launches=1200),
        "gemm_floor": rounds([0.25], [0.5], flops=1e12),
    }
    table = report(figures, batch_size=64, on_gpu=True)
    assert "| variant | s per step |" in table
    assert "| `mocose` | 0.500 | – | – | 2.00 | 1.00 | – | 2.0 | 1200 |" in table
    assert "| `gemm_floor` | 0.250 | – | – | 1.00 | 0.50 | – | 4.0 | – |" in table


def test_markdown_has_as_many_marks_as_columns():
    assert markdown_table(("t", ["a", "b"], [["x", "1"]])) == "t\n\n| a | b |\n| --- | ---: |\n| x | 1 |"


# The whole.


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(sentences(24)) + "\n", encoding="utf-8")
    return path


def tiny_job(encoder_dir, text, variant: str, **options) -> Job:
    return Job(variant, str(encoder_dir), str(text), 4, 12, 11, steps=1, use_cpu=True, **options)


@pytest.mark.parametrize(
    "variant",
    ["mocose_all_rows", "mocose_padding_free_checkpointed", "mocose_lora_dropout", "cached_mnrl", "released_bf16"],
)
def test_a_variant_is_measured_through_its_trainer(encoder_dir, text, variant):
    figures = measure(tiny_job(encoder_dir, text, variant))
    assert set(figures) == {"seconds", "memory_gb", "flops"}
    assert figures["seconds"] > 0
    forward = encoder_forward_flops(tiny_bert_config(), 4, 11)
    forwards = {"mocose": 4, "cached": 8, "released": 5}[variant.split("_")[0]] - ("lora" in variant)
    assert figures["flops"] == forwards * forward


def test_a_profile_is_a_trace_of_the_measured_steps(encoder_dir, text, tmp_path, capsys):
    trace = tmp_path / "profiles" / "mocose.json"
    job = tiny_job(encoder_dir, text, "mocose", trace=str(trace))
    job.steps = 2
    measure(job)
    names = [event["name"] for event in json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2
    assert "aten::addmm" in names
    assert "Self CPU %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--variants", "simcse"], "`simcse` is no variant"),
        (["--rounds", "0"], "--rounds is at least 1"),
        (["--output", "figures.txt"], "--output is a .json or a .csv file"),
    ],
)
def test_options_that_cannot_be_used_are_refused(monkeypatch, capsys, options, said):
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--model_name_or_path", "any", *options])
    with pytest.raises(SystemExit) as ended:
        training_step.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_one_failing_variant_does_not_end_the_others(monkeypatch, encoder_dir, text):
    def measure_all_but_one(job: Job) -> dict[str, float]:
        if job.variant == "mnrl":
            raise RuntimeError("mnrl: no room")
        return {"seconds": 1.0}

    monkeypatch.setattr(training_step, "measure_apart", measure_all_but_one)
    found = training_step.measure_rounds(tiny_job(encoder_dir, text, ""), ["mnrl", "mocose"], rounds=2)
    assert found == ({"mocose": [{"seconds": 1.0}] * 2}, ["mnrl: no room"])


@pytest.mark.slow
def test_the_command_measures_prints_and_names_what_failed(encoder_dir, text, tmp_path):
    names = ["mocose", "mnrl", "gemm_floor", "mocose_k32", "loading_2_workers", "encoding"]
    too_large = "mocose_k100000000000"
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "training_step.py"), "--use_cpu"]
    command += ["--model_name_or_path", str(encoder_dir), "--train_file", str(text), "--batch_size", "4"]
    command += ["--steps", "1", "--rounds", "2", "--output", str(tmp_path / "figures.csv")]
    done = subprocess.run(
        [*command, "--variants", too_large, *names],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"training_step.py: not measured: {too_large}: ValueError: A queue of 100000000000 rows")
    assert done.stdout.startswith(f"torch {torch.__version__}, CPU with ")
    assert "bert of 2 layers, 32 wide; 4 × 32 tokens at most" in done.stdout
    assert [name for name in names if f"\n| `{name}` |" not in done.stdout] == []
    assert too_large not in done.stdout

    with (tmp_path / "figures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row["variant"] for row in rows if row["figure"] in ("seconds", "per_second")]
    assert measured == [name for name in names for _ in range(2)]
    assert all(float(row["value"]) > 0 for row in rows)


def test_an_encoder_that_takes_no_packed_batches_is_not_measured_on_padded_ones(encoder_dir, text, monkeypatch):
    monkeypatch.setattr("mocose_hf.models.modeling_base.find_first_position", lambda encoder: None)
    with pytest.raises(ValueError, match="takes no packed batches"):
        measure(tiny_job(encoder_dir, text, "mocose_padding_free"))


@pytest.mark.slow
def test_the_start_of_each_command_is_measured():
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "startup.py"), "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["command", "CPU", "s", "ratio"]
    ratios = {line[:32].strip(): float(line.split()[-1]) for line in lines}
    assert ratios["import torch, transformers"] == 1.0
    assert ratios["mocose --help"] < 0.2
    assert ratios["mocose study list"] < 0.2
