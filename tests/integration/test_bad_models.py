"""Language models, hub ids and adapters that cannot be used: one message with cause, place and remedy, exit code 2."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from recbole_soft.llm import backbone
from tests.toys import toy_model

LORA = {"tuning": "lora", "lora_r": 4}


# ---- language models -----------------------------------------------------------------------------
def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])


@pytest.mark.parametrize(("damage", "expected"), [
    (lambda llm: [path.unlink() for path in llm.glob("tokenizer*")], "no tokenizer"),
    (lambda llm: (llm / "model.safetensors").unlink(), "no weights"),
    (lambda llm: (llm / "config.json").unlink(), "no config.json"),
    (lambda llm: (llm / "config.json").write_text("{"), "not a valid JSON file"),
    (lambda llm: (llm / "tokenizer.json").write_text("{"), "Expecting property name"),
    (lambda llm: cut(llm / "model.safetensors", 5), "no file is cut short"),
    (lambda llm: cut(llm / "model.safetensors", 20000), "no file is cut short"),
    (lambda llm: edit_json(llm / "tokenizer_config.json", eos_token=None), "no end-of-text token"),
    (lambda llm: edit_json(llm / "config.json", intermediate_size=128), "other sizes than config.json says"),
    (lambda llm: edit_json(llm / "config.json", num_hidden_layers=3), "lacks 9 of the model's weights"),
    (lambda llm: edit_json(llm / "config.json", model_type="t5"), "causal (decoder-only)"),
    (lambda llm: edit_json(llm / "config.json", model_type="nonsense"), "pip install --upgrade transformers"),
    (lambda llm: toy_model("llama", 100).save_pretrained(llm), "the model only 100"),
    (lambda llm: edit_json(llm / "config.json", max_position_embeddings=40), "reads 40 tokens"),
])
def test_damaged_language_model(refused, llm, damage, expected):
    damage(llm)
    refused(expected, str(llm) if "reads" not in expected else "llm_path", llm_path=llm)


def test_prompts_are_fitted_to_what_the_model_reads(run, refused, llm, tmp_path):
    edit_json(llm / "config.json", max_position_embeddings=340)
    code, message = run(llm_path=llm, run_name="fitted")
    assert code == 0, message
    assert json.loads((tmp_path / "saved" / "fitted" / "run.json").read_text())["config"]["cutoff_len"] < 340
    refused("reads 340 tokens", "--cutoff_len=3", llm_path=llm, cutoff_len=339)


@pytest.mark.parametrize(("modules", "expected"), [
    ("[nope]", "known: "), ("[q_proj,v_prj]", "did you mean v_proj"), ("[self_attn]", "no layer 'self_attn'")])
def test_lora_target_that_is_not_there(refused, good_llm, modules, expected):
    refused(expected, "lora_target_modules", llm_path=good_llm, lora_target_modules=modules)


def test_more_beams_than_words(run):
    code, message = run(num_beams=401, max_new_tokens=2, valid_sample=2, test_sample=2)
    assert code == 0, message


def pretend_bitsandbytes(monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name, *rest: spec if name == "bitsandbytes" else find(name, *rest))


def test_quantization_without_its_library(refused, monkeypatch, good_llm):
    pretend_bitsandbytes(monkeypatch, None)
    refused("needs bitsandbytes", 'pip install "recbole_soft[quant]"', llm_path=good_llm, quantization="4bit")


def test_quantized_model_that_fails_as_a_whole(refused, monkeypatch, good_llm):
    """Stands in for what the trials of single layers cannot tell (`tests/llm/test_quantization.py`)."""
    from transformers import LlamaForCausalLM

    def forward(*_args, **_options):
        raise RuntimeError("the size of a row must be a multiple of 64")

    pretend_bitsandbytes(monkeypatch, importlib.util.find_spec("json"))
    monkeypatch.setattr(backbone, "check_sizes", lambda *_: None)
    monkeypatch.setattr(backbone, "loading_options", lambda *_: {})
    monkeypatch.setattr(backbone, "about_quantization", lambda *_: None)
    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    refused("cannot run this model in 4bit", "multiple of 64", "--quantization=none", llm_path=good_llm,
            quantization="4bit")


# ---- the model hub -------------------------------------------------------------------------------
def test_hub_id_without_network(refused):
    refused("couldn't find them in the cached files", "--llm_path=/path/to/folder", "--llm=tiny",
            llm_path="some-org/some-model")


@pytest.mark.usefixtures("silent_hub")
def test_hub_that_does_not_answer_is_not_waited_for(refused, monkeypatch):
    monkeypatch.setattr(backbone, "HUB_PATIENCE_SECONDS", 0.5)
    started = time.perf_counter()
    refused("couldn't connect", "check the id and the network", llm_path="some-org/some-model")
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(("refusing_hub", "expected"), [
    ((403, "GatedRepo"), "accept the model's licence"), ((401, "RepoNotFound"), "check the id and the network"),
], indirect=["refusing_hub"])
@pytest.mark.usefixtures("refusing_hub")
def test_gated_and_absent_hub_ids(refused, expected):
    refused(expected, "llm_path=org/name", llm_path="org/name")


# ---- adapters ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Run folders of finished SFT runs, by tuning; filled by the first test that asks."""
    return {"root": tmp_path_factory.mktemp("trained")}


