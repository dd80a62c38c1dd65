"""Rank of the target in every test window, and the table of metrics that follows (`statistics/metrics.py`).

Tie rule: among equal scores the lower item id comes first, which is what a stable sort would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recbole_soft.statistics.metrics import METRICS, bootstrap_interval, hit, ndcg, wilson_interval

__all__ = ["METRICS", "RankRecorder", "bootstrap_interval", "hit", "metric_table", "ndcg", "ranks_of",
           "wilson_interval"]


def ranks_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Ranks by counting, without a sort.

    Args:
        scores: [b, n_items], larger is better; items that are no candidates are -inf.
        targets: [b] item ids.

    Returns:
        [b] ranks, 1 is best. A target that is no candidate, or has no number for a score, comes last.
    """
    own = scores.gather(1, targets[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device)[None, :] < targets[:, None]
    is_ahead = (scores == own).logical_and_(earlier).logical_or_(scores > own)
    # torch widens booleans before it adds them: 32 bits take half the memory of its default.
    ranks = 1 + is_ahead.sum(1, dtype=torch.int32).long()
    return torch.where(own.squeeze(1).isfinite(), ranks, torch.full_like(ranks, scores.shape[1]))


class RankRecorder:
    """Stands before RecBole's collector and notes the target's rank of every window it passes on.

    Attributes:
        last: [n] ranks of the latest evaluation, in the order of the windows.
    """

    def __init__(self, collector):
        self._collector = collector
        self._batches: list[np.ndarray] = []
        self.last: np.ndarray = np.zeros(0, dtype=np.int64)

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        targets = positive_i.to(scores_tensor.device)
        self._batches.append(ranks_of(scores_tensor, targets).cpu().numpy())
        self._collector.eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)

    def note(self, ranks: Tensor) -> None:
        """Takes `[n]` ranks that were found without scores."""
        self.last = ranks.cpu().numpy()

    def get_data_struct(self):
        self.last = np.concatenate(self._batches) if self._batches else np.zeros(0, dtype=np.int64)
        self._batches = []
        return self._collector.get_data_struct()

    def __getattr__(self, name):
        return getattr(self._collector, name)


def metric_table(ranks: np.ndarray, cutoffs: Sequence[int], seed: int = 0) -> dict[str, dict[str, float]]:
    """Value and 95 % interval of every metric at every cut-off: Wilson's for HR, bootstrap for NDCG.

    Returns:
        {"HR@5": {"value", "low", "high"}, ...}.
    """
    rows = {f"{name}@{k}": function(ranks, k) for name, function in METRICS.items() for k in cutoffs}
    lows, highs = bootstrap_interval(np.stack(list(rows.values()), axis=1), seed)
    table = {}
    for (name, values), low, high in zip(rows.items(), lows, highs, strict=True):
        if name.startswith("HR"):
            low, high = wilson_interval(int(values.sum()), len(values))
        table[name] = {"value": float(values.mean()), "low": float(low), "high": float(high)}
    return table
