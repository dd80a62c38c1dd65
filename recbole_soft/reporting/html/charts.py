"""Charts as inline SVG. Colours are CSS variables, so that one drawing serves light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from recbole_soft.reporting.html.markup import Html, joined, tag
from recbole_soft.reporting.html.scales import Axis, Scale, fitted

WIDTH, HEIGHT = 360, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 12, 46
_LINE = 12
COLOURS = 8
_RADIUS = 4
# Square, diamond, triangle, in radii.
_CORNERS = (((-1, -1), (1, -1), (1, 1), (-1, 1)), ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
            ((0, -1.2), (1.2, 1), (-1.2, 1)))
_LEVEL_TEXTS = (0.79, 0.21)
_DASHES = (None, "5 3", "2 3", "8 3 2 3")


@dataclass(frozen=True)
class Point:
    """A point of a chart; `low` and `high` are the ends of its interval, `tip` is said when one points at it."""

    x: float
    y: float
    tip: str = ""
    low: float | None = None
    high: float | None = None
    is_hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one colour; beyond eight colours, they come again with other marks and dashed lines."""

    name: str
    points: Sequence[Point]
    number: int = 0
    is_joined: bool = True

    @property
    def colour(self) -> str:
        return f"var(--c{self.number % COLOURS})"

    @property
    def dash(self) -> str | None:
        return _DASHES[self.round]

    @property
    def round(self) -> int:
        """Which time the colours are gone through."""
        return self.number // COLOURS % len(_DASHES)


def chart(title: str, series: Sequence[Series], x: Axis, y: Axis, levels: Sequence[tuple[float, str]] = ()) -> Html:
    """Lines or points over two axes.

    Args:
        title: what a screen reader says of the drawing.
        levels: values of y that get a dashed line across, and their texts.
    """
    drawn = [Series(one.name, [point for point in one.points if _can_be_drawn(point, x, y)], one.number, one.is_joined)
             for one in series]
    points = [point for one in drawn for point in one.points]
    ends = [end for point in points for end in (point.low, point.high) if end is not None]
    across = fitted(x, [point.x for point in points], 5)
    upwards = fitted(y, [point.y for point in points] + ends + [value for value, _ in levels], 4)
    body = [_frame(across, upwards, x, y), [_series(one, across, upwards) for one in drawn],
            [_level(upwards, value, text, place) for place, (value, text) in enumerate(levels)]]
    return tag("svg", tag("title", title), body, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart")


def _can_be_drawn(point: Point, x: Axis, y: Axis) -> bool:
    return all(math.isfinite(value) and (value > 0 or not axis.is_log) for value, axis in ((point.x, x), (point.y, y)))


def _column(scale: Scale, value: float) -> float:
    return round(_LEFT + scale.place(value) * (WIDTH - _LEFT - _RIGHT), 1)


def _row(scale: Scale, value: float) -> float:
    return round(HEIGHT - _BOTTOM - scale.place(value) * (HEIGHT - _TOP - _BOTTOM), 1)


def _frame(across: Scale, upwards: Scale, x: Axis, y: Axis) -> Html:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    rows = [(_row(upwards, value), text) for value, text in upwards.ticks]
    columns = [(_column(across, value), text) for value, text in across.ticks]
    return joined(
        [tag("line", x1=_LEFT, x2=right, y1=row, y2=row, class_="grid") for row, _ in rows],
        [tag("text", text, x=_LEFT - 6, y=row + 3.5, class_="tick end") for row, text in rows],
        [tag("line", x1=column, x2=column, y1=bottom, y2=bottom + 4, class_="axis") for column, _ in columns],
        [_lines(text, column, bottom + 16) for column, text in columns],
        tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"),
        tag("text", x.label, x=(_LEFT + right) / 2, y=HEIGHT - 5, class_="label middle"),
        tag("text", y.label, x=-(_TOP + bottom) / 2, y=10, transform="rotate(-90)", class_="label middle"),
    )


def _lines(text: str, column: float, row: float) -> Html:
    """A tick's label, a second line below the first."""
    return tag("text", [tag("tspan", line, x=column, y=row + place * _LINE) for place, line in
                        enumerate(text.split("\n"))], class_="tick middle")


def _level(upwards: Scale, value: float, text: str, place: int) -> Html:
    """A line across; texts of several levels have places of their own, so that near levels can be told apart."""
    row = _row(upwards, value)
    column = _LEFT + _LEVEL_TEXTS[place % len(_LEVEL_TEXTS)] * (WIDTH - _LEFT - _RIGHT)
    return joined(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=row, y2=row, class_="level"),
                  tag("text", text, x=round(column, 1), y=row - 5, class_="halo middle"))


