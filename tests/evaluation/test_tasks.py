"""Reading the tasks that are wanted, and scoring them on embeddings made once."""

import importlib.util
import shutil
import zlib
from dataclasses import dataclass, field

import pytest
import torch
from builders import sentences
from datasets import Dataset
from senteval_folder import write_senteval

from mocose_hf.errors import InputError, install_command
from mocose_hf.evaluation import tasks
from mocose_hf.evaluation.geometry import GeometryTask
from mocose_hf.evaluation.senteval_transfer import TransferTask
from mocose_hf.evaluation.sts import STSTask
from mocose_hf.evaluation.tasks import averages, embed_tasks, read_tasks, score_tasks

STS = ["sts12", "sts13", "sts14", "sts15", "sts16", "stsb", "sickr"]
TRANSFER = ["mr", "cr", "subj", "mpqa", "sst2", "trec", "mrpc"]


@pytest.fixture(scope="module")
def senteval(tmp_path_factory):
    """All of STS, and of transfer MR."""
    return write_senteval(tmp_path_factory.mktemp("senteval"))


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """STS12, STS16, STS-B and MR."""
    return write_senteval(tmp_path_factory.mktemp("partial"), years=["STS12", "STS16"], sick=False)


def read(wanted: list[str], folder) -> tuple[list[str], list[str]]:
    """Return the names of the tasks that are read, and of those that are missing."""
    found, missing = read_tasks(wanted, folder, allow_partial_tasks=True)
    return [task.name for task in found], missing


def refusal(wanted: list[str], folder, allow_partial_tasks: bool = True) -> str:
    with pytest.raises(InputError) as raised:
        read_tasks(wanted, folder, allow_partial_tasks)
    message = str(raised.value)
    assert "\n" not in message
    return message


# Names


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["sts"], STS),
        (["sts", "stsb"], STS),
        (["stsb", "sts", "sickr", "sts"], STS),
        (["stsb", "sts12", "stsb"], ["sts12", "stsb"]),
        (["geometry", "mr", "sickr"], ["sickr", "mr", "geometry"]),
        (["geometry", "geometry"], ["geometry"]),
        ([], []),
    ],
)
def test_groups_expand_in_one_order_and_each_task_comes_once(senteval, wanted, names):
    assert read(wanted, senteval) == (names, [])


def test_tasks_are_of_their_kind(senteval):
    found, _ = read_tasks(["sts13", "mr", "geometry"], str(senteval), allow_partial_tasks=True)
    assert [type(task) for task in found] == [STSTask, TransferTask, GeometryTask]
    assert list(found[0].subsets) == ["FNWN", "headlines", "OnWN"]
    dev = (senteval / "downstream" / "STS" / "STSBenchmark" / "sts-dev.csv").read_text().splitlines()
    assert list(found[2].pairs["sentence2"]) == [line.split("\t")[6] for line in dev]


def test_geometry_needs_no_test_set(tmp_path):
    folder = write_senteval(tmp_path, years=[], sick=False)
    (folder / "downstream" / "STS" / "STSBenchmark" / "sts-test.csv").unlink()
    assert read(["geometry"], folder) == (["geometry"], [])


@pytest.mark.parametrize("word", ["sts17", "STS", "all", "", "transfer_dev", "x" * 200])
def test_an_unknown_name_is_refused_with_those_that_are_known(senteval, word):
    said = refusal(["sts", word], senteval)
    known = ", ".join(["sts", "transfer", "geometry", *STS, *TRANSFER])
    assert said == f"`eval_tasks` {word[:40]}: unknown; choose of {known}."


# What is not there


def test_missing_tasks_of_a_group_are_reported(partial):
    assert read(["sts"], partial) == (["sts12", "sts16", "stsb"], ["sts13", "sts14", "sts15", "sickr"])
    assert read(["transfer", "geometry"], partial) == (
        ["mr", "geometry"],
        ["cr", "subj", "mpqa", "sst2", "trec", "mrpc"],
    )


@pytest.mark.parametrize("wanted", [["sts13"], ["sts", "sts13"], ["stsb", "sts13", "sts"]])
def test_a_task_that_is_asked_for_by_name_must_exist(partial, wanted):
    said = refusal(wanted, partial)
    path = partial / "downstream" / "STS" / "STS13-en-test" / "STS.gs.FNWN.txt"
    assert said == f"{path}: no such file; check the path."


def test_a_task_of_a_group_that_is_there_in_part_is_no_missing_one(tmp_path):
    folder = write_senteval(tmp_path, years=["STS12"], sick=False)
    path = folder / "downstream" / "STS" / "STS12-en-test" / "STS.gs.MSRvid.txt"
    path.unlink()
    assert refusal(["sts"], folder) == f"{path}: no such file; check the path."


