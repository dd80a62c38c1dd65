"""Preparation of raw Amazon files: exact counts, exact titles, and every kind of damage."""

from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import EDITIONS, MILLISECONDS, SECONDS, item_id, metadata_line, write_pair, write_text

from recbole_soft.data import amazon, raw_files
from recbole_soft.data.amazon import k_core_mask, prepare_amazon
from recbole_soft.data.atomic import read_atomic
from recbole_soft.data.manifest import PUBLISHED_SIZES, DataSize
from recbole_soft.data.prepare_cli import main
from recbole_soft.data.raw_files import LineTally, RawFile
from recbole_soft.data.raw_metadata import clean_cell
from recbole_soft.errors import DataError, SettingError

USER, OTHER = "AEUSER0000001", "AEUSER0000002"


def prepare(ratings, metadata, out, name="toy", **options):
    return prepare_amazon(ratings, metadata, out, name, progress=False, **options)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[1:-1]


def one_item(folder: Path) -> Path:
    return write_text(folder / "one_item.jsonl", [metadata_line("amazon-2023", 0)])


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("newline", "bom"), [("\n", False), ("\r\n", True)])
@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_comes_out_exactly(tmp_path, edition, zipped, newline, bom):
    pair = write_pair(tmp_path, edition, header=edition == "amazon-2023", zipped=zipped, newline=newline, bom=bom)
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
        "ratings_columns": "item,user,rating,timestamp" if edition == "amazon-2018" else "user,item,rating,timestamp",
        "ratings_header": edition == "amazon-2023",
        "timestamp_unit": "ms" if edition == "amazon-2023" else "s",
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
    text = "\n".join(raw).encode().replace(b"BYTES", b"AE\xff\xfe," + item_id(0).encode() + b",5.0,1400000000000")
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
    ratings = write_text(tmp_path / "r.csv", [line for pair in zip(good, ["broken"] * 50, strict=True) for line in pair])
    manifest = prepare(ratings, one_item(tmp_path), tmp_path)
    assert manifest.written == DataSize(1, 1, 50)
    assert manifest.inputs["ratings"]["bad_lines"] == 50
    assert manifest.inputs["ratings"]["first_bad_line_numbers"] == {"wrong number of fields": [2, 4, 6, 8, 10]}


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


def test_a_later_record_can_bring_the_title(tmp_path):
    records = [{"asin": "B1", "title": None}, {"asin": "B1", "title": "First"}, {"asin": "B1", "title": "Second"}]
    metadata = write_text(tmp_path / "m", [json.dumps(record) for record in records])
    manifest = prepare(write_text(tmp_path / "r", [f"{USER},B1,5.0,{SECONDS}"]), metadata, tmp_path)
    assert lines_of(tmp_path / "toy" / "toy.item") == ["B1\tFirst\t"]
    assert manifest.dropped["items without title"] == 0 and manifest.dropped["repeated metadata records"] == 2


@pytest.mark.parametrize("cut_bytes", [8, 8 + 5, 8 + 5 + 7])
def test_a_truncated_gzip_gives_its_whole_lines_and_a_warning(tmp_path, cut_bytes):
    raw = [f"{USER},{item_id(0)},5.0,{SECONDS + day}" for day in range(100)]
    # Level 0 stores the text as it is: the cut falls into the last timestamp, which still looks like a number.
    packed = gzip.compress("\n".join([*raw, ""]).encode(), compresslevel=0)
    (tmp_path / "r.gz").write_bytes(packed[:-cut_bytes])
    manifest = prepare(tmp_path / "r.gz", one_item(tmp_path), tmp_path)
    assert "truncated" in manifest.inputs["ratings"]["damage"]
    assert any("truncated" in warning for warning in manifest.warnings)
    whole = 100 if cut_bytes == 8 else 99
    assert manifest.written.interactions == whole
    assert manifest.inputs["ratings"]["bad_lines"] == 100 - whole


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
@given(st.binary(max_size=200).map(lambda text: text.replace(b"\xef\xbb\xbf", b"")), st.integers(1, 40), st.booleans())
def test_blocks_are_the_file_cut_at_line_ends(tmp_path_factory, text, block_bytes, zipped):
    path = tmp_path_factory.mktemp("blocks") / "file"
    path.write_bytes(gzip.compress(text) if zipped else b"x\n" + text)
    text = text if zipped else b"x\n" + text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_files, "BLOCK_BYTES", block_bytes)
        blocks = list(RawFile(path, "file").blocks(progress=False))
    assert b"".join(block for _, block in blocks) == text + (b"\n" if text and not text.endswith(b"\n") else b"")
    expected = 1
    for number, block in blocks:
        assert number == expected and block.endswith(b"\n")
        expected += block.count(b"\n")


