"""The whole small SOFT job, put together from the stages: fine-tune, self-distil, train SOFT, validate, test.

Both ways run the same loop over the same batches with the same optimiser; only the steps differ.
The item table is given to both; the published code's reloading of the model per validation is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.inference import Generation, fresh_table, rank_equality, scored_ranks
from benchmarks.measure import Stage
from benchmarks.training import SftStep, SoftStep, TrainingStep
from benchmarks.workbench import Windows, Workbench

BATCH = 16
LEARNING_RATE = 1e-3
ALPHA = 1.0
WATCHED = 16


@dataclass(frozen=True)
class JobSize:
    """Windows per split and epochs of each of the two trainings."""

    train: int = 32
    valid: int = 16
    test: int = 32
    epochs: int = 2


@dataclass
class JobOutcome:
    """Losses of all steps, tau per SOFT epoch, the self-distilled answers, and the ranks of the test targets."""

    losses: list[float] = field(default_factory=list)
    taus: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    ranks: Tensor = field(default_factory=lambda: torch.empty(0))


class Way(Protocol):
    """What the two ways do differently."""

    micro_batch: int

    def loss(self, step: TrainingStep, windows: Windows, batch: Windows) -> Tensor:
        """[] share of a micro-batch in the loss of its batch."""

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        """Best beam of every prompt as raw text."""

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """[n, d] vectors of answers without quotes."""

    def ranks(self, vectors: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        """[n] ranks of target rows."""


class OurWay:
    """Packed rows, tree search, each distinct answer embedded once, ranks by counting."""

    def __init__(self, bench: Workbench):
        self.bench, self.micro_batch = bench, bench.micro_batch
        self.table = fresh_table(bench, bench.catalog.unique_titles)

    def loss(self, step: TrainingStep, windows: Windows, batch: Windows) -> Tensor:
        return step.our_loss(windows, batch)

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        decode = self.bench.model.backbone.tokenizer.decode
        return [decode(beams[0].tokens) for beams in Generation(self.bench, prompts, returned=1).ours()]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        return self.table.lookup(texts)

    def ranks(self, vectors: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        return scored_ranks(vectors, items, targets)


class PlainWay:
    """The published pipeline."""

    micro_batch = plain.MICRO_BATCH

    def __init__(self, bench: Workbench):
        self.bench = bench

    def loss(self, step: TrainingStep, windows: Windows, batch: Windows) -> Tensor:
        return step.plain_loss(windows, batch)

    def answers(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        decode = self.bench.model.backbone.tokenizer.decode
        return [decode(beams[0]) for beams in Generation(self.bench, prompts).plain()]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        model = self.bench.model
        with model.weights.base() as base:
            return plain.text_vectors(model.backbone, base, texts)

    def ranks(self, vectors: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        return plain.sorted_ranks(vectors, items, targets)


class SoftJob(Stage):
    """The job, from fresh adapters to test ranks."""

    name, target, is_long = "job", 5.0, True

    def __init__(self, bench: Workbench, size: JobSize):
        self.bench, self.size = bench, size
        self.train, self.valid = bench.train.take(0, size.train), bench.valid.take(0, size.valid)
        self.test = bench.test.take(0, size.test)
        self.items = fresh_table(bench, bench.catalog.unique_titles).table()
        self.what = (f"whole SOFT job: {size.train}/{size.valid}/{size.test} windows, "
                     f"{size.epochs} + {size.epochs} epochs")

    def prepare(self) -> None:
        self.our_way = OurWay(self.bench)

    def ours(self) -> JobOutcome:
        return self._run(self.our_way)

    def plain(self) -> JobOutcome:
        return self._run(PlainWay(self.bench))

    def equality(self, ours: JobOutcome, plain: JobOutcome) -> dict[str, float]:
        """Largest relative error of a step's loss, share of equal self-distilled answers, equal test ranks."""
        errors = [abs(a - b) / abs(b) for a, b in zip(ours.losses, plain.losses, strict=True)]
        equal = sum(a == b for a, b in zip(ours.answers, plain.answers, strict=True)) / len(plain.answers)
        tau_error = max(abs(a - b) for a, b in zip(ours.taus, plain.taus, strict=True))
        return {"loss_error": max(errors), "tau_error": tau_error, "equal_answers": equal,
                **rank_equality(ours.ranks, plain.ranks)}

    def _run(self, way: Way) -> JobOutcome:
        outcome = JobOutcome()
        self.bench.restore()
        sft = SftStep(self.bench, self.train)
        for _ in range(self.size.epochs):
            self._train_epoch(way, sft, self.train, outcome)
            self._test(way, self.valid)
        outcome.answers = way.answers(self.train.prompts)
        self.bench.restore()
        self._train_soft(way, outcome)
        outcome.ranks = self._test(way, self.test)
        self.bench.restore()
        return outcome

    def _train_soft(self, way: Way, outcome: JobOutcome) -> None:
        tokenizer = self.bench.model.backbone.tokenizer
        distilled = [tokens + [tokenizer.eos_id] for tokens in tokenizer.encode(outcome.answers)]
        windows = replace(self.train, others=[distilled])
        soft = SoftStep(self.bench, windows)
        first_distance = None
        for _ in range(self.size.epochs):
            distance = self._mean_distance(way, windows.take(0, WATCHED))
            first_distance = distance if first_distance is None else first_distance
            soft.tau = plain.curriculum_weight(distance, first_distance, ALPHA)
            outcome.taus.append(soft.tau)
            self._train_epoch(way, soft, windows, outcome)
            self._test(way, self.valid)

    def _train_epoch(self, way: Way, step: TrainingStep, windows: Windows, outcome: JobOutcome) -> None:
        step.network.train()
        step.optimiser.param_groups[0]["lr"] = LEARNING_RATE
        for first in range(0, len(windows), BATCH):
            batch = windows.take(first, BATCH)
            outcome.losses.append(step.accumulate(batch, partial(way.loss, step), way.micro_batch))
            step.optimiser.step()

    def _mean_distance(self, way: Way, windows: Windows) -> float:
        vectors = self._answer_vectors(way, windows)
        return float((vectors - self.items[self._rows(windows)]).norm(dim=1).mean())

    def _test(self, way: Way, windows: Windows) -> Tensor:
        return way.ranks(self._answer_vectors(way, windows), self.items, self._rows(windows))

    def _answer_vectors(self, way: Way, windows: Windows) -> Tensor:
        template = self.bench.model.encoder.template
        return way.vectors([template.unquoted(answer) for answer in way.answers(windows.prompts)])

    def _rows(self, windows: Windows) -> Tensor:
        return self.bench.model.title_rows[windows.items.to(self.items.device) - 1]
