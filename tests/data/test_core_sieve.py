"""Lines left out by counts in buckets: the files come out as without, however often ids share a bucket."""

from __future__ import annotations

import importlib.util
import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from benchmarks.large_data.generate import Scale, write_raw
from recbole_soft.data import core_sieve, raw_files
from recbole_soft.data.amazon import prepare_amazon
from recbole_soft.data.core_sieve import CoreSieve, add_saturating, cell_hashes
from recbole_soft.data.manifest import Manifest
from recbole_soft.errors import DataError
from tests.data.raw_files import write_dense_pair

ENGINES = ["pandas", *(["polars"] if importlib.util.find_spec("polars") else [])]
TITLES = {"B1": "One", "B2": "Two", "B3": "", "B4": "x\ty", "B5": "Five", "B6": "Six", "B,7": "Seven"}
ODD_USERS = [" A1", "A2 ", "\u2003A2", "é", "", "A 4", "A" * 40 + "1", "A" * 40 + "2", '"A3"']
ODD_ITEMS = ["B3", " B1", "B1\u00a0", "none", '"B2"', "A1"]
ODD_LINES = ["", "a,b", "A1,B1,5.0,1\x00", "A1,B1,x,1", "A2,B2,5.0,soon", "A3,B3,,1", "A3,B1,5.0,-1"]
HEADERS = st.sampled_from(["", "user_id,parent_asin,rating,timestamp\n", "rating,item,time,user\n"])


def ratings_lines(seed: int, odd_share: float) -> list[str]:
    """Lines of few users and items, some of them repeated, some odd, some bad."""
    draw = random.Random(seed)
    users = [f"A{number}" for number in range(1, draw.randint(3, 12))]
    items = ["B1", "B2", "B4", "B5", "B6"][:draw.randint(2, 5)]
    found = []
    for _ in range(draw.randint(5, 60)):
        user = draw.choice(ODD_USERS if draw.random() < odd_share else users)
        item = draw.choice(ODD_ITEMS if draw.random() < odd_share else items)
        line = f"{user},{item},{draw.choice(['5.0', '4'])},{draw.randint(1, 5)}"
        found.append(draw.choice(ODD_LINES) if draw.random() < odd_share / 4 else line)
    return found


def prepared(folder: Path, out: str, k_core: int, engine: str = "pandas") -> tuple[Manifest, bytes, bytes] | None:
    """The manifest and the bytes of both files; None where nothing is left or usable."""
    try:
        manifest = prepare_amazon(folder / "ratings", folder / "items", folder / out, "toy", progress=False,
                                  k_core=k_core, engine=engine)
    except DataError:
        return None
    return manifest, *((folder / out / "toy" / f"toy.{kind}").read_bytes() for kind in ("inter", "item"))


