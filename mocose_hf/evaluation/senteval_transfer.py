"""Transfer tasks: classify sentences by logistic regression on their embeddings, by SentEval's protocol.

The protocol is that of SentEval (https://github.com/facebookresearch/SentEval, https://arxiv.org/abs/1803.05449) with
its scikit-learn classifier and `kfold` 10.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from mocose_hf.data.text_lines import read_lines
from mocose_hf.errors import InputError
from mocose_hf.evaluation.optional_libraries import validate_sklearn

TRANSFER_TASKS = ("mr", "cr", "subj", "mpqa", "sst2", "trec", "mrpc")

FOLDS = 10
FOLD_SEED = 1111

STRENGTHS = tuple(2.0**k for k in range(-2, 4))
"""The values of `C` (inverse L2 penalty) to choose from without a test set, or with a development set."""

STRENGTHS_WITH_TEST_SET = tuple(2.0**k for k in range(-1, 6))
"""The values of `C` to choose from by folds of a training set with a test set, as in SentEval."""

BLANK = "."
"""Replaces a blank line of a binary task, as in SentEval's examples; MPQA has three, which count."""

_EXAMPLES = {  # by file below `downstream`; a binary task has a file of label 1, then a file of label 0
    "mr": {"MR/rt-polarity.pos": 5331, "MR/rt-polarity.neg": 5331},
    "cr": {"CR/custrev.pos": 2407, "CR/custrev.neg": 1368},
    "subj": {"SUBJ/subj.objective": 5000, "SUBJ/subj.subjective": 5000},
    "mpqa": {"MPQA/mpqa.pos": 3312, "MPQA/mpqa.neg": 7294},
    "sst2": {"SST/binary/sentiment-train": 67349, "SST/binary/sentiment-dev": 872, "SST/binary/sentiment-test": 1821},
    "trec": {"TREC/train_5500.label": 5452, "TREC/TREC_10.label": 500},
    "mrpc": {"MRPC/msr_paraphrase_train.txt": 4076, "MRPC/msr_paraphrase_test.txt": 1725},
}
_PARTS = {"sst2": ("train", "dev", "test"), "trec": ("train", "test"), "mrpc": ("train", "test")}

_TREC_LABELS = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")

_TOLERANCE = 1e-5
"""Tolerance of the gradient per example, for features of mean square 1."""

_MAX_ITERATIONS = 5_000

Example = tuple[tuple[str, ...], int]
"""One text or two, and their label; the text of a blank line is blank."""

Embed = Callable[[list[str]], Tensor]
"""Returns the embeddings of N sentences, (N, H) float32."""


