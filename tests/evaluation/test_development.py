"""Development sets of all kinds: reading them, naming their metrics, scoring them together."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from builders import WORDS, sentences, tiny_model
from datasets import Dataset

from mocose_hf.errors import InputError
from mocose_hf.evaluation import read_scored_pairs
from mocose_hf.evaluation.development import DevelopmentSets, score_sets
from mocose_hf.evaluation.labels import LabelTask, read_label_task
from mocose_hf.evaluation.pairs import load_scored_pairs, positive_score, score_pairs
from mocose_hf.evaluation.retrieval import (
    Judgements,
    RetrievalTask,
    ranking_metrics,
    read_retrieval_task,
    relevant_ranks,
)
from mocose_hf.evaluation.task_names import task_name
from mocose_hf.evaluation.tfidf import TfidfModel


def write_table(path, columns: dict[str, list]):
    """Write columns in the format that the suffix names."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        separator = "," if ".csv" in path.suffixes else "\t"
        lines = [separator.join(map(str, row)) for row in [columns, *(row.values() for row in rows)]]
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def entries(task: RetrievalTask) -> set[tuple[str, str, float]]:
    parts = zip(*(part.tolist() for part in vars(task.judgements).values()), strict=True)
    return {(task.queries[query], task.corpus[text], grade) for query, text, grade in parts}


class Counted:
    """An encoder that counts letters, and notes what it is given."""

    def __init__(self):
        self.calls = []

    def encode(self, sentences, tokenizer=None, **options):
        self.calls.append(list(sentences))
        return torch.tensor([[float(text.count(letter)) + 0.1 for letter in "abcdefgh"] for text in sentences])


@pytest.mark.parametrize("name", ["My-Set.csv", "my set.tsv.gz", "my_set.jsonl", "MY.SET.parquet"])
def test_a_retrieval_file_has_each_text_and_query_once(tmp_path, name):
    columns = {"id": [1, 2, 3, 4], "query": ["a", "b", "a", "a"], "text": ["x", " y ", "z", "x"]}
    task = read_retrieval_task(write_table(tmp_path / name, columns))
    assert (task.name, task.queries, task.corpus) == ("my_set", ["a", "b"], ["x", "y", "z"])
    assert entries(task) == {("a", "x", 1.0), ("a", "z", 1.0), ("b", "y", 1.0)}
    assert task.summary() == f"{tmp_path / name}: 2 queries, 3 texts, 3 relevant ones."


def test_rows_that_cannot_be_ranked_are_named(tmp_path):
    path = tmp_path / "a.tsv"
    for rows, message in (
        ("query\ttext\na\tb\n\nc\t \n", r"a\.tsv, line 4: a blank text; write it, or drop the row\.$"),
        ("query\ttext\n\tb\n", r"a\.tsv, line 2: a blank query"),
        ("query\ttext\na\tb\nc\tb\n", r"a\.tsv: 2 queries with a relevant text, 1 different texts; give at least"),
        ("question\ttext\na\tb\n", r"line 1: no column `query`, the columns are: question, text; rename a column"),
    ):
        path.write_text(rows, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_retrieval_task(path)


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "Sci-Facts"
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": "d1", "title": "Cats", "text": "they sleep", "metadata": {}},
        {"_id": "d2", "title": "", "text": "dogs run"},
        {"_id": "q2", "text": "stones"},
    ]
    write_table_of(folder / "corpus.jsonl", documents)
    write_table_of(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in (1, 2, 3)])
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "test.tsv").write_text(f"{header}q2\td1\t2\nq2\td2\t1\nq1\td2\t1\nq1\td1\t0\n")
    return folder


