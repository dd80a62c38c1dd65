"""Ranks of targets straight from vectors, several times faster than by way of scores, and equal to them.

A rank needs distances only as far as they are smaller than the target's. So a matrix product in float32 sorts out
what surely is nearer or farther, by a bound on its rounding error, and the few items in between are measured
exactly. Memory stays small: neither distances nor scores of all items are kept. For evaluations that need ranks
alone; metrics that ask which items were recommended need the scores (`grounding.distances`).
"""

from __future__ import annotations

import torch
from torch import Tensor

ANSWER_BLOCK = 512
_BLOCK_ELEMENTS = 1 << 18
_PAIR_ELEMENTS = 1 << 19
_HALF_ULP = 2.0**-24
_HALF_ULP_OF_BFLOAT16 = 2.0**-9
# Rounding besides that of the product: centred vectors, their lengths, the sum, the thresholds.
_OTHER_ROUNDINGS = 24


@torch.no_grad()
def grounded_ranks(
    answers: Tensor, items: Tensor, targets: Tensor, masked: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Rank of each target among all items by distance to the answer, 1 being nearest.

    Equals `ranks_of` on the scores of `item_scores(distances(...))`: distances count as float32, and the lower row
    comes first among equals.

    Args:
        answers: [b, d] vectors of answers.
        items: [n, d] vectors of items; equal titles have equal rows.
        targets: [b] rows of the true items.
        masked: pairs of window and row that are no candidates, `[m]` each, as an index into `[b, n]`; a pair may come
            more than once, as where a user met an item twice.

    Returns:
        [b] ranks. A target that is no candidate, or whose distance is no number, comes last: n + 1.
    """
    if not len(answers):
        return targets.new_zeros(0)
    centre = _mean(items).float()
    own = _pair_distances(answers, items, torch.arange(len(answers), device=answers.device), targets)
    ahead = torch.cat([
        _count_nearer(some, items, target, distance, centre)
        for some, target, distance in zip(
            answers.split(ANSWER_BLOCK), targets.split(ANSWER_BLOCK), own.split(ANSWER_BLOCK), strict=True)])
    is_lost = ~own.isfinite()
    if masked is not None:
        windows, rows = _distinct(*masked, len(items))
        is_ahead = _is_ahead(_pair_distances(answers, items, windows, rows), own[windows], rows, targets[windows])
        ahead = ahead.index_add(0, windows, -is_ahead.long())
        is_lost = is_lost.index_put((windows,), rows == targets[windows], accumulate=True)
    return torch.where(is_lost, len(items) + 1, 1 + ahead)


def _distinct(windows: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The pairs, each once."""
    pairs = torch.unique(windows * count + rows)
    return pairs // count, pairs % count


def _mean(items: Tensor) -> Tensor:
    """[d] mean in float64 without a copy of the table in float64; only has to lie somewhere among the items."""
    step = max(1, _BLOCK_ELEMENTS // max(1, items.shape[1]))
    # One buffer for all blocks: allocators may keep every block they ever gave out, a second table in the end.
    buffer = torch.empty(min(step, len(items)), items.shape[1], dtype=torch.float64, device=items.device)
    total = buffer.new_zeros(items.shape[1])
    for block in items.split(step):
        total += buffer[: len(block)].copy_(block).sum(0)
    return total / len(items)


def _count_nearer(answers: Tensor, items: Tensor, targets: Tensor, own: Tensor, centre: Tensor) -> Tensor:
    """[b] items that come before the target; `own` [b] float32 distances of the targets."""
    left = answers.float() - centre
    width = left.shape[1]
    squared = left.double().square().sum(1)
    bound = _relative_bound(width)
    # |x - y|^2 < own^2 becomes |y|^2 - 2 xy < own^2 - |x|^2, right up to bound (|x|^2 + |y|^2).
    wanted = own.double().square() - squared
    surely = (wanted - bound * squared).float()[:, None]
    factors = torch.cat([-2 * left, torch.ones_like(left[:, :1])], dim=1)
    step = max(256, _BLOCK_ELEMENTS // max(1, width))
    block = left.new_empty(min(step, len(items)), width + 1)
    wide = left.new_empty(len(block), width, dtype=torch.float64)
    ahead = torch.zeros(len(answers), dtype=torch.long, device=answers.device)
    for first in range(0, len(items), step):
        rows = block[: min(step, len(items) - first)]
        right = torch.sub(items[first: first + step].float(), centre, out=rows[:, :width])
        doubled = wide[: len(rows)].copy_(right)
        lengths = torch.linalg.vecdot(doubled, doubled)
        rows[:, width] = lengths * (1 + bound)
        estimates = factors @ rows.T
        possibly = (wanted + bound * (squared + 2 * lengths.amax())).float()[:, None]
        is_sure = estimates < surely
        ahead += is_sure.sum(1, dtype=torch.int32)
        # Not `estimates <= possibly`: what is no number has to be looked at as well.
        unsure = (estimates > possibly).logical_or_(is_sure).logical_not_().nonzero()
        if len(unsure):
            window, row = unsure[:, 0], unsure[:, 1] + first
            is_ahead = _is_ahead(_pair_distances(answers, items, window, row), own[window], row, targets[window])
            ahead.index_add_(0, window, is_ahead.long())
    return ahead


def _relative_bound(width: int) -> float:
    """Largest error of the product's estimate, relative to |x|^2 + |y|^2, whatever the order of summation."""
    is_exact = torch.get_float32_matmul_precision() == "highest"
    return (width + _OTHER_ROUNDINGS) * _HALF_ULP if is_exact else 8 * _HALF_ULP_OF_BFLOAT16


def _is_ahead(distances: Tensor, own: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
    return (distances < own) | ((distances == own) & (rows < targets))


def _pair_distances(answers: Tensor, items: Tensor, windows: Tensor, rows: Tensor) -> Tensor:
    """[m] float32 distances of pairs, from differences in float64."""
    size = max(1, _PAIR_ELEMENTS // max(1, answers.shape[1]))
    found = [(answers[window].double() - items[row].double()).square_().sum(1).sqrt_().float()
             for window, row in zip(windows.split(size), rows.split(size), strict=True)]
    return torch.cat(found) if found else torch.empty(0, device=answers.device)
