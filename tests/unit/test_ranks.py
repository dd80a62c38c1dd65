"""Ranks by counting equal a stable sort; metrics equal RecBole's; intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.evaluation.ranks import hit, metric_table, ndcg, ranks_of, wilson_interval


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(2, 12), st.integers(0, 999))
def test_ranks_equal_a_stable_sort_even_with_many_ties(rows, items, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (rows, items), generator=generator).float()
    targets = torch.randint(0, items, (rows,), generator=generator)
    order = (-scores).argsort(dim=1, stable=True)
    expected = [order[row].tolist().index(int(target)) + 1 for row, target in enumerate(targets)]
    assert ranks_of(scores, targets).tolist() == expected


def test_a_masked_or_undefined_target_comes_last():
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf], [-torch.inf, 1.0, torch.nan]])
    assert ranks_of(scores, torch.tensor([2, 2])).tolist() == [3, 3]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_metrics_equal_recboles(seed):
    from recbole.evaluator.metrics import NDCG, Hit

    rng = np.random.default_rng(seed)
    ranks = rng.integers(1, 60, 200)
    config = {"metric_decimal_place": 12, "topk": [5, 10, 20, 50]}
    position = np.arange(1, 51)[None, :] == ranks[:, None]
    length = np.ones(200, dtype=int)
    for name, ours, theirs in (("HR", hit, Hit(config)), ("NDCG", ndcg, NDCG(config))):
        values = theirs.metric_info(position) if name == "HR" else theirs.metric_info(position, length)
        for k in config["topk"]:
            assert ours(ranks, k).mean() == pytest.approx(values[:, k - 1].mean(), abs=1e-12)


def test_table_has_every_metric_with_an_interval_around_it():
    table = metric_table(np.array([1, 3, 30, 7] * 50), [5, 20])
    assert table["HR@5"]["value"] == 0.5 and table["HR@20"]["value"] == 0.75
    assert all(row["low"] <= row["value"] <= row["high"] for row in table.values())
    assert table == metric_table(np.array([1, 3, 30, 7] * 50), [5, 20])


def test_an_interval_without_any_hit_is_not_empty():
    low, high = wilson_interval(0, 1000)
    assert low == 0 and 0.003 < high < 0.005
    assert metric_table(np.full(1000, 99), [5])["HR@5"]["high"] == pytest.approx(high)


def test_wilson_against_a_published_value():
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
