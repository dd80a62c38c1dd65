"""LLaRA as a whole: what its vectors, projector and curriculum do in real runs on toy data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recbole_soft import plugin
from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.errors import ModelError, SettingError
from recbole_soft.run import run_recbole_soft
from recbole_soft.trainer.llm_trainer import LLMTrainer

QUICK = {"rec_model_settings": {"epochs": 2}}
each_tuning = pytest.mark.parametrize("tuning", ["lora", "full"])


def run(model, settings):
    return run_recbole_soft(model, "toy", config_dict=settings)


def values(result, stage=-1):
    return {name: metric["value"] for name, metric in result["record"]["results"][stage]["metrics"].items()}


def losses(result, stage):
    return [row["loss_sft"] for row in result["record"]["curves"] if row["stage"] == stage]


@pytest.fixture
def open_llara(toy_settings):
    """A LLaRA model and its splits, as RecBole's own functions make them."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model

    def make(**changes):
        plugin.install()
        config = SoftConfig("LLaRA_SFT", "toy", config_dict=toy_settings(**QUICK, **changes))
        splits = data_preparation(config, create_dataset(config))
        model = get_model(config["model"])(config, splits[0].dataset)
        model.weights.create("sft", seed=0)
        return config, model, splits

    return make


def change_item(model, item: int) -> None:
    model.projector.vectors[item] += 50.0
    model.forget_answers()


@each_tuning
def test_one_items_vector_changes_what_its_own_windows_are_answered_and_no_others(open_llara, tuning):
    _, model, (train, _, _) = open_llara(tuning=tuning)
    batch = train.dataset.inter_feat[:24]
    responses = {"target": [[5, 6, 7]] * 24}
    item = int(batch["item_id_list"][0, 0])
    has_item = (batch["item_id_list"] == item).any(1)
    assert has_item.any() and not has_item.all()
    prompts = model.prompts(batch)
    with torch.no_grad():
        before, beams = model.score(prompts, responses)["target"].nll, model.search(prompts)
        change_item(model, item)
        after, others = model.score(prompts, responses)["target"].nll, model.search(prompts)
    assert ((after - before).abs() > 1e-5).tolist() == has_item.tolist()
    differs = [a[0].score != b[0].score for a, b in zip(beams, others, strict=True)]
    assert [bool(d) for d in differs] == has_item.tolist()


def test_windows_of_equal_titles_and_different_items_are_answered_apart(open_llara):
    """Twins in words only: joined as equal prompts they would get each other's answers."""
    _, model, (train, _, _) = open_llara()
    batch = train.dataset.inter_feat[:2]
    first = model.prompts(batch)[0]
    start = model.item_prompts.first_item_token
    other = [start + 1 + (token - start) % 20 if token >= start else token for token in first]
    assert len(model.answer([first, other])) == 2 and len(model._answers) == 2
    alone = model.search([other])[0][0].score
    assert model.search([first, other])[1][0].score == pytest.approx(alone, abs=1e-5)
    assert model.search([first])[0][0].score != pytest.approx(alone, abs=1e-5)


@each_tuning
def test_shared_prompt_training_equals_the_plain_way(open_llara, tuning):
    config, model, (train, _, _) = open_llara(tuning=tuning, lora_dropout=0.0)
    model.eval()
    texts = model.texts_of(train.dataset)
    responses = {"sft": texts.targets[:6], "sdft": texts.targets[6:12]}
    found = {}
    for fast in (True, False):
        config["fast_path"] = fast
        scores = model.score(texts.prompts[:6], responses)
        model.zero_grad()
        (0.3 * scores["sft"].nll.sum() + 0.7 * scores["sdft"].nll.sum()).backward()
        gradients = [parameter.grad.clone() for parameter in model.weights.parameters() if parameter.grad is not None]
        found[fast] = [scores["sft"].nll.detach(), scores["sdft"].nll.detach(), *gradients]
    assert len(found[True]) == len(found[False]) > 6
    for fast, plain in zip(found[True], found[False], strict=True):
        assert (fast - plain).abs().max() <= 1e-5 * max(1.0, float(plain.abs().max()))
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.projector.parameters())


