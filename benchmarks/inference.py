"""Stages of inference: beam search, grounding of answers in a large catalogue, and ranking alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import Stage
from benchmarks.workbench import Workbench
from recbole_soft.evaluation.ranks import ranks_of
from recbole_soft.grounded_ranks import grounded_ranks
from recbole_soft.grounding import distances, item_scores
from recbole_soft.llm.beam import Beam, BeamSettings
from recbole_soft.llm.generate import generate
from recbole_soft.llm.title_vectors import TitleVectors

EVALUATION_BATCH = 64  # RecBole's eval_batch_size in properties/overall.yaml


class Generation(Stage):
    """Beam search behind an adapter."""

    name, target = "generation", 6.5

    def __init__(self, bench: Workbench, prompts: Sequence[Sequence[int]], beams: int = 4, returned: int | None = None):
        self.bench, self.prompts, self.beams, self.returned = bench, prompts, beams, returned or beams
        self.what = f"beam search, {beams} beams, {len(prompts)} prompts"

    def ours(self) -> list[list[Beam]]:
        model, tokenizer = self.bench.model, self.bench.model.backbone.tokenizer
        settings = BeamSettings(self.beams, model.beams.max_new_tokens, 1.0, self.returned)
        return generate(
            model.weights.model, self.prompts, settings, eos_ids=[tokenizer.eos_id], pad_id=tokenizer.pad_id,
            batch_size=model.options["generation_batch_size"])

    def plain(self) -> list[list[tuple[int, ...]]]:
        tokenizer = self.bench.model.backbone.tokenizer
        self.bench.model.weights.model.eval()
        return plain.beam_answers(
            self.bench.model.weights.model, self.prompts, self.beams, tokenizer.eos_id, tokenizer.pad_id)

    def equality(self, ours: list[list[Beam]], plain: list[list[tuple[int, ...]]]) -> dict[str, float]:
        """Shares of prompts whose best beam, and whose beams in order, are equal.

        Ours stops at the length of the longest catalogue title, the published code at 128 tokens: a beam beyond
        that length (no title) is the one difference there may be.
        """
        tokens = [[beam.tokens for beam in beams] for beams in ours]
        pairs = list(zip(tokens, plain, strict=True))
        return {
            "equal_top_beam": sum(mine[0] == theirs[0] for mine, theirs in pairs) / len(pairs),
            "equal_all_beams": sum(mine == theirs for mine, theirs in pairs) / len(pairs),
        }


@dataclass(frozen=True)
class Catalogue:
    """A catalogue with its vectors, as if read from disk: both ways start from it.

    Attributes:
        titles: [n] distinct titles.
        vectors: [n, d] float32.
        targets: [b] row of the true title per window.
    """

    titles: list[str]
    vectors: Tensor
    targets: Tensor


class Grounding(Stage):
    """Answers embedded, measured against the catalogue, targets ranked."""

    name, target, memory_target = "grounding", 10.0, None

    def __init__(self, bench: Workbench, catalogue: Catalogue, answers: Sequence[str]):
        self.bench, self.catalogue, self.answers = bench, catalogue, answers
        self.what = f"embed, ground and rank {len(answers)} answers, {len(catalogue.titles)} items"

    def prepare(self) -> None:
        self.table = fresh_table(self.bench, self.catalogue.titles)

    def ours(self) -> Tensor:
        return grounded_ranks(self.table.lookup(self.answers), self.catalogue.vectors, self.catalogue.targets)

    def plain(self) -> Tensor:
        model = self.bench.model
        with model.weights.base() as base:
            vectors = plain.text_vectors(model.backbone, base, self.answers)
        return plain.sorted_ranks(vectors, self.catalogue.vectors, self.catalogue.targets)

    def equality(self, ours: Tensor, plain: Tensor) -> dict[str, float]:
        return rank_equality(ours, plain)


class Ranking(Stage):
    """Ranking alone, from vectors: ranks of the targets and nothing else."""

    name, target, memory_target = "ranking", None, 10.0

    def __init__(self, answers: Tensor, catalogue: Catalogue):
        self.answers, self.catalogue = answers, catalogue
        self.what = f"rank {len(answers)} vectors, {len(catalogue.vectors)} items, {answers.shape[1]} dimensions"

    def ours(self) -> Tensor:
        return grounded_ranks(self.answers, self.catalogue.vectors, self.catalogue.targets)

    def plain(self) -> Tensor:
        return plain.sorted_ranks(self.answers, self.catalogue.vectors, self.catalogue.targets)

    def equality(self, ours: Tensor, plain: Tensor) -> dict[str, float]:
        """Also the share of ranks that either way has right, judged by differences in float64."""
        exact = exact_ranks(self.answers, self.catalogue.vectors, self.catalogue.targets)
        return rank_equality(ours, plain) | {
            "ours_exact": float((ours == exact).float().mean()), "plain_exact": float((plain == exact).float().mean())}


class ScoredRanking(Ranking):
    """The same by way of the scores of all items, which RecBole's own metrics need."""

    name = "scored"

    def ours(self) -> Tensor:
        return scored_ranks(self.answers, self.catalogue.vectors, self.catalogue.targets)


def scored_ranks(answers: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """[b] ranks, batch by batch through the functions that `BIGRec` and its evaluation call."""
    rows = torch.arange(len(items), device=items.device)
    return torch.cat([
        ranks_of(item_scores(distances(some, items), rows), target + 1)
        for some, target in zip(answers.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True)])


def exact_ranks(answers: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """[b] ranks from differences in float64, rounded to float32; the lower row first among equals."""
    wide, ranks = items.double(), []
    rows = torch.arange(len(items), device=items.device)
    for answer, target in zip(answers.double(), targets, strict=True):
        own = (wide - answer).square_().sum(1).sqrt_().float()
        ranks.append(1 + ((own < own[target]) | ((own == own[target]) & (rows < target))).sum())
    return torch.stack(ranks)


def rank_equality(ours: Tensor, plain: Tensor) -> dict[str, float]:
    """Share of equal ranks, and the largest difference between two."""
    return {"equal_ranks": float((ours == plain).float().mean()),
            "largest_rank_difference": float((ours - plain).abs().max())}


def fresh_table(bench: Workbench, titles: Sequence[str]) -> TitleVectors:
    """An item table that remembers no answer; its vectors come from the store, or are embedded now."""
    model = bench.model
    table = TitleVectors(model.backbone, model.weights, titles, "last", model.options["embed_batch_tokens"],
                         model.base_fingerprint, model.store)
    table.table()
    return table
