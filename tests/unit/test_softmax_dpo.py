"""S-DPO's loss against a loop written from its formula, and against DPO's at one negative."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.losses import softmax_dpo_loss
from recbole_soft.strategies.sdpo import preference_figures

ratio = st.floats(-20, 20)
windows = st.integers(1, 5).flatmap(
    lambda negatives: st.lists(st.lists(ratio, min_size=1 + negatives, max_size=1 + negatives), min_size=1, max_size=4))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def loop(rows: list[list[float]], beta: float) -> list[float]:
    """- log sigmoid( - log sum over n of exp( beta (r_n - r) ) ), window by window."""
    losses = []
    for chosen, *rejected in rows:
        total = 0.0
        for other in rejected:
            total += math.exp(beta * (other - chosen))
        losses.append(-math.log(sigmoid(-math.log(total))))
    return losses


@settings(max_examples=100, deadline=None)
@given(windows, st.floats(0.05, 1))
def test_it_is_the_formula(rows, beta):
    found = softmax_dpo_loss(torch.tensor(rows, dtype=torch.float64), beta)
    assert found.shape == (len(rows),)
    # The loop loses digits where the chosen response is far ahead: log(1 + x) for a tiny x.
    assert found.tolist() == pytest.approx(loop(rows, beta), rel=1e-9, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ratio, ratio), min_size=1, max_size=6), st.floats(0.05, 2))
def test_with_one_negative_it_is_dpo(pairs, beta):
    ratios = torch.tensor(pairs, dtype=torch.float64)
    dpo = -torch.nn.functional.logsigmoid(beta * (ratios[:, 0] - ratios[:, 1]))
    torch.testing.assert_close(softmax_dpo_loss(ratios, beta), dpo)


@settings(max_examples=50, deadline=None)
@given(windows, st.randoms())
def test_the_order_of_the_negatives_does_not_matter(rows, random):
    shuffled = [[chosen, *random.sample(rejected, len(rejected))] for chosen, *rejected in rows]
    torch.testing.assert_close(softmax_dpo_loss(torch.tensor(rows), 1.0), softmax_dpo_loss(torch.tensor(shuffled), 1.0))


@pytest.mark.parametrize("margin", [150.0, -150.0, 1e4, -1e4])
def test_margins_beyond_100_nats_keep_finite_gradients(margin):
    """Defect of the published code: exponentials that overflow give a gradient that is not a number."""
    ratios = torch.tensor([[margin, 0.0, 0.0, 0.0]], requires_grad=True)
    loss = softmax_dpo_loss(ratios, 1.0).sum()
    loss.backward()
    assert loss.isfinite() and ratios.grad.isfinite().all()
    as_written = torch.tensor([[margin, 0.0, 0.0, 0.0]], requires_grad=True)
    total = (as_written[:, 1:] - as_written[:, :1]).exp().sum(1).log()
    (-torch.nn.functional.logsigmoid(-total)).sum().backward()
    assert as_written.grad.isnan().any(), "the formula as it is written would do as well"
    assert ratios.grad[0, 0] == pytest.approx(-1.0 if margin < 0 else 0.0)


def test_no_preference_costs_the_log_of_the_number_of_candidates():
    assert softmax_dpo_loss(torch.zeros(2, 4), 1.0).tolist() == pytest.approx([math.log(4)] * 2)


def test_figures_are_those_of_a_small_example():
    log_p = torch.tensor([[-1.0, -4.0, -6.0], [-2.0, -1.0, -3.0]])
    ratios = torch.tensor([[1.0, 0.5, -0.5], [0.0, 1.0, -1.0]])
    figures = preference_figures(log_p, ratios, beta=2.0)
    assert figures["chosen_logp"].tolist() == [-1, -2] and figures["rejected_logp"].tolist() == [-5, -2]
    assert figures["reward_margin"].tolist() == [2.0, 0.0]  # 2 * (1 - 0) and 2 * (0 - 0)
    assert figures["preference_accuracy"].tolist() == [1, 0]
