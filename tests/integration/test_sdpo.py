"""S-DPO as a whole: the reference, the negatives, the curves, and the defects of the published code."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from recbole_soft.llm.plain_score import plain_nll
from recbole_soft.run import run_recbole_soft
from tests.toys import write_atomic

OWN = {"sdpo_learning_rate": 1e-3, "sdpo_epochs": 2}


def run(settings, model="BIGRec_SDPO"):
    return run_recbole_soft(model, "toy", config_dict={**OWN, **settings} if model == "BIGRec_SDPO" else settings)


def rows_of(result, stage="sdpo"):
    return [row for row in result["record"]["curves"] if row["stage"] == stage]


def make_trainer(settings, dataset="toy"):
    """Trainer, training and validation data, before anything is trained."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer

    config = Config(model="BIGRec_SDPO", dataset=dataset, config_dict={**OWN, **settings})
    train, valid, _ = data_preparation(config, create_dataset(config))
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), train, valid


@pytest.fixture(scope="module")
def trained(toy_path, shared_artifacts, tmp_path_factory):
    """A trainer after both stages, with LoRA and much dropout; what was scored for the reference, by epoch."""
    folder = tmp_path_factory.mktemp("sdpo")
    settings = {
        "data_path": str(toy_path), "checkpoint_dir": str(folder), "artifacts_dir": str(shared_artifacts),
        "show_progress": False, "state": "WARNING", "user_inter_num_interval": "[2,inf)",
        "item_inter_num_interval": "[2,inf)", "train_sample": 48, "valid_sample": 8, "test_sample": 8, "epochs": 1,
        "train_batch_size": 16, "micro_batch_size": 8, "tiny_hidden_size": 32, "tiny_layers": 2, "tiny_heads": 2,
        "tiny_vocabulary": 400, "tiny_steps": 20, "tiny_batch_size": 8, "max_new_tokens": 8, "num_beams": 2,
        "topk": [1, 10], "tuning": "lora", "lora_dropout": 0.5, "sdpo_epochs": 3, "patience": 3}
    trainer, train, valid = make_trainer(settings)
    stage, epochs, calls = trainer.stages[1], [], []
    begin_epoch, score = stage.begin_epoch, trainer.model.score

    def watched_epoch(epoch, count):
        figures = begin_epoch(epoch, count)
        epochs.append((stage._titles.copy(), stage._reference_nll.clone()))
        return figures

    def watched_score(prompts, responses, *rest):
        calls.append((trainer.model.weights.active, trainer.model.training, torch.is_grad_enabled(),
                      {kind: [len(text) for text in texts] for kind, texts in responses.items()}))
        return score(prompts, responses, *rest)

    stage.begin_epoch, trainer.model.score = watched_epoch, watched_score
    trainer.fit(train, valid)
    trainer.model.score, trainer.train_data_of_test = score, train.dataset
    return trainer, epochs, calls


# ---- reference ------------------------------------------------------------------------------------
def test_reference_is_the_sft_model_without_dropout_before_and_after_training(trained):
    trainer, epochs, _ = trained
    model, windows, stage = trainer.model, trainer._windows, trainer.stages[1]
    model.weights.activate("sft")
    model.eval()
    for titles, reference in epochs:
        for column in range(titles.shape[1]):
            responses = [stage._responses[title] for title in titles[:, column]]
            with torch.no_grad():
                expected = plain_nll(model.weights.model, windows.prompts, responses)
            torch.testing.assert_close(reference[:, column], expected, rtol=1e-4, atol=1e-3)
    trained_state, sft_state = model.weights.state("sdpo"), model.weights.state("sft")
    assert any(not torch.equal(trained_state[key], sft_state[key]) for key in sft_state)


def test_every_window_and_title_is_scored_once_for_the_reference_and_without_gradients(trained):
    _, epochs, calls = trained
    reference = [call for call in calls if call[0] == "sft" and not call[2]]
    scored = sum(length > 0 for call in reference for lengths in call[3].values() for length in lengths)
    pairs = {(window, title) for titles, _ in epochs for window, row in enumerate(titles.tolist()) for title in row}
    assert scored == len(pairs) < sum(titles.size for titles, _ in epochs)
    assert not any(training for _, training, _, _ in reference)
    training = [call for call in calls if call[0] == "sdpo"]
    assert training and all(is_training and has_gradients for _, is_training, has_gradients, _ in training)


