"""The study of negatives: the paper's tables and figures, and grids of one's own, with seeds and error bars."""

from mocose_hf.study.declarations import Cell, Study
from mocose_hf.study.results import TrialResult

__all__ = ["Cell", "Study", "TrialResult"]
