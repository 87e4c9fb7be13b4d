"""The metrics of this package for `evaluate`, which load without the hub.

Predictions and references are lists, numpy arrays or tensors on any device and of any float type. They are stored in
float64 in the cache of `evaluate` until they are scored (in memory with `keep_in_memory=True`).
"""

from pathlib import Path

import datasets
import evaluate
import numpy as np
import torch
from torch import Tensor

from mocose_hf.evaluation.correlation import pearson, spearman
from mocose_hf.evaluation.geometry import alignment, effective_rank, uniformity
from mocose_hf.evaluation.similarity import pair_cosines
from mocose_hf.evaluation.sts import read_stsb

_NUMBER = datasets.Value("float64")
_EMBEDDING = datasets.List(_NUMBER)

_WANG_ISOLA = "https://arxiv.org/abs/2005.10242"


class _Metric(evaluate.Metric):
    """A metric that validates a batch before it stores it, so that a bad batch leaves nothing behind."""

    def add_batch(self, *, predictions=None, references=None, **others):
        """Store a batch for `compute`.

        Raises:
            ValueError: If the batch has a wrong type or shape; nothing of it is stored.
        """
        inputs = {"predictions": predictions, "references": references}
        columns = {name: _array(inputs[name], name, kind) for name, kind in self.features.items()}
        shapes = {column.shape for column in columns.values()}
        if len(shapes) > 1:
            listed = " and ".join(f"`{name}` {column.shape}" for name, column in columns.items())
            raise ValueError(f"The shapes differ: {listed}; give both sides of the same pairs.")
        super().add_batch(**{name: list(column) for name, column in columns.items()}, **others)

    def add(self, *, prediction=None, reference=None, **others):
        """Store one row for `compute`; otherwise as `add_batch`."""
        predictions, references = (None if row is None else [row] for row in (prediction, reference))
        self.add_batch(predictions=predictions, references=references, **others)

    def __getstate__(self) -> dict:
        """Leave out the released locks that `compute` keeps, because they cannot be pickled."""
        return self.__dict__ | {"filelocks": None}


class SpearmanOfCosine(_Metric):
    """Spearman's rank correlation of predicted similarities with human scores, × 100.

    `SpearmanOfCosine().compute(predictions=cosines, references=scores)` gives `{"spearman": …}` in [−100, 100], NaN
    if one side is constant.
    """

    def _info(self):
        return _info(
            "Spearman's rank correlation of cosine similarities with human scores, times 100.",
            predictions=("cosine similarities", _NUMBER),
            references=("human scores", _NUMBER),
        )

    def _compute(self, predictions, references):
        return {"spearman": spearman(predictions, references)}


class PearsonOfCosine(_Metric):
    """Pearson's correlation of predicted similarities with human scores, × 100.

    `PearsonOfCosine().compute(predictions=cosines, references=scores)` gives `{"pearson": …}` in [−100, 100], NaN
    if one side is constant.
    """

    def _info(self):
        return _info(
            "Pearson's correlation of cosine similarities with human scores, times 100.",
            predictions=("cosine similarities", _NUMBER),
            references=("human scores", _NUMBER),
        )

    def _compute(self, predictions, references):
        return {"pearson": pearson(predictions, references)}


class STSBenchmark(_Metric):
    """Correlation of cosines of sentence embeddings with the human scores of STS-B.

    ```python
    benchmark = STSBenchmark("senteval")
    first, second = (model.encode(s, tokenizer) for s in (benchmark.sentence1, benchmark.sentence2))
    benchmark.compute(predictions=first, references=second)
    ```

    gives `{"stsb_spearman": …, "stsb_pearson": …}`, × 100.

    Args:
        senteval_dir: A folder in SentEval's layout, as `read_stsb` takes it.
        split: "train", "dev" or "test".
        allow_partial_tasks: Whether a file may have another number of pairs than published.
        options: As `evaluate.Metric` takes them.

    Attributes:
        sentence1, sentence2: The N sentences of each side (lists; test: 1,379, dev: 1,500).
        scores: Their N human scores, 0 to 5.

    Raises:
        InputError: As `read_stsb`.
    """

    def __init__(self, senteval_dir: str | Path, split: str = "test", allow_partial_tasks: bool = False, **options):
        pairs = read_stsb(senteval_dir, split, allow_partial_tasks)
        self.split = split
        self.sentence1, self.sentence2 = list(pairs["sentence1"]), list(pairs["sentence2"])
        self.scores = list(pairs["score"])
        super().__init__(**options)

    def add_batch(self, *, predictions=None, references=None, **others):
        """Store the embeddings of the next pairs, in their order.

        Raises:
            ValueError: If they have a wrong shape or there are more of them than pairs; none of them is stored.
        """
        if predictions is not None and len(self) + len(predictions) > len(self.scores):
            raise self._wrong_count(len(self) + len(predictions))
        super().add_batch(predictions=predictions, references=references, **others)

    def compute(self, *, predictions=None, references=None, **others):
        """Score the embeddings of all pairs.

        Args:
            predictions: (N, H) embeddings of `sentence1`, in its order; None if `add_batch` got all of them.
            references: (N, H) embeddings of `sentence2`.

        Raises:
            ValueError: If they have a wrong shape or are not the embeddings of all pairs.
        """
        count = len(self) + (0 if predictions is None else len(predictions))
        if self.num_process == 1 and count != len(self.scores):  # with several processes, each has a part
            raise self._wrong_count(count)
        return super().compute(predictions=predictions, references=references, **others)

    def _wrong_count(self, count: int) -> ValueError:
        return ValueError(
            f"STS-B {self.split} has {len(self.scores)} pairs, but {count} embeddings of `sentence1` were given; "
            "embed all of `sentence1` and `sentence2`, in their order."
        )

    def _info(self):
        return _info(
            f"Correlation of cosine similarities with the human scores of STS-B {self.split}, times 100.",
            predictions=("embeddings of `sentence1`", _EMBEDDING),
            references=("embeddings of `sentence2`", _EMBEDDING),
            url="https://arxiv.org/abs/1708.00055",
        )

    def _compute(self, predictions, references):
        cosines = pair_cosines(_tensor(predictions), _tensor(references))
        return {"stsb_spearman": spearman(cosines, self.scores), "stsb_pearson": pearson(cosines, self.scores)}


