"""DROS: distributionally robust optimisation over the catalogue (Yang et al., SIGIR 2023).

The published code forms the sum in float64 and takes the target out by subtraction, which loses the result where
the target dominates. Here the target's term is replaced before a log-sum-exp in float32, which is equal and safe.
"""

from __future__ import annotations

import torch
from torch import Tensor

# In place of -inf: a whole row of it keeps finite gradients.
_EXCLUDED = -1e30


def popularity_weights(counts: Tensor, power: float) -> Tensor:
    """p_i = ((c_i + 1) / sum over j of (c_j + 1)) ** power, not normalised again, as in the published code.

    Args:
        counts: [n_items] how often each item is a training target; entry 0 is RecBole's padding item.
        power: 0.05 in the published code.

    Returns:
        [n_items] float32; entry 0 is 0.
    """
    smoothed = counts.double() + 1
    smoothed[0] = 0
    weights = (smoothed / smoothed.sum()) ** power
    weights[0] = 0
    return weights.float()


def robust_losses(scores: Tensor, positives: Tensor, weights: Tensor, beta: float) -> Tensor:
    """The DRO term with each of several items as the positive one.

        DRO(c) = log( sum over i != c of exp(p_i y_i^2 / beta) + exp(p_c (y_c - 1)^2 / beta) )

    The items outside `positives` are summed once, whatever their number.

    Args:
        scores: [b, n_items]; column 0, the padding item, takes no part.
        positives: [b, k] distinct item ids; 0 where a row has fewer, whose result means nothing (but is finite).
        weights: [n_items] p.
        beta: beta_0 of the paper, above 0.

    Returns:
        [b, k] float32.
    """
    scores = scores.float()
    exponents = weights * scores.square() / beta
    is_padding = torch.arange(scores.shape[1], device=scores.device) == 0
    exponents = exponents.masked_fill(is_padding, _EXCLUDED)
    rest = exponents.scatter(1, positives, _EXCLUDED).logsumexp(1)
    as_others = exponents.gather(1, positives)
    as_positive = weights[positives] * (scores.gather(1, positives) - 1).square() / beta
    count = positives.shape[1]
    is_own = torch.eye(count, dtype=torch.bool, device=scores.device)
    listed = torch.where(is_own, as_positive[:, :, None], as_others[:, None, :].expand(-1, count, -1))
    return torch.cat([rest[:, None, None].expand(-1, count, -1), listed], dim=2).logsumexp(2)


def robust_loss(scores: Tensor, targets: Tensor, weights: Tensor, beta: float) -> Tensor:
    """[b] the DRO term of each window; see `robust_losses` for [b, n_items] scores, weights and beta."""
    return robust_losses(scores, targets[:, None], weights, beta).squeeze(1)
