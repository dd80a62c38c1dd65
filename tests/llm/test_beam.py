"""The tree search against ``transformers``' own beam search: same beams, same order, same scores."""

from __future__ import annotations

import logging
import random
from functools import cache
from itertools import chain

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, get_peft_model

from recbole_soft.llm.beam import Beam, BeamSettings, tree_beam_search
from recbole_soft.llm.candidates import top_k
from recbole_soft.llm.generate import generate
from recbole_soft.llm.reference import reference_beam_search
from recbole_soft.llm.tree_decoder import compaction
from recbole_soft.llm.tree_support import supports_tree_search

EOS, PAD, VOCABULARY = 2, 0, 150
OLD_PEFT = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
STOPS = {"eos_ids": [EOS], "pad_id": PAD}

COMMON = {
    "vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
    "hidden_size": 32, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS, "initializer_range": 0.3,
}  # fmt: skip
GATED = COMMON | {"intermediate_size": 64, "num_key_value_heads": 2}
FAMILIES = {
    "Llama": GATED,
    "Qwen2": GATED,
    "Qwen3": GATED | {"head_dim": 8},
    "Mistral": GATED | {"sliding_window": 64},
    "GPT2": COMMON,
    "Gemma": GATED | {"head_dim": 8},
    "Gemma3Text": GATED | {"head_dim": 8, "sliding_window": 64},
    "Phi3": GATED,
    "Olmo2": GATED,
    "GPTNeoX": COMMON | {"intermediate_size": 64},
    "OPT": COMMON | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "SmolLM3": GATED,
    "Granite": GATED,
    "Starcoder2": GATED,
    "Falcon": COMMON,
    "Mixtral": GATED | {"num_local_experts": 4},
}


