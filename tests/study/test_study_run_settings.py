"""What a report says of how its study was run."""

from study_results import complete

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import analyse
from mocose_hf.study.report.run_settings import facts, own_options, settings_sentence

STUDY = Study("s", "S", "?", "", [Cell("a"), Cell("b", options={"ema_decay": 0.5})], options={"queue_size": 1024})
SHA256 = "ab" * 32
PLACES = {"train_file": "text.txt", "validation_file": "pairs.tsv", "output_dir": "out/x", "report_to": "none"}


def trial(cell: str, seed: int, **options) -> TrialResult:
    return complete("s", cell, seed, 70.0, options={"model_name_or_path": "org/bert", "seed": seed} | PLACES | options)


def test_the_facts_are_the_encoder_the_data_the_seeds_and_what_all_trials_have_in_common():
    results = [trial("a", 0, max_steps=9), trial("b", 1, max_steps=9, ema_decay=0.5)]
    results += [TrialResult("s", "a", 2, "waiting"), TrialResult("s", "b", 2, "running")]
    settings = {"encoder": "bert", "sentences": SHA256, "ema_decay": "0.8", "max_steps": "9", "cell a": {"x": "1"}}
    assert list(facts(analyse(STUDY, results, settings)).items()) == [
        ("encoder", "org/bert"),
        ("training sentences", "text.txt"),
        ("development pairs", "pairs.tsv"),
        ("SHA-256 of the training sentences", SHA256),
        ("seeds", "0, 1, 2"),
        ("ema_decay", "0.8"),  # of all cells but that which sets it
        ("max_steps", "9"),
    ]


def test_what_a_cell_sets_is_not_in_common_where_it_alone_was_run():
    made = analyse(STUDY, [trial("b", 0, ema_decay=0.5, max_steps=9), TrialResult("s", "a", 0, "waiting")])
    assert facts(made)["max_steps"] == "9"
    assert "ema_decay" not in facts(made)


def test_what_workers_have_in_several_places_is_named_with_all_of_them():
    made = analyse(STUDY, [trial("a", 0), trial("b", 0, train_file="/data/text.txt")])
    assert facts(made)["training sentences"] == "text.txt, /data/text.txt"


def test_before_a_trial_is_run_the_storage_tells_the_facts():
    made = analyse(STUDY, [TrialResult("s", "a", 0, "waiting")], {"encoder": "bert", "max_steps": "9"})
    assert facts(made) == {"seeds": "0", "encoder": "bert", "max_steps": "9"}
    assert settings_sentence(made) == "Run with: seeds 0; encoder bert; max_steps 9."
    assert settings_sentence(analyse(STUDY, [])) == ""


def test_a_sum_is_known_for_one_and_may_be_shortened():
    sums = {"sentences": SHA256, "SHA-256 of the encoder": SHA256, "SHA-256 of the test sets": "none"}
    made = analyse(STUDY, [], sums)
    assert list(facts(made)) == [f"SHA-256 of the {what}" for what in ("training sentences", "encoder", "test sets")]
    assert settings_sentence(made, shortened=True) == (
        "Run with: SHA-256 of the training sentences abababababab…; SHA-256 of the encoder abababababab…; "
        "SHA-256 of the test sets none."
    )


def test_an_option_of_the_study_that_was_given_otherwise_is_named():
    made = analyse(STUDY, [trial("a", 0, queue_size="512"), trial("b", 0, queue_size="512")])
    assert facts(made)["other than the study says"] == "queue_size 512, not 1024"
    made = analyse(STUDY, [trial("a", 0, queue_size=1024)])
    assert "other than the study says" not in facts(made)


def test_the_options_of_a_cell_are_shown_as_typed():
    assert own_options(Cell("a", options={"ema_decay": 0.5, "queue_window": "oldest", "x": True})) == (
        "--ema_decay 0.5 --queue_window oldest --x true"
    )
    assert own_options(Cell("a")) == ""
