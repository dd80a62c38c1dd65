"""Our layers apply in the promised order, and each of them may be absent."""

from __future__ import annotations

import pytest

from recbole_soft.config.layers import (
    chosen_components,
    chosen_llm,
    known_settings,
    layer_values,
    property_files,
)
from recbole_soft.config.schema import SETTINGS
from recbole_soft.config.yaml_files import load_yaml, properties_root
from recbole_soft.errors import SettingError

pytestmark = pytest.mark.usefixtures("stub_components")

LLM_ORDER = ("overall", "dataset/toy", "model/StubRec", "strategy/SOFT", "llm/tiny", "protocol/released_code")
OTHER_ORDER = ("overall", "dataset/toy", "traditional", "model/Classic", "protocol/released_code")


def stems(model: str, user: dict) -> list[str]:
    return [f"{file.path.parent.name}/{file.path.stem}" for file in property_files(model, "toy", user)]


@pytest.mark.parametrize(("model", "order"), [("StubRec_SOFT", LLM_ORDER), ("Classic", OTHER_ORDER)])
def test_each_layer_beats_the_ones_before_it(properties, model, order):
    user = {"protocol": "released_code"}
    assert layer_values(model, "toy", user)["num_beams"] == 4
    for beams, name in enumerate(order, start=5):
        properties(name, f"num_beams: {beams}\n")
        assert layer_values(model, "toy", user)["num_beams"] == beams, name


def test_weaker_layers_shine_through(properties):
    for name in LLM_ORDER:
        properties(name, f"from_{name.replace('/', '_')}: {name}\n")
    values = layer_values("StubRec_SOFT", "toy", {"protocol": "released_code"})
    assert all(values[f"from_{name.replace('/', '_')}"] == name for name in LLM_ORDER)


def test_files_of_other_runs_do_not_apply(properties):
    for name in ("dataset/other", "model/StubRec_X", "strategy/SFT", "llm/default", "protocol/paper", "traditional"):
        properties(name, "num_beams: 9\n")
    assert layer_values("StubRec_SOFT", "toy", {})["num_beams"] == 4
    properties("model/StubRec", "num_beams: 7\n")
    assert layer_values("SASRec", "other", {"num_beams": 1})["num_beams"] == 9


def test_without_any_file_all_defaults_apply(properties):
    values = layer_values("StubRec_SOFT", "toy", {})
    assert {setting.name for setting in SETTINGS} | {"guesses", "schedule", "alpha"} <= set(values)
    assert (values["base_model"], values["strategy"], values["llm"]) == ("StubRec", "SOFT", "tiny")
    assert isinstance(values["lora_alpha"], float) and isinstance(values["alpha"], float)


def test_other_models_get_no_names_of_llm_parts(properties):
    assert not {"base_model", "strategy", "guesses", "alpha"} & set(layer_values("Classic", "toy", {}))
    assert layer_values("Classic", "toy", {})["classic_width"] == 8


@pytest.mark.parametrize(("user", "llm"), [
    ({}, "tiny"), ({"llm": None}, "tiny"), ({"llm_path": "gpt2"}, "default"), ({"llm": "big"}, "big"),
    ({"llm": "big", "llm_path": "gpt2"}, "big"),
])
def test_preset_of_the_language_model(properties, user, llm):
    properties(f"llm/{llm}", "num_beams: 6\n")
    assert chosen_llm(user) == llm
    values = layer_values("StubRec_SFT", "toy", user)
    assert values["llm"] == llm and values["num_beams"] == 6


def test_a_property_file_may_choose_the_language_model_and_the_user_wins(properties):
    properties("dataset/toy", "llm: big\n")
    properties("llm/big", "num_beams: 6\n")
    properties("llm/default", "num_beams: 3\n")
    assert layer_values("StubRec_SFT", "toy", {})["num_beams"] == 6
    values = layer_values("StubRec_SFT", "toy", {"llm_path": "gpt2"})
    assert (values["llm"], values["num_beams"]) == ("default", 3)


def test_protocol_may_be_set_by_a_property_file_and_the_user_wins(properties):
    properties("protocol/released_code", "num_beams: 8\n")
    properties("dataset/toy", "protocol: released_code\n")
    assert layer_values("Classic", "toy", {})["num_beams"] == 8
    assert layer_values("Classic", "toy", {"protocol": "paper"})["num_beams"] == 4


@pytest.mark.parametrize("dataset", ["../secret", "a/b", "..", "", "/etc/passwd"])
def test_names_that_are_no_file_names_have_no_file(properties, dataset):
    properties("secret", "num_beams: 9\n")
    properties("dataset/a/b", "num_beams: 9\n")
    assert property_files("Classic", dataset, {}) == []


def test_schedule_brings_its_settings(properties):
    def components(user: dict, model: str = "StubRec_SOFT") -> list[str]:
        files = property_files(model, "toy", user)
        return [component.name for component in chosen_components(model, user, files)]

    assert components({}) == ["StubRec", "SOFT", "exponential"]
    properties("strategy/SOFT", "schedule: constant\n")
    assert components({}) == ["StubRec", "SOFT", "constant"]
    assert components({"schedule": "exponential"}) == ["StubRec", "SOFT", "exponential"]
    assert components({"schedule": "no such"}) == ["StubRec", "SOFT"]
    assert components({}, "StubRec_SFT") == ["StubRec", "SFT"]
    assert components({}, "SASRec") == []
    assert "tau" in known_settings(chosen_components("StubRec_SOFT", {"schedule": "constant"}))


def test_wrong_value_in_a_property_file_names_file_and_line(properties):
    properties("overall", "# remark\nnum_beams: many\n")
    with pytest.raises(SettingError, match=r"num_beams = many: must be an integer(.|\n)*overall\.yaml, line 2"):
        layer_values("Classic", "toy", {})


def test_values_of_property_files_are_typed(properties):
    properties("overall", "lora_alpha: 32\ntrain_sample: full\nrun_name: 2024\nmy_own: 1e-3\n")
    values = layer_values("Classic", "toy", {})
    assert (values["lora_alpha"], values["train_sample"], values["run_name"]) == (32.0, "full", "2024")
    assert isinstance(values["lora_alpha"], float) and values["my_own"] == 1e-3
    assert stems("Classic", {}) == ["properties/overall"]


def test_presets_of_checkpoints_leave_alone_what_models_and_strategies_set():
    """They lie above them, and would undo LLaRA's longer answers; the embedded model may, it is an instrument."""
    def keys(pattern: str) -> dict[str, set[str]]:
        return {path.stem: set(load_yaml(path).values) for path in properties_root().glob(pattern)}

    methods = keys("strategy/*.yaml") | keys("model/LLaRA*.yaml") | keys("model/Rerank*.yaml")
    presets = {name: of for name, of in keys("llm/*.yaml").items() if name != "tiny"}
    assert "LLaRA" in methods and "llama3.2-3b" in presets
    assert [(preset, name, both) for preset, ours in presets.items() for name, theirs in methods.items()
            if (both := ours & theirs)] == []
