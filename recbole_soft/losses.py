"""Losses as pure functions of scored responses; shapes in, scalars out. Knows nothing of models."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_token_nll(nll: Tensor, batch_tokens: int) -> Tensor:
    """This micro-batch's share of the mean negative log-likelihood over a whole batch's response tokens.

    L = - 1/T sum over (x, y) sum over k of log p(y_k | x, y_<k)   (SOFT paper, L_SFT, as a mean)

    Summed over the micro-batches of a batch it gives the batch's mean, however the batch is cut.

    Args:
        nll: [b] per window, the sum of -log p over its response tokens.
        batch_tokens: T, response tokens in the whole batch (not only in this micro-batch).

    Returns:
        [] scalar.
    """
    return nll.sum() / max(1, batch_tokens)


def mixed_loss(parts: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """L = sum over parts of weight * loss, as in L = (1 - tau) L_SFT + tau L_SDFT (SOFT paper).

    Args:
        parts: scalars by name.
        weights: a weight per part; a part that is absent must have weight 0.

    Returns:
        [] scalar.
    """
    missing = [name for name, weight in weights.items() if weight and name not in parts]
    if missing:
        raise ValueError(f"no loss was computed for {missing[0]}, whose weight is {weights[missing[0]]}")
    return torch.stack([parts[name] * weights[name] for name in parts]).sum()
