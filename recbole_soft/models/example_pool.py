"""LLM-CF's pool of examples: training windows with an item that was chosen and one that was not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_soft.data.dataset import WINDOW_FIELD, SoftDataset
from recbole_soft.data.windows import sample_rows
from recbole_soft.errors import DataError


@dataclass(frozen=True)
class ExamplePool:
    """Examples as ids, one window per row.

    Attributes:
        windows: [p] ids of the windows.
        users: [p] user ids.
        histories: [p, s] item ids, right-padded with 0.
        lengths: [p] lengths of the histories.
        items: [p, 2] the item that was chosen, and one that was not.
        times: [p] when the choice was made, in the data set's order of time.
    """

    windows: Tensor
    users: Tensor
    histories: Tensor
    lengths: Tensor
    items: Tensor
    times: Tensor

    def __len__(self) -> int:
        return len(self.windows)


def make_pool(dataset: SoftDataset, share: float, seed: int) -> ExamplePool:
    """A uniform sample of the training windows, each with a random item that its user had not met by then.

    Sequential data hold no refusals, so they are made here (the published code reads them from a file).

    Args:
        dataset: the training split.
        share: of its windows, above 0 and at most 1.
        seed: of the sample and of the refused items.

    Raises:
        DataError: the users have met the whole catalogue.
    """
    rows = sample_rows(len(dataset), max(1, round(share * len(dataset))), seed)
    frame = dataset.inter_feat[torch.from_numpy(rows)]
    chosen = frame[dataset.iid_field].numpy()
    known = dataset.items_before(frame[WINDOW_FIELD].numpy())
    refused = _items_not_met(known, chosen, dataset.item_num, seed, frame[WINDOW_FIELD].tolist())
    return ExamplePool(
        windows=frame[WINDOW_FIELD].long(), users=frame[dataset.uid_field],
        histories=frame[getattr(dataset, f"{dataset.iid_field}_list_field")],
        lengths=frame[dataset.item_list_length_field],
        items=torch.stack([frame[dataset.iid_field], torch.from_numpy(refused)], dim=1),
        times=frame[dataset.time_field])


def _items_not_met(known: list[np.ndarray], chosen: np.ndarray, n_items: int, seed: int,
                   windows: list[int]) -> np.ndarray:
    """[p] one uniform item each that is neither known nor chosen.

    A window's item depends on the seed and the window alone: a text about it stays true whatever else is in the pool.
    """
    drawn = np.zeros(len(chosen), dtype=np.int64)
    for row, (met, target) in enumerate(zip(known, chosen, strict=True)):
        free = np.ones(n_items, dtype=bool)
        free[0] = free[target] = False
        free[met] = False
        left = np.flatnonzero(free)
        if not len(left):
            raise DataError("a user has met every item, so there is none to refuse", where="LLMCF",
                            remedy="use a data set with more items")
        drawn[row] = left[np.random.RandomState([seed, windows[row]]).randint(len(left))]
    return drawn
