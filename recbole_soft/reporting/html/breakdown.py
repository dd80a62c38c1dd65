"""Hit rate by popularity of the target and by length of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_soft.reporting.html.charts import Point, Series, chart
from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.scales import Axis, percent
from recbole_soft.reporting.html.tables import Column, Valued, figure, table
from recbole_soft.reporting.html.view import DataGroup, Method, Section, left_for_room
from recbole_soft.statistics.metrics import wilson_interval

BINS = 4
WIDTH_OF_BIN = 0.6
LEAST_SHARE = 0.05
WHAT = {
    "popularity": ("By popularity of the target", "training windows with this target"),
    "history": ("By length of the history", "items in the history"),
}


@dataclass(frozen=True)
class Bin:
    """Test windows whose value lies in [low, high].

    Attributes:
        rows: [n] bool.
    """

    low: int
    high: int
    rows: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"

    @property
    def count(self) -> int:
        return int(self.rows.sum())


def section(groups: Sequence[DataGroup]) -> Section:
    """Breakdowns of every data set that has them."""
    title = "Where hits come from"
    bodies = [body for group in groups if (body := _of_group(group)) is not None]
    if not bodies:
        return Section(title, reason="the ranks of these runs do not say popularity and history length of the windows "
                                     "(run again to have them)")
    return Section(title, [tag("p", "Test windows in parts; intervals are Wilson's, 95 %, over the windows of a part, "
                                    "with hits averaged over seeds."), bodies])


def bins_of(values: np.ndarray, most: int = BINS) -> list[Bin]:
    """Parts of about equal size; few distinct values have a part each, and so has 0 unless it is rare."""
    distinct = np.unique(values)
    if len(distinct) <= most:
        return [Bin(int(value), int(value), values == value) for value in distinct]
    starts = [0] if (values == 0).mean() >= LEAST_SHARE else []
    rest = values[values > 0] if starts else values
    parts = most - len(starts)
    cuts = np.quantile(rest, np.arange(1, parts) / parts, method="inverted_cdf")
    edges = [*starts, *np.unique(cuts), distinct[-1]]
    found, below = [], -1
    for edge in dict.fromkeys(int(edge) for edge in edges):
        rows = (values > below) & (values <= edge)
        if rows.any():
            found.append(Bin(int(values[rows].min()), int(values[rows].max()), rows))
        below = edge
    return found


def _of_group(group: DataGroup) -> Html | None:
    parts = [_by(group, column) for column in WHAT]
    return tag("div", tag("h3", group.name, class_="data-name"), parts) if any(parts) else None


def _by(group: DataGroup, column: str) -> Html | None:
    metric = group.metric("HR@20", "HR@10", "HR@5", "HR@1")
    tables = [result.table.columns.get(column) for method in group.methods for result in method.results]
    values = next((found for found in tables if found is not None), None)
    title, label = WHAT[column]
    if values is None or metric is None:
        return None
    bins = bins_of(values)
    if len(bins) < 2:
        return tag("p", f"{title}: not shown, it is {bins[0].name} in every window.", class_="left-out")
    shares = {method.name: _shares(method, bins, int(metric.partition("@")[2])) for method in group.methods}
    shown = group.foremost(group.methods)
    ticks = [(place, f"{part.name}\nn = {part.count}") for place, part in enumerate(bins)]
    step = WIDTH_OF_BIN / max(1, len(shown) - 1)
    series = [Series(method.name, [
        Point(place + order * step - (WIDTH_OF_BIN / 2 if len(shown) > 1 else 0), share,
              f"{share:.1%} [{low:.1%}, {high:.1%}] of {part.count} windows", low, high)
        for place, (part, (share, low, high)) in enumerate(zip(bins, shares[method.name], strict=True))
    ], method.number, is_joined=False) for order, method in enumerate(shown)]
    drawing = chart(title, series, Axis(label, ticks=ticks), Axis(metric, low=0.0, text=percent))
    note = f"{metric} of the n test windows in each part." + left_for_room(shown, group.methods)
    return tag("div", figure(title, drawing, series, note), _table(group, bins, shares, metric, label), class_="beside")


def _shares(method: Method, bins: Sequence[Bin], cutoff: int) -> list[tuple[float, float, float]]:
    hits = np.mean([result.ranks <= cutoff for result in method.results], axis=0)
    found = [(part.count, float(hits[part.rows].sum())) for part in bins]
    return [(hit / count, *wilson_interval(hit, count)) for count, hit in found]


def _table(group: DataGroup, bins: Sequence[Bin], shares: dict[str, list[tuple[float, float, float]]], metric: str,
           label: str) -> Html:
    columns = [Column("method"), *(Column(part.name, True, f"{part.count} windows") for part in bins)]
    rows = [[method.name, *(_cell(*share) for share in shares[method.name])] for method in group.methods]
    return table(columns, rows, f"{metric} on {group.name} by {label}")


def _cell(share: float, low: float, high: float) -> Valued:
    return Valued(share, [f"{share:.1%}", tag("span", f"[{low:.1%}, {high:.1%}]", class_="range")])
