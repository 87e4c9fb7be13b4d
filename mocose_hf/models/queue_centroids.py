"""k-means centroids that replace the queue's rows as negatives.

The module is separate because `torch.compiler.disable` imports torch._dynamo, which takes seconds.
"""

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from mocose_hf.errors import install_command

_ROWS_AT_ONCE = 4096
_CLUSTERING_SEED = 0


@torch.compiler.disable  # the compiler would translate scikit-learn's NumPy code
@torch.no_grad()
def find_centroids(rows: Tensor, log_weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the k-means centroids of the rows that count; each centroid has weight 1.

    Several centroids are those of scikit-learn's `KMeans` (k-means++ from a fixed seed, one start) under Euclidean
    distance with the rows' weights. It runs on one thread of the CPU, so the same rows give the same bits, no global
    random state changes, and a GPU is synchronised. A single centroid is the weighted mean, computed on the device.

    Args:
        rows: (K, D) of any floating dtype, L2-normalised, K ≥ 1.
        log_weights: (K,) float32, the log of each row's weight, −∞ for one that does not count.
        count: Number of centroids, at least 1. If no more rows than that count, they are returned themselves. Weights
            below e^−87 of the largest may be treated as 0.

    Returns:
        The centroids, (count, D) float32, L2-normalised, and the log of their weights, (count,) float32: 0, or −∞ for
        the centroids that are missing because too few rows count, which are zero.
    """
    weights = (log_weights.float() - log_weights.max()).exp()  # (K,); NaN if no row counts
    if count == 1:
        return _mean(rows, weights.nan_to_num(0.0))
    counted = (weights > 0).nonzero()[:, 0]
    found = rows[counted].float()
    if len(counted) > count:
        found = F.normalize(_cluster(found, weights[counted], count), dim=-1)
    centroids = rows.new_zeros(count, rows.shape[1], dtype=torch.float32)
    centroids[: len(found)] = found
    is_missing = torch.arange(count, device=rows.device) >= len(found)
    return centroids, torch.zeros_like(is_missing, dtype=torch.float32).masked_fill_(is_missing, float("-inf"))


def validate_clustering() -> None:
    """Import the clustering library before training starts.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import sklearn.cluster  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "`queue_centroids` above 1 needs scikit-learn, which is not installed; run "
            f"`{install_command('evaluation')}`."
        ) from error


def _mean(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(device_type=rows.device.type, enabled=False):
        total = rows.new_zeros(rows.shape[1], dtype=torch.float32)
        for chunk, chunk_weights in zip(rows.split(_ROWS_AT_ONCE), weights.split(_ROWS_AT_ONCE), strict=True):
            # A product of vector and matrix may round differently on another number of threads.
            total = total + (chunk_weights[:, None] * chunk.float()).sum(0)
    is_missing = weights.sum(0, keepdim=True) == 0
    log_weights = torch.zeros_like(is_missing, dtype=torch.float32).masked_fill_(is_missing, float("-inf"))
    return F.normalize(total[None], dim=-1), log_weights


def _cluster(rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return the centroids of `KMeans`, not normalised: (count, D) float32, on the rows' device."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clustering = KMeans(count, n_init=1, random_state=_CLUSTERING_SEED)
    with _threads().limit(limits=1), warnings.catch_warnings():  # sums of several threads differ in their last bits
        warnings.simplefilter("ignore", ConvergenceWarning)  # raised if rows are equal
        clustering.fit(rows.cpu().numpy(), sample_weight=weights.cpu().numpy())
    return torch.from_numpy(clustering.cluster_centers_).to(rows.device)


@cache
def _threads():
    """Return the controller of the thread pools; finding them takes milliseconds."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
