"""The seven tasks of semantic textual similarity: STS12 to STS16, STS-B and SICK-R.

They are read from a folder in the layout of SentEval (https://github.com/facebookresearch/SentEval) or from the hub.
They are scored as in SentEval: correlation of cosine and human score over all pairs of a year together ("all"), and
for each subset.
"""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from torch import Tensor

from mocose_hf.data.text_lines import read_lines
from mocose_hf.errors import InputError, one_line
from mocose_hf.evaluation.correlation import pearson, spearman
from mocose_hf.evaluation.pairs import ScoredPair, numbered_lines, pairs_dataset, scored_pair
from mocose_hf.evaluation.similarity import pair_similarities

STS_YEARS = ("sts12", "sts13", "sts14", "sts15", "sts16")

STS_TASKS = (*STS_YEARS, "stsb", "sickr")

WITHOUT_DEV = "without_stsb_dev"
"""Part of the name of a metric that excludes the pairs of STS-B's development set."""

FETCH_AGAIN = "fetch the file again, or set `allow_partial_tasks` to score another number of pairs"

_STS = Path("downstream", "STS")

_YEARS = {
    "sts12": {
        "MSRpar": 750,
        "MSRvid": 750,
        "SMTeuroparl": 459,
        "surprise.OnWN": 750,
        "surprise.SMTnews": 399,
    },
    "sts13": {"FNWN": 189, "headlines": 750, "OnWN": 561},
    "sts14": {
        "deft-forum": 450,
        "deft-news": 300,
        "headlines": 750,
        "images": 750,
        "OnWN": 750,
        "tweet-news": 750,
    },
    "sts15": {
        "answers-forums": 375,
        "answers-students": 750,
        "belief": 375,
        "headlines": 750,
        "images": 750,
    },
    "sts16": {
        "answer-answer": 254,
        "headlines": 249,
        "plagiarism": 230,
        "postediting": 244,
        "question-question": 209,
    },
}
"""The subsets of each year and the numbers of their scored pairs; STS13's SMT is not freely available."""

_STSB_COUNTS = {"train": 5749, "dev": 1500, "test": 1379}
_SICK_FILE = Path("downstream", "SICK", "SICK_test_annotated.txt")
_SICK_COUNT = 4927

_HUB = {
    **{year: (f"mteb/{year}-sts", sum(counts.values())) for year, counts in _YEARS.items()},
    "stsb": ("mteb/stsbenchmark-sts", _STSB_COUNTS["test"]),
    "sickr": ("mteb/sickr-sts", 9927),
}
"""Datasets on the hub with columns score, sentence1, sentence2, and the numbers of pairs in their test splits.

SICK-R on the hub is all of SICK, so scores on it differ from those on SentEval's 4,927 test pairs.
"""


@dataclass
class STSTask:
    """Scored test pairs of one task.

    Args:
        name: One of `STS_TASKS`.
        subsets: Pairs by name of the subset, each with columns `score`, `sentence1`, `sentence2`; a single one if the
            task has no subsets.
        development: Pairs of a development set, scored in addition to the test pairs.
        selection: Pairs that checkpoints are selected by. The test pairs are also scored without them.
    """

    name: str
    subsets: dict[str, Dataset]
    development: Dataset | None = None
    selection: Dataset | None = None

    def __len__(self) -> int:
        """Return the number of scored test pairs."""
        return sum(len(pairs) for pairs in self.subsets.values())

    def sentences(self) -> list[str]:
        """Return all sentences, with repetitions."""
        sets = [*self.subsets.values(), *([self.development] if self.development is not None else [])]
        return [sentence for pairs in sets for side in ("sentence1", "sentence2") for sentence in pairs[side]]

    def score(self, embeddings, show_progress: bool = False) -> dict[str, float]:
        """Correlate cosines with human scores, × 100.

        Args:
            embeddings: Returns the embeddings (N, H) of N sentences.
            show_progress: Not used.

        Returns:
            `{name}_spearman` and `{name}_pearson` over all pairs together. With subsets also their mean
            (`{name}_spearman_mean`), their mean weighted by size (`{name}_spearman_wmean`), the correlation of each
            (`{name}_{subset}_spearman`), and the same for Pearson. With a development set `{name}_dev_spearman` and
            `{name}_dev_pearson`. With selection pairs `{name}_without_stsb_dev_spearman`, `…_pearson` and
            `{name}_without_stsb_dev_pairs`, the number of remaining test pairs.
        """
        scores = {subset: _scores(pairs) for subset, pairs in self.subsets.items()}
        cosines = {subset: _similarities(pairs, embeddings) for subset, pairs in self.subsets.items()}
        sizes = torch.tensor([len(pairs) for pairs in scores.values()], dtype=torch.float64)
        metrics = {}
        unseen = self._unseen()
        for kind, correlation in (("spearman", spearman), ("pearson", pearson)):
            metrics[f"{self.name}_{kind}"] = correlation(torch.cat([*cosines.values()]), torch.cat([*scores.values()]))
            if unseen is not None:
                remaining = torch.cat([*cosines.values()])[unseen], torch.cat([*scores.values()])[unseen]
                metrics[f"{self.name}_{WITHOUT_DEV}_{kind}"] = correlation(*remaining)
            if len(scores) > 1:
                by_subset = [correlation(cosines[subset], scores[subset]) for subset in scores]
                metrics[f"{self.name}_{kind}_mean"] = sum(by_subset) / len(by_subset)
                metrics[f"{self.name}_{kind}_wmean"] = (
                    torch.tensor(by_subset, dtype=torch.float64) @ sizes / sizes.sum()
                ).item()
                metrics |= {
                    f"{self.name}_{_metric_part(s)}_{kind}": value for s, value in zip(scores, by_subset, strict=True)
                }
            if self.development is not None:
                pairs = self.development
                metrics[f"{self.name}_dev_{kind}"] = correlation(_similarities(pairs, embeddings), _scores(pairs))
        if unseen is not None:
            metrics[f"{self.name}_{WITHOUT_DEV}_pairs"] = float(unseen.sum())
        return metrics

    def _unseen(self) -> Tensor | None:
        """Return whether each test pair is not a selection pair, (N,) bool; None if there are no selection pairs."""
        if self.selection is None:
            return None
        seen = set(_normalised(self.selection))
        return torch.tensor([pair not in seen for pairs in self.subsets.values() for pair in _normalised(pairs)])


