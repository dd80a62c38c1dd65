"""DLLM2Rec's losses against loops written from the formulas, and the faults of the published code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.rank_losses.distillation import Importance, importance_weights, ranking_losses
from recbole_soft.rank_losses.dro import popularity_weights, robust_losses
from recbole_soft.teacher import distance_spread, rows_of_windows
from tests.baselines.test_dro import dro_by_loop, sigmoid

PUBLISHED = Importance(0.3, 0.5, 0.1, 1.0)


def weights_by_loop(items, distances, scale, own_first, importance) -> list[float]:
    listed = [place for place, item in enumerate(items) if item]
    position = {place: math.exp(-(place + 1) / importance.position_scale) for place in listed}
    confidence = {place: math.exp(-distances[place] / scale) for place in listed}
    raw = [0.0] * len(items)
    for place in listed:
        raw[place] = (importance.position * position[place] / sum(position.values())
                      + importance.confidence * confidence[place] / sum(confidence.values())
                      + importance.consistency * (items[place] in own_first))
    return [value / sum(raw) for value in raw]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0.2, 4.0))
def test_importance_equals_a_loop(seed, listed, scale):
    generator = torch.Generator().manual_seed(seed)
    items = torch.stack([1 + torch.randperm(9, generator=generator)[:5] for _ in range(3)])
    items[:, listed:] = 0
    distances = torch.rand(3, 5, generator=generator).sort(1).values * 3
    own = torch.stack([1 + torch.randperm(9, generator=generator)[:4] for _ in range(3)])
    importance = Importance(0.3, 0.5, 0.1, 2.0)
    found = importance_weights(items, distances, scale, own, importance)
    for row in range(3):
        expected = weights_by_loop(items[row].tolist(), distances[row].tolist(), scale, own[row].tolist(), importance)
        assert found[row].tolist() == pytest.approx(expected, rel=1e-5)
    assert found.sum(1).tolist() == pytest.approx([1.0] * 3)


def test_confidences_do_not_underflow_at_the_distances_of_a_language_model():
    """Published: exp(-d) + 1e-8 with d of 150 and more is uniform, whatever the distances say."""
    items, none = torch.tensor([[3, 1, 2]]), torch.zeros(1, 1, dtype=torch.long)
    confident = Importance(0.0, 1.0, 0.0, 1.0)
    near = importance_weights(items, torch.tensor([[0.0, 1.0, 2.0]]), 1.0, none, confident)
    far = importance_weights(items, torch.tensor([[150.0, 151.0, 152.0]]), 1.0, none, confident)
    other_unit = importance_weights(items, torch.tensor([[15000.0, 15100.0, 15200.0]]), 100.0, none, confident)
    assert near[0].tolist() == pytest.approx([0.66524, 0.24473, 0.09003], abs=1e-4)
    assert torch.allclose(near, far) and torch.allclose(near, other_unit)


def test_spread_of_distances_leaves_short_and_empty_lists_out():
    items = torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0], [0, 0, 0]])
    distances = torch.tensor([[1.0, 2.0, 4.0], [2.0, 3.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert distance_spread(items, distances) == pytest.approx((3 + 1) / 2)
    assert distance_spread(items[2:], distances[2:]) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.7]))
def test_ranking_loss_equals_a_loop(seed, alpha):
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(3, 9, generator=generator)
    items = torch.stack([1 + torch.randperm(8, generator=generator)[:4] for _ in range(3)])
    items[2, 2:] = 0
    weights = torch.rand(3, 4, generator=generator) * (items > 0)
    negatives = torch.tensor([8, 3, 5])
    p = popularity_weights(torch.arange(9), 0.05)
    robust = robust_losses(scores, items, p, 1.0) if alpha else None
    found = ranking_losses(scores, items, weights, negatives, robust, alpha)
    for row in range(3):
        y, expected = scores[row].tolist(), 0.0
        for place, item in enumerate(items[row].tolist()):
            if item:
                learned = -math.log(sigmoid(y[item])) - math.log(sigmoid(-y[negatives[row]]))
                expected += float(weights[row, place]) * (learned + alpha * dro_by_loop(y, item, p.tolist(), 1.0))
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


def test_importance_reaches_the_dro_part():
    """Published: a [b, 1] x [b] product made the DRO part mean(w) * mean(DRO), the same for all weights."""
    scores, negatives = 2 * torch.randn(4, 8), torch.ones(4, dtype=torch.long)
    items = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 1]])
    robust = robust_losses(scores, items, torch.ones(8), 1.0)
    flat = torch.full((4, 2), 0.5)
    turned = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])
    parts = [ranking_losses(scores, items, w, negatives, robust, 1.0) - ranking_losses(scores, items, w, negatives)
             for w in (flat, turned)]
    assert torch.allclose(parts[1], (turned * robust).sum(1), atol=1e-5)
    assert not torch.allclose(parts[0].mean(), parts[1].mean())


def test_negative_term_is_not_shifted():
    """Published: -log s(1 - y_j) in place of -log s(-y_j)."""
    loss = ranking_losses(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1]]), torch.ones(1, 1), torch.tensor([2]))
    assert loss.item() == pytest.approx(math.log(2) + math.log(1 + math.exp(2)))


def test_rows_of_windows_go_by_id():
    assert rows_of_windows(torch.tensor([4, 1]), 6).tolist() == [-1, 1, -1, -1, 0, -1]
