"""Studies of the negatives: the paper's tables and figures, or your own grids, with seeds and error bars."""

from mocose_hf.study.study import Cell, Study, TrialResult

__all__ = ["Cell", "Study", "TrialResult"]