@dataclass
class TransferTask:
    """The examples of a transfer task.

    Args:
        name: One of `TRANSFER_TASKS`.
        parts: The examples: "all" in one part, or "train" and "test", or "train", "dev" and "test".
    """

    name: str
    parts: dict[str, list[Example]]

    def sentences(self) -> list[str]:
        """Return the texts of all parts, with repetitions."""
        return [text or BLANK for examples in self.parts.values() for texts, _ in examples for text in texts]

    def score(self, embeddings: Embed, show_progress: bool = False) -> dict[str, float]:
        """Fit classifiers to the embeddings, without normalisation, and test them.

        * All in one part: for each of 10 folds, `C` is chosen by 10 folds of the other nine.
        * A training and a test set: `C` is chosen by 10 folds of the training set.
        * A development set too: `C` is chosen on it, and it is not used to fit the classifier.

        Args:
            embeddings: Returns the embeddings of N sentences, (N, H) float32.
            show_progress: Whether to show a progress bar.

        Returns:
            `<name>_dev_accuracy`, which selected `C`, and `<name>_test_accuracy`, both means over the folds if there
            is one part; for MRPC also `mrpc_test_f1` of the paraphrases; in percent.

        Raises:
            InputError: If scikit-learn is not installed, or an embedding is not finite.
        """
        validate_sklearn("A transfer task")
        from scipy.linalg import LinAlgWarning
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.metrics import f1_score

        parts = {part: _sort_examples(examples) for part, examples in self.parts.items()}
        labels = {part: np.array([label for _, label in examples]) for part, examples in parts.items()}
        features = {part: self._features(examples, embeddings) for part, examples in parts.items()}
        spread = _standardize(features)

        def scaled(strengths: tuple[float, ...]) -> list[float]:
            return [spread**2 * strength for strength in strengths]

        def progress(steps: Iterable) -> tqdm:
            return tqdm(list(steps), desc=self.name, disable=None if show_progress else True)

        with warnings.catch_warnings():
            # Rounding errors stop the solver, or lbfgs takes over from newton-cholesky.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", LinAlgWarning)
            if "all" in parts:
                dev, test = _score_by_nested_folds(features["all"], labels["all"], scaled(STRENGTHS), progress)
                return self._percent(dev_accuracy=dev, test_accuracy=test)
            if "dev" in parts:
                dev, strength = _choose_on_dev(features, labels, scaled(STRENGTHS), progress)
            else:
                strengths = scaled(STRENGTHS_WITH_TEST_SET)
                dev, strength = _choose_by_folds(features["train"], labels["train"], strengths, progress)
            classifier = _classifier(labels["train"], strength).fit(features["train"], labels["train"])
            predicted = classifier.predict(features["test"])
        scores = {"dev_accuracy": dev, "test_accuracy": np.mean(predicted == labels["test"])}
        if self.name == "mrpc":
            scores["test_f1"] = f1_score(labels["test"], predicted, zero_division=0)
        return self._percent(**scores)

    def _features(self, examples: list[Example], embeddings: Embed) -> np.ndarray:
        """Return the embeddings of single texts, (N, H), or |u − v| beside u·v of two, (N, 2H); float64."""
        columns = [
            [text or BLANK for text in column] for column in zip(*(texts for texts, _ in examples), strict=True)
        ]
        features = [embeddings(column).to("cpu", torch.float64, copy=True).numpy() for column in columns]  # (N, H)
        bad = sum(int((~np.isfinite(rows).all(axis=1)).sum()) for rows in features)
        if bad:
            raise InputError(
                f"{self.name}: {bad} embeddings are not finite, so they have no classes; score another checkpoint."
            )
        if len(features) == 1:
            return features[0]
        u, v = features
        return np.concatenate([np.abs(u - v), u * v], axis=1)

    def _percent(self, **scores: float) -> dict[str, float]:
        return {f"{self.name}_{key}": 100.0 * float(value) for key, value in scores.items()}


def transfer_files(name: str, senteval_dir: str | Path) -> list[Path]:
    """Return the files that a task needs, whether they exist or not.

    Raises:
        InputError: If there is no task of that name.
    """
    if name not in TRANSFER_TASKS:
        raise InputError(f"{name[:40]!r} is no transfer task; name one of {', '.join(TRANSFER_TASKS)}.")
    return [Path(senteval_dir, "downstream", file) for file in _EXAMPLES[name]]


def read_transfer_task(name: str, senteval_dir: str | Path, allow_partial_tasks: bool = False) -> TransferTask:
    """Read a task from a folder in SentEval's layout.

    White space between words becomes one space. The files of TREC and the binary tasks are UTF-8 or Latin-1.

    Args:
        name: One of `TRANSFER_TASKS`.
        senteval_dir: The folder that holds `downstream/MR` and its like.
        allow_partial_tasks: Whether files may have another number of examples than SentEval's.

    Raises:
        InputError: With file, line and remedy; also if scikit-learn is not installed.
    """
    files = transfer_files(name, senteval_dir)
    validate_sklearn("A transfer task")
    read_file = {"sst2": _read_sst2, "trec": _read_trec, "mrpc": _read_mrpc}.get(name, _read_sentences)
    parts = [list(read_file(path)) for path in files]
    if not allow_partial_tasks:
        _validate_counts(name, files, parts)
    if name in _PARTS:
        _validate_examples(files[0], parts[0], needed=1 if name == "sst2" else FOLDS)
        if not parts[-1]:
            raise InputError(f"{files[-1]}: no examples to test on; fetch the file again.")
        return TransferTask(name, dict(zip(_PARTS[name], parts, strict=True)))
    examples = [(texts, label) for label, part in zip((1, 0), parts, strict=True) for texts, _ in part]
    # A class of 12 leaves at least 10 examples in nine of ten folds; a class of 11 does not.
    _validate_examples(" and ".join(map(str, files)), examples, needed=FOLDS + 2)
    return TransferTask(name, {"all": examples})


