"""Search spaces: what a file may say, and what of it is searched in a run. Needs neither Optuna nor torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_soft.config.sources import user_settings
from recbole_soft.config.validate import validate
from recbole_soft.config.values import parsed
from recbole_soft.config.yaml_files import properties_root
from recbole_soft.errors import SettingError
from recbole_soft.registry import MODELS, is_llm_name, llm_names, recbole_model_names, traditional_names
from recbole_soft.tuning.fit import fit_space
from recbole_soft.tuning.space import as_text, read_space, space_file

SHIPPED = sorted((properties_root() / "search").glob("*.yaml"))
ALPHA = "alpha: {type: log, low: 0.1, high: 100}"


def fitted(text: str, tmp_path: Path, model: str = "BIGRec_SOFT", **words):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    values, sources = user_settings([], {}, words)
    typed = validate(values, sources, model, "toy")
    return fit_space(read_space(file), model, "toy", typed, sources)


def parameters(*lines: str, head: str = "") -> str:
    return head + "parameters:\n" + "".join(f"  {line}\n" for line in lines)


@pytest.mark.parametrize(("text", "expected"), [
    ("sampler: tpe\n", ["needs parameters", "alpha: {type: log"]),
    (parameters(ALPHA, head="samplr: tpe\n"), ["'samplr' means nothing", "did you mean sampler?"]),
    (parameters(ALPHA, head="sampler: best\n"), ["sampler = best", "tpe, random, grid", "line 1"]),
    (parameters(ALPHA, head="pruner: hard\n"), ["pruner = hard", "median, none"]),
    (parameters(ALPHA, head="trials: many\n"), ["trials = many", "an integer from 1"]),
    (parameters(ALPHA, head="trials: 0\n"), ["trials = 0"]),
    (parameters(ALPHA, head="sampler: grid\n"), ["grid needs lists", "parameter alpha"]),
    (parameters("alpha: 3"), ["alpha = 3", "{type: log, low: 0.1, high: 100}"]),
    (parameters("alpha: {low: 1, high: 2}"), ["type = None", "int, float, log, choice"]),
    (parameters("alpha: {type: log, low: 0, high: 2}"), ["no logarithm", "above 0"]),
    (parameters("alpha: {type: float, low: 2, high: 1}"), ["low = 2, high = 1", "the range is empty"]),
    (parameters("alpha: {type: float, low: 1, high: 2, step: 3}"), ["step = 3"]),
    (parameters("alpha: {type: log, low: 1, high: 2, step: 1}"), ["'step' does not go with type log"]),
    (parameters("alpha: {type: log, low: one, high: 2}"), ["low = one", "a number"]),
    (parameters("lora_r: {type: int, low: 1.5, high: 2}"), ["low = 1.5", "an integer"]),
    (parameters("alpha: {type: choice, low: 1, values: [1]}"), ["'low' does not go with type choice"]),
    (parameters("alpha: {type: choice, values: 3}"), ["values = 3", "a list"]),
    (parameters("alpha: {type: choice, values: [1, 1]}"), ["a value comes twice"]),
    (parameters("alpha: {type: log, low: 1, high: 2, wen: {}}"), ["'wen'", "did you mean when?"]),
    (parameters("alpha: {type: log, low: 1, high: 2, when: 3}"), ["when = 3"]),
])
def test_mistakes_in_a_file(text, expected, tmp_path):
    with pytest.raises(SettingError) as refusal:
        fitted(text, tmp_path)
    for part in [*expected, "space.yaml"]:
        assert part in str(refusal.value)


@pytest.mark.parametrize(("line", "words", "expected"), [
    ("alpha: {type: float, low: -1, high: 2}", {}, ["alpha = -1", "a number from 0 up", "parameter alpha"]),
    ("lora_dropout: {type: float, low: 0.1, high: 1.5}", {"tuning": "lora"}, ["lora_dropout = 1.5", "between 0 and 1"]),
    ("lora_r: {type: float, low: 1.0, high: 4.0}", {}, ["lora_r = 1.0", "an integer"]),
    ("quantization: {type: choice, values: [none, 3bit]}", {}, ["3bit", "one of none, 8bit, 4bit"]),
    ("quantization: {type: choice, values: [none, 4bit]}", {"tuning": "full"}, ["use tuning=lora"]),
    ("alhpa: {type: log, low: 1, high: 2}", {}, ["alhpa", "did you mean alpha?"]),
    ("hidden_dropout_prob: {type: float, low: 0, high: 1}", {}, ["hidden_dropout_prob", "not of BIGRec_SOFT"]),
    ("tau: {type: float, low: 0, high: 1}", {}, ["tau", "schedule constant"]),
    ("seed: {type: int, low: 0, high: 9}", {}, ["seed may not be searched", "what is measured"]),
    ("mask_history: {type: choice, values: [full, none]}", {}, ["mask_history may not be searched"]),
    ("test_sample: {type: int, low: 10, high: 90}", {}, ["test_sample may not be searched"]),
    ("alpha: {type: log, low: 1, high: 2, when: {schedul: linear}}", {}, ["schedul", "did you mean schedule?"]),
    ("injection_gamma: {type: float, low: 0, high: 9}", {}, ["no effect with injection = none"]),
    (ALPHA, {"alpha": "3"}, ["nothing to search", "alpha (given)"]),
    ("alpha: {type: log, low: 1, high: 2, when: {schedule: linear}}", {}, ["nothing to search", "schedule: linear"]),
])
def test_values_are_checked_as_if_the_user_had_given_them(line, words, expected, tmp_path):
    with pytest.raises(SettingError) as refusal:
        fitted(parameters(line), tmp_path, **words)
    for part in expected:
        assert part in str(refusal.value)


def test_conditions_and_given_settings_narrow_a_space(tmp_path):
    text = parameters(ALPHA, "lora_r: {type: choice, values: [4, 8], when: {tuning: lora}}",
                      "injection_gamma: {type: log, low: 0.1, high: 9, when: {injection: [popularity, cf]}}",
                      "learning_rate: {type: log, low: 1.0e-5, high: 1.0e-3}")
    space, left_out = fitted(text, tmp_path, learning_rate="1e-4")
    assert [parameter.name for parameter in space.parameters] == ["alpha"]
    assert left_out == {"lora_r": "only with tuning: lora", "learning_rate": "given",
                        "injection_gamma": "only with injection: popularity or cf"}
    space, left_out = fitted(text, tmp_path, tuning="lora", injection="popularity")
    assert len(space.parameters) == 4 and left_out == {}


def test_a_grid_has_every_combination_once(tmp_path):
    space, _ = fitted(parameters("alpha: {type: choice, values: [0.1, 1.0]}", "lora_r: {type: choice, values: [4, 8]}",
                                 head="sampler: grid\n"), tmp_path, tuning="lora")
    assert list(space.grid()) == [{"alpha": "0.1", "lora_r": "4"}, {"alpha": "0.1", "lora_r": "8"},
                                  {"alpha": "1.0", "lora_r": "4"}, {"alpha": "1.0", "lora_r": "8"}]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_spaces_fit_a_model(path):
    model = path.stem if path.stem in recbole_model_names() else "BIGRec_SOFT"
    model = {"traditional": "Caser", "l2_grid": "SASRec"}.get(path.stem, model)
    space, _ = fit_space(read_space(path), model, "toy", {}, {})
    assert space.parameters


@pytest.mark.parametrize("model", ["BIGRec_SFT", "LLaRA_SDPO", "DROS_GRU4Rec", "BERT4Rec"])
def test_every_kind_of_model_has_a_default_space_that_fits(model):
    base = MODELS[model].based_on if model in MODELS else None
    space, _ = fit_space(read_space(space_file(None, model, base, is_llm_name(model))), model, "toy", {}, {})
    assert "learning_rate" in [parameter.name for parameter in space.parameters]
    assert model in [*llm_names(), *traditional_names(), *recbole_model_names()]


def test_the_papers_grid():
    space = read_space(space_file("alpha_grid", "BIGRec_SOFT", None, True))
    assert [float(words["alpha"]) for words in space.grid()] == [0.1, 1, 10, 100] and space.pruner == "none"


def test_a_space_that_is_not_there():
    with pytest.raises(SettingError, match="did you mean alpha_grid"):
        space_file("alpha_gird", "BIGRec_SOFT", None, True)


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(), st.booleans(), st.none(),
                 st.lists(st.integers(), min_size=1)))
def test_a_value_survives_the_way_over_the_command_line(value):
    assert parsed(as_text(value)) == value
