"""Which rows of a large table are repeated, without a hash table over all of it."""

from __future__ import annotations

import numpy as np
import pandas as pd


def repeated_rows(users: np.ndarray, items: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """[rows] bool: whether an earlier row is equal in all columns.

    Only the rows whose user and item come more than once, mostly few, are compared in all columns.

    Args:
        users, items: [rows] numbers from 0 that fit into 32 bits.
        others: [rows] further columns.
    """
    pairs = (users.astype(np.int64) << 32) | items
    in_order = np.sort(pairs)
    twice = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    del in_order
    found = np.zeros(len(pairs), dtype=bool)
    if len(twice):
        places = np.minimum(np.searchsorted(twice, pairs), len(twice) - 1)
        rows = np.flatnonzero(twice[places] == pairs)
        columns = (pairs[rows], *(column[rows] for column in others))
        found[rows] = pd.DataFrame(dict(enumerate(columns)), copy=False).duplicated().to_numpy()
    return found