@pytest.mark.parametrize("group", ["sts", "transfer", "geometry"])
def test_a_group_without_any_task_file_is_an_error(tmp_path, group):
    said = refusal([group], tmp_path / "nowhere")
    assert said == f"`eval_tasks` {group}: {tmp_path / 'nowhere'} has none of its files; check `senteval_dir`."


def test_the_counts_are_demanded_unless_they_are_not(senteval):
    for name in ("sts13", "stsb", "sickr", "mr", "geometry"):
        assert "`allow_partial_tasks`" in refusal([name], senteval, allow_partial_tasks=False)
        assert read([name], senteval) == ([name], [])


@pytest.mark.parametrize("wanted", [["transfer"], ["trec"], ["sts12", "mr"]])
def test_transfer_needs_a_folder(monkeypatch, wanted):
    monkeypatch.setattr(tasks, "load_sts_task", lambda name: STSTask(name, {}))
    name = {"transfer": "mr"}.get(wanted[-1], wanted[-1])
    said = refusal(wanted, None)
    assert said == f"`eval_tasks` {name}: is not on the hub; give `senteval_dir`."


def test_without_a_folder_the_hub_gives_similarity_and_geometry(monkeypatch):
    pairs = Dataset.from_dict({"score": [1.0, 5.0], "sentence1": ["a", "b"], "sentence2": ["c", "d"]})
    asked = []

    def load(name):
        asked.append(name)
        return STSTask(name, {"test": pairs.select([0])}, pairs if name == "stsb" else None)

    monkeypatch.setattr(tasks, "load_sts_task", load)
    found, missing = read_tasks(["sts", "geometry"], None)
    assert ([task.name for task in found], missing) == ([*STS, "geometry"], [])
    assert asked == [*STS, "stsb"]
    assert list(found[-1].pairs["sentence1"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("library", "wanted", "name"),
    [
        ("sklearn", ["sts", "transfer"], "mr"),
        ("sklearn", ["stsb", "trec", "mrpc"], "trec"),
        ("matplotlib", ["geometry", "sts12"], "geometry"),
    ],
)
def test_a_missing_library_is_reported_before_files_are_read(monkeypatch, tmp_path, library, wanted, name):
    folder = write_senteval(tmp_path, years=["STS12"])
    for path in folder.rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"\0")  # which no reader takes
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == library else real(n, *rest))
    said = refusal(wanted, folder)
    assert said == (
        f"`eval_tasks` {name}: needs {library}, which is not installed; run {install_command('evaluation')}."
    )
    assert "zero byte" in refusal(["sts12"], folder)  # it needs neither


# Figures


def figures(names: list[str], ending: str) -> dict[str, float]:
    """Figures 1, 2, 4, 8, …"""
    return {f"{name}_{ending}": 2.0**i for i, name in enumerate(names)}


def test_the_mean_over_all_seven_has_the_plain_name():
    assert averages(figures(STS, "spearman")) == {"sts_avg_spearman": 127 / 7}


@pytest.mark.parametrize("count", [2, 4, 6])
def test_a_mean_over_fewer_says_how_many(count):
    given = figures(STS[:count], "spearman") | {"sts13_spearman_mean": 1e9, "sts13_fnwn_spearman": 1e9}
    assert averages(given) == {f"sts_avg_of_{count}_spearman": pytest.approx((2**count - 1) / count)}


def test_one_task_and_none_have_no_mean():
    assert averages({"stsb_spearman": 80.0, "stsb_dev_spearman": 90.0, "mr_dev_accuracy": 1.0}) == {}
    assert averages({"uniformity": -2.0}) == {}


def test_a_mean_without_selection_pairs_has_the_usual_figures_of_other_tasks():
    figures = {"sts12_spearman": 70.0, "sts12_without_stsb_dev_spearman": 60.0, "stsb_spearman": 80.0}
    assert averages(figures) == {"sts_avg_of_2_spearman": 75.0, "sts_avg_of_2_without_stsb_dev_spearman": 70.0}


