"""The command with development sets of several kinds, on tiny models and text."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from builders import REPOSITORY, WORDS, sentences
from safetensors.torch import load_file
from torch.nn import functional as F

from mocose_hf import MoCoSEForPreTraining
from mocose_hf.cli import recipe_choice
from mocose_hf.cli.factory import build_model
from mocose_hf.cli.options import parse_command_line
from mocose_hf.evaluation.score_tables import development_tables
from mocose_hf.evaluation.sentence_embeddings import SentenceEmbeddings
from mocose_hf.models.dense_layer import DenseLayer
from mocose_hf.models.losses import reshape_keys
from mocose_hf.training.trainer import MoCoSETrainer

sys.path.insert(0, str(REPOSITORY))

import run_mocose

NAMES = ("ndcg_at_10", "mrr_at_10", "recall_at_1", "recall_at_10", "recall_at_100")


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Text, a retrieval file, a label file and pairs."""
    made = sentences(60, seed=3)
    written = {
        "text": "\n".join([text for text in sentences(120) if len(text.split()) > 3][:80]),
        "shop": "\n".join(["query\ttext", *(f"{made[i]}\t{made[i + 20]}" for i in range(20))]),
        "bank": "\n".join(["text\tlabel", *(f"{text}\t{WORDS.index(text.split()[0]) % 3}" for text in made)]),
        "pairs": "\n".join(["sentence1\tsentence2\tscore", *(f"{made[i]}\t{made[i + 30]}\t{i}" for i in range(9))]),
    }
    paths = {name: tmp_path / f"{name}.{'txt' if name == 'text' else 'tsv'}" for name in written}
    for name, content in written.items():
        paths[name].write_text(content + "\n", encoding="utf-8")
    return paths


@pytest.fixture
def command(encoder_dir, tmp_path):
    def run(*options: object, code: int = 0, output_dir: str = "out") -> Path:
        argv = ["--model_name_or_path", encoder_dir, "--output_dir", tmp_path / output_dir, "--use_cpu"]
        assert run_mocose.main([*map(str, argv), *map(str, options)]) == code
        return tmp_path / output_dir

    return run


def training(files, *options: object) -> list[object]:
    tiny = ["--per_device_train_batch_size", 8, "--queue_size", 16, "--queue_init_size", 4, "--disable_tqdm", "true"]
    return ["--train_file", files["text"], *tiny, "--eval_steps", 3, "--max_steps", 6, *options]


def rows_of(printed: str, task: str) -> dict[str, list[str]]:
    """Return the cells of a task's table as printed, by the name of the row."""
    table = printed.split(f"\n{task}, × 100\n")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:2] == "| "]
    return {name: cells for name, *cells in rows}


def test_all_kinds_of_sets_are_scored_without_training(command, files, capsys):
    pytest.importorskip("sklearn")
    sets = ["--retrieval_file", files["shop"], "--label_file", files["bank"], "--v_measure"]
    out = command("--do_eval", *sets, "--validation_file", files["pairs"])
    printed = capsys.readouterr().out
    assert f"{files['shop']}: 20 queries, 20 texts, 20 relevant ones." in printed
    assert f"{files['bank']}: 60 texts, 3 labels." in printed
    figures = json.loads((out / "eval_results.json").read_text())
    expected = [f"eval_shop_{name}" for name in NAMES]
    expected += [f"eval_bank_{n}" for n in ("precision_at_10", "knn_accuracy_at_1", "knn_accuracy_at_10", "v_measure")]
    assert {*expected, "eval_dev_spearman"} <= set(figures)
    assert not any(name.startswith("eval_sts1") for name in figures)  # --do_eval alone would score STS
    for task in ("shop", "bank"):
        rows = rows_of(printed, task)
        (model,) = (name for name in rows if "cls pooling" in name)
        assert list(rows) == ["", "TF-IDF, words", "TF-IDF, characters 3-5", model]
        values = [value for name, value in figures.items() if name.startswith(f"eval_{task}_")]
        assert [float(cell) for cell in rows[model]] == [round(value, 2) for value in values]
    written = (out / "eval_results.csv").read_text().splitlines()
    assert [line.split(",eval")[0][:9] for line in written[:3]] == ["scored", '"TF-IDF, ', '"TF-IDF, ']
    assert "shop, × 100" in (out / "eval_results.md").read_text()


