"""From methods to a table with its statistics: means over seeds, intervals, tests against a baseline, gains.

`compare` does it from records alone. What the numbers mean is said in docs/comparing.md; how they are shown is the
business of `comparison_formats.py` and of the HTML report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recbole_soft.errors import nearest
from recbole_soft.reporting.comparable import check_comparable, mixed_versions
from recbole_soft.reporting.methods import Method, group_methods
from recbole_soft.reporting.records import RecordError, RunRecord
from recbole_soft.statistics.metrics import bootstrap_interval, is_metric, metric_values, wilson_interval
from recbole_soft.statistics.paired import PairedTest, between_seeds, holm, paired_tests, windows_needed

SHOWN = ("HR@5", "HR@20", "NDCG@5", "NDCG@20")
ALPHA = 0.05


@dataclass
class Cell:
    """One metric of one method.

    Attributes:
        mean: over seeds and windows; spread: standard deviation over seeds, None with one.
        low, high: 95 % interval over test windows, of the mean over seeds.
        by_seed: means over windows, one per seed.
        place: 1 for the best of the table, 2 for the second, else 0; equal values share a place.
        gain: over the best other fine-tuning strategy of the same model, 0.1 for ten percent; None where there is none.
        test: against the baseline; None for the baseline itself and without one.
        p_holm: its p-value after Holm's correction over the whole block.
        p_seeds, p_seeds_holm: of Welch's test over seeds, plain and corrected; not-a-number with one seed.
    """

    mean: float
    spread: float | None
    low: float
    high: float
    by_seed: list[float]
    place: int = 0
    gain: float | None = None
    test: PairedTest | None = None
    p_holm: float = float("nan")
    p_seeds: float = float("nan")
    p_seeds_holm: float = float("nan")

    @property
    def is_significant(self) -> bool:
        """Whether it differs from the baseline over the test windows, after Holm."""
        return self.p_holm < ALPHA

    @property
    def holds_over_seeds(self) -> bool:
        """Whether it is significant and would, by Welch's test after Holm, also differ between newly trained models."""
        return self.is_significant and self.p_seeds_holm < ALPHA

    def windows_needed(self, windows: int, difference: float | None = None) -> float | None:
        """Test windows needed to find `difference` (default: the observed one) at 5 % with power 80 %."""
        if self.test is None:
            return None
        sought = self.test.difference if difference is None else difference
        return windows_needed(self.test.standard_error, windows, sought, ALPHA)


@dataclass
class MethodRow:
    """A method with its cells by metric.

    Attributes:
        gain: mean of the cells' gains, as the paper's abstract averages them; None unless all cells have one.
        gain_over: labels of the strategies that the gains are over, by metric.
        values: [s, n, m] by seed, test window and metric.
    """

    method: Method
    cells: dict[str, Cell]
    gain: float | None = None
    gain_over: dict[str, str] = field(default_factory=dict)
    values: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)), repr=False)


@dataclass
class Block:
    """The table of one data set.

    Attributes:
        baseline: label of the row that others are tested against; None where there is none.
        windows, users, items: test windows, users they belong to (None where unknown), items ranked.
        notes: what a reader has to know, one sentence each.
    """

    dataset: str
    metrics: list[str]
    rows: list[MethodRow]
    baseline: str | None
    windows: int
    users: int | None
    items: int
    mask_history: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """One block per data set, in the order of the runs."""

    blocks: list[Block]

    @property
    def methods(self) -> list[Method]:
        return [row.method for block in self.blocks for row in block.rows]


def compare(records: Iterable[RunRecord], metrics: Sequence[str] = SHOWN, baseline: str | None = None) -> Comparison:
    """A comparison of runs; runs that differ in nothing but their seed become one row.

    Args:
        metrics: such as `HR@5`.
        baseline: label or name of the method to test against; None takes the first SFT row of each data set, if any.

    Raises:
        RecordError: the runs cannot be compared, or there is no such baseline.
        ValueError: an unknown metric.
    """
    methods = group_methods(records)
    if baseline:
        check_baseline(methods, baseline)
    return compare_methods(methods, metrics, baseline)


