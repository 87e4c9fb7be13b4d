"""k-means centroids that stand for the queue's rows.

The module is separate because `torch.compiler.disable` imports torch._dynamo, which takes seconds.
"""

import warnings
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS_AT_ONCE = 4096
_CLUSTERING_SEED = 0


@torch.compiler.disable  # the compiler would translate scikit-learn's NumPy code
@torch.no_grad()
def find_centroids(rows: Tensor, log_weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return what stands for the rows that count: their k-means centroids, each of which counts once.

    Clusters are those of scikit-learn's `KMeans` (k-means++ from a fixed seed, one start) under Euclidean distance,
    with the rows' weights, on one thread: the same rows give the same bits, and no global random state is touched. One
    centroid is the weighted mean, computed where the rows are. Several are found on the CPU: a GPU is waited for.

    Args:
        rows: (K, D) of any floating dtype, L2-normalised, K ≥ 1.
        log_weights: (K,) float32, the log of each row's weight, −∞ for one that does not count.
        count: Number of centroids, at least 1. Where no more rows than that count, they stand for themselves. Weights
            of less than e^−87 of the largest may count as none.

    Returns:
        The centroids, (count, D) float32, L2-normalised, and the log of their weights, (count,) float32: 0, or −∞ for
        those that have too few rows, whose centroid is zero.
    """
    weights = (log_weights.float() - log_weights.max()).exp()  # (K,); NaN where no row counts
    if count == 1:
        return _mean(rows, weights.nan_to_num(0.0))
    counted = (weights > 0).nonzero()[:, 0]
    centroids = rows.new_zeros(count, rows.shape[1], dtype=torch.float32)
    found = rows[counted].float()
    if len(counted) > count:
        found = F.normalize(_cluster(found, weights[counted], count), dim=-1)
    centroids[: len(found)] = found
    missing = torch.arange(count, device=rows.device) >= len(found)
    return centroids, torch.zeros_like(missing, dtype=torch.float32).masked_fill_(missing, float("-inf"))


def validate_clustering() -> None:
    """Import what clustering needs, so that no training step has to.

    Raises:
        ValueError: In one line, where it is not installed.
    """
    try:
        import sklearn.cluster  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "`queue_centroids` above 1 needs scikit-learn, which is not installed; run "
            "`pip install 'mocose_hf[evaluation]'`."
        ) from error


def _mean(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(device_type=rows.device.type, enabled=False):
        total = rows.new_zeros(rows.shape[1], dtype=torch.float32)
        for some, weights_of_some in zip(rows.split(_ROWS_AT_ONCE), weights.split(_ROWS_AT_ONCE), strict=True):
            total = total + weights_of_some @ some.float()
    none = weights.sum(0, keepdim=True) == 0
    log_weights = torch.zeros_like(none, dtype=torch.float32).masked_fill_(none, float("-inf"))
    return F.normalize(total[None], dim=-1), log_weights


def _cluster(rows: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return the centroids as `KMeans` leaves them: (count, D) float32, on the rows' device."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    clustering = KMeans(count, n_init=1, random_state=_CLUSTERING_SEED)
    with _threads().limit(limits=1), warnings.catch_warnings():  # sums of several threads differ in their last bits
        warnings.simplefilter("ignore", ConvergenceWarning)  # of rows that are equal, as some may be
        clustering.fit(rows.cpu().numpy(), sample_weight=weights.cpu().numpy())
    return torch.from_numpy(clustering.cluster_centers_).to(rows.device)


@cache
def _threads():
    """Return the controller of the thread pools, which takes milliseconds to find them."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
