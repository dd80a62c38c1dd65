"""How the cost of both ways grows with windows, items, history length and beams."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.inference import Generation
from benchmarks.measure import Measurement, Stage, measure
from benchmarks.stages import make_ranking
from benchmarks.training import SoftStep
from benchmarks.workbench import SEED, Windows, Workbench


@dataclass(frozen=True)
class Axis:
    """What is varied, over which values, and the stage for a value."""

    name: str
    values: tuple[int, ...]
    make: Callable[[Workbench, int], Stage]


def axes(is_quick: bool) -> list[Axis]:
    """All axes; fewer values when quick."""
    full = [
        Axis("windows of a SOFT step", (4, 8, 16, 32), lambda bench, n: SoftStep(bench, bench.train.take(0, n))),
        Axis("titles in the history", (2, 5, 10, 20), _step_with_history),
        Axis("prompts generated", (8, 16, 32, 64), lambda bench, n: Generation(bench, bench.test.prompts[:n])),
        Axis("beams", (1, 2, 4, 8), lambda bench, n: Generation(bench, bench.test.prompts[:16], n)),
        Axis("items ranked", (1000, 4000, 17000, 60000), lambda bench, n: make_ranking(bench, 256, n)),
        Axis("windows ranked", (64, 256, 1024), lambda bench, n: make_ranking(bench, n, 4000)),
    ]
    return [replace(axis, values=axis.values[:-1]) for axis in full] if is_quick else full


def measure_scaling(bench: Workbench, rounds: int, is_quick: bool) -> Iterator[tuple[str, int, Measurement]]:
    """(axis, value, measurement) one after the other."""
    for axis in axes(is_quick):
        for value in axis.values:
            yield axis.name, value, measure(axis.make(bench, value), rounds, bench.device)


def _step_with_history(bench: Workbench, titles: int, windows: int = 8) -> SoftStep:
    """A SOFT step whose histories have `titles` random titles."""
    draw = random.Random(SEED)
    histories = [draw.choices(bench.catalog.unique_titles, k=titles) for _ in range(windows)]
    taken = bench.train.take(0, windows)
    return SoftStep(bench, Windows(bench.model.encoder.prompts(histories), taken.targets, taken.others, taken.items))
