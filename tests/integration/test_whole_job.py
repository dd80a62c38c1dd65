"""The whole job on toy data: learning, equivalences, artefacts, the record."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from recbole_soft.errors import ModelError
from recbole_soft.run import run_recbole_soft
from recbole_soft.validation_only import ValidationOnly
from tests.toys import write_toy_dataset

LEARNING = {
    "epochs": 14, "patience": 14, "tiny_steps": 60, "tiny_batch_size": 8, "learning_rate": 3e-3, "warmup_steps": 5,
    "train_sample": "full", "valid_sample": "full", "test_sample": "full", "train_batch_size": 16,
    "mask_history": "none",
    # The base model must not know the planted rule from training histories: fine-tuning has to find it.
    "tiny_company": 0.0, "tiny_learning_rate": 5e-3,
}


def run(model, settings):
    return run_recbole_soft(model, "toy", config_dict=settings)


def values(result, stage=-1):
    return {name: metric["value"] for name, metric in result["record"]["results"][stage]["metrics"].items()}


@pytest.fixture(scope="module")
def learned(toy_path, shared_artifacts, tmp_path_factory):
    base = {"data_path": str(toy_path), "checkpoint_dir": str(tmp_path_factory.mktemp("learned")),
            "artifacts_dir": str(shared_artifacts), "show_progress": False, "state": "WARNING",
            "user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)",
            "tiny_hidden_size": 48, "tiny_layers": 2, "tiny_heads": 2, "tiny_vocabulary": 400,
            "max_new_tokens": 16, "num_beams": 2, "topk": [1, 5, 10, 20], **LEARNING}
    half = {**base, "epochs": LEARNING["epochs"] // 2}
    return (run("BIGRec_SOFT", {**base, "alpha": 10.0}), run("Pop", {**base, "epochs": 1}), run("BIGRec_SOFT", half))


def test_sft_learns_a_planted_rule_that_popularity_cannot_see(learned):
    soft, pop, _ = learned
    assert values(soft, 0)["HR@1"] > 0.9
    assert values(soft, 0)["HR@1"] > 5 * values(pop)["HR@1"]


def test_self_distilled_answers_are_easier_than_the_true_ones(learned):
    """Of a teacher that has half learned the rule; one that knows it answers with the true items."""
    half, whole = learned[2]["record"], learned[0]["record"]
    assert half["notes"]["self_distillation"]["hr_at_1"] < 1 == whole["notes"]["self_distillation"]["hr_at_1"]
    first = {row["stage"]: row for row in half["curves"] if row["epoch"] == 0}
    assert first["soft"]["tau"] == 1.0
    assert first["soft"]["loss_sdft"] < first["sft"]["loss_sft"]


def test_tau_follows_the_distance(learned):
    import math

    rows = [row for row in learned[0]["record"]["curves"] if row["stage"] == "soft"]
    assert len(rows) > 1
    for row in rows:
        expected = min(1.0, math.exp(10.0 * (row["distance"] / rows[0]["distance"] - 1)))
        assert row["tau"] == pytest.approx(expected, rel=1e-12)


def test_self_distilled_set_is_readable_and_complete(learned):
    record = learned[0]["record"]
    lines = Path(record["notes"]["self_distilled_set"]["file"]).read_text().splitlines()
    assert len(lines) == record["data"]["train_windows"]
    first = json.loads(lines[0])
    assert set(first) == {"window_id", "prompt", "target", "answer", "grounded", "distance", "is_title",
                          "category_matches"}
    assert first["prompt"].rstrip().endswith("### Response:")
    summary = record["notes"]["self_distillation"]
    assert 0 <= summary["hr_at_1"] <= 1 and summary["category_accuracy"] >= summary["hr_at_1"]


def test_run_folder_holds_record_ranks_curves_table_and_an_adapter(learned):
    record_path = Path(learned[0]["record_path"])
    folder, record = record_path.parent, json.loads(record_path.read_text())
    assert {"run.json", "curves.csv", "ranks_sft.csv", "ranks_soft.csv", "table.txt", "run.log", "sft", "soft",
            "tensorboard"} <= {path.name for path in folder.iterdir()}
    with open(folder / "ranks_soft.csv") as file:
        ranks = [int(row["rank"]) for row in csv.DictReader(file)]
    hits = sum(rank <= 5 for rank in ranks) / len(ranks)
    assert hits == pytest.approx(record["results"][1]["metrics"]["HR@5"]["value"])
    for key in ("versions", "commit", "data", "protocol_fingerprint", "seconds", "peak_memory", "config"):
        assert record[key] is not None
    assert record["peak_memory"]["resident_mb"] > 100 and record["config"]["alpha"] == 10.0


def test_recboles_metrics_are_ours(learned):
    for result in learned[:2]:
        recbole, ours = result["record"]["recbole_test_result"], values(result)
        for k in (5, 20):
            if result is learned[0]:  # Pop has many ties, which RecBole breaks arbitrarily
                assert recbole[f"hit@{k}"] == pytest.approx(ours[f"HR@{k}"], abs=1e-7)
                assert recbole[f"ndcg@{k}"] == pytest.approx(ours[f"NDCG@{k}"], abs=1e-7)


def test_same_command_twice_gives_the_same_numbers(toy_settings, tmp_path):
    settings = toy_settings(tuning="lora", lora_dropout=0.2)
    first = run("BIGRec_SOFT", {**settings, "artifacts_dir": str(tmp_path / "a")})
    again = run("BIGRec_SOFT", {**settings, "artifacts_dir": str(tmp_path / "b")})
    strip = ("tokens_per_second", "train_seconds", "valid_seconds")
    clean = [[{key: value for key, value in row.items() if key not in strip} for row in result["record"]["curves"]]
             for result in (first, again)]
    assert clean[0] == clean[1] and first["record"]["results"] == again["record"]["results"]


def test_artefacts_are_reused_and_give_the_same_numbers(toy_settings, tmp_path):
    settings = toy_settings(artifacts_dir=str(tmp_path / "store"))
    first = run("BIGRec_SOFT", {**settings, "alpha": 1.0})
    again = run("BIGRec_SOFT", {**settings, "alpha": 1.0, "run_name": "again"})
    other = run("BIGRec_SOFT", {**settings, "alpha": 100.0})
    assert not first["record"]["stages"]["sft"]["reused"]
    for result in (again, other):
        assert result["record"]["stages"]["sft"]["reused"]
        assert result["record"]["notes"]["self_distilled_set"]["reused"]
        assert result["record"]["results"][0] == first["record"]["results"][0]
    assert again["record"]["results"][1]["metrics"] == first["record"]["results"][1]["metrics"]


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_soft_with_weight_zero_is_sft(toy_settings, tuning):
    """The control of the experiment: the same loop, the same order, the same start."""
    result = run("BIGRec_SOFT", toy_settings(schedule="constant", tau=0.0, tuning=tuning, lora_dropout=0.1))
    stages = {name: [row for row in result["record"]["curves"] if row["stage"] == name] for name in ("sft", "soft")}
    assert [row["loss_sft"] for row in stages["sft"]] == [row["loss_sft"] for row in stages["soft"]]
    assert values(result, 0) == values(result, 1)


def test_micro_batches_do_not_change_training(toy_settings, tmp_path):
    curves = []
    for size in (2, 16):
        settings = toy_settings(micro_batch_size=size, artifacts_dir=str(tmp_path / str(size)))
        curves.append([row["loss_total"] for row in run("BIGRec_SFT", settings)["record"]["curves"]])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_fast_and_plain_paths_give_the_same_run(toy_settings, tmp_path):
    results = [run("BIGRec_SOFT", toy_settings(fast_path=fast, artifacts_dir=str(tmp_path / str(fast))))
               for fast in (True, False)]
    losses = [[row["loss_total"] for row in result["record"]["curves"]] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert values(results[0]) == values(results[1])


def test_users_who_met_an_item_twice_are_ranked_alike_on_both_paths(toy_settings, tmp_path):
    write_toy_dataset(tmp_path / "data" / "again", users=20, length=40, name="again")
    results = [run_recbole_soft("BIGRec_ZeroShot", "again", config_dict=toy_settings(
        data_path=str(tmp_path / "data"), fast_path=fast, run_name=str(fast), test_sample="full", train_sample="full",
        valid_sample="full")) for fast in (True, False)]
    ranks = [(tmp_path / "saved" / str(fast) / "ranks_zero_shot.csv").read_text() for fast in (True, False)]
    assert ranks[0] == ranks[1] and values(results[0]) == values(results[1])


def test_a_given_sft_adapter_skips_the_first_stage_and_opens_in_peft(toy_settings, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    settings = toy_settings(tuning="lora", lora_r=4)
    sft = run("BIGRec_SFT", settings)
    adapter = sft["record"]["stages"]["sft"]["folder"]
    base_path = sft["record"]["language_model"]["path"]
    opened = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_path), adapter)
    ids = torch.arange(10, 20)[None]
    with opened.disable_adapter():
        plain = opened(ids).logits
    assert not torch.equal(plain, opened(ids).logits)
    soft = run("BIGRec_SOFT", {**settings, "sft_adapter": adapter})
    assert soft["record"]["stages"]["sft"]["reused"]
    assert values(soft, 0) == values(sft)


def test_injection_takes_gamma_from_validation(toy_settings):
    result = run("BIGRec_SFT", toy_settings(injection="popularity", epochs=1))
    injection = result["record"]["results"][0]["injection"]
    assert injection["chosen"].endswith("on validation")
    assert injection["values"][str(injection["gamma"])] == max(injection["values"].values())


def test_cf_injection_reads_an_earlier_run(toy_settings):
    settings = toy_settings(epochs=1)
    sasrec = run("SASRec", settings)
    folder = str(Path(sasrec["record_path"]).parent)
    result = run("BIGRec_SFT", {**settings, "injection": "cf", "injection_model_file": folder, "injection_gamma": 1.0})
    plain = run("BIGRec_SFT", settings)
    assert result["record"]["results"][0]["metrics"] != plain["record"]["results"][0]["metrics"]


def test_a_model_of_other_windows_is_not_injected(toy_settings):
    """It may have been trained on the windows that this run is tested on."""
    sasrec = run("SASRec", toy_settings(epochs=1, eval_args={"split": {"RS": [96, 2, 2]}}, valid_sample="full",
                                        test_sample="full"))
    with pytest.raises(ModelError, match="may have been trained on ours"):
        run("BIGRec_SFT", toy_settings(epochs=1, injection="cf",
                                       injection_model_file=str(Path(sasrec["record_path"]).parent)))


def test_pop_is_injected_and_gamma_is_the_best_of_the_runs_own_metric(toy_settings):
    settings = toy_settings(epochs=1, metrics=["MRR"], valid_metric="MRR@10")
    pop = run("Pop", settings)
    injected = {**settings, "injection": "cf", "injection_model_file": str(Path(pop["record_path"]).parent)}
    injection = run("BIGRec_SFT", injected)["record"]["results"][0]["injection"]
    assert injection["chosen"] == "best MRR@10 on validation"
    values = {}
    for gamma in (0.0, 1.0, 75.0):
        searched = run_recbole_soft("BIGRec_SFT", "toy", config_dict={**injected, "injection_gamma": gamma},
                                    validation_only=ValidationOnly())
        values[gamma] = searched["best_valid_score"]
    assert values == pytest.approx({gamma: injection["values"][str(gamma)] for gamma in values})
    assert all(max(injection["values"].values()) >= value for value in values.values())


def test_metrics_beyond_accuracy_are_there_when_nothing_is_trained(toy_settings):
    """RecBole registers what they need where it trains."""
    settings = toy_settings(epochs=1, metrics=["Hit", "NDCG", "ItemCoverage"])
    assert "itemcoverage@10" in run("BIGRec_ZeroShot", settings)["test_result"]
    first, again = run("BIGRec_SFT", settings), run("BIGRec_SFT", {**settings, "run_name": "again"})
    assert again["record"]["stages"]["sft"]["reused"] and first["test_result"] == again["test_result"]
    assert 0 < first["test_result"]["itemcoverage@10"] <= 1


def test_protocol_of_traditional_models_is_the_same(toy_settings):
    settings = toy_settings(epochs=1)
    records = [run("BIGRec_SFT", settings)["record"]]
    del settings["train_sample"]
    records += [run(name, settings)["record"] for name in ("SASRec", "Pop")]
    for key in ("catalogue", "valid", "test"):
        assert len({record["data"][key] for record in records}) == 1
    assert records[1]["data"]["train_windows"] > records[0]["data"]["train_windows"]


def test_a_metric_that_should_fall_keeps_its_best_epoch(toy_settings):
    """RecBole knows for which metrics smaller is better; where to start from follows."""
    settings = toy_settings(epochs=3, patience=3, metrics=["Hit", "GiniIndex"], valid_metric="GiniIndex@5")
    record = run("BIGRec_SFT", settings)["record"]
    scores = [row["valid_giniindex@5"] for row in record["curves"]]
    assert len(scores) == 3 and record["best_valid_score"] == min(scores)


def test_a_reused_stage_is_validated_again_for_metrics_that_were_not_asked_for(toy_settings):
    settings = toy_settings(epochs=1)
    first = run("BIGRec_SFT", {**settings, "topk": [5, 10]})
    again = run("BIGRec_SFT", {**settings, "topk": [1, 5, 10, 20]})
    assert again["record"]["stages"]["sft"]["reused"]
    found = again["best_valid_result"]
    assert {"hit@1", "ndcg@20"} <= set(found) and found["hit@10"] == first["best_valid_result"]["hit@10"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_small_gradients_survive_half_precision(toy_settings, dtype):
    """In 16 bits the gradients of single tokens would become 0, were the loss not scaled for them."""
    losses = [row["loss_total"] for row in run("BIGRec_SFT", toy_settings(
        epochs=3, patience=3, tuning="lora", dtype=dtype, learning_rate=1e-2))["record"]["curves"]]
    assert losses[0] > losses[1] > losses[2]
