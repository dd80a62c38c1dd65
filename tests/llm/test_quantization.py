"""Quantised base models: they learn, also after an evaluation, and agree with full precision; the rest is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recbole_soft.errors import ModelError
from recbole_soft.llm import quantization
from recbole_soft.llm.adapters import LoraSettings, LoraWeights
from recbole_soft.llm.backbone import LoadSettings, load_backbone
from recbole_soft.llm.beam import BeamSettings
from recbole_soft.llm.embed import embed_texts
from recbole_soft.llm.generate import generate, supports_tree_search
from recbole_soft.llm.score import score_responses, supports_packing
from recbole_soft.run import run_recbole_soft
from tests.toys import toy_model, toy_titles, toy_tokenizer

bitsandbytes = pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
KINDS = ("4bit", "8bit")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random model, some of whose inner numbers are beyond the threshold from which 8 bits treats them apart."""
    folder = tmp_path_factory.mktemp("llm")
    model = toy_model("llama", 400)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[:8] = 4.0  # beyond 6 in some tokens and not in others
        model.lm_head.weight.mul_(10)
    model.save_pretrained(folder)
    toy_tokenizer(toy_titles(24) * 3).save_pretrained(folder)
    return folder


def open_model(checkpoint: Path, kind: str):
    return load_backbone(LoadSettings(str(checkpoint), CPU, quantization=kind))


def with_adapter(backbone):
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(False)
    weights = LoraWeights(backbone.model, LoraSettings(lora_r=4, lora_dropout=0.0))
    weights.create("sft", seed=0)
    return weights


PROMPTS = [[0, *range(10, 20 + length), 9] for length in (0, 3, 7, 11)]
RESPONSES = {"true": [[30, 31, 1], [32, 1], [33, 34, 35, 1], [36, 1]],
             "own": [[30, 40, 1], [41, 1], [42, 1], [43, 44, 1]]}


def step(weights, optimiser) -> tuple[float, float]:
    """Loss of a training step, and the size of the gradient that it took."""
    weights.model.train()
    optimiser.zero_grad()
    loss = score_responses(weights.model, PROMPTS, {"true": RESPONSES["true"]})["true"].nll.mean()
    loss.backward()
    size = sum(float(parameter.grad.norm()) for parameter in weights.parameters() if parameter.grad is not None)
    optimiser.step()
    return float(loss.detach()), size


def evaluate(backbone, weights):
    """What a validation does: answers, then vectors of texts under the base model."""
    answers = generate(weights.model, PROMPTS, BeamSettings(num_beams=2, max_new_tokens=4), eos_ids=[1], pad_id=2)
    with weights.base() as model:
        return answers, embed_texts(backbone, model, toy_titles(3))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_still_flow_after_an_evaluation(checkpoint, kind, monkeypatch):
    """bitsandbytes is told that the processor has AVX512-BF16, where it would repack 4-bit weights (finding 1)."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    backbone = open_model(checkpoint, kind)
    weights = with_adapter(backbone)
    optimiser = torch.optim.AdamW(weights.parameters(), lr=1e-2)
    losses = [step(weights, optimiser) for _ in range(3)]
    evaluate(backbone, weights)
    losses += [step(weights, optimiser) for _ in range(3)]
    assert all(size > 1e-3 for _, size in losses)
    falling = [loss for loss, _ in losses]
    assert falling == sorted(falling, reverse=True) and falling[-1] < falling[2]


def test_a_layer_that_loses_its_gradients_is_found_out(monkeypatch):
    """The same without our remedy: the trial of a layer tells, whatever such a processor makes of it here."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    assert quantization.reason_against("4bit", 64, 64, CPU, torch.float32) is None
    monkeypatch.setattr(quantization, "keep_gradients_after_evaluation", lambda model: None)
    assert quantization.reason_against("4bit", 64, 64, CPU, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (192, 64), (1000, 128)])
def test_multiples_of_64_are_taken(kind, outputs, inputs):
    assert quantization.reason_against(kind, outputs, inputs, CPU, torch.float32) is None


def fails_beyond_blocks(original):
    def matmul(given, *rest, **options):
        if given.shape[-1] % 64:
            raise RuntimeError("rows must be a multiple of 64")
        return original(given, *rest, **options)
    return matmul


def misreads(original):
    return lambda *rest, **options: original(*rest, **options).roll(1, -1)


def without_gradient(original):
    """Zero gradients, without an error."""
    def matmul(given, *rest, **options):
        return original(given.detach(), *rest, **options) + 0 * given.sum()
    return matmul


@pytest.mark.parametrize(("damage", "reason"), [
    (fails_beyond_blocks, "rows must be a multiple of 64"), (misreads, "are off by"),
    (without_gradient, "no gradients")])
def test_sizes_that_cannot_be_computed_are_refused_before_weights_are_loaded(checkpoint, monkeypatch, damage, reason):
    from transformers import AutoModelForCausalLM

    def never(*_, **__):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", damage(bitsandbytes.matmul_4bit))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", never)
    with pytest.raises(ModelError) as refusal:
        open_model(checkpoint, "4bit")
    for part in ("q_proj' (32 inputs, 32 outputs) in 4bit", reason, str(checkpoint), "--tiny_hidden_size=64"):
        assert part in str(refusal.value)


@pytest.mark.parametrize(("family", "expected"), [
    ("llama", {(32, 32), (64, 32), (32, 64)}), ("gpt2", {(96, 32), (32, 32), (128, 32), (32, 128)})])
