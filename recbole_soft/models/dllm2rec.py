"""DLLM2Rec: a small sequential recommender that learns from a language model's lists and item vectors.

Cui et al., "Distillation Matters: Empowering Sequential Recommenders to Match the Performance of Large Language Models"
(RecSys 2024). The teacher is any LLM run of ours, by way of `export-teacher`; the students are RecBole's models with
the loss of DROS. The best epoch is chosen on validation windows (the published code stops early on test windows).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from recbole_soft.artifacts import file_hash
from recbole_soft.config.schema import Setting
from recbole_soft.data.dataset import WINDOW_FIELD
from recbole_soft.models.dros import DistributionallyRobust
from recbole_soft.models.item_scorers import CaserScorer, GRU4RecScorer, SASRecScorer
from recbole_soft.rank_losses.base import uniform_negatives
from recbole_soft.rank_losses.distillation import Importance, importance_weights, ranking_losses
from recbole_soft.rank_losses.dro import robust_losses
from recbole_soft.teacher import TENSORS, read_teacher, rows_of_windows

logger = logging.getLogger("recbole_soft")


class TaughtEmbedding(nn.Embedding):
    """Item embeddings plus projected text vectors, e_i + weight (W z_i + b), for what goes into an encoder.

    `weight`, which scores are made with, stays the plain table: the teacher enters the input alone.

    Args:
        plain: the student's own embedding; its values are taken over.
        vectors: [n_items, d_teacher] z; scaled to a mean length of 1, so that the teacher's unit does not matter.
        strength: weight of the projected vectors.
    """

    def __init__(self, plain: nn.Embedding, vectors: Tensor, strength: float) -> None:
        super().__init__(plain.num_embeddings, plain.embedding_dim, padding_idx=plain.padding_idx,
                         _weight=plain.weight.data)
        lengths = vectors[1:].float().norm(dim=1)
        scaled = vectors.float() / lengths.mean().clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("vectors", scaled, persistent=False)
        self.projection = nn.Linear(vectors.shape[1], plain.embedding_dim)
        self.strength = strength

    def forward(self, items: Tensor) -> Tensor:
        """[..., d] for item ids [...]; padding stays as it is."""
        if items.numel() < self.num_embeddings:
            projected = self.projection(self.vectors[items])
        else:  # the table is smaller than the batch
            projected = self.projection(self.vectors)[items]
        return super().forward(items) + self.strength * projected * (items > 0)[..., None]


class Taught(DistributionallyRobust):
    """L = base loss + alpha DRO + lambda L_rd, with the teacher's vectors in the input embeddings.

    Deviation: windows without a list are masked out of L_rd, a mean over the whole batch; the published code needs a
    list for every window. A window with a list counts as much as published, whatever share of the windows has one.
    Deviation: confidences are a softmax of distances in units of their spread; raw ones underflow.
    Deviation: the student's own first items are found without dropout.
    Deviation: the teacher's vectors are scaled to a mean length of 1.

    Attributes:
        notes: for the run's record: where the teacher is from, its content, how many windows it teaches.
    """

    settings = (
        Setting("teacher", "path", None, "folder that `export-teacher` wrote"),
        Setting("dros_base_loss", "str", "BCE", "loss that DRO is added to", choices=("BCE", "BPR", "CE")),
        Setting("dros_alpha", "float", 0.5, "weight of the DRO term, in lists too; 0 leaves it out", low=0),
        Setting("dros_beta", "float", 1.0, "beta_0 of DRO: the smaller, the more the largest terms count", above=0),
        Setting("dros_power", "float", 0.05, "exponent of an item's training share in DRO", low=0),
        Setting("dllm_embedding_weight", "float", 0.3, "weight of the teacher's vectors in the input", low=0),
        Setting("dllm_list_weight", "float", 0.7, "weight lambda of learning the teacher's lists", low=0),
        Setting("dllm_topk", "int", 10, "items of a teacher's list that are learned", low=1),
        Setting("dllm_position", "float", 0.3, "gamma_p: how much the place in the list counts", low=0),
        Setting("dllm_confidence", "float", 0.5, "gamma_c: how much the teacher's distance counts", low=0),
        Setting("dllm_consistency", "float", 0.1, "gamma_o: how much the student's own agreement counts", low=0),
        Setting("dllm_position_scale", "float", 1.0, "places after which the place's weight falls to 1/e", above=0),
    )

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        teacher = read_teacher(Path(config["teacher"]), dataset.sequences_fingerprint())
        self.item_embedding = TaughtEmbedding(self.item_embedding, teacher.vectors, config["dllm_embedding_weight"])
        self.list_weight = config["dllm_list_weight"]
        self.importance = Importance(config["dllm_position"], config["dllm_confidence"], config["dllm_consistency"],
                                     config["dllm_position_scale"])
        self.distance_scale = teacher.distance_scale
        depth = config["dllm_topk"]
        tables = {"list_rows": rows_of_windows(teacher.window_ids, len(dataset.sequence_items)),
                  "list_items": teacher.items[:, :depth], "list_distances": teacher.distances[:, :depth]}
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        taught = int((self.list_rows[dataset.inter_feat[WINDOW_FIELD]] >= 0).sum())
        logger.info("teacher: %d of %d training windows have a list", taught, len(dataset))
        self.notes = {"teacher": {**teacher.about, "tensors": file_hash(Path(config["teacher"]) / TENSORS),
                                  "training_windows_with_a_list": taught}}

    def negatives(self, interaction) -> Tensor:
        """[b] one uniform item per window that is neither its target nor in its history."""
        known = torch.cat([interaction[self.ITEM_SEQ], interaction[self.ITEM_ID][:, None]], dim=1)
        return uniform_negatives(known, self.n_items)

    def calculate_loss(self, interaction) -> Tensor:
        """[] the loss of a batch."""
        scores, negatives = self.item_scores(interaction), self.negatives(interaction)
        loss = self.robust_base_loss(scores, interaction[self.ITEM_ID], negatives) + self.penalty()
        rows = self.list_rows[interaction[WINDOW_FIELD]]
        has_list = rows >= 0
        if self.list_weight and has_list.any():
            listed = self._list_losses(interaction[has_list], scores[has_list], negatives[has_list], rows[has_list])
            loss = loss + self.list_weight * listed.sum() / len(scores)
        return loss

    def _list_losses(self, interaction, scores: Tensor, negatives: Tensor, rows: Tensor) -> Tensor:
        """[b] L_rd of windows that have a list, in rows `rows` of the teacher's tables."""
        items = self.list_items[rows]
        weights = importance_weights(items, self.list_distances[rows], self.distance_scale,
                                     self._own_first(interaction, items.shape[1]), self.importance)
        robust = robust_losses(scores, items, self.item_weights, self.beta) if self.alpha else None
        return ranking_losses(scores, items, weights, negatives, robust, self.alpha)

    @torch.no_grad()
    def _own_first(self, interaction, count: int) -> Tensor:
        """[b, count] items that the student ranks first now, without dropout."""
        with _evaluating(self):
            return 1 + self.item_scores(interaction)[:, 1:].topk(min(count, self.n_items - 1), dim=1).indices


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class DLLM2Rec(Taught, SASRecScorer):
    """DLLM2Rec on SASRec: learns a language model's lists and item vectors."""

    name = "DLLM2Rec"


class DLLM2RecGRU4Rec(Taught, GRU4RecScorer):
    """DLLM2Rec on GRU4Rec."""

    name = "DLLM2Rec_GRU4Rec"


class DLLM2RecCaser(Taught, CaserScorer):
    """DLLM2Rec on Caser."""

    name = "DLLM2Rec_Caser"
