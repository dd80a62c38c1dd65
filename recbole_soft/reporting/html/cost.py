"""Quality against time and memory."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_soft.reporting.html.charts import Point, Series, chart
from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.scales import Axis
from recbole_soft.reporting.html.tables import Column, duration, figure, figures, number_cell, table
from recbole_soft.reporting.html.view import (
    DataGroup,
    Method,
    Section,
    has_reused_parts,
    left_for_room,
    mean_of,
    peak_memory_mb,
    training_seconds,
)


def section(groups: Sequence[DataGroup]) -> Section:
    """One drawing for time, one for memory, by data set."""
    bodies = [body for group in groups if (body := _of_group(group)) is not None]
    if not bodies:
        return Section("Quality against time and memory", reason="no record holds times of training")
    return Section("Quality against time and memory", [
        tag("p", "Time is that of getting a method's weights: its stage and those before it, with validation and "
                 "self-distillation. Memory is the highest of the run's process, evaluation included. "
                 "Compare only what ran on the same machine."), bodies])


def _of_group(group: DataGroup) -> Html | None:
    metric = group.metric("NDCG@20", "NDCG@10", "NDCG@5", "NDCG@1")
    if metric is None:
        return None
    methods = [method for method in group.methods if _seconds(method)]
    if not methods:
        return None
    machines = {str(run.raw.get("machine")) for run in group.runs}
    note = f" The runs are of {len(machines)} machines: times do not compare across them." * (len(machines) > 1)
    drawings = [_time(group, methods, metric, note), _memory(group, metric)]
    return tag("div", tag("h3", group.name, class_="data-name"), figures(*drawings),
               _table(methods, metric, group.name))


def _seconds(method: Method) -> float | None:
    return mean_of(map(training_seconds, method.results))


def _time(group: DataGroup, methods: Sequence[Method], metric: str, note: str) -> Html:
    shown = group.foremost(methods)
    series = [Series(method.name, [Point(_seconds(method), method.mean(metric),
                                         f"{metric} {method.mean(metric):.4f} after {duration(_seconds(method)).shown}",
                                         is_hollow=any(map(has_reused_parts, method.results)))],
                     method.number, is_joined=False) for method in shown]
    drawing = chart(f"{metric} against training time", series, Axis("seconds of training", is_log=True),
                    Axis(metric, low=0.0))
    hollow = " Hollow: parts were reused, their time is that of the epochs where they were made, without generation." \
        if any(point.is_hollow for one in series for point in one.points) else ""
    return figure(f"{metric} against time", drawing, series,
                  f"Means over seeds; to the left is faster.{hollow}{left_for_room(shown, methods)}{note}")


def _memory(group: DataGroup, metric: str) -> Html | None:
    """One point per run's last method: a process has one peak, whatever ran in it."""
    places = {place for run in group.runs if (place := peak_memory_mb(run))}
    if not places:
        return None
    kind = "GPU" if any(name == "GPU" for name, _ in places) else "main"
    found = []
    for method in group.methods:
        peaks = [peak[1] for result in method.results if result is result.run.results[-1]
                 and (peak := peak_memory_mb(result.run)) and peak[0] == kind]
        if peaks:
            found.append((method, mean_of(peaks)))
    shown = group.foremost(method for method, _ in found)
    series = [Series(method.name, [Point(peak, method.mean(metric),
                                         f"{metric} {method.mean(metric):.4f} at {peak:,.0f} MB")],
                     method.number, is_joined=False) for method, peak in found if method in shown]
    drawing = chart(f"{metric} against memory", series, Axis(f"MB of {kind} memory", low=0.0), Axis(metric, low=0.0))
    return figure(f"{metric} against memory", drawing, series,
                  "The last method of every run, means over seeds." + left_for_room(shown, found))


def _table(methods: Sequence[Method], metric: str, name: str) -> Html:
    columns = [Column("method"), Column(metric, True), Column("training", True), Column("memory, MB", True),
               Column("on the GPU, MB", True), Column("parameters", True), Column("reused parts")]
    rows = []
    for method in methods:
        memory = [result.run.raw.get("peak_memory") or {} for result in method.results]
        size = mean_of((result.run.raw.get("language_model") or {}).get("parameters") for result in method.results)
        rows.append([method.name, number_cell(method.mean(metric)), duration(_seconds(method)),
                     _whole(mean_of(one.get("resident_mb") for one in memory)),
                     _whole(mean_of(one.get("gpu_mb") or None for one in memory)), _whole(size),
                     "yes" if any(map(has_reused_parts, method.results)) else "no"])
    return table(columns, rows, f"Cost on {name}, means over seeds")


def _whole(value: float | None):
    cell = number_cell(value, 0)
    return type(cell)(cell.value, None if value is None else f"{value:,.0f}")
