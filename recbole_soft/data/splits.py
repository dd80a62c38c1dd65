"""Which windows are for training, validation and test: RecBole's rules on whole arrays.

RecBole goes through windows and users one by one in Python (`Dataset.split_by_ratio`, `leave_one_out`); here the same
positions come out, in the same order. Knows nothing of files or of what is in a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

Cut = Callable[[int, Sequence[float]], Sequence[int]]
"""RecBole's rounding, `Dataset._calcu_split_ids`: where to cut so many rows, by shares that sum to 1."""

LEFT_OUT = {"valid_and_test": (1, 2), "valid_only": (1,), "test_only": (2,)}
"""By RecBole's word, which parts get one window of each user: 1 is validation, 2 the test."""


def by_ratio(count: int, ratios: Sequence[float], cut: Cut) -> list[np.ndarray]:
    """Row numbers of each part of `count` rows: one stretch after the other."""
    cuts = [0, *cut(count, _shares(ratios)), count]
    return [np.arange(first, last) for first, last in pairwise(cuts)]


def by_ratio_within_users(users: np.ndarray, ratios: Sequence[float], cut: Cut) -> list[np.ndarray]:
    """Row numbers of each part, where the rows of every user are cut by themselves; `users` is [n]."""
    rows, place, size = _by_user(users)
    shares = _shares(ratios)
    distinct, which = np.unique(size, return_inverse=True)
    cuts = np.array([[0, *cut(int(count), shares), count] for count in distinct]).reshape(-1, len(shares) + 1)
    return [rows[(place >= cuts[which, part]) & (place < cuts[which, part + 1])] for part in range(len(shares))]


def leave_one_out(users: np.ndarray, mode: str) -> list[np.ndarray]:
    """Row numbers for training, validation and test; a user's first row is always for training.

    Args:
        users: [n] user of every row, in the order of time.
        mode: a key of `LEFT_OUT`.
    """
    rows, place, size = _by_user(users)
    parts = LEFT_OUT[mode]
    found = [rows[place < size - np.minimum(len(parts), size - 1)]] + [rows[:0]] * 2
    for from_end, part in enumerate(reversed(parts), 1):
        found[part] = rows[(place == size - from_end) & (place > 0)]
    return found


def _shares(ratios: Sequence[float]) -> list[float]:
    total = sum(ratios)
    return [ratio / total for ratio in ratios]


def _by_user(users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows user by user, in the order in which users come first; each one's place among its user's; their number."""
    if not len(users):
        return (np.zeros(0, dtype=np.int64),) * 3
    order = np.argsort(users, kind="stable")
    grouped = users[order]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    sizes = np.diff(starts, append=len(users))
    by_first_row = np.argsort(order[starts], kind="stable")
    sizes = sizes[by_first_row]
    place = np.arange(len(users)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.repeat(starts[by_first_row], sizes) + place], place, np.repeat(sizes, sizes)
