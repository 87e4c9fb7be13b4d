"""What a worker validates and enqueues before it runs anything."""

import shutil

import pytest
from builders import sentences
from senteval_folder import write_senteval
from transformers import BertModel

from mocose_hf.errors import InputError
from mocose_hf.study import Cell, Study
from mocose_hf.study.storage import open_storage
from mocose_hf.study.study import TrialResult
from mocose_hf.study.study_file import Search
from mocose_hf.study.trial_store import TrialStore
from mocose_hf.study.worker import Worker

STUDY = Study("mine", "Mine", "Which?", "", [Cell("a"), Cell("b", options={"ema_decay": 0.5})])


@pytest.fixture
def files(encoder_dir, tmp_path):
    texts = sentences(40, seed=5)
    (tmp_path / "text.tsv").write_text("text\tother\n" + "".join(f"{text}\t{text} today\n" for text in sentences(64)))
    (tmp_path / "pairs.tsv").write_text("".join(f"{i * 0.25:.2f}\t{texts[i]}\t{texts[i + 20]}\n" for i in range(20)))
    shutil.copytree(encoder_dir, tmp_path / "encoder")
    return tmp_path


@pytest.fixture
def common(files) -> dict[str, object]:
    return {
        "model_name_or_path": str(files / "encoder"),
        "train_file": str(files / "text.tsv"),
        "validation_file": str(files / "pairs.tsv"),
        "per_device_train_batch_size": 8,
        "use_cpu": True,
    }


@pytest.fixture
def storage(files):
    return open_storage(f"sqlite:///{files / 'study.db'}")


def prepare(storage, study, options, seeds=(0,), cells=None, say=lambda line: None) -> tuple[Worker, TrialStore]:
    worker, store = Worker(study, seeds, options, "trials", say, cells), TrialStore(storage, study.name)
    worker.validate()
    worker.prepare(store)
    return worker, store


def run_all(worker, store) -> list[tuple[str, int]]:
    """Claim all trials of the worker, and record a score of 50 for each."""
    taken = []
    while (lease := worker._next()) is not None:
        for seed in lease.seeds:
            taken.append((lease.cell, seed))
            store.record(lease, TrialResult(store.name, lease.cell, seed, "complete", {"dev_spearman": 50.0}))
    return taken


def other_pairs(files) -> None:
    path = files / "pairs.tsv"
    path.write_text(path.read_text().replace("0.25\t", "4.75\t", 1))


def other_weights(files) -> None:
    model = BertModel.from_pretrained(files / "encoder")
    model.embeddings.word_embeddings.weight.data[7, 3] += 0.5
    model.save_pretrained(files / "encoder")


def other_vocabulary(files) -> None:
    path = files / "encoder" / "tokenizer.json"
    path.write_text(path.read_text().replace('"cat"', '"hat"'))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_pairs, "`SHA-256 of the development pairs` was"),
        (other_weights, "`SHA-256 of the encoder` was"),
        (other_vocabulary, "`SHA-256 of the encoder` was"),
    ],
)
def test_other_content_under_the_same_name_fails(storage, files, common, change, expected):
    prepare(storage, STUDY, common)
    change(files)

    with pytest.raises(InputError, match=f"began with other settings: {expected}"):
        prepare(storage, STUDY, common)


def test_the_same_content_under_other_names_resumes(storage, files, common):
    prepare(storage, STUDY, common)
    shutil.copytree(files, files / "elsewhere", ignore=shutil.ignore_patterns("study.db"))
    (files / "elsewhere" / "encoder").rename(files / "elsewhere" / "other-name")

    prepare(storage, STUDY, common | {
        "model_name_or_path": str(files / "elsewhere" / "other-name"),
        "validation_file": str(files / "elsewhere" / "pairs.tsv"),
    })  # fmt: skip


def test_display_and_location_options_may_differ_between_workers(storage, common):
    prepare(storage, STUDY, common)

    prepare(storage, STUDY, common | {"disable_tqdm": True, "logging_steps": 7, "report_to": "none", "use_cpu": False})
    with pytest.raises(InputError, match="`max_steps` was None and is 7 now"):
        prepare(storage, STUDY, common | {"max_steps": 7})


def test_other_test_sets_fail(storage, files, common):
    write_senteval(files / "senteval")
    common |= {"senteval_dir": str(files / "senteval"), "allow_partial_tasks": True}
    prepare(storage, STUDY, common)
    with pytest.raises(InputError, match=r"`SHA-256 of the test sets` was \w+ and is none now"):
        prepare(storage, STUDY, {name: value for name, value in common.items() if name != "senteval_dir"})
    (scores,) = (files / "senteval").rglob("STS.gs.FNWN.txt")
    scores.write_text("\n".join(scores.read_text().splitlines()[::-1]) + "\n")
    with pytest.raises(InputError, match="`SHA-256 of the test sets` was"):
        prepare(storage, STUDY, common)


