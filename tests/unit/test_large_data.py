"""The benchmark of large data: what it generates, what it measures, and what it makes of the figures."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from benchmarks.large_data.__main__ import _stages
from benchmarks.large_data.generate import Scale, titles_of, write_atomic, write_raw
from benchmarks.large_data.report import exponent, markdown, table
from benchmarks.large_data.stages import NAME, STAGES
from recbole_soft.data.amazon import k_core_mask

TINY = Scale(0.002)


def test_generated_data_is_of_its_size_and_the_same_every_time(tmp_path):
    ratings, metadata = write_raw(tmp_path / "a", Scale(0.0005))
    again, _ = write_raw(tmp_path / "b", Scale(0.0005))
    assert ratings.read_bytes() == again.read_bytes()
    rows = gzip.decompress(ratings.read_bytes()).decode().splitlines()
    assert len(rows) == 1 + Scale(0.0005).raw_rows + 1 and len({len(row) for row in rows[1:-1]}) == 1
    records = [json.loads(line) for line in gzip.decompress(metadata.read_bytes()).splitlines()]
    assert len({record["parent_asin"] for record in records}) == len(records) == Scale(0.0005).raw_items
    assert {row.split(",")[1] for row in rows[1:-1]} <= {record["parent_asin"] for record in records}


def test_atomic_files_are_nearly_a_ten_core_and_titles_repeat(tmp_path):
    write_atomic(tmp_path, NAME, TINY)
    lines = (tmp_path / NAME / f"{NAME}.inter").read_text().splitlines()[1:]
    users, items = (np.unique([line.split("\t")[side] for line in lines], return_inverse=True)[1] for side in (0, 1))
    assert len(lines) == TINY.rows and users.max() + 1 == TINY.users
    assert k_core_mask(users, items, 10).mean() > 0.98
    titles = [title for part in titles_of(2000) for title in part]
    assert 1800 < len(set(titles)) < 2000 and max(map(len, titles)) < 200


@pytest.mark.parametrize("name", ["load", "load, RecBole's steps", "windows and split", "trie"])
def test_a_stage_does_its_work(tmp_path, name):
    work, figures = STAGES[name](tmp_path, TINY)
    found = figures(work())
    assert min(value for value in found.values() if isinstance(value, int)) > 50


def test_ranking_takes_the_table_that_the_stage_before_has_written(tmp_path):
    work, figures = STAGES["item table"](tmp_path, TINY)
    made = figures(work())
    work, figures = STAGES["ranking"](tmp_path, TINY)
    assert figures(work()) == {"windows": 1000, "items": made["titles"], "median rank": 1}


def test_names_with_commas_are_told_apart():
    assert _stages("load, RecBole,load, prepare, polars,trie") == ["load, RecBole", "load", "prepare, polars", "trie"]


def test_the_report_says_how_time_grows_and_what_is_over_the_limit():
    always = {"load": 1.0, "when": "2026-01-01 00:00"}
    rows = [always | {"stage": "load", "size": size, "cpu_seconds": 3 * size**1.5, "seconds": 4 * size,
                      "peak_mb": 400 + 5000 * size, "before_mb": 400, "figures": {"rows": 1000}}
            for size in (1.0, 2.0, 4.0)]
    rows.append(always | {"stage": "trie", "size": 1.0, "failed": "ended at 16 GB"})
    page = markdown(rows)
    assert "| load | 3 | 8.5 | 24.0 | 1.50 |" in page and "| load | 4 | 8 | 16.0 |\n" in page
    assert "| load | 5,400 | 10,400 | 20,400 | 1.00 |" in page
    assert "Over 8,000 MB: load at size 2 (10,400 MB); load at size 4" in page
    assert "trie at size 1 (ended at 16 GB)" in page
    assert exponent([1, 10, 100], [2, 20, 200]) == pytest.approx(1) and exponent([1, 1], [2, 3]) is None
    assert "ended at 16 GB" in table(rows)