def _read_sentences(path: Path) -> Iterator[Example]:
    for line in _lines_of_either_encoding(path):
        yield (_joined(line),), 1


def _read_sst2(path: Path) -> Iterator[Example]:
    for number, line in enumerate(read_lines(path), start=1):
        text, label = _fields(path, number, line, ("sentence", "label"))
        yield (_sentence(path, number, text),), _binary_label(path, number, label)


def _read_mrpc(path: Path) -> Iterator[Example]:
    names = ("label", "id", "id", "sentence", "sentence")
    for number, line in enumerate(read_lines(path), start=1):
        label, _, _, first, second = _fields(path, number, line, names)
        if number > 1:
            texts = _sentence(path, number, first), _sentence(path, number, second)
            yield texts, _binary_label(path, number, label)
        elif label != "Quality":
            raise InputError(f"{path}, line 1: {label[:40]!r}, not the header 'Quality'; fetch the file again.")


def _read_trec(path: Path) -> Iterator[Example]:
    for number, line in enumerate(_lines_of_either_encoding(path), start=1):
        label, colon, rest = line.strip().partition(":")
        if not colon:
            raise InputError(f"{path}, line {number}: no label, a colon and a question; fetch the file again.")
        if label not in _TREC_LABELS:
            raise InputError(
                f"{path}, line {number}: the label {label[:40]!r} is none of {', '.join(_TREC_LABELS)}; "
                "fetch the file again."
            )
        yield (_sentence(path, number, rest.partition(" ")[2]),), _TREC_LABELS.index(label)


