"""SoftConfig and, after install(), RecBole's own Config: right layers, no eval, no sys.argv."""

from __future__ import annotations

import importlib
import sys

import pytest

from recbole_soft.config import layers
from recbole_soft.errors import SettingError
from recbole_soft.registry import MODELS

pytestmark = pytest.mark.usefixtures("recbole", "stub_components", "properties")
NO_NEGATIVES = {"distribution": "none", "sample_num": "none", "alpha": "none", "dynamic": False, "candidate_num": 0}


def soft_config(model: str = "StubRec_SOFT", dataset: str = "ml-100k", **kwargs):
    from recbole_soft.config import SoftConfig

    return SoftConfig(model, dataset, **kwargs)


def test_llm_method_has_its_parts_and_windows():
    from recbole.utils import ModelType

    config = soft_config(command_line={"alpha": "10"})
    assert (config["model"], config["base_model"], config["strategy"], config["llm"]) == (
        "StubRec_SOFT", "StubRec", "SOFT", "tiny")
    assert config.model_class is MODELS["StubRec"].load()
    assert config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    assert config["train_neg_sample_args"] == NO_NEGATIVES
    assert config["alpha"] == 10.0 and config["guesses"] == 3 and config["train_sample"] == 4096
    assert config.get("guesses") == 3 and config.get("nothing", "x") == "x"


@pytest.mark.parametrize(("given", "changed"), [
    ({"split": {"RS": [7, 2, 1]}}, {"split": {"RS": [7, 2, 1]}}),
    ({"order": "TO"}, {}),
    ({"group_by": "user"}, {"group_by": "user"}),
    ({"split": {"LS": "valid_and_test"}}, {"split": {"LS": "valid_and_test"}, "group_by": "user"}),
])
def test_what_a_users_split_leaves_out_is_the_protocols(properties, given, changed):
    """RecBole would fill in a split by users, where training is not the past of the test."""
    properties("overall", "eval_args: {split: {RS: [8, 1, 1]}, group_by: none, order: TO, mode: full}\n")
    whole = soft_config()["eval_args"]
    assert whole["group_by"] in ("none", None) and whole["order"] == "TO"
    assert soft_config(config_dict={"eval_args": given})["eval_args"] == whole | changed


def test_users_layers_beat_ours_and_each_other(properties, tmp_path):
    properties("overall", "num_beams: 2\nepochs: 2\nseed: 2\ntopk: [10, 2]\nlora_r: 2\n")
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("num_beams: 3\nepochs: 3\nseed: 3\nlora_r: 3\n")
    second.write_text("num_beams: 4\nepochs: 4\nseed: 4\n")
    config = soft_config(config_file_list=[str(first), str(second)], config_dict={"num_beams": "5", "epochs": 5},
                         command_line={"num_beams": "6"})
    assert [config[key] for key in ("num_beams", "epochs", "seed", "lora_r", "topk")] == [6, 5, 4, 3, [10, 2]]


def test_property_files_beat_recboles_sequential_layer(properties):
    properties("overall", "eval_args:\n  split: {RS: [8, 1, 1]}\n  order: TO\n  group_by: none\n  mode: full\n")
    for model in ("StubRec_SFT", "SASRec", "Pop", "Classic"):
        config = soft_config(model, **({} if model != "Classic" else {"config_dict": {"loss_type": "CE"}}))
        assert config["eval_args"]["split"] == {"RS": [8, 1, 1]}, model


def test_command_line_of_the_process_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=99", "--seed=7", "--no-such"])
    assert soft_config()["epochs"] != 99


def test_nothing_is_evaluated(tmp_path):
    never = tmp_path / "never"
    code = f'__import__("os").system("touch {never}")'
    config = soft_config(config_dict={"LABEL_FIELD": code}, command_line={"NEG_PREFIX": "1-2", "run_name": code})
    assert (config["LABEL_FIELD"], config["NEG_PREFIX"], config["run_name"]) == (code, "1-2", code)
    assert not never.exists()


