"""Axes of charts: where a value lies, and which values are labelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def number(value: float) -> str:
    """A tick's value without superfluous digits."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share as a tick in percent."""
    return f"{number(100 * share)}%"


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: its text.
        is_log: logarithmic; values have to be positive.
        low, high: ends that the axis has to reach, whatever the data.
        ticks: values to label and their texts, in place of round numbers.
        text: how a round number is written.
        span: length of the axis where all values are 0.
    """

    label: str
    is_log: bool = False
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] | None = None
    text: Callable[[float], str] = number
    span: float = 1.0


@dataclass(frozen=True)
class Scale:
    """An axis fitted to data: `place` gives a value's share of the way from the low to the high end."""

    low: float
    high: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def fitted(axis: Axis, values: Sequence[float], wanted_ticks: int = 5) -> Scale:
    """The scale on which all finite `values` find room."""
    known = [value for value in (*values, axis.low, axis.high) if value is not None and math.isfinite(value)]
    known += [value for value, _ in axis.ticks or ()]
    if axis.is_log:
        return _log_scale(axis, [value for value in known if value > 0] or [1.0])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if axis.ticks is not None:
        pad = 0.06 * (high - low) or 0.5
        return Scale(low - pad, high + pad, False, tuple(axis.ticks))
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spread = abs(low) / 10 if abs(low) > 1e-12 else axis.span
        low, high = low - (spread if axis.low is None else 0.0), high + spread
    step = _round_step((high - low) / wanted_ticks)
    first = math.floor(low / step + 1e-9) if axis.low is None else low / step
    last = math.ceil(high / step - 1e-9)
    marks = [float(f"{index * step:.12g}") for index in range(math.ceil(first - 1e-9), last + 1)]
    return Scale(first * step, last * step, False, tuple((mark, axis.text(mark)) for mark in marks))


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _log_scale(axis: Axis, values: Sequence[float]) -> Scale:
    low, high = min(values), max(values)
    if axis.ticks is not None:
        stretch = (high / low) ** 0.06 if high > low else 2.0
        return Scale(low / stretch, high * stretch, True, tuple(axis.ticks))
    low, high = low / 1.25, high * 1.25
    marks = [factor * 10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
             for factor in ((1, 2, 5) if high / low < 100 else (1, 3) if high / low < 1000 else (1,))]
    return Scale(low, high, True, tuple((mark, axis.text(mark)) for mark in marks if low <= mark <= high))
