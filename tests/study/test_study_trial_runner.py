import json
import sys

import pytest
import torch
from builders import REPOSITORY, sentences
from senteval_folder import write_senteval
from sklearn.feature_extraction.text import TfidfVectorizer

from mocose_hf.errors import InputError, TrainingInterrupted
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.study.trial_runner import TrialRunner

sys.path.insert(0, str(REPOSITORY))

import run_mocose


@pytest.fixture
def common(encoder_dir, tmp_path) -> dict[str, object]:
    text, pairs, texts = tmp_path / "text.txt", tmp_path / "pairs.tsv", sentences(40, seed=5)
    text.write_text("\n".join(sentences(64)) + "\n", encoding="utf-8")
    pairs.write_text("".join(f"{i * 0.25:.2f}\t{texts[i]}\t{texts[i + 20]}\n" for i in range(20)), encoding="utf-8")
    return {
        "model_name_or_path": str(encoder_dir),
        "train_file": str(text),
        "validation_file": str(pairs),
        "per_device_train_batch_size": 8,
        "queue_size": 16,
        "queue_init_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 6,
        "eval_steps": 2,
        "logging_steps": 1,
        "use_cpu": True,
    }


@pytest.fixture
def runner(common, tmp_path) -> TrialRunner:
    return TrialRunner("mine", common, tmp_path / "trials")


def test_a_trial_gives_the_results_of_the_command(runner, common, tmp_path):
    result = runner.run("η = 0.5", {"ema_decay": 0.5}, seed=3)
    out = tmp_path / "command"
    options = common | {"ema_decay": 0.5, "seed": 3, "output_dir": str(out)}
    assert run_mocose.main([f"--{name}={value}" for name, value in options.items()]) == 0

    state = json.loads((out / "trainer_state.json").read_text())
    curve = {e["step"]: e["eval_dev_spearman"] for e in state["log_history"] if "eval_dev_spearman" in e}
    assert result.state == "complete"
    assert [step for step, _ in result.curve] == [0, 2, 4, 6]
    assert dict(result.curve[:-1]) == {step: curve[step] for step in (0, 2, 4)}
    assert result.figures["dev_spearman"] == state["best_metric"]
    assert result.figures["dev_step"] == state["best_global_step"]
    assert result.figures["start_dev_spearman"] == curve[0]
    assert result.figures["last_dev_spearman"] == result.curve[-1][1]
    assert {"dev_alignment", "dev_uniformity", "seconds"} <= result.figures.keys()
    assert result.options["ema_decay"] == 0.5


def test_the_pair_cosines_come_from_the_best_checkpoint(runner, common, tmp_path):
    for label, options in (("trained", {}), ("start", {"baseline": "start"}), ("TF-IDF", {"baseline": "tfidf"})):
        result = runner.run(label, options, seed=0)
        assert result.pair_scores == [i * 0.25 for i in range(20)]
        score = spearman(result.pair_cosines, result.pair_scores)
        assert score == pytest.approx(result.figures["dev_spearman"], abs=1e-3)
    last = common | {"load_best_model_at_end": False, "learning_rate": 3e-2}
    result = TrialRunner("mine", last, tmp_path / "last").run("a", {}, seed=0)
    assert result.figures["dev_spearman"] != result.figures["last_dev_spearman"]
    assert result.pair_cosines == []


def test_seeds_give_different_scores_and_the_order_of_trials_does_not_matter(runner):
    first = [runner.run("a", {}, seed).figures["dev_spearman"] for seed in (0, 1)]
    again = [runner.run("b", {}, seed).figures["dev_spearman"] for seed in (1, 0)]

    assert first == again[::-1]
    assert first[0] != first[1]


def test_checkpoints_of_finished_trials_are_deleted_by_default(common, tmp_path):
    for keep in (False, True):
        runner = TrialRunner("mine", common, tmp_path / str(keep), keep_models=keep)
        runner.run("a", {}, seed=0)
        folder = runner.folder_of("a", 0)
        assert bool(list(folder.glob("checkpoint-*"))) is keep
        assert json.loads((folder / "result.json").read_text())["state"] == "complete"


