"""No training: the language model as it is answers, and the answer is grounded (guidance by the prompt alone)."""

from __future__ import annotations

from recbole_soft.strategies.base import Stage, Strategy


class UntrainedStage(Stage):
    """Answers with the weights it starts from: those of the base model."""

    name = "zero_shot"
    label = "zero-shot"
    trains = False


class ZeroShot(Strategy):
    """No training: the untuned language model answers."""

    name = "ZeroShot"
    settings = ()

    def stages(self) -> list[Stage]:
        return [UntrainedStage()]
