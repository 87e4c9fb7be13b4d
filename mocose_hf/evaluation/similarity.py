"""Similarities of embeddings, dense (a tensor) or sparse (a SciPy matrix, as of TF-IDF)."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

Embeddings: TypeAlias = Tensor | sparse.csr_matrix
"""(N, H), one embedding a row."""

DECIMALS = 6
"""Cosines are rounded to this, because the last digits of float32 depend on batch and number of processes."""

_BLOCK_CELLS = 2**24


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
    rows = max(1, _BLOCK_CELLS // max(1, second.shape[0]))
    for start in range(0, first.shape[0], rows):
        block = first[start : start + rows] @ second.T
        block = block if isinstance(block, Tensor) else torch.from_numpy(block.toarray()).float()
        yield start, block.round(decimals=DECIMALS)


def pair_cosines(first: Embeddings, second: Embeddings) -> Tensor:
    """Return the cosine of each row of (N, H) with the same row of the other side, (N,) float64; 0 for a zero row."""
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        products: Any = unit_rows(first).multiply(unit_rows(second))
        return torch.from_numpy(products.sum(axis=1)).flatten()
    return F.cosine_similarity(first.double(), second.double())


def pair_similarities(first: Tensor, second: Tensor, similarity_fn_name: str = "cosine") -> Tensor:
    """Return the similarity of each row of (N, H) to the same row of the other side, (N,) float64.

    Args:
        first, second: (N, H).
        similarity_fn_name: cosine, dot, euclidean or manhattan; the last two are negative distances.
    """
    if similarity_fn_name == "cosine":
        return pair_cosines(first, second)
    first, second = first.double(), second.double()
    if similarity_fn_name == "dot":
        return (first * second).sum(-1)
    return -(first - second).norm(p={"euclidean": 2, "manhattan": 1}[similarity_fn_name], dim=-1)
