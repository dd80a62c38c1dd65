"""Grounding: from the vector of a generated text to a score for every item.

BIGRec, section "Grounding": items are ranked by the L2 distance of their title's vector to that of the
answer. Distances are in float32 whatever the model's precision: with fewer digits, near items change places.
Ties are broken by the lower item id. Works on vectors; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
_BLOCK_ELEMENTS = 1 << 18
_PAIR_ELEMENTS = 1 << 20
# Squared distances below this share of the squared lengths are recomputed from differences. In float64 the shortcut
# is off by about 1e-15 of the lengths, so what is kept is right to the last digit of float32.
_LOST_DIGITS = 1e-8


@torch.no_grad()
def distances(answers: Tensor, items: Tensor) -> Tensor:
    """L2 distances, to the last digit of float32; no gradient.

    |x - y|^2 = |x|^2 + |y|^2 - 2 xy runs as a matrix product, several times faster than forming differences, but
    loses the digits of small distances, which are the ones that rank. So it runs in float64, and pairs that are
    still too close for it are done by differences: equal vectors have distance 0 exactly. Where there is no
    float64 (Apple's GPUs) all pairs are done by differences in float32.

    Args:
        answers: [b, d] vectors of answers.
        items: [n, d] vectors of titles.

    Returns:
        [b, n] float32.
    """
    if answers.device.type == "mps":
        return torch.cdist(answers.float(), items.float(), compute_mode="donot_use_mm_for_euclid_dist")
    count, width = items.shape
    result = torch.empty(len(answers), count, dtype=torch.float32, device=answers.device)
    left = answers.double()
    lengths = (left * left).sum(1, keepdim=True)
    # One product gives the whole formula: [-2x, |x|^2, 1] . [y, 1, |y|^2].
    factors = torch.cat([-2 * left, lengths, torch.ones_like(lengths)], dim=1)
    step = max(64, _BLOCK_ELEMENTS // max(1, width))
    block = torch.ones(min(step, count), width + 2, dtype=torch.float64, device=answers.device)
    for first in range(0, count, step):
        rows = block[: min(step, count - first)]
        right = rows[:, :width].copy_(items[first: first + step])
        rows[:, width + 1] = torch.linalg.vecdot(right, right)
        squared = factors @ rows.T
        _mend_near_pairs(squared, left, right, _LOST_DIGITS * (lengths + rows[:, width + 1].amax()))
        result[:, first: first + step] = squared.clamp_(min=0).sqrt_()
    return result


def _mend_near_pairs(squared: Tensor, left: Tensor, right: Tensor, bounds: Tensor) -> None:
    """Recomputes in place the entries of `squared` [b, m] that do not exceed `bounds` [b, 1]."""
    is_near = squared <= bounds
    if not is_near.any():
        return
    size = max(1, _PAIR_ELEMENTS // max(1, left.shape[1]))
    for pairs in is_near.nonzero().split(size):
        row, column = pairs.unbind(1)
        squared[row, column] = (left[row] - right[column]).square_().sum(1)


def distance_chunks(answers: Tensor, items: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, [rows, n] distances) with memory bounded to about 16 MB a chunk."""
    rows = max(1, CHUNK_ELEMENTS // max(1, len(items)))
    for first in range(0, len(answers), rows):
        yield first, distances(answers[first: first + rows], items)


def item_scores(title_distances: Tensor, title_rows: Tensor) -> Tensor:
    """Scores of all item ids from distances to distinct titles; items of equal title score alike.

    Args:
        title_distances: [b, n_titles].
        title_rows: [n_items - 1] title of item ids 1, 2, ...

    Returns:
        [b, n_items]; column 0, RecBole's padding item, is -inf.
    """
    scores = title_distances.new_empty(len(title_distances), len(title_rows) + 1)
    scores[:, 0] = -torch.inf
    torch.neg(title_distances.index_select(1, title_rows), out=scores[:, 1:])
    return scores


def min_max(values: Tensor) -> Tensor:
    """Each row scaled to [0, 1]; a constant row becomes 0. Shape kept, infinities left out of the range."""
    finite = values.isfinite()
    low = values.masked_fill(~finite, torch.inf).amin(-1, keepdim=True)
    high = values.masked_fill(~finite, -torch.inf).amax(-1, keepdim=True)
    return (values - low) / (high - low).clamp_min(1e-12)


def inject(scores: Tensor, prior: Tensor, gamma: float) -> Tensor:
    """BIGRec's injection of popularity or of a collaborative model into the distances.

    d'_i = d_i / (1 + w_i)^gamma, with d and w scaled to [0, 1] per window. The nearest item has d = 0 and so
    stays first whatever gamma is.

    Args:
        scores: [b, n_items] negative distances, column 0 being -inf.
        prior: [n_items] or [b, n_items] popularity or collaborative scores.

    Returns:
        [b, n_items], larger is better.
    """
    distance = min_max(-scores[:, 1:])
    weight = min_max(prior.to(scores).expand_as(scores)[:, 1:])
    out = torch.full_like(scores, -torch.inf)
    out[:, 1:] = -distance / (1.0 + weight) ** gamma
    return out


def choose_gamma(evaluate: Callable[[float], float], grid: Sequence[float]) -> tuple[float, dict[float, float]]:
    """The gamma with the best validation value (the smallest of equals), and all values.

    Args:
        evaluate: validation metric for a gamma. It must not see test windows.
    """
    values = {float(gamma): float(evaluate(gamma)) for gamma in grid}
    return max(sorted(values), key=lambda gamma: values[gamma]), values


def popularity(targets: np.ndarray, n_items: int) -> Tensor:
    """[n_items] how often each item id is the target of a training window."""
    return torch.from_numpy(np.bincount(targets, minlength=n_items)).float()