def test_an_interrupted_trial_resumes_to_the_same_result(runner, common, tmp_path, monkeypatch):
    whole = runner.run("whole", {}, seed=0)
    steps = []

    def interrupt():
        steps.append(1)
        if len(steps) == 5:  # after steps 1 and 2, an evaluation and step 3
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
        runner.run("broken", {}, seed=0, heartbeat=interrupt)
    broken = runner.run("broken", {}, seed=0)

    assert broken.curve == whole.curve
    assert {**broken.figures, "seconds": 0} == {**whole.figures, "seconds": 0}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"learning_rate": 1e30, "max_grad_norm": 0}, "not finite"),
        ({"temperature": -1}, "`temperature` is a number above 0, but is -1"),
        ({"eval_strategy": "no"}, "no evaluation took place; leave out --eval_strategy"),
        ({"baseline": "word2vec"}, "the baseline 'word2vec' is unknown"),
    ],
)
def test_an_impossible_trial_fails_with_its_reason(runner, options, reason):
    result = runner.run("a", options, seed=0)

    assert result.state == "failed"
    assert reason in result.reason
    assert "\n" not in result.reason
    assert "dev_spearman" not in result.figures


def test_cells_are_checked_before_any_is_run(runner, common, tmp_path):
    with pytest.raises(InputError, match=r"mine, cell b: .*`ema_decay` lies in \[0, 1\], but is 2"):
        runner.validate({"a": {}, "b": {"ema_decay": 2}})
    for name, expected in (
        ("model_name_or_path", "--encoder is needed"),
        ("train_file", "--train_file or --dataset_name is needed"),
        ("validation_file", "--senteval_dir or --validation_file is needed"),
    ):
        without = {key: value for key, value in common.items() if key != name}
        with pytest.raises(InputError, match=expected):
            TrialRunner("mine", without, tmp_path).validate({"a": {}})


def test_a_cell_with_another_algorithm_ignores_common_options_that_the_algorithm_lacks(runner):
    simcse = runner.run("SimCSE", {"algorithm": "simcse"}, seed=0)
    assert simcse.state == "complete", simcse.reason

    own = runner.run("SimCSE", {"algorithm": "simcse", "queue_size": 8}, seed=0)
    assert own.state == "failed"
    assert "`queue_size` is 8, but the algorithm simcse has no such option" in own.reason


def test_the_start_is_scored_without_training(runner, common):
    trained = runner.run("trained", {}, seed=0)
    start = runner.run("start", {"baseline": "start"}, seed=0)

    assert start.figures["dev_spearman"] == trained.figures["start_dev_spearman"]
    assert start.curve == []


def test_tfidf_scores_as_cosines_of_scikit_learn(runner, common):
    result = runner.run("TF-IDF", {"baseline": "tfidf"}, seed=0)

    texts = sentences(40, seed=5)
    corpus = sentences(64)
    vectors = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit(corpus).transform(texts)
    cosines = [float((vectors[i] @ vectors[i + 20].T).sum()) for i in range(20)]
    assert result.figures["dev_spearman"] == pytest.approx(
        spearman(torch.tensor(cosines), [i * 0.25 for i in range(20)])
    )


def test_test_sets_are_scored_once_at_the_end(common, tmp_path):
    folder = tmp_path / "senteval"
    write_senteval(folder)
    del common["validation_file"]
    runner = TrialRunner("mine", common | {"senteval_dir": str(folder), "allow_partial_tasks": True}, tmp_path / "t")
    runner.validate({"a": {}})
    figures = runner.run("a", {}, seed=0).figures
    tests = {name for name in figures if name.endswith("_spearman")}
    assert {"sts12_spearman", "stsb_spearman", "sickr_spearman"} <= tests
    assert any(name.startswith("sts_avg") for name in tests)

    without = TrialRunner("mine", common | {"senteval_dir": str(folder), "eval_tasks": "none"}, tmp_path / "u")
    figures = without.run("a", {}, seed=0).figures
    assert {name for name in figures if name.startswith("sts")} == set()


def test_the_spectrum_is_kept_on_request(common, tmp_path):
    runner = TrialRunner("mine", common, tmp_path, spectrum=True)
    for label, options in (("trained", {}), ("start", {"baseline": "start"})):
        spectrum = runner.run(label, options, seed=0).spectrum
        assert len(spectrum) == 32
        assert spectrum == sorted(spectrum, reverse=True)


def test_a_collapse_is_kept_with_its_step(common, tmp_path):
    collapse = {"ema_decay": 0, "ema_decay_end": 0, "num_predictor_layers": 0, "learning_rate": 0.1}
    more = {"max_steps": 40, "eval_steps": 20, "collapse_check_steps": 2, "num_train_epochs": 10}
    result = TrialRunner("mine", common | more, tmp_path).run("collapse", collapse, seed=0)

    assert result.state == "complete", result.reason
    assert 2 <= result.figures["alarm_step"] <= 40


