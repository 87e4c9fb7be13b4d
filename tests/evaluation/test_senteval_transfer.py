"""Reading the transfer tasks and scoring embeddings by SentEval's protocol."""

import re
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from mocose_hf.errors import InputError
from mocose_hf.evaluation import senteval_transfer as transfer
from mocose_hf.evaluation.senteval_transfer import TRANSFER_TASKS, TransferTask, read_transfer_task, transfer_files

BINARY_FILES = {
    "mr": ("MR/rt-polarity.pos", "MR/rt-polarity.neg"),
    "cr": ("CR/custrev.pos", "CR/custrev.neg"),
    "subj": ("SUBJ/subj.objective", "SUBJ/subj.subjective"),
    "mpqa": ("MPQA/mpqa.pos", "MPQA/mpqa.neg"),
}
SST2_FILES = tuple(f"SST/binary/sentiment-{split}" for split in ("train", "dev", "test"))
TREC_FILES = ("TREC/train_5500.label", "TREC/TREC_10.label")
MRPC_FILES = ("MRPC/msr_paraphrase_train.txt", "MRPC/msr_paraphrase_test.txt")
FILES = BINARY_FILES | {"sst2": SST2_FILES, "trec": TREC_FILES, "mrpc": MRPC_FILES}

MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def write(folder, file: str, content: str | bytes):
    path = folder / "downstream" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*texts: str) -> str:
    return "".join(f"{text}\n" for text in texts)


def numbered(count: int, word: str) -> list[str]:
    """Different sentences of one to five words."""
    return [" ".join([word] * (i % 5) + [f"{word}{i}"]) for i in range(count)]


def write_task(folder, name: str):
    """Write the smallest files of a task that can be scored."""
    if name in BINARY_FILES:
        for file, word in zip(BINARY_FILES[name], ("good", "bad"), strict=True):
            write(folder, file, lines(*numbered(12, word)))
    elif name == "sst2":
        for file in SST2_FILES:
            write(folder, file, lines("a fine film\t1", "a poor film\t0"))
    elif name == "trec":
        questions = [f"{label}:x {q}" for label in ("ABBR", "DESC") for q in numbered(10, label)]
        write(folder, TREC_FILES[0], lines(*questions))
        write(folder, TREC_FILES[1], lines("DESC:def What is it ?"))
    else:
        pairs = [f"{i % 2}\t1\t2\t{a}\t{a} again" for i, a in enumerate(numbered(20, "word"))]
        write(folder, MRPC_FILES[0], lines(MRPC_HEADER, *pairs))
        write(folder, MRPC_FILES[1], lines(MRPC_HEADER, "1\t3\t4\tone\tanother"))


def read_error(folder, name: str, allow_partial_tasks: bool = True) -> str:
    with pytest.raises(InputError) as raised:
        read_transfer_task(name, folder, allow_partial_tasks=allow_partial_tasks)
    message = str(raised.value)
    assert "\n" not in message
    return message


def random_examples(sizes: dict[int, int], seed: int, texts: int = 1) -> list:
    """Make examples of 1 to 6 words, in no order, all of different texts."""
    random = np.random.default_rng(seed)
    examples = []
    for label, count in sizes.items():
        for i in range(count):
            words = [f"w{seed}-{label}-{i}-{t}" + " w" * int(random.integers(6)) for t in range(texts)]
            examples.append((tuple(words), label))
    return [examples[i] for i in random.permutation(len(examples))]


class Table:
    """Embeddings that tell the labels apart to a degree, or whose rows are given."""

    def __init__(self, parts: dict[str, list], width: int = 6, signal: float = 0.0, seed: int = 0, scale: float = 1.0):
        random = np.random.default_rng(seed)
        self.rows = {}
        means = random.normal(size=(6, width)) * signal
        for examples in parts.values():
            for texts, label in examples:
                for text in texts:
                    self.rows[text] = torch.tensor(scale * (random.normal(size=width) + means[label] + 0.5)).float()

    def __call__(self, sentences: list[str]) -> torch.Tensor:
        assert isinstance(sentences, list)
        return torch.stack([self.rows[sentence] for sentence in sentences])


def slow_order(examples: list) -> list:
    """Sort by insertion: word counts of each text in turn, then label; equal ones stay in order."""
    ordered = []
    for example in examples:
        key = ([text.count(" ") + 1 for text in example[0]], example[1])
        place = len(ordered)
        while place and ordered[place - 1][0] > key:
            place -= 1
        ordered.insert(place, (key, example))
    return [example for _, example in ordered]


