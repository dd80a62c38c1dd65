"""Records of runs, arranged for the page: which results are one method, in which colour, at which cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from recbole_soft.reporting.comparison import Block, Comparison, MethodRow
from recbole_soft.reporting.records import RunRecord, RunResult

MOST_IN_A_CHART = 8
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


@dataclass(frozen=True, eq=False)
class Method:
    """A row of the comparison: results of the same settings on the same test windows, one per seed.

    Attributes:
        row: with the statistics.
        number: place of its colour, the same on every data set.
    """

    row: MethodRow
    number: int

    @property
    def name(self) -> str:
        """As the comparison calls it."""
        return self.row.method.label

    @property
    def results(self) -> tuple[RunResult, ...]:
        """One per seed."""
        return self.row.method.results

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the seeds that have it."""
        return mean_of(result.metrics[metric]["value"] for result in self.results if metric in result.metrics)


@dataclass(frozen=True)
class DataGroup:
    """Methods that were tested on the same windows of the same data.

    Attributes:
        block: the comparison's table of them.
        methods: in the order of the comparison.
    """

    block: Block
    methods: tuple[Method, ...]

    @property
    def name(self) -> str:
        """The data set."""
        return self.block.dataset

    @property
    def runs(self) -> list[RunRecord]:
        """Every run once."""
        return list(dict.fromkeys(result.run for method in self.methods for result in method.results))

    def metric(self, *wanted: str) -> str | None:
        """The first of the wanted metrics that every result has."""
        shared = [set(result.metrics) for method in self.methods for result in method.results]
        return next((name for name in wanted if all(name in one for one in shared)), None)

    def foremost(self, methods: Iterable[Method]) -> list[Method]:
        """As many of the methods as one chart can show, the best by the table's last metric, in their own order."""
        rows = {id(method.row): method for method in methods}
        return [rows[id(row)] for row in _foremost(self.block, [method.row for method in rows.values()])]


@dataclass(frozen=True)
class Section:
    """A part of the page; without a body it is left out, for `reason`."""

    title: str
    body: Any = None
    reason: str = ""


def groups_of(comparison: Comparison) -> list[DataGroup]:
    """The blocks of a comparison, with a colour for every method."""
    blocks = [(block, _in_order(block.rows)) for block in comparison.blocks]
    numbers: dict[str, int] = {}
    # Those that charts will show come first, so that they do not share a colour.
    for rows in [_foremost(block, rows) for block, rows in blocks] + [rows for _, rows in blocks]:
        for row in rows:
            numbers.setdefault(row.method.label, len(numbers))
    return [DataGroup(block, tuple(Method(row, numbers[row.method.label]) for row in rows)) for block, rows in blocks]


def _foremost(block: Block, rows: Sequence[MethodRow]) -> list[MethodRow]:
    """As many rows as a chart can show, the best by the last metric of the table, in their own order."""
    best = sorted(rows, key=lambda row: -row.cells[block.metrics[-1]].mean)[:MOST_IN_A_CHART]
    return [row for row in rows if any(row is one for one in best)]


def _in_order(rows: Sequence[MethodRow]) -> list[MethodRow]:
    """Rows of one label together, those that differ in a number by its size; else as the comparison has them."""
    first = {}
    for row in rows:
        first.setdefault(row.method.results[0].label, len(first))
    return sorted(rows, key=lambda row: (first[row.method.results[0].label], [
        float(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(row.method.label))]))


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of what is there."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def spread_of(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds, from two on."""
    return stdev(values) if len(values) > 1 else None


def left_for_room(shown: Sequence[Any], of: Sequence[Any]) -> str:
    """A word about methods that a chart does not show."""
    return "" if len(shown) == len(of) else f" Shown are the best {len(shown)} of {len(of)} by the table's last metric."


def training_seconds(result: RunResult) -> float | None:
    """Time to get the weights of a result: its stage and those before it, validation and self-distillation included.

    A stage whose weights an earlier run had trained counts with the epochs of that run.
    """
    run = result.run.raw
    if result.stage not in run["stages"]:
        return (run.get("seconds") or {}).get("training")
    stages = list(run["stages"])
    return sum(_stage_seconds(run, stage) for stage in stages[: stages.index(result.stage) + 1])


def _stage_seconds(run: Mapping[str, Any], stage: str) -> float:
    epochs = sum((row.get("train_seconds") or 0.0) + (row.get("valid_seconds") or 0.0)
                 for row in run["curves"] if row["stage"] == stage)
    return max(epochs, run["stages"][stage].get("seconds") or 0.0)


def has_reused_parts(result: RunResult) -> bool:
    """Whether the run took weights or a self-distilled set over, so that its time is put together."""
    raw = result.run.raw
    return any(stage.get("reused") for stage in raw["stages"].values()) or bool(
        ((raw.get("notes") or {}).get("self_distilled_set") or {}).get("reused"))


def peak_memory_mb(run: RunRecord) -> tuple[str, float] | None:
    """Where the run needed most of the scarcer memory (`GPU` or `main`), and how many MB."""
    memory = run.raw.get("peak_memory") or {}
    if memory.get("gpu_mb"):
        return "GPU", memory["gpu_mb"]
    return ("main", memory["resident_mb"]) if memory.get("resident_mb") else None
