"""What the packed rows hold, and which models are kept from them."""

from __future__ import annotations

import logging

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from recbole_soft.llm import score as score_module
from recbole_soft.llm.packing import ResponseTree, Window, common_prefix_length, group_by_length
from recbole_soft.llm.score import score_responses, supports_packing
from tests.llm.scoring import VOCABULARY, make_batch, make_model, oracle


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
