"""Packed scores and gradients equal Hugging Face's own loss, for every family, wrapper and batch shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from recbole_soft.llm import score as score_module
from recbole_soft.llm.architecture import causal_language_model
from recbole_soft.llm.packed_forward import SHORTEST_SHARED_PREFIX, PackedRun
from recbole_soft.llm.packing import common_prefix_length
from recbole_soft.llm.score import score_responses, supports_packing
from tests.llm.scoring import (
    FAMILIES,
    assert_equal_gradients,
    assert_equals_oracle,
    gradients,
    make_batch,
    make_model,
    oracle,
    weighted,
)

# peft 0.21 still asks for the old name of a property of transformers (peft_model.py:184).
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SHARED_MODEL = make_model()


@pytest.fixture(autouse=True)
def only_packed(monkeypatch):
    """Fails a test that silently takes the plain way."""
    monkeypatch.setattr(score_module, "_log_once", lambda message: pytest.fail(message))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_gradients_equal_the_models_own_loss(family, attention, lora):
    assert_equals_oracle(make_model(family, attention, lora), *make_batch())


def test_soft_capped_logits_are_scored_packed():
    assert_equals_oracle(make_model("gemma2", "eager"), *make_batch())


@pytest.mark.parametrize("names", [1, 2, 4])
@pytest.mark.parametrize("shared", [0, SHORTEST_SHARED_PREFIX + 5])
def test_any_number_of_responses_with_and_without_a_common_beginning(names, shared):
    assert_equals_oracle(make_model(lora=True), *make_batch(windows=4, names=names, shared=shared))


token_lists = st.lists(st.integers(3, 8), max_size=6)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), windows=st.integers(1, 4), names=st.integers(1, 4), shared=st.sampled_from([0, 3, 17]))
def test_any_shape_of_batch(data, windows, names, shared):
    prompts = [[9] * shared + data.draw(token_lists) + [4] for _ in range(windows)]
    responses = {str(name): [data.draw(token_lists) for _ in prompts] for name in range(names)}
    responses["0"][0] = [5, 2]
    assert_equals_oracle(SHARED_MODEL, prompts, responses)


def test_scores_do_not_depend_on_the_rest_of_the_batch():
    prompts, responses = make_batch(windows=8, names=3)
    whole = score_responses(SHARED_MODEL, prompts, responses)
    for window, prompt in enumerate(prompts):
        one = {name: [of_name[window]] for name, of_name in responses.items()}
        alone = score_responses(SHARED_MODEL, [prompt], one)
        for name in responses:
            torch.testing.assert_close(whole[name].nll[window], alone[name].nll[0], rtol=1e-5, atol=1e-5)


def test_gradients_of_one_batch_equal_those_of_its_micro_batches():
    prompts, responses = make_batch(windows=8)
    whole = sum(scores.nll.sum() for scores in score_responses(SHARED_MODEL, prompts, responses).values())
    parts = 0
    for window, prompt in enumerate(prompts):
        one = {name: [of_name[window]] for name, of_name in responses.items()}
        parts = parts + sum(
            scores.nll.sum() for scores in score_responses(SHARED_MODEL, [prompt], one).values()
        )
    assert_equal_gradients(gradients(SHARED_MODEL, whole), gradients(SHARED_MODEL, parts))


def test_groups_of_similar_length_change_nothing(monkeypatch):
    prompts, responses = make_batch(windows=8)
    monkeypatch.setattr(score_module, "_GROUP_OVERHEAD", {"cpu": 0})
    assert_equals_oracle(SHARED_MODEL, prompts, responses)


@pytest.mark.parametrize("runs_apart", [True, False])
def test_one_or_two_passes_for_prompts_and_responses(monkeypatch, runs_apart):
    made = PackedRun.__init__

    def choose(run, *arguments):
        made(run, *arguments)
        run.runs_prompts_apart = runs_apart

    monkeypatch.setattr(PackedRun, "__init__", choose)
    assert_equals_oracle(make_model(lora=True), *make_batch())


def test_a_hook_on_a_layer_sees_every_pass_to_its_end():
    model, ends = make_model(), []
    plain_run = PackedRun(model, [], None)
    model.model.layers[-1].register_forward_hook(lambda *_: ends.append(1))
    assert plain_run.last_layer == 1
    assert PackedRun(model, [], None).last_layer is None
    assert_equals_oracle(model, *make_batch())
    assert ends


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_gradient_checkpointing_changes_nothing(lora):
    model, (prompts, responses) = make_model(lora=lora), make_batch()
    expected = gradients(model, weighted([oracle(model, prompts, of_name) for of_name in responses.values()]))
    model.train()
    # The name since transformers 5.2x; the older one warns.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    recomputed = []
    causal_language_model(model).model.layers[0].mlp.register_forward_hook(lambda *_: recomputed.append(1))
    model.enable_input_require_grads()
    scores = score_responses(model, prompts, responses)
    assert_equal_gradients(gradients(model, weighted([scores[name].nll for name in responses])), expected)
    assert len(recomputed) > 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_autocast_stays_close_and_reports_32_bits(attention):
    model, (prompts, responses) = (
        make_model(attention=attention, lora=True, initializer_range=0.05),
        make_batch(),
    )
    exact = score_responses(model, prompts, responses)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = score_responses(model, prompts, responses)
    for name in responses:
        assert coarse[name].nll.dtype == torch.float32
        torch.testing.assert_close(coarse[name].nll, exact[name].nll, rtol=2e-2, atol=2e-2)
    found = gradients(model, sum(coarse[name].nll.sum() for name in responses))
    assert found
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


def test_bfloat16_weights_are_scored_packed():
    model, (prompts, responses) = make_model(initializer_range=0.05), make_batch()
    exact = score_responses(model, prompts, responses)
    coarse = score_responses(model.to(torch.bfloat16), prompts, responses)
    for name in responses:
        torch.testing.assert_close(coarse[name].nll, exact[name].nll, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("fast", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_given_prompt_embeddings_get_their_gradients(family, fast):
    model, (prompts, responses) = make_model(family), make_batch()
    item_places, item_vectors = [], torch.randn(len(prompts), 32, requires_grad=True)
    for prompt in prompts:  # a placeholder inside the common tokens, whose vector differs
        prompt[18] = 7
        item_places.append(18)

    def embeddings():
        rows = []
        for window, prompt in enumerate(prompts):
            row = model.get_input_embeddings()(torch.tensor(prompt))
            place = item_places[window]
            rows.append(torch.cat([row[:place], item_vectors[window][None], row[place + 1 :]]))
        return rows

    def run(compute):
        item_vectors.grad = None
        found = gradients(model, weighted(compute(embeddings())))
        return {**found, "items": item_vectors.grad.clone()}

    expected = run(lambda given: [oracle(model, prompts, of_name, given) for of_name in responses.values()])
    found = run(
        lambda given: [
            scores.nll
            for scores in score_responses(
                model, prompts, responses, fast=fast, prompt_embeddings=given
            ).values()
        ]
    )
    assert_equal_gradients(found, expected)


def test_the_mode_of_every_module_is_left_as_it_is():
    model = make_model(lora=True).train()
    model.get_base_model().lm_head.eval()
    before = [module.training for module in model.modules()]
    score_responses(model, *make_batch())
    assert [module.training for module in model.modules()] == before


def test_active_dropout_gives_finite_gradients_for_all_adapters():
    model = get_peft_model(
        make_model(),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3, task_type="CAUSAL_LM"),
    ).train()
    scores = score_responses(model, *make_batch())
    found = gradients(model, sum(of_name.nll.sum() for of_name in scores.values()))
    assert sum(bool(gradient.abs().sum() > 0) for name, gradient in found.items() if "lora_B" in name) == 4


def test_no_position_is_computed_twice(monkeypatch):
    model, seen = make_model(), []
    prompts, _ = make_batch(windows=4, shared=30)
    responses = {name: [[5, 6, tail, 2] for _ in prompts] for name, tail in (("a", 7), ("b", 8))}
    supports_packing(model, 64)
    monkeypatch.setattr(score_module, "_GROUP_OVERHEAD", {"cpu": 0})
    model.model.layers[0].register_forward_hook(
        lambda _, __, states: seen.append(states.shape[0] * states.shape[1])
    )
    head = []
    model.lm_head.register_forward_hook(lambda _, __, logits: head.append(logits.shape[0]))
    score_responses(model, prompts, responses)
    common = common_prefix_length(prompts)
    # Behind the last prompt token: 5, 6 once, then 7 and 8; the end of text is never an input.
    assert sum(seen) == common + sum(len(prompt) - common for prompt in prompts) + 4 * len(prompts)
    assert sum(head) == 5 * len(prompts)


def test_empty_responses_score_nothing():
    prompts, _ = make_batch()
    scores = score_responses(SHARED_MODEL, prompts, {"none": [[], [], []], "one": [[], [5, 2], []]})
    assert scores["none"].nll.tolist() == [0, 0, 0]
    assert scores["one"].tokens.tolist() == [0, 2, 0]
    assert scores["one"].nll[1] > 0
    assert scores["one"].nll[[0, 2]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("prompts", "responses"), [([], {"a": []}), ([[]], {"a": [[2]]}), ([[3]], {"a": [[2], [2]]})]
)
def test_batches_that_make_no_sense_are_refused(prompts, responses):
    with pytest.raises(ValueError, match=r"prompt"):
        score_responses(SHARED_MODEL, prompts, responses)
