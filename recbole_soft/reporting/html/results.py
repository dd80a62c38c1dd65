"""The comparison: means, intervals, what is best, what is significant; and every run by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from recbole_soft.reporting.comparison import Cell, MethodRow
from recbole_soft.reporting.html.charts import strip, strip_axis, swatch
from recbole_soft.reporting.html.markup import Html, joined, tag
from recbole_soft.reporting.html.scales import Axis, Scale, fitted
from recbole_soft.reporting.html.tables import Column, Valued, duration, number_cell, table
from recbole_soft.reporting.html.view import DataGroup, Section, training_seconds

PLACES = {1: "best", 2: "second"}
SIGNIFICANT, HOLDS_OVER_SEEDS = "*", "**"


def section(groups: Sequence[DataGroup]) -> Section:
    """The tables of the comparison, by data set."""
    return Section("Results", [_of_group(group) for group in groups])


def runs_section(groups: Sequence[DataGroup]) -> Section:
    """Every result of every run."""
    metrics = list(dict.fromkeys(name for group in groups for name in group.block.metrics))
    columns = [Column("method"), Column("data"), Column("seed", True), *(Column(name, True) for name in metrics),
               Column("epochs", True, "of the stage, until it stopped"), Column("training", True), Column("finished"),
               Column("run folder")]
    rows = []
    for group in groups:
        for method in group.methods:
            for result in method.results:
                run = result.run
                epochs = len(run.curves_by_stage.get("train" if result.stage == "test" else result.stage, []))
                values = [number_cell((result.metrics.get(name) or {}).get("value")) for name in metrics]
                written = str(run.raw.get("written") or "–")[:16].replace("T", " ")
                rows.append([method.name, group.name, run.seed, *values, epochs or None,
                             duration(training_seconds(result)), written, tag("code", run.place)])
    return Section("All runs", table(columns, rows, "One row per method and seed; a run of several stages has several"))


def _of_group(group: DataGroup) -> Html:
    block = group.block
    users = f" of {block.users:,} users" if block.users else ""
    about = (f"{block.windows:,} test windows{users}, full ranking of {block.items:,} items "
             f"(mask_history: {block.mask_history}).")
    notes = [tag("p", f"Note: {note}.", class_="left-out") for note in block.notes]
    return tag("div", tag("h3", group.name, class_="data-name"), tag("p", about, class_="soft"), _main_table(group),
               _legend(group), notes, _dot_plot(group), _tests(group))


def _main_table(group: DataGroup) -> Html:
    metrics = group.block.metrics
    has_gains = any(method.row.gain is not None for method in group.methods)
    columns = [Column("method"), Column("seeds", True), *(Column(name, True) for name in metrics)]
    if has_gains:
        columns.append(Column("gain", True, "over the best other fine-tuning strategy, mean of the metrics"))
    rows = []
    for method in group.methods:
        cells = [_cell(method.row.cells[name]) for name in metrics]
        gain = method.row.gain
        name = joined(swatch(method.number), " ", method.name)
        rows.append([Valued(method.name, name), len(method.results), *cells,
                     *([Valued(gain, None if gain is None else f"{gain:+.1%}")] if has_gains else [])])
    return table(columns, rows, f"Comparison on {group.name}")


def _cell(cell: Cell) -> Valued:
    mark = HOLDS_OVER_SEEDS if cell.holds_over_seeds else SIGNIFICANT if cell.is_significant else None
    said = {"*": "differs from the baseline", "**": "differs from the baseline, also over seeds"}.get(mark or "")
    spread = None if cell.spread is None else tag("span", f" ± {cell.spread:.4f}", class_="soft")
    place = PLACES.get(cell.place)
    return Valued(cell.mean, [
        tag("span", f"{cell.mean:.4f}", class_="value"), spread, tag("sup", mark, title=said) if mark else None,
        tag("span", f" {place}", class_="spoken") if place else None,
        tag("span", f"[{cell.low:.4f}, {cell.high:.4f}]", class_="range")], place)


def _legend(group: DataGroup) -> Html:
    several = any(len(method.results) > 1 for method in group.methods)
    spread = " ± is the standard deviation over seeds." if several else ""
    tested = "" if group.block.baseline is None else (
        f" {SIGNIFICANT} differs from {group.block.baseline} over the test windows (p < 0.05 after Holm's correction "
        f"for all tests of the table); {HOLDS_OVER_SEEDS} also between newly trained models (Welch's test over seeds).")
    gains = " Gain: over the best other fine-tuning strategy of the same model." \
        if any(method.row.gain is not None for method in group.methods) else ""
    return tag("p", tag("strong", "Bold"), " is best, ", tag("u", "underlined"), " second. Brackets: 95 % interval "
               f"over test windows.{spread}{tested}{gains}", class_="soft small")


def _dot_plot(group: DataGroup) -> Html:
    """Values and intervals of all methods on common scales, best first."""
    metrics = [name for name in ("HR@20", "NDCG@20") if name in group.block.metrics] or group.block.metrics[:1]
    scales = {name: _scale_of(group, name) for name in metrics}
    ordered = sorted(group.methods, key=lambda method: -method.row.cells[metrics[-1]].mean)
    columns = [Column("method"), *(Column([name, strip_axis(scales[name])]) for name in metrics)]
    rows = [[method.name, *(_strip(scales[name], method.row.cells[name], method.number) for name in metrics)]
            for method in ordered]
    return table(columns, rows, "At a glance: means and 95 % intervals, best first", is_sortable=False)


def _scale_of(group: DataGroup, name: str) -> Scale:
    cells = [method.row.cells[name] for method in group.methods]
    return fitted(Axis(name, low=0.0), [end for cell in cells for end in (cell.low, cell.high, cell.mean)])


def _strip(scale: Scale, cell: Cell, number: int) -> Valued:
    spoken = f"{cell.mean:.4f}, from {cell.low:.4f} to {cell.high:.4f}"
    drawing = strip(scale, cell.mean, cell.low, cell.high, number)
    return Valued(cell.mean, [drawing, tag("span", spoken, class_="spoken")], "strip-cell")


def _tests(group: DataGroup) -> Html | None:
    tested = [(method.row, name) for method in group.methods for name in group.block.metrics
              if method.row.cells[name].test is not None]
    if not tested:
        return None
    columns = [Column("method"), Column("metric"), Column("difference", True), Column("95 % interval", True),
               Column("p", True), Column("p, Holm", True), Column("p over seeds, Holm", True, "Welch's test"),
               Column("effect", True, "Cohen's d of the windows' differences"),
               Column("better / worse", True, "windows"),
               Column("windows needed", True, "to find this difference at 5 % with power 80 %"), Column("test")]
    rows = [_test_row(row, name, group.block.windows) for row, name in tested]
    return tag("details", tag("summary", f"Tests against {group.block.baseline}"),
               table(columns, rows, f"Every method against {group.block.baseline} on the same test windows"))


def _test_row(row: MethodRow, name: str, windows: int) -> list[Any]:
    cell, test = row.cells[name], row.cells[name].test
    needed = cell.windows_needed(windows)
    return [row.method.label, name, Valued(test.difference, f"{test.difference:+.4f}"),
            Valued(test.low, f"[{test.low:+.4f}, {test.high:+.4f}]"), _p_cell(test.p_value), _p_cell(cell.p_holm),
            _p_cell(cell.p_seeds_holm), Valued(test.effect, f"{test.effect:+.3f}"),
            Valued(test.wins - test.losses, f"{test.wins} / {test.losses}"),
            Valued(None, None) if needed is None or not math.isfinite(needed) else Valued(needed, f"{needed:,.0f}"),
            test.test]


def _p_cell(value: float) -> Valued:
    if math.isnan(value):
        return Valued(None, None)
    return Valued(value, "< 0.001" if value < 0.001 else f"{value:.3f}")
