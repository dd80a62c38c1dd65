"""Models with something uncommon about them: masks by column, nested settings, other widths, renamed weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from recbole_soft.llm.adapters import FullWeights
from recbole_soft.llm.backbone import LoadSettings, load_backbone
from recbole_soft.llm.embed import embed_texts
from recbole_soft.llm.fingerprint import weights_fingerprint
from recbole_soft.llm.plain_score import reason_against_packing
from recbole_soft.llm.tree_support import supports_tree_search
from tests.toys import sentencepiece_like_tokenizer, toy_titles, toy_tokenizer

CPU = torch.device("cpu")


def saved(folder: Path, model, make_tokenizer=toy_tokenizer) -> LoadSettings:
    """A folder with a model and a tokenizer that fits it."""
    tokenizer = make_tokenizer(toy_titles(24) * 3)
    model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LoadSettings(str(folder), CPU)


def test_a_model_that_masks_by_column_is_run_plainly():
    """Branches of one prompt lie in columns further apart than their positions are."""
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(GPTNeoConfig(
        vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64,
        attention_types=[[["global", "local"], 1]], window_size=16, attn_implementation="eager")).eval()
    for reason in (supports_tree_search(model, 12), reason_against_packing(model, 12)):
        assert reason is not None and "place in the row" in reason


@pytest.mark.parametrize("changes", [
    {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
     "max_position_embeddings": 16, "sliding_window": 64},
])
def test_windows_and_positions_of_a_model_that_also_sees_are_found(changes):
    """Its settings lie one level deeper."""
    from transformers import Gemma3ForConditionalGeneration, SiglipVisionConfig

    torch.manual_seed(0)
    text = Gemma3TextConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16,
                            num_key_value_heads=1, intermediate_size=64, **changes)
    vision = SiglipVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
                                image_size=28, patch_size=14)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision)).eval()
    reason = supports_tree_search(model, 40)
    assert reason is not None and ("window of 8" in reason or "rotary" in reason)


def test_fully_tuned_weights_come_back_where_checkpoints_have_other_names(tmp_path):
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                             intermediate_size=64))
    weights, ids = FullWeights(model), torch.arange(8)[None]
    weights.create("sft", 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    expected = model(ids).logits
    weights.save("sft", tmp_path)
    weights.create("other", 0)
    weights.load("sft", tmp_path)
    assert torch.equal(model(ids).logits, expected)
    assert torch.equal(GPTNeoXForCausalLM.from_pretrained(tmp_path)(ids).logits, expected)


def test_vectors_are_as_wide_as_what_comes_out(tmp_path):
    torch.manual_seed(0)
    settings = saved(tmp_path, OPTForCausalLM(OPTConfig(
        vocab_size=400, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=1, num_attention_heads=2,
        ffn_dim=64)))
    backbone = load_backbone(settings)
    assert embed_texts(backbone, backbone.model, ["one", "another one"], "last").shape == (2, 16)


def llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
        **changes}))


def test_what_no_weight_holds_is_in_the_fingerprint():
    """Equal weights with another base of rotary positions are another model."""
    ids = torch.arange(40)[None]
    one, other = llama(), llama(rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert not torch.equal(one(ids).logits, other(ids).logits)
    assert weights_fingerprint(one) != weights_fingerprint(other)
    assert weights_fingerprint(one) == weights_fingerprint(llama(use_cache=False, dtype="float32"))


@pytest.mark.parametrize("tied", [False, True])
def test_the_row_of_a_new_padding_token_is_not_drawn(tmp_path, tied):
    settings = saved(tmp_path, llama(tie_word_embeddings=tied), sentencepiece_like_tokenizer)  # has no padding token
    loaded = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        loaded.append(load_backbone(LoadSettings(settings.llm_path, CPU, pad_token="new")))
    assert loaded[0].fingerprint == loaded[1].fingerprint
    for table in (loaded[0].model.get_input_embeddings().weight, loaded[0].model.get_output_embeddings().weight):
        assert torch.allclose(table[-1], table[:-1].mean(0), atol=1e-6)


def test_a_checkpoints_own_stops_are_kept_apart_from_its_sampling(tmp_path):
    model = llama()
    model.generation_config.eos_token_id, model.generation_config.do_sample = [1, 2], True
    backbone = load_backbone(saved(tmp_path, model))
    assert backbone.stop_ids == (1, 2) and not backbone.model.generation_config.do_sample
    assert backbone.ends == sorted({1, 2, backbone.tokenizer.eos_id}), "any of them ends an answer"
