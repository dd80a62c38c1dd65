"""The catalogue tree against a dictionary of prefixes."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.errors import DataError
from recbole_soft.llm.trie import NOWHERE, ROOT, TokenTrie

EOS = 2
VOCABULARY = 40
titles = st.lists(st.lists(st.integers(3, 12), min_size=1, max_size=6), min_size=1, max_size=25)


def continuations(sequences: list[list[int]]) -> dict[tuple[int, ...], set[int]]:
    """Every beginning of an item, and what may follow it: the tree as plain Python has it."""
    follow: dict[tuple[int, ...], set[int]] = {}
    for sequence in sequences:
        closed = (*sequence, EOS)
        for end in range(len(closed)):
            follow.setdefault(closed[:end], set()).add(closed[end])
    return follow


def node_of(trie: TokenTrie, beginning: tuple[int, ...]) -> int:
    node = torch.tensor([ROOT])
    for token in beginning:
        node = trie.step(node, torch.tensor([token]))
    return int(node)


@settings(max_examples=60, deadline=None)
@given(titles)
def test_the_tree_knows_every_beginning_and_nothing_else(sequences):
    trie = TokenTrie.build(sequences, EOS)
    follow = continuations(sequences)
    beginnings = list(follow)
    nodes = torch.tensor([node_of(trie, beginning) for beginning in beginnings])

    assert len(set(nodes.tolist())) == len(beginnings)
    every_token = torch.arange(VOCABULARY)
    reached = trie.step(nodes[:, None].expand(-1, VOCABULARY), every_token.expand(len(nodes), -1))
    for row, beginning in zip(reached, beginnings, strict=True):
        assert set(every_token[row != NOWHERE].tolist()) == follow[beginning]


@settings(max_examples=60, deadline=None)
@given(titles)
def test_masked_logits_keep_the_value_of_exactly_the_allowed_tokens(sequences):
    trie = TokenTrie.build(sequences, EOS)
    follow = continuations(sequences)
    nodes = torch.tensor([node_of(trie, beginning) for beginning in follow] + [NOWHERE])
    logits = torch.randn(len(nodes), VOCABULARY)

    masked = trie.mask_logits(logits, nodes)

    for row, (kept, allowed) in enumerate(zip(masked, [*follow.values(), set()], strict=True)):
        assert set(torch.isfinite(kept).nonzero().flatten().tolist()) == allowed
        assert torch.equal(kept[list(allowed)], logits[row][list(allowed)])


@settings(max_examples=60, deadline=None)
@given(titles)
def test_children_come_with_their_tokens_and_fit_the_width_of_their_depth(sequences):
    trie = TokenTrie.build(sequences, EOS)
    for beginning, allowed in continuations(sequences).items():
        node = torch.tensor([[node_of(trie, beginning)]])
        children, tokens, is_child = trie.children(node, trie.widths[len(beginning)])
        assert children.shape == (1, 1, trie.widths[len(beginning)])
        assert set(tokens[is_child].tolist()) == allowed
        assert is_child.sum() == len(allowed)
        assert torch.equal(trie.step(node.expand_as(tokens)[is_child], tokens[is_child]), children[is_child])


@settings(max_examples=60, deadline=None)
@given(titles, st.integers(0, 99))
def test_the_widest_of_some_nodes_is_theirs_not_that_of_their_depth(sequences, seed):
    trie = TokenTrie.build(sequences, EOS)
    follow = {node_of(trie, beginning): len(allowed) for beginning, allowed in continuations(sequences).items()}
    nodes = random.Random(seed).choices([*follow, NOWHERE], k=3)
    assert trie.widest(torch.tensor(nodes)) == max(follow.get(node, 1) for node in nodes)


def test_equal_titles_share_a_path_and_a_title_may_begin_another():
    trie = TokenTrie.build([[5, 6], [5, 6], [5, 6, 7]], EOS)
    assert trie.depth == 4
    assert trie.token.numel() == len(continuations([[5, 6], [5, 6, 7]])) + 2  # the two ends
    assert trie.child_count[node_of(trie, (5, 6))] == 2


def test_nowhere_and_foreign_tokens_lead_nowhere():
    trie = TokenTrie.build([[5, 6], [9, 9]], EOS)
    nodes = torch.tensor([NOWHERE, ROOT, ROOT, ROOT])
    # 10 + 5 is where a careless key of the root would hit an edge of its first child.
    assert trie.step(nodes, torch.tensor([5, 15, -1, 10_000])).tolist() == [NOWHERE] * 4


@pytest.mark.parametrize("sequences", [[], [[5], []], [[5, EOS, 6]], [[5, -1]]])
def test_a_catalogue_that_cannot_be_decoded_is_refused(sequences):
    with pytest.raises(DataError):
        TokenTrie.build(sequences, EOS)


def test_sixty_thousand_titles_are_built_in_seconds():
    rng = np.random.default_rng(0)
    sequences = [(10 + rng.zipf(1.3, size=size) % 8000).tolist() for size in rng.integers(4, 21, 60_000)]
    start = time.process_time()
    trie = TokenTrie.build(sequences, EOS)
    assert time.process_time() - start < 3
    assert trie.depth <= 21
