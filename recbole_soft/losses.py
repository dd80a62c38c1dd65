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


def softmax_dpo_loss(log_ratios: Tensor, beta: float) -> Tensor:
    """S-DPO's loss of every window (Chen et al. 2024, "On Softmax Direct Preference Optimization").

    L = - log sigmoid( - log sum over n of exp( beta (r(y_n) - r(y)) ) ),   r(y) = log p(y|x) - log p_ref(y|x)

    which is log(1 + sum over n of exp(beta (r(y_n) - r(y)))), that is, the cross-entropy of picking y among y and
    the negatives y_n by beta * r. In this form no exponential overflows: the formula as it is written gives a
    gradient that is not a number once every y_n is about 100 nats better or worse than y. With one negative it
    is DPO's - log sigmoid( beta (r(y) - r(y_1)) ).

    Args:
        log_ratios: [b, 1 + N] r of the chosen response (column 0) and of N >= 1 rejected ones, each summed over the
            tokens of the response.
        beta: above 0.

    Returns:
        [b] losses, 0 or more.
    """
    chosen = torch.zeros(len(log_ratios), dtype=torch.long, device=log_ratios.device)
    return torch.nn.functional.cross_entropy(beta * log_ratios, chosen, reduction="none")
