"""What is known of every test window beside its rank, so that a report can say where hits come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recbole_soft.data.dataset import SoftDataset


def window_columns(train: SoftDataset, test: SoftDataset) -> dict[str, list[Any]]:
    """Columns of `ranks_STAGE.csv` beside window and rank, one entry per test window.

    Returns:
        user: whose window it is, as in the data set's files; windows of one user are not independent.
        target: the true item's id in the data set's files.
        history: titles or items in the window's history.
        popularity: how often the true item is the target of a training window, sampled or not.
    """
    items = test.inter_feat[test.iid_field].numpy()
    counts = np.bincount(train.sequence_items[train.all_window_ids], minlength=test.item_num)
    users = test.inter_feat[test.uid_field].numpy()
    return {
        "user": np.asarray(test.field2id_token[test.uid_field])[users].tolist(),
        "target": np.asarray(test.field2id_token[test.iid_field])[items].tolist(),
        "history": test.inter_feat[test.item_list_length_field].numpy().tolist(),
        "popularity": counts[items].tolist(),
    }


def rank_rows(ranks: np.ndarray, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Rows of `ranks_STAGE.csv`: window, rank, and `columns`."""
    return [{"window": window, "rank": int(rank), **dict(zip(columns, facts, strict=True))}
            for window, (rank, *facts) in enumerate(zip(ranks, *columns.values(), strict=True))]
