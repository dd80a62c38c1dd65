"""Raw Amazon files as ugly as the real ones, with what is expected of them."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_soft.data.amazon import prepare_amazon
from recbole_soft.data.manifest import Manifest

MILLISECONDS = 1_400_000_000_123
SECONDS = 1_400_000_000
EDITIONS = ("amazon-2014", "amazon-2018", "amazon-2023")
MISSING = object()

# (title as the metadata holds it, title as the data set must hold it; None: the item has no title)
TITLES: list[tuple[Any, str | None]] = [
    ("  Zelda &amp; Link: &quot;A &#39;Tale&#39;&quot; \t", "Zelda &amp; Link: &quot;A &#39;Tale&#39;&quot;"),
    ("tab\there, \r\nnewline\n, null\x00, form\x0cfeed", "tab here,   newline , null , form feed"),
    ("Emoji \U0001f3ae and ♥ and 日本語", "Emoji \U0001f3ae and ♥ and 日本語"),
    ("\u200fلعبة الفيديو", "\u200fلعبة الفيديو"),
    ('"Quoted" from the start', '"Quoted" from the start'),
    ('one unbalanced " quote', 'one unbalanced " quote'),
    ("None", "None"),
    ("NA", "NA"),
    ("comma, semicolon; pipe | hash # 50% 'off'", "comma, semicolon; pipe | hash # 50% 'off'"),
    ("back\\slash \\d \\u0041", "back\\slash \\d \\u0041"),
    ("line\u2028para\u2029next\x85sep", "line para next sep"),
    ("half a pair \ud83d here", "half a pair \ufffd here"),
    ("x" * 700, "x" * 700),
    ("Twin", "Twin"),
    ("Twin", "Twin"),
    ("", None),
    ("   \t ", None),
    (None, None),
    (MISSING, None),
    (300, None),
]
CATEGORIES = [["Video Games", " PC ", "Games"], [], ["Tab\tbed", "", "Sub > Sub"]]
CATEGORY_TEXTS = ["Video Games > PC > Games", "General", "Tab bed > Sub > Sub"]
USERS = [f"AE{letter * 10}" for letter in "XYZ"]


def item_id(number: int) -> str:
    return f"B{number:09d}"


@dataclass(frozen=True)
class RawPair:
    """A ratings and a metadata file, and the exact lines that must come out."""

    ratings: Path
    metadata: Path
    inter_lines: list[str]
    item_lines: list[str]
    untitled_items: int
    untitled_interactions: int
    duplicates: int


def metadata_record(edition: str, number: int) -> dict[str, Any]:
    title, categories = TITLES[number][0], CATEGORIES[number % len(CATEGORIES)]
    record: dict[str, Any] = {"description": ["It's {nested: 'text'}", None], "price": None, "also_view": []}
    if title is not MISSING:
        record["title"] = title
    if edition == "amazon-2023":
        return record | {"parent_asin": item_id(number), "categories": categories, "main_category": "General",
                         "store": "A, B"}
    if edition == "amazon-2018":
        return record | {"asin": item_id(number), "category": categories, "main_cat": "General"}
    paths = [categories, ["second", "path"]]
    return record | {"asin": item_id(number), "categories": paths, "main_cat": "General"}


def metadata_line(edition: str, number: int) -> str:
    record = metadata_record(edition, number)
    return repr(record) if edition == "amazon-2014" else json.dumps(record)


def rating_line(edition: str, user: str, item: str, rating: str, timestamp: int) -> str:
    ids = f"{item},{user}" if edition == "amazon-2018" else f"{user},{item}"
    return f"{ids},{rating},{timestamp}"


def write_text(
    path: Path, lines: list[str], *, zipped: bool = False, newline: str = "\n", bom: bool = False
) -> Path:
    data = (("\ufeff" if bom else "") + newline.join([*lines, ""])).encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


def write_pair(
    folder: Path, edition: str,
    *, header: bool = False, zipped: bool = False, newline: str = "\n", bom: bool = False,
) -> RawPair:
    """Three users rate the items, out of time order; each fifth row stands twice; two items are not rated."""
    start = MILLISECONDS if edition == "amazon-2023" else SECONDS
    rated = [number for number in range(len(TITLES)) if number not in (4, 13)]
    raw, kept, lost, duplicates = [], [], 0, 0
    for position, (number, user) in enumerate((number, user) for number in rated for user in USERS):
        rating, timestamp = ("5.0", "4.5", "1.0", "3.3")[position % 4], start + (position * 7919) % 1000
        line = rating_line(edition, user, item_id(number), rating, timestamp)
        is_titled = TITLES[number][1] is not None
        copies = 2 if position % 5 == 0 else 1
        raw += [line] * copies
        lost += 0 if is_titled else copies
        if is_titled:
            duplicates += copies - 1
            kept.append(f"{user}\t{item_id(number)}\t{rating}\t{timestamp}")
    if header:
        raw.insert(0, "user_id,parent_asin,rating,timestamp")
    style = {"zipped": zipped, "newline": newline, "bom": bom}
    # The names say nothing of the packing: it is found by the first bytes.
    ratings = write_text(folder / "ratings.dat", raw, **style)
    records = [metadata_line(edition, number) for number in range(len(TITLES))]
    metadata = write_text(folder / "metadata.dat", [*records, "", records[0]], **style)
    items = [
        f"{item_id(number)}\t{TITLES[number][1]}\t{CATEGORY_TEXTS[number % len(CATEGORIES)]}"
        for number in rated if TITLES[number][1] is not None
    ]
    untitled = sum(title is None for _, title in TITLES)
    return RawPair(ratings, metadata, kept, items, untitled, lost, duplicates)


def write_dense_pair(folder: Path) -> tuple[Path, Path]:
    """Ten users rate ten items each (a 10-core), one more user rates one item; one item is not rated."""
    records = [{"asin": item_id(number), "title": f"Title {number}"} for number in range(11)]
    rows = [f"AEUSER{user:07d},{item_id(item)},5.0,{SECONDS}" for user in range(10) for item in range(10)]
    rows.append(f"AEONCE,{item_id(3)},5.0,{SECONDS}")
    return (write_text(folder / "ratings", rows),
            write_text(folder / "metadata", [json.dumps(record) for record in records]))


def lines_of(path: Path) -> list[str]:
    """The lines of an atomic file without its header."""
    return path.read_text(encoding="utf-8").split("\n")[1:-1]


def one_item(folder: Path) -> Path:
    """A metadata file with the first item alone."""
    return write_text(folder / "one_item.jsonl", [metadata_line("amazon-2023", 0)])


def prepare(
    ratings: Path, metadata: Path, out: Path, name: str = "toy", *, k_core: int | None = None
) -> Manifest:
    return prepare_amazon(ratings, metadata, out, name, k_core=k_core, progress=False)
