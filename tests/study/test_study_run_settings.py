"""The settings in a report."""

from study_results import complete

from mocose_hf.study import Cell, Study, TrialResult
from mocose_hf.study.analysis.analysis import analyse
from mocose_hf.study.report.run_settings import cell_options, facts, settings_sentence

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
        ("ema_decay", "0.8"),  # the cell that sets it is an exception
        ("max_steps", "9"),
    ]


def test_a_cell_option_is_not_common_even_if_only_that_cell_ran():
    analysis = analyse(STUDY, [trial("b", 0, ema_decay=0.5, max_steps=9), TrialResult("s", "a", 0, "waiting")])
    assert facts(analysis)["max_steps"] == "9"
    assert "ema_decay" not in facts(analysis)


def test_data_with_several_paths_lists_all_of_them():
    analysis = analyse(STUDY, [trial("a", 0), trial("b", 0, train_file="/data/text.txt")])
    assert facts(analysis)["training sentences"] == "text.txt, /data/text.txt"


def test_before_the_first_trial_the_facts_come_from_the_storage():
    analysis = analyse(STUDY, [TrialResult("s", "a", 0, "waiting")], {"encoder": "bert", "max_steps": "9"})
    assert facts(analysis) == {"seeds": "0", "encoder": "bert", "max_steps": "9"}
    assert settings_sentence(analysis) == "Settings: seeds 0; encoder bert; max_steps 9."
    assert settings_sentence(analyse(STUDY, [])) == ""


def test_digests_can_be_shortened():
    sums = {"sentences": SHA256, "SHA-256 of the encoder": SHA256, "SHA-256 of the test sets": "none"}
    analysis = analyse(STUDY, [], sums)
    names = list(facts(analysis))
    assert names == [f"SHA-256 of the {what}" for what in ("training sentences", "encoder", "test sets")]
    assert settings_sentence(analysis, shorten=True) == (
        "Settings: SHA-256 of the training sentences abababababab…; SHA-256 of the encoder abababababab…; "
        "SHA-256 of the test sets none."
    )


def test_overrides_of_the_study_options_are_listed():
    analysis = analyse(STUDY, [trial("a", 0, queue_size="512"), trial("b", 0, queue_size="512")])
    assert facts(analysis)["overrides of the study's options"] == "queue_size 512 instead of 1024"
    analysis = analyse(STUDY, [trial("a", 0, queue_size=1024)])
    assert "overrides of the study's options" not in facts(analysis)


def test_the_options_of_a_cell_are_shown_as_typed():
    cells = [Cell("a", options={"ema_decay": 0.5, "queue_window": "oldest", "x": True}), Cell("b")]
    analysis = analyse(Study("s", "S", "?", "", cells), [])
    assert cell_options(analysis) == {"a": "--ema_decay 0.5 --queue_window oldest --x true", "b": "as above"}
    assert cell_options(analyse(Study("s", "S", "?", "", cells[1:]), [])) == {}
