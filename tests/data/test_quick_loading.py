"""Loading on whole arrays against RecBole's own steps: the same dataset in every field."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data.dataset import Dataset, SequentialDataset

from recbole_soft.config.soft_config import SoftConfig
from recbole_soft.data import atomic, interactions
from recbole_soft.data.count_filter import rows_within
from recbole_soft.data.dataset import SoftDataset
from recbole_soft.data.interactions import InteractionColumns, read_interactions
from recbole_soft.data.splits import LEFT_OUT, by_ratio, by_ratio_within_users, leave_one_out
from recbole_soft.errors import DataError
from tests.toys import write_atomic

HAS_POLARS = find_spec("polars") is not None
COLUMNS = InteractionColumns("user_id", "item_id", "timestamp")
FULL = {"train_sample": "full", "valid_sample": "full", "test_sample": "full"}


class BySteps(SoftDataset):
    """Ids as text, counted, numbered and split by RecBole."""

    quick_loading_wanted = False


def random_rows(seed: int, count: int = 700) -> list[tuple]:
    """Users and items by a power law, repeated rows and times, ids that look like numbers, and some without an id."""
    draw = np.random.default_rng(seed)
    users = [f"{'0' * (user % 3)}{user}" for user in (60 * draw.random(count) ** 2).astype(int)]
    items = [f"i{item}" if item % 2 else f"{item:03d}" for item in (40 * draw.random(count) ** 1.5).astype(int)]
    times = draw.integers(0, 200, count) + 1_500_000_000
    rows = list(zip(users, items, times.tolist(), strict=True))
    rows += [rows[place] for place in draw.integers(0, count, 40)] + [("", "i1", 3), ("007", "", 4)]
    draw.shuffle(rows)
    return [(str(user), str(item), int(time)) for user, item, time in rows]


def items_of(rows: list[tuple]) -> list[tuple]:
    """Titles, some of them equal, some empty."""
    tokens = sorted({item for _, item, _ in rows if item})
    return [(token, "" if number % 9 == 8 else f"Title {number % 25}", "") for number, token in enumerate(tokens)]


def both(
    folder: Path, rows: list[tuple] | None, name: str = "toy", **given_settings
) -> tuple[SoftDataset, SoftDataset]:
    if rows is not None:
        write_atomic(folder / name, name, rows, items_of(rows))
    loaded = []
    for kind in (SoftDataset, BySteps):
        loose = {"user_inter_num_interval": "[3,inf)", "item_inter_num_interval": "[3,inf)"}
        config = SoftConfig("SASRec", name, config_dict={"data_path": str(folder), **FULL, **loose, **given_settings})
        loaded.append(kind(config))
    return loaded[0], loaded[1]


def assert_equal(ours: SoftDataset, theirs: SoftDataset) -> None:
    """Every column, mapping, type and count."""
    assert ours.counts == theirs.counts
    for name in ("field2type", "field2source", "field2seqlen", "field2token_id", "_rest_fields"):
        ours_value, their_value = getattr(ours, name), getattr(theirs, name)
        assert list(ours_value) == list(their_value) if name == "_rest_fields" else ours_value == their_value, name
    for field, tokens in theirs.field2id_token.items():
        assert ours.field2id_token[field].dtype == tokens.dtype
        assert ours.field2id_token[field].tolist() == tokens.tolist()
    for name in ("sequence_items", "sequence_users", "sequence_times", "_user_start", "all_window_ids"):
        if hasattr(theirs, name):
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    mine, other = ours.inter_feat, theirs.inter_feat
    if isinstance(other, pd.DataFrame):
        pd.testing.assert_frame_equal(mine, other)
        return
    assert mine.columns == other.columns
    for column in other.columns:
        assert mine[column].dtype == other[column].dtype and torch.equal(mine[column], other[column]), column


SPLITS = (
    {"split": {"RS": [8, 1, 1]}, "order": "TO", "group_by": "none"},
    {"split": {"RS": [0.6, 0.2, 0.2]}, "order": "TO", "group_by": "user"},
    {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"},
    {"split": {"TS": [0.7, 0.15, 0.15]}, "order": "TO", "group_by": "user"},
)


@pytest.mark.parametrize("extra", [
    *({"eval_args": {**split, "mode": "full"}} for split in SPLITS),
    {"window": "prefix", "duplicate_titles": "keep"},
    {"rm_dup_inter": "first", "mask_history": "none"},
    {"user_inter_num_interval": "(4,40];[60,90)", "item_inter_num_interval": "[2,60]"},
    {"train_sample": 60, "valid_sample": 7, "test_sample": 9},
    {"MAX_ITEM_LIST_LENGTH": 3, "window": "prefix"},
])
def test_a_dataset_is_recboles_in_every_field(tmp_path, extra):
    ours, theirs = both(tmp_path, random_rows(len(repr(extra))), **extra)
    assert_equal(ours, theirs)
    assert ours.catalog == theirs.catalog
    for mine, other in zip(ours.build(), theirs.build(), strict=True):
        assert_equal(mine, other)
        assert mine.fingerprint() == other.fingerprint()
        assert all(map(np.array_equal, mine.shown_items(), other.shown_items()))
    assert_equal(ours, theirs)


def test_ml_100k_is_recboles_in_every_field(tmp_path):
    ours, theirs = both(tmp_path, None, "ml-100k", user_inter_num_interval="[10,inf)",
                        item_inter_num_interval="[10,inf)")
    assert_equal(ours, theirs)
    for mine, other in zip(ours.build(), theirs.build(), strict=True):
        assert_equal(mine, other)


def test_windows_are_those_of_recboles_own_dataset(tmp_path):
    """Its ids are numbered in another order, so windows are compared by their tokens; times here fit its float32."""
    rows = [(user, item, time - 1_500_000_000 + 7) for user, item, time in random_rows(5) if user and item]
    rows = [row for place, row in enumerate(sorted(set(rows), key=lambda row: row[2])) if place % 7]
    rows = [(user, item, place) for place, (user, item, _) in enumerate(rows)]
    write_atomic(tmp_path / "toy", "toy", rows, [(item, f"T {item}", "") for item in {row[1] for row in rows}])
    base = {"data_path": str(tmp_path), **FULL, "window": "prefix", "duplicate_titles": "keep",
            "user_inter_num_interval": "[3,inf)", "item_inter_num_interval": "[3,inf)"}
    ours = SoftDataset(SoftConfig("SASRec", "toy", config_dict=base))
    theirs = SequentialDataset(SoftConfig("SASRec", "toy", config_dict={
        **base, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}))

    def windows(data, split) -> list[tuple]:
        users, items = data.field2id_token["user_id"], data.field2id_token["item_id"]
        inter = split.inter_feat
        return [(users[user], tuple(items[history]), items[target], length) for user, history, target, length in zip(
            inter["user_id"].tolist(), inter["item_id_list"].numpy(), inter["item_id"].tolist(),
            inter["item_length"].tolist(), strict=True)]

    for mine, other in zip(ours.build(), theirs.build(), strict=True):
        assert windows(ours, mine) == windows(theirs, other)
        assert len(mine) > 20


@pytest.mark.parametrize("setting", [{"val_interval": {"timestamp": "[1500000050,inf)"}}, {"normalize_all": True}])
def test_settings_that_are_recboles_business_have_its_way_and_say_so(tmp_path, setting, caplog):
    with caplog.at_level(logging.DEBUG, "recbole_soft"):
        ours, theirs = both(tmp_path, random_rows(3), **setting)
    assert "read as text" in caplog.text and next(iter(setting)) in caplog.text
    assert_equal(ours, theirs)


def test_more_interactions_than_float32_counts_stay_in_their_order(tmp_path, monkeypatch):
    """The limit is lowered: what happens beyond it is that times become float64 and nothing else changes."""
    rows = random_rows(8)
    usual, _ = both(tmp_path, rows)
    usual_splits = usual.build()
    monkeypatch.setattr("recbole_soft.data.dataset.EXACT_IN_FLOAT32", 10)
    beyond, _ = both(tmp_path, rows)
    for mine, other in zip(beyond.build(), usual_splits, strict=True):
        assert mine.fingerprint() == other.fingerprint()
    assert beyond.sequence_times.dtype == np.float64
    np.testing.assert_array_equal(beyond.sequence_times, usual.sequence_times)


INTERVALS = st.sampled_from([None, [], [("[", 2, float("inf"), ")")], [("(", 1, 4, "]")],
                             [("[", 3, 5, ")"), ("[", 7, 9, "]")]])


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60), INTERVALS, INTERVALS)
def test_rows_within_are_recboles(pairs, user_intervals, item_intervals):
    users, items = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    frame = pd.DataFrame({"user": users, "item": items})
    stand_in = SimpleNamespace(
        uid_field="user", iid_field="item", user_feat=None, item_feat=None, inter_feat=frame.copy(),
        logger=logging.getLogger("x"),
        config={"user_inter_num_interval": user_intervals, "item_inter_num_interval": item_intervals},
        _parse_intervals_str=lambda intervals: intervals)
    stand_in._within_intervals = lambda count, intervals: Dataset._within_intervals(stand_in, count, intervals or [])
    stand_in._get_illegal_ids_by_inter_num = lambda **given: Dataset._get_illegal_ids_by_inter_num(stand_in, **given)
    Dataset._filter_by_inter_num(stand_in)
    assert rows_within(users, items, user_intervals, item_intervals).tolist() == stand_in.inter_feat.index.tolist()


class Recorder:
    """A RecBole dataset of users alone, of which the parts are row numbers."""

    _calcu_split_ids = Dataset._calcu_split_ids
    _grouped_index = Dataset._grouped_index
    _split_index_by_leave_one_out = Dataset._split_index_by_leave_one_out
    logger = logging.getLogger("x")

    def __init__(self, users: list[int]):
        self.users, self.inter_feat = users, self

    def __len__(self):
        return len(self.users)

    def __getitem__(self, key):
        return torch.tensor(self.users) if key == "user" else list(key)

    def copy(self, rows):
        return rows

    def _drop_unused_col(self):
        pass


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 8), max_size=50), st.lists(st.integers(0, 9), min_size=2, max_size=4).filter(sum))
def test_splits_are_recboles(users, ratios):
    data = Recorder(users)
    cut, array = data._calcu_split_ids, np.array(users, dtype=np.int64)
    for ours, theirs in [
        (by_ratio(len(users), ratios, cut), Dataset.split_by_ratio(data, ratios)),
        (by_ratio_within_users(array, ratios, cut), Dataset.split_by_ratio(data, ratios, "user")),
        *((leave_one_out(array, mode), Dataset.leave_one_out(data, "user", mode)) for mode in LEFT_OUT),
    ]:
        assert [part.tolist() for part in ours] == theirs


def read_by(path: Path, as_text: bool = False, polars: bool = True):
    """Count and cells, or the message."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(atomic.read_atomic_in_pieces, "__defaults__", ("\t", "utf-8", None, 4))
        patched.setattr(atomic, "BLOCK_BYTES", 16)
        if not polars:
            patched.setattr(interactions, "find_spec", lambda name: None)
        elif HAS_POLARS and not as_text:
            patched.setattr("recbole_soft.data.polars_table.BLOCK_BYTES", 20)
        try:
            frame, count = read_interactions(path, COLUMNS, as_text=as_text)
        except DataError as error:
            return str(error)
        return count, [[str(cell) for cell in row] for row in frame.itertuples(index=False)]


