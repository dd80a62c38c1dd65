"""RecBole's SASRec, GRU4Rec and Caser as encoders: from a window to a vector, from a vector to all scores.

Architecture, initialisation, settings and defaults are RecBole's, so that what a method adds to them is its loss
alone. `based_on` names the RecBole model whose settings apply.
"""

from __future__ import annotations

import torch
from recbole.model.sequential_recommender.caser import Caser
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor

from recbole_soft.errors import SettingError


class ItemScorer:
    """What the three share; stands before a RecBole model in the list of bases.

    Attributes:
        loss_setting: the setting that chooses the base loss in place of RecBole's `loss_type`.
    """

    family = "traditional"
    loss_setting = "dros_base_loss"

    def __init__(self, config, dataset) -> None:
        if config["loss_type"] != "CE":
            raise SettingError(f"loss_type = {config['loss_type']} has no effect: {config['model']} has a loss of its "
                               "own", where="loss_type", remedy=f"remove it; {self.loss_setting} chooses the base loss")
        super().__init__(config, dataset)

    def user_vectors(self, interaction) -> Tensor:
        """[b, d] vectors of the windows."""
        return self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def item_scores(self, interaction) -> Tensor:
        """[b, n_items] inner products with the table of items; float32 also under mixed precision."""
        return (self.user_vectors(interaction) @ self.item_embedding.weight.T).float()

    def penalty(self) -> Tensor:
        """[] what the RecBole model adds to its loss besides the ranking."""
        return torch.zeros((), device=self.item_embedding.weight.device)

    def full_sort_predict(self, interaction) -> Tensor:
        """[b, n_items] scores, larger is better."""
        return self.item_scores(interaction)

    def predict(self, interaction) -> Tensor:
        """[b] score of each window's item."""
        return self.item_scores(interaction).gather(1, interaction[self.ITEM_ID].view(-1, 1)).squeeze(1)


class SASRecScorer(ItemScorer, SASRec):
    """RecBole's SASRec."""

    based_on = "SASRec"


class GRU4RecScorer(ItemScorer, GRU4Rec):
    """RecBole's GRU4Rec."""

    based_on = "GRU4Rec"


class CaserScorer(ItemScorer, Caser):
    """RecBole's Caser, which also knows the user and penalises its weights."""

    based_on = "Caser"

    def user_vectors(self, interaction) -> Tensor:
        """[b, d] vectors of the windows."""
        return self.forward(interaction[self.USER_ID], interaction[self.ITEM_SEQ])

    def penalty(self) -> Tensor:
        """[] Caser's L2 penalty, with RecBole's weight `reg_weight`."""
        penalised = [self.user_embedding.weight, self.item_embedding.weight, self.conv_v.weight, self.fc1.weight,
                     self.fc2.weight]
        return self.reg_weight * self.reg_loss(penalised).squeeze() + self.reg_loss_conv_h()
