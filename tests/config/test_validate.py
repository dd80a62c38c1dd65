"""Every mistake is found before anything heavy is imported, and named with its cause and remedy."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_soft.config.validate import validate
from recbole_soft.errors import SettingError

pytestmark = pytest.mark.usefixtures("stub_components", "properties")
SOURCE = "my.yaml, line 7"


def check(model: str = "StubRec_SOFT", **user) -> dict:
    return validate(user, dict.fromkeys(user, SOURCE), model, "toy")


def refusal(model: str = "StubRec_SOFT", **user) -> str:
    with pytest.raises(SettingError) as caught:
        check(model, **user)
    return str(caught.value)


def test_right_settings_come_back_typed():
    typed = check(train_sample="4096", lora_alpha="32", fast_path="false", epochs="3", topk="5,10", seed=1,
                  valid_metric="NDCG@10", alpha="10", guesses="2", eval_args="{'order': 'TO'}", title_field="5",
                  ITEM_LIST_LENGTH_FIELD="length", dataset="y")
    assert typed == {
        "train_sample": 4096, "lora_alpha": 32.0, "fast_path": False, "epochs": 3, "topk": [5, 10], "seed": 1,
        "valid_metric": "NDCG@10", "alpha": 10.0, "guesses": 2, "eval_args": {"order": "TO"}, "title_field": "5",
        "ITEM_LIST_LENGTH_FIELD": "length", "dataset": "y"}
    assert isinstance(typed["lora_alpha"], float)


def test_metrics_that_may_choose_a_gamma_are_those_that_can():
    """Settings are checked before the evaluation, which knows how, may be imported."""
    from recbole_soft.config.checks import _RANK_METRICS
    from recbole_soft.evaluation.injection import METRICS_OF_RANKS

    assert set(_RANK_METRICS) == set(METRICS_OF_RANKS)


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("train_sampel", 1, "did you mean train_sample"),
    ("learning-rate", 1, "did you mean learning_rate"),
    ("EPOCHS", 1, "did you mean epochs"),
    ("qqqqqqqq", 1, "--help"),
    ("num_beams", 0, "an integer from 1 up"),
    ("lora_dropout", 1.5, "a number between 0 and 1"),
    ("train_sample", "half", "a positive integer or `full`"),
    ("tuning", "LoRA", "did you mean lora"),
    ("fast_path", "yes", "True or False"),
    ("epochs", 0, "an integer from 1 up"),
    ("learning_rate", 0, "a number above 0"),
    ("topk", [0], "list of integers"),
    ("metrics", "ndgc", "did you mean NDCG"),
    ("learner", "adm", "did you mean adam"),
    ("nproc", 2, "several processes"),
    ("MODEL_TYPE", 1, "worked out"),
    ("hidden_size", 64, "RecBole's .*SASRec.*, not of StubRec_SOFT"),
    ("classic_width", 8, "model Classic"),
    ("schedule", "linaer", "one of exponential, constant"),
    ("llm_path", "/no/such/folder", "no such folder"),
    ("llm", "tinny", "properties/llm"),
    ("sft_adapter", "/no/such", "no such file or folder"),
    ("injection", "cf", "needs injection_model_file"),
    ("injection_model_file", "x.pth", "use injection=cf"),
    ("valid_metric", "NDCG", "METRIC@K"),
    ("val_interval", {"rating": "[3,inf)"}, "name timestamp"),
    ("valid_metric", "NDCG@7", "not computed"),
])
def test_a_mistake_names_key_value_source_and_remedy(key, value, expected):
    message = refusal(**{key: value})
    assert key in message and str(value) in message and SOURCE in message
    assert __import__("re").search(expected, message.replace("\n", " ")), message


@pytest.mark.parametrize(("model", "key", "owner"), [
    ("StubRec_SFT", "alpha", "schedule exponential (strategy SOFT)"),
    ("StubRec_SFT", "schedule", "strategy SOFT"),
    ("SASRec", "alpha", "schedule exponential (strategy SOFT)"),
    ("SASRec", "guesses", "model StubRec, StubRec_X"),
    ("StubRec_SOFT", "tau", "schedule constant (strategy SOFT)"),
])
def test_setting_of_a_part_that_is_not_used_names_its_owner(model, key, owner):
    message = refusal(model, **{key: 1})
    assert owner in message and f"this run of {model}" in message and SOURCE in message


def test_choosing_the_part_makes_its_setting_known():
    assert check(schedule="constant", tau="0.5")["tau"] == 0.5
    assert check("Classic", classic_width="4", classic_depth="2") == {"classic_width": 4, "classic_depth": 2}
    assert check("SASRec", hidden_size="32", n_heads=2) == {"hidden_size": 32, "n_heads": 2}


def test_keys_of_parent_models_are_known():
    """SASRecCPR and GRU4RecCPR take their own keys; SASRec's loss_type and BPR's negatives go together."""
    assert check("GRU4RecCPR", n_facet_all=5) == {"n_facet_all": 5}
    assert check("SASRec", loss_type="BPR", train_neg_sample_args={"distribution": "uniform"})
    assert "takes no negatives" in refusal("SASRec", train_neg_sample_args={"distribution": "uniform"})


def test_all_mistakes_are_reported_together():
    message = refusal(num_beams=0, nosuch=1, epochs="x")
    assert message.startswith("3 mistakes")
    assert [word for word in ("1. num_beams", "2. nosuch", "3. epochs") if word not in message] == []


def test_code_in_a_value_is_text_or_a_mistake(tmp_path):
    never = tmp_path / "never"
    code = f"__import__('os').system('touch {never}')"
    assert "epochs" in refusal(epochs=code)
    assert check(title_field=code, LABEL_FIELD=code) == {"title_field": code, "LABEL_FIELD": code}
    assert not never.exists()


@pytest.mark.parametrize(("user", "expected"), [
    ({"quantization": "4bit", "tuning": "full"}, "tuning=lora"),
    ({"injection": "cf", "injection_model_file": "/no/such"}, "no such folder"),
    ({"metrics": ["Hit"], "valid_metric": "NDCG@10"}, "metrics are Hit at 10"),
    ({"topk": [5]}, "MRR@10 is not computed"),
    ({"stopping_step": 3}, "stop early by patience"),
])
def test_settings_that_do_not_go_together(user, expected, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: object() if name == "bitsandbytes" else find_spec(name))
    assert expected in refusal(**user)


def test_quantization_without_its_library(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    message = refusal(quantization="8bit")
    assert 'pip install "recbole_soft[quant]"' in message and SOURCE in message


def test_settings_of_language_models_do_not_trouble_other_models():
    assert check("SASRec", quantization="4bit", tuning="full")["tuning"] == "full"


def test_existing_files_satisfy_the_checks(tmp_path):
    checkpoint = tmp_path / "x.pth"
    checkpoint.touch()
    assert check(injection="cf", injection_model_file=str(tmp_path), sft_adapter=str(tmp_path))


def test_property_files_are_checked_too_but_may_serve_other_runs(properties):
    properties("dataset/toy", "alpha: 2\nhidden_size: 8\ntitle_field: name\n")
    assert check("StubRec_SFT") == {}
    properties("dataset/toy", "title_feild: name\nepochs: 0\n")
    message = refusal("StubRec_SFT")
    assert "did you mean title_field" in message and "toy.yaml, line 1" in message
    assert "epochs = 0" in message and "toy.yaml, line 2" in message


def test_unknown_model_is_refused():
    assert "did you mean StubRec_SOFT" in refusal("stubrec_soft")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(
    st.one_of(st.sampled_from(["epochs", "lora_r", "topk", "llm", "protocol", "schedule", "eval_args"]),
              st.text(max_size=5)),
    st.one_of(st.text(max_size=6), st.integers(), st.floats(), st.none(), st.lists(st.integers(), max_size=2)),
    max_size=4))
def test_anything_is_accepted_or_a_setting_error(user):
    try:
        assert set(validate(user, {}, "StubRec_SOFT", "toy")) == set(user)
    except SettingError as error:
        assert error.message()