def slow_data(examples: list, table: Table, order=slow_order) -> tuple[np.ndarray, np.ndarray]:
    features, labels = [], []
    for texts, label in order(examples):
        rows = [table.rows[text].numpy().astype(float) for text in texts]
        features.append(rows[0] if len(rows) == 1 else [*abs(rows[0] - rows[1]), *(rows[0] * rows[1])])
        labels.append(label)
    return np.array(features), np.array(labels)


def slow_fit(x, y, c) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-8, max_iter=20_000).fit(x, y)


def slow_accuracy(classifier, x, y) -> float:
    return sum(int(a == b) for a, b in zip(classifier.predict(x), y, strict=True)) / len(y)


def slow_choice(x, y, strengths) -> tuple[float, float]:
    """Return the best mean accuracy over ten folds, and the first `C` that has it."""
    best, chosen = -1.0, None
    for c in strengths:
        total = 0.0
        for rest, fold in StratifiedKFold(n_splits=10, shuffle=True, random_state=1111).split(x, y):
            total += slow_accuracy(slow_fit(x[rest], y[rest], c), x[fold], y[fold])
        if total / 10 > best + 1e-9:
            best, chosen = total / 10, c
    return best, chosen


@pytest.mark.parametrize("name", TRANSFER_TASKS)
def test_the_files_of_a_task_are_named_whether_or_not_they_exist(tmp_path, name):
    files = [tmp_path / "downstream" / file for file in FILES[name]]
    assert transfer_files(name, tmp_path) == files
    assert transfer_files(name, str(tmp_path)) == files
    assert read_error(tmp_path, name) == f"{files[0]}: no such file; check the path."
    write_task(tmp_path, name)
    assert read_transfer_task(name, tmp_path, allow_partial_tasks=True).name == name
    files[-1].unlink()
    assert read_error(tmp_path, name) == f"{files[-1]}: no such file; check the path."


def test_an_unknown_task_is_refused(tmp_path):
    for ask in (transfer_files, read_transfer_task):
        with pytest.raises(InputError, match=r"^'sst5' is no transfer task; name one of mr, cr, subj, .*, mrpc\.$"):
            ask("sst5", tmp_path)


@pytest.mark.parametrize("name", BINARY_FILES)
def test_a_binary_task_is_a_file_of_each_label(tmp_path, name):
    positive, negative = BINARY_FILES[name]
    write(tmp_path, positive, lines(' a "quoted\ttab ', *numbered(12, "good"))[:-1])
    write(tmp_path, negative, lines("b \x85 b\x0cb", *numbered(12, "bad")).replace("\n", "\r\n"))
    task = read_transfer_task(name, tmp_path, allow_partial_tasks=True)
    labels = {texts: label for texts, label in task.parts["all"]}
    assert labels == {
        ('a "quoted tab',): 1,
        ("b b b",): 0,
        **{(text,): 1 for text in numbered(12, "good")},
        **{(text,): 0 for text in numbered(12, "bad")},
    }
    assert Counter(task.sentences()) == Counter(text for (text,) in labels)


def test_subj_calls_objective_one(tmp_path):
    write_task(tmp_path, "subj")
    write(tmp_path, "SUBJ/subj.objective", lines(*numbered(13, "fact")))
    labels = Counter(label for _, label in read_transfer_task("subj", tmp_path, allow_partial_tasks=True).parts["all"])
    assert labels == {1: 13, 0: 12}


def test_a_blank_line_of_a_binary_task_is_a_full_stop_of_no_words(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "FOLDS", 3)
    write_task(tmp_path, "mpqa")
    write(tmp_path, "MPQA/mpqa.neg", lines("first", "", " \t ", *numbered(12, "bad"), "."))
    task = read_transfer_task("mpqa", tmp_path, allow_partial_tasks=True)
    assert len(task.sentences()) == 12 + 16
    assert task.sentences().count(".") == 3
    assert "" not in task.sentences()
    asked = []

    def embeddings(sentences):
        asked.extend(sentences)
        return torch.randn(len(sentences), 2, generator=torch.Generator().manual_seed(0))

    task.score(embeddings)
    assert asked[:2] == [".", "."]  # before all sentences of one word, of which "." is the third of label 0
    assert Counter(asked) == Counter(task.sentences())


