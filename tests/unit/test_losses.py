"""Losses against loops written from the formulas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.losses import mean_token_nll, mixed_loss


def loop_sft(log_probabilities: list[list[float]]) -> float:
    """- 1/T sum over responses, sum over tokens of log p."""
    total, count = 0.0, 0
    for response in log_probabilities:
        for value in response:
            total -= value
            count += 1
    return total / count


responses = st.lists(st.lists(st.floats(-20, 0), min_size=1, max_size=6), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(responses, st.integers(1, 5))
def test_micro_batches_add_up_to_the_mean_over_all_tokens(log_probabilities, size):
    tokens = sum(map(len, log_probabilities))
    nll = torch.tensor([-sum(response) for response in log_probabilities], dtype=torch.float64)
    whole = sum(mean_token_nll(nll[i: i + size], tokens) for i in range(0, len(nll), size))
    assert float(whole) == pytest.approx(loop_sft(log_probabilities), abs=1e-9)


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1))
def test_mixture_is_the_papers(sft, sdft, tau):
    parts = {"sft": torch.tensor(sft, dtype=torch.float64), "sdft": torch.tensor(sdft, dtype=torch.float64)}
    mixed = mixed_loss(parts, {"sft": 1 - tau, "sdft": tau})
    assert float(mixed) == pytest.approx((1 - tau) * sft + tau * sdft, abs=1e-12)


def test_a_weighted_part_that_was_not_computed_is_an_error():
    with pytest.raises(ValueError, match="no loss was computed for sdft"):
        mixed_loss({"sft": torch.tensor(1.0)}, {"sft": 0.5, "sdft": 0.5})
