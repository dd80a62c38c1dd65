"""DROS: the losses against loops written from the formulas, the weights, evaluation, whole runs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.errors import SettingError
from recbole_soft.rank_losses.base import BASE_LOSSES, base_loss, uniform_negatives
from recbole_soft.rank_losses.dro import popularity_weights, robust_loss, robust_losses
from recbole_soft.registry import MODELS, is_llm_name, model_family
from recbole_soft.run import run_recbole_soft

NAMES = {"DROS": "SASRec", "DROS_GRU4Rec": "GRU4Rec", "DROS_Caser": "Caser"}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dro_by_loop(scores: list[float], positive: int, weights: list[float], beta: float) -> float:
    """log( sum_{i != c} exp(p_i y_i^2 / beta) + exp(p_c (y_c - 1)^2 / beta) ), item 0 left out."""
    total = 0.0
    for item in range(1, len(scores)):
        error = scores[item] - 1 if item == positive else scores[item]
        total += math.exp(weights[item] * error**2 / beta)
    return math.log(total)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 4))
def test_dro_equals_a_loop_for_every_listed_item(seed, beta, count):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(3, 8, generator=generator)
    weights = popularity_weights(torch.randint(0, 50, (8,), generator=generator), 0.05)
    items = torch.stack([1 + torch.randperm(7, generator=generator)[:count] for _ in range(3)])
    found = robust_losses(scores, items, weights, beta)
    for row in range(3):
        for place in range(count):
            expected = dro_by_loop(scores[row].tolist(), int(items[row, place]), weights.tolist(), beta)
            assert found[row, place].item() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(robust_loss(scores, items[:, 0], weights, beta), robust_losses(scores, items[:, :1], weights,
                                                                                     beta)[:, 0])


def test_dro_stays_finite_where_exponentials_overflow():
    """Published: float64 against overflow, and a subtraction that loses everything where the target dominates."""
    scores = torch.tensor([[0.0, 40.0, 0.5, -1.0]], requires_grad=True)
    weights = torch.full((4,), 0.7)
    loss = robust_loss(scores, torch.tensor([1]), weights, 1.0)
    # exp(0.7 * 1600) is inf in float32 and float64; the true value is the term of (40 - 1)^2.
    assert loss.item() == pytest.approx(0.7 * 39**2, rel=1e-6) and loss.dtype == torch.float32
    loss.sum().backward()
    assert scores.grad.isfinite().all() and scores.grad[0, 0] == 0
    dominated = robust_loss(torch.tensor([[0.0, 8.0, 0.5, -1.0]]), torch.tensor([1]), weights, 0.5)
    assert dominated.item() == pytest.approx(dro_by_loop([0, 8, 0.5, -1], 1, weights.tolist(), 0.5), rel=1e-6)


def test_dro_of_the_whole_catalogue_has_finite_gradients():
    scores = torch.randn(2, 4, requires_grad=True)
    robust_losses(scores, torch.tensor([[1, 2, 3], [3, 1, 0]]), torch.ones(4), 1.0).sum().backward()
    assert scores.grad.isfinite().all()


def test_weights_are_smoothed_shares_to_a_small_power():
    weights = popularity_weights(torch.tensor([9, 0, 3, 1]), 0.05)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([0.0, (1 / 7) ** 0.05, (4 / 7) ** 0.05, (2 / 7) ** 0.05])


@pytest.mark.parametrize("kind", BASE_LOSSES)
def test_base_losses_equal_a_loop(kind):
    scores, targets, negatives = torch.randn(4, 6), torch.tensor([1, 2, 5, 3]), torch.tensor([2, 4, 1, 5])
    found = base_loss(kind, scores, targets, negatives)
    for row, (target, negative) in enumerate(zip(targets.tolist(), negatives.tolist(), strict=True)):
        y = scores[row].tolist()
        expected = {
            "BCE": -(math.log(sigmoid(y[target])) + math.log(1 - sigmoid(y[negative]))) / 2,
            "BPR": -math.log(sigmoid(y[target] - y[negative])),
            "CE": -math.log(math.exp(y[target]) / sum(math.exp(value) for value in y[1:])),
        }[kind]
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(
    st.integers(0, n - 1), min_size=1, max_size=n - 2))))
def test_negatives_are_uniform_over_what_is_not_excluded(drawn):
    n_items, excluded = drawn
    negatives = uniform_negatives(torch.tensor([excluded]).expand(3000, -1), n_items)
    allowed = sorted(set(range(1, n_items)) - set(excluded))
    counts = torch.bincount(negatives, minlength=n_items)
    assert set(counts.nonzero().flatten().tolist()) == set(allowed)
    share = counts[allowed] / 3000
    assert (share - 1 / len(allowed)).abs().max() < 0.06


def test_negatives_of_a_catalogue_without_others_exist():
    assert uniform_negatives(torch.tensor([[1, 2]]), 3).item() in (1, 2)


# ---- names, settings, models ---------------------------------------------------------------------
@pytest.mark.parametrize(("name", "base"), NAMES.items())
def test_a_name_with_an_underscore_is_a_model_and_no_strategy(name, base):
    assert model_family(name) == "traditional" and not is_llm_name(name)
    assert MODELS[name].based_on == base
    assert {"dros_alpha", "dros_beta", "dros_base_loss", "dros_power"} == {s.name for s in MODELS[name].settings}


def test_a_wrong_name_is_answered_with_the_family():
    with pytest.raises(SettingError, match=r"DROS takes no strategy(.|\n)*--model=DROS or (.|\n)*--model=DROS_GRU4Rec"):
        model_family("DROS_GRU")


def test_settings_and_defaults_are_those_of_the_recbole_model(toy_settings):
    config = SoftConfig("DROS_GRU4Rec", "toy", config_dict=toy_settings(num_layers=3))
    assert (config["num_layers"], config["dropout_prob"], config["hidden_size"]) == (3, 0.3, 64)
    with pytest.raises(SettingError, match=r"num_layers(.|\n)*not of DROS"):
        SoftConfig("DROS", "toy", config_dict=toy_settings(num_layers=3))
    with pytest.raises(SettingError, match=r"dros_base_loss(.|\n)*BCE, BPR, CE"):
        SoftConfig("DROS", "toy", config_dict=toy_settings(dros_base_loss="MSE"))


def build(name, toy_settings, **changes):
    """Model, training batch and training split."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model

    config = SoftConfig(name, "toy", config_dict=toy_settings(**changes))
    train, _, _ = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    return get_model(name)(config, train.dataset), next(iter(train)), train.dataset


