"""Scores of sentence embeddings: how they rank pairs, what a classifier finds in them, and how they spread."""

from typing import TYPE_CHECKING

from mocose_hf.lazy import lazy_attributes

if TYPE_CHECKING:
    from mocose_hf.evaluation.correlation import pearson, spearman
    from mocose_hf.evaluation.development import DevelopmentSets, score_sets
    from mocose_hf.evaluation.geometry import (
        GeometryTask,
        alignment,
        effective_rank,
        mean_cosine,
        singular_values,
        uniformity,
    )
    from mocose_hf.evaluation.labels import LabelTask, read_label_task
    from mocose_hf.evaluation.live_model import as_sentence_transformer
    from mocose_hf.evaluation.metrics import (
        Alignment,
        EffectiveRank,
        PearsonOfCosine,
        SpearmanOfCosine,
        STSBenchmark,
        Uniformity,
    )
    from mocose_hf.evaluation.pairs import evaluate_pairs, read_scored_pairs
    from mocose_hf.evaluation.retrieval import RetrievalTask, read_retrieval_task
    from mocose_hf.evaluation.sentence_embeddings import SentenceEmbeddings, embed
    from mocose_hf.evaluation.senteval_transfer import TRANSFER_TASKS, TransferTask, read_transfer_task
    from mocose_hf.evaluation.sts import STS_TASKS, STSTask, load_sts_task, read_sts_task, read_stsb
    from mocose_hf.evaluation.tasks import embed_tasks, read_tasks, score_tasks

_MODULES = {
    "STS_TASKS": "sts",
    "TRANSFER_TASKS": "senteval_transfer",
    "Alignment": "metrics",
    "DevelopmentSets": "development",
    "EffectiveRank": "metrics",
    "GeometryTask": "geometry",
    "LabelTask": "labels",
    "PearsonOfCosine": "metrics",
    "RetrievalTask": "retrieval",
    "STSBenchmark": "metrics",
    "STSTask": "sts",
    "SentenceEmbeddings": "sentence_embeddings",
    "SpearmanOfCosine": "metrics",
    "TransferTask": "senteval_transfer",
    "Uniformity": "metrics",
    "alignment": "geometry",
    "effective_rank": "geometry",
    "as_sentence_transformer": "live_model",
    "embed": "sentence_embeddings",
    "embed_tasks": "tasks",
    "evaluate_pairs": "pairs",
    "load_sts_task": "sts",
    "mean_cosine": "geometry",
    "pearson": "correlation",
    "read_label_task": "labels",
    "read_retrieval_task": "retrieval",
    "read_scored_pairs": "pairs",
    "read_sts_task": "sts",
    "read_stsb": "sts",
    "read_tasks": "tasks",
    "read_transfer_task": "senteval_transfer",
    "score_sets": "development",
    "score_tasks": "tasks",
    "singular_values": "geometry",
    "spearman": "correlation",
    "uniformity": "geometry",
}
"""The module of each public name, below this package."""

__all__ = [*_MODULES]

__getattr__, __dir__ = lazy_attributes(__name__, _MODULES)
