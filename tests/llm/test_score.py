"""Packed scores and gradients equal Hugging Face's own loss, for every family, wrapper and batch shape."""

from __future__ import annotations

import logging
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from recbole_soft.llm import score as score_module
from recbole_soft.llm.packed_forward import SHORTEST_SHARED_PREFIX, PackedRun
from recbole_soft.llm.packing import ResponseTree, Window, common_prefix_length, group_by_length
from recbole_soft.llm.plain_score import causal_language_model
from recbole_soft.llm.score import score_responses, supports_packing

# peft 0.21 still asks for the old name of a property of transformers (peft_model.py:184).
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

VOCABULARY = 96
FAMILIES = ("llama", "qwen2", "gpt2", "qwen3", "gemma", "opt", "cohere", "granite", "mistral", "phi3")
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
ONLY = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 256},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 20.0, "sliding_window": 64},
}


def make_model(family="llama", attention="sdpa", lora=False, **settings_of_model):
    torch.manual_seed(0)
    sizes = {**SIZES, **ONLY.get(family, {}), **settings_of_model}
    if family in ("gpt2", "opt"):
        sizes = {name: size for name, size in sizes.items() if name not in ("head_dim", "num_key_value_heads")}
    if family == "gpt2":
        standard = ("vocab_size", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id")
        sizes = {name: size for name, size in sizes.items() if name.startswith("n_") or name in standard}
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if lora:
        targets = {"gpt2": ["c_attn"], "phi3": ["qkv_proj"]}.get(family, ["q_proj", "v_proj"])
        adapter = LoraConfig(
            r=4, target_modules=targets, lora_dropout=0.0, task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2"
        )
        model = get_peft_model(model, adapter)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, which would leave every gradient of A zero
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def make_batch(windows=3, names=2, shared=20, seed=0):
    source = random.Random(seed)
    draw = lambda low, high: [source.randrange(3, VOCABULARY) for _ in range(source.randint(low, high))]  # noqa: E731
    common = [source.randrange(3, VOCABULARY) for _ in range(shared)]
    prompts = [common + draw(1, 9) for _ in range(windows)]
    # All responses open with the same token, as quoted titles do.
    responses = {f"response_{n}": [[5, *draw(0, 6), 2] for _ in prompts] for n in range(names)}
    return prompts, responses


def oracle(model, prompts, of_name, embeddings=None):
    """Sum of the token losses of each response with the model's own `labels`, one sequence at a time: `[B]`."""
    losses = []
    for window, (prompt, response) in enumerate(zip(prompts, of_name, strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        inputs = {"input_ids": ids}
        if embeddings is not None:
            table = model.get_input_embeddings()
            inputs = {"inputs_embeds": torch.cat([embeddings[window], table(ids[0, len(prompt) :])])[None]}
        mean = model(**inputs, attention_mask=torch.ones_like(ids), labels=labels).loss if response else None
        losses.append(mean * len(response) if response else torch.zeros(()))
    return torch.stack(losses)


def weighted(per_name):
    """A loss that treats every response and every window differently."""
    weights = torch.linspace(0.5, -1.5, len(per_name) * len(per_name[0])).view(len(per_name), -1)
    return (torch.stack(per_name) * weights).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}


def assert_equal_gradients(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    # A parameter whose gradient is zero in exact arithmetic (OPT's bias of a key) holds nothing but rounding.
    rounding = 1e-6 * max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        allowed = tolerance * scale if scale > rounding else rounding
        assert float((found[name] - gradient).abs().max()) <= allowed, name


def assert_equals_oracle(model, prompts, responses):
    scores = score_responses(model, prompts, responses)
    expected = [oracle(model, prompts, of_name) for of_name in responses.values()]
    for name, values in zip(responses, expected, strict=True):
        torch.testing.assert_close(scores[name].nll, values, rtol=1e-5, atol=1e-4)
        assert scores[name].tokens.tolist() == [len(response) for response in responses[name]]
        assert scores[name].nll.dtype == torch.float32
    found = gradients(model, weighted([scores[name].nll for name in responses]))
    assert_equal_gradients(found, gradients(model, weighted(expected)))


@pytest.fixture
def plain_way_allowed():
    """For tests that are about the plain way."""


@pytest.fixture(autouse=True)
def only_packed(request, monkeypatch):
    """Fails a test that silently takes the plain way, unless it is about that."""
    if "plain_way_allowed" not in request.fixturenames:
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


SHARED_MODEL = make_model()


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
        parts = parts + sum(scores.nll.sum() for scores in score_responses(SHARED_MODEL, [prompt], one).values())
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
    model, (prompts, responses) = make_model(attention=attention, lora=True, initializer_range=0.05), make_batch()
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
        make_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.3, task_type="CAUSAL_LM")
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
    model.model.layers[0].register_forward_hook(lambda _, __, states: seen.append(states.shape[0] * states.shape[1]))
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


@pytest.mark.usefixtures("plain_way_allowed")
def test_models_that_cannot_be_packed_are_scored_plainly_and_say_why(caplog):
    score_module._log_once.cache_clear()
    model = make_model("mistral", sliding_window=16)
    prompts, responses = make_batch()
    with caplog.at_level(logging.WARNING, logger="recbole_soft"):
        for _ in range(2):
            scores = score_responses(model, prompts, responses)
    assert [record.message.count("window of 16 tokens") for record in caplog.records] == [1]
    for name, of_name in responses.items():
        torch.testing.assert_close(scores[name].nll, oracle(model, prompts, of_name), rtol=1e-5, atol=1e-4)


def test_reasons_against_packing():
    assert supports_packing(make_model(), 64) is None
    assert "window" in supports_packing(make_model("mistral", sliding_window=16), 17)
    assert supports_packing(make_model("mistral", sliding_window=64), 40) is None
    unmaskable = make_model()
    unmaskable.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in supports_packing(unmaskable, 64)
    mamba = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1)
    )
    assert supports_packing(mamba, 64) is not None