def test_a_cell_of_other_sentences_may_come_or_go_but_not_change(storage, files, common):
    study = Study("mine", "Mine", "Which?", "", [Cell("a"), Cell("pairs", options={"key_column": "other"})])
    for cells in (["a"], ["pairs"], None):
        prepare(storage, study, common, cells=cells)
    path = files / "text.tsv"
    path.write_text(path.read_text().replace(" today\n", " often\n"))

    prepare(storage, study, common, cells=["a"])
    with pytest.raises(InputError, match="`cell pairs, its own data` was"):
        prepare(storage, study, common)


def test_optional_cells_that_cannot_be_run_are_kept_as_left_out(storage, files, common):
    cells = [Cell("a"), *(Cell(f"x{i}", options={"key_column": f"x{i}"}, optional=True) for i in (1, 2))]
    study, output = Study("mine", "Mine", "Which?", "", cells), []
    _, store = prepare(storage, study, common, say=output.append)
    assert store.declaration()["left_out"] == ["x1", "x2"]
    assert [line.startswith("Skipped: ") for line in output] == [True, True]
    assert Study.from_dict(store.declaration()).name == "mine"

    path = files / "text.tsv"
    path.write_text(path.read_text().replace("other", "x1", 1))
    prepare(storage, study, common, cells=["a", "x1"])
    assert store.declaration()["left_out"] == ["x2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"queue_window": "oldst"}, "`queue_window`"),
        ({"queue_size": 64, "queue_init_size": 128}, "`queue_init_size` is 128 but `queue_size` is 64"),
        ({"num_projection_layers": 0, "projection_dim": 8}, "`projection_dim` 8 needs a projection head"),
        ({"max_seq_length": 41}, "`max_seq_length` is 41, but the encoder takes 40"),
        ({"algorithm": "simcse", "ema_decay": 0.5}, "`ema_decay` is 0.5, but this simcse loss has no target"),
        ({"algorithm": "simcse", "queue_size": 64}, "`queue_size` is 64, but the algorithm simcse has no such option"),
        ({"algorithm": "released", "ema_decay_end": 0.9}, "The released schedule of η"),
        ({"baseline": "word2vec"}, "the baseline 'word2vec' is unknown; choose start or tfidf"),
        ({"seed": 3}, "--seed cannot be set for a trial: a study runs each cell with the seeds of --seeds"),
        ({"output_dir": "o"}, "--output_dir cannot be set for a trial"),
    ],
)
def test_a_wrong_option_of_a_cell_fails_before_anything_runs(storage, common, options, expected, monkeypatch):
    monkeypatch.setattr(BertModel, "__init__", lambda *_: pytest.fail("a model was built"))
    study = Study("mine", "Mine", "Which?", "", [Cell("a"), Cell("b", options=options)])
    with pytest.raises(InputError) as error:
        prepare(storage, study, common)

    assert expected in str(error.value)
    assert "mine, cell b: " in str(error.value)


@pytest.mark.parametrize("name", ["seed", "output_dir", "overwrite_output_dir", "resume_from_checkpoint"])
def test_options_of_the_study_fail_for_all_cells(storage, common, name):
    with pytest.raises(InputError, match=rf"^--{name} cannot be set for a trial: "):
        prepare(storage, STUDY, common | {name: "1"})


@pytest.mark.parametrize(
    ("name", "expected"), [("temprature", "did you mean `temperature`"), ("seed", "cannot be set for a trial")]
)
def test_a_search_over_an_unknown_option_fails(storage, common, name, expected):
    with pytest.raises(InputError, match=expected):
        prepare(storage, Search("mine", "Mine", "", {name: None}, trials=2), common)


def test_seeds_may_be_added_and_narrowed_and_what_is_not_trained_is_run_once(storage, common):
    study = Study("mine", "Mine", "Which?", "", [Cell("a"), Cell("start", options={"baseline": "start"})])
    prepare(storage, study, common, seeds=(0, 1, 2))
    assert run_all(*prepare(storage, study, common, seeds=(1,))) == [("start", 0), ("a", 1)]
    assert run_all(*prepare(storage, study, common, seeds=(1, 3))) == [("a", 3)]
    assert run_all(*prepare(storage, study, common, seeds=(0, 1, 2, 3))) == [("a", 0), ("a", 2)]


def test_the_bound_of_equivalence_cannot_change_after_the_first_trial(storage, common):
    prepare(storage, STUDY, common)
    wider = Study(**vars(STUDY) | {"equivalence_bound": 2.0})
    with pytest.raises(InputError, match=r"`equivalence bound` was 0\.3 and is 2 now"):
        prepare(storage, wider, common)
