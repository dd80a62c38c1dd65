"""Preparation by pandas and plain Python: see `prep_engine`."""

from __future__ import annotations

import csv
import io
from typing import TextIO

import numpy as np
import pandas as pd

from recbole_soft.data.prep_engine import ROWS_PER_WRITE, PrepEngine, RatingBlock, are_whole, rating_texts
from recbole_soft.data.raw_metadata import is_usable_id
from recbole_soft.data.raw_ratings import Ratings


class PandasEngine(PrepEngine):
    """Numbers users with a dict."""

    name = "pandas"

    def __init__(self) -> None:
        self.number_of: dict[str, int] = {}

    def read(self, block: bytes, fields: tuple[str, ...]) -> RatingBlock:
        """See the base."""
        frame = parse(block, fields)
        (users, user_names), (items, item_names) = distinct(frame["user"]), distinct(frame["item"])
        known = self.number_of
        numbers = np.fromiter((known.setdefault(name, len(known)) for name in user_names), np.int32, len(user_names))
        is_plain = block.isascii() and b" " not in block  # then only an empty id is none: a shortcut for many users
        is_usable = np.fromiter(map(bool if is_plain else is_usable_id, user_names), bool, len(user_names))
        return RatingBlock(numbers[users], is_usable[users], items.astype(np.int32), item_names,
                           frame["rating"].to_numpy("float64"), frame["timestamp"].to_numpy("float64"))

    def write(self, file: TextIO, table: Ratings, item_ids: list[str]) -> None:
        """See the base."""
        user_ids = list(self.number_of)
        whole_times = are_whole(table.timestamps)
        for start in range(0, len(table.users), ROWS_PER_WRITE):
            rows = slice(start, start + ROWS_PER_WRITE)
            times = table.timestamps[rows]
            texts, which = rating_texts(table.ratings[rows])
            columns = (
                [user_ids[user] for user in table.users[rows].tolist()],
                [item_ids[item] for item in table.items[rows].tolist()],
                [texts[index] for index in which.tolist()],
                map(str, (times.astype(np.int64) if whole_times else times).tolist()),
            )
            file.write("\n".join(map("\t".join, zip(*columns, strict=True))) + "\n")


ENGINE = PandasEngine


def parse(block: bytes, fields: tuple[str, ...]) -> pd.DataFrame:
    """A block of checked lines as a table; ids as text, numbers as float64, NaN for anything else."""
    wanted = [name for name in fields if not name.startswith("-")]
    numeric = ("rating", "timestamp")

    def read(type_of_numbers: str) -> pd.DataFrame:
        # Not "category": pandas makes numbers of ids such as 0700026398 when all ids of a block are digits.
        types = {name: type_of_numbers if name in numeric else "object" for name in wanted}
        return pd.read_csv(
            io.BytesIO(block), header=None, names=list(fields), usecols=wanted, dtype=types, index_col=False,
            engine="c", na_filter=False, quoting=csv.QUOTE_NONE, skip_blank_lines=False, low_memory=False,
        )

    try:
        return read("float64")
    except ValueError:
        frame = read("object")
        for name in numeric:
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        return frame


def distinct(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """[rows] position of each value among the distinct values, and these, stripped."""
    positions, values = pd.factorize(column.to_numpy(dtype=object))
    return positions, [value.strip() for value in values]
