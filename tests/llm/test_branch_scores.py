"""Likelihoods of many responses behind one prompt against one response at a time, the plain way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.llm.branch_scores import branch_nll
from tests.toys import toy_model

tokens = st.lists(st.integers(3, 39), min_size=1, max_size=6)
MODELS = {family: toy_model(family, 40) for family in ("llama", "gpt2")}


@torch.no_grad()
def one_at_a_time(model, prompt, response) -> float:
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    return -sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(response))


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=25, deadline=None)
@given(windows=st.lists(st.tuples(tokens, st.lists(tokens, max_size=5)), max_size=5), size=st.integers(1, 3),
       fast=st.booleans())
def test_equal_to_scoring_every_response_alone(family, windows, size, fast):
    model = MODELS[family].train()
    prompts, branches = [prompt for prompt, _ in windows], [responses for _, responses in windows]
    done = []
    found = branch_nll(model, prompts, branches, batch_size=size, fast=fast, progress=done.append)
    assert model.training and sum(done) == len(windows)
    model.eval()
    for prompt, responses, values in zip(prompts, branches, found, strict=True):
        assert not values.requires_grad
        assert values.tolist() == pytest.approx([one_at_a_time(model, prompt, response) for response in responses],
                                                rel=1e-3, abs=1e-3)