@pytest.fixture
def sft(trained, run) -> Callable[[str], Path]:
    def obtain(tuning: str) -> Path:
        if tuning not in trained:
            settings = LORA if tuning == "lora" else {"tuning": tuning}
            code, message = run(checkpoint_dir=trained["root"], run_name=tuning, **settings)
            assert code == 0, message
            trained[tuning] = trained["root"] / tuning / "sft"
        return trained[tuning]

    return obtain


@pytest.mark.parametrize(("tuning", "settings", "expected"), [
    ("lora", {"lora_r": 8}, "--lora_r=4"),
    ("lora", {"lora_alpha": 32}, "--lora_alpha=16"),
    ("lora", {"tuning": "full"}, "no model.safetensors"),
    ("lora", {"tiny_hidden_size": 48}, "trained on another base model"),
    ("lora", {"tiny_seed": 5}, "trained on another base model"),
    ("lora", {"lora_target_modules": "[k_proj]"}, "has weights this model lacks"),
    ("lora", {"lora_target_modules": "[q_proj,v_proj,k_proj]"}, "lacks weights of this model"),
    ("full", {}, "no adapter_config.json"),
    ("full", {"tuning": "full", "tiny_layers": 3}, "trained on another base model"),
])
def test_adapter_of_another_kind(refused, sft, tuning, settings, expected):
    folder = sft(tuning)
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    refused(expected, str(folder), model="BIGRec_SOFT", sft_adapter=folder, **{**LORA, **settings})
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize(("tuning", "settings", "expected"), [
    ("lora", {"tiny_hidden_size": 48}, "another size than the model"),
    ("lora", {"tiny_layers": 3}, "lacks weights of this model"),
    ("lora", {"tiny_layers": 1}, "has weights this model lacks"),
    ("full", {"tiny_hidden_size": 48}, "another size than the model"),
    ("full", {"tiny_layers": 3}, "lacks weights of this model"),
    ("full", {"tiny_layers": 1}, "has weights this model lacks"),
])
def test_adapter_of_another_base_model_without_its_record(refused, sft, tmp_path, tuning, settings, expected):
    copy = shutil.copytree(sft(tuning), tmp_path / "copy")
    refused(expected, str(copy), model="BIGRec_SOFT", sft_adapter=copy, **{**LORA, "tuning": tuning, **settings})


@pytest.mark.parametrize(("damage", "expected"), [
    (lambda folder: (folder / "adapter_config.json").unlink(), "no adapter in this folder"),
    (lambda folder: (folder / "adapter_config.json").write_text("{"), "configuration cannot be read"),
    (lambda folder: edit_json(folder / "adapter_config.json", use_rslora=True), "no plain LoRA"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "missing or cut short"),
    (lambda folder: cut(folder / "adapter_model.safetensors", 500), "missing or cut short"),
])
def test_damaged_adapter(refused, sft, tmp_path, damage, expected):
    copy = Path(shutil.copytree(sft("lora"), tmp_path / "copy"))
    damage(copy)
    refused(expected, str(copy), model="BIGRec_SOFT", sft_adapter=copy, **LORA)


# ---- scores of a traditional model ---------------------------------------------------------------
@pytest.mark.parametrize(("damage", "expected"), [
    (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
    (lambda folder: cut(folder / "model.safetensors", 50), "train it anew"),
    (lambda folder: (folder / "run.json").unlink(), "train it anew"),
])
def test_damaged_model_for_injection(run, refused, tmp_path, damage, expected):
    assert run(model="Pop", run_name="pop")[0] == 0
    folder = tmp_path / "saved" / "pop"
    damage(folder)
    refused(expected, str(folder), injection="cf", injection_model_file=folder)
