"""The parts of the shims that need no RecBole: the module view and the two stand-ins."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.compat import kmeans_stub, numpy_names, pandas_agg_len, ray_stub, scipy_dok
from recbole_soft.compat.module_view import ModuleView
from recbole_soft.errors import UserError


def test_module_view_replaces_some_names_and_passes_on_the_others():
    view = ModuleView(math, sqrt=lambda number: "mine")
    assert view.sqrt(4) == "mine"
    assert view.pi is math.pi
    assert math.sqrt(4) == 2
    assert {"sqrt", "pi"} <= set(dir(view))
    assert isinstance(view, ModuleType)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = view.no_such_name


def test_module_view_follows_later_changes_of_the_original():
    original = ModuleType("original")
    view = ModuleView(original)
    original.added = 1
    assert view.added == 1


def test_clustering_without_the_package_says_what_to_install():
    with pytest.raises(UserError, match="pip install kmeans-pytorch"):
        kmeans_stub._kmeans_is_missing([[0.0]], num_clusters=2)


def test_a_report_reaches_the_real_ray_if_the_user_imported_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "ray.tune", raising=False)
    stand_in = ray_stub._stand_ins()["ray.tune"]
    stand_in.report(ndcg=0.5)
    reports = []
    real = ModuleType("ray.tune")
    real.report = lambda **metrics: reports.append(metrics)
    monkeypatch.setitem(sys.modules, "ray.tune", real)
    stand_in.report(ndcg=0.25)
    assert reports == [{"ndcg": 0.25}]
    assert not ray_stub.is_needed()


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=6))
@settings(max_examples=40, deadline=None)
def test_length_of_each_cell_agrees_with_the_built_in(cells: list[list[int]]):
    import pandas as pd

    column = pd.Series(cells, dtype=object)
    assert list(pandas_agg_len._length_of_each_cell(column)) == [len(cell) for cell in cells]
    assert pandas_agg_len._length_of_each_cell(cells) == len(cells)
    assert pandas_agg_len._length_of_each_cell(column.index) == len(cells)


@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 4)), st.floats(1, 9), max_size=8))
@settings(max_examples=40, deadline=None)
def test_set_entries_equals_assigning_them_one_by_one(entries: dict[tuple[int, int], float]):
    from scipy.sparse import dok_matrix

    at_once, one_by_one = dok_matrix((4, 5)), dok_matrix((4, 5))
    scipy_dok._set_entries(at_once, entries)
    for position, value in entries.items():
        one_by_one[position] = value
    assert (at_once.toarray() == one_by_one.toarray()).all()


def test_numpy_names_keep_what_numpy_already_has(monkeypatch: pytest.MonkeyPatch):
    import numpy as np

    for name in ("int", "float", "complex", "object", "str", "unicode"):
        # Set through monkeypatch so that they are gone again after the test.
        monkeypatch.setitem(vars(np), name, "already there")
    numpy_names._set_missing_names()
    assert vars(np)["float"] == "already there"
    del vars(np)["float"]
    numpy_names._set_missing_names()
    assert vars(np)["float"] is np.float64
