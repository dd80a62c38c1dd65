"""BIGRec: the model answers with a title, and items are ranked by their distance to that answer.

Bao et al., "A Bi-Step Grounding Paradigm for Large Language Models in Recommendation Systems" (BIGRec).
Deviation: distances are in float32 (in the published code's half precision, near items change places).
Deviation: one prompt for training and generation (the published code differs by a space between the two).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_soft.grounded_ranks import grounded_ranks
from recbole_soft.grounding import distances, inject, item_scores
from recbole_soft.models.base import LLMRecommender

# A model that overrides one of them ranks by other scores than distances.
_OF_SCORES = ("full_sort_predict", "grounded_scores", "injected", "beams_first", "answered_titles")


@dataclass(frozen=True)
class Injection:
    """What is mixed into the distances.

    Attributes:
        prior: windows in, [n_items] or [b, n_items] popularity or collaborative scores out.
        gamma: exponent; 0 leaves the ranking as it is.
    """

    prior: Callable[..., Tensor]
    gamma: float


class BIGRec(LLMRecommender):
    """Generates a title and grounds it by the L2 distance of text vectors."""

    name = "BIGRec"
    settings = ()
    answers_with_titles = True

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.injection: Injection | None = None

    @torch.no_grad()
    def full_sort_predict(self, interaction) -> Tensor:
        """[b, n_items] negative distances, after injection if one is set; column 0 is -inf.

        With `ranking: beams` the items that the beams name come first, in the order of the beams.
        """
        return self.beams_first(self.injected(self.grounded_scores(interaction), interaction), interaction)

    @torch.no_grad()
    def target_ranks(self, interaction, targets: Tensor, masked: tuple[Tensor, Tensor] | None) -> Tensor | None:
        """[b] ranks straight from vectors, where they are decided by distances alone and titles are distinct."""
        is_by_distance = self.injection is None and self.options["ranking"] == "grounding"
        is_distinct = len(self.title_rows) == len(self.catalog.unique_titles)
        scores_are_ours = all(getattr(type(self), name) is getattr(BIGRec, name) for name in _OF_SCORES)
        if not (is_by_distance and is_distinct and scores_are_ours and self.options["fast_path"]):
            return None
        answers = self.title_vectors.lookup(self.answered_titles(self.prompts(interaction)))
        rows = None if masked is None else (masked[0].to(answers.device), masked[1].to(answers.device) - 1)
        return grounded_ranks(answers, self.title_vectors.table(), targets.to(answers.device) - 1, rows)

    @torch.no_grad()
    def grounded_scores(self, interaction) -> Tensor:
        """[b, n_items] negative distances of titles to the generated answer."""
        answers = self.title_vectors.lookup(self.answered_titles(self.prompts(interaction)))
        return item_scores(distances(answers, self.title_vectors.table()), self.title_rows)

    def beams_first(self, scores: Tensor, interaction) -> Tensor:
        """With `ranking: beams`, lifts the items of the beams above all others (distances' scores never exceed 0)."""
        if self.options["ranking"] != "beams":
            return scores
        items_of = self.catalog.items_of_title
        for row, beams in enumerate(self.answer_beams(self.prompts(interaction))):
            for place, text in reversed(list(enumerate(beams))):
                items = items_of.get(self.encoder.template.unquoted(text), [])
                scores[row, items] = float(len(beams) - place)
        return scores

    def injected(self, scores: Tensor, interaction) -> Tensor:
        """Scores with popularity or collaborative scores mixed in (BIGRec, section "Grounding")."""
        if self.injection is None:
            return scores
        return inject(scores, self.injection.prior(interaction), self.injection.gamma)
