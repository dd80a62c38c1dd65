"""Examples to read: prompts with their target, what was answered, and what the answer was grounded to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_soft.reporting.html.markup import Html, joined, tag, title_text
from recbole_soft.reporting.html.tables import Column, Valued, number_cell, table
from recbole_soft.reporting.html.view import DataGroup, Section
from recbole_soft.reporting.records import RunRecord, RunResult

OPEN_EXAMPLES, ALL_EXAMPLES, ANSWERS_PER_EXAMPLE, DISTILLED_EXAMPLES, NAMES_SHOWN = 4, 16, 6, 12, 3
LONGEST_TEXT, SHOWN_NEAREST = 4000, 3
DISTILLED_FILE = "examples_distilled.jsonl"
Lines = list[Mapping[str, Any]]


def section(groups: Sequence[DataGroup]) -> Section:
    """Examples of test windows and of self-distilled answers, by data set."""
    bodies = [body for group in groups if (body := _of_group(group)) is not None]
    if not bodies:
        return Section("Examples", reason="no run folder holds examples (runs of this version with a language model "
                                          "write them, unless examples is 0)")
    return Section("Examples", [
        tag("p", "The first windows, not chosen ones, with the first seed of every method. Each answer is grounded to "
                 "the nearest titles of the catalogue; a title struck through is no candidate: the user knows it."),
        bodies])


def _of_group(group: DataGroup) -> Html | None:
    shown = [(method.name, lines) for method in group.methods if (lines := _test_lines(method.results[0]))]
    cards = [_card(window, shown) for window in range(_shared(shown))]
    first, more = cards[:OPEN_EXAMPLES], cards[OPEN_EXAMPLES:]
    parts = [first, tag("details", tag("summary", f"{len(more)} more windows"), more) if more else None]
    distilled = _distilled(group)
    if not cards and distilled is None:
        return None
    return tag("div", tag("h3", f"{group.name}: test windows") if cards else None, parts if cards else None, distilled)


def _shared(shown: Sequence[tuple[str, Lines]]) -> int:
    """How many windows all methods have."""
    return min([ALL_EXAMPLES, *(len(lines) for _, lines in shown)]) if shown else 0


def _test_lines(result: RunResult) -> Lines:
    name = result.raw.get("examples_file")
    return list(_lines(Path(result.run.place) / Path(str(name)).name)) if name else []


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Readable lines of a file of examples; none where there is no such file, as in a summary of records."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    for line in text.split("\n"):
        try:
            value = json.loads(line) if line else None
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _card(window: int, shown: Sequence[tuple[str, Lines]]) -> Html:
    first = shown[0][1][window]
    by_answer: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for name, lines in shown:
        line = lines[window]
        answered = json.dumps([line.get("answers"), line.get("nearest"), line.get("rank")])
        by_answer.setdefault(answered, (line, []))[1].append(name)
    columns = [Column("method"), Column("answer"), Column("nearest titles, with distance"),
               Column("target's distance", True), Column("target's rank", True)]
    rows = [[_names(names), Valued(None, _answers(line), "text"), Valued(None, _nearest(line), "text"),
             number_cell(line.get("target_distance"), 3), Valued(None, f"{line.get('rank', 0):,}")]
            for line, names in list(by_answer.values())[:ANSWERS_PER_EXAMPLE]]
    history = [title_text(title) for title in first.get("history", [])]
    left = len(by_answer) - ANSWERS_PER_EXAMPLE
    return tag(
        "div", tag("h4", "Target: ", tag("span", title_text(first.get("target", "")), class_="target")),
        tag("p", "History: ", history, class_="history"),
        table(columns, rows, f"Test window {first.get('window', window)}", is_sortable=False),
        tag("p", f"{left} more answers are in the run folders.", class_="soft small") if left > 0 else None,
        tag("details", tag("summary", "Prompt"), tag("pre", str(first.get("prompt", ""))[:LONGEST_TEXT], dir="auto")),
        class_="example")


def _names(names: Sequence[str]) -> Html:
    """Methods with the same answer: the first by name, all of them on asking."""
    if len(names) <= NAMES_SHOWN:
        return joined([tag("div", name) for name in names])
    return tag("details", tag("summary", f"{names[0]} and {len(names) - 1} more"),
               [tag("div", name) for name in names[1:]])


def _answers(line: Mapping[str, Any]) -> Html:
    return tag("div", [tag("div", title_text(str(answer)[:LONGEST_TEXT] or "(nothing)"))
                       for answer in line.get("answers", [])])


def _nearest(line: Mapping[str, Any]) -> Html:
    return tag("ol", [tag("li", tag("span", title_text(near.get("title", "")),
                                    class_=None if near.get("is_candidate", True) else "known"),
                          tag("span", f"{near.get('distance', 0.0):.3f}", class_="distance"))
                      for near in line.get("nearest", [])[:SHOWN_NEAREST]], class_="near")


def _distilled(group: DataGroup) -> Html | None:
    """Self-distilled answers of the first run that has some."""
    run, lines = next(((run, lines) for run in group.runs if (lines := _distilled_lines(run))), (None, []))
    if run is None:
        return None
    columns = [Column("target"), Column("its own answer"), Column("nearest title"), Column("distance", True),
               Column("same category"), Column("prompt")]
    rows = [[tag("span", title_text(line.get("target", "")), class_="target"), title_text(line.get("answer", "")),
             title_text(line.get("grounded", "")), number_cell(line.get("distance"), 3),
             {True: "yes", False: "no"}.get(line.get("category_matches")),
             Valued(None, tag("details", tag("summary", "show"), tag("pre", str(line.get("prompt", ""))[:LONGEST_TEXT],
                                                                     dir="auto")), "text")] for line in lines]
    return tag("div", tag("h3", f"{group.name}: self-distilled answers"),
               table(columns, rows, f"What the supervised model answers to training windows, from {run.model}, seed "
                                    f"{run.seed}; SOFT learns these in place of the targets while tau is high"))


def _distilled_lines(run: RunRecord) -> Lines:
    """From the run folder; runs of older versions noted the artefact alone."""
    noted = ((run.raw.get("notes") or {}).get("self_distilled_set") or {}).get("file")
    places = [Path(run.place) / DISTILLED_FILE]
    if noted:
        places += [Path(noted), Path(run.place).parent / "artifacts" / Path(noted).parent.name / Path(noted).name]
    return next((lines for place in places if (lines := _first_lines(place))), [])


def _first_lines(path: Path) -> Lines:
    return [line for line, _ in zip(_lines(path), range(DISTILLED_EXAMPLES), strict=False)]
