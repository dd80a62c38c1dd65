"""RecBole's sequential dataset under the paper's protocol.

What differs from `SequentialDataset`, and why: titles are read by our own reader (RecBole's loses some),
time is kept as an order (RecBole rounds it to 128 s), items of equal title are one item, windows are the
paper's, and validation and test are the same sampled windows for every method. Filtering, id mapping
and splitting follow RecBole's rules, on whole arrays where the settings allow it (`quick_loading.py`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils.enum_type import FeatureSource, FeatureType

from recbole_soft.data.atomic import columns_of, require_columns
from recbole_soft.data.catalog import Catalog, ItemColumns, merge_equal_titles, read_item_table
from recbole_soft.data.interactions import InteractionColumns, is_repeated, read_interactions, replaced
from recbole_soft.data.quick_loading import QuickLoading, rows_of
from recbole_soft.data.sources import data_root, find_dataset
from recbole_soft.data.window_hash import hash_of_windows
from recbole_soft.data.windows import Windows, first_positions, history_matrix, make_windows, met_until, sample_rows
from recbole_soft.errors import DataError, SettingError

WINDOW_FIELD = "window_id"
SPLITS = ("train", "valid", "test")
PADDING = "[PAD]"
EXACT_IN_FLOAT32 = 2**24


class SoftDataset(QuickLoading, SequentialDataset):
    """Windows, catalogue and splits of one data set.

    Attributes:
        catalog: titles by item id, or None when there is no NAME.item (traditional models need none).
        sequence_items: [n_interactions] item ids by user, then time; `window_id` of a row of `inter_feat`
            is the position of its target in this array.
        sequence_users: [n_interactions] whose they are, ascending.
        all_window_ids: [n] window ids of a split before sampling; `sequence_items` there are its targets.
        sequence_times: [n_interactions] when each of them happened, as a place in the order of all.
        counts: what was read, dropped and kept, for the record.
    """

    def __init__(self, config) -> None:
        self.catalog: Catalog | None = None
        self.counts: dict[str, int] = {}
        self._known_fingerprint: tuple[list[torch.Tensor], list[int], str] = [], [], ""
        super().__init__(config)

    # ---- reading ---------------------------------------------------------------------------------
    def _get_preset(self) -> None:
        super()._get_preset()
        self.dataset_path = str(find_dataset(self.dataset_name, data_root(self.config)))

    def _load_data(self, token: str, dataset_path: str) -> None:
        self._load_inter_feat(token, dataset_path)
        self.user_feat, self.item_feat = None, self._load_item_features(token, Path(dataset_path))
        self._item_table = self._read_items(Path(dataset_path) / f"{token}.item")

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        path = Path(dataset_path) / f"{token}.inter"
        fields = [self.uid_field, self.iid_field, self.time_field]
        layout = self.config["field_separator"] or "\t", self.config["encoding"] or "utf-8"
        settings = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
        require_columns(path, dict(zip(fields, settings, strict=True)), *layout)
        frame, self.counts["rows"] = read_interactions(path, InteractionColumns(*fields), *layout,
                                                       as_text=not self.reads_numbers())
        self.counts["without_id"] = self.counts["rows"] - len(frame)
        if frame.empty:
            raise DataError("there are no interactions", where=str(path),
                            remedy="below the first line, each line is one interaction: user, item, time")
        distinct = frame[~is_repeated(frame)]
        self.counts["duplicates"] = len(frame) - len(distinct)
        self.inter_feat = distinct.sort_values(self.time_field, kind="stable", ignore_index=True)
        for field, kind in zip(fields, (FeatureType.TOKEN, FeatureType.TOKEN, FeatureType.FLOAT), strict=True):
            self.set_field_property(field, kind, FeatureSource.INTERACTION, 1)
        self.field2source[self.uid_field] = FeatureSource.USER_ID
        self.field2source[self.iid_field] = FeatureSource.ITEM_ID

    def _load_item_features(self, token: str, folder: Path) -> pd.DataFrame | None:
        """Columns of NAME.item that some RecBole models take as input (`selected_features`), by RecBole's reader."""
        columns = self.config["selected_features"]
        path = folder / f"{token}.item"
        if not columns or not path.is_file():
            return None
        require_columns(path, dict.fromkeys(columns, "selected_features"), self.config["field_separator"] or "\t",
                        self.config["encoding"] or "utf-8")
        self.config["load_col"] = {"item": [self.iid_field, *columns]}
        return super()._load_user_or_item_feat(token, str(folder), FeatureSource.ITEM, "iid_field")

    def _read_items(self, path: Path) -> pd.DataFrame | None:
        if not path.is_file():
            return None
        separator, encoding = self.config["field_separator"] or "\t", self.config["encoding"] or "utf-8"
        title_field = self.config["title_field"]
        if not self.config["strategy"] and title_field not in columns_of(path, separator, encoding):
            return None
        require_columns(path, {self.iid_field: "ITEM_ID_FIELD", title_field: "title_field"}, separator, encoding)
        columns = ItemColumns(self.iid_field, title_field, self.config["category_field"])
        return read_item_table(path, columns, separator, encoding)

    # ---- filtering -------------------------------------------------------------------------------
    def _data_filtering(self) -> None:
        self._drop_untitled_items()
        try:
            super()._data_filtering()
        except ValueError as error:
            raise self._nothing_left() from error
        if self.inter_feat.empty:
            raise self._nothing_left()
        if self._item_table is not None and self.config["duplicate_titles"] == "merge":
            tokens = pd.Series(self.inter_feat[self.iid_field].unique(), dtype=object)
            merged = merge_equal_titles(tokens, self._item_table.loc[tokens])
            self.counts["items_merged"] = len(tokens) - merged.nunique()
            self.inter_feat[self.iid_field] = replaced(self.inter_feat[self.iid_field], tokens, merged)
            self._remove_duplication()  # of rm_dup_inter: twins were two items until now
        if self.item_feat is not None:
            kept = self.item_feat[self.iid_field].isin(self.inter_feat[self.iid_field])
            self.item_feat = self.item_feat[kept].reset_index(drop=True)
        # An order instead of seconds: exact in RecBole's float32 up to 16.7 million interactions. Beyond, neighbours
        # share a number there; windows are cut and put in order by rows all the same, not by that number.
        self.inter_feat[self.time_field] = np.arange(len(self.inter_feat), dtype=np.float64)

    def _drop_untitled_items(self) -> None:
        if self._item_table is None:
            if self.config["strategy"]:
                raise DataError(
                    f"there is no file {self.dataset_name}.item, and a language model needs titles",
                    where=self.dataset_path,
                    remedy=f"write {self.dataset_name}.item with the columns {self.iid_field}:token and title:token")
            return
        titled = self.inter_feat[self.iid_field].isin(self._item_table.index)
        self.counts["without_title"] = int((~titled).sum())
        if not titled.any():
            ours, theirs = self.inter_feat[self.iid_field].iloc[0], self._item_table.index[0]
            raise DataError(
                f"no interaction is left: no item of {self.dataset_name}.inter has a title in {self.dataset_name}.item",
                where=self.dataset_path,
                remedy=f"use the same item ids in both files: one has for instance '{ours}', the other '{theirs}'")
        self.inter_feat = self.inter_feat[titled].reset_index(drop=True)

    def _nothing_left(self) -> DataError:
        intervals = [f"{name}={self.config[name]}" for name in ("user_inter_num_interval", "item_inter_num_interval")]
        return DataError(
            f"no interaction is left of {self.counts['rows']} after filtering by {' and '.join(intervals)} "
            f"({self.counts.get('without_title', 0)} had an item without a title)", where=self.dataset_path,
            remedy="use more data or loosen the filter, for instance '--user_inter_num_interval=[2,inf)' "
                   "'--item_inter_num_interval=[2,inf)'")

    def _remap_ID_all(self) -> None:
        super()._remap_ID_all()
        if self._item_table is not None:
            self.catalog = Catalog.from_table(self.field2id_token[self.iid_field], self._item_table)

    # ---- windows ---------------------------------------------------------------------------------
    def data_augmentation(self) -> None:
        """Replaces RecBole's prefixes by the protocol's windows, in the order of their targets in time.

        A window's history is a stretch of `sequence_items`; only what is kept of a split is written out.
        """
        self._aug_presets()
        self.set_field_property(WINDOW_FIELD, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)
        order = np.argsort(self.inter_feat[self.uid_field].numpy(), kind="stable")
        users, items = (self.inter_feat[field].numpy()[order] for field in (self.uid_field, self.iid_field))
        # Rows are in the order of time.
        times = order.astype(np.float32 if len(order) <= EXACT_IN_FLOAT32 else np.float64)
        self.sequence_users, self.sequence_items, self.sequence_times = users, items, times
        self._user_start = first_positions(users)
        windows = make_windows(users, self.max_item_list_len, self.config["window"])
        if not len(windows):
            raise DataError("no user has two interactions, so there is no window", where=self.dataset_path,
                            remedy="use more data, or check that the column of users holds users (USER_ID_FIELD)")
        in_time = np.argsort(order[windows.target])
        target, lengths = windows.target[in_time], windows.lengths[in_time]
        columns = {self.uid_field: users[target], self.iid_field: items[target],
                   self.time_field: times[target].astype(np.float32), self.item_list_length_field: lengths,
                   WINDOW_FIELD: target}
        self.inter_feat = Interaction({name: torch.from_numpy(column) for name, column in columns.items()})

    def _write_histories(self) -> None:
        """Adds the padded histories to the table of windows, as RecBole's loaders and models want them."""
        columns = dict(self.inter_feat.interaction)
        lengths, target = (columns.pop(name) for name in (self.item_list_length_field, WINDOW_FIELD))
        windows = Windows((target - lengths).numpy(), target.numpy())
        times = self.sequence_times.astype(np.float32, copy=False)
        for field, values in ((self.iid_field, self.sequence_items), (self.time_field, times)):
            columns[getattr(self, f"{field}_list_field")] = torch.from_numpy(
                history_matrix(values, windows, self.max_item_list_len))
        self.inter_feat = Interaction(columns | {self.item_list_length_field: lengths, WINDOW_FIELD: target})

    def build(self) -> list[SoftDataset]:
        """Training, validation and test windows, split by RecBole, then sampled."""
        try:
            splits = super().build()
            if len(splits) != len(SPLITS):
                raise ValueError(f"it gives {len(splits)} parts, not training, validation and test")
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
                ValueError) as error:
            if "eval_args" not in self.config.external_config_dict:
                raise
            raise SettingError(
                f"RecBole refuses the split: {error or type(error).__name__}",
                where=f"eval_args={self.config['eval_args']}",
                remedy="for instance eval_args={split: {RS: [8, 1, 1]}, order: TO, group_by: none}") from error
        for name, split in zip(SPLITS, splits, strict=True):
            self.counts[f"{name}_windows"] = len(split)
            split._keep_sample(name)
            split._write_histories()
            self.counts[f"{name}_sampled"] = len(split)
        return splits

    def _keep_sample(self, name: str) -> None:
        key = f"{name}_sample"
        size, available = self.config[key], len(self)
        if available == 0:
            raise DataError(f"the {name} split has no window", where=self.dataset_path,
                            remedy="use more data or another split (eval_args)")
        self.all_window_ids = self.inter_feat[WINDOW_FIELD].numpy()
        if size in (None, "full") or size == available:
            return
        if size > available and key in self.config.external_config_dict:
            raise DataError(f"{key}={size}, but there are only {available} {name} windows", where=self.dataset_path,
                            remedy=f"--{key}=full, or a number up to {available}")
        rows = sample_rows(available, int(size), self.config["sample_seed"])
        self.inter_feat = rows_of(self.inter_feat, rows)

    # ---- what others ask -------------------------------------------------------------------------
    def items_before(self, window_ids: np.ndarray) -> list[np.ndarray]:
        """Per window, the item ids of everything its user interacted with before the target."""
        starts = self._user_start[window_ids]
        return [self.sequence_items[a:b] for a, b in zip(starts, window_ids, strict=True)]

    def sequence_of(self, user: int) -> tuple[np.ndarray, np.ndarray]:
        """Item ids and times of everything that a user did, oldest first, `[n]` each."""
        first, last = np.searchsorted(self.sequence_users, [user, user + 1])
        return self.sequence_items[first:last], self.sequence_times[first:last]

    def item_of(self, token: str) -> int | None:
        """Item id of an id in the files; of one that was merged, its representative's; None if it was not kept."""
        ids = self.field2token_id[self.iid_field]
        if token == PADDING or token in ids:
            return ids.get(token) or None
        if self.catalog is None or token not in self._item_table.index or self.config["duplicate_titles"] != "merge":
            return None
        return self.catalog.items_of_title.get(self._item_table.at[token, "title"], [None])[0]

    def was_left_out(self, title: str) -> bool:
        """Whether a title stands in NAME.item, but none of its items is left after filtering."""
        return (self.catalog is not None and title not in self.catalog.items_of_title
                and bool((self._item_table["title"].str.casefold() == title.casefold()).any()))

    def shown_items(self) -> list[np.ndarray]:
        """Per window, the distinct items its user met up to the user's latest target in this split, ascending."""
        met = met_until(self.sequence_users, self._user_start, self.inter_feat[WINDOW_FIELD].numpy())
        shown = {user: np.unique(self.sequence_items[stretch]) for user, stretch in met.items()}
        return [shown[user] for user in self.inter_feat[self.uid_field].tolist()]

    def sequences_until_now(self) -> list[np.ndarray]:
        """Per user of this split before sampling, the item ids up to the user's latest target in it, oldest first."""
        met = met_until(self.sequence_users, self._user_start, self.all_window_ids)
        return [self.sequence_items[stretch] for stretch in met.values()]

    def sequences_fingerprint(self) -> str:
        """Hash of items, everybody's sequences, and how they are cut and split: equal where item ids, window ids and
        the split are, whatever sample of the windows is kept."""
        digest = hashlib.sha256((self.catalog.fingerprint if self.catalog else "").encode())
        digest.update(self.sequence_items.tobytes() + self._user_start.tobytes())
        digest.update(repr([self.max_item_list_len, self.config["window"], self.config["eval_args"]]).encode())
        return digest.hexdigest()[:16]

    def interactions_fingerprint(self) -> str:
        """Hash of all interactions of all splits in their order in time, sampled or not."""
        digest = hashlib.sha256("\n".join(map(str, self.field2id_token[self.iid_field])).encode())
        for array in (self.sequence_items, self.sequence_times, self._user_start):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def fingerprint(self) -> str:
        """Hash of the windows of this split in terms of tokens, so that it does not depend on id mapping.

        Made once for a table of windows: RecBole replaces its columns where it changes them (`_version` tells where
        torch writes into them all the same).
        """
        columns = [self.inter_feat[field] for field in (
            self.uid_field, getattr(self, f"{self.iid_field}_list_field"), self.iid_field)]
        versions = [column._version for column in columns]
        known, known_versions, value = self._known_fingerprint
        if known_versions != versions or any(ours is not theirs for ours, theirs in zip(columns, known, strict=True)):
            tokens = (self.field2id_token[field].tolist() for field in (self.uid_field, self.iid_field))
            value = hash_of_windows(*(column.numpy() for column in columns), *tokens)
            self._known_fingerprint = columns, versions, value
        return value
