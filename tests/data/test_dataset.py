"""The data set class: titles that survive, true order, merging, splits without leaks, samples, masks."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.data import dataset as dataset_module
from recbole_soft.data.dataset import SoftDataset
from recbole_soft.data.quick_loading import rows_of
from recbole_soft.data.window_hash import hash_of_windows
from recbole_soft.errors import DataError
from tests.toys import write_atomic

LOOSE = {"user_inter_num_interval": "[1,inf)", "item_inter_num_interval": "[1,inf)", "train_sample": "full",
         "valid_sample": "full", "test_sample": "full"}


def dataset_of(folder, interactions, items, name="toy", model="BIGRec_SFT", **settings) -> SoftDataset:
    write_atomic(folder / name, name, interactions, items)
    config = SoftConfig(model, name, config_dict={"data_path": str(folder), **LOOSE, **settings})
    return SoftDataset(config)


def chain(users: int, items: int, length: int) -> list[tuple]:
    return [(f"u{u}", f"i{(u + s) % items}", 100 * s + u) for u in range(users) for s in range(length)]


UGLY = ["None", "NA", "nan", "null", '"Quoted" and not', '"unbalanced', "Tom &amp; Jerry &quot;x&quot;",
        "  two   spaces ", "ünïcödé 日本", "a, b; c"]


def test_ugly_titles_survive(tmp_path):
    items = [(f"i{k}", title, "") for k, title in enumerate(UGLY)]
    data = dataset_of(tmp_path, chain(5, len(UGLY), 8), items)
    by_token = dict(zip(data.catalog.tokens, data.catalog.titles, strict=True))
    expected = [*UGLY[:6], 'Tom & Jerry "x"', "two spaces", *UGLY[8:]]
    assert [by_token[f"i{k}"] for k in range(len(UGLY))] == expected


def test_items_of_equal_title_are_one_item_or_stay_apart(tmp_path):
    items = [("i0", "Same", "x"), ("i1", "Other", "x"), ("i2", " Same ", "y"), ("i3", "Third", "")]
    merged = dataset_of(tmp_path, chain(4, 4, 8), items)
    assert sorted(merged.catalog.titles[1:]) == ["Other", "Same", "Third"]
    assert merged.counts["items_merged"] == 1
    kept = dataset_of(tmp_path, chain(4, 4, 8), items, duplicate_titles="keep")
    assert len(kept.catalog) == 5 and len(kept.catalog.unique_titles) == 3
    rows = kept.catalog.title_rows
    twins = [row for row, title in zip(rows, kept.catalog.titles[1:], strict=True) if title == "Same"]
    assert len(twins) == 2 and twins[0] == twins[1]


def test_untitled_items_are_dropped_with_their_interactions(tmp_path):
    items = [("i0", "A", ""), ("i1", "", ""), ("i2", " &nbsp; ", ""), ("i3", "B", "")]
    data = dataset_of(tmp_path, chain(6, 4, 8), items)
    assert set(data.catalog.titles[1:]) == {"A", "B"}
    assert data.counts["without_title"] == 24


def test_order_is_exact_where_recboles_float32_is_not(tmp_path):
    """Seconds around 1.5e9 differ by less than float32 can tell; file order decides between equal times."""
    base = 1_500_000_000
    rows = [("u0", f"i{k}", base + 12 - k) for k in range(12)] + [("u1", f"i{k}", base) for k in range(12)]
    items = [(f"i{k}", f"title {k}", "") for k in range(12)]
    data = dataset_of(tmp_path, rows, items, window="prefix")
    splits = data.build()
    tokens = np.asarray(data.field2id_token["item_id"])
    users = np.asarray(data.field2id_token["user_id"])
    sequences = {"u0": [f"i{k}" for k in range(11, -1, -1)], "u1": [f"i{k}" for k in range(12)]}
    seen = 0
    for split in splits:
        inter = split.inter_feat
        for user, history, length, target in zip(users[inter["user_id"].numpy()], tokens[inter["item_id_list"].numpy()],
                                                 inter["item_length"].tolist(), tokens[inter["item_id"].numpy()],
                                                 strict=True):
            order = sequences[user]
            assert list(history[:length]) == order[max(0, order.index(target) - 10): order.index(target)]
            seen += 1
    assert seen == 22


@pytest.mark.parametrize(("keep", "expected"), [("first", ["Same", "Other"]), ("last", ["Other", "Same"])])
def test_twins_are_one_item_where_repeats_are_removed(tmp_path, keep, expected):
    """Interactions with items of equal title are repeats, too; RecBole looks for them before the merge."""
    rows = [(f"u{u}", item, time) for u in range(3) for time, item in enumerate(["twin", "other", "again"])]
    items = [("twin", "Same", ""), ("other", "Other", ""), ("again", "Same", "")]
    data = dataset_of(tmp_path, rows, items, rm_dup_inter=keep, window="prefix")
    users, items_met = (data.inter_feat[field].to_numpy() for field in ("user_id", "item_id"))
    assert [[data.catalog.titles[item] for item in items_met[users == user]] for user in (1, 2, 3)] == [expected] * 3
    kept = dataset_of(tmp_path, rows, items, rm_dup_inter=keep, duplicate_titles="keep", window="prefix")
    assert len(kept.inter_feat) == 9


def test_split_is_global_in_time_and_shares_no_target(tmp_path):
    data = dataset_of(tmp_path, chain(12, 20, 20), [(f"i{k}", f"t{k}", "") for k in range(20)])
    train, valid, test = data.build()
    times = [split.inter_feat["timestamp"].numpy() for split in (train, valid, test)]
    assert times[0].max() < times[1].min() and times[1].max() < times[2].min()
    total = sum(map(len, times))
    assert [len(t) for t in times][1:] == [total // 10] * 2
    for split in (train, valid, test):
        assert (split.inter_feat["timestamp_list"].max(1).values < split.inter_feat["timestamp"]).all()


@pytest.mark.parametrize("sample", ["full", 5])
def test_sequences_until_now_hold_no_target_of_validation_or_test(tmp_path, sample):
    """Whatever sample of training is kept: they are of the whole split."""
    items = [(f"i{k}", f"title {k}", "") for k in range(30)]
    train, *later = dataset_of(tmp_path, chain(6, 30, 20), items, train_sample=sample).build()
    users, later_targets = train.sequence_users, np.concatenate([split.all_window_ids for split in later])
    met = dict(zip(np.unique(users[train.all_window_ids]), train.sequences_until_now(), strict=True))
    for user, items_met in met.items():
        begin = np.flatnonzero(users == user)[0]
        assert (items_met == train.sequence_items[begin:begin + len(items_met)]).all()
        assert (later_targets[users[later_targets] == user] >= begin + len(items_met)).all()
    assert len(train.all_window_ids) == 48 and sum(map(len, met.values())) == 6 * (20 - 2)


def test_valid_and_test_windows_are_the_same_for_every_method(tmp_path):
    items = [(f"i{k}", f"t{k}", "") for k in range(20)]
    sizes = {"train_sample": 30, "valid_sample": 5, "test_sample": 7}
    llm = dataset_of(tmp_path, chain(12, 20, 20), items, **sizes).build()
    other = dataset_of(tmp_path, chain(12, 20, 20), items, model="SASRec", **{**sizes, "train_sample": "full"}).build()
    assert [len(split) for split in llm] == [30, 5, 7]
    assert [a.fingerprint() == b.fingerprint() for a, b in zip(llm, other, strict=True)] == [False, True, True]


def test_the_fingerprint_is_made_once_and_anew_for_changed_windows(tmp_path, monkeypatch):
    data = dataset_of(tmp_path, chain(12, 20, 20), [(f"i{k}", f"t{k}", "") for k in range(20)])
    train, valid, _ = data.build()
    made = []
    monkeypatch.setattr(dataset_module, "hash_of_windows", lambda *given: made.append(given) or hash_of_windows(*given))
    first = train.fingerprint()
    assert [train.fingerprint(), valid.fingerprint() == first, len(made)] == [first, False, 2]
    part = train.copy(rows_of(train.inter_feat, np.arange(5)))
    assert part.fingerprint() != first and train.fingerprint() == first and len(made) == 3
    train.inter_feat["item_id"][0] = train.inter_feat["item_id"][1] + 1
    assert train.fingerprint() != first
    train.inter_feat.shuffle()
    assert train.fingerprint() != first and len(made) == 5


def test_asking_for_more_windows_than_there_are_is_an_error_that_says_how_many(tmp_path):
    data = dataset_of(tmp_path, chain(6, 8, 14), [(f"i{k}", f"t{k}", "") for k in range(8)], test_sample=1000)
    with pytest.raises(DataError, match=r"test_sample=1000, but there are only \d+ test windows"):
        data.build()


def test_masks_cover_the_whole_past_but_never_the_target(tmp_path):
    from recbole.data import data_preparation

    items = [(f"i{k}", f"t{k}", "") for k in range(9)]
    rows = chain(6, 9, 16)  # items come round again: the target may be in the past
    for rule in ("full", "window", "none"):
        data = dataset_of(tmp_path, rows, items, mask_history=rule)
        loader = data_preparation(data.config, data)[2]
        interaction, masked, _, targets = next(iter(loader))
        got = {row: set() for row in range(len(targets))}
        for row, item in zip(*(part.tolist() for part in masked), strict=True) if masked is not None else ():
            got[row].add(item)
        for row in range(len(targets)):
            past = data.sequence_items[data._user_start[interaction["window_id"][row]]: interaction["window_id"][row]]
            window = interaction["item_id_list"][row].tolist()
            expected = {"full": set(past.tolist()), "window": set(window) - {0}, "none": set()}[rule]
            assert got[row] == expected - {targets[row].item()}


@pytest.mark.parametrize(("items", "settings", "message"), [
    (None, {}, "there is no file toy.item"),
    ([("i0", "", ""), ("i1", " ", "")], {}, "column 'title' is empty for every item"),
    ([("i0", "A", "")], {"title_field": "name"}, "column 'name' is missing"),
    ([("i0", "A", ""), ("i1", "B", "")], {"user_inter_num_interval": "[99,inf)"}, "no interaction is left"),
])
def test_unusable_data_is_explained(tmp_path, items, settings, message):
    with pytest.raises(DataError) as caught:
        dataset_of(tmp_path, chain(3, 2, 4), items, **settings)
    assert message in str(caught.value) and "remedy" in str(caught.value)


def test_bad_cells_are_named_by_line(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text(
        "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\nu\ti2\tyesterday\n")
    with pytest.raises(DataError, match="'yesterday' in column 'timestamp' is not a finite number") as caught:
        SoftDataset(SoftConfig("SASRec", "toy", config_dict={"data_path": str(tmp_path)}))
    assert "line 3" in str(caught.value)