def write_table_of(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_folder_in_beirs_layout(beir):
    task = read_retrieval_task(beir)
    assert (task.name, task.queries) == ("sci_facts", ["query 2", "query 1"])  # q3 has no judgement
    assert task.corpus == ["Cats they sleep", "dogs run", "stones"]
    assert entries(task) == {
        ("query 2", "Cats they sleep", 2.0),
        ("query 2", "dogs run", 1.0),
        ("query 1", "dogs run", 1.0),
    }
    assert task.excluded == {0: 2}  # the document that has the query's own id


def test_a_folder_with_several_judgements(beir):
    header = "query-id\tcorpus-id\tscore\n"
    (beir / "qrels" / "dev.tsv").write_text(f"{header}q3\td1\t1\nq3\td9\t1\n")
    assert read_retrieval_task(beir).queries == ["query 2", "query 1"]
    task = read_retrieval_task(beir, splits=("dev", "test"))
    assert task.queries == ["query 3"]
    assert task.summary().endswith("1 relevant ones; 1 judgements of unknown documents dropped.")
    named = read_retrieval_task(beir / "qrels" / "dev.tsv")
    assert (named.name, named.queries) == ("sci_facts_dev", ["query 3"])
    for old, new in (("dev", "one"), ("test", "two")):
        (beir / "qrels" / f"{old}.tsv").rename(beir / "qrels" / f"{new}.tsv")
    with pytest.raises(InputError, match=r"2 files in qrels; give one of them, such as .*one\.tsv\.$"):
        read_retrieval_task(beir)


def test_a_folder_that_is_not_in_beirs_layout(beir):
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq7\td1\t1\n")
    with pytest.raises(InputError, match=r"test\.tsv, line 2: queries\.jsonl has no query 'q7'"):
        read_retrieval_task(beir)
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\thigh\n")
    with pytest.raises(InputError, match=r"test\.tsv, line 2: the score 'high' is no number"):
        read_retrieval_task(beir)
    write_table_of(beir / "corpus.jsonl", [{"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"}])
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 2: the _id 'd1' occurs twice"):
        read_retrieval_task(beir)
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"no qrels/\*\.tsv, so this is no folder in BEIR's layout"):
        read_retrieval_task(beir)


@pytest.mark.parametrize("name", ["bank.csv", "bank.tsv", "bank.jsonl", "bank.parquet"])
def test_a_label_file_is_drawn_by_a_fixed_permutation(tmp_path, name, monkeypatch):
    monkeypatch.setattr("mocose_hf.evaluation.labels.MAX_ROWS", 15)
    path = write_table(
        tmp_path / name, {"label": [i % 3 for i in range(40)], "text": [f"text {i}" for i in range(40)]}
    )
    task = read_label_task(path)
    drawn = np.random.RandomState(0).permutation(40)[:15]
    assert (task.texts, task.labels) == ([f"text {i}" for i in drawn], [str(i % 3) for i in drawn])
    assert (task.name, task.summary()) == ("bank", f"{path}: 15 of 40 texts, 3 labels.")


def test_label_files_that_cannot_be_used_are_named(tmp_path):
    path = tmp_path / "a.tsv"
    for rows, message in (
        ("1\ta\n\tb\n", r"a\.tsv, line 3: a blank label"),
        ("1\ta\n1\t\n", r"a\.tsv, line 3: a blank text"),
        ("1\ta\n2\tb\n", r"a\.tsv: 2 texts and 2 labels, 2 of them different; give a label for each of at least 11"),
    ):
        path.write_text(f"label\ttext\n{rows}", encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_label_task(path)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.tsv.gz", "a.jsonl", "a.parquet"])
def test_pairs_in_named_columns(tmp_path, name):
    columns = {"score": [0.25, 1.0], "genre": ["x", "y"], "sentence2": ["b ", "d"], "sentence1": ["a", "c"]}
    pairs = read_scored_pairs(write_table(tmp_path / name, columns))
    assert pairs.to_dict() == {"score": [0.25, 1.0], "sentence1": ["a", "c"], "sentence2": ["b", "d"]}


def test_pairs_in_named_columns_that_cannot_be_used(tmp_path):
    path = tmp_path / "a.csv"
    for rows, message in (
        ("sentence1,sentence2,score\na,b,high\n", r"a\.csv, line 2: the score 'high' is no number; mend it, or drop"),
        ("sentence1,sentence2,score\na,b,1\n,,\nc,,2\n", r"a\.csv, line 4: a blank sentence"),
        ("sentence1,sentence2,label\na,b,1\n", r"line 1: no column `score`, the columns are: sentence1, sentence2"),
    ):
        path.write_text(rows, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_scored_pairs(path)


def test_a_tsv_without_header_may_be_named_csv(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("1.5\ta, b\tc\n2\td\te\n", encoding="utf-8")
    assert read_scored_pairs(path)["sentence1"][:] == ["a, b", "d"]


def test_pairs_of_the_hub(monkeypatch):
    made = {
        "good": Dataset.from_dict({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0, 1]}),
        "bad": Dataset.from_dict({"text": ["a"]}),
    }
    monkeypatch.setattr("mocose_hf.data.readers.load_dataset", lambda name, config, split, **options: made[name])
    assert load_scored_pairs("good", "validation").to_dict()["score"] == [0.0, 1.0]
    with pytest.raises(InputError, match=r"^bad: no column `sentence1`, the columns are: text; give a dataset with"):
        load_scored_pairs("bad", "validation")
    with pytest.raises(InputError, match=r"^`validation_dataset_name` absent: cannot be loaded"):
        load_scored_pairs("absent", "validation")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.1, 1.0], 0.8), ([1.0, 4.4], 4.0), ([5.0], 4.0), ([7.0], 8.0), ([90.0], 80.0), ([-3.0, 200.0], 160.0)],
)
def test_positive_pairs_are_the_top_fifth_of_the_scale(scores, expected):
    assert positive_score(scores) == pytest.approx(expected)