def _series(series: Series, across: Scale, upwards: Scale) -> Html:
    places = [(_column(across, point.x), _row(upwards, point.y), point) for point in series.points]
    line = None
    if series.is_joined and len(places) > 1:
        line = tag("polyline", points=" ".join(f"{column},{row}" for column, row, _ in places), class_="line",
                   stroke_dasharray=series.dash)
    marks = [_mark(column, row, point, upwards, series) for column, row, point in places]
    return tag("g", line, marks, style=f"--c:{series.colour}")


def _mark(column: float, row: float, point: Point, upwards: Scale, series: Series) -> Html:
    interval = None
    if point.low is not None and point.high is not None:
        interval = tag("line", x1=column, x2=column, y1=_row(upwards, point.low), y2=_row(upwards, point.high),
                       class_="interval")
    tip = tag("title", f"{series.name}: {point.tip}" if point.tip else series.name)
    kind = "hollow" if point.is_hollow else "dot"
    if series.round == 0:
        return joined(interval, tag("circle", tip, cx=column, cy=row, r=_RADIUS, class_=kind))
    corners = _CORNERS[series.round - 1]
    points = " ".join(f"{column + across * _RADIUS:.1f},{row + down * _RADIUS:.1f}" for across, down in corners)
    return joined(interval, tag("polygon", tip, points=points, class_=kind))


def legend(series: Sequence[Series]) -> Html | None:
    """Names beside their colours; nothing for a single series."""
    if len(series) < 2:
        return None
    return tag("ul", [tag("li", swatch(one.number), one.name) for one in series], class_="legend")


def swatch(number: int) -> Html:
    """The mark of a series beside its name."""
    one = Series("", (), number)
    return tag("span", class_=f"swatch round-{one.round}", style=f"--c:{one.colour}", aria_hidden="true")


def strip(scale: Scale, value: float, low: float | None, high: float | None, colour: int) -> Html:
    """A row of a dot plot: value and interval on a common scale, as wide as its cell."""
    def share(of: float) -> str:
        return f"{100 * min(1.0, max(0.0, scale.place(of))):.2f}%"

    interval = None
    if low is not None and high is not None:
        interval = tag("line", x1=share(low), x2=share(high), y1=9, y2=9, class_="interval")
    return tag("svg", interval, tag("circle", cx=share(value), cy=9, r=4, class_="dot"), class_="strip", height=18,
               aria_hidden="true", style=f"--c:var(--c{colour % COLOURS})")


def strip_axis(scale: Scale) -> Html:
    """Ticks above a column of strips."""
    ends = {0: "", len(scale.ticks) - 1: "end"}
    texts = [tag("text", text, x=f"{100 * scale.place(value):.2f}%", y=11, class_=ends.get(place, "middle"))
             for place, (value, text) in enumerate(scale.ticks)]
    return tag("svg", texts, class_="strip", height=14, aria_hidden="true")


def bar(scale: Scale, value: float, colour: int) -> Html:
    """A horizontal bar from the low end of a common scale, as wide as its cell."""
    return tag("svg", tag("rect", x=0, y=3, height=12, rx=2, width=f"{100 * max(0.0, scale.place(value)):.2f}%"),
               class_="strip bar", height=18, aria_hidden="true", style=f"--c:var(--c{colour % COLOURS})")
