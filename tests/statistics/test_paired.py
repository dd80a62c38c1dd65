"""Paired tests, corrections and power against scipy, hand-made cases and shuffled labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recbole_soft.statistics.metrics import bootstrap_interval, is_metric, metric_values, sums_by_group
from recbole_soft.statistics.paired import (
    between_seeds,
    detectable_difference,
    holm,
    mcnemar_p,
    paired_tests,
    sign_flip_p,
    standard_error,
    standardised,
    windows_needed,
)


def test_metrics_per_window_by_hand():
    ranks = np.array([[1, 3, 6], [2, 5, 20]])
    assert metric_values(ranks, "HR@5").tolist() == [[1, 1, 0], [1, 1, 0]]
    assert metric_values(ranks, "NDCG@5")[0].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert is_metric("NDCG@20") and not any(map(is_metric, ("HR", "HR@", "HR@0", "MRR@5", "HR@five")))
    with pytest.raises(ValueError, match="MRR@5 is no metric"):
        metric_values(ranks, "MRR@5")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1, width=16), min_size=2, max_size=8))
def test_with_few_windows_all_signs_are_tried_as_scipy_does(values):
    differences = np.array(values)
    expected = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
    assert sign_flip_p(differences[:, None])[0] == pytest.approx(expected)


def test_with_many_windows_drawn_signs_come_close_to_scipy_and_to_the_normal_limit():
    differences = np.random.default_rng(3).normal(0.15, 1.0, (120, 1))
    ours = sign_flip_p(differences)[0]
    scipys = stats.permutation_test((differences[:, 0],), np.sum, permutation_type="samples", n_resamples=4999,
                                    rng=np.random.default_rng(0)).pvalue
    assert ours == pytest.approx(scipys, abs=0.02)
    assert ours == pytest.approx(stats.ttest_1samp(differences[:, 0], 0).pvalue, abs=0.02)


def test_signs_of_hits_of_one_run_are_mcnemars_exact_test():
    """Sign flips of -1, 0 and 1 are McNemar's exact test: what several seeds get is its generalisation."""
    for wins, losses in ((9, 2), (4, 4), (7, 0), (3, 5)):
        differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 40)[:, None]
        assert sign_flip_p(differences)[0] == pytest.approx(mcnemar_p(wins, losses, mid=False))


def test_mcnemar_by_hand():
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 0, mid=False) == pytest.approx(2 * 0.5**5)
    assert mcnemar_p(5, 0) == pytest.approx(0.5**5)
    assert mcnemar_p(3, 1, mid=False) == pytest.approx(10 / 16)
    assert mcnemar_p(3, 1) == pytest.approx(10 / 16 - 4 / 16)
    assert mcnemar_p(4, 4) == pytest.approx(1.0, abs=0.28) and mcnemar_p(4, 4) <= 1.0
    assert mcnemar_p(30, 10) == mcnemar_p(10, 30)


def test_mcnemar_agrees_with_scipys_chi_square_for_large_counts():
    chi_square = stats.chi2.sf((600 - 500) ** 2 / 1100, 1)
    assert mcnemar_p(600, 500) == pytest.approx(chi_square, rel=0.05)


def test_users_are_units_where_they_are_known():
    """Four users with twenty equal windows each know no more than four windows."""
    differences = np.repeat([1.0, 1.0, 1.0, 1.0], 20)[:, None]
    assert sign_flip_p(differences)[0] < 0.001
    assert sign_flip_p(differences, np.repeat(list("abcd"), 20))[0] == pytest.approx(2 / 16)


def test_no_difference_anywhere_is_no_evidence():
    tests = paired_tests(np.zeros((50, 2)), [True, False])
    assert {(test.p_value, test.effect, test.difference, test.low, test.high) for test in tests} == {(1, 0, 0, 0, 0)}


def test_which_test_is_used_and_what_it_reports():
    differences = np.array([[1.0, 0.6], [1.0, 0.4], [0.0, 0.0], [-1.0, -0.5], [1.0, 0.2]])
    hits, gains = paired_tests(differences, [True, False], is_single_run=True)
    assert (hits.test, hits.p_value) == ("McNemar mid-p", mcnemar_p(3, 1))
    assert (gains.test, gains.wins, gains.losses) == ("permutation over windows", 3, 1)
    assert gains.difference == pytest.approx(0.14) and gains.low < 0.14 < gains.high
    assert gains.standard_error == pytest.approx(stats.sem(differences[:, 1]))
    several_seeds = paired_tests(differences, [True, False])[0]
    assert several_seeds.test == "permutation over windows"
    users = paired_tests(differences, [True, False], np.array(list("aabbc")), is_single_run=True)[0]
    assert users.test == "permutation over users"


def test_effect_is_cohens_d_of_pairs():
    differences = np.array([0.2, 0.4, -0.1, 0.3])
    assert standardised(differences) == pytest.approx(0.2 / np.std(differences, ddof=1))


def test_standard_error_over_users_grows_with_their_likeness():
    rng = np.random.default_rng(0)
    of_user = np.repeat(rng.normal(0, 1, 60), 10)[:, None]
    users = np.repeat(np.arange(60), 10)
    alone = rng.normal(0, 1, (600, 1))
    assert standard_error(of_user, users)[0] == pytest.approx(np.sqrt(10) * standard_error(of_user)[0], rel=0.05)
    assert standard_error(alone, users)[0] == pytest.approx(standard_error(alone)[0], rel=0.25)