@each_tuning
def test_training_moves_the_projector_and_the_run_folder_holds_the_best_one(toy_settings, tuning):
    from safetensors.torch import load_file

    settings = toy_settings(tuning=tuning, **QUICK)
    record = run("LLaRA_SOFT", {**settings, "schedule": "linear"})["record"]
    stages = {name: load_file(Path(record["stages"][name]["folder"]) / "projector.safetensors")
              for name in ("sft", "soft")}
    assert set(stages["sft"]) == {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}
    assert all(not torch.equal(stages["sft"][key], stages["soft"][key]) for key in stages["sft"])
    vectors = record["language_model"]["item_vectors"]
    assert vectors["size"] == 64 and Path(vectors["source"], "item_vectors.safetensors").is_file()
    assert {path.suffix for path in Path(vectors["source"]).iterdir()} == {".json", ".safetensors"}, "no pickle"
    assert [row["label"] for row in record["results"]] == ["LLaRA SFT", "LLaRA SOFT"]


@each_tuning
def test_soft_with_weight_zero_is_sft(toy_settings, tuning):
    settings = toy_settings(schedule="constant", tau=0.0, tuning=tuning, lora_dropout=0.1, llara_curriculum="linear",
                            **QUICK)
    result = run("LLaRA_SOFT", settings)
    assert losses(result, "sft") == losses(result, "soft") and len(losses(result, "sft")) == 2
    assert values(result, 0) == values(result, 1)


def test_same_seed_gives_the_same_numbers(toy_settings, tmp_path):
    """The first run trains SASRec, the second does so anew, the third finds it: all the same."""
    results = []
    for number, store in enumerate(("a", "b", "a")):
        settings = toy_settings(artifacts_dir=str(tmp_path / store), run_name=f"run{number}", tiny_steps=2,
                                llara_curriculum="linear", tuning="lora", lora_dropout=0.1, **QUICK)
        if number == 2:
            for folder in (tmp_path / "a").glob("stage-*"):
                folder.joinpath("complete.json").unlink()
        results.append(run("LLaRA_SFT", settings))
    first, again, found = results
    assert losses(first, "sft") == losses(again, "sft") == losses(found, "sft")
    assert first["record"]["results"] == again["record"]["results"] == found["record"]["results"]
    assert not again["record"]["language_model"]["item_vectors"]["reused"]
    assert found["record"]["language_model"]["item_vectors"]["reused"]
    assert not found["record"]["stages"]["sft"]["reused"]


@each_tuning
def test_a_reloaded_run_scores_as_the_run_that_was_saved(open_llara, toy_settings, tuning):
    settings = toy_settings(tuning=tuning, **QUICK)
    record = run("LLaRA_SFT", settings)["record"]
    _, model, (_, _, test) = open_llara(tuning=tuning)
    batch = test.dataset.inter_feat
    untrained = model.full_sort_predict(batch)
    model.weights.load("sft", Path(record["stages"]["sft"]["folder"]))
    model.forget_answers()
    loaded = model.score(model.prompts(batch), {"t": [[5, 6]] * len(batch)})["t"].nll
    _, again, _ = open_llara(tuning=tuning)
    again.weights.load("sft", Path(record["stages"]["sft"]["folder"]))
    assert torch.equal(again.score(again.prompts(batch), {"t": [[5, 6]] * len(batch)})["t"].nll, loaded)
    assert untrained.shape == model.full_sort_predict(batch).shape
    given = run("LLaRA_SFT", {**settings, "sft_adapter": record["stages"]["sft"]["folder"]})
    assert given["record"]["stages"]["sft"]["reused"]
    assert values(given) == {name: metric["value"] for name, metric in record["results"][0]["metrics"].items()}


