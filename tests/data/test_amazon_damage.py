"""Damaged raw files: every bad line is counted with its number, only a useless file is fatal."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.data import raw_files
from recbole_soft.data.manifest import DataSize
from recbole_soft.data.raw_files import LineTally, RawFile
from recbole_soft.errors import DataError
from tests.data.raw_files import (
    MILLISECONDS,
    SECONDS,
    item_id,
    lines_of,
    metadata_line,
    one_item,
    prepare,
    write_text,
)

USER, OTHER = "AEUSER0000001", "AEUSER0000002"


def test_bad_rating_lines_are_counted_with_their_numbers(tmp_path):
    good = f"{USER},{item_id(0)},5.0,{MILLISECONDS}"
    raw = [
        "user_id,parent_asin,rating,timestamp",
        good,
        f"{USER},{item_id(0)},5.0",
        f"{USER},{item_id(0)},5.0,{MILLISECONDS},extra",
        f"{USER},{item_id(0)},five,{MILLISECONDS}",
        f"{USER},{item_id(0)},5.0,yesterday",
        f"{USER},{item_id(0)},5.0,",
        f"{USER},{item_id(0)},nan,{MILLISECONDS}",
        f"{USER},{item_id(0)},inf,{MILLISECONDS}",
        "",
        f",{item_id(0)},5.0,{MILLISECONDS}",
        f"{USER},  ,5.0,{MILLISECONDS}",
        f"AE two words,{item_id(0)},5.0,{MILLISECONDS}",
        f"{USER}\t,{item_id(0)},5.0,{MILLISECONDS}",
        f"{USER}\0,{item_id(0)},5.0,{MILLISECONDS}",
        f"{USER},{item_id(0)},5.0,-5",
        f"{USER},{item_id(0)},5.0,1e15",
        "BYTES",
        f' {OTHER} ,"{item_id(0)}",4.0,{MILLISECONDS + 1}',
        f"{USER},B999999999,5.0,{MILLISECONDS}",
        "truncated,li",
    ]
    undecodable = b"AE\xff\xfe," + item_id(0).encode() + b",5.0,1400000000000"
    text = "\n".join(raw).encode().replace(b"BYTES", undecodable)
    (tmp_path / "ratings.csv").write_bytes(text)
    manifest = prepare(tmp_path / "ratings.csv", one_item(tmp_path), tmp_path)

    ratings = manifest.inputs["ratings"]
    assert ratings["first_bad_line_numbers"] == {
        "wrong number of fields": [3, 4, 21],
        "rating or timestamp that is no number": [5, 6, 7, 8, 9],
        "empty or unusable user or item id": [11, 12, 13],
        "tab, null or other control character": [14, 15],
        "timestamp out of range": [16, 17],
        "bytes that are not UTF-8": [18],
    }
    assert ratings["bad_lines"] == 16 and ratings["lines_read"] == 20
    assert manifest.dropped["interactions with items not in the metadata"] == 1
    assert lines_of(tmp_path / "toy" / "toy.inter") == [
        f"{USER}\t{item_id(0)}\t5.0\t{MILLISECONDS}", f"{OTHER}\t{item_id(0)}\t4.0\t{MILLISECONDS + 1}",
    ]
    assert "3 x wrong number of fields: line 3, 4, 21" in manifest.table()


def test_only_the_first_bad_lines_are_named_over_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", 64)
    good = [f"{USER},{item_id(0)},5.0,{SECONDS + day}" for day in range(50)]
    ratings = write_text(tmp_path / "r.csv", [line for row in good for line in (row, "broken")])
    manifest = prepare(ratings, one_item(tmp_path), tmp_path)
    assert manifest.written == DataSize(1, 1, 50)
    file = manifest.inputs["ratings"]
    assert file["bad_lines"] == 50
    assert file["first_bad_line_numbers"] == {"wrong number of fields": [2, 4, 6, 8, 10]}


def test_bad_metadata_lines_are_counted_with_their_numbers(tmp_path):
    lines = [
        b"\xef\xbb\xbf" + metadata_line("amazon-2023", 0).encode(),
        b'{"parent_asin": "B000000001", "title": "cut o',
        b'{"title": "no id"}',
        b'{"parent_asin": "B 1", "title": "two words"}',
        b'{"parent_asin": 12, "title": "a number"}',
        b"[1, 2]",
        b'{"parent_asin": "B000000009", "title": "\xff"}',
        b"",
        b"__import__('os').system('true')",
        b"[" * 100_000,
        metadata_line("amazon-2023", 2).encode(),
    ]
    (tmp_path / "meta").write_bytes(b"\n".join(lines))
    ratings = write_text(tmp_path / "r.csv", [f"{USER},{item_id(number)},5.0,{SECONDS}" for number in (0, 2)])
    manifest = prepare(ratings, tmp_path / "meta", tmp_path)
    assert manifest.written == DataSize(1, 2, 2)
    assert manifest.inputs["metadata"]["first_bad_line_numbers"] == {
        "broken JSON or Python literal": [2, 6, 9, 10],
        "no usable item id": [3, 4, 5],
        "bytes that are not UTF-8": [7],
    }


@pytest.mark.parametrize("cut_bytes", [8, 8 + 5, 8 + 5 + 7])
def test_a_truncated_gzip_gives_its_whole_lines_and_a_warning(tmp_path, cut_bytes):
    raw = [f"{USER},{item_id(0)},5.0,{SECONDS + day}" for day in range(100)]
    # Level 0 stores the text as it is: the cut falls into the last timestamp, which still is a number.
    packed = gzip.compress("\n".join([*raw, ""]).encode(), compresslevel=0)
    (tmp_path / "r.gz").write_bytes(packed[:-cut_bytes])
    manifest = prepare(tmp_path / "r.gz", one_item(tmp_path), tmp_path)
    assert "truncated" in manifest.inputs["ratings"]["damage"]
    assert any("truncated" in warning for warning in manifest.warnings)
    whole = 100 if cut_bytes == 8 else 99
    assert manifest.written.interactions == whole
    assert manifest.inputs["ratings"]["bad_lines"] == 100 - whole


@pytest.mark.parametrize("block_bytes", [50, 1 << 24])
def test_a_truncated_gzip_gives_up_all_that_was_unpacked(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(raw_files, "BLOCK_BYTES", block_bytes)
    # One line a thousand times packs so well that all of the text stands before the cut-off check sum.
    packed = gzip.compress(f"{USER},{item_id(0)},5.0,{SECONDS}\n".encode() * 1000)
    (tmp_path / "r.gz").write_bytes(packed[:-8])
    manifest = prepare(tmp_path / "r.gz", one_item(tmp_path), tmp_path)
    assert manifest.dropped["exact duplicate interactions"] == 999


def test_a_damaged_gzip_is_read_up_to_the_damage(tmp_path):
    raw = "".join(f"{USER},{item_id(0)},5.0,{SECONDS + day}\n" for day in range(20_000)).encode()
    half = len(raw) // 2
    packed = gzip.compress(raw[:half]) + b"\x1f\x8b\x08\xff no gzip at all"
    (tmp_path / "r.gz").write_bytes(packed)
    manifest = prepare(tmp_path / "r.gz", one_item(tmp_path), tmp_path)
    assert manifest.written.interactions == raw[:half].count(b"\n")
    assert "damaged" in manifest.warnings[0]


def test_gzip_members_and_padding_are_read_as_one_file(tmp_path):
    parts = [f"{USER},{item_id(0)},5.0,{SECONDS}\n{OTHER},{item_id(0)},", f"4.0,{SECONDS}\n"]
    (tmp_path / "r.gz").write_bytes(b"".join(gzip.compress(part.encode()) for part in parts) + b"\0" * 512)
    manifest = prepare(tmp_path / "r.gz", one_item(tmp_path), tmp_path)
    assert manifest.written == DataSize(2, 1, 2) and manifest.inputs["ratings"]["damage"] is None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 40), st.booleans())
def test_blocks_are_the_file_cut_at_line_ends(tmp_path_factory, text, block_bytes, zipped):
    path = tmp_path_factory.mktemp("blocks") / "file"
    text = b"first line\n" + text
    path.write_bytes(gzip.compress(text) if zipped else text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_files, "BLOCK_BYTES", block_bytes)
        blocks = list(RawFile(path, "file").blocks(progress=False))
    assert b"".join(block for _, block in blocks) == text + (b"" if text.endswith(b"\n") else b"\n")
    expected = 1
    for number, block in blocks:
        assert number == expected and block.endswith(b"\n")
        expected += block.count(b"\n")


def test_unusable_inputs_say_what_they_are(tmp_path):
    metadata = one_item(tmp_path)
    ratings = write_text(tmp_path / "r", [f"{USER},{item_id(0)},5.0,{SECONDS}"])

    def message(ratings_path, metadata_path):
        with pytest.raises(DataError) as caught:
            prepare(ratings_path, metadata_path, tmp_path)
        assert not (tmp_path / "toy" / "toy.inter").exists()
        return str(caught.value)

    assert "swapped" in message(metadata, ratings)
    assert "swapped" in message(metadata, metadata)
    assert "there is no ratings file" in message(tmp_path / "nowhere", metadata)
    (tmp_path / "empty").touch()
    assert "metadata file is empty" in message(ratings, tmp_path / "empty")
    (tmp_path / "zip").write_bytes(b"PK\x03\x04 and so on")
    assert "is a zip file" in message(tmp_path / "zip", metadata)
    strangers = write_text(tmp_path / "s", [f"{USER},B555555555,5.0,{SECONDS}"])
    assert "no rated item has a title" in message(strangers, metadata)
    no_user = write_text(tmp_path / "n", ["parent_asin,rating,timestamp", f"{item_id(0)},5.0,{SECONDS}"])
    assert "no column for the user" in message(no_user, metadata)
    only_header = write_text(tmp_path / "h", ["user_id,parent_asin,rating,timestamp"])
    assert "no usable line" in message(only_header, metadata)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 100)[:12])
    assert "no usable line" in message(tmp_path / "cut.gz", metadata)


def test_an_empty_rejection_leaves_no_trace():
    tally = LineTally()
    tally.reject("reason", [])
    assert tally.rejected == {} and tally.bad == 0


def test_mixed_time_units_are_pointed_out(tmp_path):
    rows = [f"{USER},{item_id(0)},5.0,{time}" for time in (MILLISECONDS, MILLISECONDS + 1, SECONDS)]
    manifest = prepare(write_text(tmp_path / "r", rows), one_item(tmp_path), tmp_path)
    assert manifest.formats["timestamp_unit"] == "ms"
    assert manifest.warnings[0].startswith("1 timestamps do not look like the others (ms)")


def test_many_unknown_items_are_pointed_out(tmp_path):
    rows = [f"{USER},{item_id(number)},5.0,{SECONDS}" for number in range(4)]
    manifest = prepare(write_text(tmp_path / "r", rows), one_item(tmp_path), tmp_path)
    assert manifest.warnings[0].startswith("3 of 4 interactions are with items not in the metadata")