def test_sizes_are_read_from_the_configuration(family, expected):
    """The output head stays as it is, and GPT-2 stores its weights the other way round."""
    assert set(quantization.layer_sizes(toy_model(family, 400).config).values()) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_answers_are_close_to_those_of_full_precision(checkpoint, kind):
    plain, quantized = open_model(checkpoint, "none"), open_model(checkpoint, kind)
    scores = [score_responses(opened.model, PROMPTS, RESPONSES) for opened in (plain, quantized)]
    tolerance = {"4bit": 0.15, "8bit": 0.02}[kind]
    for name in RESPONSES:
        torch.testing.assert_close(scores[1][name].nll, scores[0][name].nll, rtol=tolerance, atol=0.05)
    assert quantized.parameter_count == plain.parameter_count
    assert quantized.quantization["quantized_layers"] == 14 and plain.quantization is None


@pytest.mark.parametrize("kind", KINDS)
def test_fast_paths_are_taken_and_agree_with_the_plain_ones(checkpoint, kind):
    """In 4 bits weights are the same numbers either way; in 8 bits inputs are rounded together with their batch."""
    backbone = open_model(checkpoint, kind)
    weights = with_adapter(backbone)
    assert supports_packing(weights.model, 40) is None and supports_tree_search(weights.model, 40) is None
    fast, plain = (score_responses(weights.model.eval(), PROMPTS, RESPONSES, fast=way) for way in (True, False))
    for name in RESPONSES:
        torch.testing.assert_close(fast[name].nll, plain[name].nll, rtol=1e-5 if kind == "4bit" else 2e-2, atol=1e-4)
    settings = BeamSettings(num_beams=2, max_new_tokens=4)
    fast, plain = (generate(weights.model, PROMPTS, settings, eos_ids=[1], pad_id=2, fast=way) for way in (True, False))
    for mine, theirs in zip(fast, plain, strict=True):
        if kind == "4bit":
            assert [beam.tokens for beam in mine] == [beam.tokens for beam in theirs]
        assert mine[0].score == pytest.approx(theirs[0].score, rel=1e-4 if kind == "4bit" else 3e-2)


# ---- whole runs ----------------------------------------------------------------------------------
@pytest.fixture
def settings(toy_settings):
    def make(kind: str, **changes) -> dict:
        return toy_settings(quantization=kind, tuning="lora", tiny_hidden_size=64, tiny_steps=100, epochs=3,
                            learning_rate=1e-2, lora_dropout=0.0, valid_sample=8, test_sample=8, **changes)
    return make


def losses(result) -> list[float]:
    return [row["loss_total"] for row in result["record"]["curves"]]


def test_training_is_close_to_full_precision_and_adapters_open_on_the_unquantised_model(settings):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = run_recbole_soft("BIGRec_SFT", "toy", config_dict=settings("none"))
    fallen = losses(plain)[0] - losses(plain)[-1]
    assert fallen > 0.15
    for kind, tolerance in (("4bit", 0.2), ("8bit", 0.05)):
        result = run_recbole_soft("BIGRec_SFT", "toy", config_dict=settings(kind))
        assert losses(result) == pytest.approx(losses(plain), abs=tolerance * fallen)
        record = result["record"]["language_model"]
        assert record["quantization"]["bits"] == kind
        assert record["parameters"] == plain["record"]["language_model"]["parameters"]
        adapter = Path(result["record"]["stages"]["sft"]["folder"])
        assert json.loads((adapter / "adapter_config.json").read_text())["peft_type"] == "LORA"
        base, second = (AutoModelForCausalLM.from_pretrained(record["path"]).eval() for _ in range(2))
        opened = PeftModel.from_pretrained(second, adapter).eval()
        backbone = load_backbone(LoadSettings(record["path"], CPU, quantization=kind))
        weights = with_adapter_of(backbone, adapter)
        with torch.no_grad():
            plain_base, plain_tuned, quantized_tuned = (
                score_responses(model, PROMPTS, RESPONSES) for model in (base, opened, weights.model))
            with weights.base() as model:
                quantized_base = score_responses(model, PROMPTS, RESPONSES)
        effects = []
        for tuned, untuned in ((plain_tuned, plain_base), (quantized_tuned, quantized_base)):
            effects.append(torch.cat([tuned[name].nll - untuned[name].nll for name in RESPONSES]))
        assert torch.cosine_similarity(*effects, dim=0) > 0.7
        for name in RESPONSES:
            torch.testing.assert_close(plain_tuned[name].nll, quantized_tuned[name].nll, rtol=0.02, atol=0.0)


def with_adapter_of(backbone, folder: Path) -> LoraWeights:
    weights = LoraWeights(backbone.model, LoraSettings(lora_r=8, lora_dropout=0.0))
    weights.load("sft", folder)
    weights.model.eval()
    return weights


def test_llara_and_soft_run_with_the_projector_in_full_precision(settings):
    from safetensors.torch import load_file

    result = run_recbole_soft("LLaRA_SOFT", "toy", config_dict=settings(
        "4bit", rec_model_settings={"epochs": 2}) | {"epochs": 2})
    stages = result["record"]["stages"]
    for stage in ("sft", "soft"):
        projector = load_file(Path(stages[stage]["folder"]) / "projector.safetensors")
        assert {tensor.dtype for tensor in projector.values()} == {torch.float32}
    first, last = (row["loss_sft"] for row in result["record"]["curves"] if row["stage"] == "sft")
    assert last < first
