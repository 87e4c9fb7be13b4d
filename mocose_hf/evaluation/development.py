"""Development sets of several kinds, scored together: scored pairs, retrieval and labelled texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from datasets import Dataset

from mocose_hf.errors import InputError
from mocose_hf.evaluation.correlation import spearman
from mocose_hf.evaluation.labels import LabelTask
from mocose_hf.evaluation.pairs import DEV_SPEARMAN, PAIR_METRICS, score_pairs
from mocose_hf.evaluation.retrieval import RetrievalTask
from mocose_hf.evaluation.sentence_embeddings import DOCUMENT, QUERY, RoleTexts, embed
from mocose_hf.evaluation.similarity import pair_cosines
from mocose_hf.evaluation.tfidf import BASELINES, MAX_CHARACTERS, TfidfModel


@dataclass
class DevelopmentSets:
    """The sets that a model is evaluated on during training.

    Args:
        pairs: Scored pairs, columns `score`, `sentence1`, `sentence2`.
        tasks: Retrieval and label tasks, each with its own name.

    Raises:
        InputError: If two tasks have the same name.
    """

    pairs: Dataset | None = None
    tasks: Sequence[RetrievalTask | LabelTask] = field(default_factory=list)

    def __post_init__(self):
        sources: dict[str, str] = {}
        for task in self.tasks:
            if task.name in sources:
                raise InputError(
                    f"{task.source} and {sources[task.name]}: both would be scored as `{task.name}`; rename one."
                )
            sources[task.name] = task.source

    def __len__(self) -> int:
        """Return the number of pairs, queries and labelled texts."""
        return sum(len(part) for part in ([] if self.pairs is None else [self.pairs]) + list(self.tasks))

    def sentences(self) -> list[str]:
        """Return all texts, with repetitions."""
        return list(chain.from_iterable(self.role_texts().values()))

    def role_texts(self) -> RoleTexts:
        """Return all texts by role, with repetitions."""
        texts: dict[str | None, list[str]] = {None: [], QUERY: [], DOCUMENT: []}
        if self.pairs is not None:
            texts[None] += [*self.pairs["sentence1"], *self.pairs["sentence2"]]
        for task in self.tasks:
            task_texts = task.role_texts() if isinstance(task, RetrievalTask) else {None: task.sentences()}
            for role, values in task_texts.items():
                texts[role] += values
        return texts

    def score(self, embeddings) -> dict[str, float]:
        """Return the metrics of all sets by name; `embeddings` returns the embeddings (N, H) of N texts."""
        metrics = {} if self.pairs is None else score_pairs(self.pairs, embeddings)
        for task in self.tasks:
            metrics |= task.score(embeddings)
        return metrics

    @property
    def metric_names(self) -> list[str]:
        """The names of the metrics. `dev_alignment` is scored only if there are positive pairs."""
        return [
            *(PAIR_METRICS if self.pairs is not None else []),
            *(name for task in self.tasks for name in task.metric_names),
        ]

    def score_baselines(self) -> list[tuple[str, dict[str, float]]]:
        """Score TF-IDF on all sets, each with the frequencies in its own texts.

        Returns:
            The name of each baseline and its metrics; only the Spearman correlation of pairs.

        Raises:
            InputError: If scikit-learn is not installed.
        """
        return [(name, self._score_baseline(options)) for name, options in BASELINES.items()]

    def _score_baseline(self, options: dict) -> dict[str, float]:
        metrics = {}
        if self.pairs is not None:
            first, second = list(self.pairs["sentence1"]), list(self.pairs["sentence2"])
            tfidf = TfidfModel(first + second, **options)
            metrics[DEV_SPEARMAN] = spearman(pair_cosines(tfidf(first), tfidf(second)), list(self.pairs["score"]))
        for task in self.tasks:
            if sum(map(len, task.sentences())) <= MAX_CHARACTERS:
                metrics |= task.score(TfidfModel(task.sentences(), **options))
        return metrics


def score_sets(model, tokenizer, sets: DevelopmentSets | Dataset, **encode_options) -> dict[str, float]:
    """Score the sentence embeddings of a model; each different text of all sets is embedded once.

    Args:
        model: Anything with `encode(sentences, tokenizer, …)`.
        tokenizer: The model's tokenizer.
        sets: Development sets, or scored pairs alone.
        encode_options: As `encode` takes them.

    Returns:
        Metrics by name: `dev_spearman`, `dev_alignment`, `dev_uniformity` of pairs, and `{task}_…` of each task.
    """
    sets = sets if isinstance(sets, DevelopmentSets) else DevelopmentSets(sets)
    return sets.score(embed(model, tokenizer, sets.role_texts(), **encode_options))
