"""Windows over users' sequences: which history predicts which target.

Works on plain arrays sorted by user, then time; knows nothing of files, RecBole or models. SOFT paper,
section "Datasets": 10 consecutive interactions are the history of the 11th, stride 1; a user with 11 or
fewer interactions gives one window that holds all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WINDOWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Windows:
    """Windows as positions in the sorted interaction table.

    Attributes:
        start: [n] position of the first history interaction.
        target: [n] position of the target; the history is `start .. target - 1`.
    """

    start: np.ndarray
    target: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """[n] history lengths."""
        return self.target - self.start

    def __len__(self) -> int:
        return len(self.target)


def first_positions(users: np.ndarray) -> np.ndarray:
    """[n] position of the first interaction of each row's user; `users` [n] must be grouped."""
    if len(users) == 0:
        return np.zeros(0, dtype=np.int64)
    is_first = np.concatenate([[True], users[1:] != users[:-1]])
    return np.flatnonzero(is_first)[np.cumsum(is_first) - 1]


def make_windows(users: np.ndarray, history_length: int, kind: str) -> Windows:
    """All windows of all users.

    Args:
        users: [n] user of every interaction, grouped by user and ascending in time within a user.
        history_length: longest history (10 in the paper).
        kind: `exact` (the paper's) or `prefix` (every history of length 1 and more, RecBole's way).
    """
    first = first_positions(users)
    position = np.arange(len(users))
    done = position - first
    if kind == "prefix":
        is_target = done >= 1
    else:
        is_last = np.concatenate([users[1:] != users[:-1], [True]]) if len(users) else np.zeros(0, bool)
        is_target = (done >= history_length) | (is_last & (done >= 1))
    target = position[is_target]
    start = np.maximum(first[is_target], target - history_length)
    return Windows(start, target)


def met_until(users: np.ndarray, first: np.ndarray, targets: np.ndarray) -> dict[int, slice]:
    """What each user of some windows did up to the latest of their targets, as positions in the sorted table.

    What the user did later is the business of other splits: training must not even avoid it.

    Args:
        users: [n] user of every interaction, ascending.
        first: [n] `first_positions(users)`.
        targets: positions of the windows' targets.

    Returns:
        by user, ascending.
    """
    ascending = np.sort(targets)
    latest = dict(zip(users[ascending].tolist(), ascending.tolist(), strict=True))
    return {user: slice(int(first[last]), last + 1) for user, last in latest.items()}


def history_matrix(items: np.ndarray, windows: Windows, width: int) -> np.ndarray:
    """[n, width] item ids of the histories, oldest first, right-padded with 0 as RecBole wants them."""
    matrix = np.empty((len(windows), width), dtype=items.dtype)
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        some = slice(first, first + WINDOWS_AT_ONCE)
        columns = windows.start[some, None] + np.arange(width)[None, :]
        inside = columns < windows.target[some, None]
        matrix[some] = np.where(inside, items[np.minimum(columns, len(items) - 1)], 0)
    return matrix


def sample_rows(count: int, size: int, seed: int) -> np.ndarray:
    """[min(size, count)] sorted rows, drawn without replacement; the same rows for the same arguments."""
    if size >= count:
        return np.arange(count)
    return np.sort(np.random.RandomState(seed).choice(count, size, replace=False))