class Alignment(_Metric):
    """Mean squared distance of positive pairs on the unit sphere.

    `Alignment().compute(predictions=embeddings, references=embeddings_of_their_partners)`, (N, H) each, gives
    `{"alignment": …}` in [0, 4]; lower is closer.
    """

    def _info(self):
        return _info(
            "Mean squared distance of positive pairs of embeddings on the unit sphere.",
            predictions=("embeddings of one side of positive pairs", _EMBEDDING),
            references=("embeddings of the other side", _EMBEDDING),
            url=_WANG_ISOLA,
        )

    def _compute(self, predictions, references):
        return {"alignment": alignment(_tensor(predictions), _tensor(references))}


class Uniformity(_Metric):
    """Uniformity of embeddings on the unit sphere.

    `Uniformity().compute(predictions=embeddings)`, (N, H), N ≥ 2, gives `{"uniformity": …}` in [−8, 0]; lower is
    more even. There are no references.
    """

    def _info(self):
        return _info(
            "Logarithm of the mean of exp(-2 times squared distance) over pairs of embeddings on the unit sphere.",
            predictions=("embeddings of different sentences", _EMBEDDING),
            url=_WANG_ISOLA,
        )

    def _compute(self, predictions):
        return {"uniformity": uniformity(_tensor(predictions))}


class EffectiveRank(_Metric):
    """Effective number of dimensions of embeddings.

    `EffectiveRank().compute(predictions=embeddings)`, (N, H), gives `{"effective_rank": …}` in [1, min(N, H)], 0 if
    all are zero. The embeddings are not centred; subtract their mean first if it should not count. There are no
    references.
    """

    def _info(self):
        return _info(
            "Exponential of the entropy of the singular values of a matrix of embeddings.",
            predictions=("embeddings, as they are", _EMBEDDING),
        )

    def _compute(self, predictions):
        return {"effective_rank": effective_rank(_tensor(predictions))}


def _info(description: str, url: str | None = None, **inputs) -> evaluate.MetricInfo:
    """Return the description of a metric; each input is a pair of its description and its type."""
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="; ".join(f"`{name}`: {what}" for name, (what, _) in inputs.items()) + ".",
        features=datasets.Features({name: kind for name, (_, kind) in inputs.items()}),
        reference_urls=[url] if url else [],
    )


def _array(values, name: str, kind) -> np.ndarray:
    """Return numbers (N,) or embeddings (N, H) as float64, N, H ≥ 1."""
    dims, needed = (1, "N numbers") if kind == _NUMBER else (2, "N embeddings of one length (N, H)")
    if values is None:
        raise ValueError(f"`{name}` is missing; give {needed}.")
    try:
        if isinstance(values, (list, tuple)) and values and all(isinstance(value, Tensor) for value in values):
            values = torch.stack(values)
        if isinstance(values, Tensor):
            values = values.detach().cpu().double().numpy()
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):  # that of torch.stack is a RuntimeError
        raise ValueError(
            f"`{name}` holds a value that is no number, or rows of several lengths; give {needed}."
        ) from None
    if array.ndim != dims or not array.size:
        raise ValueError(f"`{name}` has the shape {array.shape}; give {needed}.")
    if dims == 2 and not np.isfinite(array).all():
        raise ValueError(f"`{name}` holds NaN or infinity; give finite embeddings.")
    return array


def _tensor(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)