def test_a_trained_model_is_selected_by_the_users_own_task(command, files, capsys):
    pytest.importorskip("sklearn")
    sets = ["--retrieval_file", files["shop"], "--label_file", files["bank"], "--learning_rate", "1e-3"]
    out = command(*training(files, *sets))
    state = json.loads((out / "trainer_state.json").read_text())
    scored = {e["step"]: e["eval_shop_ndcg_at_10"] for e in state["log_history"] if "eval_shop_ndcg_at_10" in e}
    assert list(scored) == [0, 3, 6]
    assert state["best_metric"] in scored.values()
    assert not any("eval_dev_spearman" in entry for entry in state["log_history"])
    assert {"eval_shop_mrr_at_10", "eval_bank_precision_at_10"} <= {n for e in state["log_history"] for n in e}
    final = json.loads((out / "eval_results.json").read_text())
    assert final["eval_shop_ndcg_at_10"] == pytest.approx(state["best_metric"], abs=1e-4)
    rows = rows_of(capsys.readouterr().out, "shop")
    assert [re.sub(r"\d.*", "", name) for name in rows][:4] == ["", "start", "TF-IDF, words", "TF-IDF, characters "]
    assert list(rows)[-1].startswith("best, step ")
    assert float(rows["start"][0]) == round(scored[0], 2)
    card = (out / "README.md").read_text()
    assert "## Scores on the development sets" in card
    assert "| TF-IDF, words | " in card


def test_any_figure_of_a_set_can_select(command, files):
    sets = ["--retrieval_file", files["shop"], "--label_file", files["bank"], "--validation_file", files["pairs"]]
    out = command(*training(files, *sets, "--metric_for_best_model", "bank_knn_accuracy_at_1"))
    state = json.loads((out / "trainer_state.json").read_text())
    values = [e["eval_bank_knn_accuracy_at_1"] for e in state["log_history"] if "eval_bank_knn_accuracy_at_1" in e]
    assert state["best_metric"] in values
    assert any("eval_dev_spearman" in entry for entry in state["log_history"])


def test_a_development_set_is_made_of_the_training_text(command, files, capsys):
    out = command(*training(files, "--dev_from_text", 30))
    printed = capsys.readouterr().out
    assert "80 rows read, dropped: 30 held out; 50 sentences." in printed
    state = json.loads((out / "trainer_state.json").read_text())
    assert {e["step"] for e in state["log_history"] if "eval_dev_from_text_ndcg_at_10" in e} == {0, 3, 6}
    again = command(*training(files, "--dev_from_text", 30, "--seed", 7), output_dir="again")
    start, other = (
        json.loads((folder / "trainer_state.json").read_text())["log_history"][0] for folder in (out, again)
    )
    assert start["eval_dev_from_text_mrr_at_10"] == other["eval_dev_from_text_mrr_at_10"]  # the same set for all seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--v_measure"], "--v_measure clusters each --label_file; give one, or leave it out"),
        (["--retrieval_file", "{shop}", "{shop}"], "both would be scored as `shop`; rename one"),
        (["--retrieval_file", "{bank}"], "bank.tsv, line 1: no column `query`, the columns are: text, label"),
        (["--label_file", "{absent}"], "absent.tsv: no such file"),
        (["--dev_from_text", "200"], "text.txt: all 80 rows would be held out; give a lower --dev_from_text"),
        (["--dev_from_text", "75"], "text.txt: 5 different sentences, but one batch takes 8"),
        (["--dev_from_text", "-1"], "--dev_from_text is a number of rows, 0 or above, but is -1"),
        (
            ["--dev_from_text", "9", "--streaming", "true"],
            "--dev_from_text holds out rows of the training text, but a",
        ),
        (["--validation_file", "{pairs}", "--validation_dataset_name", "x"], "are both given; drop one"),
        (
            ["--retrieval_file", "{shop}", "--metric_for_best_model", "dev_spearman"],
            "--metric_for_best_model dev_spearman: is not scored; choose one of shop_ndcg_at_10, shop_mrr_at_10",
        ),
    ],
)
def test_sets_that_cannot_be_used_end_in_one_line(command, files, capsys, options, message):
    places = files | {"absent": files["text"].parent / "absent.tsv"}
    out = command(*training(files, *(option.format(**places) for option in options)), code=2)
    assert not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_text_nothing_can_be_held_out(command, files, capsys):
    command("--dev_from_text", 5, "--label_file", files["bank"], code=2)
    assert "but there is no training text; leave it out" in capsys.readouterr().err


