"""Preparation of raw Amazon files: exact counts, exact titles, exact cores."""

from __future__ import annotations

import json
import logging
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.data import amazon
from recbole_soft.data.amazon import k_core_mask
from recbole_soft.data.atomic import read_atomic
from recbole_soft.data.manifest import PUBLISHED_SIZES, DataSize
from recbole_soft.data.raw_metadata import clean_cell
from recbole_soft.errors import DataError, SettingError
from tests.data.raw_files import (
    EDITIONS,
    MILLISECONDS,
    SECONDS,
    item_id,
    lines_of,
    one_item,
    prepare,
    write_dense_pair,
    write_pair,
    write_text,
)

USER, OTHER = "AEUSER0000001", "AEUSER0000002"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("newline", "bom"), [("\n", False), ("\r\n", True)])
@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_comes_out_exactly(tmp_path, edition, zipped, newline, bom):
    is_2023 = edition == "amazon-2023"
    pair = write_pair(tmp_path, edition, header=is_2023, zipped=zipped, newline=newline, bom=bom)
    manifest = prepare(pair.ratings, pair.metadata, tmp_path / "out")

    folder = tmp_path / "out" / "toy"
    assert lines_of(folder / "toy.inter") == pair.inter_lines
    assert lines_of(folder / "toy.item") == pair.item_lines
    assert (folder / "toy.inter").read_text().startswith(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    )
    assert (folder / "toy.item").read_text().startswith("item_id:token\ttitle:token\tcategory:token\n")
    assert manifest.formats == {
        "metadata_edition": edition,
        "ratings_columns": ("item,user" if edition == "amazon-2018" else "user,item") + ",rating,timestamp",
        "ratings_header": is_2023,
        "timestamp_unit": "ms" if is_2023 else "s",
    }
    assert manifest.written == DataSize(3, len(pair.item_lines), len(pair.inter_lines))
    assert manifest.dropped == {
        "interactions with items without title": pair.untitled_interactions,
        "interactions with items not in the metadata": 0,
        "exact duplicate interactions": pair.duplicates,
        "items without title": pair.untitled_items,
        "items without interaction": 2,
        "repeated metadata records": 1,
    }
    assert [file["bad_lines"] for file in manifest.inputs.values()] == [0, 0]
    assert [file["gzip"] for file in manifest.inputs.values()] == [zipped, zipped]


def test_titles_survive_our_own_reader(tmp_path):
    pair = write_pair(tmp_path, "amazon-2023")
    prepare(pair.ratings, pair.metadata, tmp_path)
    table = read_atomic(tmp_path / "toy" / "toy.item", ["item_id", "title", "category"])
    assert ["\t".join(row) for row in table.itertuples(index=False)] == pair.item_lines


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_a_cleaned_cell_is_one_cell_of_one_line(text):
    cleaned = clean_cell(text)
    assert cleaned.encode("utf-8").decode("utf-8").splitlines() in ([cleaned], [])
    assert "\t" not in cleaned and "\0" not in cleaned and cleaned == cleaned.strip()
    if text.isprintable():
        assert cleaned == text.strip()


def test_surrogate_pairs_are_joined_and_halves_replaced():
    assert clean_cell("a\ud83c\udfaeb") == "a\U0001f3aeb"
    assert clean_cell("a\ud83cb\udfaec") == "a\ufffdb\ufffdc"


def test_a_later_record_can_bring_the_title(tmp_path):
    records = [{"asin": "B1", "title": title} for title in (None, "First", "Second")]
    metadata = write_text(tmp_path / "m", [json.dumps(record) for record in records])
    manifest = prepare(write_text(tmp_path / "r", [f"{USER},B1,5.0,{SECONDS}"]), metadata, tmp_path)
    assert lines_of(tmp_path / "toy" / "toy.item") == ["B1\tFirst\t"]
    assert manifest.dropped["items without title"] == 0 and manifest.dropped["repeated metadata records"] == 2


@pytest.mark.parametrize("header", [
    "rating,title,asin,parent_asin,user_id,timestamp",
    '"Rating","Title","asin","parent_asin","user_id","timestamp"',
])
def test_a_header_names_the_columns_whatever_their_order(tmp_path, header):
    row = f"2.0,a title,BVARIANT01,{item_id(0)},{USER},{MILLISECONDS}"
    manifest = prepare(write_text(tmp_path / "r", [header, row]), one_item(tmp_path), tmp_path)
    assert lines_of(tmp_path / "toy" / "toy.inter") == [f"{USER}\t{item_id(0)}\t2.0\t{MILLISECONDS}"]
    assert manifest.formats["ratings_header"] is True


