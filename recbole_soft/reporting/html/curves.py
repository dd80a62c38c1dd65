"""Curves of training: losses, the weight tau and the distance d_t of the curriculum, validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from recbole_soft.reporting.html.charts import Point, Series, chart
from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.scales import Axis
from recbole_soft.reporting.html.tables import Column, figure, figures, number_cell, table
from recbole_soft.reporting.html.view import DataGroup, Method, Section, left_for_room, mean_of

LOSSES = {"loss_sft": "true answers", "loss_sdft": "own answers"}
# The same kind of answers has the same colour in every drawing; true ones of the supervised stage have their own.
COLOUR_OF = {("loss_sft", True): 0, ("loss_sft", False): 1, ("loss_sdft", False): 2}
DRAWN_AT_ONCE = 6
Row = Mapping[str, Any]


def section(groups: Sequence[DataGroup]) -> Section:
    """All curves, by data set."""
    bodies = [body for group in groups if (body := _of_group(group)) is not None]
    if not bodies:
        return Section("Training curves", reason="no run was trained for two epochs or more")
    return Section("Training curves", [
        tag("p", "One line per method, the mean over its seeds; where seeds stopped at different epochs, over those "
                 "that were still training. Losses are means per token of the response."), bodies])


def _of_group(group: DataGroup) -> Html | None:
    common = [
        _overlaid(group, "tau", "Weight tau of the model's own answers", "tau",
                  "1: own answers alone; 0: true answers alone.", low=0.0, high=1.0),
        _overlaid(group, "distance", "Distance d_t to the true items", "d_t",
                  "Mean L2 distance between answers and targets on fixed training windows, before each epoch."),
        _validation(group),
    ]
    trained = [method for method in group.methods if _own_rows(method)]
    losses = [drawing for method in trained if (drawing := _losses(method)) is not None]
    first, more = losses[:DRAWN_AT_ONCE], losses[DRAWN_AT_ONCE:]
    if not any(common) and not losses:
        return None
    return tag("div", tag("h3", group.name, class_="data-name"), figures(*common) if any(common) else None,
               tag("h4", "Training loss by method", class_="row-title") if losses else None,
               figures(*first) if first else None,
               tag("details", tag("summary", f"{len(more)} more methods"), figures(*more)) if more else None)


def _own_rows(method: Method) -> list[Row]:
    """Epochs of the stage that the method is named by, over all seeds."""
    return [row for result in method.results for row in result.run.curves_by_stage.get(_stage(result), [])
            if row.get("loss_total") is not None]


def _stage(result) -> str:
    """Traditional models write their epochs under `train`, and their result under `test`."""
    return "train" if result.stage == "test" and "test" not in result.run.curves_by_stage else result.stage


def mean_curve(rows: Iterable[Row], value: Callable[[Row], float | None]) -> list[Point]:
    """Mean over seeds per epoch, counted from 1."""
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        found = value(row)
        if found is not None:
            by_epoch.setdefault(row["epoch"] + 1, []).append(found)
    return [Point(epoch, mean_of(values), f"epoch {epoch}: {mean_of(values):.4f}"
                  + (f" (mean of {len(values)} seeds)" if len(values) > 1 else ""))
            for epoch, values in sorted(by_epoch.items())]


def _overlaid(group: DataGroup, key: str, title: str, label: str, note: str, **ends: float) -> Html | None:
    having = [method for method in group.methods if any(row.get(key) is not None for row in _own_rows(method))]
    shown = group.foremost(having)
    series = [Series(method.name, mean_curve(_own_rows(method), lambda row: row.get(key)), method.number)
              for method in shown]
    return _drawn(title, series, label, note + left_for_room(shown, having), **ends)


def _validation(group: DataGroup) -> Html | None:
    runs = group.runs
    metric = next((key for key in _validation_keys(runs) if all(
        any(row.get(key) is not None for row in run.raw["curves"]) for run in runs if run.raw["curves"])), None)
    if metric is None:
        return None
    having = [method for method in group.methods if any(row.get(metric) is not None for row in _own_rows(method))]
    shown = group.foremost(having)
    series = [Series(method.name, mean_curve(_own_rows(method), lambda row: row.get(metric)), method.number)
              for method in shown]
    name = metric_name(metric.removeprefix("valid_"))
    return _drawn(f"{name} on validation", series, name,
                  "What chooses the epoch that is tested." + left_for_room(shown, having), low=0.0)


def metric_name(name: str) -> str:
    """RecBole's `hit@10` as everywhere else on the page: `HR@10`."""
    kind, at, cutoff = name.partition("@")
    return {"hit": "HR", "ndcg": "NDCG"}.get(kind.lower(), kind) + at + cutoff


def _validation_keys(runs) -> list[str]:
    """Validation metrics, the one that decided between epochs first."""
    decided = [f"valid_{str(run.config.get('valid_metric', '')).lower()}" for run in runs]
    return list(dict.fromkeys([*decided, "valid_hit@10", "valid_ndcg@10"]))


def _losses(method: Method) -> Html | None:
    """Losses of a method's own stage by kind of answer, beside those of the supervised stage before it."""
    series = []
    stages = dict.fromkeys(stage for result in method.results for stage in _stages_until(result))
    for stage in stages:
        rows = [row for result in method.results for row in result.run.curves_by_stage.get(stage, [])]
        kinds = {key: label for key, label in LOSSES.items() if any(row.get(key) is not None for row in rows)}
        for key, label in (kinds or {"loss_total": "loss"}).items():
            points = mean_curve(rows, lambda row, key=key: row.get(key))
            if points:
                name = f"stage {stage}: {label}" if kinds else f"stage {stage}"
                series.append(Series(name, points, COLOUR_OF.get((key, stage == "sft"), 3 + len(series))))
    return _drawn(method.name, series, "loss", None)


def _stages_until(result) -> list[str]:
    stages = list(result.run.curves_by_stage)
    own = _stage(result)
    return stages[: stages.index(own) + 1] if own in stages else []


def _drawn(title: str, series: Sequence[Series], label: str, note: str | None, **ends: float) -> Html | None:
    """A figure over epochs; a single epoch is no curve."""
    epochs = [point.x for one in series for point in one.points]
    if len(set(epochs)) < 2:
        return None
    step = max(1, round((max(epochs) - 1) / 8))
    ticks = [(epoch, str(epoch)) for epoch in range(1, int(max(epochs)) + 1, step)]
    drawing = chart(title, series, Axis("epoch", ticks=ticks), Axis(label, **ends))
    columns = [Column("epoch", True), *(Column(one.name, True) for one in series)]
    values = [{point.x: point.y for point in one.points} for one in series]
    rows = [[epoch, *(number_cell(of.get(epoch)) for of in values)] for epoch in sorted(set(epochs))]
    return figure(title, drawing, series, note, table(columns, rows, f"{title} by epoch", is_sortable=False))