def _lines_of_either_encoding(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except InputError as error:
        if not isinstance(error.__context__, UnicodeDecodeError):
            raise
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if b"\0" in line:
            raise InputError(f"{path}, line {number}: binary data, a zero byte; fetch the file again.")
    return [line.decode("latin-1") for line in lines]


def _fields(path: Path, number: int, line: str, names: tuple[str, ...]) -> list[str]:
    fields = line.rstrip().split("\t")
    if len(fields) != len(names):
        raise InputError(
            f"{path}, line {number}: {len(fields)} tab-separated fields, but {len(names)} are needed "
            f"({', '.join(names)}); fetch the file again."
        )
    return fields


def _binary_label(path: Path, number: int, label: str) -> int:
    if label.strip() not in ("0", "1"):
        raise InputError(f"{path}, line {number}: the label {label[:40]!r} is not 0 or 1; fetch the file again.")
    return int(label)


def _sentence(path: Path, number: int, text: str) -> str:
    sentence = _joined(text)
    if not sentence:
        raise InputError(f"{path}, line {number}: a blank sentence; fetch the file again.")
    return sentence


def _joined(text: str) -> str:
    return " ".join(text.split())


def _validate_counts(name: str, files: list[Path], parts: list[list[Example]]) -> None:
    """Check that each file has as many examples as SentEval's; the two files of a binary task count together."""
    known = [*_EXAMPLES[name].values()]
    if name not in _PARTS and sum(map(len, parts)) == sum(known):
        return
    for path, examples, count in zip(files, parts, known, strict=True):
        if len(examples) != count:
            last_line = len(examples) + (name == "mrpc")
            raise InputError(
                f"{path}, line {last_line}: the file ends after {len(examples)} examples, but {count} are known; "
                "fetch the file again, or set `allow_partial_tasks` to score another number."
            )


def _validate_examples(place: str | Path, examples: list[Example], needed: int) -> None:
    counts = Counter(label for _, label in examples)
    if len(counts) < 2 or min(counts.values()) < needed:
        numbers = ", ".join(f"{count} of label {label}" for label, count in sorted(counts.items())) or "none"
        raise InputError(
            f"{place}: too few examples ({numbers}), at least {needed} of each of two labels or more are needed; "
            "fetch the file again."
        )


def _sort_examples(examples: list[Example]) -> list[Example]:
    """Sort by number of words, words of the second text, and label, as SentEval does; the order decides the folds."""
    return sorted(examples, key=lambda example: (*(len(text.split()) for text in example[0]), example[1]))


def _standardize(features: dict[str, np.ndarray]) -> float:
    """Shift and scale all features in place to mean 0 and mean square 1, and return their former spread.

    The classifiers stay the same: the intercept, which is not penalised, absorbs the shift, and `C` times the squared
    spread absorbs the scale. lbfgs needs a sixth of the iterations if the embeddings share a large mean.
    """
    first = next(iter(features.values()))
    center = first.mean(axis=0)
    spread = float(np.sqrt(np.mean((first - center) ** 2))) or 1.0  # 0 if all embeddings are equal
    for rows in features.values():
        rows -= center
        rows /= spread
    return spread


def _score_by_nested_folds(features, labels, strengths: list[float], progress: Callable) -> tuple[float, float]:
    """Return the mean accuracy that selected `C`, and the mean accuracy of the selected classifiers on their folds."""
    dev, test = [], []
    for rest, fold in progress(_folds(labels)):
        accuracy, strength = _choose_by_folds(features[rest], labels[rest], strengths, iter)
        classifier = _classifier(labels, strength).fit(features[rest], labels[rest])
        dev.append(accuracy)
        test.append(classifier.score(features[fold], labels[fold]))
    return float(np.mean(dev)), float(np.mean(test))


def _choose_by_folds(features, labels, strengths: list[float], progress: Callable) -> tuple[float, float]:
    """Return the best mean accuracy over folds and its `C`."""
    accuracies = [
        _path_accuracies(features[rest], labels[rest], features[fold], labels[fold], strengths)
        for rest, fold in progress(_folds(labels))
    ]
    return _best(np.mean(accuracies, axis=0), strengths)


def _choose_on_dev(features, labels, strengths: list[float], progress: Callable) -> tuple[float, float]:
    """Return the best accuracy on the development set and its `C`."""
    accuracies = _path_accuracies(
        features["train"], labels["train"], features["dev"], labels["dev"], progress(strengths)
    )
    return _best(accuracies, strengths)


def _path_accuracies(features, labels, held_out, held_out_labels, strengths: Iterable[float]) -> list[float]:
    """Return the held-out accuracy for each `C`; each fit starts from the one before."""
    classifier = _classifier(labels, warm_start=True)
    return [
        classifier.set_params(C=strength).fit(features, labels).score(held_out, held_out_labels)
        for strength in strengths
    ]


def _best(accuracies, strengths: list[float]) -> tuple[float, float]:
    """Select the smallest `C` among accuracies that are equal to 0.01 %, as SentEval does."""
    best = int(np.argmax(np.round(100.0 * np.asarray(accuracies), 2)))
    return accuracies[best], strengths[best]


def _folds(labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training rows and the held-out rows of each fold."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=FOLD_SEED)
    return list(folds.split(np.zeros(len(labels)), labels))


def _classifier(labels: np.ndarray, strength: float = 1.0, warm_start: bool = False):
    """Return a logistic regression with an L2 penalty on all but the intercept; multinomial for three labels or more.

    For two labels, newton-cholesky gives the same predictions in half of lbfgs's time, at 384 and at 768 features. For
    more labels its Hessian is too large.
    """
    from sklearn.linear_model import LogisticRegression

    solver = "newton-cholesky" if len(np.unique(labels)) == 2 else "lbfgs"
    return LogisticRegression(
        C=strength, solver=solver, tol=_TOLERANCE, max_iter=_MAX_ITERATIONS, warm_start=warm_start
    )
