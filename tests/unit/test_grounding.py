"""Distances, scores and injection against loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.grounding import choose_gamma, distance_chunks, distances, inject, item_scores, min_max, popularity


def loop_distance(a, b) -> float:
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_distances_are_those_of_a_loop_also_for_bfloat16_vectors(rows, items, width, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rows, width, generator=generator) * 30
    b = torch.randn(items, width, generator=generator) * 30
    for kind in (torch.float32, torch.bfloat16):
        got = distances(a.to(kind), b.to(kind))
        assert got.dtype == torch.float32
        expected = [[loop_distance(x, y) for y in b.to(kind)] for x in a.to(kind)]
        assert torch.allclose(got, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_tiny_differences_between_large_vectors_are_not_lost():
    base = torch.full((1, 3072), 2.24)  # norm about 124, as the published code's vectors
    items = base + torch.tensor([[1e-4], [2e-4], [3e-4]])
    got = distances(base, items)[0]
    assert got.argsort().tolist() == [0, 1, 2] and (got.diff() > 0).all()


def test_chunks_are_the_whole(monkeypatch):
    monkeypatch.setattr("recbole_soft.grounding.CHUNK_ELEMENTS", 20)
    a, b = torch.randn(11, 4), torch.randn(7, 4)
    assert torch.equal(torch.cat([chunk for _, chunk in distance_chunks(a, b)]), distances(a, b))


def test_items_of_equal_title_score_alike_and_padding_is_out():
    scores = item_scores(torch.tensor([[1.0, 2.0]]), torch.tensor([0, 1, 0]))
    assert scores.tolist() == [[-math.inf, -1.0, -2.0, -1.0]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.1, 50), min_size=2, max_size=8), st.floats(0, 5), st.integers(0, 20))
def test_injection_is_bigrecs_formula(distance, gamma, seed):
    prior = torch.randint(0, 50, (len(distance) + 1,), generator=torch.Generator().manual_seed(seed)).float()
    scores = torch.tensor([[-math.inf, *[-d for d in distance]]])
    got = inject(scores, prior, gamma)[0]
    d, w = torch.tensor(distance), prior[1:]
    for item in range(len(distance)):
        scaled = (d[item] - d.min()) / max(float(d.max() - d.min()), 1e-12)
        weight = (w[item] - w.min()) / max(float(w.max() - w.min()), 1e-12)
        assert float(got[item + 1]) == pytest.approx(-float(scaled / (1 + weight) ** gamma), abs=1e-5)
    assert got[0] == -math.inf


def test_gamma_zero_keeps_the_order_and_the_nearest_item_always_stays_first():
    scores = torch.tensor([[-math.inf, -3.0, -1.0, -2.0]])
    prior = torch.tensor([0.0, 9.0, 1.0, 5.0])
    assert inject(scores, prior, 0.0)[0].argsort(descending=True).tolist()[:3] == [2, 3, 1]
    assert inject(scores, prior, 50.0)[0].argmax() == 2


def test_min_max_of_a_constant_row_is_zero():
    assert min_max(torch.tensor([[2.0, 2.0], [1.0, 3.0]])).tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_choose_gamma_takes_the_smallest_of_the_best():
    assert choose_gamma({0.0: 1, 1.0: 2, 5.0: 2}.__getitem__, [5.0, 0.0, 1.0])[0] == 1.0


def test_popularity_counts_training_targets():
    assert popularity(torch.tensor([1, 3, 3]).numpy(), 5).tolist() == [0, 1, 0, 2, 0]
