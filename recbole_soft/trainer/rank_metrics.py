"""Evaluation from the ranks of targets, where a model knows them without scoring every item.

RecBole's evaluator takes it from there, so that its metrics are its own. Metrics that ask for more than the places
of the targets (coverage, Gini, ...) go by RecBole's way, through the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information
from torch import Tensor

from recbole_soft.models.base import LLMRecommender
from recbole_soft.parallel.group import shared_out

PLACES = "rec.topk"


@torch.no_grad()
def direct_ranks(model: LLMRecommender, eval_data, metrics: list[str]) -> Tensor | None:
    """[n] ranks of the targets of a split in its order; None where RecBole's way has to be taken."""
    if any(metric_information[metric.lower()] != [PLACES] for metric in metrics):
        return None

    def ranks_of(rows: Sequence[int]) -> list[Tensor | None]:
        interaction, masked, _, targets = eval_data.collate_fn(np.asarray(rows))
        ranks = model.target_ranks(interaction, targets, masked)
        return [ranks if ranks is None else ranks.cpu()]

    found = shared_out(range(len(eval_data.dataset)), ranks_of)
    return None if any(ranks is None for ranks in found) else torch.cat(found)


def places_of(ranks: Tensor, longest: int) -> DataStruct:
    """What RecBole's collector would have gathered: where in the first `longest` places the one target is."""
    found = torch.zeros(len(ranks), longest + 1, dtype=torch.int)
    rows = (ranks <= longest).nonzero().squeeze(1)
    found[rows, ranks[rows] - 1] = 1
    found[:, longest] = 1  # the number of targets of the window
    struct = DataStruct()
    struct.update_tensor(PLACES, found)
    return struct
