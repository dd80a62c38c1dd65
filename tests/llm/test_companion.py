"""A projector as part of every set of weights: switched, copied, kept and saved like the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_soft.errors import ModelError
from recbole_soft.llm.adapters import FullWeights, LoraSettings, LoraWeights
from recbole_soft.llm.companion import CompanionWeights
from recbole_soft.llm.vector_tokens import VectorProjector
from tests.toys import toy_model

IDS = torch.arange(5, 17)[None]
FILE = "projector.safetensors"
each_kind = pytest.mark.parametrize("kind", ["lora", "full"])


def make(kind: str, identity: str = "these"):
    model = toy_model("llama", 64)
    tuned = FullWeights(model) if kind == "full" else LoraWeights(model, LoraSettings(lora_r=2))
    projector = VectorProjector(torch.randn(4, 3), 32)
    return CompanionWeights(tuned, projector, projector.draw, FILE, identity), projector


NOISE = torch.Generator().manual_seed(11)  # making an adapter seeds the process's own generator


def disturb(weights) -> None:
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=NOISE) * 0.1)


def seen(weights, projector) -> tuple[torch.Tensor, torch.Tensor]:
    """What language model and projector compute with the set that is switched on."""
    weights.model.eval()
    with torch.no_grad():
        return weights.model(input_ids=IDS).logits, projector(torch.arange(4))


def same(one, other) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(one, other, strict=True)]


@each_kind
def test_a_set_is_language_model_and_projector(kind):
    weights, projector = make(kind)
    weights.create("teacher", seed=0)
    fresh = seen(weights, projector)
    disturb(weights)
    teacher = seen(weights, projector)
    weights.create("student", seed=0)
    assert same(seen(weights, projector), fresh) == [True, True], "a student starts afresh, projector included"
    disturb(weights)
    student = seen(weights, projector)
    assert same(student, teacher) == [False, False]
    weights.activate("teacher")
    assert same(seen(weights, projector), teacher) == [True, True]
    weights.activate("student")
    assert same(seen(weights, projector), student) == [True, True] and weights.active == "student"
    weights.create("copy", seed=5, copy_of="teacher")
    assert same(seen(weights, projector), teacher) == [True, True]
    with weights.base() as base, torch.no_grad():
        assert torch.equal(base.eval()(input_ids=IDS).logits, fresh[0])
    assert same(seen(weights, projector), teacher) == [True, True]


@each_kind
def test_the_best_epoch_brings_its_own_projector_back(kind):
    weights, projector = make(kind)
    weights.create("sft", seed=0)
    disturb(weights)
    best, kept = seen(weights, projector), weights.state("sft")
    disturb(weights)
    assert same(seen(weights, projector), best) == [False, False]
    weights.load_state("sft", kept)
    assert same(seen(weights, projector), best) == [True, True]
    weights.create("other", seed=1)
    weights.load_state("sft", kept)
    weights.activate("sft")
    assert same(seen(weights, projector), best) == [True, True]


@each_kind
def test_saved_and_loaded_sets_compute_the_same(kind, tmp_path: Path):
    weights, projector = make(kind)
    weights.create("sft", seed=0)
    disturb(weights)
    expected = seen(weights, projector)
    weights.save("sft", tmp_path / "sft")
    again, other_projector = make(kind)
    other_projector.vectors.copy_(projector.vectors)
    again.create("sft", seed=7)
    again.load("sft", tmp_path / "sft")
    assert same(seen(again, other_projector), expected) == [True, True]
    again.create("soft", seed=3)
    again.activate("sft")
    assert same(seen(again, other_projector), expected) == [True, True]


def test_peft_opens_the_folder_as_it_is(tmp_path: Path):
    from peft import PeftModel

    weights, projector = make("lora")
    weights.create("sft", seed=0)
    disturb(weights)
    weights.save("sft", tmp_path / "sft")
    opened = PeftModel.from_pretrained(toy_model("llama", 64), str(tmp_path / "sft")).eval()
    with torch.no_grad():
        assert torch.equal(opened(input_ids=IDS).logits, seen(weights, projector)[0])
    assert (tmp_path / "sft" / FILE).is_file()


def test_transformers_opens_the_folder_of_a_whole_model(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    weights, projector = make("full")
    weights.create("sft", seed=0)
    disturb(weights)
    weights.save("sft", tmp_path / "sft")
    with torch.no_grad():
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "sft").eval()(input_ids=IDS).logits
    assert torch.equal(opened, seen(weights, projector)[0])


def test_a_missing_projector_or_one_for_other_vectors_is_refused(tmp_path: Path):
    weights, _ = make("lora")
    weights.create("sft", seed=0)
    weights.save("sft", tmp_path / "sft")
    stranger, _ = make("lora", identity="others")
    stranger.create("sft", seed=0)
    with pytest.raises(ModelError, match="belongs to other vectors"):
        stranger.load("sft", tmp_path / "sft")
    (tmp_path / "sft" / FILE).unlink()
    with pytest.raises(ModelError, match="there is no projector"):
        weights.load("sft", tmp_path / "sft")


def test_the_optimiser_gets_adapter_and_projector():
    weights, projector = make("lora")
    weights.create("sft", seed=0)
    found = {id(parameter) for parameter in weights.parameters()}
    assert {id(parameter) for parameter in projector.parameters()} < found
    assert len(found) > len(list(projector.parameters()))