def check_baseline(methods: Sequence[Method], baseline: str) -> None:
    """Whether there is such a row.

    Raises:
        RecordError: there is none.
    """
    if _find(methods, baseline) is None:
        raise RecordError(f"there is no method '{baseline}' to compare with", where="baseline",
                          remedy=nearest(baseline, {method.label for method in methods}))


def compare_methods(methods: Sequence[Method], metrics: Sequence[str] = SHOWN, baseline: str | None = None,
                    notes: Mapping[str, Sequence[str]] | None = None) -> Comparison:
    """`compare` for methods whose labels and seeds are already decided; `notes` are sentences by data set.

    A data set without the baseline has no tests, and a note says so.
    """
    metrics = list(dict.fromkeys(metrics))  # a metric twice would count twice in Holm's correction
    unknown = [name for name in metrics if not is_metric(name)]
    if unknown:
        raise RecordError(f"{unknown[0]} is no metric", where="metrics", remedy="for example HR@5 or NDCG@20")
    datasets = dict.fromkeys(method.dataset for method in methods)
    by_dataset = [[method for method in methods if method.dataset == dataset] for dataset in datasets]
    for of_dataset in by_dataset:
        check_comparable([result.run for method in of_dataset for result in method.results])
    comparison = Comparison([_block(of_dataset, metrics, baseline) for of_dataset in by_dataset])
    for block in comparison.blocks:
        block.notes[:0] = (notes or {}).get(block.dataset, ())
    return comparison


def _block(methods: list[Method], metrics: list[str], baseline: str | None) -> Block:
    users = _users(methods)
    values = [np.stack([metric_values(method.ranks, name) for name in metrics], axis=-1) for method in methods]
    rows = [MethodRow(method, _summaries(of_method, metrics, users), values=of_method)
            for method, of_method in zip(methods, values, strict=True)]
    _mark_places(rows, metrics)
    _add_gains(rows, metrics)
    base = _find(methods, baseline) if baseline else _default_baseline(methods)
    run = methods[0].results[0].run
    block = Block(run.dataset, metrics, rows, base and base.label, len(methods[0].results[0].ranks),
                  None if users is None else len(np.unique(users)), run.data["items"],
                  str(run.protocol.get("mask_history")),
                  mixed_versions([result.run for method in methods for result in method.results]))
    if base is not None:
        _add_tests(rows, metrics, next(row for row in rows if row.method is base), users)
        if any(method.seeds != base.seeds and _shared_seeds(method, base) for method in methods):
            block.notes.append(f"tests take the seeds that a method has in common with {base.label}; means take all")
    elif baseline:
        block.notes.append(f"no tests: '{baseline}' has no run on this data set")
    return block


def _users(methods: Sequence[Method]) -> np.ndarray | None:
    """[n] user of each test window, from the first run that wrote them."""
    tables = (result.table for method in methods for result in method.results)
    return next((table.columns["user"] for table in tables if "user" in table.columns), None)


def _summaries(values: np.ndarray, metrics: Sequence[str], users: np.ndarray | None) -> dict[str, Cell]:
    """Cells from values [s, n, m] by seed, window and metric."""
    lows, highs = bootstrap_interval(values.mean(0), groups=users)
    by_seed, cells = values.mean(1), {}
    for column, name in enumerate(metrics):
        means, low, high = by_seed[:, column], float(lows[column]), float(highs[column])
        if name.startswith("HR") and not means.any():  # where nothing is hit, resampling finds nothing either
            low, high = wilson_interval(0, values.shape[1])
        spread = float(means.std(ddof=1)) if len(means) > 1 else None
        cells[name] = Cell(float(means.mean()), spread, low, high, means.tolist())
    return cells


