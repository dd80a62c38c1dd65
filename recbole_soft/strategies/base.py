"""What a training strategy is: a list of stages. A stage says what to train on; the trainer owns the loop.

To add a strategy, add a file here; nothing else is edited. A stage cannot reach the optimiser, the evaluator
or test data: it sees the training windows, the model and what earlier stages left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.config.schema import Setting
from recbole_soft.llm.masked_softmax import MaskedSoftmax
from recbole_soft.llm.score import ResponseScores
from recbole_soft.losses import mean_token_nll, mixed_loss
from recbole_soft.models.base import LLMRecommender, WindowTexts

Responses = dict[str, list[list[int]]]


@dataclass
class StageContext:
    """What a stage may use.

    Attributes:
        model: scores responses, answers prompts and embeds texts with the weights that are switched on.
        windows: the training windows.
        config: the settings.
        store: reusable results by content.
        keys: content key of every finished stage's weights, by stage name.
        switched_to: `with switched_to("sft"):` uses another stage's weights for a while.
        note: adds something to the run's record.
        progress: `with progress("Self-distillation", n) as advance:` shows a bar.
    """

    model: LLMRecommender
    windows: WindowTexts
    config: Any
    store: ArtifactStore
    keys: dict[str, str]
    switched_to: Callable[[str], AbstractContextManager[None]]
    note: Callable[[str, Any], None]
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass
class LossParts:
    """Loss of a micro-batch: the scalar to differentiate, its unweighted parts, and other figures for the log.

    All are this micro-batch's share of the optimiser step's mean, so that the shares add up.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Tensor] = field(default_factory=dict)


class Stage:
    """A phase of training with its own fresh weights.

    Attributes:
        name: used for folders, curves and the record.
        label: row of the result table.
        starts_from: name of the stage whose weights are copied at the start; None for fresh ones.
        trains: whether there are epochs; a stage without them is begun and validated once, with its starting weights,
            which without `starts_from` are the base model's.
        is_reusable: whether the trained weights are kept for later runs with equal settings.
        depends_on: settings that decide the result, beside those every stage depends on.
        epochs, learning_rate: in place of the run's; None for the run's.
        masked: set in `begin`, has responses scored over the tokens that it allows (MSL); None for all tokens.
    """

    name = ""
    label = ""
    starts_from: str | None = None
    trains = True
    is_reusable = False
    depends_on: tuple[str, ...] = ()
    epochs: int | None = None
    learning_rate: float | None = None
    masked: MaskedSoftmax | None = None

    def begin(self, context: StageContext) -> None:
        """Called once before the first epoch, with the stage's own fresh weights switched on."""
        self.context = context

    def begin_epoch(self, epoch: int, epochs: int) -> dict[str, float]:
        """Called before every epoch; returns what to log (for instance tau)."""
        return {} if self.masked is None else {"temperature": self.masked.temperature}

    def end_step(self) -> None:
        """Called after every optimiser step."""
        if self.masked is not None:
            self.masked.end_step()

    def state(self) -> dict[str, Any]:
        """What the stage has gathered since `begin`, for a checkpoint between two optimiser steps; plain JSON.

        What `begin` works out anew, and what settings decide, does not belong here.
        """
        return {} if self.masked is None else {"temperature": self.masked.temperature}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state` gave; called after `begin`, in the place of the epochs' `begin_epoch` up to then."""
        if self.masked is not None:
            self.masked.temperature = state["temperature"]

    def responses(self, rows: Sequence[int]) -> Responses:
        """Responses to score for training windows `rows`, by name; leave out what has no weight."""
        raise NotImplementedError

    def count_tokens(self, texts: Sequence[Sequence[int]]) -> int:
        """By how many tokens the mean loss of these responses divides."""
        return sum(map(len, texts)) if self.masked is None else self.masked.count(texts)[0]

    def weights(self) -> Mapping[str, float]:
        """Weight of each kind of response in the loss of this epoch."""
        raise NotImplementedError

    def loss(self, scores: Mapping[str, ResponseScores], batch_tokens: Mapping[str, int],
             rows: Sequence[int]) -> LossParts:
        """Weighted sum of mean token losses; a stage with another loss overrides this.

        Args:
            scores: per kind of response, the micro-batch's scores.
            batch_tokens: per kind, response tokens in the whole optimiser batch (under MSL, those that are a choice).
            rows: the micro-batch's training windows, in the order of the scores.
        """
        parts = {name: mean_token_nll(score.nll, batch_tokens[name]) for name, score in scores.items()}
        return LossParts(mixed_loss(parts, dict(self.weights())), parts)


class Strategy:
    """A named list of stages; the last one gives the strategy's result, earlier ones are reported too."""

    name = ""
    settings: tuple[Setting, ...] = ()

    def __init__(self, config) -> None:
        self.config = config

    def stages(self) -> list[Stage]:
        """The stages in order; later ones may use the weights of earlier ones."""
        raise NotImplementedError

    def check_inputs(self) -> None:
        """Called before the first stage is trained; raises UserError if what a later one reads cannot be used."""
