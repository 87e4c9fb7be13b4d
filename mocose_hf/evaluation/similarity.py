"""Cosines of rows of embeddings, dense (a tensor) or sparse (a SciPy matrix, as TF-IDF gives them)."""

from collections.abc import Iterator

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

Embeddings = Tensor | sparse.csr_matrix
"""(N, H), one embedding a row."""

DECIMALS = 6
"""What cosines are rounded to: the last digits of float32 depend on the batch and the number of processes."""

_CELLS_AT_ONCE = 2**24


def unit_rows(embeddings: Embeddings) -> Embeddings:
    """Scale each row of (N, H) to length 1 in float32; a row of zeros stays zero, so its cosines are 0."""
    if isinstance(embeddings, Tensor):
        return F.normalize(embeddings.float(), dim=-1)
    lengths = sparse.linalg.norm(embeddings, axis=1)
    lengths[lengths == 0] = 1.0
    return (sparse.diags(1.0 / lengths) @ embeddings).tocsr()


def cosine_blocks(first: Embeddings, second: Embeddings) -> Iterator[tuple[int, Tensor]]:
    """Compute the cosines of all rows of (N, H) with all rows of (M, H), a block of rows at a time.

    Yields:
        The number of the block's first row, and its cosines, (R, M) float32, rounded to `DECIMALS`.
    """
    first, second = unit_rows(first), unit_rows(second)
    rows = max(1, _CELLS_AT_ONCE // max(1, second.shape[0]))
    for start in range(0, first.shape[0], rows):
        block = first[start : start + rows] @ second.T
        block = block if isinstance(block, Tensor) else torch.from_numpy(block.toarray()).float()
        yield start, block.round(decimals=DECIMALS)
