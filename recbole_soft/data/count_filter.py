"""Keeps the interactions of users and items that have a wanted number of them, over and over until all have.

RecBole counts texts one by one in Python (`Dataset._filter_by_inter_num`); here the same rounds run on numbers. Knows
nothing of files or settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Interval = tuple[str, float, float, str]
"""As RecBole reads `[10,inf)`: opening bracket, lower end, upper end, closing bracket."""


def rows_within(
    users: np.ndarray, items: np.ndarray, user_intervals: Sequence[Interval] | None,
    item_intervals: Sequence[Interval] | None,
) -> np.ndarray:
    """[kept] positions, ascending, of the rows that are left when nobody is outside of the intervals any more.

    In each round users and items are judged by the same counts, as RecBole does it: where an interval has an upper end,
    the order of judgements decides what is left.

    Args:
        users, items: [rows] numbers from 0.
        user_intervals, item_intervals: allowed numbers of interactions; empty or None allows all.
    """
    rows = np.arange(len(users))
    while len(rows):
        some_users, some_items = users[rows], items[rows]
        kept = np.ones(len(rows), dtype=bool)
        for numbers, intervals in ((some_users, user_intervals), (some_items, item_intervals)):
            if intervals:
                kept &= _is_within(np.bincount(numbers), intervals)[numbers]
        if kept.all():
            break
        rows = rows[kept]
    return rows


def _is_within(counts: np.ndarray, intervals: Sequence[Interval]) -> np.ndarray:
    """[n] whether each count lies in one of the intervals."""
    found = np.zeros(len(counts), dtype=bool)
    for opening, low, high, closing in intervals:
        above = counts >= low if opening == "[" else counts > low
        below = counts <= high if closing == "]" else counts < high
        found |= above & below
    return found
