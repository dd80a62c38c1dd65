"""DLLM2Rec's importance-aware ranking distillation (Cui et al., RecSys 2024): a teacher's lists, weighed and learned.

Three faults of the published code are avoided, each with a test: a [b, 1] x [b] product spread to [b, b], so that
the weights had no effect on the DRO part; exp(-distance) of raw distances underflows, so that confidences became
uniform; the negative term had s(1 - y) in place of s(-y).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NEARLY_NOTHING = 1e-8


@dataclass(frozen=True)
class Importance:
    """How much each of three signs of a good teacher item counts, and how fast the first falls with the place.

    Attributes:
        position, confidence, consistency: gamma_p, gamma_c, gamma_o of the paper.
        position_scale: lambda, in places.
    """

    position: float
    confidence: float
    consistency: float
    position_scale: float


def importance_weights(items: Tensor, distances: Tensor, scale: float, student_top: Tensor,
                       importance: Importance) -> Tensor:
    """w = normalise(gamma_p w_pos + gamma_c w_conf + gamma_o w_cons), over a window's list.

        w_pos(r) ~ exp(-r / lambda), r = 1 ... k, summing to 1
        w_conf   ~ exp(-d / scale), summing to 1: a softmax, which knows no underflow
        w_cons   = 1 where the item is among the student's own first, else nearly 0: alone, without any agreement, it
                   weighs all items alike

    Args:
        items: [b, k] the teacher's items, best first; 0 where its list is shorter.
        distances: [b, k] the teacher's distances; not read where `items` is 0.
        scale: a typical spread of the teacher's distances, so that their unit does not matter.
        student_top: [b, m] item ids the student ranks first.

    Returns:
        [b, k] float32; each row sums to 1, with 0 where `items` is 0.
    """
    is_listed = items > 0
    places = torch.arange(1, items.shape[1] + 1, device=items.device, dtype=torch.float32)
    position = (-places / importance.position_scale).expand_as(distances).masked_fill(~is_listed, -torch.inf).softmax(1)
    confidence = (-distances.float() / scale).masked_fill(~is_listed, -torch.inf).softmax(1)
    agreed = (items[:, :, None] == student_top[:, None, :]).any(2)
    consistency = (agreed + NEARLY_NOTHING) * is_listed
    weights = (importance.position * position + importance.confidence * confidence
               + importance.consistency * consistency)
    return weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def ranking_losses(scores: Tensor, items: Tensor, weights: Tensor, negatives: Tensor,
                   robust: Tensor | None = None, alpha: float = 0.0) -> Tensor:
    """sum over k of w_k ( -log s(y_k) - log s(-y_j) + alpha DRO(c_k) ), per window.

    Args:
        scores: [b, n_items] the student's.
        items: [b, k] the teacher's items; 0 where its list is shorter.
        weights: [b, k] their importance, 0 where `items` is 0.
        negatives: [b] one negative j per window.
        robust: [b, k] the DRO term with each item as the positive one; None leaves it out.
        alpha: weight of DRO.

    Returns:
        [b] float32.
    """
    negative = functional.logsigmoid(-scores.gather(1, negatives[:, None]))
    losses = -functional.logsigmoid(scores.gather(1, items)) - negative
    if robust is not None:
        losses = losses + alpha * robust
    return (weights * losses).sum(1)