def sts_files(name: str, senteval_dir: str | Path) -> list[Path]:
    """Return the files of a task in a folder in SentEval's layout, whether they exist or not.

    Raises:
        InputError: If there is no task of that name.
    """
    _validate_name(name)
    root = Path(senteval_dir)
    if name in _YEARS:
        return [path for subset in _YEARS[name] for path in _year_files(name, subset, root)]
    return [root / _SICK_FILE] if name == "sickr" else [_stsb_file(root, split) for split in ("dev", "test")]


def read_sts_task(name: str, senteval_dir: str | Path, allow_partial_tasks: bool = False) -> STSTask:
    """Read a task from a folder in SentEval's layout.

    Args:
        name: One of `STS_TASKS`.
        senteval_dir: The folder that holds `downstream/STS` and `downstream/SICK`.
        allow_partial_tasks: Whether files may have another number of pairs than published.

    Raises:
        InputError: With file, line and remedy; also if there is no task of that name.
    """
    _validate_name(name)
    root = Path(senteval_dir)
    if name in _YEARS:
        subsets = {s: _read_subset(name, s, root, None if allow_partial_tasks else n) for s, n in _YEARS[name].items()}
        return STSTask(name, subsets)
    if name == "sickr":
        return STSTask(name, {"test": _read_sick(root / _SICK_FILE, None if allow_partial_tasks else _SICK_COUNT)})
    return STSTask(
        name, {"test": read_stsb(root, "test", allow_partial_tasks)}, read_stsb(root, "dev", allow_partial_tasks)
    )


def read_stsb(senteval_dir: str | Path, split: str = "dev", allow_partial_tasks: bool = False) -> Dataset:
    """Read a split of STS-B (train: 5,749 pairs, dev: 1,500, test: 1,379) from a folder in SentEval's layout.

    Args:
        senteval_dir: The folder that holds `downstream/STS/STSBenchmark/sts-dev.csv`.
        split: "train", "dev" or "test".
        allow_partial_tasks: Whether the file may have another number of pairs than published.

    Returns:
        Columns `score` (float), `sentence1`, `sentence2`.

    Raises:
        InputError: With file, line and remedy.
    """
    path, rows, number = _stsb_file(Path(senteval_dir), split), [], 0
    for number, line in numbered_lines(path):
        # The fields are not quoted: a csv reader would lose rows at stray quotes.
        fields = _fields(path, number, line, 7)
        if len(fields) > 9:
            raise InputError(
                f"{path}, line {number}: {len(fields)} tab-separated fields, as in GLUE's files of STS-B, whose score "
                "comes last; fetch SentEval's file, or give this one, with its header, as `validation_file`."
            )
        *_, score, first, second = fields[:7]
        rows.append(scored_pair(f"{path}, line {number}", score, first, second))
        if not 0.0 <= rows[-1][0] <= 5.0:
            raise InputError(f"{path}, line {number}: the score {score} is not in [0, 5]; fetch the file again.")
    _validate_count(path, number, rows, None if allow_partial_tasks else _STSB_COUNTS[split], f"STS-B {split}")
    return pairs_dataset(path, rows)