def test_an_unknown_change_of_the_logits_is_found_by_the_trial():
    model = make_model()
    usual = model.forward

    def scaled(*arguments, **options):
        output = usual(*arguments, **options)
        output.logits = output.logits * 2
        return output

    model.forward = scaled
    assert "other scores" in supports_packing(model, 64)


def test_a_tree_shares_what_responses_have_in_common():
    tree = ResponseTree.grow(9, [[5, 6, 2], [5, 7, 2], [], [5, 6, 2]])
    assert tree.tokens == [9, 5, 6, 7]
    assert tree.depths == [0, 1, 2, 2]
    assert tree.edges == [(0, 5), (1, 6), (2, 2), (1, 7), (3, 2)]
    assert tree.paths == [[0, 1, 2], [0, 3, 4], [], [0, 1, 2]]
    assert tree.ancestors()[3].tolist() == [True, True, False, True]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=5))
def test_common_prefix_length(sequences):
    length = common_prefix_length(sequences)
    assert len({tuple(sequence[:length]) for sequence in sequences}) == 1
    longer = {tuple(sequence[: length + 1]) for sequence in sequences}
    assert len(longer) > 1 or min(map(len, sequences)) == length


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12), overhead=st.integers(0, 200))
def test_groups_hold_every_window_once_and_never_cost_more_than_one_group(lengths, overhead):
    tree = ResponseTree.grow(3, [[5, 2]])
    windows = [Window(number, [3] * length, tree) for number, length in enumerate(lengths)]
    groups = group_by_length(windows, 0, overhead)
    assert sorted(window.number for group in groups for window in group) == list(range(len(windows)))
    cost = sum(overhead + len(group) * (max(len(w.prompt) for w in group) + 1) for group in groups)
    assert cost <= overhead + len(windows) * (max(lengths) + 1)
    if overhead == 0:
        assert all(len({len(w.prompt) for w in group}) == 1 for group in groups)
