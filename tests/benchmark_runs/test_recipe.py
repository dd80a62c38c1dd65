"""Recipes are checked before anything runs, and those that are shipped are right."""

from __future__ import annotations

from functools import cache

import pytest
import yaml

from recbole_soft.benchmark.cells import make_cells
from recbole_soft.benchmark.recipe import find_recipe, read_recipe
from recbole_soft.config.yaml_files import properties_root
from recbole_soft.errors import SettingError

read_shipped = cache(lambda name: read_recipe(find_recipe(name)))
SHIPPED = ("quick", "table2", "figure2", "figure5", "figure6", "ml-100k", "game", "why")
TABLE2_ROWS = {"SASRec", "DROS", "LLMCF", "DLLM2Rec", *(
    f"{model}_{strategy}" for model in ("BIGRec", "LLaRA") for strategy in ("SFT", "SDPO", "SOFT_woSA", "SOFT"))}
GOOD = {"datasets": ["ml-100k"], "seeds": [1, 2], "models": ["Pop", {"model": "BIGRec_SFT", "settings": {"epochs": 1}}]}


def read(tmp_path, **options):
    return lambda changes: read_recipe(_written(tmp_path, GOOD | changes), **options)


def _written(folder, content):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_and_say_what_they_cost(name):
    path, recipe = find_recipe(name), read_shipped(name)
    head = path.read_text(encoding="utf-8")
    assert path.parent == properties_root() / "recipe" and recipe.entries and recipe.baseline
    assert all(f"# {word}" in head for word in ("Paper cell:", "Expected cost", "Measured:"))


def test_the_rows_that_are_asked_for_are_there():
    table = read_shipped("table2")
    assert find_recipe("properties/recipe/table2.yaml").name == "table2.yaml"
    assert {entry.model for entry in table.entries} == TABLE2_ROWS and len(table.seeds) == 5
    assert list(table.datasets) == ["game", "movie", "kindle"]
    evidence = read_shipped("ml-100k")
    seeds = {entry.model: len(entry.seeds) for entry in evidence.entries}
    assert set(seeds) >= TABLE2_ROWS and min(seeds.values()) >= 3
    assert {seeds[name] for name in ("BIGRec_SFT", "BIGRec_SOFT", "BIGRec_SOFT_woSA", "SASRec")} == {5}
    assert evidence.settings["test_sample"] == "full"