def test_latin_1_and_utf_8_are_distinguished_by_the_whole_file(tmp_path):
    write_task(tmp_path, "mr")
    write(tmp_path, "MR/rt-polarity.pos", lines("café", *numbered(12, "good")).encode("latin-1"))
    write(tmp_path, "MR/rt-polarity.neg", b"\xef\xbb\xbf" + lines("naïve", *numbered(12, "bad")).encode())
    assert {"café", "naïve"} <= set(read_transfer_task("mr", tmp_path, allow_partial_tasks=True).sentences())

    both = lines("café").encode() + lines("café", *numbered(12, "good")).encode("latin-1").replace(b"\n", b"\r\n")
    write(tmp_path, "MR/rt-polarity.pos", both)
    sentences = read_transfer_task("mr", tmp_path, allow_partial_tasks=True).sentences()
    assert {"cafÃ©", "café", "good0"} <= set(sentences)


@pytest.mark.parametrize("name", ["mr", "trec"])
def test_binary_data_is_named(tmp_path, name):
    write_task(tmp_path, name)
    path = transfer_files(name, tmp_path)[0]
    good = path.read_bytes()
    path.write_bytes("a\nb\n".encode("utf-16"))
    assert read_error(tmp_path, name).startswith(f"{path}, line 1: UTF-16 text; convert it: ")
    path.write_bytes(good + b"one\0two\n")
    zero = good.count(b"\n") + 1
    assert read_error(tmp_path, name).startswith(f"{path}, line {zero}: binary data, a zero byte")
    path.write_bytes(b"DESC:x caf\xe9\n" + good + b"DESC:x one\0two\n")
    assert read_error(tmp_path, name).startswith(f"{path}, line {zero + 1}: binary data, a zero byte")


@pytest.mark.parametrize("name", TRANSFER_TASKS)
def test_an_empty_file_is_named(tmp_path, name):
    write_task(tmp_path, name)
    path = transfer_files(name, tmp_path)[-1]
    path.write_bytes(b"")
    assert read_error(tmp_path, name).startswith(f"{path}: the file is empty")


def test_sst2_is_text_and_label(tmp_path):
    write(
        tmp_path,
        SST2_FILES[0],
        lines("\ufeff\"it 's  fine", "bad").replace("fine", "fine\t1").replace("bad", "bad\t0"),
    )
    write(tmp_path, SST2_FILES[1], "dév\u2028line\t0 \r\n")
    write(tmp_path, SST2_FILES[2], "test\t1")
    task = read_transfer_task("sst2", tmp_path, allow_partial_tasks=True)
    assert task.parts == {
        "train": [(("\"it 's fine",), 1), (("bad",), 0)],
        "dev": [(("dév line",), 0)],
        "test": [(("test",), 1)],
    }
    assert task.sentences() == ["\"it 's fine", "bad", "dév line", "test"]


def test_trec_is_a_coarse_label_and_a_question(tmp_path):
    write_task(tmp_path, "trec")
    questions = (
        b"ABBR:exp What is : it ?\r\nDESC:manner How ?\nENTY:x a\nHUM:ind b\nLOC:other  caf\xe9\tbar\nNUM:date When ?"
    )
    write(tmp_path, TREC_FILES[1], questions)
    test = read_transfer_task("trec", tmp_path, allow_partial_tasks=True).parts["test"]
    assert test == [
        (("What is : it ?",), 0),
        (("How ?",), 1),
        (("a",), 2),
        (("b",), 3),
        (("café bar",), 4),
        (("When ?",), 5),
    ]


