"""A finished run recommends what its own test ranked, for titles, item ids and users."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_soft import load_recommender
from recbole_soft.errors import DataError, SettingError
from recbole_soft.recommend.histories import History, split_words
from tests.recommend.conftest import BAR, ITEMS, LENGTH, MARKUP, titles


def own_test_windows(recommender):
    """The test windows of a recommender's run: everything before the target, its user, and the target's token."""
    from recbole.data import data_preparation

    from recbole_soft.data.dataset import SoftDataset

    config = recommender._opened.config
    test = data_preparation(config, SoftDataset(config))[2].dataset
    windows = test.inter_feat
    histories = [History(tuple(items.tolist()), tuple(map(float, range(len(items)))), user) for items, user in zip(
        test.items_before(windows["window_id"].numpy()), windows["user_id"].tolist(), strict=True)]
    return histories, [recommender.item(item).item_id for item in windows["item_id"].tolist()]


@pytest.mark.parametrize(("model", "changes"), [
    ("BIGRec_SOFT", {}), ("SASRec", {}), ("DROS_Caser", {"train_sample": "full"}), ("Pop", {}), ("BIGRec_ICL", {}),
    ("BIGRec_SFT", {"injection": "popularity", "injection_gamma": 0.5}), ("Rerank_ZeroShot", {"retriever": "Pop"}),
    ("BIGRec_ZeroShot", {"mask_history": "window", "ranking": "beams", "decoding": "constrained"}),
    ("LLaRA_SFT", {"rec_model_settings": {"epochs": 1}}), ("BIGRec_SFT", {"tuning": "full"}),
])
def test_ranks_are_those_of_the_run(finished, opened, model, changes):
    folder = finished(model, **changes)
    recommender = opened(folder)
    histories, targets = own_test_windows(recommender)
    for stage in recommender.stages:
        answers = recommender.recommend_many(histories, top=ITEMS, stage=stage)
        with open(folder / f"ranks_{stage}.csv") as file:
            expected = [int(row["rank"]) for row in csv.DictReader(file)]
        ranks = [[item.item_id for item in answer].index(target) + 1
                 for answer, target in zip(answers, targets, strict=True)]
        assert ranks == expected
        assert {answer.label for answer in answers} == {recommender.stages[stage]}


def test_scores_are_those_of_full_sort_predict(soft, sasrec):
    for recommender in (soft, sasrec):
        histories, _ = own_test_windows(recommender)
        opened = recommender._opened
        windows = recommender.reader.windows(histories[:4]).to(opened.config["device"])
        opened.switch_to(recommender.stage)
        scores = opened.model.full_sort_predict(windows).detach()
        for row, answer in enumerate(recommender.recommend_many(histories[:4], top=3)):
            known = set(histories[row].items)
            best = [item for item in np.argsort(-scores[row].numpy(), kind="stable") if item and item not in known][:3]
            assert [item.item_id for item in answer] == [recommender.item(int(item)).item_id for item in best]
            assert [item.score for item in answer] == [float(scores[row, item]) for item in best]


def test_titles_ids_and_users_ask_the_same(soft):
    by_title = soft.recommend(titles=[BAR, MARKUP.upper()], top=5)
    assert by_title.items == soft.recommend(item_ids=["i0", "i1"], top=5).items
    assert [item.item_id for item in by_title.history] == ["i0", "i1"] and by_title.read == 2
    whole = [f"i{(7 * 3 + step) % ITEMS}" for step in range(LENGTH)]
    of_user = soft.recommend(user_id="u3", top=30)
    assert of_user.items == soft.recommend(item_ids=whole, top=30).items
    assert [item.item_id for item in of_user.history] == whole
    assert len(of_user) == ITEMS - LENGTH and not {item.item_id for item in of_user} & set(whole)
    assert of_user.notes == (f"the model reads the last 10 of {LENGTH} items",)


def test_an_answer_of_a_language_model_shows_what_it_wrote_and_what_is_near(soft, sasrec):
    answer = soft.recommend(titles=titles()[3:6], top=24, stage="sft")
    assert len(answer.generated) == 1 and answer.label == "BIGRec SFT"
    assert [item.place for item in answer] == list(range(1, len(answer) + 1))
    distances = [item.distance for item in answer]
    assert distances == sorted(distances) and all(item.score == -item.distance for item in answer)
    assert [item.distance for item in answer.nearest] == sorted(item.distance for item in answer.nearest)
    known = {item.title for item in answer.nearest if item.is_known}
    assert known <= set(titles()[3:6]) and len(answer.nearest) == 5
    plain = sasrec.recommend(titles=titles()[3:6], top=2)
    assert (plain.generated, plain.nearest, plain[0].distance) == ((), (), None)
    assert [item.score for item in plain] == sorted((item.score for item in plain), reverse=True)


def test_stages_may_be_asked_in_turn(soft):
    first, second = (soft.recommend(titles=titles()[5:8], stage=stage, top=20) for stage in ("sft", "soft"))
    assert soft.recommend(titles=titles()[5:8], stage="sft", top=20) == first
    assert soft.recommend(titles=titles()[5:8], top=20) == second


def test_models_that_know_users_say_so(finished, opened, sasrec):
    caser = opened(finished("DROS_Caser", train_sample="full"))
    assert "nobody's" in caser.recommend(item_ids=["i3"]).notes[0]
    assert caser.recommend(user_id="u1").notes == (f"the model reads the last 10 of {LENGTH} items",)
    assert sasrec.recommend(item_ids=["i3"]).notes == ()


@pytest.mark.parametrize(("asked", "expected"), [
    ({"titles": ["dune fjord", "nonsense", "amber zzz"]}, ("2 titles", "'nonsense'", "'amber zzz'")),
    ({"titles": ["Seen Once"]}, ("too few interactions", "item_inter_num_interval")),
    ({"titles": []}, ("empty",)), ({"titles": "dune fjord"}, ("must be a list",)), ({}, ("given: none",)),
    ({"titles": ["a"], "user_id": "u1"}, ("given: titles, user_id",)),
    ({"item_ids": ["i3", "i99", "[PAD]"]}, ("'i99', '[PAD]'",)), ({"user_id": "u99"}, ("'u99'", "40 users")),
    ({"titles": ["dune ember"], "top": 0}, ("top = 0",)), ({"user_id": "u1", "stage": "dpo"}, ("no stage 'dpo'",)),
])
def test_mistakes_are_named(soft, asked, expected):
    with pytest.raises((DataError, SettingError)) as caught:
        soft.recommend(**asked)
    assert all(text in str(caught.value) for text in expected)


def test_merged_items_are_found_by_their_own_ids(tmp_path, finished, home):
    from recbole_soft.data.dataset import SoftDataset
    from recbole_soft.recommend.opening import SoftConfig
    from tests.toys import write_atomic

    items = [("a", "One", "x"), ("b", "Two", "x"), ("c", "One", "x")]
    write_atomic(tmp_path / "tiny", "tiny", [("u", "a", 1), ("u", "b", 2), ("v", "c", 3), ("v", "b", 4)], items)
    config = SoftConfig("BIGRec_SFT", "tiny", config_dict={
        "data_path": str(tmp_path), "user_inter_num_interval": "[1,inf)", "item_inter_num_interval": "[1,inf)"})
    data = SoftDataset(config)
    assert data.item_of("c") == data.item_of("a") is not None and data.item_of("[PAD]") is None
    assert data.item_of("zzz") is None


# ---- histories as one text -------------------------------------------------------------------------
@pytest.mark.parametrize(("text", "words"), [
    ("A|B", ["A", "B"]), (" A | B |", ["A", "B"]), (r"Left \| Right|C", ["Left | Right", "C"]),
    (r"C:\\x|a\b", ["C:\\x", "a\\b"]),
    ('["A|B", "C"]', ["A|B", "C"]), ("[REC]|B", ["[REC]", "B"]), ("[REC]", ["[REC]"]), ("", []), ("[1, 2]", ["1", "2"]),
])
def test_histories_in_one_text(text, words):
    assert split_words(text) == words


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(min_size=1).map(str.strip).filter(bool), min_size=1))
def test_any_titles_can_be_written_in_one_text(words):
    escaped = "|".join(word.replace("\\", "\\\\").replace("|", "\\|") for word in words)
    if not escaped.startswith("["):
        assert split_words(escaped) == words
    import json

    assert split_words(json.dumps(words)) == words


def test_a_recommender_is_opened_for_one_stage(soft_run):
    assert load_recommender(str(soft_run / "run.json"), stage="sft").recommend(item_ids=["i3"]).stage == "sft"