@pytest.mark.parametrize(("changes", "told"), [
    ({"model": []}, "did you mean models"),
    ({"models": ["BIGRec_SFTT"]}, "no strategy is called 'SFTT'"),
    ({"models": [{"model": "Pop", "setings": {}}]}, "did you mean settings"),
    ({"models": [{"model": "BIGRec_SOFT", "settings": {"alpa": 1}}]}, "did you mean alpha"),
    ({"models": [{"model": "BIGRec_SOFT", "grid": {"alpha": [1, -1]}}]}, "alpha = -1"),
    ({"models": [{"model": "BIGRec_SOFT", "grid": {"alpha": 1}}]}, "needs a list of values"),
    ({"models": [{"model": "BIGRec_SOFT", "choose": "validation"}]}, "needs a grid"),
    ({"models": [{"model": "BIGRec_SOFT", "grid": {"alpha": [1]}, "choose": "test"}]}, "the only choice"),
    ({"models": ["Pop", "Pop"]}, "two entries are called Pop"),
    ({"models": [{"model": "BIGRec_SOFT", "grid": {"alpha": [1, 10, 1.0]}}]}, "alpha has 1.0 twice"),
    ({"models": [{"model": "Pop", "settings": {"run_name": "mine"}}]}, "run_name is no setting of a recipe"),
    ({"settings": {"config_files": "mine.yaml"}}, "config_files is no setting of a recipe"),
    ({"settings": {"seed": 3}}, "write seeds"),
    ({"models": ["Pop", {"model": "BIGRec_SOFT", "grid": {"alpha": [1, 10]}}], "baseline": "BIGRec_SOFT"},
     "baseline = BIGRec_SOFT: several rows"),
    ({"models": [{"model": "Pop", "label": "A"}, {"model": "Pop", "label": "B"}], "baseline": "Pop"},
     "baseline = Pop: several rows"),
    ({"models": []}, "needs `models`"),
    ({"models": [3]}, "3 is no entry"),
    ({"models": [{"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}}]}, "no model of this recipe"),
    ({"models": ["DLLM2Rec"]}, "teacher is missing"),
    ({"models": ["BIGRec_SFT", {"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}, "seeds": [9]}]},
     "not run with every seed"),
    ({"models": ["BIGRec_SFT", {"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}, "export": {"top": 1}}]},
     "did you mean topk"),
    ({"models": ["BIGRec_SFT", {"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}, "export": {"topk": "all"}}]},
     "no number from 1"),
    ({"models": [{"model": "Pop", "label": 2024}]}, 'write label: "2024"'),
    ({"models": [{"model": "Pop", "datasets": ["ml-100"]}]}, "did you mean ml-100k"),
    ({"models": ["BIGRec_SFT", {"model": "BIGRec_SFT", "label": "BIGRec SFT", "settings": {"epochs": 1}}]},
     "two entries are called"),
    ({"seeds": [1, 1]}, "different integers"), ({"seeds": ["a"]}, "different integers"),
    ({"datasets": []}, "needs `datasets`"), ({"settings": {"seed": 3}}, "no setting of a recipe"),
    ({"settings": [1]}, "`name: value`"), ({"metrics": ["MRR@5"]}, "MRR@5 is no metric"),
    ({"baseline": "BIGRec_SOFT"}, "no model of this recipe is called so"),
    ({"settings": {"mask_history": "fulll"}}, "did you mean full"),
    ({"models": ["Pop", {"model": "SASRec", "settings": {"mask_history": "none"}}]},
     "SASRec has mask_history = none, Pop has mask_history = full"),
])
def test_mistakes_are_found_before_anything_runs(tmp_path, changes, told):
    with pytest.raises(SettingError) as refused:
        read(tmp_path)(changes)
    assert told in str(refused.value) and "mine.yaml" in str(refused.value)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(SettingError, match="did you mean quick"):
        find_recipe("quik")


def test_settings_go_from_weak_to_strong(tmp_path):
    recipe = read(tmp_path, overrides={"valid_sample": "7"})({
        "settings": {"epochs": 9, "valid_sample": 5, "topk": [1, 10]}, "settings_llm": {"epochs": 8, "num_beams": 2},
        "settings_traditional": {"epochs": 7}, "datasets": {"ml-100k": {"num_beams": 3}}})
    pop, sft = recipe.entries
    assert recipe.cell_settings(pop, "ml-100k", {}) == {"epochs": 7, "valid_sample": "7", "topk": [1, 10],
                                                        "num_beams": 3}
    assert recipe.cell_settings(sft, "ml-100k", {"epochs": 2})["epochs"] == 2
    assert recipe.cell_settings(sft, "ml-100k", {})["epochs"] == 1


def test_parts_of_a_recipe_can_be_run(tmp_path):
    models = ["Pop", "BIGRec_SFT", {"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}}]
    recipe = read(tmp_path, only=["DLLM2Rec"], seeds=[5])({"models": models, "baseline": "Pop"})
    assert [cell.name for cell in make_cells(recipe)] == [f"{name} on ml-100k, seed 5"
                                                          for name in ("BIGRec_SFT", "DLLM2Rec")]
    assert recipe.baseline == "Pop", "that it has no run is said below the table"
    with pytest.raises(SettingError, match="did you mean Pop"):
        read(tmp_path, only=["Popp"])({})


def test_cells_come_seed_by_seed_needed_runs_first_and_sft_after_those_that_hold_it(tmp_path):
    recipe = read(tmp_path)({"models": [
        {"model": "DLLM2Rec", "needs": {"teacher": "BIGRec_SFT"}}, "BIGRec_SFT",
        {"model": "BIGRec_SOFT", "grid": {"alpha": [1, 10]}}, {"model": "Pop", "seeds": [1]}]})
    assert [cell.name.replace(" on ml-100k, seed", "") for cell in make_cells(recipe)] == [
        "BIGRec_SOFT alpha=1 1", "BIGRec_SOFT alpha=10 1", "Pop 1", "BIGRec_SFT 1", "DLLM2Rec 1",
        "BIGRec_SOFT alpha=1 2", "BIGRec_SOFT alpha=10 2", "BIGRec_SFT 2", "DLLM2Rec 2"]


def test_data_sets_without_a_cell_are_left_out_and_nothing_to_run_is_said(tmp_path):
    models = [{"model": "Pop", "datasets": ["ml-100k"]}, "BIGRec_SFT"]
    both = {"datasets": ["ml-100k", "game"], "models": models, "seeds": [1]}
    assert list(read(tmp_path, only=["Pop"])(both).datasets) == ["ml-100k"]
    assert list(read(tmp_path)(both).datasets) == ["ml-100k", "game"]
    with pytest.raises(SettingError, match="nothing to run"):
        read(tmp_path, only=["Pop"], datasets=["game"])(both)