def test_one_forward_per_micro_batch_scores_the_true_response_and_all_negatives(trained):
    trainer, epochs, calls = trained
    training = [call[3] for call in calls if call[0] == "sdpo"]
    assert len(training) == len(epochs) * math.ceil(len(trainer._windows) / 8)
    assert all(list(kinds) == ["chosen", "rejected_1", "rejected_2", "rejected_3"] for kinds in training)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_before_it_has_learned_anything_the_loss_is_the_log_of_the_number_of_candidates(toy_settings, tuning):
    """The policy starts as the SFT model, in which every log-ratio is 0."""
    result = run(toy_settings(tuning=tuning, lora_dropout=0.0, epochs=1, sdpo_learning_rate=0.0, sdpo_negatives=4))
    for row in rows_of(result):
        assert row["loss_total"] == pytest.approx(math.log(5), abs=1e-4)
        assert row["reward_margin"] == pytest.approx(0, abs=1e-4)
    first, last = (result["record"]["results"][place]["metrics"] for place in (0, 1))
    assert first == last


def test_reference_is_reused_by_a_run_with_another_beta(toy_settings, tmp_path, monkeypatch):
    from recbole_soft.strategies.sdpo import ReferenceScores

    settings = toy_settings(artifacts_dir=str(tmp_path / "store"), epochs=1)
    first = run(settings)
    scored = []
    monkeypatch.setattr(ReferenceScores, "_score", lambda self, missing: scored.append(missing))
    other = run({**settings, "sdpo_beta": 0.1})
    assert not scored and other["record"]["stages"]["sft"]["reused"]
    assert rows_of(other)[0]["loss_total"] != rows_of(first)[0]["loss_total"]


# ---- what is compared -----------------------------------------------------------------------------
def test_true_responses_and_prompts_are_those_of_sft(trained):
    """Defect: the published stages tokenise prompt and title differently, and the second has no beginning of text."""
    trainer, _, _ = trained
    windows, (sft, sdpo) = trainer._windows, trainer.stages
    rows = list(range(len(windows)))
    sft.context = sdpo.context
    assert sdpo.responses(rows)["chosen"] == sft.responses(rows)["sft"] == windows.targets
    eos = trainer.model.backbone.tokenizer.eos_id
    for kind, texts in sdpo.responses(rows).items():
        assert all(text[-1] == eos and len(text) > 2 for text in texts), kind
    quoted = [trainer.model.backbone.tokenizer.decode(text) for text in sdpo.responses(rows)["rejected_1"]]
    assert all(text.startswith('"') and text.endswith('"') for text in quoted)


def test_negatives_are_unknown_titles_and_new_in_every_epoch(trained):
    trainer, epochs, _ = trained
    windows = trainer._windows
    for titles, _ in epochs:
        assert titles[:, 0].tolist() == windows.target_rows.tolist()
        for row, shown in zip(titles.tolist(), windows.shown_rows, strict=True):
            assert len(set(row)) == 4 and row[0] in shown and not set(row[1:]) & set(shown.tolist())
    (first, _), (second, _), _ = epochs
    changed = (np.sort(first[:, 1:]) != np.sort(second[:, 1:])).any(axis=1)
    assert changed.mean() > 0.8


def test_equal_targets_do_not_come_with_equal_negatives(trained):
    """Defect: the published candidate lists are seeded with the target, which a look-up table can read off."""
    _, epochs, _ = trained
    titles = epochs[0][0]
    common = Counter(titles[:, 0].tolist()).most_common(1)[0][0]
    rows = titles[titles[:, 0] == common, 1:]
    assert len(rows) > 1 and len({tuple(row) for row in rows.tolist()}) > 1


def test_training_does_not_avoid_what_a_user_meets_later(trained):
    """Leaving out a user's later items would tell the model about validation and test targets."""
    trainer, epochs, _ = trained
    dataset, windows = trainer.train_data_of_test, trainer._windows
    users, targets = dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist()
    row_of = dict(enumerate(trainer.model.catalog.title_rows.tolist(), start=1))
    before = dataset.items_before(dataset.inter_feat["window_id"].numpy())
    later = 0
    for window, user in enumerate(users):
        same_user = [other for other, theirs in enumerate(users) if theirs == user]
        met = set().union(*([targets[other], *before[other].tolist()] for other in same_user))
        shown = windows.shown_rows[window].tolist()
        assert shown == sorted(row_of[item] for item in met)
        whole = dataset.sequence_items[dataset._user_start[windows.window_ids[window]]:][:16]  # 16 a user
        unseen = {row_of[item] for item in whole.tolist()} - set(shown)
        later += sum(len(unseen & set(titles[window, 1:].tolist())) for titles, _ in epochs)
    assert later