def test_the_curriculum_reaches_hybrid_prompts_and_never_starts_again(toy_settings, monkeypatch):
    """LLaRA's own counter begins anew in every epoch and stays below 1 / epochs."""
    seen = []
    step = LLMTrainer._step

    def spy(self, stage, number, prompts, advance):
        first = self.model.item_prompts.first_item_token
        seen.append(sum(any(token >= first for token in prompt) for prompt in prompts.values()) / len(prompts))
        return step(self, stage, number, prompts, advance)

    monkeypatch.setattr(LLMTrainer, "_step", spy)
    settings = toy_settings(epochs=4, patience=4, llara_curriculum="linear", num_beams=1, **QUICK)
    run("LLaRA_SFT", settings)
    assert len(seen) == 16 and seen[0] == 0.0
    quarters = [sum(seen[first: first + 4]) / 4 for first in range(0, 16, 4)]
    assert quarters[0] < 0.35 and quarters[-1] > 0.65 and quarters == sorted(quarters)
    seen.clear()
    run("LLaRA_SFT", {**settings, "llara_curriculum": "none"})
    assert seen == [1.0] * 16, "another curriculum is another training: nothing is reused"


def test_draws_of_the_curriculum_do_not_depend_on_what_ran_before(open_llara):
    _, model, (train, _, _) = open_llara(llara_curriculum="linear")
    prompts = model.prompts(train.dataset.inter_feat)
    first = model.prompts_in_training(prompts, 0.5, step=3)
    torch.rand(5)
    assert first == model.prompts_in_training(prompts, 0.5, step=3) != model.prompts_in_training(prompts, 0.5, step=4)
    assert model.prompts_in_training(prompts, 1.0, step=3) == prompts
    plain = model.prompts_in_training(prompts, 0.0, step=3)
    assert plain == model.encoder.prompts(model.histories(train.dataset.inter_feat))


def test_item_vectors_of_an_earlier_run(toy_settings, tmp_path):
    settings = toy_settings(epochs=1)
    quick = {key: value for key, value in settings.items() if key != "train_sample"}
    gru = Path(run("GRU4Rec", quick)["record_path"]).parent
    record = run("LLaRA_SFT", {**settings, "rec_model_file": str(gru)})["record"]
    with pytest.raises(SettingError, match="already trained"):
        run("LLaRA_SFT", {**settings, "rec_model_file": str(gru), **QUICK})
    assert record["language_model"]["item_vectors"]["source"] == str(gru)
    pop = Path(run("Pop", quick)["record_path"]).parent
    with pytest.raises(ModelError, match="no table of item embeddings"):
        run("LLaRA_SFT", {**settings, "rec_model_file": str(pop)})
    other = Path(run("SASRec", {**quick, "window": "prefix"})["record_path"]).parent
    with pytest.raises(ModelError, match="trained with window = prefix"):
        run("LLaRA_SFT", {**settings, "rec_model_file": str(other)})
    with pytest.raises(ModelError, match="there is no model"):
        run("LLaRA_SFT", {**settings, "rec_model_file": str(tmp_path)})


def test_settings_of_the_recommender_are_checked_and_decide_its_vectors(toy_settings, tmp_path):
    settings = toy_settings(epochs=1, artifacts_dir=str(tmp_path / "store"))
    with pytest.raises(SettingError, match="hiden_size"):
        run("LLaRA_SFT", {**settings, "rec_model_settings": {"hiden_size": 8}})
    small = run("LLaRA_SFT", {**settings, "rec_model_settings": {"epochs": 1, "hidden_size": 8}})
    assert small["record"]["language_model"]["item_vectors"]["size"] == 8
    source = Path(small["record"]["language_model"]["item_vectors"]["source"])
    about = json.loads((source / "complete.json").read_text())
    assert about["model"] == "SASRec" and about["epochs"] == 1 and 0 <= about["valid_result"]["hit@10"] <= 1
    # Neither the language model's training nor its sample of windows is the recommender's business.
    same = run("LLaRA_SFT", {**settings, "rec_model_settings": {"epochs": 1, "hidden_size": 8}, "epochs": 2,
                             "train_sample": 32})
    assert same["record"]["language_model"]["item_vectors"]["reused"]


