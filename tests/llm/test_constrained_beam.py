"""The tree search inside a catalogue against ``transformers``' ``prefix_allowed_tokens_fn``."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.llm.beam import Beam, BeamSettings
from recbole_soft.llm.generate import generate
from recbole_soft.llm.trie import TokenTrie
from tests.llm.test_beam import EOS, PAD, STOPS, assert_same, some_prompts, tiny, tiny_in_double


def catalogue(size: int, seed: int = 0, tokens: int = 12) -> list[list[int]]:
    draw = random.Random(seed)
    titles = {tuple(draw.randrange(3, 3 + tokens) for _ in range(draw.randint(1, 6))) for _ in range(size)}
    return [list(title) for title in sorted(titles)]


def beams_of_transformers_in(titles: list[list[int]], model, prompts, search: BeamSettings) -> list[list[Beam]]:
    """``generate`` with ``prefix_allowed_tokens_fn``, one prompt at a time, less the places no beam fills."""
    allowed: dict[tuple[int, ...], set[int]] = {}
    for title in titles:
        closed = (*title, EOS)
        for end in range(len(closed)):
            allowed.setdefault(closed[:end], set()).add(closed[end])

    def search_one(prompt: list[int]) -> list[Beam]:
        def follow(_: int, ids: torch.Tensor) -> list[int]:
            # An item that has ended may only end again: transformers raises on an empty list.
            return sorted(allowed.get(tuple(ids[len(prompt) :].tolist()), {EOS}))

        output = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), do_sample=False,
            num_beams=search.num_beams, num_return_sequences=search.num_return, max_new_tokens=search.max_new_tokens,
            length_penalty=search.length_penalty, eos_token_id=EOS, pad_token_id=PAD, output_scores=True,
            return_dict_in_generate=True, prefix_allowed_tokens_fn=follow,
        )  # fmt: skip
        answers = [tokens[: tokens.index(EOS)] for tokens in output.sequences[:, len(prompt) :].tolist()]
        scored = zip(answers, output.sequences_scores.tolist(), strict=True)
        penalty = search.length_penalty
        return [Beam(tuple(row), score, True) for row, score in scored if score * (len(row) + 1) ** penalty > -1e8]

    return [search_one(prompt) for prompt in prompts]


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(1, 60),
    seed=st.integers(0, 99),
    beams=st.integers(2, 5),
    penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    distinct_tokens=st.sampled_from([2, 12]),
)
def test_constrained_beams_are_those_of_transformers(size, seed, beams, penalty, distinct_tokens):
    model, prompts, titles = tiny_in_double(5.0), some_prompts(5, seed=seed), catalogue(size, seed, distinct_tokens)
    search, trie = BeamSettings(beams, 8, penalty, beams), TokenTrie.build(titles, EOS)
    ours = generate(model, prompts, search, batch_size=3, trie=trie, **STOPS)
    assert_same(ours, beams_of_transformers_in(titles, model, prompts, search))
    assert_same(ours, generate(model, prompts, search, fast=False, trie=trie, **STOPS))
    for row in ours:
        items = [beam.tokens for beam in row]
        assert len(set(items)) == len(items) and all(list(item) in titles for item in items)
        assert all(beam.finished for beam in row)


def test_a_catalogue_smaller_than_the_beam_gives_all_of_it():
    titles = [[5, 6], [5, 6, 7], [9]]
    search, trie = BeamSettings(8, 6, 0.0, 8), TokenTrie.build(titles, EOS)
    for row in generate(tiny(), some_prompts(4), search, trie=trie, **STOPS):
        assert sorted(list(beam.tokens) for beam in row) == titles


def test_one_constrained_beam_is_the_greedy_item_both_ways():
    trie, search, prompts = TokenTrie.build(catalogue(50), EOS), BeamSettings(1, 8, 1.0, 1), some_prompts(6)
    ours = generate(tiny(), prompts, search, trie=trie, **STOPS)
    assert_same(ours, generate(tiny(), prompts, search, trie=trie, fast=False, **STOPS))


def test_a_catalogue_is_searched_to_the_end_of_its_longest_item():
    titles = [[5, 6, 7, 8, 9, 10]]
    for fast in (True, False):
        ((beam,),) = generate(
            tiny(), [[4, 4]], BeamSettings(3, 2), trie=TokenTrie.build(titles, EOS), fast=fast, **STOPS
        )
        assert beam.tokens == tuple(titles[0]) and beam.finished