def test_scores_stand_without_tf_idf_if_scikit_learn_is_missing(command, files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    out = command("--label_file", files["bank"], output_dir="scores")
    printed = capsys.readouterr().out
    assert "TF-IDF is not scored: scikit-learn is not installed; run pip install " in printed
    assert len(rows_of(printed, "bank")) == 2
    assert "eval_bank_precision_at_10" in json.loads((out / "eval_results.json").read_text())


def test_each_task_has_a_table_of_its_own():
    rows = [
        ("start", {"a_recall_at_1": 1.0, "a_recall_at_10": 2.0, "a_recall_at_100": 3.0, "dev_spearman": 50.0}),
        ("best", {"a_recall_at_1": 4.0, "b_c_precision_at_10": 5.0, "b_c_v_measure": 6.0}),
    ]
    pairs, first, second = development_tables(rows)
    assert pairs[0] == "Development pairs"
    assert first == (
        "a, × 100",
        ["", "R@1", "R@10", "R@100"],
        [["start", "1.00", "2.00", "3.00"], ["best", "4.00", "-", "-"]],
    )
    assert second == ("b_c, × 100", ["", "P@10", "V-measure"], [["start", "-", "-"], ["best", "5.00", "6.00"]])


def test_encoding_applies_to_development_files(command, files, capsys):
    path = files["shop"]
    path.write_bytes(
        path.read_text(encoding="utf-8").replace("\t", "\tKäfer ").replace("\tKäfer text", "\ttext").encode("cp1252")
    )
    sets = ["--retrieval_file", path, "--label_file", files["bank"]]
    command(*sets, code=2)
    assert "line 2: not UTF-8" in capsys.readouterr().err
    command(*sets, "--encoding", "cp1252")


def domain(files, *options: object) -> list[object]:
    return training(files, "--recipe", "domain", "--queue_size", 24, "--save_steps", 3, *options)


def shape_of(out: Path) -> tuple[float, float]:
    config = MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose").config
    return config.reshaping_whitening, config.reshaping_smoothing


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"start": 5.0, "domain-topics": 6.0, "domain-search": 7.0}, "domain-search"),
        ({"start": 5.0, "domain-topics": 6.0, "domain-search": 4.0}, "domain-topics"),
        ({"start": 5.0, "domain-topics": 3.0, "domain-search": 4.0}, "domain-search"),
    ],
)
def test_the_recipe_with_the_better_shape_is_chosen_once(command, files, capsys, monkeypatch, scores, chosen):
    monkeypatch.setattr(recipe_choice, "score_shapes", lambda *_: scores)
    out = command(*domain(files, "--label_file", files["bank"]))
    printed = capsys.readouterr().out
    assert f"--recipe domain: {chosen}. bank_precision_at_10 of the start's embeddings" in printed
    assert ("No shape is better than the start" in printed) == (scores["start"] > scores[chosen])
    assert "--recipe from-mlm" in printed  # the tiny encoder states no pooling
    recorded = json.loads((out / "recipe.json").read_text())
    assert recorded == {"recipe": chosen, "metric": "bank_precision_at_10", "scores": scores}
    assert shape_of(out) == ((0.25, 0.7) if chosen == "domain-topics" else (0.5, 0.0))

    monkeypatch.setattr(recipe_choice, "score_shapes", lambda *_: pytest.fail("a resumed run chose again"))
    command(*domain(files, "--label_file", files["bank"], "--resume_from_checkpoint", "true"))
    assert f"--recipe domain: {chosen}, as this run chose before training." in capsys.readouterr().out
    (out / "recipe.json").unlink()
    command(*domain(files, "--label_file", files["bank"], "--resume_from_checkpoint", "true"), code=2)
    assert "give --recipe domain-topics or domain-search instead of domain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "pooling"), [("domain-search", "mean"), ("pairs", "mean"), ("released", "cls"), (None, "cls")]
)
def test_an_encoder_that_states_no_pooling_gets_that_of_the_recipe(files, encoder_dir, recipe, pooling):
    argv = ["--model_name_or_path", encoder_dir, "--train_file", files["text"], "--output_dir", "unused", "--use_cpu"]
    argv += [] if recipe is None else ["--recipe", recipe]
    argv += ["--algorithm", "released"] if recipe == "released" else []
    argv += ["--key_column", "text"] if recipe == "pairs" else []
    argv = [str(part) for part in argv]
    assert build_model(parse_command_line(argv))[0].config.pooling_mode == pooling
    assert build_model(parse_command_line([*argv, "--pooling_mode", "max"]))[0].config.pooling_mode == "max"


