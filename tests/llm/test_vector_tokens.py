"""Vector tokens: embeddings, gradients, shared-prompt scores and beam search against plain formulations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from recbole_soft.llm.generate import BeamSettings, generate
from recbole_soft.llm.score import score_responses
from recbole_soft.llm.tokenizer import LLMTokenizer
from recbole_soft.llm.vector_tokens import PLACEHOLDER, VectorProjector, embed_prompts, register_placeholder
from tests.llm.scoring import VOCABULARY, assert_equal_gradients, gradients, make_batch, make_model, oracle, weighted
from tests.toys import toy_titles, toy_tokenizer

FIRST, ITEMS = 1000, 6


def make_projector(width: int = 32) -> VectorProjector:
    projector = VectorProjector(torch.randn(ITEMS, 5, generator=torch.Generator().manual_seed(3)), width)
    projector.draw(0)
    return projector


def with_items(prompts: list[list[int]]) -> list[list[int]]:
    """An item token inside the common words and one at the prompt's end but one; neighbours share the first."""
    changed = [list(prompt) for prompt in prompts]
    for number, prompt in enumerate(changed):
        prompt[18] = FIRST + number // 2
        prompt[-2] = FIRST + (number + 1) % ITEMS
    return changed


def by_loop(model, projector, prompts):
    """One token after the other, from the formula: outer(gelu(inner(v)))."""
    table, rows = model.get_input_embeddings(), []
    for prompt in prompts:
        row = []
        for token in prompt:
            if token < FIRST:
                row.append(table(torch.tensor(token)))
                continue
            hidden = projector.inner.weight @ projector.vectors[token - FIRST] + projector.inner.bias
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            row.append(projector.outer.weight @ hidden + projector.outer.bias)
        rows.append(torch.stack(row))
    return rows


def test_embeddings_equal_a_loop_and_ids_are_the_models_own():
    model, projector = make_model(), make_projector()
    prompts = with_items(make_batch(4)[0])
    ids, embedded = embed_prompts(model.get_input_embeddings(), projector, prompts, FIRST)
    for found, expected in zip(embedded, by_loop(model, projector, prompts), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert max(map(max, ids)) < VOCABULARY and list(map(len, ids)) == list(map(len, prompts))
    without, plain = embed_prompts(model.get_input_embeddings(), projector, [[3, 4]], FIRST)
    assert without == [[3, 4]] and torch.equal(plain[0], model.get_input_embeddings()(torch.tensor([3, 4])))


def test_half_precision_models_get_half_precision_embeddings_from_a_float32_projector():
    table, projector = nn.Embedding(VOCABULARY, 32, dtype=torch.bfloat16), make_projector()
    _, embedded = embed_prompts(table, projector, [[3, FIRST, 4]], FIRST)
    assert embedded[0].dtype == torch.bfloat16
    embedded[0].sum().backward()
    assert projector.inner.weight.grad.dtype == torch.float32 and projector.inner.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize(("family", "lora"), [("llama", True), ("llama", False), ("qwen2", True), ("gpt2", False)])
def test_scores_and_all_gradients_equal_the_models_own_loss(family, lora, fast):
    model, projector = make_model(family, lora=lora), make_projector()
    prompts, responses = make_batch(4)
    prompts = with_items(prompts)
    both = nn.ModuleList([model, projector])
    ids, embedded = embed_prompts(model.get_input_embeddings(), projector, prompts, FIRST)
    scores = score_responses(model, ids, responses, fast=fast, prompt_embeddings=embedded)
    expected = [oracle(model, ids, of_name, by_loop(model, projector, prompts)) for of_name in responses.values()]
    for name, values in zip(responses, expected, strict=True):
        torch.testing.assert_close(scores[name].nll, values, rtol=1e-5, atol=1e-4)
    found = gradients(both, weighted([scores[name].nll for name in responses]))
    assert {"1.inner.weight", "1.outer.bias"} <= found.keys()
    assert_equal_gradients(found, gradients(both, weighted(expected)))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_beams_equal_transformers_generate_from_the_same_embeddings(family):
    model, projector = make_model(family), make_projector()
    prompts = with_items(make_batch(7, seed=4)[0])
    with torch.no_grad():
        _, embedded = embed_prompts(model.get_input_embeddings(), projector, prompts, FIRST)
    found = generate(model, embedded, BeamSettings(4, 8), eos_ids=[2], pad_id=0, batch_size=3)
    config = GenerationConfig(num_beams=4, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0)
    for row, beams in zip(embedded, found, strict=True):
        alone = model.generate(inputs_embeds=row[None], attention_mask=torch.ones(1, len(row), dtype=torch.long),
                               generation_config=config)[0].tolist()
        assert list(beams[0].tokens) == (alone[: alone.index(2)] if 2 in alone else alone)


def test_drawing_a_projector_depends_on_the_seed_alone_and_leaves_the_random_state():
    projector, before = make_projector(), torch.random.get_rng_state()
    first = projector.inner.weight.clone()
    projector.draw(1)
    assert not torch.equal(projector.inner.weight, first)
    projector.draw(0)
    assert torch.equal(projector.inner.weight, first) and torch.equal(torch.random.get_rng_state(), before)
    assert set(projector.state_dict()) == {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}


def test_the_placeholder_is_a_special_token_that_no_text_spells():
    tokenizer = LLMTokenizer(toy_tokenizer(toy_titles(5)))
    placeholder = register_placeholder(tokenizer)
    assert placeholder in tokenizer.hf.all_special_ids and placeholder == register_placeholder(tokenizer)
    assert placeholder not in tokenizer.encode([f"a {PLACEHOLDER} b"])[0]
    assert tokenizer.decode([placeholder]) == ""
