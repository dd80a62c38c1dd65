"""What every model, strategy and schedule has to keep, run over the registries: a new file is tested at once."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_soft.config.schema import SETTINGS
from recbole_soft.curriculum import SCHEDULES as SCHEDULE_CLASSES
from recbole_soft.registry import MODELS, SCHEDULES, STRATEGIES, llm_names
from recbole_soft.run import run_recbole_soft

# Settings of a model that spare a test the training of another one.
QUICK = {"Rerank": {"retriever": "Pop"}, "LLaRA": {"rec_model_settings": {"epochs": 2}}}


def test_registries_are_not_empty():
    assert {"SFT", "SOFT", "SOFT_woSA"} <= set(STRATEGIES.names())
    assert "BIGRec" in MODELS.names() and set(SCHEDULES.names()) == set(SCHEDULE_CLASSES)


@pytest.mark.parametrize("name", llm_names())
def test_every_model_runs_with_every_strategy_and_leaves_a_whole_record(name, toy_settings):
    result = run_recbole_soft(name, "toy", config_dict=toy_settings(epochs=1, **QUICK.get(name.split("_")[0], {})))
    record = result["record"]
    assert record["model"] == name and record["results"]
    for row in record["results"]:
        assert row["windows"] == 24
        for metric in row["metrics"].values():
            assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert all(math.isfinite(row["loss_total"]) for row in record["curves"])
    assert set(record["stages"]) == {row["stage"] for row in record["results"]}
    assert result["table"].count(f"{name.split('_')[0]} ") == len(record["results"])


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_stages_have_distinct_names_and_start_from_earlier_ones(name):
    strategy = STRATEGIES[name].load()
    config = {setting.name: setting.default for setting in (*SETTINGS, *STRATEGIES[name].settings)}
    config |= {s.name: s.default for schedule in SCHEDULE_CLASSES.values() for s in schedule.settings}
    seen: list[str] = []
    for stage in strategy(config).stages():
        assert stage.name and stage.label and stage.name not in seen
        assert stage.starts_from is None or stage.starts_from in seen
        seen.append(stage.name)


@pytest.mark.parametrize("name", sorted(SCHEDULE_CLASSES))
def test_schedules_are_pure(name):
    from recbole_soft.curriculum import EpochSignal, make_schedule

    schedule, signal = make_schedule(name, {}), EpochSignal(1, 4, 1.5, 2.0)
    assert schedule.weight(signal) == schedule.weight(signal)
    with pytest.raises(AttributeError):
        schedule.anything = 1


def test_recboles_own_interface_knows_our_models(toy_settings):
    """Config, create_dataset, data_preparation, get_model and get_trainer of RecBole, as its users call them."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer

    config = Config(model="BIGRec_SOFT", dataset="toy", config_dict=toy_settings())
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert (type(dataset).__name__, type(model).__name__, type(trainer).__name__) == (
        "SoftDataset", "BIGRec", "LLMTrainer")
    interaction = next(iter(test))[0]
    scores = model.full_sort_predict(interaction)
    assert scores.shape == (len(interaction), dataset.item_num) and scores.dtype == torch.float32
    assert (scores[:, 0] == -torch.inf).all() and scores[:, 1:].isfinite().all()
    picked = model.predict(interaction)
    assert torch.equal(picked, scores[torch.arange(len(interaction)), interaction["item_id"]])
    assert model.calculate_loss(interaction).requires_grad


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # RecBole leaves its log file open
def test_recboles_quick_start_runs_our_model_without_ray(toy_settings):
    import gc
    import sys

    from recbole.quick_start import run_recbole

    result = run_recbole(model="BIGRec_SFT", dataset="toy", config_dict=toy_settings(epochs=1))
    gc.collect()
    assert set(result["test_result"]) >= {"hit@10", "ndcg@10"} and "ray" not in sys.modules
