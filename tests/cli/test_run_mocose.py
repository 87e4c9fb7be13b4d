"""The command from end to end, on tiny models and text."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from builders import REPOSITORY, sentences
from safetensors.torch import load_file, save_file
from senteval_folder import write_senteval
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
from transformers.utils import logging

from mocose_hf import MoCoSEForPreTraining
from mocose_hf.report.run_page import read_run
from mocose_hf.training.checkpoint import read_manifest, write_manifest

sys.path.insert(0, str(REPOSITORY))

import run_mocose
from mocose_hf.cli import run
from mocose_hf.cli.options import parse_command_line


@pytest.fixture
def text_file(tmp_path) -> Path:
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join([*sentences(26), "", sentences(26)[0]]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    path = tmp_path / "pairs.tsv"
    made = sentences(24, seed=5)
    path.write_text("".join(f"{i * 0.4:.1f}\t{made[i]}\t{made[i + 12]}\n" for i in range(12)), encoding="utf-8")
    return path


@pytest.fixture
def command(encoder_dir, text_file, tmp_path):
    """Call the command with options that keep it tiny; returns its output directory."""

    def run(*options: str, code: int = 0, output_dir: str = "out", encoder: object = encoder_dir) -> Path:
        argv = ["--model_name_or_path", str(encoder), "--train_file", str(text_file)]
        argv += ["--output_dir", str(tmp_path / output_dir), "--per_device_train_batch_size", "4"]
        argv += ["--queue_size", "16", "--queue_init_size", "4", "--use_cpu", "--disable_tqdm", "true"]
        assert run_mocose.main([*argv, *options]) == code
        return tmp_path / output_dir

    run.encoder_dir = encoder_dir
    return run


def test_training_writes_a_model_a_plain_encoder_a_card_and_no_pickle(command, text_file, capsys):
    out = command("--logging_steps", "2")
    assert "28 rows read, dropped: 1 blank, 1 duplicate; 26 sentences." in capsys.readouterr().out
    outside = [p for p in out.rglob("*") if p.is_file() and not p.parent.name.startswith("checkpoint-")]
    assert {p.suffix for p in outside} <= {".html", ".json", ".jsonl", ".safetensors", ".md", ".txt"}
    assert json.loads((out / "training_args.json").read_text())["ema_decay"] == 0.85
    card = (out / "README.md").read_text()
    assert all(part in card for part in (f"{text_file.name}: 28 rows", "26 sentences", "Seed: 42", "--queue_size 16"))
    assert [path for path in out.rglob("README.md") if path.parent != out] == []

    texts = sentences(3)
    tokenizer = AutoTokenizer.from_pretrained(out)
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    light = AutoModel.from_pretrained(out, subfolder="mocose").eval()
    whole = AutoModelForPreTraining.from_pretrained(out / "mocose").eval()
    plain = AutoModel.from_pretrained(out).eval()
    with torch.no_grad():
        embedding = light(**batch).pooler_output
        assert torch.equal(embedding, whole.mocose(**batch).pooler_output)
        assert torch.equal(embedding, plain(**batch).last_hidden_state[:, 0])
    assert int(whole.queue.num_filled) == 16
    assert whole.queue.ages(6)[:4].tolist() == [0, 0, 0, 0]


def test_a_run_writes_its_page_with_the_nearest_texts_of_start_and_result(command, pairs_file, text_file, capsys):
    steps = ("--eval_steps", "2", "--eval_strategy", "steps", "--max_steps", "2", "--load_best_model_at_end", "false")
    out = command("--validation_file", str(pairs_file), *steps, "--learning_rate", "1e-3")
    run = read_run(out)
    assert run.scores[0][0] == "start"
    assert run.metric == "dev_spearman"
    assert run.verdict in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(part in page for part in ("Development score", "Nearest texts", str(text_file), "learning_rate"))
    texts = sentences(26)
    assert len(run.neighbours) == 10
    assert all({text for _, text in entry.before + entry.after} < set(texts) for entry in run.neighbours)
    assert any(entry.before != entry.after for entry in run.neighbours)
    start = MoCoSEForPreTraining.from_encoder_pretrained(command.encoder_dir, queue_size=16).mocose
    rows = start.encode(texts, AutoTokenizer.from_pretrained(out), normalize_embeddings=True)
    cosines = rows @ rows[texts.index(run.neighbours[0].text)]
    expected = cosines.sort(descending=True).values[1:4]
    assert [score for score, _ in run.neighbours[0].before] == pytest.approx(expected.tolist(), abs=1e-3)


def test_the_summary_says_what_is_cut_and_what_is_unknown(command, capsys, told):
    out = command("--max_steps", "1")
    printed = capsys.readouterr().out
    line = (
        "0.0% of the sentences are longer than 32 tokens and are truncated (`max_seq_length`); "
        "0.0% of the tokens are unknown to the tokenizer (`model_name_or_path`)."
    )
    assert f"sentences.txt: {line}\n" in printed
    assert "0.0% of the sentences are longer than 32 tokens and are truncated" in (out / "README.md").read_text()
    assert "max_seq_length" not in told.text
    assert "unknown" not in told.text


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streaming"])
def test_text_that_is_cut_or_of_another_language_is_warned_about(command, tmp_path, capsys, told, streams):
    text = [f"a cat sees the dog near a river {i % 10}" if i % 4 else "猫 は 犬 を 見 る ねこ いぬ" for i in range(40)]
    path = tmp_path / "mixed.txt"
    lines = [f"{line} {word}\n" for line, word in zip(text, sentences(40), strict=True)]
    path.write_text("".join(lines), encoding="utf-8")
    logging.warning_once.cache_clear()
    options = ["--train_file", str(path), "--max_seq_length", "9", "--max_steps", "1"]
    command(*options, *(["--streaming", "true"] if streams else []))
    printed = capsys.readouterr().out
    assert "truncated" not in printed  # the warnings have said it
    assert "`max_seq_length` 9 truncates 100.0% of the training sentences; raise it" in told.text
    assert re.search(
        r"2\d\.\d% of the tokens of the training text are unknown to the tokenizer; start from", told.text
    )


def test_the_saved_arguments_of_a_run_and_an_overridden_configuration_train(command, encoder_dir, text_file, capsys):
    saved = command("--max_steps", "1") / "training_args.json"
    capsys.readouterr()
    small = ["--model_name_or_path", str(encoder_dir), "--train_file", str(text_file), "--max_steps", "1", "--use_cpu"]
    small += ["--per_device_train_batch_size", "4", "--disable_tqdm", "true"]
    direct = REPOSITORY / "configs" / "direct.yaml"
    assert run_mocose.main([str(saved), *small, "--output_dir", str(text_file.parent / "again")]) == 0
    assert "ignored" not in capsys.readouterr().out.replace("`hub_token` is ignored", "")
    for number, override in enumerate((["--token_cutoff", "0"], ["--algorithm", "simcse"])):
        folder = text_file.parent / f"direct-{number}"
        assert run_mocose.main([str(direct), *small, *override, "--output_dir", str(folder)]) == 0
        assert re.search(rf"^{direct}, line \d: `\w+` is ignored because ", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(("size", "initial"), [("64", 16), ("0", 0)])
def test_a_smaller_queue_needs_no_other_option(encoder_dir, text_file, tmp_path, size, initial):
    argv = ["--model_name_or_path", str(encoder_dir), "--train_file", str(text_file), "--max_steps", "1", "--use_cpu"]
    argv += ["--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true"]
    assert run_mocose.main([*argv, "--queue_size", size]) == 0
    config = json.loads((tmp_path / "out" / "mocose" / "config.json").read_text())
    assert (config["queue_size"], config["queue_init_size"]) == (int(size), initial)


def test_development_pairs_score_before_and_after_and_the_best_is_exported(command, pairs_file, capsys):
    out = command("--validation_file", str(pairs_file), "--eval_steps", "2", "--learning_rate", "1e-3")
    state = json.loads((out / "trainer_state.json").read_text())
    scored = {e["step"]: e["eval_dev_spearman"] for e in state["log_history"] if "eval_dev_spearman" in e}
    assert sorted(scored) == [0, 2, 4, 6]
    best = max((0, 2, 4, 6), key=scored.get)
    assert state["best_global_step"] == best
    final = json.loads((out / "eval_results.json").read_text())
    assert final["eval_dev_spearman"] == pytest.approx(scored[best])
    saved, checkpoint = (load_file(out / f / "model.safetensors") for f in ("mocose", f"checkpoint-{best}"))
    assert all(torch.equal(saved[name], checkpoint[name]) for name in checkpoint)
    printed = capsys.readouterr().out
    assert f"{pairs_file}: 12 development pairs.\n" in printed
    assert re.search(rf"^start +{scored[0]:.2f} ", printed, re.M)
    assert re.search(rf"^best, step {best}(: the start)? +{scored[best]:.2f} ", printed, re.M)


def test_a_run_that_makes_nothing_better_keeps_the_start_and_says_so(command, pairs_file, encoder_dir, capsys):
    out = command("--validation_file", str(pairs_file), "--eval_steps", "2", "--learning_rate", "0.1")
    state = json.loads((out / "trainer_state.json").read_text())
    scored = {}
    for entry in state["log_history"]:
        if "eval_dev_spearman" in entry:
            scored.setdefault(entry["step"], entry["eval_dev_spearman"])
    assert max(scored[step] for step in (2, 4, 6)) < scored[0]
    printed = capsys.readouterr().out
    assert re.search(rf"^start +{scored[0]:.2f} ", printed, re.M)
    assert re.search(rf"^best, step 0: the start +{scored[0]:.2f} ", printed, re.M)
    assert "\nNo checkpoint has a better dev_spearman than the start" in printed
    assert printed.rstrip().splitlines()[-1].startswith("No checkpoint scored better than the start")
    start, export = AutoModel.from_pretrained(encoder_dir), AutoModel.from_pretrained(out)
    given = {n: v for n, v in start.state_dict().items() if not n.startswith("pooler.")}
    assert [name for name, value in given.items() if not torch.equal(export.state_dict()[name], value)] == []
    kept = load_file(out / "mocose" / "model.safetensors")
    assert int(kept["queue.num_filled"]) == 4
    assert "the weights are those of the start" in (out / "README.md").read_text()


def test_the_start_is_no_candidate_if_it_is_not_scored(command, pairs_file, capsys):
    options = ("--validation_file", str(pairs_file), "--eval_steps", "2", "--learning_rate", "0.1")
    out = command(*options, "--eval_on_start", "false")
    state = json.loads((out / "trainer_state.json").read_text())
    assert min(entry["step"] for entry in state["log_history"] if "eval_dev_spearman" in entry) == 2
    assert not (out / "checkpoint-0").exists()
    printed = capsys.readouterr().out
    assert re.search(r"^best, step [246] ", printed, re.M)
    assert not re.search(r"^(best, step 0|start)", printed, re.M)
    assert "No checkpoint has a better" not in printed


def test_without_training_text_the_command_only_scores(
    command, pairs_file, encoder_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    argv = ["--model_name_or_path", str(encoder_dir), "--validation_file", str(pairs_file), "--use_cpu"]
    assert run_mocose.main(argv) == 0
    assert "Spearman" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert run_mocose.main([*argv, "--output_dir", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores" / "eval_results.json").read_text())
    assert set(scores) >= {"eval_dev_spearman", "eval_dev_uniformity"}
    table = (tmp_path / "scores" / "eval_results.md").read_text()
    assert table.startswith("Development pairs\n")
    assert "STS-B" not in table


def test_trained_model_scores_the_same_alone_as_after_training(command, pairs_file, tmp_path):
    out = command("--validation_file", str(pairs_file), "--eval_steps", "3", "--pooling_mode", "mean")
    after = json.loads((out / "eval_results.json").read_text())["eval_dev_spearman"]
    for source in (out, out / "mocose"):
        scores = tmp_path / f"scores-{source.name}"
        argv = ["--model_name_or_path", str(source), "--validation_file", str(pairs_file), "--use_cpu"]
        assert run_mocose.main([*argv, "--output_dir", str(scores)]) == 0
        alone = json.loads((scores / "eval_results.json").read_text())["eval_dev_spearman"]
        assert alone == pytest.approx(after)


def test_partial_development_pairs_of_senteval_are_taken_when_asked_for_and_their_number_is_printed(
    encoder_dir, tmp_path, capsys
):
    senteval = write_senteval(tmp_path / "senteval", years=[], sick=False)
    argv = ["--model_name_or_path", str(encoder_dir), "--senteval_dir", str(senteval), "--use_cpu"]
    assert run_mocose.main([*argv, "--allow_partial_tasks", "true"]) == 0
    assert f"{senteval}, STS-B dev: 18 development pairs.\n" in capsys.readouterr().out


@pytest.fixture
def scores(encoder_dir, tmp_path):
    """Score the tiny encoder on small tasks; returns the exit code and the output directory."""
    write_senteval(tmp_path / "senteval")

    def run(*options: str, output_dir: str = "scores") -> tuple[int, Path]:
        argv = ["--do_eval", "--model_name_or_path", str(encoder_dir), "--senteval_dir", str(tmp_path / "senteval")]
        argv += ["--output_dir", str(tmp_path / output_dir), "--use_cpu"]
        return run_mocose.main([*argv, *options]), tmp_path / output_dir

    return run


def test_a_model_is_scored_on_all_tasks_and_the_figures_are_kept(scores, capsys):
    code, out = scores("--eval_tasks", "sts", "mr", "geometry", "--allow_partial_tasks", "true")
    assert code == 0
    assert {p.name for p in out.iterdir()} == {
        "eval_results.json",
        "eval_results.csv",
        "eval_results.md",
        "spectrum.csv",
        "spectrum.png",
    }
    figures = json.loads((out / "eval_results.json").read_text())
    names = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr")
    spearmans = [figures[f"eval_{name}_spearman"] for name in names]
    assert figures["eval_sts_avg_spearman"] == pytest.approx(sum(spearmans) / 7)
    assert min(spearmans) > 20  # pairs that share more words are scored higher
    assert 0 <= figures["eval_mr_test_accuracy"] <= 100
    assert {"eval_stsb_dev_spearman", "eval_sts12_msrpar_pearson", "eval_alignment", "eval_uniformity"} <= set(figures)
    assert not any("development" in name for name in figures)
    printed = capsys.readouterr().out
    row = re.search(r"^\| .*encoder\d+, cls pooling +\|(.*)\|$", printed, re.M)[1].split("|")
    assert [float(cell) for cell in row] == [round(value, 2) for value in [*spearmans, sum(spearmans) / 7]]
    assert f"{figures['eval_mr_dev_accuracy']:.2f}" in printed
    assert f"{out}/eval_results.csv" in printed


def test_scores_are_not_overwritten_unless_asked(scores, capsys):
    assert scores("--eval_tasks", "stsb", "--allow_partial_tasks", "true")[0] == 0
    code, out = scores("--eval_tasks", "sickr", "--allow_partial_tasks", "true")
    assert code == 2
    said = capsys.readouterr().err
    assert said == (
        f"run_mocose.py: --output_dir {out}: holds eval_results.json of an earlier evaluation; give another "
        "directory, or --overwrite_output_dir true.\n"
    )
    assert "eval_stsb_spearman" in json.loads((out / "eval_results.json").read_text())
    more = ("--eval_tasks", "sickr", "--allow_partial_tasks", "true", "--overwrite_output_dir", "true")
    assert scores(*more)[0] == 0
    assert "eval_sickr_spearman" in json.loads((out / "eval_results.json").read_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--eval_tasks", "sts"), "has 750; fetch the file again, or set --allow_partial_tasks"),
        (("--eval_tasks", "sts11"), "--eval_tasks sts11: unknown; choose of sts, transfer, geometry, sts12"),
        (("--eval_tasks", "cr"), "custrev.pos: no such file"),
        (
            ("--report_test_selection", "true"),
            "--report_test_selection scores test sets at each evaluation",
        ),
        (("--eval_tasks", ","), "--eval_tasks names nothing; give sts"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_written(scores, capsys, options, said):
    code, out = scores(*options)
    assert code == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not out.exists()


def test_bfloat16_is_close_and_distinguished(scores):
    options = ("--eval_tasks", "stsb", "--allow_partial_tasks", "true")
    exact, rounded = (
        json.loads((scores(*options, *more, output_dir=name)[1] / "eval_results.json").read_text())
        for name, more in (("a", ()), ("b", ("--bf16", "true")))
    )
    assert exact["eval_stsb_pearson"] != rounded["eval_stsb_pearson"]
    assert exact["eval_stsb_pearson"] == pytest.approx(rounded["eval_stsb_pearson"], abs=3)


def test_a_trained_model_is_scored_on_tasks_and_selection_on_the_tests_is_shown(command, tmp_path, capsys):
    senteval = write_senteval(tmp_path / "senteval", years=["STS12"])
    options = ("--senteval_dir", str(senteval), "--eval_tasks", "sts", "geometry", "--report_test_selection", "true")
    options += ("--allow_partial_tasks", "true", "--eval_steps", "2", "--learning_rate", "1e-3")
    out = command(*options)
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    of_step = {}
    for entry in history:
        if "eval_sts12_spearman" in entry:
            of_step.setdefault(entry["step"], entry)
    assert sorted(of_step) == [0, 2, 4, 6]
    figures = json.loads((out / "eval_results.json").read_text())
    best = max(of_step, key=lambda step: of_step[step]["eval_dev_spearman"])
    assert figures["eval_stsb_spearman"] == pytest.approx(of_step[best]["eval_stsb_spearman"], abs=1e-6)
    assert figures["eval_stsb_dev_spearman"] == pytest.approx(of_step[best]["eval_dev_spearman"], abs=1e-6)
    assert figures["eval_dev_spearman"] == pytest.approx(figures["eval_stsb_dev_spearman"], abs=1e-6)
    last, on_dev, on_test = figures["selections"]
    assert last["selection"] == "last, step 6"
    assert on_dev["selection"] == f"selected on development pairs, step {best}"
    top = max(of_step, key=lambda step: of_step[step]["eval_sts_avg_of_3_spearman"])
    assert on_dev["dev_spearman"] == of_step[best]["eval_dev_spearman"]
    assert on_test["selection"] == f"selected on test sets, step {top}"
    assert on_test["sts_avg_of_3_spearman"] == of_step[top]["eval_sts_avg_of_3_spearman"]
    printed = capsys.readouterr().out
    for row in (last, on_dev, on_test):
        assert re.search(rf"^\| {row['selection']} .* {row['sts_avg_of_3_spearman']:.2f} \|$", printed, re.M)
    assert f"{figures['eval_sts12_spearman']:.2f}" in (out / "README.md").read_text()
    assert (out / "alignment_uniformity.png").read_bytes().startswith(b"\x89PNG")
    again = ("--do_eval", "--model_name_or_path", str(out), "--senteval_dir", str(senteval), "--eval_tasks", "sts")
    again += ("geometry", "--allow_partial_tasks", "true", "--use_cpu", "--output_dir", str(tmp_path / "again"))
    assert run_mocose.main([*again]) == 0
    alone = json.loads((tmp_path / "again" / "eval_results.json").read_text())
    assert alone["eval_sts12_spearman"] == pytest.approx(figures["eval_sts12_spearman"], abs=1e-6)
    assert (tmp_path / "again" / "alignment_uniformity.png").is_file()  # of the log beside the model


def test_the_kept_model_has_the_step_of_its_checkpoint(command, pairs_file, capsys, monkeypatch):
    """Of evaluations at 0, 2, 4 and 6 the one at 4 is best, but checkpoints are of 0 and 6."""
    development = iter([20.0, 30.0, 90.0, 40.0, 40.0])
    monkeypatch.setattr(
        "mocose_hf.training.scoring_trainer.score_sets",
        lambda *a, **k: {"dev_spearman": next(development), "dev_uniformity": -1.0},
    )
    command("--validation_file", str(pairs_file), "--eval_steps", "2", "--save_steps", "6")
    assert re.search(r"^best, step 6 +40.00 ", capsys.readouterr().out, re.M)


def test_the_test_sets_that_are_there_may_select(command, tmp_path, capsys):
    senteval = write_senteval(tmp_path / "senteval", years=["STS12"])
    options = ["--senteval_dir", str(senteval), "--report_test_selection", "true", "--allow_partial_tasks", "true"]
    options += ["--eval_steps", "2"]
    out = command(*options, "--metric_for_best_model", "sts_avg_spearman", code=2)
    assert not out.exists()
    assert "give sts_avg_of_3_spearman." in capsys.readouterr().err
    command(*options, "--metric_for_best_model", "sts_avg_of_3_spearman")
    figures = json.loads((out / "eval_results.json").read_text())
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["best_metric"] == figures["selections"][2]["sts_avg_of_3_spearman"]
    assert "eval_stsb_spearman" not in figures
    assert "eval_dev_spearman" in figures


def test_embeddings_that_are_not_finite_end_the_command_in_one_line(scores, encoder_dir, tmp_path, capsys):
    model = AutoModel.from_pretrained(encoder_dir)
    model.embeddings.word_embeddings.weight.data[:] = float("nan")
    shutil.copytree(encoder_dir, tmp_path / "bad")
    model.save_pretrained(tmp_path / "bad")
    more = ("--model_name_or_path", str(tmp_path / "bad"), "--allow_partial_tasks", "true", "--eval_tasks", "stsb")
    capsys.readouterr()
    code, out = scores(*more, "geometry")
    assert code == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"run_mocose.py: `bert` returns embeddings that are not finite; check the weights.*\n", said)
    assert not out.exists()


def test_embeddings_that_are_all_equal_end_the_command_with_the_reason(
    command, pairs_file, encoder_dir, tmp_path, capsys
):
    model = AutoModel.from_pretrained(encoder_dir)
    model.encoder.layer[-1].output.LayerNorm.weight.data.zero_()
    model.encoder.layer[-1].output.LayerNorm.bias.data.normal_()
    shutil.copytree(encoder_dir, tmp_path / "constant")
    model.save_pretrained(tmp_path / "constant")
    options = ("--validation_file", str(pairs_file), "--eval_steps", "2", "--pooling_mode", "mean")
    capsys.readouterr()
    out = command(*options, encoder=tmp_path / "constant", code=1)
    error = capsys.readouterr().err
    error = error.rpartition("\r")[2]
    error = error[error.index("run_mocose.py: ") :]
    assert error.startswith("run_mocose.py: All 24 sentences have the same embedding, so there is nothing to score")
    assert error.count("\n") == 1
    assert not out.exists() or list(out.iterdir()) == []
    argv = ["--model_name_or_path", str(tmp_path / "constant"), "--validation_file", str(pairs_file), "--use_cpu"]
    assert run_mocose.main([*argv, "--pooling_mode", "mean", "--output_dir", str(tmp_path / "scores")]) == 1
    assert capsys.readouterr().err.endswith(error)
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("text", ["{", '{"log_history": 5}', '{"log_history": [1, "a"]}', "[" * 100_000])
def test_a_damaged_log_beside_the_model_costs_its_plot_alone(scores, encoder_dir, tmp_path, text):
    shutil.copytree(encoder_dir, tmp_path / "model")
    (tmp_path / "model" / "trainer_state.json").write_text(text)
    more = (
        "--model_name_or_path",
        str(tmp_path / "model"),
        "--allow_partial_tasks",
        "true",
        "--eval_tasks",
        "geometry",
    )
    code, out = scores(*more)
    assert code == 0
    assert {p.name for p in out.iterdir()} >= {"eval_results.json", "spectrum.png"}
    assert not (out / "alignment_uniformity.png").exists()


def test_interrupted_run_continues_to_the_same_model(command, tmp_path):
    whole = command("--save_steps", "3", output_dir="whole")
    checkpoint = whole / "checkpoint-3"
    resumed = command("--resume_from_checkpoint", str(checkpoint), output_dir="resumed")
    first, second = (load_file(folder / "mocose" / "model.safetensors") for folder in (whole, resumed))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_resuming_a_finished_run_trains_no_step_says_so_and_completes_what_is_missing(command, caplog):
    out = command("--save_steps", "3")
    before = load_file(out / "mocose" / "model.safetensors")
    (out / "mocose" / "model.safetensors").unlink()
    (out / "modules.json").unlink()
    command("--save_steps", "3", "--resume_from_checkpoint", "true")
    after = load_file(out / "mocose" / "model.safetensors")
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert (out / "modules.json").is_file()
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 6
    assert "checkpoint-6 is at the end of its run, step 6: no step is left to train." in caplog.text


def test_resuming_without_a_checkpoint_starts_afresh_and_says_so(command, capsys):
    out = command("--resume_from_checkpoint", "true")
    assert "starting at step 0" in capsys.readouterr().out
    assert (out / "model.safetensors").is_file()


def test_overwriting_replaces_the_earlier_run_and_spares_other_files(command):
    out = command("--save_steps", "1", "--save_total_limit", "9")
    (out / "notes.txt").write_text("mine")
    assert (out / "checkpoint-5").is_dir()
    command("--max_steps", "2", "--overwrite_output_dir")
    assert {p.name for p in out.glob("checkpoint-*")} == {"checkpoint-2"}
    assert (out / "notes.txt").read_text() == "mine"


def test_figures_of_an_earlier_run_are_not_those_of_the_one_that_replaces_it(command, pairs_file):
    out = command("--validation_file", str(pairs_file), "--eval_steps", "3", "--save_steps", "3")
    assert "eval_dev_spearman" in json.loads((out / "all_results.json").read_text())
    command("--overwrite_output_dir", "true")
    figures = json.loads((out / "all_results.json").read_text())
    assert figures == json.loads((out / "train_results.json").read_text())
    assert not (out / "eval_results.json").exists()


@pytest.mark.parametrize("damage", ["", '{"train_loss": 1', "[1, 2]", '"text"', "\x00\xff"])
def test_damaged_figures_are_written_anew_when_the_command_is_repeated(command, pairs_file, damage):
    repeated = ("--validation_file", str(pairs_file), "--eval_steps", "3", "--save_steps", "3")
    repeated += ("--resume_from_checkpoint", "true")
    out = command(*repeated)
    before = json.loads((out / "all_results.json").read_text())
    assert {"train_loss", "eval_dev_spearman"} <= before.keys()
    (out / "all_results.json").write_text(damage, encoding="latin-1")
    command(*repeated)
    after = json.loads((out / "all_results.json").read_text())
    times = {name for name in before if "runtime" in name or "per_second" in name}
    assert {name: after[name] for name in before.keys() - times} == {n: before[n] for n in before.keys() - times}
    for name in ("all_results.json", "train_results.json", "eval_results.json", "trainer_state.json"):
        (out / name).write_text(damage, encoding="latin-1")
    command(*repeated)
    assert json.loads((out / "all_results.json").read_text())["eval_dev_spearman"] == before["eval_dev_spearman"]


def test_refused_run_leaves_the_one_it_was_to_replace(command, capsys):
    out = command("--save_steps", "3")
    before = sorted(p.relative_to(out) for p in out.rglob("*"))
    command("--overwrite_output_dir", "--max_seq_length", "99", code=2)
    command("--overwrite_output_dir", "--report_to", "nobody", code=2)
    assert sorted(p.relative_to(out) for p in out.rglob("*")) == before
    assert "Traceback" not in capsys.readouterr().err


def test_resuming_into_a_directory_of_other_files_is_refused(command, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.safetensors").write_bytes(b"precious")
    out = command("--resume_from_checkpoint", "true", code=2)
    assert "holds model.safetensors, but no complete checkpoint to resume from" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--queue_size", "12"), "--queue_size was 16 and is 12 now"),
        (("--projection_dim", "8"), "--projection_dim was None and is 8 now"),
        (("--learning_rate", "1e-4", "--seed", "7"), "--learning_rate was 3e-05 and is 0.0001 now; --seed was 42"),
        (("--max_steps", "6"), "--max_steps was 4 and is 6 now"),
        (("--per_device_train_batch_size", "2"), "`global_batch_size` was 4 and is 2 now"),
    ],
)
def test_going_on_with_other_options_is_refused_by_name(command, capsys, options, said):
    command("--save_steps", "3", "--max_steps", "4")
    capsys.readouterr()
    command("--max_steps", "4", "--resume_from_checkpoint", "true", *options, code=2)
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert "repeat that run's options" in error


def test_going_on_with_other_text_is_refused(command, text_file, capsys):
    command("--save_steps", "3")
    text_file.write_text("\n".join(sentences(26, seed=3)), encoding="utf-8")
    command("--save_steps", "3", "--resume_from_checkpoint", "true", code=2)
    assert "checkpoint-6: was trained on other text" in capsys.readouterr().err.splitlines()[-1]


def test_going_on_with_other_intervals_is_allowed(command):
    out = command("--save_steps", "3", "--max_steps", "4")
    shutil.rmtree(out / "checkpoint-4")
    command("--max_steps", "4", "--logging_steps", "1", "--resume_from_checkpoint", "true")
    assert (out / "checkpoint-4" / "manifest.json").is_file()


def test_resuming_into_another_directory_leaves_its_files(command, tmp_path, capsys):
    checkpoint = command("--save_steps", "3") / "checkpoint-3"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("precious")
    command("--resume_from_checkpoint", str(checkpoint), "--save_steps", "3", output_dir="other", code=2)
    assert "is not empty" in capsys.readouterr().err
    command("--resume_from_checkpoint", str(checkpoint), "--save_steps", "3", output_dir="free")
    assert (tmp_path / "free" / "checkpoint-6" / "manifest.json").is_file()


def test_resuming_from_a_checkpoint_without_its_queue_is_refused(command, capsys):
    checkpoint = command("--save_steps", "3") / "checkpoint-3"
    weights = checkpoint / "model.safetensors"
    save_file({n: v for n, v in load_file(weights).items() if not n.startswith("queue.")}, weights)
    write_manifest(checkpoint, read_manifest(checkpoint))
    command("--resume_from_checkpoint", str(checkpoint), code=2, output_dir="other")
    assert "`queue." in capsys.readouterr().err


def test_finished_run_that_was_moved_ends_with_its_best_checkpoint(command, pairs_file, tmp_path):
    out = command("--validation_file", str(pairs_file), "--eval_steps", "2", "--learning_rate", "1e-3")
    before = load_file(out / "mocose" / "model.safetensors")
    out.rename(tmp_path / "moved")
    options = ("--validation_file", str(pairs_file), "--eval_steps", "2", "--learning_rate", "1e-3")
    moved = command(*options, "--resume_from_checkpoint", "true", output_dir="moved")
    after = load_file(moved / "mocose" / "model.safetensors")
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_numbers_gone_bad_end_with_exit_code_1_and_one_line(command, capsys):
    command("--learning_rate", "1e38", "--max_grad_norm", "0", code=1)
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"run_mocose.py: The loss, the gradient or a key of step \d is not finite; .*", error)


def test_ctrl_c_outside_training_ends_with_one_line(command, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "read_training_sentences", interrupted)
    command(code=130)
    assert capsys.readouterr().err.splitlines()[-1].startswith("run_mocose.py: stopped at once by Ctrl-C")


def test_tokens_of_access_stay_out_of_the_card(command):
    out = command("--hub_token", "hf_secret", "--max_steps", "1")
    again = command("--hub_token=hf_secret", "--max_steps", "1", output_dir="again")
    written = [p for folder in (out, again) for p in folder.rglob("*") if p.suffix in (".md", ".json")]
    assert [p for p in written if "hf_secret" in p.read_text(encoding="utf-8")] == []


def test_two_runs_with_one_seed_write_the_same_weights(command):
    first = load_file(command(output_dir="a") / "mocose" / "model.safetensors")
    second = load_file(command(output_dir="b") / "mocose" / "model.safetensors")
    other = load_file(command("--seed", "7", output_dir="c") / "mocose" / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["projection_head.0.0.weight"], other["projection_head.0.0.weight"])


def test_configuration_file_gives_defaults_that_options_override(command, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("temperature: 0.2\nqueue_size: 12\n")
    argv = [str(config), "--queue_size", "10"]
    out = tmp_path / "configured"
    argv += ["--model_name_or_path", str(command(output_dir="first")), "--train_file", str(tmp_path / "sentences.txt")]
    argv += ["--output_dir", str(out), "--per_device_train_batch_size", "4", "--queue_init_size", "4", "--use_cpu"]
    assert run_mocose.main([*argv, "--disable_tqdm", "true"]) == 0
    model = MoCoSEForPreTraining.from_pretrained(out / "mocose")
    assert (model.config.temperature, model.config.queue_size) == (0.2, 10)


def test_the_domain_recipe_trains_the_embedding_itself(pairs_file, encoder_dir, text_file, tmp_path):
    argv = ["--recipe", "domain", "--model_name_or_path", str(encoder_dir), "--use_cpu", "--train_file"]
    argv += [str(text_file), "--validation_file", str(pairs_file), "--output_dir", str(tmp_path / "out")]
    argv += ["--per_device_train_batch_size", "8", "--max_steps", "2", "--eval_steps", "1", "--disable_tqdm", "true"]
    assert run_mocose.main(argv) == 0
    config = MoCoSEForPreTraining.from_pretrained(tmp_path / "out", subfolder="mocose").config
    assert (config.use_pooler, config.reshaping_weight, config.queue_weight) == (False, 1.0, 0.0)
    assert (tmp_path / "out" / "modules.json").exists()


def test_the_pairs_recipe_brings_the_pairs_it_is_trained_on_together(encoder_dir, tmp_path):
    queries, documents = sentences(16), sentences(16, seed=1)
    path = tmp_path / "pairs.tsv"
    lines = ["query\ttext", *(f"{query}\t{document}" for query, document in zip(queries, documents, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    argv = ["--recipe", "pairs", "--model_name_or_path", str(encoder_dir), "--use_cpu", "--train_file", str(path)]
    argv += ["--text_column", "query", "--key_column", "text", "--output_dir", str(tmp_path / "out")]
    argv += ["--retrieval_file", str(path), "--load_best_model_at_end", "false", "--disable_tqdm", "true"]
    argv += ["--per_device_train_batch_size", "8", "--max_steps", "60", "--eval_steps", "60", "--max_seq_length", "32"]
    assert run_mocose.main([*argv, "--learning_rate", "1e-2"]) == 0
    model = MoCoSEForPreTraining.from_pretrained(tmp_path / "out", subfolder="mocose")
    assert (model.config.has_target, model.config.queue_size, len(model.projection_head)) == (False, 0, 0)
    log = json.loads((tmp_path / "out" / "checkpoint-60" / "trainer_state.json").read_text())["log_history"]
    start, end = [line["eval_pairs_mrr_at_10"] for line in log if "eval_pairs_mrr_at_10" in line]
    assert end > start + 30.0


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_the_pairs_recipe_trains_on_hard_negatives(encoder_dir, tmp_path, streaming):
    columns = [sentences(16, seed=seed) for seed in range(4)]
    path = tmp_path / "triplets.tsv"
    lines = ["query\tfirst\tsecond\tworse", *("\t".join(row) for row in zip(*columns, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    argv = ["--recipe", "pairs", "--model_name_or_path", str(encoder_dir), "--use_cpu", "--train_file", str(path)]
    argv += ["--text_column", "query", "--key_column", "first", "second", "--max_steps", "2", "--max_seq_length", "32"]
    argv += ["--per_device_train_batch_size", "8", "--streaming", streaming, "--disable_tqdm", "true", "--seed", "0"]
    losses = []
    for name, more in (("without", []), ("with", ["--negative_column", "worse"])):
        assert run_mocose.main([*argv, *more, "--output_dir", str(tmp_path / name), "--logging_steps", "1"]) == 0
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        losses.append(state["log_history"][0]["loss"])
    assert losses[1] > losses[0] + 0.1  # more candidates


@pytest.mark.parametrize("name", ["paper-bert-base", "paper-bert-large"])
def test_shipped_configurations_are_understood(name, tmp_path):
    path = REPOSITORY / "configs" / f"{name}.yaml"
    options = parse_command_line([str(path), "--output_dir", str(tmp_path), "--use_cpu"])
    assert (options.training.ema_decay, options.training.weight_decay) == (0.85, 1e-6)
    assert options.training.learning_rate == (1e-5 if "large" in name else 3e-5)
    assert options.training.per_device_train_batch_size == (32 if "large" in name else 64)
    assert options.method.queue_size == 512


def test_the_configuration_without_heads_trains_on_what_it_says(pairs_file, encoder_dir, text_file, tmp_path):
    argv = [
        str(REPOSITORY / "configs" / "direct.yaml"), "--model_name_or_path", str(encoder_dir), "--use_cpu",
        "--train_file", str(text_file), "--validation_file", str(pairs_file), "--output_dir", str(tmp_path / "out"),
        "--per_device_train_batch_size", "8", "--max_steps", "2", "--disable_tqdm", "true",
    ]  # fmt: skip
    assert run_mocose.main(argv) == 0
    model = MoCoSEForPreTraining.from_pretrained(tmp_path / "out", subfolder="mocose")
    assert (len(model.projection_head), len(model.predictor)) == (0, 0)
    said = json.loads((tmp_path / "out" / "training_args.json").read_text())
    assert (said["token_cutoff"], said["augment_view"], said["eval_steps"]) == (0.1, "both", 10)
