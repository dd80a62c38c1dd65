"""Ranks straight from vectors equal those by way of distances, scores and counting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft import grounded_ranks as module
from recbole_soft.evaluation.ranks import ranks_of
from recbole_soft.grounded_ranks import grounded_ranks
from recbole_soft.grounding import distances, item_scores


def ranks_by_scores(answers, items, targets, masked=None):
    scores = item_scores(distances(answers, items), torch.arange(len(items)))
    if masked is not None:
        scores[masked[0], masked[1] + 1] = -torch.inf
    return ranks_of(scores, targets + 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 40), st.sampled_from([0.0, 1.0, 300.0]),
       st.sampled_from([1e-4, 1.0]), st.booleans(), st.integers(0, 999))
def test_ranks_equal_those_by_scores(windows, count, width, offset, scale, is_rounded, seed):
    """Also for nearly equal vectors far from 0, and with many exact ties (rounded vectors)."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.randn(count, width, generator=generator)
    answers = torch.randn(windows, width, generator=generator)
    if is_rounded:
        items, answers = items.round(), answers.round()
    items, answers = items * scale + offset, answers * scale + offset
    answers[0] = items[seed % count]
    targets = torch.randint(0, count, (windows,), generator=generator)
    is_masked = torch.rand(windows, count, generator=generator) < 0.2
    once = is_masked.nonzero(as_tuple=True)
    repeated = tuple(torch.cat([part, part[::2], part[::3]]) for part in once)
    for masked in (None, once, repeated):
        assert torch.equal(grounded_ranks(answers, items, targets, masked),
                           ranks_by_scores(answers, items, targets, masked))


def test_blocks_are_the_whole(monkeypatch):
    monkeypatch.setattr(module, "ANSWER_BLOCK", 3)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(module, "_PAIR_ELEMENTS", 16)
    answers, items, targets = torch.randn(10, 8), torch.randn(700, 8), torch.randint(0, 700, (10,))
    assert torch.equal(grounded_ranks(answers, items, targets), ranks_by_scores(answers, items, targets))


def test_an_answer_that_is_no_number_comes_last():
    answers, items = torch.tensor([[torch.nan, 0.0], [0.0, 0.0]]), torch.randn(5, 2)
    assert grounded_ranks(answers, items, torch.tensor([0, 1])).tolist()[0] == 6


def test_few_pairs_are_measured_exactly(monkeypatch):
    """The speed rests on it: of 4 million pairs some thousands are in doubt."""
    measured = []
    original = module._pair_distances

    def counted(answers, items, windows, rows):
        measured.append(len(rows))
        return original(answers, items, windows, rows)

    monkeypatch.setattr(module, "_pair_distances", counted)
    grounded_ranks(torch.randn(200, 64), torch.randn(20000, 64), torch.arange(200))
    assert sum(measured) < 20 * 200


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_coarser_matrix_product_changes_no_rank(precision):
    before = torch.get_float32_matmul_precision()
    answers, items, targets = torch.randn(20, 32), torch.randn(500, 32), torch.randint(0, 500, (20,))
    wanted = ranks_by_scores(answers, items, targets)
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(grounded_ranks(answers, items, targets), wanted)
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_window_has_no_rank():
    assert grounded_ranks(torch.randn(0, 4), torch.randn(3, 4), torch.zeros(0, dtype=torch.long)).tolist() == []