def test_mrpc_is_a_label_and_two_sentences(tmp_path):
    write_task(tmp_path, "mrpc")
    write(tmp_path, MRPC_FILES[1], f'\ufeff{MRPC_HEADER}\r\n1\t10\t11\t"He said  so\t it\'s "\r\n0\t1\t2\tÅ\tb, "c"')
    task = read_transfer_task("mrpc", tmp_path, allow_partial_tasks=True)
    assert task.parts["test"] == [(('"He said so', "it's \""), 1), (("Å", 'b, "c"'), 0)]
    assert len(task.parts["train"]) == 20
    assert task.sentences()[-4:] == ['"He said so', "it's \"", "Å", 'b, "c"']


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("sst2", "alone", "1 tab-separated fields, but 2 are needed (sentence, label); fetch the file again."),
        ("sst2", "", "1 tab-separated fields, but 2 are needed (sentence, label); fetch the file again."),
        ("sst2", "a\tb\t1", "3 tab-separated fields, but 2 are needed (sentence, label); fetch the file again."),
        ("sst2", "a\t2", "the label '2' is not 0 or 1; fetch the file again."),
        ("sst2", "a\t1.0", "the label '1.0' is not 0 or 1; fetch the file again."),
        ("sst2", " \t1", "a blank sentence; fetch the file again."),
        ("trec", "What is it ?", "no label, a colon and a question; fetch the file again."),
        ("trec", "", "no label, a colon and a question; fetch the file again."),
        ("trec", "desc:x a", "the label 'desc' is none of ABBR, DESC, ENTY, HUM, LOC, NUM; fetch the file again."),
        ("trec", "DESC:manner", "a blank sentence; fetch the file again."),
        ("trec", "DESC:manner  ", "a blank sentence; fetch the file again."),
        (
            "mrpc",
            "1\t2\t3\tonly one",
            "4 tab-separated fields, but 5 are needed (label, id, id, sentence, sentence); fetch the file again.",
        ),
        ("mrpc", "one\t2\t3\ta\tb", "the label 'one' is not 0 or 1; fetch the file again."),
        ("mrpc", "1\t2\t3\t \tb", "a blank sentence; fetch the file again."),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, line, told):
    write_task(tmp_path, name)
    for path in (transfer_files(name, tmp_path)[0], transfer_files(name, tmp_path)[-1]):
        good = path.read_text(encoding="utf-8")
        path.write_text(f"{good}{line}\n{good}", encoding="utf-8")
        assert read_error(tmp_path, name) == f"{path}, line {good.count(chr(10)) + 1}: {told}"
        path.write_text(good, encoding="utf-8")


def test_mrpc_without_its_header_is_refused(tmp_path):
    write_task(tmp_path, "mrpc")
    path = write(tmp_path, MRPC_FILES[0], "1\t2\t3\ta\tb\n")
    assert read_error(tmp_path, "mrpc") == f"{path}, line 1: '1', not the header 'Quality'; fetch the file again."


@pytest.mark.parametrize("name", ["sst2", "mrpc"])
def test_utf_8_is_required_if_it_is_the_encoding(tmp_path, name):
    write_task(tmp_path, name)
    path = transfer_files(name, tmp_path)[0]
    number = path.read_bytes().count(b"\n") + 1
    path.write_bytes(path.read_bytes() + b"1\t2\t3\tcaf\xe9\tb\n")
    assert read_error(tmp_path, name).startswith(f"{path}, line {number}: not UTF-8 at byte")


COUNTS = {
    "mr": (5331, 5331),
    "cr": (2407, 1368),
    "subj": (5000, 5000),
    "mpqa": (3312, 7294),
    "sst2": (67349, 872, 1821),
    "trec": (5452, 500),
    "mrpc": (4076, 1725),
}


@pytest.mark.parametrize("name", TRANSFER_TASKS)
def test_a_file_of_another_length_is_refused_unless_partial_tasks_are_allowed(tmp_path, name):
    write_task(tmp_path, name)
    path = transfer_files(name, tmp_path)[0]
    last_line = path.read_bytes().count(b"\n")
    found = last_line - (name == "mrpc")
    assert read_error(tmp_path, name, allow_partial_tasks=False) == (
        f"{path}, line {last_line}: the file ends after {found} examples, but {COUNTS[name][0]} are known; fetch the "
        "file again, or set `allow_partial_tasks` to score another number."
    )


