"""Schedules: how much weight the self-distilled set has in an epoch.

A schedule is a small pure object: what is known before an epoch in, a weight tau in [0, 1] out. It computes
no distance and keeps no state, so its curve can be tested and plotted alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from recbole_soft.config.schema import Setting


@dataclass(frozen=True)
class EpochSignal:
    """What a schedule may look at.

    Attributes:
        epoch: 0 for the first epoch of the stage.
        epochs: number of epochs of the stage.
        distance: d_t, mean distance of the current model's answers to their targets, or None if not measured.
        first_distance: d_0, the same before the first step.
    """

    epoch: int
    epochs: int
    distance: float | None = None
    first_distance: float | None = None


class Schedule:
    """Weight of the self-distilled set per epoch."""

    name = ""
    settings: tuple[Setting, ...] = ()
    needs_distance = False

    def weight(self, signal: EpochSignal) -> float:
        """tau in [0, 1]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Exponential(Schedule):
    """tau = min(1, exp(alpha * (d_t / d_0 - 1))): the paper's self-adaptive scheduler (section "SOFT")."""

    name = "exponential"
    settings = (
        Setting("alpha", "float", 1.0, "how fast training moves to the real data as answers get closer", low=0),
    )
    needs_distance = True

    alpha: float = 1.0

    def weight(self, signal: EpochSignal) -> float:
        if signal.distance is None or not signal.first_distance:
            return 1.0
        # min(1, exp(x)) = exp(min(0, x)), which cannot overflow
        return math.exp(min(0.0, self.alpha * (signal.distance / signal.first_distance - 1.0)))


@dataclass(frozen=True)
class Linear(Schedule):
    """From 1 in the first epoch to 0 in the last, in equal steps."""

    name = "linear"

    def weight(self, signal: EpochSignal) -> float:
        return 1.0 - signal.epoch / max(1, signal.epochs - 1)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 in the first epoch to 0 in the last, along half a cosine."""

    name = "cosine"

    def weight(self, signal: EpochSignal) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * signal.epoch / max(1, signal.epochs - 1)))


@dataclass(frozen=True)
class Constant(Schedule):
    """The same weight in every epoch: 1 is SOFT without its scheduler, 0 is SFT."""

    name = "constant"
    settings = (Setting("tau", "float", 1.0, "weight of the self-distilled set", low=0, high=1),)

    tau: float = 1.0

    def weight(self, signal: EpochSignal) -> float:
        return self.tau


SCHEDULES: dict[str, type[Schedule]] = {cls.name: cls for cls in (Exponential, Linear, Cosine, Constant)}


def make_schedule(name: str, settings: dict[str, object]) -> Schedule:
    """The schedule of a name with its own settings taken from `settings` (missing ones keep their default)."""
    cls = SCHEDULES[name]
    return cls(**{s.name: settings[s.name] for s in cls.settings if settings.get(s.name) is not None})
