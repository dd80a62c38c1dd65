"""Metrics per test window, from the rank of its one target, and the intervals around their means.

One target per window, so HR@K = [rank <= K] and NDCG@K = 1 / log2(rank + 1) up to K, as in RecBole.
"""

from __future__ import annotations

import numpy as np


def hit(ranks: np.ndarray, k: int) -> np.ndarray:
    """[...] 1.0 where the target is among the first k."""
    return (ranks <= k).astype(float)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """[...] 1 / log2(rank + 1) where the target is among the first k, else 0."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)


def reciprocal_rank(ranks: np.ndarray, k: int) -> np.ndarray:
    """[...] 1 / rank where the target is among the first k, else 0: RecBole's MRR, and its MAP with one target."""
    return np.where(ranks <= k, 1.0 / ranks, 0.0)


METRICS = {"HR": hit, "NDCG": ndcg}


def is_metric(name: str) -> bool:
    """Whether `name` is like `HR@5` or `NDCG@20`."""
    kind, at, cutoff = name.partition("@")
    return kind in METRICS and bool(at) and cutoff.isdecimal() and int(cutoff) > 0


def metric_values(ranks: np.ndarray, name: str) -> np.ndarray:
    """Values of the metric `name`, such as `HR@5`, in the shape of `ranks`.

    Raises:
        ValueError: there is no such metric.
    """
    if not is_metric(name):
        raise ValueError(f"{name} is no metric: it must be one of {', '.join(METRICS)}, then @ and a cut-off")
    kind, _, cutoff = name.partition("@")
    return METRICS[kind](ranks, int(cutoff))


def wilson_interval(hits: int, count: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; unlike the bootstrap it does not collapse when nothing is hit."""
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # The ends are exact where rounding would leave them a hair inside.
    return (0.0 if hits == 0 else float(centre - half)), (1.0 if hits == count else float(centre + half))


def sums_by_group(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of `values` [n, m] per group [g, m], and how many rows each group has [g]; without groups, every row is one.

    Args:
        groups: [n] label of the group (the user) each row belongs to.
    """
    if groups is None:
        return values, np.ones(len(values))
    _, codes = np.unique(groups, return_inverse=True)
    counts = np.bincount(codes).astype(float)
    sums = np.stack([np.bincount(codes, weights=column, minlength=len(counts)) for column in values.T], axis=1)
    return sums, counts


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, resamples: int = 2000, level: float = 0.95, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of means over windows.

    Args:
        values: [n, m] per window and metric.
        groups: [n] user of each window; whole users are then drawn, because windows of one user are alike.

    Returns:
        low and high ends, [m] each.
    """
    random = np.random.default_rng(seed)
    sums, counts = sums_by_group(values, groups)
    means = np.empty((resamples, values.shape[1]))
    for row in range(resamples):
        drawn = np.bincount(random.integers(0, len(counts), len(counts)), minlength=len(counts)).astype(float)
        means[row] = drawn @ sums / (drawn @ counts)
    tail = (1 - level) / 2
    return np.quantile(means, tail, axis=0), np.quantile(means, 1 - tail, axis=0)
