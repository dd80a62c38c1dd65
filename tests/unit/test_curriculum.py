"""Schedules: range, ends, monotony, and the paper's formula."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_soft.curriculum import SCHEDULES, EpochSignal, make_schedule

positive = st.floats(1e-3, 1e3)


@given(st.sampled_from([0.1, 1, 10, 100]), positive, positive)
def test_exponential_is_the_papers_formula(alpha, distance, first):
    tau = make_schedule("exponential", {"alpha": alpha}).weight(EpochSignal(2, 7, distance, first))
    try:
        expected = min(1.0, math.exp(alpha * (distance / first - 1)))
    except OverflowError:
        expected = 1.0
    assert tau == pytest.approx(expected, abs=1e-12)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(0, 9), st.integers(1, 10), positive, positive)
def test_every_weight_is_between_0_and_1(name, epoch, epochs, distance, first):
    tau = make_schedule(name, {}).weight(EpochSignal(min(epoch, epochs - 1), epochs, distance, first))
    assert 0.0 <= tau <= 1.0


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_fixed_schedules_fall_from_one_to_zero(name):
    weights = [make_schedule(name, {}).weight(EpochSignal(epoch, 7)) for epoch in range(7)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 1.0 and weights[-1] == pytest.approx(0.0, abs=1e-12)


def test_first_epoch_is_all_self_distilled_and_closer_answers_mean_less_of_it():
    schedule = make_schedule("exponential", {"alpha": 10.0})
    weights = [schedule.weight(EpochSignal(0, 7, distance, 2.0)) for distance in (2.0, 1.8, 1.5, 1.0)]
    assert weights[0] == 1.0 and weights == sorted(weights, reverse=True)
    assert weights[1] == pytest.approx(math.exp(-1))


def test_constant():
    assert make_schedule("constant", {"tau": 0.25}).weight(EpochSignal(3, 7)) == 0.25