def test_labels_make_different_folders(runner):
    labels = ["η = 0.5", "η = 0,5", "½", "all, K = 128", "a b", "a_b", "a/b", "..", "A"]
    folders = [runner.folder_of(label, 0) for label in labels]
    assert all(folder.parent.parent == folders[0].parent.parent for folder in folders)
    assert len({str(folder).lower() for folder in folders}) == len(labels)


@pytest.fixture
def labels(tmp_path) -> str:
    path, texts = tmp_path / "bank.tsv", sentences(24, seed=8)
    path.write_text("".join(["label\ttext\n", *(f"{i % 2}\t{text}\n" for i, text in enumerate(texts))]))
    return str(path)


def test_other_development_sets_are_scored_beside_the_pairs(common, labels, tmp_path):
    options = common | {"label_file": [labels], "dev_from_text": 20}
    runner = TrialRunner("mine", options, tmp_path / "trials")
    runner.validate({"a": {}, "start": {"baseline": "start"}})
    assert "SHA-256 of the development sets" in runner.digests("a")
    trained, start = (runner.run(label, cell, 0) for label, cell in (("a", {}), ("start", {"baseline": "start"})))
    for result in (trained, start):
        assert result.state == "complete"
        assert {"bank_precision_at_10", "dev_from_text_mrr_at_10", "dev_spearman"} <= result.figures.keys()
    del options["validation_file"]
    with pytest.raises(InputError, match="--senteval_dir or --validation_file is needed"):
        TrialRunner("mine", options, tmp_path / "trials").validate({"a": {}})


def test_a_development_figure_ranks_the_cells_and_selects_the_checkpoint(common, labels, tmp_path):
    metric = "bank_knn_accuracy_at_10"
    with_pairs = TrialRunner("mine", common | {"label_file": [labels]}, tmp_path / "t", metric=metric)
    with_pairs.validate({"a": {}})
    result = with_pairs.run("a", {}, seed=0)
    best = max(score for step, score in result.curve if step > 0)
    assert result.figures[metric] == best
    assert dict(result.curve)[result.figures["dev_step"]] == best
    assert result.figures[f"last_{metric}"] == result.curve[-1][1]
    assert "dev_spearman" in result.figures

    alone = {name: value for name, value in common.items() if name != "validation_file"} | {"label_file": [labels]}
    runner = TrialRunner("mine", alone, tmp_path / "u", metric=metric)
    runner.validate({"a": {}, "start": {"baseline": "start"}})
    for options in ({}, {"baseline": "start"}):
        result = runner.run("a", options, seed=0)
        assert (result.state, result.reason) == ("complete", "")
        assert metric in result.figures
        assert "dev_spearman" not in result.figures


def test_a_metric_that_no_trial_has_is_an_error(common, tmp_path):
    for metric in ("faq_mrr_at_10", "sts_avg_spearman", "mr_test_accuracy"):
        with pytest.raises(InputError, match=f"`metric` {metric} is not a figure of these trials; choose one of dev_"):
            TrialRunner("mine", common, tmp_path, metric=metric).validate({"a": {}})
    TrialRunner("mine", common, tmp_path, metric="last_dev_spearman").validate({"a": {}})


def test_options_that_a_cell_makes_idle_are_left_out_of_it(runner):
    cell = {"queue_size": 0}
    runner.validate({"no queue": cell})
    result = runner.run("no queue", cell, seed=0)
    assert (result.state, result.reason) == ("complete", "")
    assert result.options["queue_size"] == 0
    assert "queue_init_size" not in result.options  # all other cells have it
    assert runner.run("a", {}, seed=0).options["queue_init_size"] == 4


@pytest.mark.parametrize(
    ("cell", "option"),
    [
        ({"queue_size": 0, "queue_window": "newest"}, "queue_window"),
        ({"ema_schedule": "constant_distance", "ema_decay_end": 0.9}, "ema_decay_end"),
        ({"augment_view": "both"}, "augment_view"),
        ({"relation_temperature": 0.2}, "relation_temperature"),
    ],
)
def test_an_option_without_effect_fails_before_the_first_run(runner, cell, option):
    with pytest.raises(InputError, match=f"mine, cell b: .*`{option}`"):
        runner.validate({"a": {}, "b": cell})
