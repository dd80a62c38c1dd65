"""A model in pieces computes what the whole one does, and its layers are whole only while they run.

Here the group has one process, so that everything happens in this one; `test_same_as_one.py` starts two.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from recbole_soft.llm.adapters import LoraSettings, LoraWeights
from recbole_soft.llm.backbone import recompute_activations
from recbole_soft.llm.beam import BeamSettings
from recbole_soft.llm.generate import generate
from recbole_soft.llm.score import score_responses
from recbole_soft.parallel import group
from recbole_soft.parallel.slices import SlicedLayers, slice_model
from tests.toys import toy_model

VOCABULARY = 60
PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 11], [5, 6, 7, 30, 31, 32]]
RESPONSES = {"true": [[12, 13, 1], [14, 1], [15, 16, 17, 1]], "other": [[18, 1], [19, 20, 1], [21, 1]]}


@pytest.fixture(autouse=True)
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(group._Group, "objects", distributed.group.WORLD)
    monkeypatch.setattr(group._Group, "help_others", None)
    yield
    distributed.destroy_process_group()


def tuned(family: str, in_pieces: bool) -> tuple[LoraWeights, SlicedLayers | None]:
    """A toy model with a drawn adapter whose weights are not zero."""
    model = toy_model(family, VOCABULARY)
    sliced = slice_model(model, torch.device("cpu")) if in_pieces else None
    weights = LoraWeights(model, LoraSettings(lora_dropout=0.0))
    weights.create("sft", seed=1)
    drawn = torch.Generator().manual_seed(2)
    weights.load_state("sft", {name: torch.randn(value.shape, generator=drawn) / 4
                               for name, value in weights.state("sft").items()})
    return weights, sliced


def whole_layers(sliced: SlicedLayers) -> int:
    return sum(of_layer._all.untyped_storage().nbytes() > 0 for of_layer in sliced._slices)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("recomputed", [True, False])
def test_scores_and_gradients_are_those_of_the_whole_model(family, fast, recomputed):
    found = []
    for in_pieces in (False, True):
        weights, sliced = tuned(family, in_pieces)
        if recomputed:
            recompute_activations(weights.model)
        weights.model.train()
        scores = score_responses(weights.model, PROMPTS, RESPONSES, fast=fast)
        (scores["true"].nll.sum() - scores["other"].nll.square().sum()).backward()
        found.append([scores["true"].nll.detach(), *(parameter.grad for parameter in weights.parameters())])
    assert any(gradient.abs().max() > 0 for gradient in found[0][1:])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))
    group.meet()
    assert whole_layers(sliced) == 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_answers_are_those_of_the_whole_model(family):
    found = []
    for in_pieces in (False, True):
        weights, sliced = tuned(family, in_pieces)
        found.append(generate(weights.model, PROMPTS, BeamSettings(3, 6, 1.0, 3), eos_ids=[1], pad_id=2))
    assert found[0] == found[1]
    group.meet()
    assert whole_layers(sliced) == 0


def test_no_more_than_two_layers_are_whole_at_a_time():
    model = toy_model("llama", VOCABULARY)
    model.model.layers.extend([toy_model("llama", VOCABULARY, seed).model.layers[0] for seed in (1, 2, 3)])
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    model.config.num_hidden_layers = 5
    sliced, seen = slice_model(model, torch.device("cpu")), []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda *_: seen.append(whole_layers(sliced)))
    embeddings = model.get_input_embeddings()(torch.tensor(PROMPTS[:1])).detach().requires_grad_()
    embeddings.register_hook(lambda _: seen.append(whole_layers(sliced)))
    model(inputs_embeds=embeddings, use_cache=False).logits.sum().backward()
    assert seen == [2, 2, 2, 2, 1, 1]
    assert sliced.bytes_kept >= sum(p.numel() * 4 for p in model.model.layers.parameters())


def test_a_pass_that_is_left_in_the_middle_does_no_harm():
    """The others have been promised a whole walk through the layers."""
    model = toy_model("llama", VOCABULARY)
    whole, sliced = model(torch.tensor(PROMPTS[:1])).logits, slice_model(model, torch.device("cpu"))
    broken = model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        model(torch.tensor(PROMPTS[:1]))
    broken.remove()
    group.meet()
    assert whole_layers(sliced) == 0
    assert torch.equal(model(torch.tensor(PROMPTS[:1])).logits, whole)