def _mark_places(rows: Sequence[MethodRow], metrics: Sequence[str]) -> None:
    for name in metrics:
        means = sorted({round(row.cells[name].mean, 12) for row in rows}, reverse=True)
        for row in rows:
            place = means.index(round(row.cells[name].mean, 12)) + 1
            row.cells[name].place = place if place <= 2 and len(means) > 1 else 0


def _add_gains(rows: Sequence[MethodRow], metrics: Sequence[str]) -> None:
    """Gains over the best other fine-tuning strategy of the same model, as in the paper's Table 2.

    Where rows of other strategies were trained with the very same settings, they alone are the others: two language
    models, or two learning rates, in one table do not stand against each other.

    SOFT and its ablation SOFT_woSA are not each other's "other strategy": with this reading, and with no other, the
    published numbers average to the 37.6 % of the paper's abstract.
    """
    for row in rows:
        strategy = row.method.strategy
        others = [other for other in rows if strategy and other.method.strategy
                  and other.method.model == row.method.model and _family(other.method.strategy) != _family(strategy)]
        training = row.method.training if others else None
        others = [other for other in others if other.method.training == training] or others
        for name in metrics if others else ():
            best = max(others, key=lambda other, name=name: other.cells[name].mean)
            row.gain_over[name] = best.method.label
            if best.cells[name].mean > 0:
                row.cells[name].gain = row.cells[name].mean / best.cells[name].mean - 1
        gains = [row.cells[name].gain for name in metrics]
        row.gain = None if None in gains else float(np.mean(gains))


def _family(strategy: str) -> str:
    return strategy.split("_")[0]


def _add_tests(rows: Sequence[MethodRow], metrics: Sequence[str], base_row: MethodRow,
               users: np.ndarray | None) -> None:
    """Tests of every row against the baseline; Holm's family is all tests of the block."""
    tested = []
    for row in rows:
        if row is base_row:
            continue
        shared = _shared_seeds(row.method, base_row.method)
        own, against = (_of_seeds(one, shared) for one in (row, base_row))
        tests = paired_tests(own.mean(0) - against.mean(0), [name.startswith("HR") for name in metrics], users,
                             is_single_run=len(own) == len(against) == 1)
        is_chance = any(_differs_by_seed(one.method) for one in (row, base_row))
        for name, test in zip(metrics, tests, strict=True):
            cell = row.cells[name]
            cell.test = test
            cell.p_seeds = between_seeds(np.array(cell.by_seed), np.array(base_row.cells[name].by_seed), is_chance)
            tested.append(cell)
    corrected = holm(np.array([cell.test.p_value for cell in tested]))
    corrected_seeds = holm(np.array([cell.p_seeds for cell in tested]))
    for cell, p_holm, p_seeds in zip(tested, corrected, corrected_seeds, strict=True):
        cell.p_holm, cell.p_seeds_holm = float(p_holm), float(p_seeds)


def _differs_by_seed(method: Method) -> bool:
    return bool((method.ranks != method.ranks[:1]).any())


def _shared_seeds(one: Method, other: Method) -> list[int]:
    """Seeds of both: what a seed gives both alike (the SFT stage they start from) is no difference between them."""
    return [seed for seed in one.seeds if seed in other.seeds]


def _of_seeds(row: MethodRow, seeds: Sequence[int]) -> np.ndarray:
    """A row's values [s, n, m] for some of its seeds, for all where none are named."""
    own = row.method.seeds
    return row.values[[own.index(seed) for seed in seeds or own]]


def _find(methods: Sequence[Method], wanted: str) -> Method | None:
    """A method by its label or name; `BIGRec_SFT` and `bigrec sft` are the same."""
    folded = wanted.replace("_", " ").lower()
    for spelling in (lambda method: method.label, lambda method: method.name):
        for method in methods:
            if spelling(method).replace("_", " ").lower() == folded:
                return method
    return None


def _default_baseline(methods: Sequence[Method]) -> Method | None:
    return next((method for method in methods if method.strategy == "SFT"), None)