def k_core_by_brute_force(rows: list[tuple[int, int]], k: int) -> list[bool]:
    alive = [True] * len(rows)
    changed = True
    while changed:
        changed = False
        for position, row in enumerate(rows):
            for side in (0, 1):
                degree = sum(alive[other] and rows[other][side] == row[side] for other in range(len(rows)))
                if alive[position] and degree < k:
                    alive[position], changed = False, True
    return alive


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 5))
def test_k_core_equals_removal_row_by_row(rows, k):
    users, items = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], int)
    assert k_core_mask(users, items, k).tolist() == k_core_by_brute_force(rows, k)


def test_ids_of_digits_stay_as_they_are(tmp_path):
    metadata = write_text(tmp_path / "m", [json.dumps({"asin": "0700026398", "title": "A book"})])
    manifest = prepare(write_text(tmp_path / "r", [f"0700026398,007,5.0,{SECONDS}"]), metadata, tmp_path)
    assert manifest.formats["ratings_columns"] == "item,user,rating,timestamp"
    assert lines_of(tmp_path / "toy" / "toy.inter") == [f"007\t0700026398\t5.0\t{SECONDS}"]


def test_core_sizes_and_the_core_that_is_written(tmp_path):
    ratings, metadata = write_dense_pair(tmp_path)
    everything = prepare(ratings, metadata, tmp_path, "all")
    assert everything.written == DataSize(11, 10, 101) and everything.ten_core == DataSize(10, 10, 100)
    core = prepare(ratings, metadata, tmp_path, "core", k_core=10)
    assert core.written == core.ten_core == DataSize(10, 10, 100)
    assert core.dropped["interactions outside the 10-core"] == 1
    assert len(lines_of(tmp_path / "core" / "core.inter")) == 100
    with pytest.raises(DataError, match="nothing is left after the 11-core"):
        prepare(ratings, metadata, tmp_path, "eleven", k_core=11)


def test_sizes_are_compared_with_the_paper(tmp_path, monkeypatch, caplog):
    ratings, metadata = write_dense_pair(tmp_path)
    with caplog.at_level(logging.WARNING):
        manifest = prepare(ratings, metadata, tmp_path, "game")
    assert manifest.published == DataSize(11_658, 5_335, 196_508)
    both = "10 users / 10 items / 100 interactions.*11,658 users / 5,335 items / 196,508 interactions"
    assert len(manifest.warnings) == 1
    assert re.search(both, manifest.warnings[0]) and re.search(both, caplog.text)
    assert "(not equal)" in manifest.table()

    caplog.clear()
    monkeypatch.setitem(PUBLISHED_SIZES, "game", DataSize(10, 10, 100))
    manifest = prepare(ratings, metadata, tmp_path, "game")
    assert manifest.warnings == [] and caplog.text == "" and "(equal)" in manifest.table()


def test_the_manifest_is_written_as_json(tmp_path):
    ratings, metadata = write_dense_pair(tmp_path)
    prepare(ratings, metadata, tmp_path, "movie")
    content = json.loads((tmp_path / "movie" / "movie.manifest.json").read_text())
    assert content["ten_core"] == {"users": 10, "items": 10, "interactions": 100}
    assert content["published"] == {"users": 67_917, "items": 45_578, "interactions": 1_650_120}
    assert content["inputs"]["ratings"]["bytes"] == ratings.stat().st_size
    assert len(content["inputs"]["ratings"]["sha256_of_first_mebibyte"]) == 64


def test_nothing_of_others_is_overwritten_and_nothing_is_left_half_done(tmp_path, monkeypatch):
    ratings, metadata = write_dense_pair(tmp_path)
    prepare(ratings, metadata, tmp_path)
    before = (tmp_path / "toy" / "toy.inter").read_text()
    prepare(ratings, metadata, tmp_path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(amazon, "_write_interactions", full_disk)
        with pytest.raises(DataError, match="No space left"):
            prepare(ratings, metadata, tmp_path)
    files = {path.name for path in (tmp_path / "toy").iterdir()}
    assert files == {"toy.inter", "toy.item", "toy.manifest.json"}
    assert (tmp_path / "toy" / "toy.inter").read_text() == before

    (tmp_path / "toy" / "toy.manifest.json").unlink()
    with pytest.raises(DataError, match="exists already"):
        prepare(ratings, metadata, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare(ratings, metadata, tmp_path / "file")


@pytest.mark.parametrize(("name", "k_core"), [("../game", None), ("", None), ("a/b", None), ("game", 0)])
def test_bad_settings_are_refused(tmp_path, name, k_core):
    with pytest.raises(SettingError):
        prepare(tmp_path, tmp_path, tmp_path, name, k_core=k_core)