@pytest.mark.parametrize("clustered", [False, True])
def test_shuffled_labels_give_five_percent_false_positives(clustered):
    """400 pairs of methods whose labels are shuffled per unit; users whose windows are alike, where clustered."""
    rng, repeats, windows = np.random.default_rng(1), 400, 240
    users = np.repeat(np.arange(windows // 6), 6) if clustered else None
    taste = rng.normal(0, 1, (windows // 6, repeats)).repeat(6, axis=0) if clustered else 0.0
    ranks = [np.exp(np.abs(rng.normal(0, 2, (windows, repeats)) + side * taste)).astype(int) + 1 for side in (1, -1)]
    units = windows // 6 if clustered else windows
    swapped = rng.integers(0, 2, (units, repeats)).astype(bool).repeat(windows // units, axis=0)
    first, second = np.where(swapped, ranks[1], ranks[0]), np.where(swapped, ranks[0], ranks[1])
    ndcg = metric_values(first, "NDCG@20") - metric_values(second, "NDCG@20")
    share = (sign_flip_p(ndcg, users, flips=999) < 0.05).mean()
    assert 0.025 < share < 0.08
    hits = metric_values(first, "HR@5") - metric_values(second, "HR@5")
    share_of_hits = (sign_flip_p(hits, users, flips=999) < 0.05).mean()
    assert 0.01 < share_of_hits < 0.08
    if not clustered:
        mid = [mcnemar_p(int((column > 0).sum()), int((column < 0).sum())) for column in hits.T]
        assert 0.025 < np.mean(np.array(mid) < 0.05) < 0.08


def test_ignoring_users_finds_differences_that_are_none():
    """The mistake that units of users avoid: windows of one user as if they were independent."""
    rng, repeats = np.random.default_rng(2), 300
    of_user = rng.normal(0, 1, (30, repeats)).repeat(10, axis=0)
    assert (sign_flip_p(of_user, flips=499) < 0.05).mean() > 0.4
    assert (sign_flip_p(of_user, np.repeat(np.arange(30), 10), flips=499) < 0.05).mean() < 0.09


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_equals_its_definition(values):
    """Closed testing: a hypothesis falls when every subset that holds it falls by Bonferroni."""
    p_values = np.array(values)
    adjusted = holm(p_values)
    for position in range(len(p_values)):
        subsets = (subset for size in range(1, len(p_values) + 1)
                   for subset in itertools.combinations(range(len(p_values)), size) if position in subset)
        expected = max(min(1.0, len(subset) * p_values[list(subset)].min()) for subset in subsets)
        assert adjusted[position] == pytest.approx(expected)


def test_holm_by_hand_and_without_numbers():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm(np.array([0.01, np.nan, 0.04]))
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.02, 0.04]) and np.isnan(adjusted[1])


def test_between_seeds_is_welchs_test():
    ours, theirs = np.array([0.31, 0.33, 0.35]), np.array([0.30, 0.28])
    assert between_seeds(ours, theirs) == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    constant = np.array([0.2, 0.2, 0.2])
    assert np.isnan(between_seeds(ours, theirs[:1]))
    assert between_seeds(constant, constant[:2]) == 1.0 and between_seeds(constant, constant + 0.1) == 0.0
    assert 0 < between_seeds(ours, constant) < 0.05


def test_power_that_was_planned_is_reached():
    """With the windows that are said to be needed, about 80 % of samples show the difference."""
    rng, true = np.random.default_rng(5), 0.05
    pilot = rng.choice([-1.0, 0.0, 1.0], (20_000, 1), p=[0.05, 0.85, 0.10])
    needed = int(windows_needed(standard_error(pilot)[0], len(pilot), true))
    assert needed == pytest.approx((1.959964 + 0.841621) ** 2 * pilot.var() / true**2, rel=0.01)
    samples = rng.choice([-1.0, 0.0, 1.0], (needed, 500), p=[0.05, 0.85, 0.10])
    found = stats.ttest_1samp(samples, 0).pvalue < 0.05
    assert 0.74 < found.mean() < 0.86
    assert windows_needed(0.01, 1000, 0.0) == float("inf")
    assert detectable_difference(0.01) == pytest.approx(0.028016, abs=1e-6)


def test_bootstrap_draws_whole_users():
    rng = np.random.default_rng(7)
    values, users = np.repeat(rng.integers(0, 2, 50), 20).astype(float)[:, None], np.repeat(np.arange(50), 20)
    low, high = bootstrap_interval(values)
    low_users, high_users = bootstrap_interval(values, groups=users)
    assert (high_users - low_users)[0] == pytest.approx(np.sqrt(20) * (high - low)[0], rel=0.15)
    assert (high_users - low_users)[0] == pytest.approx(2 * 1.96 * stats.sem(values[::20, 0]), rel=0.15)


def test_bootstrap_agrees_with_scipys():
    values = np.random.default_rng(8).exponential(1.0, (300, 1))
    low, high = bootstrap_interval(values, resamples=4000)
    scipys = stats.bootstrap((values[:, 0],), np.mean, method="percentile", n_resamples=4000,
                             rng=np.random.default_rng(1)).confidence_interval
    assert (low[0], high[0]) == (pytest.approx(scipys.low, abs=0.02), pytest.approx(scipys.high, abs=0.02))


def test_sums_by_group_by_hand():
    sums, counts = sums_by_group(np.array([[1.0], [2.0], [4.0]]), np.array(["b", "a", "b"]))
    assert sums.tolist() == [[2.0], [5.0]] and counts.tolist() == [1, 2]
