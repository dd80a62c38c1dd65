"""DROS: a sequential recommender trained for the worst case near the training distribution.

Yang et al., "A Generic Learning Framework for Sequential Recommendation with Distribution Shifts" (SIGIR 2023).
The encoders are RecBole's; evaluation is RecBole's, that is, without dropout (the published code evaluates with it).
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_soft.config.schema import Setting
from recbole_soft.models.item_scorers import CaserScorer, GRU4RecScorer, SASRecScorer
from recbole_soft.rank_losses.base import base_loss, uniform_negatives
from recbole_soft.rank_losses.dro import popularity_weights, robust_loss


class DistributionallyRobust:
    """L = base loss + alpha DRO, over the scores of an `ItemScorer`.

    Deviation: BPR and its DRO term see the scores themselves; the published BPR files first apply an unannounced
    ELU + 1. Deviation: an epoch is every training window once; the published code draws batches with repetition.
    """

    settings = (
        Setting("dros_base_loss", "str", "BCE", "loss that DRO is added to", choices=("BCE", "BPR", "CE")),
        Setting("dros_alpha", "float", 0.1, "weight of the DRO term; 0 trains with the base loss alone", low=0),
        Setting("dros_beta", "float", 1.0, "beta_0 of DRO: the smaller, the more the largest terms count", above=0),
        Setting("dros_power", "float", 0.05, "exponent of an item's training share in DRO", low=0),
    )

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.base_kind, self.alpha, self.beta = config["dros_base_loss"], config["dros_alpha"], config["dros_beta"]
        # `dataset` is the training split: validation and test windows are not counted.
        counts = torch.bincount(dataset.inter_feat[self.ITEM_ID], minlength=self.n_items)
        self.register_buffer("item_weights", popularity_weights(counts, config["dros_power"]), persistent=False)

    def negatives(self, interaction) -> Tensor:
        """[b] one uniform item per window that is not its target."""
        return uniform_negatives(interaction[self.ITEM_ID][:, None], self.n_items)

    def robust_base_loss(self, scores: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
        """[] base loss + alpha DRO, a mean over the windows."""
        losses = base_loss(self.base_kind, scores, targets, negatives)
        if self.alpha:
            losses = losses + self.alpha * robust_loss(scores, targets, self.item_weights, self.beta)
        return losses.mean()

    def calculate_loss(self, interaction) -> Tensor:
        """[] the loss of a batch."""
        loss = self.robust_base_loss(self.item_scores(interaction), interaction[self.ITEM_ID],
                                     self.negatives(interaction))
        return loss + self.penalty()


class DROS(DistributionallyRobust, SASRecScorer):
    """DROS on SASRec: a loss that is robust to a shift of the items' distribution."""

    name = "DROS"


class DROSGRU4Rec(DistributionallyRobust, GRU4RecScorer):
    """DROS on GRU4Rec."""

    name = "DROS_GRU4Rec"


class DROSCaser(DistributionallyRobust, CaserScorer):
    """DROS on Caser."""

    name = "DROS_Caser"