def test_missing_selection_pairs_are_not_used(senteval, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(senteval, folder)
    (folder / "downstream" / "STS" / "STSBenchmark" / "sts-dev.csv").unlink()
    (task,), _ = read_tasks(["sts12"], folder, allow_partial_tasks=True)
    assert task.selection is None
    (task,), _ = read_tasks(["sts12"], senteval, allow_partial_tasks=True)
    assert len(task.selection) == 18


def test_transfer_has_a_mean_of_dev_and_one_of_test():
    dev, test = figures(TRANSFER, "dev_accuracy"), figures(TRANSFER[::-1], "test_accuracy")
    assert averages(dev | test | {"mrpc_test_f1": 1e9}) == {
        "transfer_avg_dev_accuracy": 127 / 7,
        "transfer_avg_test_accuracy": 127 / 7,
    }
    some = figures(["mr", "trec", "mrpc"], "test_accuracy") | figures(STS[:2], "spearman")
    assert averages(some) == {"sts_avg_of_2_spearman": 1.5, "transfer_avg_of_3_test_accuracy": 7 / 3}


@dataclass
class Fixed:
    """A task with figures of its own."""

    name: str
    texts: list[str]
    figures: dict[str, float]
    given: list = field(default_factory=list)

    def sentences(self) -> list[str]:
        return self.texts

    def score(self, embeddings, show_progress=False):
        self.given.append((embeddings(self.texts), show_progress))
        return self.figures


def test_scores_of_all_tasks_are_merged_with_their_means():
    made = [
        Fixed("stsb", ["a", "b"], {"stsb_spearman": 70.0, "stsb_pearson": 1.0}),
        Fixed("sickr", ["b", "c", "b"], {"sickr_spearman": 80.0}),
        Fixed("geometry", [], {"uniformity": -3.0}),
    ]
    rows = {"a": [1.0, 0.0], "b": [0.0, 2.0], "c": [3.0, 3.0]}
    expected = {
        "stsb_spearman": 70.0,
        "stsb_pearson": 1.0,
        "sickr_spearman": 80.0,
        "uniformity": -3.0,
        "sts_avg_of_2_spearman": 75.0,
    }
    assert score_tasks(made, lambda texts: [rows[t] for t in texts], show_progress=True) == expected
    assert made[1].given == [([rows["b"], rows["c"], rows["b"]], True)]


class Random:
    """A model with a random embedding for each sentence; it keeps how it is called."""

    def __init__(self):
        self.calls = []

    def encode(self, sentences, tokenizer, **options):
        self.calls.append((list(sentences), tokenizer, options))
        seeds = [zlib.crc32(sentence.encode()) for sentence in sentences]
        return torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def test_each_sentence_is_embedded_once_over_all_tasks(senteval):
    found, _ = read_tasks(["sts", "geometry", "mr"], senteval, allow_partial_tasks=True)
    model = Random()
    embeddings = embed_tasks(model, "the tokenizer", found, batch_size=16)
    ((encoded, tokenizer, options),) = model.calls
    wanted = [text for task in found for text in task.sentences()]
    assert sorted(encoded) == sorted(set(wanted))
    assert len(encoded) < len(wanted)
    assert (tokenizer, options) == ("the tokenizer", {"batch_size": 16})
    score_tasks(found[:-2], embeddings)
    assert len(model.calls) == 1


def test_tasks_scored_together_have_the_figures_of_each_alone(senteval):
    found, _ = read_tasks(["sts", "geometry"], senteval, allow_partial_tasks=True)
    model = Random()
    metrics = score_tasks(found, embed_tasks(model, None, found))
    alone = {}
    for task in found:
        alone |= task.score(lambda texts: model.encode(texts, None))
    alone["sts_avg_spearman"] = sum(alone[f"{name}_spearman"] for name in STS) / 7
    figures = [f"{name}_without_stsb_dev_spearman" for name in STS[:5]] + ["stsb_spearman", "sickr_spearman"]
    alone["sts_avg_without_stsb_dev_spearman"] = sum(alone[figure] for figure in figures) / 7
    assert metrics == alone
    assert {"sts12_surprise_onwn_spearman", "stsb_dev_pearson", "sickr_pearson", "mean_cosine"} <= metrics.keys()


@pytest.mark.parametrize("index", [0, 1, 3])
def test_the_first_process_alone_scores_transfer_tasks(monkeypatch, index):
    monkeypatch.setattr(tasks, "process_index", lambda: index)
    texts = sentences(40)
    task = TransferTask("mr", {"all": [((text,), i % 2) for i, text in enumerate(texts)]})
    other = Fixed("stsb", texts[:2], {"stsb_spearman": 1.0})
    random = dict(zip(texts, torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), strict=True))
    metrics = score_tasks([other, task], lambda wanted: torch.stack([random[text] for text in wanted]))
    assert metrics.keys() == {"stsb_spearman"} | ({"mr_dev_accuracy", "mr_test_accuracy"} if index == 0 else set())