CELLS = st.text(st.sampled_from('ab01."\'é \u2028\ud7ff,None'), max_size=5)
TIMES = st.one_of(st.integers(-5, 2**52).map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr),
                  st.sampled_from(["1e9", "007", " 5", "nan", "", "x", "inf", "9" * 30, "9" * 5000]))


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS, TIMES), max_size=25), st.sampled_from(["\n", "\r\n"]), st.booleans(),
       st.booleans())
def test_pieces_are_the_table_of_text(tmp_path, rows, newline, has_end, has_bom):
    path = tmp_path / "toy.inter"
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *map("\t".join, rows)]
    text = ("\ufeff" if has_bom else "") + newline.join(lines) + (newline if has_end else "")
    path.write_bytes(text.encode())

    expected = read_by(path, as_text=True)
    assert read_by(path) == expected and read_by(path, polars=False) == expected


PLAIN_CELLS = st.text(st.sampled_from('ab01."é#,'), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(PLAIN_CELLS, PLAIN_CELLS, st.integers(-5, 2**60).map(str)), min_size=1, max_size=25))
def test_plain_files_are_the_table_of_text(tmp_path, rows):
    path = tmp_path / "toy.inter"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "".join("\t".join(row) + "\n" for row in rows))
    assert atomic.is_plain(path)
    expected = read_by(path, as_text=True)
    assert read_by(path) == expected and read_by(path, polars=False) == expected


def test_lines_of_another_length_are_found_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "BLOCK_BYTES", 7)
    path = tmp_path / "toy.inter"
    good, bad = "u\ti\t1\n" * 30, "u\ti\t1\t\nu\t1\n"
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n" + good + bad + good)
    with pytest.raises(DataError, match="line 32"):
        read_interactions(path, COLUMNS)
