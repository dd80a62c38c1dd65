"""Preparation by pandas and by polars: the same bytes, the same counts, the same messages."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.large_data.generate import Scale, write_raw
from recbole_soft.data import prep_engine, raw_files
from recbole_soft.data.amazon import prepare_amazon
from recbole_soft.data.prepare_cli import main
from recbole_soft.data.repeats import repeated_rows
from recbole_soft.errors import DataError, SettingError
from tests.data.raw_files import EDITIONS, write_pair

HAS_POLARS = importlib.util.find_spec("polars") is not None
needs_polars = pytest.mark.skipif(not HAS_POLARS, reason="the extra `prep` is not installed")


def prepared(engine: str, ratings: Path, metadata: Path, out: Path, **given_settings):
    """Bytes of both files and what the manifest says but for date and engine; the message where there is an error."""
    try:
        manifest = prepare_amazon(ratings, metadata, out / engine, "toy", progress=False, engine=engine,
                                  **given_settings)
    except DataError as error:
        return str(error)
    about = json.loads(manifest.to_json())
    assert about.pop("engine") == engine
    about.pop("created")
    return about, *((out / engine / "toy" / f"toy.{kind}").read_bytes() for kind in ("inter", "item"))


@needs_polars
@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("style", [{}, {"zipped": True, "newline": "\r\n", "bom": True, "header": True}])
def test_ugly_files_come_out_alike(tmp_path, edition, style):
    if edition == "amazon-2018":
        style = {**style, "header": False}
    pair = write_pair(tmp_path, edition, **style)
    assert prepared("pandas", pair.ratings, pair.metadata, tmp_path) == \
        prepared("polars", pair.ratings, pair.metadata, tmp_path)


IDS = st.sampled_from(["A1", "A2", "A3", "0700026398", "700026398", "A 4", " A1", "", "é", "#A", "'A'", '"A5"'])
ITEMS = st.sampled_from(["B1", "B2", "B3", "B4", "B 1", "none", "", "0001"])
RATINGS = st.sampled_from(["5.0", "4.0", "4.5", "3", "5", "4.3", "3.14159", "1e0", ".5", "+3", "", "x", "nan", "inf"])
TIMES = st.sampled_from(["1400000000", "1400000001", "1400000000.5", "1400000000123", "-3", "9e15", "1e9", " 7", "+7",
                         "", "soon", "99999999999999999999", "1400000000.123456789"])
LINES = st.one_of(st.tuples(IDS, ITEMS, RATINGS, TIMES).map(",".join),
                  st.sampled_from(["", "a,b", "A1,B1,5.0,1\x00,2"]))
PLAIN_LINES = st.builds("A{},B{},{}.0,{}".format, st.integers(1, 3), st.integers(1, 4), st.integers(1, 5),
                        st.integers(1, 3))


@needs_polars
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(LINES, PLAIN_LINES, PLAIN_LINES), min_size=1, max_size=60), st.sampled_from([None, 2]))
def test_odd_lines_come_out_alike(tmp_path, lines, k_core):
    (tmp_path / "ratings").write_text("user_id,parent_asin,rating,timestamp\n" + "\n".join(lines) + "\n")
    titles = {"B1": "One", "B2": "Two", "B3": "", "0001": "Four", "B4": "x\ty"}
    (tmp_path / "items").write_text("".join(json.dumps({"parent_asin": item, "title": title}) + "\n"
                                            for item, title in titles.items()))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(raw_files, "BLOCK_BYTES", 200)
        both = [prepared(engine, tmp_path / "ratings", tmp_path / "items", tmp_path, k_core=k_core)
                for engine in ("pandas", "polars")]
    assert both[0] == both[1]


@needs_polars
def test_generated_data_comes_out_alike_and_is_clean(tmp_path):
    ratings, metadata = write_raw(tmp_path, Scale(0.0005))
    ours, theirs = (prepared(engine, ratings, metadata, tmp_path) for engine in ("pandas", "polars"))
    assert ours == theirs
    about, interactions, _ = ours
    assert about["written"]["interactions"] == interactions.count(b"\n") - 1 > 10_000
    assert about["inputs"]["ratings"]["bad_lines"] == 1
    assert about["dropped"]["exact duplicate interactions"] > 20


def test_polars_that_is_not_there_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(prep_engine, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r'pip install -e "\.\[prep\]"'):
        prep_engine.make_engine("polars")
    assert prep_engine.make_engine("auto").name == "pandas"


def test_another_engine_is_refused_with_the_names(tmp_path):
    with pytest.raises(SettingError, match="one of auto, pandas, polars"):
        main(["--ratings=x", "--metadata=y", "--name=toy", f"--out={tmp_path}", "--engine=spark"])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), max_size=60))
def test_repeated_rows_are_those_that_came_before(rows):
    columns = np.array(rows, dtype=np.int32).reshape(-1, 4).T
    assert repeated_rows(*columns).tolist() == [row in rows[:place] for place, row in enumerate(rows)]