def test_mistakes_name_the_dictionary_or_the_command_line():
    with pytest.raises(SettingError) as refusal:
        soft_config(config_dict={"epochs": 0}, command_line={"lora_r": "0"})
    assert "config_dict" in str(refusal.value) and "command line (--lora_r=0)" in str(refusal.value)


def test_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(SettingError, match=r"not found(.|\n)*nowhere\.yaml"):
        soft_config(config_file_list=[str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize("eval_args", [{"mode": "fulll"}, {"mode": {"valid": 3}}, {"mode": "uni100"}])
def test_every_method_ranks_the_whole_catalogue(eval_args):
    with pytest.raises(SettingError, match="every method ranks the whole catalogue"):
        soft_config(config_dict={"eval_args": eval_args})


def test_what_recbole_refuses_is_a_user_error():
    with pytest.raises(SettingError, match=r"RecBole refuses the settings(.|\n)*metrics=\['AUC'\]"):
        soft_config(config_dict={"metrics": ["AUC"], "valid_metric": "AUC@10"})


def test_unset_llm_is_chosen_as_if_not_given():
    assert soft_config(command_line={"llm": "None"})["llm"] == "tiny"
    assert soft_config(command_line={"llm_path": "org/name"})["llm"] == "default"


def test_pop_is_evaluated_like_a_sequential_model():
    from recbole.utils import ModelType

    pop, sasrec = soft_config("Pop"), soft_config("SASRec")
    assert pop["MODEL_TYPE"] == sasrec["MODEL_TYPE"] == ModelType.SEQUENTIAL
    assert pop["eval_args"] == sasrec["eval_args"] and pop["repeatable"] is True
    assert pop["train_neg_sample_args"] == sasrec["train_neg_sample_args"] == NO_NEGATIVES


def test_models_with_negatives_keep_them():
    config = soft_config("SASRec", command_line={"loss_type": "BPR"})
    assert config["train_neg_sample_args"]["distribution"] == "uniform"


def test_configs_do_not_share_lists_of_names(properties):
    from recbole.utils import dataset_arguments

    before = list(dataset_arguments)
    soft_config().parameters["Dataset"].append("x")
    assert dataset_arguments == before


@pytest.mark.parametrize("model", ["StubRec_SOFT", "Classic"])
def test_recboles_own_config_knows_our_names(monkeypatch, properties, model):
    from recbole.config import Config
    from recbole.utils import ModelType

    monkeypatch.setattr(sys, "argv", ["notebook"])
    properties("overall", "num_beams: 9\nloss_type: CE\n")
    layers.install()
    config = Config(model=model, dataset="ml-100k", config_dict={"epochs": 2})
    assert config["num_beams"] == 9 and config["epochs"] == 2 and config["model"] == model
    assert config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    assert config["train_neg_sample_args"] == NO_NEGATIVES
    assert config["strategy"] == ("SOFT" if model == "StubRec_SOFT" else None)


def test_recboles_models_under_recboles_config_are_untouched(monkeypatch, properties):
    from recbole.config import Config

    monkeypatch.setattr(sys, "argv", ["notebook"])
    properties("overall", "epochs: 9\n")
    layers.install()
    config = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None})
    assert config["epochs"] == 300 and "lora_r" not in config


def test_install_twice_wraps_once_and_reaches_every_module():
    layers.install()
    modules = [importlib.import_module(name) for name in (
        "recbole.utils.utils", "recbole.utils", "recbole.config.configurator")]
    before = modules[0].get_model
    layers.install()
    assert {module.get_model for module in modules} == {before}
    assert before("StubRec_SFT") is MODELS["StubRec"].load()
    assert before("Classic").__name__ == "Classic" and before("SASRec").__name__ == "SASRec"
    # RecBole looks into a folder whose import needs lightgbm before it gives up.
    with pytest.raises((ValueError, ModuleNotFoundError)):
        before("NoSuchModel")