def test_scale_of_the_scores_does_not_change_the_figures():
    scores, first, second = [0.0, 2.5, 4.5, 5.0], ["ab", "bcd", "dda", "e"], ["gh", "ab", "cdd", "ee"]
    figures = []
    for factor in (1, 0.2, 20):
        pairs = Dataset.from_dict({"score": [factor * s for s in scores], "sentence1": first, "sentence2": second})
        figures.append(score_pairs(pairs, Counted().encode))
    assert figures[1] == pytest.approx(figures[0])
    assert figures[2] == pytest.approx(figures[0])
    assert "dev_alignment" in figures[0]


def all_kinds() -> DevelopmentSets:
    texts = [f"{'abcdefgh'[i % 8] * (i + 1)} {'abc'[i % 3]}" for i in range(12)]
    pairs = Dataset.from_dict({"score": [1.0, 5.0, 2.0], "sentence1": texts[:3], "sentence2": texts[3:6]})
    retrieval = RetrievalTask(
        "find", texts[:3], texts[6:], Judgements.from_entries([(0, 0, 1.0), (1, 3, 1.0), (2, 5, 1.0)])
    )
    return DevelopmentSets(pairs, [retrieval, LabelTask("sort", texts, [str(i % 3) for i in range(12)])])


def test_all_sets_are_scored_on_embeddings_made_once():
    sets, model = all_kinds(), Counted()
    metrics = score_sets(model, None, sets)
    (given,) = model.calls
    assert sorted(given) == sorted(set(sets.sentences()))
    assert len(sets) == 3 + 3 + 12
    assert metrics == (
        score_pairs(sets.pairs, model.encode) | sets.tasks[0].score(model.encode) | sets.tasks[1].score(model.encode)
    )
    assert metrics == score_sets(model, None, sets.pairs) | metrics  # pairs alone have the same figures
    assert list(metrics) == sets.metric_names
    assert [task.metric_names[0] for task in sets.tasks] == ["find_ndcg_at_10", "sort_precision_at_10"]


def test_sets_of_one_name_are_refused(tmp_path):
    one, other = all_kinds().tasks[0], all_kinds().tasks[0]
    one.source, other.source = "a/find.tsv", "b/find.csv"
    with pytest.raises(InputError, match=r"^b/find\.csv and a/find\.tsv: both would be scored as `find`; rename one"):
        DevelopmentSets(tasks=[one, other])


def test_tf_idf_is_scored_on_all_sets():
    pytest.importorskip("sklearn")
    sets = all_kinds()
    rows = dict(sets.score_baselines())
    assert list(rows) == ["TF-IDF, words", "TF-IDF, characters 3-5"]
    expected = set(score_sets(Counted(), None, sets)) - {"dev_alignment", "dev_uniformity"}
    assert all(set(figures) == expected for figures in rows.values())


def test_tf_idf_by_hand():
    pytest.importorskip("sklearn")
    texts = ["red cat", "red dog", "blue cat cat", "!"]
    embeddings = TfidfModel([*texts, *texts], token_pattern=r"(?u)\b\w+\b")
    rows = embeddings(["red cat", "red dog", "!", "red cat"]).toarray()
    frequent, rare = np.log(5 / 3) + 1, np.log(5 / 2) + 1  # log((1 + texts) / (1 + texts with the word)) + 1
    cosine = frequent**2 / (np.hypot(frequent, frequent) * np.hypot(frequent, rare))
    assert rows[0] @ rows[1] == pytest.approx(cosine)
    assert rows[2].tolist() == [0.0] * 4
    assert rows[3].tolist() == rows[0].tolist()
    assert TfidfModel(["!", "?"])(["?"]).toarray().tolist() == [[0.0]]


