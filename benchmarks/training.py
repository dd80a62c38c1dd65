"""Stages of training: one optimiser step of SFT, SOFT and S-DPO, on the same windows and weights both ways.

The learning rate is 0, so that every round starts from the same weights; losses and gradients are compared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.measure import Stage
from benchmarks.workbench import Windows, Workbench
from recbole_soft.losses import mean_token_nll, mixed_loss, softmax_dpo_loss
from recbole_soft.strategies.soft import NEGLIGIBLE

BETA = 1.0
NEGATIVES = 3


@dataclass(frozen=True)
class StepOutcome:
    """Loss of a step and its gradients by parameter, on the CPU."""

    loss: float
    gradients: dict[str, Tensor]


class TrainingStep(Stage):
    """A step on windows: per micro-batch forward and backward, then the optimiser.

    Each way has the micro-batch that it is meant to run with, ours the default of the settings, the plain one the
    smaller one of the published code, which is also the faster one for it: its logits are those of whole sequences.
    """

    repeats = 3  # a step follows a step

    def __init__(self, bench: Workbench, windows: Windows):
        self.bench, self.windows = bench, windows
        self.pad_id = bench.model.backbone.tokenizer.pad_id
        self.network = bench.model.weights.model
        self.optimiser = torch.optim.AdamW(bench.model.weights.parameters(), lr=0.0, weight_decay=0.0)

    @abstractmethod
    def our_loss(self, windows: Windows, batch: Windows) -> Tensor:
        """[] share of a micro-batch in the mean loss of its batch, our way."""

    @abstractmethod
    def plain_loss(self, windows: Windows, batch: Windows) -> Tensor:
        """[] the same, the plain way."""

    def ours(self) -> StepOutcome:
        return self._step(self.our_loss, self.bench.micro_batch)

    def plain(self) -> StepOutcome:
        return self._step(self.plain_loss, plain.MICRO_BATCH)

    def _step(self, loss_of: Callable[[Windows, Windows], Tensor], micro_batch: int) -> StepOutcome:
        self.network.train()
        loss = self.accumulate(self.windows, loss_of, micro_batch)
        self.optimiser.step()
        gradients = {name: parameter.grad.detach().float().cpu().clone()
                     for name, parameter in self.network.named_parameters() if parameter.grad is not None}
        return StepOutcome(loss, gradients)

    def accumulate(self, windows: Windows, loss_of: Callable[[Windows, Windows], Tensor], micro_batch: int) -> float:
        """Gradients of the mean loss over micro-batches of windows; returns that loss."""
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        edges = [*range(0, len(windows), micro_batch), len(windows)]
        for first, end in pairwise(edges):
            loss = loss_of(windows.take(first, end - first), windows)
            loss.backward()
            total += float(loss.detach())
        return total

    def equality(self, ours: StepOutcome, plain: StepOutcome) -> dict[str, float]:
        """Relative error of the loss, and the largest of any gradient tensor (norm of the difference / norm)."""
        if ours.gradients.keys() != plain.gradients.keys():
            raise AssertionError("the two ways give gradients to different parameters")
        errors = [float((ours.gradients[name] - wanted).norm() / wanted.norm().clamp_min(1e-20))
                  for name, wanted in plain.gradients.items()]
        return {"loss_error": abs(ours.loss - plain.loss) / abs(plain.loss), "gradient_error": max(errors)}


class SftStep(TrainingStep):
    """Supervised fine-tuning: one response per prompt."""

    name, target = "sft", 2.5
    what = "SFT step: one response per prompt"

    def our_loss(self, windows: Windows, batch: Windows) -> Tensor:
        scores = self.bench.model.score(windows.prompts, {"sft": windows.targets})["sft"]
        return mean_token_nll(scores.nll, _tokens(batch.targets))

    def plain_loss(self, windows: Windows, batch: Windows) -> Tensor:
        share = _tokens(windows.targets) / _tokens(batch.targets)
        return share * plain.label_loss(self.network, windows.prompts, windows.targets, self.pad_id)


class SoftStep(TrainingStep):
    """SOFT: true and self-distilled response behind one prompt."""

    name, target = "soft", 4.0
    what = "SOFT step: true and self-distilled response, tau = 0.5"
    tau = 0.5

    def our_loss(self, windows: Windows, batch: Windows) -> Tensor:
        weights = {"sft": 1 - self.tau, "sdft": self.tau}
        weights = {kind: weight for kind, weight in weights.items() if weight > NEGLIGIBLE}
        responses = {"sft": windows.targets, "sdft": windows.others[0]}
        tokens = {"sft": _tokens(batch.targets), "sdft": _tokens(batch.others[0])}
        scores = self.bench.model.score(windows.prompts, {kind: responses[kind] for kind in weights})
        parts = {kind: mean_token_nll(score.nll, tokens[kind]) for kind, score in scores.items()}
        return mixed_loss(parts, weights)

    def plain_loss(self, windows: Windows, batch: Windows) -> Tensor:
        kinds = ((1 - self.tau, windows.targets, batch.targets), (self.tau, windows.others[0], batch.others[0]))
        return sum(weight * _tokens(some) / _tokens(every)
                   * plain.label_loss(self.network, windows.prompts, some, self.pad_id)
                   for weight, some, every in kinds)


class SdpoStep(TrainingStep):
    """S-DPO: the true response against three negatives, reference log-probabilities given to both ways."""

    name, target = "sdpo", 7.0
    what = f"S-DPO step: true response and {NEGATIVES} negatives"

    def _reference(self, kinds: list) -> Tensor:
        """[1 + N, B] fixed numbers of the right size: 2 nats a token."""
        return torch.tensor([[-2.0 * len(text) for text in of_kind] for of_kind in kinds], device=self.bench.device)

    def our_loss(self, windows: Windows, batch: Windows) -> Tensor:
        kinds = [windows.targets, *windows.others[:NEGATIVES]]
        scores = self.bench.model.score(windows.prompts, {str(number): kind for number, kind in enumerate(kinds)})
        ratios = -torch.stack([score.nll for score in scores.values()]) - self._reference(kinds)
        return softmax_dpo_loss(ratios.T, BETA).sum() / len(batch)

    def plain_loss(self, windows: Windows, batch: Windows) -> Tensor:
        kinds = [windows.targets, *windows.others[:NEGATIVES]]
        logs = plain.sequence_log_probabilities(self.network, windows.prompts, kinds, self.pad_id)
        return plain.softmax_dpo_loss(logs - self._reference(kinds), BETA) * (len(windows) / len(batch))


def _tokens(texts: Sequence[Sequence[int]]) -> int:
    return sum(map(len, texts))