def test_masks_and_candidates_stay_the_protocols(open_llara):
    _, model, (_, _, test) = open_llara()
    batch = test.dataset.inter_feat[:6]
    scores = model.full_sort_predict(batch)
    assert scores.shape == (6, model.n_items) and (scores[:, 0] == -torch.inf).all()
    assert scores[:, 1:].isfinite().all() and model.calculate_loss(batch).requires_grad
    assert torch.equal(model.predict(batch), scores[torch.arange(6), batch["item_id"]])


def test_constrained_beams_and_the_plain_search_work_from_embeddings(open_llara):
    config, model, (_, _, test) = open_llara(decoding="constrained", ranking="beams", num_beams=3)
    prompts = model.prompts(test.dataset.inter_feat[:8])
    fast = model.search(prompts)
    config["fast_path"] = False
    plain = model.search(prompts)
    assert [[beam.tokens for beam in beams] for beams in fast] == [[beam.tokens for beam in beams] for beams in plain]
    titles = {model.encoder.template.unquoted(model.backbone.tokenizer.decode(beam.tokens)) for beams in fast
              for beam in beams}
    assert titles <= set(model.catalog.unique_titles)


def test_gradient_checkpointing_trains_the_same(toy_settings, tmp_path):
    results = [run("LLaRA_SFT", toy_settings(epochs=1, tuning="lora", gradient_checkpointing=on, lora_dropout=0.0,
                                             artifacts_dir=str(tmp_path / str(on)), **QUICK)) for on in (True, False)]
    assert losses(results[0], "sft") == pytest.approx(losses(results[1], "sft"), rel=1e-5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # RecBole leaves its log file open
def test_recboles_quick_start_runs_it(toy_settings):
    import gc

    from recbole.quick_start import run_recbole

    result = run_recbole(model="LLaRA_SFT", dataset="toy", config_dict=toy_settings(epochs=1, **QUICK))
    gc.collect()
    assert set(result["test_result"]) >= {"hit@10", "ndcg@10"}


def test_vectors_are_those_of_the_best_epoch_on_validation(toy_settings, tmp_path):
    """The best epoch, not the last: the same as SASRec's own run keeps (the reference keeps the last)."""
    from safetensors.torch import load_file

    epochs = {"epochs": 6, "learning_rate": 0.05}
    settings = toy_settings(artifacts_dir=str(tmp_path / "store"))
    vectors = run("LLaRA_SFT", {**settings, "epochs": 1, "rec_model_settings": epochs})["record"]["language_model"]
    shared = {key: value for key, value in settings.items() if key not in ("train_sample", "train_batch_size")}
    sasrec = run("SASRec", {**shared, **epochs})
    curve = [row["valid_hit@10"] for row in sasrec["record"]["curves"]]
    assert curve[-1] < max(curve), "the last epoch is not the best, so the test can tell them apart"
    found = load_file(Path(vectors["item_vectors"]["source"]) / "item_vectors.safetensors")["vectors"]
    kept = load_file(Path(sasrec["record_path"]).parent / "model.safetensors")["item_embedding.weight"]
    assert torch.equal(found, kept)


def test_it_learns_a_planted_rule(toy_settings):
    """Every item is followed by its successor; by chance one answer of 24 is right."""
    settings = toy_settings(epochs=14, patience=14, tiny_steps=60, tiny_hidden_size=48, learning_rate=3e-3,
                            warmup_steps=5, train_sample="full", valid_sample="full", test_sample="full",
                            mask_history="none", tuning="full", llara_curriculum="linear", max_new_tokens=16,
                            **QUICK)
    assert values(run("LLaRA_SFT", settings))["HR@1"] > 0.5
