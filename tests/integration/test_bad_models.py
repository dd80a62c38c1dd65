"""Language models and weights that cannot be used, where it takes more than an entry of `tests/bad_inputs` to show."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from recbole_soft.llm import backbone, hub

LORA = {"tuning": "lora", "lora_r": 4}


# ---- language models -----------------------------------------------------------------------------
def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_prompts_are_fitted_to_what_the_model_reads(run, refused, llm, tmp_path):
    edit_json(llm / "config.json", max_position_embeddings=340)
    code, message = run(llm_path=llm, run_name="fitted")
    assert code == 0, message
    assert json.loads((tmp_path / "saved" / "fitted" / "run.json").read_text())["config"]["cutoff_len"] < 340
    refused("reads 340 tokens", "--cutoff_len=3", llm_path=llm, cutoff_len=339)


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
@pytest.mark.usefixtures("silent_hub")
def test_hub_that_does_not_answer_is_not_waited_for(refused, monkeypatch):
    monkeypatch.setattr(hub, "HUB_PATIENCE_SECONDS", 0.5)
    started = time.perf_counter()
    assert not hub.hub_answers() and time.perf_counter() - started < 5
    refused("couldn't connect", "check the id and the network", llm_path="some-org/some-model")


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
    ("full", {}, "no adapter_config.json"),
    ("full", {"tuning": "full", "tiny_layers": 3}, "trained on another base model"),
])
def test_weights_of_another_kind(refused, sft, tuning, settings, expected):
    folder = sft(tuning)
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    refused(expected, str(folder), model="BIGRec_SOFT", sft_adapter=folder, **{**LORA, **settings})
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


@pytest.mark.parametrize(("settings", "expected"), [
    ({"tiny_hidden_size": 48}, "another size than the model"), ({"tiny_layers": 3}, "lacks weights of this model"),
    ({"tiny_layers": 1}, "has weights this model lacks"),
])
def test_weights_of_another_base_model_without_its_record(refused, sft, tmp_path, settings, expected):
    copy = shutil.copytree(sft("full"), tmp_path / "copy")
    refused(expected, str(copy), model="BIGRec_SOFT", sft_adapter=copy, **{"tuning": "full", **settings})