@pytest.mark.parametrize("name", TRANSFER_TASKS)
def test_files_of_the_known_length_are_read(tmp_path, name):
    write_task(tmp_path, name)
    for path, count in zip(transfer_files(name, tmp_path), COUNTS[name], strict=True):
        head, *rest = path.read_text().splitlines() if name == "mrpc" else ["", *path.read_text().splitlines()]
        full = (rest * (count // len(rest) + 1))[:count]
        path.write_text(lines(*([head] if name == "mrpc" else []), *full))
    task = read_transfer_task(name, tmp_path)
    assert sum(map(len, task.parts.values())) == sum(COUNTS[name])
    path.write_text(path.read_text() + full[-1] + "\n")  # the last file, one line longer
    assert f"after {count + 1} examples, but {count} are known" in read_error(
        tmp_path, name, allow_partial_tasks=False
    )


def test_too_few_examples_for_the_folds_are_refused(tmp_path):
    write_task(tmp_path, "cr")
    write(tmp_path, "CR/custrev.neg", lines(*numbered(11, "bad")))
    assert re.search(
        r"custrev\.pos and .*custrev\.neg: too few examples \(11 of label 0, 12 of label 1\), at least 12 of each of "
        r"two labels or more are needed; fetch the file again\.$",
        read_error(tmp_path, "cr"),
    )
    write_task(tmp_path, "trec")
    path = write(tmp_path, TREC_FILES[0], lines(*[f"DESC:x {i}" for i in range(30)]))
    assert read_error(tmp_path, "trec").startswith(f"{path}: too few examples (30 of label 1), at least 10 of each")
    write(tmp_path, TREC_FILES[0], lines(*[f"DESC:x {i}" for i in range(30)], *[f"NUM:x {i}" for i in range(9)]))
    assert "(30 of label 1, 9 of label 5)" in read_error(tmp_path, "trec")
    write_task(tmp_path, "sst2")
    write(tmp_path, SST2_FILES[0], lines("a\t1", "b\t1"))
    assert "too few examples (2 of label 1), at least 1 of each" in read_error(tmp_path, "sst2")
    write_task(tmp_path, "mrpc")
    path = write(tmp_path, MRPC_FILES[1], lines(MRPC_HEADER))
    assert read_error(tmp_path, "mrpc") == f"{path}: no examples to test on; fetch the file again."
    write(tmp_path, MRPC_FILES[0], lines(MRPC_HEADER))
    assert "too few examples (none)" in read_error(tmp_path, "mrpc")


@pytest.mark.parametrize("name", ["mr", "sst2", "trec", "mrpc"])
def test_the_smallest_task_is_scored_without_a_warning(tmp_path, name):
    write_task(tmp_path, name)
    task = read_transfer_task(name, tmp_path, allow_partial_tasks=True)
    rows = {
        text: torch.randn(3, generator=torch.Generator().manual_seed(i)) for i, text in enumerate(task.sentences())
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = task.score(lambda sentences: torch.stack([rows[s] for s in sentences]))
    names = ["dev_accuracy", "test_accuracy"] + ["test_f1"] * (name == "mrpc")
    assert list(scores) == [f"{name}_{score}" for score in names]
    assert all(type(value) is float and 0 <= value <= 100 for value in scores.values())


def test_nested_folds_agree_with_a_slow_loop():
    task = TransferTask("mr", {"all": random_examples({0: 38, 1: 33}, 1)})
    table = Table(task.parts, signal=0.45, seed=1, scale=0.3)
    x, y = slow_data(task.parts["all"], table)
    dev, test = [], []
    for rest, fold in StratifiedKFold(n_splits=10, shuffle=True, random_state=1111).split(x, y):
        accuracy, c = slow_choice(x[rest], y[rest], [0.25, 0.5, 1, 2, 4, 8])
        dev.append(accuracy)
        test.append(slow_accuracy(slow_fit(x[rest], y[rest], c), x[fold], y[fold]))
    assert task.score(table) == {
        "mr_dev_accuracy": pytest.approx(100 * sum(dev) / 10, abs=1e-9),
        "mr_test_accuracy": pytest.approx(100 * sum(test) / 10, abs=1e-9),
    }


@pytest.mark.parametrize(
    ("name", "sizes", "seed", "scale", "chosen"),
    [
        ("trec", {0: 25, 1: 30, 5: 20}, 6, 2.0, 0.5),  # 0.25 would be better, 16 and 32 worse
        ("trec", {0: 25, 1: 30, 5: 20}, 10, 0.1, 32),
        ("mrpc", {0: 40, 1: 60}, 5, 0.1, 32),
    ],
)
def test_folds_of_a_training_set_agree_with_a_slow_loop(name, sizes, seed, scale, chosen):
    texts = 2 if name == "mrpc" else 1
    parts = {"train": random_examples(sizes, 3, texts), "test": random_examples(sizes, 4, texts)}
    table = Table(parts, signal=0.6, seed=seed, scale=scale)
    x, y = slow_data(parts["train"], table)
    accuracy, c = slow_choice(x, y, [0.5, 1, 2, 4, 8, 16, 32])
    assert c == chosen
    classifier = slow_fit(x, y, c)
    held_out, labels = slow_data(parts["test"], table)
    expected = {
        f"{name}_dev_accuracy": pytest.approx(100 * accuracy, abs=1e-9),
        f"{name}_test_accuracy": pytest.approx(100 * slow_accuracy(classifier, held_out, labels), abs=1e-9),
    }
    if name == "mrpc":
        predicted = classifier.predict(held_out)
        both = sum(int(a and b) for a, b in zip(predicted, labels, strict=True))
        expected["mrpc_test_f1"] = pytest.approx(100 * 2 * both / (sum(predicted) + sum(labels)), abs=1e-9)
        assert 0 < both < sum(labels)
    assert TransferTask(name, parts).score(table) == expected


def test_a_development_set_chooses_and_is_not_fitted_to():
    parts = {"train": random_examples({0: 40, 1: 50}, 6), "dev": random_examples({0: 60, 1: 60}, 7)}
    parts["test"] = random_examples({0: 70, 1: 70}, 8)
    table = Table(parts, width=12, signal=0.3, seed=9, scale=0.2)
    (x, y), (dev_x, dev_y), (test_x, test_y) = (slow_data(parts[part], table) for part in ("train", "dev", "test"))
    best = (-1.0, None)
    tested = set()
    for c in [0.25, 0.5, 1, 2, 4, 8]:
        classifier = slow_fit(x, y, c)
        tested.add(slow_accuracy(classifier, test_x, test_y))
        accuracy = slow_accuracy(classifier, dev_x, dev_y)
        if accuracy > best[0]:
            best = (accuracy, slow_accuracy(classifier, test_x, test_y))
    assert len(tested) > 2  # so that another choice of `C` shows
    assert TransferTask("sst2", parts).score(table) == {
        "sst2_dev_accuracy": pytest.approx(100 * best[0], abs=1e-9),
        "sst2_test_accuracy": pytest.approx(100 * best[1], abs=1e-9),
    }


def test_the_order_of_the_examples_makes_the_folds():
    parts = {"train": random_examples({0: 30, 1: 30}, 10), "test": random_examples({0: 5, 1: 5}, 11)}
    table = Table(parts, signal=0.3, seed=11)
    accuracies = [
        100 * slow_choice(*slow_data(parts["train"], table, order), [0.5, 1, 2, 4, 8, 16, 32])[0]
        for order in (slow_order, list)
    ]
    assert accuracies[0] != pytest.approx(accuracies[1], abs=0.1)
    assert TransferTask("trec", parts).score(table)["trec_dev_accuracy"] == pytest.approx(accuracies[0], abs=1e-9)


def test_separable_embeddings_score_100(monkeypatch):
    parts = {"train": random_examples({0: 30, 1: 30}, 12), "dev": random_examples({0: 9, 1: 9}, 13)}
    parts["test"] = random_examples({0: 9, 1: 9}, 14)
    for name, kept in (("sst2", ("train", "dev", "test")), ("trec", ("train", "test"))):
        task = TransferTask(name, {part: parts[part] for part in kept})
        assert set(task.score(Table(task.parts, signal=30.0)).values()) == {100.0}
    monkeypatch.setattr(transfer, "FOLDS", 3)
    nested = TransferTask("cr", {"all": parts["train"]})
    assert set(nested.score(Table(nested.parts, signal=30.0)).values()) == {100.0}


def test_embeddings_that_know_nothing_score_near_chance():
    parts = {"train": random_examples({0: 300, 1: 300}, 15), "test": random_examples({0: 400, 1: 400}, 16)}
    scores = TransferTask("trec", parts).score(Table(parts, width=4, seed=1))
    assert scores["trec_test_accuracy"] == pytest.approx(50.0, abs=6.0)
    assert scores["trec_dev_accuracy"] == pytest.approx(50.0, abs=6.0)


def test_embeddings_that_are_all_the_same_score_as_the_larger_class(monkeypatch):
    monkeypatch.setattr(transfer, "FOLDS", 4)
    parts = {"all": random_examples({0: 16, 1: 48}, 17)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = TransferTask("mpqa", parts).score(lambda sentences: torch.full((len(sentences), 5), 3.0))
    assert scores == {"mpqa_dev_accuracy": pytest.approx(75.0), "mpqa_test_accuracy": pytest.approx(75.0)}


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e15])
def test_embeddings_of_any_scale_leave_no_warning(scale):
    parts = {"train": random_examples({0: 30, 1: 30}, 18), "test": random_examples({0: 9, 1: 9}, 19)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = TransferTask("trec", parts).score(Table(parts, signal=30.0, scale=scale))
    assert scores["trec_test_accuracy"] >= 50.0


def test_embeddings_that_are_not_finite_are_refused():
    parts = {"all": random_examples({0: 12, 1: 12}, 20)}
    table = Table(parts)
    text = parts["all"][5][0][0]
    for value in (float("nan"), float("inf")):
        table.rows[text][2] = value
        with pytest.raises(InputError, match=r"^mr: 1 embeddings are not finite, .*; score another checkpoint"):
            TransferTask("mr", parts).score(table)


def test_scoring_changes_no_embedding(monkeypatch):
    monkeypatch.setattr(transfer, "FOLDS", 3)
    parts = {"all": random_examples({0: 12, 1: 12}, 21)}
    given = torch.randn(24, 4, dtype=torch.float64)
    before = given.clone()
    TransferTask("mr", parts).score(lambda sentences: given)
    assert torch.equal(given, before)


def test_a_missing_scikit_learn_is_reported(tmp_path, monkeypatch):
    write_task(tmp_path, "mr")
    task = read_transfer_task("mr", tmp_path, allow_partial_tasks=True)
    for module in [module for module in sys.modules if module.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"run pip install .*\[evaluation\]'\.$"):
        task.score(Table(task.parts))
    assert "needs scikit-learn" in read_error(tmp_path, "mr")


@pytest.mark.parametrize("name", ["mr", "trec", "sst2"])
def test_a_bar_is_asked_for(tmp_path, monkeypatch, name):
    write_task(tmp_path, name)
    task = read_transfer_task(name, tmp_path, allow_partial_tasks=True)
    monkeypatch.setattr(transfer, "FOLDS", 3)
    shown = []
    monkeypatch.setattr(transfer, "tqdm", lambda steps, **options: shown.append((len(steps), options)) or steps)
    task.score(Table(task.parts))
    task.score(Table(task.parts), show_progress=True)
    steps = 6 if name == "sst2" else 3
    assert shown == [(steps, {"desc": name, "disable": disable}) for disable in (True, None)]


@pytest.mark.parametrize(
    ("name", "labels", "sentences"),
    [
        ("mr", {"all": {0: 5331, 1: 5331}}, 10662),
        ("mpqa", {"all": {0: 7294, 1: 3312}}, 10606),
        # Counted by hand: cut -d: -f1 | sort | uniq -c
        (
            "trec",
            {
                "train": {0: 86, 1: 1162, 2: 1250, 3: 1223, 4: 835, 5: 896},
                "test": {0: 9, 1: 138, 2: 94, 3: 65, 4: 81, 5: 113},
            },
            5952,
        ),
        ("mrpc", {"train": {0: 1323, 1: 2753}, "test": {0: 578, 1: 1147}}, 11602),
    ],
)
def test_the_real_tasks_are_read_whole(shared_data, name, labels, sentences):
    task = read_transfer_task(name, shared_data / "senteval")
    assert {part: Counter(label for _, label in examples) for part, examples in task.parts.items()} == labels
    assert len(task.sentences()) == sentences
    assert all(task.sentences())


def test_of_a_binary_task_both_files_together_count(tmp_path, monkeypatch):
    """Where SentEval's editions divide the same examples otherwise."""
    monkeypatch.setitem(transfer._EXAMPLES, "cr", {"CR/custrev.pos": 15, "CR/custrev.neg": 13})
    for part, count in (("pos", 14), ("neg", 14)):
        path = tmp_path / "downstream" / "CR" / f"custrev.{part}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{part} {i}\n" for i in range(count)))
    assert len(read_transfer_task("cr", tmp_path).sentences()) == 28
    path.write_text("".join(f"neg {i}\n" for i in range(13)))
    with pytest.raises(InputError, match=r"custrev\.pos, line 14: the file ends after 14 examples, but 15 are known"):
        read_transfer_task("cr", tmp_path)
