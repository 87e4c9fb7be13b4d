"""Semantic textual similarity: read scored pairs and correlate their cosines with the scores."""

import math
from pathlib import Path

import datasets
import evaluate
from datasets import Dataset
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.errors import InputError
from mocose_hf.evaluation.geometry import alignment, uniformity
from mocose_hf.readers import read_lines

STSB_FOLDER = Path("downstream", "STS", "STSBenchmark")
_STSB_SCORE, _STSB_SENTENCE1 = 4, 5

POSITIVE_SCORE = 4.0
"""Pairs scored above this are positive pairs for `alignment`, as in SimCSE (https://arxiv.org/abs/2104.08821)."""


class SpearmanOfCosine(evaluate.Metric):
    """Spearman's rank correlation of predicted similarities with human scores, × 100; needs no hub.

    `SpearmanOfCosine().compute(predictions=cosines, references=scores)` gives `{"spearman": …}` in [−100, 100], NaN
    where one side is constant.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Spearman's rank correlation of cosine similarities with human scores, times 100.",
            citation="",
            inputs_description="`predictions`: cosine similarities; `references`: human scores.",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions, references):
        if len(set(predictions)) < 2 or len(set(references)) < 2:
            return {"spearman": math.nan}
        return {"spearman": 100.0 * float(spearmanr(predictions, references).statistic)}


def read_scored_pairs(path: str | Path) -> Dataset:
    """Read a TSV of score, sentence, sentence: unquoted, without header.

    Returns:
        Columns `score` (float), `sentence1`, `sentence2`.

    Raises:
        InputError: With file, line and remedy.
    """
    return _read_pairs(Path(path), score=0, sentence1=1, exact=True)


def read_stsb(senteval_dir: str | Path, split: str = "dev") -> Dataset:
    """Read a split of STS-B (dev: 1,500 pairs, test: 1,379) from a folder in SentEval's layout.

    Args:
        senteval_dir: The folder that holds `downstream/STS/STSBenchmark/sts-dev.csv`.
        split: "train", "dev" or "test".

    Returns, Raises: As `read_scored_pairs`.
    """
    path = Path(senteval_dir) / STSB_FOLDER / f"sts-{split}.csv"
    return _read_pairs(path, score=_STSB_SCORE, sentence1=_STSB_SENTENCE1, exact=False)


def _read_pairs(path: Path, score: int, sentence1: int, exact: bool) -> Dataset:
    """Split at tabs alone: the files are not quoted, and a csv reader would lose rows at stray quotes."""
    needed = sentence1 + 2
    columns = {"score": [], "sentence1": [], "sentence2": []}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) < needed or (exact and len(fields) > needed):
            raise InputError(
                f"{path}, line {number}: {len(fields)} tab-separated fields, but {needed} are needed; "
                + ("write score, sentence, sentence." if exact else "fetch the file again.")
            )
        try:
            value = float(fields[score])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"{path}, line {number}: the score {fields[score][:40]!r} is no number; mend the line, or drop it "
                "where it is a header."
            )
        first, second = fields[sentence1].strip(), fields[sentence1 + 1].strip()
        if not first or not second:
            raise InputError(f"{path}, line {number}: a blank sentence; write it, or drop the line.")
        for column, entry in zip(columns, (value, first, second), strict=True):
            columns[column].append(entry)
    if len(set(columns["score"])) < 2:
        raise InputError(f"{path}: {len(columns['score'])} scored pairs of one score; give pairs of different scores.")
    pairs = zip(columns["sentence1"], columns["sentence2"], strict=True)
    if len({frozenset(pair) if len(set(pair)) > 1 else None for pair in pairs}) < 2:
        raise InputError(
            f"{path}: {len(columns['score'])} scored pairs of one cosine, as each has the same two sentences or one "
            "twice; give pairs of different sentences."
        )
    return Dataset.from_dict(columns)


def evaluate_pairs(model, tokenizer, pairs: Dataset, batch_size: int = 128, **encode_options) -> dict[str, float]:
    """Score the sentence embeddings of a model on scored pairs.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`, such as `MoCoSEModel` and `MoCoSEForPreTraining`.
        tokenizer: The model's tokenizer.
        pairs: Columns `score`, `sentence1`, `sentence2`.
        batch_size, encode_options: As `encode` takes them.

    Returns:
        `stsb_spearman` (× 100), `uniformity` over all different sentences and, where there are positive pairs,
        `alignment` over those.
    """
    first, second, scores = list(pairs["sentence1"]), list(pairs["sentence2"]), list(pairs["score"])
    sentences = list(dict.fromkeys(first + second))
    embeddings = model.encode(sentences, tokenizer, batch_size=batch_size, **encode_options)
    rows = {sentence: row for row, sentence in enumerate(sentences)}
    left, right = embeddings[[rows[s] for s in first]], embeddings[[rows[s] for s in second]]
    cosines: Tensor = F.cosine_similarity(left.double(), right.double())
    metrics = {
        "stsb_spearman": SpearmanOfCosine().compute(predictions=cosines.tolist(), references=scores)["spearman"]
    }
    positive = [i for i, score in enumerate(scores) if score > POSITIVE_SCORE]
    if positive:
        metrics["alignment"] = alignment(left[positive], right[positive])
    metrics["uniformity"] = uniformity(embeddings)
    return metrics
