"""HTML by construction, scales of axes, colours that can be told from their ground."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.reporting.html.charts import Point, Series, chart
from recbole_soft.reporting.html.markup import Html, joined, slug, tag
from recbole_soft.reporting.html.scales import Axis, fitted, number

EVIL = ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", '" onmouseover="alert(1)', "<!--", "&lt;",
        "a\x00b\u202e"]
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Reader(HTMLParser):
    """Elements, their attributes and all text, as a browser's tokeniser would find them."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_data(self, text):
        self.texts.append(text)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40) | st.sampled_from(EVIL))
def test_any_text_stays_text(text):
    read = Reader(tag("p", text, title=text))
    expected = FORBIDDEN.sub("\ufffd", text)
    assert [name for name, _ in read.elements] == ["p"]
    # The tokeniser folds line ends, as every HTML parser does.
    fold = lambda value: value.replace("\r\n", "\n").replace("\r", "\n")  # noqa: E731
    assert fold("".join(read.texts)) == fold(expected) and fold(read.elements[0][1]["title"]) == fold(expected)
    tag("p", text).encode("utf-8")


def test_children_are_flattened_and_only_markup_is_taken_as_it_is():
    assert joined("<", Html("<b>"), None, [1, ["x"]]) == "&lt;<b>1x"
    assert tag("td", None, class_="a", hidden=True, title=None, data_sort=0, open=False) == \
        '<td class="a" hidden data-sort="0"></td>'
    assert tag("br") == "<br>" and slug("Where hits come from!") == "where-hits-come-from"


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), max_size=6), low=st.none() | st.just(0.0))
def test_every_value_finds_room_between_round_ticks(values, low):
    values = [value for value in values if low is None or value >= low]
    scale = fitted(Axis("x", low=low), values)
    assert scale.low < scale.high and len(scale.ticks) >= 2
    for value in values:
        assert -1e-6 <= scale.place(value) <= 1 + 1e-6
    for value, _ in scale.ticks:
        assert -1e-6 <= scale.place(value) <= 1 + 1e-6
    if low == 0.0:
        assert scale.low == 0.0


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=6))
def test_logarithmic_scales_hold_their_values(values):
    scale = fitted(Axis("x", is_log=True), values)
    assert all(0 <= scale.place(value) <= 1 for value in values)
    assert scale.place(math.sqrt(scale.low * scale.high)) == pytest.approx(0.5)


def test_ticks_are_written_without_superfluous_digits():
    written = {0: "0", 0.5: "0.5", 0.0025: "0.0025", 12: "12", 1500: "1,500", 2e-5: "2e-5"}
    assert [number(value) for value in written] == list(written.values())


def test_a_chart_places_points_and_leaves_out_what_it_cannot_draw():
    drawing = chart("a < b", [Series("one", [Point(0, 0), Point(10, 1, "top", low=0.5, high=1.0)]),
                              Series("two", [Point(5, math.nan)], 9)], Axis("x"), Axis("y", low=0.0))
    assert drawing.count("<circle") == 2 and "<polygon" not in drawing and "a &lt; b" in drawing
    left, right = [tuple(map(float, pair)) for pair in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)]
    assert left[0] < right[0] and left[1] > right[1] and "one: top" in drawing
    assert "polygon" in chart("t", [Series("two", [Point(1, 1)], 9)], Axis("x"), Axis("y"))


def themes() -> dict[str, dict[str, str]]:
    css = (files("recbole_soft.reporting.html") / "assets" / "report.css").read_text(encoding="utf-8")
    blocks = {"light": re.search(r":root \{(.*?)\n\}", css, re.DOTALL)[1],
              "dark": re.search(r':root\[data-theme="dark"\] \{(.*?)\n\}', css, re.DOTALL)[1],
              "dark by system": re.search(r"prefers-color-scheme: dark\).*?\{(.*?)\n\} \}", css, re.DOTALL)[1]}
    return {name: dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for name, block in blocks.items()}


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    def luminance(colour: str) -> float:
        parts = [int(colour[at: at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_enough_in_both_themes():
    found = themes()
    assert found["dark"] == found["dark by system"] and len(found["light"]) >= 15
    for colours in (found["light"], found["dark"]):
        for ink in ("ink", "soft", "accent"):
            for ground in ("page", "card", "shade"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["ink"], colours["mark"]) >= 4.5
        for place in range(8):
            assert contrast(colours[f"c{place}"], colours["card"]) >= 3, place