def sieved(folder: Path, k_core: int, bits: int, engine: str = "pandas", block_bytes: int = 300):
    """The same with a sieve of 2 to the `bits` buckets, whatever the size of the file."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(core_sieve, "WORTH_FROM_BYTES", 0)
        patched.setattr(core_sieve, "BUCKET_BITS", bits)
        patched.setattr(raw_files, "BLOCK_BYTES", block_bytes)
        return prepared(folder, "sieved", k_core, engine)


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.sampled_from([0, 0.1, 0.4]), HEADERS, st.integers(2, 4), st.sampled_from([1, 3, 12]))
def test_files_are_the_same_with_and_without(tmp_path, engine, seed, odd_share, header, k_core, bits):
    lines = ratings_lines(seed, odd_share)
    if header.startswith("rating"):  # without columns 0 and 1 as ids
        lines = [",".join([cells[2], cells[1], cells[3], cells[0]]) if len(cells) == 4 else line
                 for line, cells in ((line, line.split(",")) for line in lines)]
    (tmp_path / "ratings").write_text(header + "\n".join(lines) + "\n")
    (tmp_path / "items").write_text("".join(json.dumps({"parent_asin": item, "title": title}) + "\n"
                                            for item, title in TITLES.items()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(raw_files, "BLOCK_BYTES", 300)  # the order of columns is told by the first block
        plain = prepared(tmp_path, "plain", k_core, engine)
    ours = sieved(tmp_path, k_core, bits, engine)
    if plain is None:
        assert ours is None
        return
    event(f"lines were left out: {any(ours[0].dropped[name] for name in ours[0].dropped if name.startswith('lines'))}")
    assert ours[1:] == plain[1:]
    assert (ours[0].written, ours[0].ten_core, ours[0].formats) == \
        (plain[0].written, plain[0].ten_core, plain[0].formats)
    for manifest in (ours[0], plain[0]):
        file = manifest.inputs["ratings"]
        lost = sum(count for reason, count in manifest.dropped.items() if reason.startswith(("interactions", "lines",
                                                                                             "exact")))
        assert file["lines_read"] == file["bad_lines"] + bool(header) + lost + manifest.written.interactions


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k_core", [3, 5, 10, 12])
def test_generated_data_comes_out_alike_and_far_less_is_read_in(tmp_path, engine, k_core):
    ratings, metadata = write_raw(tmp_path, Scale(0.0008))
    ratings.rename(tmp_path / "ratings")
    metadata.rename(tmp_path / "items")
    plain, ours = prepared(tmp_path, "plain", k_core, engine), sieved(tmp_path, k_core, 14, engine, 1 << 18)
    if plain is None:
        assert ours is None
        return
    assert ours[1:] == plain[1:]
    assert ours[0].ten_core == plain[0].ten_core
    left_out = ours[0].dropped[f"lines outside the {min(k_core, 10)}-core, by counts before all else"]
    outside = plain[0].dropped[f"interactions outside the {k_core}-core"]
    assert left_out > 0.5 * outside > 1000
    assert ours[0].dropped["metadata records of items outside of it"] > 100


def test_it_is_used_for_large_files_and_a_k_that_drops_something(tmp_path, monkeypatch, caplog):
    ratings, metadata = write_dense_pair(tmp_path)
    metadata.rename(tmp_path / "items")
    monkeypatch.setattr(core_sieve, "BUCKET_BITS", 10)
    small = prepared(tmp_path, "small", 10)
    assert not any(reason.startswith("lines") for reason in small[0].dropped)
    monkeypatch.setattr(core_sieve, "WORTH_FROM_BYTES", ratings.stat().st_size)
    with caplog.at_level(logging.INFO):
        large = prepared(tmp_path, "large", 10)
    assert "is large: users and items are counted first" in caplog.text
    assert large[0].dropped["lines outside the 10-core, by counts before all else"] == 1
    assert large[1:] == small[1:]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        every = prepared(tmp_path, "every", 1)
    assert "--k_core=10 would need far less" in caplog.text
    assert every[0].written.interactions == 101


def test_nothing_left_is_said_as_without(tmp_path, monkeypatch):
    write_dense_pair(tmp_path)[1].rename(tmp_path / "items")
    monkeypatch.setattr(core_sieve, "WORTH_FROM_BYTES", 0)
    monkeypatch.setattr(core_sieve, "BUCKET_BITS", 20)
    (tmp_path / "ratings").write_text("A1,B000000001,5.0,1\nA2,B000000002,5.0,1\n")
    with pytest.raises(DataError, match="nothing is left after the 3-core"):
        prepare_amazon(tmp_path / "ratings", tmp_path / "items", tmp_path, "toy", progress=False, k_core=3)


CELLS = st.text(st.characters(exclude_characters=",\n", exclude_categories=["Cs", "Cc"]), max_size=45)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=20))
def test_a_hash_is_of_the_text_without_blanks_around(rows):
    block = "".join(",".join(row) + "\n" for row in rows).encode()
    for column in range(3):
        hashes = cell_hashes(block, 3, column)
        alone = [int(cell_hashes(f"{row[column].strip()}\n".encode(), 1, 0)[0]) for row in rows]
        assert hashes.tolist() == alone
        if all(len(row[column].encode()) <= core_sieve.HASHED_BYTES for row in rows):
            assert len(set(alone)) == len({row[column].strip() for row in rows})


def test_hashes_spread_evenly_and_stay_what_they_are():
    ids = [f"AE{number:026d}" for number in range(20_000)]
    hashes = cell_hashes(("\n".join(ids) + "\n").encode(), 1, 0)
    assert len(np.unique(hashes)) == len(ids)
    per_bucket = np.bincount((hashes >> np.uint64(64 - 6)).astype(np.int64), minlength=64)
    assert per_bucket.min() > 230  # 312 on average, standard deviation 18
    assert per_bucket.max() < 400


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 100, 254, 255, 256, 300]))), max_size=5))
def test_counts_stop_at_255(parts):
    counts, everything = np.zeros(4, dtype=np.uint8), np.zeros(4, dtype=np.int64)
    for part in parts:
        buckets = np.array([bucket for bucket, times in part for _ in range(times)], dtype=np.int64)
        add_saturating(counts, buckets)
        everything += np.bincount(buckets, minlength=4)
    assert counts.tolist() == np.minimum(everything, 255).tolist()


def test_ids_with_commas_in_the_metadata_do_no_harm(tmp_path):
    (tmp_path / "ratings").write_text("A1,B1,5.0,1\nA1,B1,5.0,2\n")
    sieve = CoreSieve(2, 20)
    sieve.count(raw_files.RawFile(tmp_path / "ratings", "ratings file"), progress=False)
    assert sieve.may_be_items(["B1", "B,1", "B2"]).tolist() == [True, False, False]
    assert sieve.may_be_items([]).tolist() == []


def test_the_order_of_columns_is_told_by_items_outside_of_the_core_as_well(tmp_path):
    """The first block holds no line of the core, and only its items tell the columns apart."""
    once = [f"X{number},USER{number:06d},5.0,1" for number in range(30)]  # items first; users look like items
    core = [f"{item},{user},5.0,1" for item in ("Y1", "Y2") for user in ("USER000100", "USER000101")]
    (tmp_path / "ratings").write_text("\n".join([*once, *core]) + "\n")
    (tmp_path / "items").write_text("".join(json.dumps({"asin": line.split(",")[0], "title": "A title"}) + "\n"
                                            for line in [*once, *core[::2]]))
    plain, ours = prepared(tmp_path, "plain", 2), sieved(tmp_path, 2, 20)
    assert ours[0].formats["ratings_columns"] == plain[0].formats["ratings_columns"] == "item,user,rating,timestamp"
    assert ours[1:] == plain[1:]
    assert plain[1].count(b"\n") == 5