@pytest.mark.parametrize(("name", "base"), NAMES.items())
def test_without_dro_and_with_ce_it_is_recboles_model(name, base, toy_settings):
    ours, batch, _ = build(name, toy_settings, dros_alpha=0, dros_base_loss="CE")
    theirs, _, _ = build(base, toy_settings)
    theirs.load_state_dict(ours.state_dict())
    ours.eval(), theirs.eval()
    # RecBole's cross-entropy has the padding item among the candidates.
    scores = theirs.full_sort_predict(batch)
    gap = (scores.logsumexp(1) - scores[:, 1:].logsumexp(1)).mean()
    assert ours.calculate_loss(batch).item() == pytest.approx((theirs.calculate_loss(batch) - gap).item(), rel=1e-5)
    assert torch.equal(ours.full_sort_predict(batch), scores)
    assert torch.equal(ours.predict(batch), scores[torch.arange(len(scores)), batch["item_id"]])


def test_weights_come_from_training_targets_alone(toy_settings):
    model, _, train = build("DROS", toy_settings, train_sample=30)
    counts = torch.bincount(train.inter_feat["item_id"], minlength=model.n_items)
    assert counts.sum() == 30
    assert torch.equal(model.item_weights, popularity_weights(counts, 0.05))


def test_loss_is_base_plus_alpha_dro(toy_settings):
    model, batch, _ = build("DROS", toy_settings, dros_alpha=0.7, dros_beta=2.0)
    model.eval()
    torch.manual_seed(3)
    loss = model.calculate_loss(batch)
    torch.manual_seed(3)
    negatives, scores = model.negatives(batch), model.item_scores(batch)
    assert (negatives != batch["item_id"]).all() and (negatives > 0).all()
    expected = sum(
        base_loss("BCE", scores, batch["item_id"], negatives)[row].item()
        + 0.7 * dro_by_loop(scores[row].tolist(), int(batch["item_id"][row]), model.item_weights.tolist(), 2.0)
        for row in range(len(scores))) / len(scores)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_loss_type_of_recbole_is_refused(toy_settings):
    with pytest.raises(SettingError, match=r"loss_type = BPR(.|\n)*dros_base_loss"):
        build("DROS", toy_settings, loss_type="BPR")


def test_recboles_own_functions_know_the_names(toy_settings):
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, get_trainer

    config = Config(model="DROS_Caser", dataset="toy", config_dict=toy_settings(epochs=1))
    train, _, test = data_preparation(config, create_dataset(config))
    model = get_model("DROS_Caser")(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "DROS_Caser")
    assert trainer is Trainer and config["nh"] == 8 and type(train.dataset).__name__ == "SoftDataset"
    assert model.full_sort_predict(next(iter(test))[0]).shape[1] == train.dataset.item_num


# ---- runs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_the_planted_rule_and_is_evaluated_without_dropout(name, toy_settings, monkeypatch):
    seen = []
    cls = MODELS[name].load()
    original = cls.full_sort_predict

    def watched(self, interaction):
        seen.append(self.training)
        return original(self, interaction)

    monkeypatch.setattr(cls, "full_sort_predict", watched)
    result = run_recbole_soft(name, "toy", config_dict=toy_settings(
        epochs=12, train_sample="full", learning_rate=0.01, mask_history="none", dros_base_loss="CE"))
    metrics = result["record"]["results"][0]["metrics"]
    assert metrics["HR@5"]["value"] > 0.5  # chance is 5 of 24
    assert seen and not any(seen)
    assert name in result["table"] and result["record"]["config"]["dros_alpha"] == 0.1
    assert all(math.isfinite(row["loss_total"]) for row in result["record"]["curves"])
