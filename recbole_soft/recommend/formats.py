"""Recommendations as text: a table for the terminal, dictionaries for JSON, rows for csv.

Titles and generated texts are data: control characters in them never reach a terminal.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Any

from recbole_soft.recommend.recommender import Recommendations

ROW_COLUMNS = ("line", "id", "place", "item_id", "title", "category", "score", "distance", "generated", "notes",
               "error")
_HISTORY_SHOWN = 10


def as_dictionary(answer: Recommendations) -> dict[str, Any]:
    """An answer as JSON holds it."""
    content = dataclasses.asdict(answer)
    recommended = content.pop("items")
    return {"label": content.pop("label"), "stage": content.pop("stage"), **content, "recommendations": recommended}


def as_rows(answer: Recommendations) -> list[dict[str, Any]]:
    """An answer as rows of a table, one per recommended item."""
    generated = answer.generated[0] if answer.generated else ""
    return [{**dataclasses.asdict(item), "distance": "" if item.distance is None else item.distance,
             "generated": generated, "notes": "; ".join(answer.notes)} for item in answer]


def as_table(answer: Recommendations, heading: str, width: int = 100) -> str:
    """An answer for the terminal, in lines of at most `width` columns (where titles allow it)."""
    has_distance = any(item.distance is not None for item in answer)
    lines = [clean(heading), "history: " + _history(answer)]
    lines += [f"generated: {clean(text)}" for text in answer.generated[:1]]
    lines += [f"  beam {number}: {clean(text)}" for number, text in enumerate(answer.generated[1:], 2)]
    if answer.nearest:
        lines.append("nearest titles: " + "; ".join(
            f"{clean(item.title)} ({item.distance:.4g}{', in the history' if item.is_known else ''})"
            for item in answer.nearest[:3]))
    rows = [[str(item.place), item.item_id, item.title, item.category,
             f"{item.distance if has_distance else item.score:.4f}"] for item in answer]
    head = ["#", "item", "title", "category", "distance" if has_distance else "score"]
    return "\n".join([*(_cut(line, width) for line in lines), "", *_columns(head, rows, width)])


def clean(text: str) -> str:
    """A text in one line without control characters, which could move a terminal's cursor or change its colours."""
    return "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cf", "Cs") else letter
                   for letter in " ".join(text.split()))


def _history(answer: Recommendations) -> str:
    titles = [clean(item.title or item.item_id) for item in answer.history[-_HISTORY_SHOWN:]]
    return ("... | " if len(answer.history) > len(titles) else "") + " | ".join(titles)


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Aligned columns; the title gives way first, then the category; empty columns are left out."""
    kept = [number for number in range(len(head)) if any(row[number] for row in rows)]
    cells = [[clean(row[number]) for number in kept] for row in [head, *rows]]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(kept))]
    for name, least in (("category", 12), ("title", 20)):
        if name in (names := [head[number] for number in kept]):
            excess = sum(widths) + 2 * (len(widths) - 1) - width
            place = names.index(name)
            widths[place] = min(widths[place], max(least, widths[place] - max(0, excess)))
    is_number = [head[number] in ("#", "distance", "score") for number in kept]
    lines = ["  ".join(_padded(_cut(cell, size), size, right) for cell, size, right in zip(
        row, widths, is_number, strict=True)).rstrip() for row in cells]
    return [lines[0], "-" * max(map(_width, lines)), *lines[1:]] if rows else ["nothing is left to recommend"]


def _width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
               for letter in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    kept = ""
    for letter in text:
        if _width(kept + letter) > width - 3:
            break
        kept += letter
    return kept + "..."


def _padded(text: str, width: int, right: bool) -> str:
    gap = " " * (width - _width(text))
    return gap + text if right else text + gap
