"""What language models answered: Figure 2 of the paper, first-epoch losses, validity and variety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_soft.reporting.html.charts import Point, Series, bar, chart
from recbole_soft.reporting.html.markup import Html, tag
from recbole_soft.reporting.html.scales import Axis, Scale, percent
from recbole_soft.reporting.html.tables import Column, Valued, figure, number_cell, percent_cell, table
from recbole_soft.reporting.html.view import DataGroup, Method, Section, left_for_room, mean_of
from recbole_soft.reporting.methods import telling_settings
from recbole_soft.reporting.records import RunRecord, RunResult

Figures = Mapping[str, Any]
OWN_TRAINING_ANSWERS = "self_distillation"


def section(groups: Sequence[DataGroup]) -> Section:
    """Figures about answers, by data set."""
    bodies = [body for group in groups if (body := _of_group(group)) is not None]
    if not bodies:
        return Section("Answers of the language models", reason="no record holds figures about generated answers")
    return Section("Answers of the language models", [
        tag("p", "What methods answer to the test windows, and what the supervised model answers to the training "
                 "windows: the self-distilled set from which SOFT learns. Category and HR@1 are of the catalogue title "
                 "nearest to the answer."),
        bodies])


@dataclass(frozen=True)
class Answers:
    """Figures about one kind of answers of a method, one per seed that has them.

    Attributes:
        windows: `test`, or `training` for self-distilled answers, which are those of the supervised model.
    """

    method: Method
    windows: str
    figures: tuple[Figures, ...]

    def mean(self, name: str) -> float | None:
        """Mean of a figure over seeds."""
        return mean_of(one.get(name) for one in self.figures)


def answers_of(group: DataGroup) -> list[Answers]:
    """All figures about answers that the records hold: test windows first, then training windows."""
    found = [Answers(method, "test", tuple(figures)) for method in group.methods
             if (figures := [figures for result in method.results if (figures := result.raw.get("answers"))])]
    distilled: dict[Method, dict[int, Figures]] = {}
    for run in group.runs:
        figures = (run.raw.get("notes") or {}).get(OWN_TRAINING_ANSWERS)
        teacher = _teacher(group, run) if figures else None
        if teacher is not None:
            distilled.setdefault(teacher, {})[run.seed] = figures
    return found + [Answers(method, "training", tuple(by_seed.values())) for method, by_seed in distilled.items()]


def _teacher(group: DataGroup, run: RunRecord) -> Method | None:
    """The method that gave a run's self-distilled answers: its first stage, whatever run's row stands for it."""
    first = run.results[0]
    return next((method for method in group.methods if any(_is_same(result, first) for result in method.results)), None)


def _is_same(one: RunResult, other: RunResult) -> bool:
    """Whether two rows are of one method."""
    return one is other or (one.label == other.label and telling_settings(one) == telling_settings(other))


def _of_group(group: DataGroup) -> Html | None:
    rows = answers_of(group)
    if not rows:
        return None
    drawing, losses = _figure_2(group, rows), _first_epochs(group)
    beside = tag("div", drawing, losses, class_="beside") if drawing and losses else [drawing, losses]
    return tag("div", tag("h3", group.name, class_="data-name"), _table(rows, group.name), beside)


def _figure_2(group: DataGroup, rows: Sequence[Answers]) -> Html | None:
    """Category accuracy against HR@1 (SOFT paper, Figure 2)."""
    judged = [row for row in rows if row.mean("category_accuracy") is not None]
    if not judged:
        return None
    methods = dict.fromkeys(row.method for row in judged)
    shown = group.foremost(methods)
    series = []
    for method in shown:
        points = [Point(row.mean("hr_at_1"), row.mean("category_accuracy"),
                        f"{row.windows} windows: HR@1 {row.mean('hr_at_1'):.2%}, category "
                        f"{row.mean('category_accuracy'):.1%}", is_hollow=row.windows == "training")
                  for row in judged if row.method is method]
        series.append(Series(method.name, points, method.number, is_joined=False))
    drawing = chart("Category accuracy against HR@1", series,
                    Axis("HR@1 of the nearest title", low=0.0, text=percent, span=0.01),
                    Axis("category accuracy", low=0.0, text=percent, span=0.1))
    return figure("Category accuracy against HR@1", drawing, series,
                  "The paper's Figure 2: answers of the right category that are seldom the very item. Filled: test "
                  "windows; hollow: training windows." + left_for_room(shown, list(methods)))


def _table(rows: Sequence[Answers], name: str) -> Html:
    columns = [Column("method"), Column("windows"), Column("answers", True),
               Column("catalogue titles", True, "share of answers that are exactly a title"),
               Column("distinct answers", True), Column("windows per answer", True, "1: every answer is another"),
               Column("category", True, "share whose nearest title has the target's category"),
               Column("HR@1", True, "share whose nearest title is the target, before masking"),
               Column("distance", True, "mean L2 distance of answer and target")]
    body = []
    for row in rows:
        count, distinct = row.mean("windows"), row.mean("distinct_answers")
        body.append([row.method.name, row.windows, number_cell(count, 0), percent_cell(row.mean("valid_titles")),
                     number_cell(distinct, 0), number_cell(count / distinct if count and distinct else None, 1),
                     percent_cell(row.mean("category_accuracy")), percent_cell(row.mean("hr_at_1"), 2),
                     number_cell(row.mean("mean_distance"), 3)])
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
    found: dict[tuple[float, float], list[str]] = {}
    for method in group.methods:
        pairs = [pair for result in method.results if (pair := first_epoch_losses(result))]
        if pairs:  # methods that differ later on, as in alpha, have one first epoch
            means = mean_of(true for true, _ in pairs), mean_of(own for _, own in pairs)
            found.setdefault((round(means[0], 4), round(means[1], 4)), []).append(method.name)
    if not found:
        return None
    longest = Scale(0.0, max(max(pair) for pair in found) or 1.0, False, ())
    rows = []
    for (true, own), names in found.items():
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        rows.append([tag("span", name, title=", ".join(names)), "true",
                     Valued(true, bar(longest, true, 7), "strip-cell"), number_cell(true, 3), None])
        rows.append(["", "own", Valued(own, bar(longest, own, 0), "strip-cell"), number_cell(own, 3),
                     Valued(own / true - 1, f"{own / true - 1:+.0%}")])
    columns = [Column("method"), Column("answers"), Column(""), Column("loss", True), Column("against true", True)]
    return table(columns, rows, "Training loss in the first epoch, on the model's own answers and on the true ones, "
                                "both from the same base model (the paper saw 47 % less)", is_sortable=False)
