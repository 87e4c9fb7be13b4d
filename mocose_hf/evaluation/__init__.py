"""Scores of sentence embeddings: how they rank pairs, and how they spread."""

from mocose_hf.evaluation.geometry import alignment, effective_rank, uniformity
from mocose_hf.evaluation.sts import SpearmanOfCosine, evaluate_pairs, read_scored_pairs, read_stsb

__all__ = [
    "SpearmanOfCosine",
    "alignment",
    "effective_rank",
    "evaluate_pairs",
    "read_scored_pairs",
    "read_stsb",
    "uniformity",
]