def test_the_shapes_are_scored_on_the_start_and_no_text_is_smoothed_with_itself(command, files):
    out = command(*domain(files, "--retrieval_file", files["shop"], "--seed", 3))
    recorded = json.loads((out / "recipe.json").read_text())
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    start = next(e["eval_shop_ndcg_at_10"] for e in log if "eval_shop_ndcg_at_10" in e and e["step"] == 0)
    assert recorded["scores"]["start"] == pytest.approx(start, abs=1e-6)
    best = max(("domain-topics", "domain-search"), key=recorded["scores"].get)
    assert recorded["recipe"] == best

    rows = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    drawn = [f"text {number}" for number in range(6)]
    start = SentenceEmbeddings(["text 0", "new"], 3.0 * rows[:2])
    found = recipe_choice._Reshaped(start, rows, drawn, recipe_choice.Shape(0.0, 0.0, 0.5, 0.1), len(rows))(
        ["text 0", "new"]
    )
    expected = [
        reshape_keys(rows[:1], rows[1:], torch.zeros(1, 5, dtype=torch.bool), smoothing=0.5, temperature=0.1),
        reshape_keys(rows[1:2], rows, torch.zeros(1, 6, dtype=torch.bool), smoothing=0.5, temperature=0.1),
    ]
    torch.testing.assert_close(found, torch.cat(expected))


def test_without_a_development_set_the_first_recipe_is_taken(command, files, capsys):
    options = [part for part in domain(files) if part not in ("--eval_steps",)]
    options.remove(3)  # the steps of --eval_steps
    out = command(*options)
    assert "no development set decides, so domain-topics is taken" in capsys.readouterr().out
    assert json.loads((out / "recipe.json").read_text()) == {"recipe": "domain-topics"}
    assert shape_of(out) == (0.25, 0.7)


def test_typed_options_may_leave_nothing_to_choose(command, files, capsys):
    in_batch = ["--reshaping_weight", 0, "--in_batch_weight", 1, "--queue_size", 0, "--queue_init_size", 0]
    out = command(*domain(files, "--label_file", files["bank"], *in_batch))
    assert "of the start's embeddings" not in capsys.readouterr().out
    assert not (out / "recipe.json").exists()
    assert MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose").config.in_batch_weight == 1.0


@pytest.mark.parametrize("resume", [False, True])
def test_the_exported_encoder_is_merged_with_the_start(command, files, capsys, encoder_dir, resume):
    argv = training(files, "--label_file", files["bank"], "--learning_rate", "1e-3", "--metric_for_best_model")
    argv += ["bank_knn_accuracy_at_1", "--load_best_model_at_end", "false", "--save_steps", 3]
    plain = load_file(command(*argv, output_dir="plain") / "model.safetensors")
    argv += ["--merge_with_start", 0.25]
    out = command(*argv, output_dir="merged")
    if resume:
        (out / "model.safetensors").unlink()
        capsys.readouterr()
        command(*argv, "--resume_from_checkpoint", "true", output_dir="merged")
    assert "last, step 6, merged with 0.25 of the start" in capsys.readouterr().out
    merged = load_file(out / "model.safetensors")
    start = load_file(encoder_dir / "model.safetensors")
    assert any(not torch.equal(merged[name], plain[name]) for name in merged)
    for name, weight in merged.items():
        torch.testing.assert_close(weight, 0.75 * plain[name] + 0.25 * start[name], atol=1e-6, rtol=1e-5)


