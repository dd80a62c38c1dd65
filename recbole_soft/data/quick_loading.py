"""RecBole's slow steps of loading on whole arrays, behind RecBole's own names, with the same results.

RecBole counts, numbers and splits interactions one by one in Python; on millions of them that takes minutes and many
gigabytes. What the settings ask for beyond these steps is left to RecBole, and then ids are read as text, as RecBole
expects them. Knows nothing of titles or windows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction

from recbole_soft.data.count_filter import rows_within
from recbole_soft.data.splits import LEFT_OUT, by_ratio, by_ratio_within_users, leave_one_out

logger = logging.getLogger("recbole_soft")

LEFT_TO_RECBOLE = ("benchmark_filename", "val_interval", "selected_features", "unused_col", "threshold",
                   "normalize_field", "normalize_all", "numerical_features", "discretization", "preload_weight",
                   "alias_of_user_id", "alias_of_item_id")
"""Settings by which RecBole looks at ids as text, or at columns besides user, item and time."""


class QuickLoading:
    """Comes before one of RecBole's datasets among the bases of a class.

    Attributes:
        quick_loading_wanted: False for RecBole's own way whatever the settings are, to compare with.
    """

    quick_loading_wanted = True

    def reads_numbers(self) -> bool:
        """Whether ids can be read as numbers (pandas categories); says so in the log where they cannot."""
        reason = next((f"{name}={self.config[name]}" for name in LEFT_TO_RECBOLE if self.config[name]), None)
        if reason and self.quick_loading_wanted:
            logger.debug("interactions are read as text, which takes more time and memory, because of %s", reason)
        return self.quick_loading_wanted and not reason

    # ---- RecBole's names -------------------------------------------------------------------------
    def _remove_duplication(self) -> None:
        """RecBole's, less its sort: rows are in the order of time, and its sort may exchange those of one time."""
        if self.config["rm_dup_inter"] is not None:
            self.inter_feat = self.inter_feat.drop_duplicates(
                subset=[self.uid_field, self.iid_field], keep=self.config["rm_dup_inter"], ignore_index=True)

    def _filter_by_inter_num(self) -> None:
        if not self._has_numbers():
            super()._filter_by_inter_num()
            return
        users, items = (self.inter_feat[field].cat.codes.to_numpy() for field in (self.uid_field, self.iid_field))
        rows = rows_within(users, items, *(self._parse_intervals_str(self.config[name]) for name in (
            "user_inter_num_interval", "item_inter_num_interval")))
        if len(rows) < len(users):
            self.inter_feat = self.inter_feat.iloc[rows]

    def _remap(self, remap_list: list[tuple[Any, str, Any]]) -> None:
        if not (self._has_numbers() and len(remap_list) == 1):
            super()._remap(remap_list)
            return
        (feat, field, _), = remap_list
        texts = feat[field].cat.categories.to_numpy(dtype=object)
        ids, in_order = pd.factorize(feat[field].cat.codes.to_numpy())
        self.field2id_token[field] = np.array(["[PAD]", *texts[in_order]])
        self.field2token_id[field] = {token: number for number, token in enumerate(self.field2id_token[field])}
        feat[field] = ids + 1

    def split_by_ratio(self, ratios: Sequence[float], group_by: str | None = None) -> list[Any]:
        """See RecBole's `Dataset.split_by_ratio`."""
        if not self.quick_loading_wanted:
            return super().split_by_ratio(ratios, group_by)
        if group_by is None:
            return self._parts(by_ratio(len(self), ratios, self._calcu_split_ids))
        return self._parts(by_ratio_within_users(self.inter_feat[group_by].numpy(), ratios, self._calcu_split_ids))

    def leave_one_out(self, group_by: str | None, leave_one_mode: str) -> list[Any]:
        """See RecBole's `Dataset.leave_one_out`."""
        if not self.quick_loading_wanted or group_by is None or leave_one_mode not in LEFT_OUT:
            return super().leave_one_out(group_by, leave_one_mode)
        return self._parts(leave_one_out(self.inter_feat[group_by].numpy(), leave_one_mode))

    # ---- how -------------------------------------------------------------------------------------
    def _has_numbers(self) -> bool:
        return isinstance(self.inter_feat[self.uid_field].dtype, pd.CategoricalDtype)

    def _parts(self, rows_of_parts: list[np.ndarray]) -> list[Any]:
        self._drop_unused_col()
        return [self.copy(rows_of(self.inter_feat, rows)) for rows in rows_of_parts]


def rows_of(table: Interaction, rows: np.ndarray) -> Interaction:
    """Some rows of a table; RecBole's own indexing makes a Python list of the row numbers first."""
    index = torch.from_numpy(rows)
    return Interaction({name: column[index] for name, column in table.interaction.items()})