@cache
def tiny(family: str = "Llama", attention: str = "sdpa", eos_bias: float = 5.0, **changes):
    """A random model whose answers end at many different lengths."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(FAMILIES[family] | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    bias = torch.zeros(VOCABULARY)
    bias[EOS] = eos_bias
    model.get_output_embeddings().bias = torch.nn.Parameter(bias)
    return model


@cache
def tiny_in_double(eos_bias: float):
    return tiny.__wrapped__(eos_bias=eos_bias).double()


def some_prompts(count: int, longest: int = 20, shared: int = 4, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    beginning = [draw.randrange(3, VOCABULARY) for _ in range(shared)]
    rests = ([draw.randrange(3, VOCABULARY) for _ in range(draw.randint(1, longest))] for _ in range(count))
    return [beginning + rest for rest in rests]


def assert_same(ours: list[list[Beam]], theirs: list[list[Beam]]) -> None:
    assert [[beam.tokens for beam in row] for row in ours] == [[beam.tokens for beam in row] for row in theirs]
    for mine, other in zip(chain.from_iterable(ours), chain.from_iterable(theirs), strict=True):
        assert mine.finished == other.finished
        assert mine.score == pytest.approx(other.score, abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_the_beams_of_transformers(family, attention):
    model, prompts, search = tiny(family, attention), some_prompts(9), BeamSettings(4, 9, 1.0, 4)
    assert supports_tree_search(model, 40) is None
    ours = generate(model, prompts, search, batch_size=4, **STOPS)
    assert_same(ours, reference_beam_search(model, prompts, search, **STOPS))
    assert len({len(beam.tokens) for row in ours for beam in row}) > 1, "the model must end at several lengths"


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=7),
    shared=st.integers(0, 5),
    batch_size=st.integers(1, 8),
    beams=st.integers(1, 5),
    new_tokens=st.integers(1, 12),
    penalty=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    eos_bias=st.sampled_from([0.0, 4.0, 7.0]),
    data=st.data(),
)
def test_any_settings_give_the_beams_of_transformers(
    lengths, shared, batch_size, beams, new_tokens, penalty, eos_bias, data
):
    draw = random.Random(data.draw(st.integers(0, 999)))
    beginning = [draw.randrange(3, VOCABULARY) for _ in range(shared)]
    prompts = [beginning + [draw.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]
    search = BeamSettings(beams, new_tokens, penalty, data.draw(st.integers(1, beams)))
    # In float32, beams a few millionths apart may change places by rounding alone, in either implementation.
    model = tiny_in_double(eos_bias)
    ours = generate(model, prompts, search, batch_size=batch_size, **STOPS)
    assert_same(ours, reference_beam_search(model, prompts, search, **STOPS))
    assert all(len(row) == search.num_return for row in ours)


def test_several_end_tokens():
    model, prompts, search = tiny(), some_prompts(6), BeamSettings(3, 8, 1.0, 3)
    stops = {"eos_ids": [EOS, 17, 40, 80], "pad_id": PAD}
    ours = generate(model, prompts, search, **stops)
    assert_same(ours, reference_beam_search(model, prompts, search, **stops))


def test_scores_are_the_log_probabilities_of_the_plain_model():
    model, prompts = tiny(), some_prompts(5)
    for prompt, (best,) in zip(prompts, generate(model, prompts, BeamSettings(4, 8, 0.5, 1), **STOPS), strict=True):
        answer = [*best.tokens, EOS] if best.finished else list(best.tokens)
        with torch.no_grad():
            log_probs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        total = sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
        assert best.score == pytest.approx(total / len(answer) ** 0.5, abs=1e-4)


@OLD_PEFT
def test_lora_takes_part_and_the_training_mode_comes_back():
    torch.manual_seed(1)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**GATED))
    prompts, search = some_prompts(6), BeamSettings(3, 6, 1.0, 3)
    plain = generate(base, prompts, search, **STOPS)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.train()
    model.base_model.model.model.norm.eval()
    before = [module.training for module in model.modules()]

    ours = generate(model, prompts, search, **STOPS)

    assert [module.training for module in model.modules()] == before
    model.eval()
    assert_same(ours, reference_beam_search(model.get_base_model(), prompts, search, **STOPS))
    assert ours != plain
    with model.disable_adapter():
        assert_same(generate(model, prompts, search, **STOPS), plain)


def test_embeddings_in_place_of_ids():
    model, prompts, search = tiny(), some_prompts(6), BeamSettings(3, 8, 1.0, 3)
    embed = model.get_input_embeddings()
    embedded = [embed(torch.tensor(prompt)).detach() for prompt in prompts]
    ours = generate(model, embedded, search, batch_size=4, **STOPS)
    assert_same(ours, generate(model, prompts, search, **STOPS))
    assert_same(ours, generate(model, embedded, search, fast=False, **STOPS))


def test_equal_prompts_and_the_shared_beginning_run_once_and_order_is_kept():
    model, distinct = tiny(), some_prompts(5, shared=10)
    order = [3, 0, 0, 4, 1, 2, 3, 3]
    prompts = [distinct[index] for index in order]
    search, fed, done = BeamSettings(3, 1, 1.0, 2), [], []
    supports_tree_search(model, 40)
    hook = model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: fed.append(inputs[0].numel()))
    ours = generate(model, prompts, search, batch_size=2, progress=done.append, **STOPS)
    hook.remove()

    assert_same(ours, reference_beam_search(model, prompts, search, **STOPS))
    assert sum(done) == len(prompts) and len(done) == 3
    rests = sorted((len(prompt) - 10 for prompt in distinct), reverse=True)
    assert fed == [10, 2 * rests[0], 2 * rests[2], rests[4]]


def test_no_prompts_and_empty_prompts():
    assert generate(tiny(), [], BeamSettings(), **STOPS) == []
    with pytest.raises(ValueError, match="empty"):
        generate(tiny(), [[5], []], BeamSettings(), **STOPS)


@pytest.mark.parametrize("bad", [{"num_beams": 0}, {"max_new_tokens": 0}, {"num_beams": 2, "num_return": 3}])
def test_impossible_settings(bad):
    with pytest.raises(ValueError, match="num_"):
        BeamSettings(**bad)


def test_the_generation_settings_of_the_checkpoint_stay_out():
    model, prompts, search = tiny(), some_prompts(4), BeamSettings(3, 6, 1.0, 3)
    expected = generate(model, prompts, search, **STOPS)
    own = model.generation_config
    model.generation_config = leaky = transformers.GenerationConfig(
        do_sample=True, temperature=0.3, repetition_penalty=3.0, no_repeat_ngram_size=1, suppress_tokens=[EOS],
        min_length=30,
    )  # fmt: skip
    try:
        for fast in (True, False):
            assert_same(generate(model, prompts, search, fast=fast, **STOPS), expected)
        assert model.generation_config is leaky
    finally:
        model.generation_config = own


def test_a_short_window_falls_back_and_says_so(caplog):
    model, prompts, search = tiny("Mistral", sliding_window=16), some_prompts(5), BeamSettings(3, 5, 1.0, 3)
    with caplog.at_level(logging.INFO, logger="recbole_soft"):
        ours = generate(model, prompts, search, **STOPS)
        generate(model, prompts, search, **STOPS)
    assert_same(ours, reference_beam_search(model, prompts, search, **STOPS))
    assert sum("window of 16" in record.message for record in caplog.records) == 1
    assert supports_tree_search(model, 16) is None


@OLD_PEFT
def test_reasons_to_decline():
    flash = tiny(hidden_size=64)
    flash.config._attn_implementation_internal = "flash_attention_2"
    assert "flash_attention_2" in supports_tree_search(flash, 40)

    encoder_decoder = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    assert "encoder-decoder" in supports_tree_search(encoder_decoder, 40)

    mamba = transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)
    recurrent = transformers.MambaForCausalLM(mamba)
    assert supports_tree_search(recurrent, 40) is not None

    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped = get_peft_model(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GATED)), prefix)
    assert "virtual tokens" in supports_tree_search(wrapped, 40)


def test_the_probe_catches_what_the_configuration_does_not_tell(monkeypatch):
    # GPT-Neo cuts its mask to a local window; what is known of it beforehand is put out of sight.
    monkeypatch.setattr("recbole_soft.llm.tree_support.COLUMN_MASKED", ())
    monkeypatch.setattr("recbole_soft.llm.tree_support.shortest_window", lambda _: None)
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=4, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    model = transformers.GPTNeoForCausalLM(config)
    assert "trial run" in supports_tree_search(model, 40)
    assert model.training, "the probe must leave the training mode alone"


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 99))
def test_two_stage_top_k_is_top_k(k, columns, seed):
    values = torch.rand(3, 2, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    k = min(k, columns)
    expected = values.topk(k, dim=-1)
    best, where = top_k(values, k)
    assert torch.equal(best, expected.values) and torch.equal(where, expected.indices)


@given(st.lists(st.booleans(), max_size=40))
def test_compaction_keeps_the_open_rows_and_moves_no_more_than_gaps(is_done):
    rows = compaction(is_done)
    assert sorted(rows) == [row for row, done in enumerate(is_done) if not done]
    moved = sum(new != old for new, old in enumerate(rows))
    assert moved <= sum(is_done) and all(is_done[new] for new, old in enumerate(rows) if new != old)


def test_new_prompts_join_stragglers_without_changing_either():
    model, prompts, search = tiny(eos_bias=3.0), some_prompts(23, longest=40), BeamSettings(3, 30, 1.0, 3)
    alone = generate(model, prompts, search, batch_size=1, **STOPS)
    for batch_size in (2, 5, 16):
        assert_same(generate(model, prompts, search, batch_size=batch_size, **STOPS), alone)
    assert_same(alone, reference_beam_search(model, prompts, search, **STOPS))


def test_one_batch_without_a_template():
    model, prompts, search = tiny(), some_prompts(4, shared=0), BeamSettings(4, 30, 1.0, 2)
    ours = tree_beam_search(model, prompts, search, **STOPS)
    assert_same(ours, reference_beam_search(model, prompts, search, **STOPS))
