"""The alpha sweep: runs that differ in nothing but alpha and the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_soft.artifacts import content_key
from recbole_soft.reporting.html.charts import Point, Series, chart
from recbole_soft.reporting.html.curves import metric_name
from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.scales import Axis, number
from recbole_soft.reporting.html.tables import Column, figure, figures, number_cell, table
from recbole_soft.reporting.html.view import DataGroup, Method, Section, mean_of, spread_of
from recbole_soft.reporting.methods import telling_settings
from recbole_soft.reporting.records import RunResult

# What is swept, and what differs between machines.
BESIDE_THE_POINT = ("alpha", "device", "worker")
SWEPT_SCHEDULE = "exponential"
MOST_TICKS = 7


def section(groups: Sequence[DataGroup]) -> Section:
    """Test and validation metrics against alpha."""
    bodies = [body for group in groups for body in _sweeps(group)]
    if not bodies:
        return Section("Alpha sweep", reason="no two runs differ in alpha alone")
    return Section("Alpha sweep", [
        tag("p", "The larger alpha, the faster training moves from the model's own answers to the true ones. "
                 "To be chosen on validation; the test figures show what the choice would have meant."), bodies])


def _sweeps(group: DataGroup) -> list[Html]:
    families: dict[str, list[RunResult]] = {}
    for method in group.methods:
        for result in method.results:
            config = result.run.config
            is_last = result is result.run.results[-1]
            if is_last and config.get("alpha") is not None and config.get("schedule") == SWEPT_SCHEDULE:
                same = {key: value for key, value in telling_settings(result).items() if key not in BESIDE_THE_POINT}
                families.setdefault(content_key(label=result.label, **_json_keys(same)), []).append(result)
    return [_sweep(group, found) for found in families.values()
            if len({result.run.config["alpha"] for result in found}) > 1]


def _json_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"config": dict(config)}


def _sweep(group: DataGroup, results: Sequence[RunResult]) -> Html:
    label = results[0].label
    alphas = sorted({result.run.config["alpha"] for result in results})
    metrics = [name for name in ("HR@5", "HR@20", "NDCG@5", "NDCG@20") if all(name in one.metrics for one in results)]
    shown = metrics[1::2] or metrics[:1]
    drawings = [_metric(group, results, alphas, name) for name in shown]
    drawings.append(_validation(results, alphas))
    rows = []
    for alpha in alphas:
        of_alpha = [result for result in results if result.run.config["alpha"] == alpha]
        means = [mean_of(result.metrics[name]["value"] for result in of_alpha) for name in metrics]
        valid = mean_of(result.valid_score for result in of_alpha)
        rows.append([alpha, len(of_alpha), number_cell(valid), *map(number_cell, means)])
    columns = [Column("alpha", True), Column("seeds", True), Column("validation", True),
               *(Column(name, True) for name in metrics)]
    return tag("div", tag("h3", f"{label} on {group.name}"), figures(*drawings),
               table(columns, rows, f"{label} on {group.name} by alpha, means over seeds"))


def _metric(group: DataGroup, results: Sequence[RunResult], alphas: Sequence[float], name: str) -> Html:
    points = [_point(alpha, [one.metrics[name] for one in results if one.run.config["alpha"] == alpha])
              for alpha in alphas]
    levels = _reference_levels(group, results, name)
    note = "Bars: standard deviation over seeds, or the interval over windows of a single seed."
    return _drawn(f"{name} on test", name, points, alphas, note, levels)


def _point(alpha: float, metrics: Sequence[Mapping[str, float]]) -> Point:
    values = [metric["value"] for metric in metrics]
    mean, spread = mean_of(values), spread_of(values)
    low, high = (metrics[0]["low"], metrics[0]["high"]) if spread is None else (mean - spread, mean + spread)
    return Point(alpha, mean, f"{mean:.4f} ({len(values)} seed{'s' * (len(values) > 1)})", max(0.0, low), high)


def _validation(results: Sequence[RunResult], alphas: Sequence[float]) -> Html:
    points = []
    for alpha in alphas:
        values = [one.valid_score for one in results if one.run.config["alpha"] == alpha]
        mean, spread = mean_of(values), spread_of([value for value in values if value is not None])
        if mean is not None:
            ends = (None, None) if spread is None else (max(0.0, mean - spread), mean + spread)
            points.append(Point(alpha, mean, f"{mean:.4f}", *ends))
    name = metric_name(str(results[0].run.config.get("valid_metric", "metric")))
    return _drawn(f"{name} on validation", name, points, alphas, "Best epoch of the last stage.", [])


def _reference_levels(group: DataGroup, results: Sequence[RunResult], name: str) -> list[tuple[float, str]]:
    """What the same language model reaches without the scheduler: supervised, and on its own answers alone."""
    first = [result.run.results[0] for result in results if result.run.results[0] is not result]
    levels = [(mean_of(one.metrics[name]["value"] for one in first), "SFT")] if first else []
    base = results[0].label.partition(" ")[0]
    alone = next((method for method in group.methods if method.results[0].label == f"{base} SOFT w/o SA"), None)
    return levels + _level_of(alone, name)


def _level_of(method: Method | None, name: str) -> list[tuple[float, str]]:
    mean = method.mean(name) if method else None
    return [] if mean is None else [(mean, "w/o SA")]


def _drawn(title: str, label: str, points: Sequence[Point], alphas: Sequence[float], note: str,
           levels: Sequence[tuple[float, str]]) -> Html:
    ticks = [(alpha, number(alpha)) for alpha in alphas] if len(alphas) <= MOST_TICKS else None
    axis = Axis("alpha", is_log=min(alphas) > 0, ticks=ticks)
    return figure(title, chart(title, [Series(label, points)], axis, Axis(label, low=0.0), levels), note=note)
