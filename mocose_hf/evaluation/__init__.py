"""Scores of sentence embeddings: how they rank pairs, what a classifier finds in them, and how they spread."""

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

__all__ = [
    "STS_TASKS",
    "TRANSFER_TASKS",
    "Alignment",
    "DevelopmentSets",
    "EffectiveRank",
    "GeometryTask",
    "LabelTask",
    "PearsonOfCosine",
    "RetrievalTask",
    "STSBenchmark",
    "STSTask",
    "SentenceEmbeddings",
    "SpearmanOfCosine",
    "TransferTask",
    "Uniformity",
    "alignment",
    "effective_rank",
    "embed",
    "embed_tasks",
    "evaluate_pairs",
    "load_sts_task",
    "mean_cosine",
    "pearson",
    "read_label_task",
    "read_retrieval_task",
    "read_scored_pairs",
    "read_sts_task",
    "read_stsb",
    "read_tasks",
    "read_transfer_task",
    "score_sets",
    "score_tasks",
    "singular_values",
    "spearman",
    "uniformity",
]
