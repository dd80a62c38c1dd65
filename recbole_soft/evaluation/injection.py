"""Chooses the exponent of BIGRec's injection, on validation windows only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_soft.evaluation.ranks import ranks_of
from recbole_soft.grounding import choose_gamma, inject, popularity
from recbole_soft.models.bigrec import BIGRec, Injection
from recbole_soft.models.traditional import load_traditional
from recbole_soft.statistics.metrics import hit, ndcg, reciprocal_rank

# BIGRec's own grids, thinned: one gamma for all metrics (the published code takes one per metric and cut-off).
GAMMA_GRID = (0.0, *(round(0.1 * step, 1) for step in range(1, 10)), *range(1, 11), *range(15, 101, 5))

# RecBole's metrics of windows with one target. Its Precision is Recall by the cut-off, which changes no choice.
METRICS_OF_RANKS = {"hit": hit, "recall": hit, "precision": hit, "ndcg": ndcg, "mrr": reciprocal_rank,
                    "map": reciprocal_rank}


def injection_prior(config, train_dataset) -> Callable[..., Tensor]:
    """What `injection` mixes in: windows in, popularity or collaborative scores out (see `Injection`).

    Raises:
        ModelError: the run of `injection_model_file` cannot be used.
    """
    if config["injection"] == "popularity":
        targets = train_dataset.sequence_items[train_dataset.all_window_ids]
        counts = popularity(targets, train_dataset.item_num).to(config["device"])
        return lambda interaction: counts
    model = load_traditional(Path(config["injection_model_file"]), train_dataset)
    # Some models give one row for all windows, and it may lie elsewhere than the language model.
    return lambda interaction: model.full_sort_predict(interaction.to(model.device)).view(len(interaction), -1)


def recorded_injection(chosen: Mapping[str, Any] | None, config, train_dataset) -> Injection | None:
    """The injection of a finished run's stage.

    Args:
        chosen: `injection` of the stage's row in the record.
    """
    return Injection(injection_prior(config, train_dataset), chosen["gamma"]) if chosen else None


def tune_injection(model: BIGRec, valid_data, prior, valid_metric: str, gamma: float | None) -> dict[str, object]:
    """Sets the model's injection and returns what was chosen.

    Args:
        prior: windows in, popularity or collaborative scores out (see `Injection`).
        valid_metric: such as `hit@10`; decides between gammas.
        gamma: a fixed exponent, or None to choose one.
    """
    name, _, cutoff = valid_metric.partition("@")
    metric = METRICS_OF_RANKS.get(name.lower())  # None: no rank decides it, and gamma is given
    batches = [_scored(model, batch, prior) for batch in valid_data] if metric else []

    def evaluate(candidate: float) -> float:
        ranks = [_ranks(model.beams_first(inject(scores, weight, candidate), interaction), masked, targets)
                 for interaction, scores, weight, masked, targets in batches]
        return float(metric(np.concatenate(ranks), int(cutoff or 10)).mean())

    if gamma is None:
        gamma, values = choose_gamma(evaluate, GAMMA_GRID)
        chosen = {"chosen": f"best {valid_metric} on validation", "valid_score": values[gamma], "values": values}
    else:
        chosen = {"chosen": "given", "valid_score": evaluate(gamma) if metric else None}
    model.injection = Injection(prior, gamma)
    return {"gamma": gamma, **chosen}


@torch.no_grad()
def _scored(model: BIGRec, batch, prior):
    interaction, masked, _, targets = batch
    interaction = interaction.to(model.backbone.device)
    return interaction, model.grounded_scores(interaction), prior(interaction), masked, targets


def _ranks(scores: torch.Tensor, masked, targets: torch.Tensor) -> np.ndarray:
    if masked is not None:
        scores[masked] = -torch.inf
    return ranks_of(scores, targets.to(scores.device)).cpu().numpy()