@pytest.mark.parametrize("header", [
    "rating,title,asin,parent_asin,user_id,timestamp", '"Rating","Title","asin","parent_asin","user_id","timestamp"',
])
def test_a_header_names_the_columns_whatever_their_order(tmp_path, header):
    row = f"2.0,a title,BVARIANT01,{item_id(0)},{USER},{MILLISECONDS}"
    manifest = prepare(write_text(tmp_path / "r", [header, row]), one_item(tmp_path), tmp_path)
    assert lines_of(tmp_path / "toy" / "toy.inter") == [f"{USER}\t{item_id(0)}\t2.0\t{MILLISECONDS}"]
    assert manifest.formats["ratings_header"] is True


def test_mixed_time_units_are_pointed_out(tmp_path):
    rows = [f"{USER},{item_id(0)},5.0,{time}" for time in (MILLISECONDS, MILLISECONDS + 1, SECONDS)]
    manifest = prepare(write_text(tmp_path / "r", rows), one_item(tmp_path), tmp_path)
    assert manifest.formats["timestamp_unit"] == "ms"
    assert any(warning.startswith("1 timestamps do not look like the others (ms)") for warning in manifest.warnings)


def test_many_unknown_items_are_pointed_out(tmp_path):
    rows = [f"{USER},{item_id(number)},5.0,{SECONDS}" for number in range(4)]
    manifest = prepare(write_text(tmp_path / "r", rows), one_item(tmp_path), tmp_path)
    assert any("3 of 4 interactions are with items not in the metadata" in warning for warning in manifest.warnings)


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


def dense_ratings(folder: Path) -> tuple[Path, Path]:
    """10 users rate 10 items each (a 10-core), one more user rates one item of them."""
    metadata = write_text(folder / "m", [json.dumps({"asin": item_id(i), "title": f"T{i}"}) for i in range(11)])
    rows = [f"AEUSER{user:07d},{item_id(item)},5.0,{SECONDS}" for user in range(10) for item in range(10)]
    return write_text(folder / "r", [*rows, f"{OTHER}X,{item_id(3)},5.0,{SECONDS}"]), metadata


def test_core_sizes_and_the_core_that_is_written(tmp_path):
    ratings, metadata = dense_ratings(tmp_path)
    everything = prepare(ratings, metadata, tmp_path, "all")
    assert everything.written == DataSize(11, 10, 101) and everything.ten_core == DataSize(10, 10, 100)
    core = prepare(ratings, metadata, tmp_path, "core", k_core=10)
    assert core.written == core.ten_core == DataSize(10, 10, 100)
    assert core.dropped["interactions outside the 10-core"] == 1
    assert len(lines_of(tmp_path / "core" / "core.inter")) == 100
    with pytest.raises(DataError, match="nothing is left after the 11-core"):
        prepare(ratings, metadata, tmp_path, "eleven", k_core=11)


def test_sizes_are_compared_with_the_paper(tmp_path, monkeypatch, caplog):
    ratings, metadata = dense_ratings(tmp_path)
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
    ratings, metadata = dense_ratings(tmp_path)
    prepare(ratings, metadata, tmp_path, "movie")
    content = json.loads((tmp_path / "movie" / "movie.manifest.json").read_text())
    assert content["ten_core"] == {"users": 10, "items": 10, "interactions": 100}
    assert content["published"] == {"users": 67_917, "items": 45_578, "interactions": 1_650_120}
    assert content["inputs"]["ratings"]["bytes"] == ratings.stat().st_size
    assert len(content["inputs"]["ratings"]["sha256_of_first_mebibyte"]) == 64


def test_nothing_of_others_is_overwritten_and_nothing_is_left_half_done(tmp_path, monkeypatch):
    ratings, metadata = dense_ratings(tmp_path)
    prepare(ratings, metadata, tmp_path)
    before = (tmp_path / "toy" / "toy.inter").read_text()
    prepare(ratings, metadata, tmp_path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(amazon, "_write_interactions", full_disk)
        with pytest.raises(DataError, match="No space left"):
            prepare(ratings, metadata, tmp_path)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["toy.inter", "toy.item", "toy.manifest.json"]
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


def test_an_empty_rejection_leaves_no_trace():
    tally = LineTally()
    tally.reject("reason", [])
    assert tally.rejected == {} and tally.bad == 0


def test_the_command_prepares_and_prints_a_table(tmp_path, capsys):
    ratings, metadata = dense_ratings(tmp_path)
    arguments = [f"--ratings={ratings}", f"--metadata={metadata}", "--name=toy", f"--out={tmp_path}", "--k-core=10"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "written (10-core)" in printed and "10 users / 10 items / 100 interactions" in printed
    assert (tmp_path / "toy" / "toy.inter").is_file()
    assert main(["--help"]) == 0 and "--metadata=FILE" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["--rating=x"], "did you mean ratings"),
    (["--ratings=x", "--name=game"], "--metadata is missing"),
    (["--ratings"], "not of the form --key=value"),
    (["ratings=x"], "not of the form --key=value"),
    (["--ratings=x", "--metadata=y", "--name=game", "--k_core=ten"], "no whole number"),
])
def test_mistakes_on_the_command_line_name_the_remedy(arguments, message):
    with pytest.raises(SettingError, match=message):
        main(arguments)
