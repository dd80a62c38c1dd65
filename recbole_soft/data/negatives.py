"""Negatives: catalogue rows that a user is not known to have met, drawn anew every epoch.

Works on row numbers of any catalogue; knows nothing of titles, prompts or losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_unknown(known: np.ndarray, catalogue: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """[size] distinct rows of `range(catalogue)` that are not `known`, uniformly and in random order.

    Args:
        known: ascending distinct rows.

    Raises:
        ValueError: fewer than `size` rows are unknown.
    """
    unknown = catalogue - len(known)
    if unknown < size:
        raise ValueError(f"{size} negatives are wanted, but only {unknown} of {catalogue} rows are unknown")
    picked = rng.choice(unknown, size, replace=False)
    # The j-th unknown row is j plus the known rows before it, and i known rows precede row known[i].
    return picked + np.searchsorted(known - np.arange(len(known)), picked, side="right")


def draw_negatives(known: Sequence[np.ndarray], catalogue: int, size: int, seed: int, epoch: int,
                   window_ids: Sequence[int]) -> np.ndarray:
    """[n, size] negatives of n windows in an epoch.

    A window's draw depends on seed, epoch and window id alone, never on its target: the published S-DPO code
    re-seeds with the target's id, so that equal targets come with equal candidates and can be looked up.

    Args:
        known: per window, the rows its user is known to have met, ascending and distinct.
        catalogue: number of rows there are.
        seed, epoch, window_ids: 0 or more.

    Raises:
        ValueError: a window has fewer than `size` unknown rows.
    """
    draws = [draw_unknown(rows, catalogue, size, np.random.default_rng((seed, epoch, window)))
             for rows, window in zip(known, window_ids, strict=True)]
    return np.stack(draws)