def test_titles_with_colons_and_long_histories_are_learned_whole(toy_path, toy_settings, tmp_path):
    """Defects: only what follows the last colon was learned; long prompts left 0 tokens of the answer."""
    titles = [f"part {number}: the one: episode {number % 5}" for number in range(16)]
    rows = [(f"u{user}", f"i{(user + step) % 16}", 100 * user + step) for user in range(12) for step in range(12)]
    write_atomic(tmp_path / "data" / "colons", "colons", rows,
                 [(f"i{number}", title, "") for number, title in enumerate(titles)])
    settings = toy_settings(data_path=str(tmp_path / "data"), epochs=1, train_sample=8, valid_sample="full",
                            test_sample="full", topk=[1, 10], cutoff_len=120, sdpo_epochs=1,
                            artifacts_dir=str(tmp_path / "store"))
    trainer, train, valid = make_trainer(settings, "colons")
    calls, score = [], trainer.model.score

    def watched(prompts, responses, *rest):
        scores = score(prompts, responses, *rest)
        calls.append((trainer.model.weights.active, [len(prompt) for prompt in prompts], scores))
        return scores

    trainer.model.score = watched
    trainer.fit(train, valid)
    encoder, windows = trainer.model.encoder, trainer._windows
    full = sorted(len(encoder.responses([title])[0]) for title in windows.target_titles)
    assert max(max(lengths) for _, lengths, _ in calls) > 90  # near the limit, which cuts the prompt alone
    chosen = [scores["chosen"] for active, _, scores in calls if active == "sdpo"]
    assert sorted(length for scores in chosen for length in scores.tokens.tolist()) == full
    rows = [row for row in trainer.curves if row["stage"] == "sdpo"]
    assert rows[0]["chosen_logp"] < 0 and rows[0]["loss_total"] > 0


# ---- training -------------------------------------------------------------------------------------
def test_micro_batches_and_the_plain_way_give_the_same_curves(toy_settings, tmp_path):
    curves = []
    for size, fast in ((1, True), (8, True), (8, False)):
        settings = toy_settings(micro_batch_size=size, train_batch_size=8, train_sample=24, fast_path=fast, epochs=1,
                                artifacts_dir=str(tmp_path / f"{size}{fast}"), sdpo_nll_weight=0.5)
        curves.append([[row[name] for name in ("loss_total", "loss_preference", "loss_nll", "chosen_logp",
                                               "rejected_logp", "reward_margin")] for row in rows_of(run(settings))])
    for other in curves[1:]:
        np.testing.assert_allclose(np.array(other), np.array(curves[0]), rtol=2e-3, atol=2e-4)


def test_a_weighted_token_loss_is_added_and_an_unweighted_one_is_not_computed(toy_settings):
    weighted, plain = (rows_of(run(toy_settings(epochs=1, sdpo_epochs=1, sdpo_nll_weight=weight)))[0]
                       for weight in (0.5, 0.0))
    assert weighted["loss_total"] == pytest.approx(weighted["loss_preference"] + 0.5 * weighted["loss_nll"])
    assert "loss_nll" not in plain and plain["loss_total"] == plain["loss_preference"]


def test_it_learns_to_prefer_the_true_titles_with_its_own_rate_and_epochs(toy_settings):
    result = run(toy_settings(epochs=1, sdpo_epochs=8, patience=8, sdpo_learning_rate=1e-2, sdpo_beta=1.0,
                              train_sample=96))
    rows = rows_of(result)
    assert len(rows) == 8 and len(rows_of(result, "sft")) == 1
    assert rows[-1]["loss_total"] < 0.7 * rows[0]["loss_total"]
    assert rows[-1]["reward_margin"] > 1 and rows[-1]["preference_accuracy"] > 0.6 > rows[0]["preference_accuracy"]
    assert [row["label"] for row in result["record"]["results"]] == ["BIGRec SFT", "BIGRec SDPO"]
    header = (result["record_path"].removesuffix("run.json") + "curves.csv")
    with open(header) as file:
        columns = file.readline().strip().split(",")
    assert {"chosen_logp", "rejected_logp", "reward_margin", "preference_accuracy", "loss_preference"} <= set(columns)


def test_the_stage_s_learning_rate_is_its_own(toy_settings, monkeypatch):
    from recbole_soft.trainer.llm_trainer import LLMTrainer

    rates = []
    build = LLMTrainer._build_optimizer
    monkeypatch.setattr(LLMTrainer, "_build_optimizer", lambda self: rates.append(self.learning_rate) or build(self))
    run(toy_settings(epochs=1, learning_rate=2e-3, sdpo_learning_rate=5e-6, sdpo_epochs=1, seed=7))
    assert rates[-2:] == [2e-3, 5e-6]


def test_sft_weights_are_shared_with_other_strategies(toy_settings, tmp_path):
    settings = toy_settings(artifacts_dir=str(tmp_path / "store"), epochs=1)
    sft = run(settings, "BIGRec_SFT")
    sdpo = run(settings)
    assert sdpo["record"]["stages"]["sft"]["reused"]
    assert sdpo["record"]["results"][0] == sft["record"]["results"][0]


def test_more_negatives_than_unknown_titles_are_refused(toy_settings):
    from recbole_soft.errors import SettingError

    with pytest.raises(SettingError, match=r"sdpo_negatives = 20: a user has met all but \d+ of the 24 titles"):
        run(toy_settings(epochs=1, sdpo_negatives=20))