def test_texts_beyond_memory_are_left_to_the_encoder(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("mocose_hf.evaluation.development.MAX_CHARACTERS", 10)
    assert all(set(figures) == {"dev_spearman"} for _, figures in all_kinds().score_baselines())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/Stack-Overflow_2.tsv", "stack_overflow_2"),
        ("x.y.jsonl.gz", "x_y"),
        ("fra+nçais.csv", "fra_nçais"),
        ("+", "task"),
    ],
)
def test_names_of_tasks(path, name):
    assert task_name(path) == name


@pytest.mark.parametrize("is_utf8", [False, True])
def test_an_encoding_applies_to_development_files_that_are_not_utf8(tmp_path, is_utf8):
    def write(name: str, content: str):
        (tmp_path / name).write_bytes(content.encode("utf-8" if is_utf8 else "cp1252"))
        return tmp_path / name

    pairs = read_scored_pairs(write("pairs.tsv", "1\tKäfer\tcat\n5\tdog\tdog’s\n"), encoding="cp1252")
    assert list(pairs["sentence1"]) + list(pairs["sentence2"]) == ["Käfer", "dog", "cat", "dog’s"]
    found = read_retrieval_task(write("find.csv", "query,text\nKäfer,cat\ndog,dog’s\n"), encoding="cp1252")
    assert found.sentences() == ["Käfer", "dog", "cat", "dog’s"]
    lines = ["label,text", *(f"{'é' if i % 2 else 'b'},ä{i}" for i in range(12))]
    labelled = read_label_task(write("sort.csv", "\n".join(lines)), encoding="cp1252")
    assert set(labelled.labels) == {"é", "b"}
    assert set(labelled.texts) == {f"ä{i}" for i in range(12)}
    if not is_utf8:
        with pytest.raises(InputError, match=r"line 1: not UTF-8.*give `encoding` cp1252"):
            read_retrieval_task(write("bad.jsonl", '{"query": "Käfer", "text": "a"}\n'))


class Prompted:
    """A model with the prompts of E5 that embeds a text by the words in it, and records what it is given."""

    def __init__(self, **prompts: str):
        self.config = SimpleNamespace(prompts=prompts, similarity_fn_name="cosine")
        self.calls: list[tuple[str | None, list[str]]] = []

    def encode(self, sentences, tokenizer, prompt_name=None, **options):
        self.calls.append((prompt_name, sentences))
        prompt = self.config.prompts.get(prompt_name, "")
        words = [f"{prompt}{sentence}".split() for sentence in sentences]
        return torch.tensor([[float(word in text) for word in WORDS] for text in words])


@pytest.mark.parametrize(
    ("names", "document"), [(("query", "passage"), "passage"), (("document", "query"), "document")]
)
def test_queries_and_documents_get_the_prompts_that_the_model_has_for_them(names, document):
    model = Prompted(**{name: f"{name} " for name in names})
    judgements = Judgements.from_entries([(0, 0, 1.0), (1, 1, 1.0)])
    task = RetrievalTask("find", ["a cat", "a dog"], ["the cat", "a dog"], judgements)
    pairs = Dataset.from_dict({"score": [1.0, 5.0], "sentence1": ["a cat", "a dog"], "sentence2": ["a man", "a dog"]})
    score_sets(model, None, DevelopmentSets(pairs, [task]))
    assert model.calls == [
        (None, ["a cat", "a dog", "a man"]),
        ("query", ["a cat", "a dog"]),
        (document, ["the cat", "a dog"]),
    ]
    plain = Prompted(other="x ")
    score_sets(plain, None, DevelopmentSets(pairs, [task]))
    assert plain.calls == [(None, ["a cat", "a dog", "a man", "the cat"])]


def test_a_prompt_changes_the_scores_of_retrieval(tokenizer):
    judgements = Judgements.from_entries([(i, i, 1.0) for i in range(30)])
    task = RetrievalTask("find", sentences(30, seed=1), sentences(30, seed=2), judgements)
    model = tiny_model(prompts={"query": "king sees the river ", "passage": "a horse "}, pooling_mode="mean")
    prompted = score_sets(model, tokenizer, DevelopmentSets(None, [task]))
    queries = model.encode(task.queries, tokenizer, prompt_name="query")
    corpus = model.encode(task.corpus, tokenizer, prompt_name="passage")
    expected = ranking_metrics(relevant_ranks(queries, corpus, judgements), judgements, 30)
    assert prompted == pytest.approx({f"find_{name}": value for name, value in expected.items()})
    task.has_roles = False
    assert score_sets(model, tokenizer, DevelopmentSets(None, [task])) != prompted
