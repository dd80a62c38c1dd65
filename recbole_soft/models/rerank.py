"""Rerank: a RecBole model proposes, the language model puts the best candidates into order.

The C best unseen items of the retriever change places among themselves by log p(title | prompt); every other item
keeps the place that the retriever gave it. So the retriever's ranking is the result of C = 1, the target is never
forced in (the model does not know it), and no target outside of the C can be hit better than by the retriever:
coverage@C, the share of windows whose target is a candidate, is reported.

Deviation: published rerankers ask for a list in text and parse it (LLMRank, Hou et al., ECIR 2024). Here every
candidate is scored, all of a window as branches of one prompt, so there are no unparsable answers, no repeated
attempts and no influence of the candidates' order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_soft.artifacts import content_key, file_hash
from recbole_soft.config.schema import Setting
from recbole_soft.errors import ModelError, SettingError
from recbole_soft.llm.branch_scores import branch_nll
from recbole_soft.models.answer_parts import BATCHES_IN_A_PART, fingerprint_of_weights
from recbole_soft.models.base import LLMRecommender
from recbole_soft.models.traditional import load_traditional


@dataclass(frozen=True)
class Retriever:
    """What proposes candidates.

    Attributes:
        name: of the model, for the record.
        folder: its run folder.
        fingerprint: hash of its weights.
        scores: windows in, [b, n_items] scores out (any shape of so many numbers).
    """

    name: str
    folder: str
    fingerprint: str
    scores: Callable[..., Tensor]


def open_retriever(folder: Path, dataset) -> Retriever:
    """The traditional model of a finished run as a retriever.

    Raises:
        ModelError: see `load_traditional`.
    """
    model = load_traditional(folder, dataset, "retriever")
    return Retriever(type(model).__name__, str(folder), file_hash(folder / "model.safetensors"),
                     model.full_sort_predict)


class Rerank(LLMRecommender):
    """Puts the best candidates of a RecBole model into the order of their titles' likelihood.

    Attributes:
        retriever: proposes the candidates; to be set before the first window is ranked.
        items_before: ids of windows in, what their users met before out.
    """

    name = "Rerank"
    settings = (
        Setting("retriever", "str", "SASRec", "run folder of a RecBole model, or the name of one to train",
                section="Reranking"),
        Setting("rerank_candidates", "int", 20, "candidates per window", low=1, section="Reranking"),
        Setting("rerank_score", "str", "sum", "log-likelihood of a title: sum over its tokens, or mean",
                choices=("sum", "mean"), section="Reranking"),
    )

    def __init__(self, config, dataset) -> None:
        for setting, wanted in (("injection", "none"), ("ranking", "grounding")):
            if config[setting] != wanted:
                raise SettingError(f"{setting} = {config[setting]} has no effect on Rerank", where=setting,
                                   remedy=f"remove it, or --{setting}={wanted}")
        if config["lm_loss"] == "msl":
            raise SettingError("lm_loss = msl leaves tokens that no title goes on with as likely as they were, and "
                               "Rerank compares likelihoods over all tokens", where="lm_loss", remedy="--lm_loss=full")
        super().__init__(config, dataset)
        self.retriever: Retriever | None = None
        self.items_before: Callable[[np.ndarray], list[np.ndarray]] = dataset.items_before
        self._responses = self.encoder.responses(self.catalog.titles[1:])
        self._likelihoods: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}

    # ---- the retriever's part --------------------------------------------------------------------
    @torch.no_grad()
    def retrieved(self, interaction) -> tuple[Tensor, Tensor]:
        """The retriever's order and the candidates in it.

        Returns:
            order: [b, n_items - 1] item ids, best first; of equal scores the lower id, scores that are no number last.
            is_candidate: [b, n_items - 1] whether the item at a place of `order` is one of the C best unseen.
        """
        if self.retriever is None:
            raise ModelError("Rerank has no retriever", where="retriever",
                             remedy="start it by run_recbole_soft, which opens or trains one")
        orders = []
        step = self.options["eval_batch_size"]
        for first in range(0, len(interaction), step):
            part = interaction[first: first + step].to(self.options["device"])
            scores = self.retriever.scores(part).float().cpu().view(len(part), self.n_items)[:, 1:]
            orders.append(1 + scores.nan_to_num(nan=-torch.inf).argsort(dim=1, descending=True, stable=True))
        order = torch.cat(orders)
        is_unseen = torch.ones(len(order), self.n_items, dtype=torch.bool)
        for row, seen in enumerate(self._seen(interaction)):
            is_unseen[row, torch.from_numpy(seen).long()] = False
        is_unseen = is_unseen.gather(1, order)
        return order, is_unseen & (is_unseen.cumsum(1) <= self.options["rerank_candidates"])

    def _seen(self, interaction) -> list[np.ndarray]:
        """Per window, the item ids that are no candidates under `mask_history`, whatever the target is."""
        rule = self.options["mask_history"]
        if rule == "none":
            return [np.zeros(0, dtype=np.int64)] * len(interaction)
        if rule == "window":
            return list(interaction[self.ITEM_SEQ].cpu().numpy())
        return self.items_before(np.array(self._window_ids(interaction)))

    # ---- the language model's part ---------------------------------------------------------------
    def prepare(self, interaction, progress: Callable[[int], None] | None = None) -> None:
        """Scores the candidates of all windows, in batches of prompts of similar length."""
        self.log_likelihoods(interaction, *self.retrieved(interaction), progress)

    def log_likelihoods(self, interaction, order: Tensor, is_candidate: Tensor,
                        progress: Callable[[int], None] | None = None) -> list[Tensor]:
        """Per window, [its candidates] log p(title | prompt) in the retriever's order; kept until weights change."""
        keys = [(tuple(prompt), tuple(items[chosen].tolist())) for prompt, items, chosen in zip(
            self.prompts(interaction), order, is_candidate, strict=True)]
        unknown = [key for key in dict.fromkeys(keys) if key not in self._likelihoods]
        unknown.sort(key=lambda key: len(key[0]))
        branches = {key: [self._responses[item - 1] for item in key[1]] for key in unknown}
        size = self.options["micro_batch_size"]

        def score(some: Sequence[tuple]) -> list[list[float]]:
            prompts = [list(prompt) for prompt, _ in some]
            found = branch_nll(self.weights.model, prompts, [branches[key] for key in some], progress=progress,
                               batch_size=size, fast=self.options["fast_path"])
            return [nll.tolist() for nll in found]

        nlls = self.parts.gather("likelihoods", lambda: content_key(
            weights=fingerprint_of_weights(self), titles=self.catalog.fingerprint, asked=unknown, size=size,
            fast=self.options["fast_path"]), unknown, BATCHES_IN_A_PART * size, size, score, progress)
        for key, nll in zip(unknown, map(torch.tensor, nlls), strict=True):
            lengths = torch.tensor([float(len(title)) for title in branches[key]])
            self._likelihoods[key] = -nll / lengths if self.options["rerank_score"] == "mean" else -nll
        return [self._likelihoods[key] for key in keys]

    def forget_answers(self) -> None:
        super().forget_answers()
        self._likelihoods.clear()

    @torch.no_grad()
    def full_sort_predict(self, interaction) -> Tensor:
        """[b, n_items] minus the place of every item, from 0 on; column 0 is -inf."""
        order, is_candidate = self.retrieved(interaction)
        for row, likelihoods in enumerate(self.log_likelihoods(interaction, order, is_candidate)):
            places = is_candidate[row].nonzero().squeeze(1)
            order[row, places] = order[row, places[likelihoods.argsort(descending=True, stable=True)]]
        scores = torch.full((len(order), self.n_items), -torch.inf)
        places = torch.arange(order.shape[1], dtype=torch.float32).expand_as(order)
        return scores.scatter_(1, order, -places).to(self.backbone.device)

    # ---- trainer and record ----------------------------------------------------------------------
    def deciding(self) -> dict[str, Any]:
        return {**super().deciding(), "retriever": self.retriever and self.retriever.fingerprint,
                **{name: self.options[name] for name in ("rerank_candidates", "rerank_score")}}

    def notes_on(self, interaction) -> dict[str, Any]:
        order, is_candidate = self.retrieved(interaction)
        targets = interaction[self.ITEM_ID].cpu()[:, None]
        covered = int(((order == targets) & is_candidate).any(1).sum())
        count, name, windows = self.options["rerank_candidates"], self.retriever.name, len(order)
        return super().notes_on(interaction) | {
            "rerank": {"retriever": name, "retriever_folder": self.retriever.folder, "candidates": count,
                       "covered_windows": covered, "windows": windows, "coverage": covered / windows},
            "caption": f"candidates: the {count} best unseen items of {name}; "
                       f"coverage@{count} {covered / windows:.4f} ({covered} of {windows} targets)",
        }