def load_sts_task(name: str) -> STSTask:
    """Load a task from the hub, where years have no subsets and SICK-R has all of SICK's 9,927 pairs.

    Raises:
        InputError: If it cannot be loaded, has another number of pairs, or there is no task of that name.
    """
    _validate_name(name)
    dataset, count = _HUB[name]
    pairs = _load_split(name, dataset, "test", count)
    return STSTask(
        name,
        {"test": pairs},
        _load_split(name, dataset, "validation", _STSB_COUNTS["dev"]) if name == "stsb" else None,
    )


def _validate_name(name: str) -> None:
    if name not in STS_TASKS:
        raise InputError(f"{name[:40]!r} is no STS task; name one of {', '.join(STS_TASKS)}.")


def _load_split(name: str, dataset: str, split: str, count: int) -> Dataset:
    try:
        pairs = load_dataset(dataset, split=split).select_columns(["score", "sentence1", "sentence2"])
    except Exception as error:  # datasets raises many kinds, from its own to those of the network
        raise InputError(
            f"`eval_tasks` {name}: {dataset} cannot be loaded from the hub ({one_line(error)}); give `senteval_dir`, "
            "a folder in SentEval's layout."
        ) from error
    if len(pairs) != count:
        raise InputError(
            f"`eval_tasks` {name}: {dataset} has {len(pairs):,} pairs in its {split} split instead of {count:,}; give "
            "`senteval_dir`."
        )
    return pairs


def _normalised(pairs: Dataset) -> list[frozenset[str]]:
    """Return each pair without order, case, punctuation and repeated spaces."""

    def words(sentence: str) -> str:
        return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", sentence).casefold()))

    sides = zip(pairs["sentence1"], pairs["sentence2"], strict=True)
    return [frozenset((words(first), words(second))) for first, second in sides]


def _scores(pairs: Dataset) -> Tensor:
    return torch.tensor(list(pairs["score"]), dtype=torch.float64)


def _similarities(pairs: Dataset, embeddings) -> Tensor:
    left, right = (embeddings(list(pairs[column])) for column in ("sentence1", "sentence2"))
    return pair_similarities(left, right, getattr(embeddings, "similarity_fn_name", "cosine"))


def _year_files(name: str, subset: str, root: Path) -> tuple[Path, Path]:
    folder = root / _STS / f"{name.upper()}-en-test"
    return folder / f"STS.gs.{subset}.txt", folder / f"STS.input.{subset}.txt"


def _stsb_file(root: Path, split: str) -> Path:
    return root / _STS / "STSBenchmark" / f"sts-{split}.csv"


def _read_subset(name: str, subset: str, root: Path, count: int | None) -> Dataset:
    """Join a file of scores and a file of sentence pairs line by line; a blank score means an unscored pair."""
    scores_path, pairs_path = _year_files(name, subset, root)
    scores, pairs = read_lines(scores_path), read_lines(pairs_path)
    if len(scores) != len(pairs):
        short, long = sorted(((len(scores), scores_path), (len(pairs), pairs_path)))
        raise InputError(
            f"{short[1]}, line {short[0]}: the file ends, but {long[1].name} has {long[0]} lines and line must score "
            "line; fetch both again."
        )
    rows: list[ScoredPair] = []
    for number, (score, line) in enumerate(zip(scores, pairs, strict=True), start=1):
        if score.strip():
            first, second = _fields(pairs_path, number, line, 2)[:2]
            places = (f"{scores_path}, line {number}", f"{pairs_path}, line {number}")
            rows.append(scored_pair(places[0], score.strip(), first, second, sentences_place=places[1]))
    _validate_count(scores_path, len(scores), rows, count, f"{name.upper()} {subset}")
    return pairs_dataset(scores_path, rows)


def _read_sick(path: Path, count: int | None) -> Dataset:
    rows, number = [], 0
    for number, line in numbered_lines(path):
        _, first, second, score = _fields(path, number, line, 4)[:4]
        if number == 1 and score == "relatedness_score":
            continue
        rows.append(scored_pair(f"{path}, line {number}", score, first, second))
    _validate_count(path, number, rows, count, "SICK-R")
    return pairs_dataset(path, rows)


def _fields(path: Path, number: int, line: str, needed: int) -> list[str]:
    fields = line.split("\t")
    if len(fields) < needed:
        raise InputError(
            f"{path}, line {number}: {len(fields)} tab-separated fields, but {needed} are needed; fetch the file "
            "again."
        )
    return fields


def _validate_count(path: Path, last_line: int, rows: list[ScoredPair], count: int | None, what: str) -> None:
    if count is not None and len(rows) != count:
        raise InputError(
            f"{path}, line {last_line}: the file ends after {len(rows):,} scored pairs, but {what} has {count:,}; "
            f"{FETCH_AGAIN}."
        )


def _metric_part(subset: str) -> str:
    """Return the name of a subset as a part of metric names: `surprise.OnWN` becomes `surprise_onwn`."""
    return subset.lower().replace(".", "_").replace("-", "_")
