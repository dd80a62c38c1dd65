"""MSL as an option of SFT and SOFT: whole runs, record, keys, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_soft.errors import SettingError
from recbole_soft.run import run_recbole_soft

MSL = {"lm_loss": "msl", "decoding": "constrained", "msl_eta": 0.9}


def run(model, settings):
    return run_recbole_soft(model, "toy", config_dict=settings)


@pytest.fixture(scope="module")
def soft(toy_path, shared_artifacts, tmp_path_factory):
    return run("BIGRec_SOFT", {
        "data_path": str(toy_path), "checkpoint_dir": str(tmp_path_factory.mktemp("msl")),
        "artifacts_dir": str(shared_artifacts), "show_progress": False, "state": "WARNING",
        "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)", "train_sample": 96,
        "valid_sample": 16, "test_sample": 24, "epochs": 5, "patience": 5, "train_batch_size": 8,
        "micro_batch_size": 8, "learning_rate": 5e-3, "warmup_steps": 2, "schedule": "linear",
        "tiny_hidden_size": 32, "tiny_layers": 2,
        "tiny_heads": 2, "tiny_vocabulary": 400, "tiny_steps": 20, "tiny_batch_size": 8, "max_new_tokens": 8,
        "num_beams": 2, "topk": [1, 5, 10, 20], "mask_history": "none", **MSL})


def test_it_learns_and_the_record_names_it(soft):
    record = soft["record"]
    rows = {name: [row for row in record["curves"] if row["stage"] == name] for name in ("sft", "soft")}
    assert rows["sft"][-1]["loss_sft"] < 0.95 * rows["sft"][0]["loss_sft"]
    assert record["config"]["lm_loss"] == "msl"
    assert [row["label"] for row in record["results"]] == ["BIGRec SFT (MSL)", "BIGRec SOFT (MSL)"]
    assert "SFT (MSL)" in soft["table"]
    for name in ("sft", "soft"):
        temperatures = [row["temperature"] for row in rows[name]]
        assert temperatures[0] == 1.5 and all(1.5 <= value <= 5 for value in temperatures)


def test_a_preference_stage_on_such_weights_says_so():
    from recbole_soft.strategies.sdpo import PreferenceStage

    settings = dict.fromkeys(("sdpo_epochs", "sdpo_learning_rate", "sdpo_beta", "sdpo_negatives", "sdpo_nll_weight"), 1)
    assert [PreferenceStage({**settings, "lm_loss": loss}).label for loss in ("full", "msl")] == ["SDPO", "SDPO (MSL)"]


def test_self_distilled_answers_of_constrained_decoding_are_all_titles(soft):
    """`max_new_tokens` may cut a title; whatever is no title is counted."""
    noted = soft["record"]["notes"]["msl"]
    distilled = soft["record"]["notes"]["self_distillation"]
    assert noted["self_distilled_choices"] > 0
    assert (noted["of_them_over_whole_vocabulary"] == 0) == (distilled["valid_titles"] == 1.0)


def test_micro_batches_and_the_plain_way_give_the_same_curves(toy_settings, tmp_path):
    curves = []
    for size, fast in ((1, True), (8, True), (8, False)):
        settings = toy_settings(micro_batch_size=size, train_batch_size=8, train_sample=24, fast_path=fast,
                                artifacts_dir=str(tmp_path / f"{size}{fast}"), **MSL)
        rows = run("BIGRec_SFT", settings)["record"]["curves"]
        curves.append([[row["loss_total"], row["temperature"]] for row in rows])
    for other in curves[1:]:
        np.testing.assert_allclose(np.array(other), np.array(curves[0]), rtol=1e-3)


def test_weights_of_another_loss_or_temperature_are_not_reused(toy_settings, tmp_path):
    settings = toy_settings(artifacts_dir=str(tmp_path / "store"), epochs=1, train_sample=16, decoding="constrained")
    reports = [run("BIGRec_SFT", {**settings, **own})["record"]["stages"]["sft"] for own in (
        {}, {"lm_loss": "msl"}, {"lm_loss": "msl", "msl_temperature": 3.0}, {"lm_loss": "msl"})]
    assert [report["reused"] for report in reports] == [False, False, False, True]
    assert len({report["key"] for report in reports}) == 3


@pytest.mark.parametrize(("settings", "message"), [
    ({"lm_loss": "msl"}, "add decoding=constrained"),
    ({"msl_temperature": 2.0}, "has no effect with lm_loss = full"),
    ({"lm_loss": "mls", "decoding": "constrained"}, "msl"),
])
def test_settings_that_cannot_be_meant_are_refused(toy_settings, settings, message):
    with pytest.raises(SettingError) as refusal:
        run("BIGRec_SFT", toy_settings(**settings))
    assert message in refusal.value.message()
