"""What language models answered: Figure 2 of the paper, first-epoch losses, validity and variety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_soft.reporting.html.charts import Point, Series, bar, chart
from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.scales import Axis, Scale
from recbole_soft.reporting.html.tables import Column, Valued, figure, figures, number_cell, percent_cell, table
from recbole_soft.reporting.html.view import DataGroup, Method, Section, left_for_room, mean_of
from recbole_soft.reporting.records import RunResult

Figures = Mapping[str, Any]
OWN_TRAINING_ANSWERS = "self_distillation"


def section(groups: Sequence[DataGroup]) -> Section:
    """Figures about answers, by data set."""
    bodies = [body for group in groups if (body := _of_group(group)) is not None]
    if not bodies:
        return Section("Answers of the language models", reason="no record holds figures about generated answers")
    return Section("Answers of the language models", [
        tag("p", "Test: what a method answers to the test windows. Self-distilled: what its supervised model answers to "
                 "the training windows, from which SOFT learns. An answer counts by the catalogue title nearest to it."),
        bodies])


def test_figures(method: Method) -> list[Figures]:
    """Figures about the answers to the test windows, of the seeds that have them."""
    return [found for result in method.results if (found := result.raw.get("answers"))]


def distilled_figures(method: Method) -> list[Figures]:
    """Figures about the self-distilled set, for methods that learn from one."""
    return [found for result in method.results if result is result.run.results[-1]
            and (found := (result.run.raw.get("notes") or {}).get(OWN_TRAINING_ANSWERS))]


def _of_group(group: DataGroup) -> Html | None:
    rows = _rows(group)
    if not rows:
        return None
    drawings = [_figure_2(group)]
    return tag("div", tag("h3", group.name), figures(*drawings) if any(drawings) else None,
               _table(rows, group.name), _first_epochs(group))


def _rows(group: DataGroup) -> list[tuple[Method, str, list[Figures]]]:
    found = [(method, "test", test_figures(method)) for method in group.methods]
    found += [(method, "self-distilled", distilled_figures(method)) for method in group.methods]
    return [(method, kind, of) for method, kind, of in found if of]


def _mean(of: Sequence[Figures], name: str) -> float | None:
    return mean_of(one.get(name) for one in of)


def _figure_2(group: DataGroup) -> Html | None:
    """Category accuracy against HR@1 (SOFT paper, Figure 2)."""
    rows = [row for row in _rows(group) if _mean(row[2], "category_accuracy") is not None]
    if not rows:
        return None
    shown = group.foremost(dict.fromkeys(method for method, _, _ in rows))
    series = []
    for method in shown:
        points = [Point(_mean(of, "hr_at_1"), _mean(of, "category_accuracy"),
                        f"{kind}: HR@1 {_mean(of, 'hr_at_1'):.2%}, category {_mean(of, 'category_accuracy'):.1%}",
                        is_hollow=kind == "self-distilled") for other, kind, of in rows if other is method]
        series.append(Series(method.name, points, method.number, is_joined=False))
    share = "{:.0%}".format
    fine = "{:.1%}".format
    drawing = chart("Category accuracy against HR@1", series, Axis("HR@1 of the nearest title", low=0.0, text=fine),
                    Axis("category accuracy", low=0.0, text=share))
    return figure("Category accuracy against HR@1", drawing, series,
                  "The paper's Figure 2: answers of the right category that are seldom the very item. Filled: test; "
                  "hollow: self-distilled." + left_for_room(shown, dict.fromkeys(method for method, _, _ in rows)))


def _table(rows: Sequence[tuple[Method, str, list[Figures]]], name: str) -> Html:
    columns = [Column("method"), Column("answers to"), Column("windows", True),
               Column("catalogue titles", True, "share of answers that are exactly a title"),
               Column("distinct answers", True), Column("windows per answer", True, "1: every answer is another"),
               Column("category", True, "share whose nearest title has the target's category"),
               Column("HR@1", True, "share whose nearest title is the target, before masking"),
               Column("distance", True, "mean L2 distance of answer and target")]
    body = []
    for method, kind, of in rows:
        windows, distinct = _mean(of, "windows"), _mean(of, "distinct_answers")
        body.append([method.name, kind, number_cell(windows, 0), percent_cell(_mean(of, "valid_titles")),
                     number_cell(distinct, 0), number_cell(windows / distinct if windows and distinct else None, 1),
                     percent_cell(_mean(of, "category_accuracy")), percent_cell(_mean(of, "hr_at_1"), 2),
                     number_cell(_mean(of, "mean_distance"), 3)])
    return table(columns, body, f"Validity and variety of the answers on {name}, means over seeds")


def first_epoch_losses(result: RunResult) -> tuple[float, float] | None:
    """Mean token losses of the first epoch on true and on self-distilled answers, both from the base model.

    None where the two are not comparable: no supervised stage, a start from its weights, or a mixture.
    """
    run = result.run
    first = [next((row for row in rows if row["epoch"] == 0), {}) for rows in run.curves_by_stage.values()]
    own = next((row for row in run.curves_by_stage.get(result.stage, []) if row["epoch"] == 0), {})
    true = next((row["loss_sft"] for row in first if row is not own and row.get("loss_sft") is not None), None)
    if true is None or own.get("loss_sdft") is None or run.config.get("start_from", "base") != "base":
        return None
    return true, own["loss_sdft"]


def _first_epochs(group: DataGroup) -> Html | None:
    found = []
    for method in group.methods:
        pairs = [pair for result in method.results if (pair := first_epoch_losses(result))]
        if pairs:
            found.append((method, mean_of(true for true, _ in pairs), mean_of(own for _, own in pairs)))
    if not found:
        return None
    longest = Scale(0.0, max(max(true, own) for _, true, own in found) or 1.0, False, ())
    rows = []
    for method, true, own in found:
        rows.append([method.name, tag("span", "true"), Valued(true, bar(longest, true, 7), "strip-cell"),
                     number_cell(true, 3), None])
        rows.append([method.name, tag("span", "self-distilled"), Valued(own, bar(longest, own, 0), "strip-cell"),
                     number_cell(own, 3), Valued(own / true - 1, f"{own / true - 1:+.0%}")])
    columns = [Column("method"), Column("answers"), Column(""), Column("loss", True), Column("against true", True)]
    return table(columns, rows, f"First-epoch training loss on {group.name}: self-distilled against true answers, both "
                                f"from the same base model (the paper saw 47 % less)", is_sortable=False)
