"""Sets of weights over one base model, and text vectors: switching, keeping, and what may not change them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recbole_soft.artifacts import ArtifactStore
from recbole_soft.llm.adapters import FullWeights, LoraSettings, LoraWeights
from recbole_soft.llm.backbone import Backbone, LoadSettings, load_backbone
from recbole_soft.llm.embed import embed_texts
from recbole_soft.llm.fingerprint import weights_fingerprint
from recbole_soft.llm.title_vectors import TitleVectors
from recbole_soft.llm.tokenizer import LLMTokenizer
from tests.toys import toy_model, toy_titles, toy_tokenizer

FAMILIES = ("llama", "qwen2", "gpt2")
TITLES = toy_titles(20)
IDS = torch.arange(5, 17)[None]


def backbone_of(family: str = "llama") -> Backbone:
    tokenizer = LLMTokenizer(toy_tokenizer(TITLES, bos=family == "llama"))
    return Backbone(toy_model(family, len(tokenizer.hf)), tokenizer, torch.device("cpu"))


def weights_of(kind: str, model):
    return FullWeights(model) if kind == "full" else LoraWeights(model, LoraSettings(lora_r=2))


def disturb(weights) -> None:
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def logits(weights) -> torch.Tensor:
    weights.model.eval()
    with torch.no_grad():
        return weights.model(input_ids=IDS).logits


def test_a_set_made_again_starts_from_the_weights_of_its_seed():
    weights = weights_of("lora", backbone_of().model)
    weights.create("student", seed=3)
    first = weights.state("student")
    for _ in range(2):
        weights.create("student", seed=3)
        again = weights.state("student")
        assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_sets_are_apart_and_the_base_stays_as_it_was(family, kind):
    weights = weights_of(kind, backbone_of(family).model)
    with weights.base() as base, torch.no_grad():
        before = base(input_ids=IDS).logits.clone()
    weights.create("teacher", seed=0)
    assert torch.equal(logits(weights), before), "a fresh set changes nothing"
    disturb(weights)
    teacher = logits(weights)
    assert not torch.equal(teacher, before)
    weights.create("student", seed=0)
    assert torch.equal(logits(weights), before), "a student starts from the base, not from the teacher"
    disturb(weights)
    student = logits(weights)
    weights.activate("teacher")
    assert torch.equal(logits(weights), teacher)
    with weights.base() as base, torch.no_grad():
        assert torch.equal(base(input_ids=IDS).logits, before)
    assert torch.equal(logits(weights), teacher), "the set that was on is on again"
    weights.activate("student")
    assert torch.equal(logits(weights), student)
    weights.create("copy", seed=1, copy_of="teacher")
    assert torch.equal(logits(weights), teacher)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_saved_sets_come_back_to_the_bit(family, kind, tmp_path: Path):
    weights = weights_of(kind, backbone_of(family).model)
    weights.create("one", seed=0)
    disturb(weights)
    expected = logits(weights)
    weights.save("one", tmp_path)
    again = weights_of(kind, backbone_of(family).model)
    again.create("two", seed=5)
    again.load("two", tmp_path)
    assert torch.equal(logits(again), expected)
    assert not list(tmp_path.glob("*.bin")) and list(tmp_path.glob("*.safetensors"))


def test_only_the_adapter_is_trained():
    model = backbone_of().model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    weights = LoraWeights(model, LoraSettings())
    weights.create("one", seed=0)
    names = [name for name, parameter in weights.model.named_parameters() if parameter.requires_grad]
    assert names and all("lora_" in name and (".q_proj." in name or ".v_proj." in name) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_vector_depends_on_its_text_alone(family, pooling):
    backbone = backbone_of(family)
    together = embed_texts(backbone, backbone.model, TITLES, pooling)
    alone = torch.cat([embed_texts(backbone, backbone.model, [title], pooling) for title in TITLES])
    assert torch.allclose(together, alone, atol=1e-5)
    small = embed_texts(backbone, backbone.model, TITLES[::-1], pooling, batch_tokens=16)
    assert torch.allclose(small.flip(0), together, atol=1e-5)
    twins = embed_texts(backbone, backbone.model, ["amber birch", "x", "amber birch"], pooling)
    assert torch.equal(twins[0], twins[2]), "equal texts have equal vectors"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_alike_vectors_are_the_same_to_the_last_bit_in_any_company(family, pooling):
    backbone = backbone_of(family)
    words = ["amber", "birch", "cedar", "dune", "ember"]
    texts = [" ".join(words[: 1 + number % 5]) + f" {number}" for number in range(60)]
    together = embed_texts(backbone, backbone.model, texts, pooling, alike=True)
    assert torch.allclose(together, embed_texts(backbone, backbone.model, texts, pooling), atol=1e-5)
    for some in (slice(7, 8), slice(0, 60, 3), slice(59, None, -1), slice(20, 37)):
        assert torch.equal(embed_texts(backbone, backbone.model, texts[some], pooling, alike=True), together[
            list(range(60))[some]])


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_definition(family):
    """BIGRec: the last hidden layer (after the final norm) at the last token."""
    backbone = backbone_of(family)
    tokens = backbone.tokenizer.bos_ids + backbone.tokenizer.encode(["cedar dune"])[0]
    with torch.no_grad():
        hidden = backbone.model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0]
    words = hidden[len(backbone.tokenizer.bos_ids):]
    assert torch.allclose(embed_texts(backbone, backbone.model, ["cedar dune"])[0], hidden[-1], atol=1e-5)
    assert torch.allclose(embed_texts(backbone, backbone.model, ["cedar dune"], "mean")[0], words.mean(0), atol=1e-5)


def test_item_table_is_reused_by_content_and_answers_take_its_rows(tmp_path: Path):
    def vectors_of(titles, pooling="last"):
        backbone = backbone_of()
        weights = LoraWeights(backbone.model, LoraSettings())
        fingerprint = weights_fingerprint(backbone.model)
        return TitleVectors(backbone, weights, titles, pooling, 1000, fingerprint, ArtifactStore(tmp_path))

    first = vectors_of(TITLES)
    table = first.table()
    again = vectors_of(TITLES)
    assert torch.equal(again.table(), table) and again.was_reused and not first.was_reused
    for other in (vectors_of(TITLES[:-1]), vectors_of(TITLES, "mean")):
        other.table()
        assert not other.was_reused
    rows = first.lookup([TITLES[3], "no title at all", TITLES[3]])
    assert torch.equal(rows[0], table[3]) and torch.equal(rows[2], table[3])
    assert first.is_title(TITLES[3]) and not first.is_title("no title at all")


def test_weights_fingerprint_sees_one_changed_value():
    model = toy_model("llama", 50)
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(toy_model("llama", 50))
    with torch.no_grad():
        model.model.embed_tokens.weight[0, 0] += 1
    assert weights_fingerprint(model) != before


@pytest.mark.parametrize("family", FAMILIES)
def test_any_folder_loads_and_no_sampling_default_leaks(family, tmp_path: Path):
    model, tokenizer = toy_model(family, 400), toy_tokenizer(TITLES, bos=False)
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.6
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_backbone(LoadSettings(str(tmp_path), torch.device("cpu")))
    assert not loaded.model.generation_config.do_sample and loaded.hidden_size == 32
    expected = model(input_ids=IDS).logits  # some tokenizer classes bring one more token of their own
    assert torch.equal(loaded.model(input_ids=IDS).logits[..., : expected.shape[-1]], expected)