def test_the_start_is_kept_if_the_merged_encoder_is_worse(command, files, capsys, monkeypatch, encoder_dir):
    argv = training(files, "--label_file", files["bank"], "--learning_rate", "1e-3", "--merge_with_start", 0.5)
    argv += ["--metric_for_best_model", "bank_precision_at_10"]
    best = {0: 50.0, 3: 60.0, 6: 55.0}
    real = MoCoSETrainer.evaluate

    def evaluate(trainer, *args, **kwargs):
        metrics = real(trainer, *args, **kwargs)
        merged = trainer.state.global_step == 6 and not trainer._is_training
        metrics["eval_bank_precision_at_10"] = 40.0 if merged else best[trainer.state.global_step]
        trainer.state.log_history[-1]["eval_bank_precision_at_10"] = metrics["eval_bank_precision_at_10"]
        return metrics

    monkeypatch.setattr(MoCoSETrainer, "evaluate", evaluate)
    out = command(*argv)
    printed = capsys.readouterr().out
    assert "Merged with the start, the encoder has a worse bank_precision_at_10 than the start alone." in printed
    assert "best, step 0: the start" in printed
    kept = load_file(out / "model.safetensors")
    start = load_file(encoder_dir / "model.safetensors")
    assert all(torch.equal(weight, start[name]) for name, weight in kept.items())


@pytest.mark.parametrize("options", [["--merge_with_start", "1"], ["--merge_with_start", "0.5", "--do_eval"]])
def test_a_merge_that_has_no_meaning_fails(command, files, capsys, options):
    command(*options, "--label_file", files["bank"], code=2)
    assert "merge_with_start" in capsys.readouterr().err


@pytest.mark.parametrize("gains", [True, False])
def test_a_masked_language_model_is_whitened_if_that_helps_and_the_untouched_start_is_shown(
    command, files, capsys, monkeypatch, gains
):
    scores = {"start": 5.0, "from-mlm-topics": 6.0 if gains else 4.5, "from-mlm-search": 4.0, "domain-topics": 3.0}
    monkeypatch.setattr(recipe_choice, "score_shapes", lambda *_: scores)
    argv = training(files, "--recipe", "from-mlm", "--label_file", files["bank"], "--save_steps", 3, "--max_steps", 3)
    out = command(*argv)
    printed = capsys.readouterr().out
    config = MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose").config
    assert config.whitening == (0.75 if gains else 0.0)
    assert (out / "2_Dense").is_dir() == gains
    assert ("a fixed dense layer" in (out / "README.md").read_text(encoding="utf-8")) == gains
    assert ("start, whitened" in printed) == gains
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    untouched = [entry for entry in log if "unwhitened_bank_precision_at_10" in entry]
    assert len(untouched) == gains
    recorded = json.loads((out / "recipe.json").read_text())
    assert recorded.get("values") == (None if gains else {"whitening": 0.0})

    command(*argv, "--resume_from_checkpoint", "true")
    assert MoCoSEForPreTraining.from_pretrained(out, subfolder="mocose").config.whitening == config.whitening


def test_the_shape_of_whitening_is_that_of_the_layer():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 4, generator=generator) @ torch.randn(4, 4, generator=generator) + 2.0
    start = SentenceEmbeddings(["a", "b"], rows[:2])
    dense = DenseLayer(4)
    dense.whiten(rows, 0.75)
    texts = [str(number) for number in range(60)]
    shape = recipe_choice.Shape(0.75, 0.0, 0.0, 1.0)
    found = recipe_choice._Reshaped(start, rows, texts, shape, 8)(["a", "b"])
    torch.testing.assert_close(found, F.normalize(dense(rows[:2]), dim=-1))
