"""LLM-CF's retrieval of examples, and what is learned besides the ranking; pure functions (Sun et al., CIKM 2024)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def earlier_neighbours(queries: Tensor, query_times: Tensor, pool: Tensor, pool_times: Tensor,
                       count: int) -> tuple[Tensor, Tensor]:
    """The most similar pool entries that lie strictly before each query, of whatever user.

    A window is not before itself, so none is its own example; nor is anything of the future.

    Args:
        queries: [b, d] vectors of histories.
        query_times: [b] when the query's target happened.
        pool: [p, d] vectors of the pool's histories.
        pool_times: [p] when their targets happened.
        count: entries per query.

    Returns:
        [b, count] rows of the pool, most similar first, 0 where there are fewer; and [b, count] whether there is one.
    """
    similarity = queries @ pool.T
    similarity = similarity.masked_fill(pool_times[None, :] >= query_times[:, None], -torch.inf)
    kept = min(count, len(pool))
    found, rows = similarity.topk(kept, dim=1)
    exists = functional.pad(found > -torch.inf, (0, count - kept), value=False)
    return functional.pad(rows, (0, count - kept)).masked_fill(~exists, 0), exists


def reconstruction_loss(predicted: Tensor, texts: Tensor, exists: Tensor) -> Tensor:
    """1 - mean cosine between what the model predicts behind an example and the example's chain of thought.

    Args:
        predicted, texts: [b, k, d].
        exists: [b, k] whether there is an example with a text; the others take no part.

    Returns:
        [] scalar; 0 where there is no text at all.
    """
    cosine = functional.cosine_similarity(predicted, texts, dim=-1)
    return ((1 - cosine) * exists).sum() / exists.sum().clamp_min(1)


def sampled_softmax(scores: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """-log exp(y_t) / ( exp(y_t) + sum over sampled j != t of exp(y_j) ), the sample being the whole batch's.

    Args:
        scores: [b, n_items].
        targets: [b] item ids.
        negatives: [m] item ids; where one is a row's target it does not count there.

    Returns:
        [b].
    """
    own = scores.gather(1, targets[:, None])
    others = scores[:, negatives].masked_fill(negatives[None, :] == targets[:, None], -torch.inf)
    return torch.cat([own, others], dim=1).logsumexp(1) - own.squeeze(1)
