"""MSL's softmax against a dense-mask loop written from its formula: scores, gradients, temperature, sparse storage."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.llm import score as score_module
from recbole_soft.llm.masked_softmax import (
    FIRST_TEMPERATURE,
    SMOOTHING,
    MaskedSoftmax,
    adaptive_temperature,
    allowed_logsumexp,
)
from recbole_soft.llm.score import score_responses
from recbole_soft.llm.trie import NOWHERE, TokenTrie
from tests.llm.scoring import VOCABULARY, assert_equal_gradients, gradients, make_model, weighted

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
EOS = 2
MODEL = make_model().double()


@pytest.fixture(autouse=True)
def only_packed(monkeypatch):
    """Fails a test that silently takes the plain way."""
    monkeypatch.setattr(score_module, "_log_once", lambda message: pytest.fail(message))


def make_titles(count=30, seed=0):
    """Titles that open with the same token, as quoted ones do; some are beginnings of others."""
    source = random.Random(seed)
    titles = {(5, source.randrange(3, 12), *(source.randrange(3, 9) for _ in range(source.randint(0, 4))))
              for _ in range(count)}
    return [list(title) for title in sorted(titles)]


def make_prompts(count, seed=1):
    source = random.Random(seed)
    return [[7] * 18 + [source.randrange(3, VOCABULARY) for _ in range(source.randint(1, 6))] for _ in range(count)]


def loop(model, prompt, response, titles, temperature):
    """[] summed loss of one response: a dense mask over the vocabulary at every position, from the formula."""
    catalogue = [[*title, EOS] for title in titles]
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].double()
    total = torch.zeros((), dtype=torch.float64)
    for place, token in enumerate(response):
        z = logits[len(prompt) - 1 + place]
        mask = torch.zeros(VOCABULARY, dtype=torch.bool)
        for title in catalogue:
            if len(title) > place and title[:place] == response[:place]:
                mask[title[place]] = True
        if not mask[token]:  # outside of the catalogue: the whole vocabulary
            total = total - torch.log(z[token].exp() / z.exp().sum())
            continue
        scaled = (z / temperature).exp()
        total = total - temperature * torch.log(scaled[token] / scaled[mask].sum())
    return total


def assert_equals_loop(model, titles, prompts, responses, temperature, fast, tolerance=1e-9):
    masked = MaskedSoftmax(TokenTrie.build(titles, EOS), temperature)
    scores = score_responses(model, prompts, responses, fast=fast, masked=masked)
    expected = [torch.stack([loop(model, prompt, response, titles, temperature)
                             for prompt, response in zip(prompts, of_name, strict=True)])
                for of_name in responses.values()]
    for name, values in zip(responses, expected, strict=True):
        torch.testing.assert_close(scores[name].nll.double(), values, rtol=tolerance, atol=tolerance)
    found = gradients(model, weighted([scores[name].nll for name in responses]))
    assert_equal_gradients(found, gradients(model, weighted(expected)), max(tolerance, 1e-6))


def sampled(titles, count, seed=3):
    return [[*title, EOS] for title in random.Random(seed).choices(titles, k=count)]


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("temperature", [1.0, 4.5])
def test_scores_and_gradients_equal_the_dense_loop(temperature, fast):
    titles, prompts = make_titles(), make_prompts(5)
    responses = {"sft": sampled(titles, 5), "sdft": sampled(titles, 5, seed=4)}
    assert_equals_loop(MODEL, titles, prompts, responses, temperature, fast)


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "plain"])
def test_answers_that_are_no_title_fall_back_to_the_whole_vocabulary_where_they_leave(fast):
    titles, prompts = make_titles(), make_prompts(4)
    strays = [[9, 4, EOS], titles[0], [*titles[1][:2], 90, 91, EOS], [*titles[2], EOS, 4, EOS]]
    responses = {"sft": sampled(titles, 4), "sdft": strays}
    assert_equals_loop(MODEL, titles, prompts, responses, 2.5, fast)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_catalogue_and_any_responses(data):
    tokens = st.lists(st.integers(3, 7), min_size=1, max_size=4)
    titles = data.draw(st.lists(tokens, min_size=2, max_size=8, unique_by=tuple))
    prompts = make_prompts(3)
    responses = {name: [data.draw(st.one_of(st.sampled_from(titles), tokens)) + [EOS] for _ in prompts]
                 for name in ("a", "b")}
    assert_equals_loop(MODEL, titles, prompts, responses, 1.7, fast=True)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma2"])
def test_other_families_and_adapters_in_32_bits(family):
    model = make_model(family, "eager" if family == "gemma2" else "sdpa", lora=True)
    titles, prompts = make_titles(), make_prompts(3)
    assert_equals_loop(model, titles, prompts, {"sft": sampled(titles, 3)}, 1.5, fast=True, tolerance=3e-5)


def test_a_catalogue_of_all_tokens_at_temperature_1_is_the_usual_loss_but_for_the_end_of_text():
    titles = [[token] for token in range(VOCABULARY) if token != EOS]
    prompts, responses = make_prompts(4), {"sft": [[5, EOS], [6, EOS], [7, EOS], [8, EOS]]}
    usual = score_responses(MODEL, prompts, {"sft": [[5], [6], [7], [8]], "end": [[EOS]] * 4})
    masked = MaskedSoftmax(TokenTrie.build(titles, EOS), 1.0)
    found = score_responses(MODEL, prompts, responses, masked=masked)["sft"].nll
    # The end of text begins no title: the others share its probability.
    torch.testing.assert_close(found, usual["sft"].nll + torch.log1p(-(-usual["end"].nll).exp()))


def test_nothing_of_the_size_of_positions_times_vocabulary_is_kept():
    titles = make_titles(200)
    masked = MaskedSoftmax(TokenTrie.build(titles, EOS))
    states = masked.states(sampled(titles, 60))
    segments, allowed = masked._allowed(states)
    children = [len({title[2] if len(title) > 2 else EOS for title in titles if title[1] == token})
                for token in range(3, 12)]
    assert len(segments) == len(allowed) == int(masked._trie.child_count[states].sum())
    assert len(allowed) <= len(states) * max(masked.choices, *children, 7)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-80, 80), min_size=1, max_size=6), min_size=1, max_size=5))
def test_logsumexp_over_segments(groups):
    flat = torch.tensor([value for group in groups for value in group], dtype=torch.float64, requires_grad=True)
    segments = torch.tensor([place for place, group in enumerate(groups) for _ in group])
    found = allowed_logsumexp(flat, segments, len(groups))
    expected = torch.stack([torch.tensor(group, dtype=torch.float64).logsumexp(0) for group in groups])
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    shares = torch.cat([torch.tensor(group, dtype=torch.float64).softmax(0) for group in groups])
    torch.testing.assert_close(flat.grad, shares)


def test_states_and_counts_of_a_small_catalogue():
    trie = TokenTrie.build([[5, 6, 7], [5, 6, 8], [5, 9]], EOS)
    masked = MaskedSoftmax(trie)
    states = masked.states([[5, 6, 7, EOS], [5, 6, 3, EOS], [5]])
    assert [int(state) == NOWHERE for state in states] == [False] * 4 + [False] * 3 + [True] + [False]
    # Choices: after 5 (6 or 9), after 5 6 (7 or 8); neither the first token nor the end of text.
    assert masked.count([[5, 6, 7, EOS]]) == (2, 0)
    assert masked.count([[5, 9, EOS]]) == (1, 0)
    # After 5 6 comes 3: that position and the one behind it are outside of the catalogue.
    assert masked.count([[5, 6, 3, EOS]]) == (3, 2)
    assert masked.choices == 2 and masked.count([]) == (0, 0)


# ---- temperature ----------------------------------------------------------------------------------
def test_adaptive_temperature_is_the_formula_within_its_range():
    gap, variance, choices, eta = 9.0, 2.0, 400, 0.25
    ease = math.log(choices * eta)
    expected = (gap + math.sqrt(gap**2 - 2 * ease * variance)) / (2 * ease)
    assert 1.5 < expected < 5 and adaptive_temperature(gap, variance, choices, eta) == pytest.approx(expected)
    # It solves gap / tau - variance / (2 tau^2) = ln(choices * eta): the share of a true token among normal logits.
    assert gap / expected - variance / (2 * expected**2) == pytest.approx(ease)
    assert adaptive_temperature(-3.0, 2.0, choices, eta) == 1.5
    assert adaptive_temperature(1e3, 2.0, choices, eta) == 5.0
    assert adaptive_temperature(8.0, 1e6, choices, eta) == 1.5  # no solution: the root is taken as 0


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_temperature_moves_after_a_step_by_the_whole_step_s_logits(fast, size, monkeypatch):
    """1 x 8 is 8 x 1: the temperature is constant within a step and sees all of it."""
    monkeypatch.setattr("recbole_soft.llm.masked_softmax.LOWEST_TEMPERATURE", -1e9)
    titles, prompts = make_titles(), make_prompts(8)
    responses = {"sft": sampled(titles, 8), "sdft": sampled(titles, 8, seed=4)}
    masked = MaskedSoftmax(TokenTrie.build(titles, EOS), None, eta=0.5)
    for first in range(0, 8, size):
        part = {name: of_name[first: first + size] for name, of_name in responses.items()}
        score_responses(MODEL, prompts[first: first + size], part, fast=fast, masked=masked)
        assert masked.temperature == FIRST_TEMPERATURE
    masked.end_step()
    allowed = sorted({title[1] for title in titles})
    true, every = [], []
    for of_name in responses.values():
        for prompt, response in zip(prompts, of_name, strict=True):
            z = MODEL(torch.tensor([[*prompt, 5]])).logits[0, -1].detach()
            true.append(float(z[response[1]]))
            every += z[allowed].tolist()
    mean = sum(every) / len(every)
    variance = sum((value - mean) ** 2 for value in every) / len(every)
    wanted = adaptive_temperature(sum(true) / len(true) - mean, variance, len(allowed), 0.5)
    assert masked.choices == len(allowed)
    assert masked.temperature == pytest.approx(FIRST_TEMPERATURE + SMOOTHING * (wanted - FIRST_TEMPERATURE), rel=1e-9)
    masked.end_step()  # nothing seen since: it stays
    assert masked.temperature == pytest.approx(FIRST_TEMPERATURE + SMOOTHING * (wanted - FIRST_TEMPERATURE), rel=1e-9)


def test_fixed_temperatures_and_catalogues_with_few_first_tokens_do_not_adapt():
    titles, prompts = make_titles(), make_prompts(2)
    for masked in (MaskedSoftmax(TokenTrie.build(titles, EOS), 3.0),
                   MaskedSoftmax(TokenTrie.build([[5, 6], [5, 7]], EOS), None, eta=0.25)):
        before = masked.temperature
        score_responses(MODEL, prompts, {"sft": [[5, 6, EOS], [5, 7, EOS]]}, masked=masked)
        masked.end_step()
        assert masked.temperature == before


def test_scores_without_gradients_do_not_move_the_temperature():
    titles, prompts = make_titles(), make_prompts(2)
    masked = MaskedSoftmax(TokenTrie.build(titles, EOS), None, eta=0.9)
    with torch.no_grad():
        score_responses(MODEL, prompts, {"sft": sampled(titles, 2)}, masked=masked)
    masked.end_step()
    assert masked.temperature == FIRST_TEMPERATURE
