"""The ordinary losses of a recommender that scores every item, and the negatives that two of them need."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BASE_LOSSES = ("BCE", "BPR", "CE")


def base_loss(kind: str, scores: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Loss per window.

        BCE:  (-log s(y_t) - log s(-y_j)) / 2        one uniform negative j, the mean over its two terms
        BPR:  -log s(y_t - y_j)
        CE:   -log softmax(y)_t over all items but the padding

    Args:
        kind: one of `BASE_LOSSES`.
        scores: [b, n_items] float32, column 0 being RecBole's padding item.
        targets: [b] item ids.
        negatives: [b] item ids; not read by CE.

    Returns:
        [b].

    Raises:
        ValueError: `kind` is none of `BASE_LOSSES`.
    """
    own = scores.gather(1, targets[:, None]).squeeze(1)
    if kind == "CE":
        return scores[:, 1:].logsumexp(1) - own
    other = scores.gather(1, negatives[:, None]).squeeze(1)
    if kind == "BCE":
        return -(functional.logsigmoid(own) + functional.logsigmoid(-other)) / 2
    if kind == "BPR":
        return -functional.logsigmoid(own - other)
    raise ValueError(f"base loss {kind!r} is none of {', '.join(BASE_LOSSES)}")


def uniform_negatives(excluded: Tensor, n_items: int) -> Tensor:
    """One item per row, uniform over the catalogue without the row's excluded items.

    Drawn among as many numbers as items are left and moved past the excluded ones in ascending order, so there is
    no rejection and no [b, n_items] table. Where nothing is left, an excluded item is drawn.

    Args:
        excluded: [b, m] item ids, in any order, repeated or 0 (padding) where there are fewer.
        n_items: number of item ids, padding included.

    Returns:
        [b] item ids from 1 to n_items - 1.
    """
    ordered = excluded.sort(1).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered = ordered.masked_fill(repeated | (ordered == 0), n_items).sort(1).values
    left = n_items - 1 - (ordered < n_items).sum(1)
    places = (torch.rand(len(left), device=left.device) * left).long()
    drawn = 1 + torch.minimum(places, (left - 1).clamp_min(0))  # the product may round up to `left`
    for column in ordered.unbind(1):
        drawn = drawn + (drawn >= column)
    return drawn.clamp_max(n_items - 1)
