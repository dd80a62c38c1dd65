"""Full-ranking evaluation in which items the user already knows are no candidates.

RecBole masks nothing for sequential models. This loader hands RecBole's trainers the items to mask, so that
the rule is the same for every model. The target itself is never masked, even when the user met it before.
"""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_soft.data.dataset import WINDOW_FIELD, SoftDataset


class MaskedEvalDataLoader(FullSortEvalDataLoader):
    """RecBole's full-sort loader plus `mask_history: full | window | none`."""

    def collate_fn(self, index):
        interaction, _, positive_rows, positive_items = super().collate_fn(index)
        return interaction, self._seen(interaction, positive_items), positive_rows, positive_items

    def _seen(self, interaction, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """(rows, item ids) to mask, each [n_masked]."""
        rule = self.config["mask_history"]
        if rule == "none" or not isinstance(self._dataset, SoftDataset):
            return None
        if rule == "window":
            field = getattr(self._dataset, f"{self.iid_field}_list_field")
            items = interaction[field]
            rows = torch.arange(len(items))[:, None].expand_as(items)
            rows, items = rows.reshape(-1), items.reshape(-1)
        else:
            seen = self._dataset.items_before(interaction[WINDOW_FIELD].numpy())
            rows = torch.from_numpy(np.repeat(np.arange(len(seen)), [len(s) for s in seen]))
            items = torch.from_numpy(np.concatenate(seen)) if seen else torch.zeros(0, dtype=torch.long)
        keep = (items != 0) & (items != targets[rows])
        return rows[keep], items[keep]
