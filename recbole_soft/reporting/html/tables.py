"""Tables that sort by clicking, and the frames around figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_soft.reporting.html.charts import Series, legend
from recbole_soft.reporting.html.markup import Html, tag

FILTER_FROM, LONG_FROM = 12, 24
Cell = Any


@dataclass(frozen=True)
class Valued:
    """A cell that is sorted by `value` and shows `shown` (markup or text)."""

    value: float | str | None
    shown: Any
    class_: str | None = None


@dataclass(frozen=True)
class Column:
    """Heading of a column.

    Attributes:
        title: what is read, text or markup.
        is_number: aligned right, and sorted from the largest at the first click.
        hint: a longer word about it.
    """

    title: Any
    is_number: bool = False
    hint: str | None = None


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], caption: str, is_sortable: bool = True) -> Html:
    """A table in a frame of its own that scrolls sideways. The first cell of a row is its heading.

    Args:
        caption: says what the table shows; above it, outside of what scrolls.
    """
    body = [tag("tr", [_cell(cell, column, place == 0) for place, (cell, column) in enumerate(
        zip(row, columns, strict=True))]) for row in rows]
    head = tag("thead", tag("tr", [_heading(column, is_sortable) for column in columns]))
    found = tag("table", head, tag("tbody", body), class_="sortable" if is_sortable else None, aria_label=caption)
    search, kind = None, "scroll long" if len(rows) > LONG_FROM else "scroll"
    if is_sortable and len(rows) > FILTER_FROM:
        search = tag("div", tag("label", "Filter ", tag("input", type="search", class_="filter",
                                                        placeholder="words in a row")),
                     tag("span", f"{len(rows)} rows", class_="count", aria_live="polite"), class_="filter-line")
    frame = tag("div", found, class_=kind, tabindex=0, role="region", aria_label=f"{caption} (scrolls)")
    return tag("div", search, tag("p", caption, class_="caption"), frame, class_="table")


def _heading(column: Column, is_sortable: bool) -> Html:
    kind = "num" if column.is_number else None
    if not is_sortable:
        return tag("th", column.title, scope="col", class_=kind, title=column.hint)
    return tag("th", tag("button", column.title, type="button", title=column.hint), scope="col", class_=kind,
               aria_sort="none")


def _cell(cell: Cell, column: Column, is_heading: bool) -> Html:
    value = cell if isinstance(cell, Valued) else Valued(cell if isinstance(cell, (int, float)) else None, cell)
    shown = "–" if value.shown is None else value.shown
    kinds = " ".join(kind for kind in ("num" if column.is_number else "", value.class_ or "") if kind)
    by = None if value.value is None or value.value == value.shown else value.value
    if is_heading:
        return tag("th", shown, scope="row", data_sort=by, class_=kinds or None)
    return tag("td", shown, data_sort=by, class_=kinds or None)


def figure(title: str, drawing: Html, series: Sequence[Series] = (), note: str | None = None,
           numbers: Html | None = None) -> Html:
    """A drawing with its title, legend, a word on how to read it, and its numbers to unfold."""
    shown = tag("details", tag("summary", "Numbers"), numbers, class_="numbers") if numbers else None
    return tag("figure", tag("figcaption", tag("h4", title), tag("p", note) if note else None), drawing,
               legend(series), shown)


def figures(*found: Html | None) -> Html:
    """Drawings side by side, as many as there is room for."""
    return tag("div", found, class_="figures")


def number_cell(value: float | None, digits: int = 4) -> Valued:
    """A number with so many digits, or a dash."""
    return Valued(value, None if value is None else f"{value:.{digits}f}")


def percent_cell(share: float | None, digits: int = 1) -> Valued:
    """A share in percent, or a dash."""
    return Valued(share, None if share is None else f"{share:.{digits}%}")


def duration(seconds: float | None) -> Valued:
    """Seconds as people say them."""
    if seconds is None:
        return Valued(None, None)
    if seconds < 120:
        return Valued(seconds, f"{seconds:.1f} s")
    return Valued(seconds, f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h")
