"""Raw Amazon files for `prepare`. How every bad line is counted is tested in `tests/data/test_amazon_damage.py`."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

from tests.bad_inputs.case import Case, Change, added, swap

RATINGS, ITEMS = "raw/ratings.csv", "raw/items.jsonl"
OPTIONS = {"ratings": RATINGS, "metadata": ITEMS, "name": "new", "out": "data"}


def prepare(name: str, files: Mapping[str, Change] | None = None, options: Mapping[str, Any] | None = None,
            **expected: Any) -> Case:
    """A case of the subcommand `prepare`, with some options changed (None takes one away)."""
    chosen = {key: value for key, value in {**OPTIONS, **(options or {})}.items() if value is not None}
    return Case(name, argv=["prepare", *(f"--{key}={value}" for key, value in chosen.items())], files=files or {},
                **expected)


def in_milliseconds(content: bytes) -> bytes:
    """A change of the ratings: every second becomes a thousand."""
    header, *rows = content.strip().split(b"\n")
    return b"\n".join([header, *(row + b"000" for row in rows)]) + b"\n"


def first_row_in_milliseconds(content: bytes) -> bytes:
    """A change of the ratings: one time counts milliseconds."""
    header, row, *rows = content.strip().split(b"\n")
    return b"\n".join([header, row + b"000", *rows]) + b"\n"


OPTIONS_CASES = (
    prepare("no ratings", options={"ratings": None}, cause="--ratings is missing", place="prepare",
            remedy="--ratings=Video_Games.csv.gz"),
    prepare("an unknown option", options={"kcore": 5}, cause="--kcore is not an option of prepare",
            place="command line", remedy="did you mean k_core?"),
    prepare("a k-core that is no number", options={"k_core": "ten"}, cause="k_core is 'ten'", place="prepare",
            remedy="--k_core=10"),
    prepare("a k-core of 0", options={"k_core": 0}, cause="k_core is 0", place="k_core", remedy="give 1 or more"),
    prepare("a k-core that nothing survives", options={"k_core": 99}, cause="nothing is left after the 99-core",
            place=RATINGS, remedy="use a lower k_core"),
    prepare("a name that leaves its folder", options={"name": "../new"}, cause="'../new' cannot be the name",
            place="name", remedy="use letters"),
    prepare("a data set of one's own in its place", options={"name": "mine"}, cause="exists already", place="data/mine",
            remedy="choose another --name"),
    prepare("a file where the folder should be", {"data/new": "keep me"}, cause="the output folder cannot be written",
            place="data/new", remedy="--out"),
    prepare("ratings that are not there", options={"ratings": "raw/none.csv"}, cause="there is no ratings file here",
            place="raw/none.csv", remedy="check the path"),
    prepare("a folder for the ratings", options={"ratings": "raw"}, cause="there is no ratings file here", place="raw",
            remedy="check the path"),
    prepare("the two files swapped", options={"ratings": ITEMS, "metadata": RATINGS}, cause="no usable line",
            place=RATINGS, remedy="are not swapped"),
)

DAMAGE = (
    prepare("an empty file", {RATINGS: b""}, cause="the ratings file is empty", place=RATINGS,
            remedy="download it again"),
    prepare("a zip file", {RATINGS: b"PK\x03\x04 and so on"}, cause="is a zip file", place=RATINGS, remedy="unpack it"),
    prepare("a zstandard file", {ITEMS: b"\x28\xb5\x2f\xfd and so on"}, cause="is a zstandard file", place=ITEMS,
            remedy="unpack it"),
    prepare("a web page that says no", {RATINGS: "<!DOCTYPE html>\n<html>404</html>\n"}, cause="no usable line",
            place=RATINGS, remedy="lines of user,item,rating,timestamp"),
    prepare("a gzip cut off in its first bytes", {RATINGS: lambda text: gzip.compress(text)[:12]},
            cause="no usable line",
            place=RATINGS, remedy="are not swapped"),
    prepare("a gzip cut off at its end", {RATINGS: lambda text: gzip.compress(text)[:-8]}, ends=0, says="truncated"),
    prepare("a gzip damaged in the middle", {RATINGS: lambda text: gzip.compress(text) + b"\x1f\x8b\x08\xff nothing"},
            ends=0, says="damaged"),
    prepare("broken JSON lines", {ITEMS: added('{"parent_asin": "B1", "title": "cut o\n[1]\n{}\n')}, ends=0,
            says="2 x broken JSON"),
    prepare("no line of JSON", {ITEMS: "title,item\nx,y\n"}, cause="no usable line", place=ITEMS,
            remedy="one JSON object per line"),
    prepare("code for JSON", {ITEMS: added("__import__('os').remove('raw/ratings.csv')\n")}, ends=0,
            says="1 x broken JSON"),
    prepare("brackets 100,000 deep", {ITEMS: added("[" * 100_000 + "\n")}, ends=0, says="1 x broken JSON"),
    prepare("no column of users", {RATINGS: swap("user_id", "who")}, cause="no column for the user",
            place=f"{RATINGS}, line 1", remedy="name it user_id"),
    prepare("a header alone", {RATINGS: "user_id,parent_asin,rating,timestamp\n"}, cause="no usable line",
            place=RATINGS,
            remedy="are not swapped"),
    prepare("items of another category", {RATINGS: swap(",B0", ",C0")}, cause="no rated item has a title",
            place=RATINGS,
            remedy="of the same category and edition"),
    prepare("not one title", {ITEMS: swap('"title"', '"name"')}, cause="no rated item has a title", place=RATINGS,
            remedy="of the same category"),
    prepare("ids with blanks and nulls",
            {RATINGS: added("U 1,B000000001,5.0,1600000000\nU\0,B000000001,5.0,1600000000\n")},
            ends=0, says="1 x empty or unusable"),
    prepare("times in milliseconds", {RATINGS: in_milliseconds}, ends=0, says="ms"),
    prepare("one time in milliseconds", {RATINGS: first_row_in_milliseconds}, ends=0,
            says="1 timestamps do not look like the others"),
    prepare("times from the future", {RATINGS: added("U1,B000000001,5.0,9e15\n")}, ends=0,
            says="1 x timestamp out of range"),
    prepare("CRLF and a byte-order mark", {RATINGS: lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")},
            ends=0,
            says="120"),
    prepare("titles with tabs, breaks and halves of characters",
            {ITEMS: swap("amber", "a\\tb\\nc\\ud83d", 1)},
            ends=0, says="12 lines read, 0 bad (raw/items.jsonl)"),
)

CASES = (*OPTIONS_CASES, *DAMAGE)
