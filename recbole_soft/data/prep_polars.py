"""Preparation by polars, the extra `prep`: see `prep_engine`.

polars reads what is plain: ASCII ids without blanks, ratings of at most one decimal, whole times. A block that holds
anything else goes through pandas, so that both engines agree about every oddity.
"""

from __future__ import annotations

import re
from typing import TextIO

import numpy as np
import polars as pl

from recbole_soft.data.polars_ids import PolarsIds
from recbole_soft.data.prep_engine import ROWS_PER_WRITE, PrepEngine, RatingBlock, are_whole, rating_texts
from recbole_soft.data.prep_pandas import distinct, parse
from recbole_soft.data.raw_metadata import is_usable_id
from recbole_soft.data.raw_ratings import Ratings

PLAIN_RATING = re.compile(r"\d(\.\d)?", re.ASCII)


class PolarsEngine(PrepEngine):
    """Numbers users with `PolarsIds`."""

    name = "polars"

    def __init__(self) -> None:
        self._users = PolarsIds()

    def read(self, block: bytes, fields: tuple[str, ...]) -> RatingBlock:
        """See the base."""
        is_plain = block.isascii() and b" " not in block
        return (self._read_plain(block, fields) if is_plain else None) or self._read_any(block, fields)

    def write(self, file: TextIO, table: Ratings, item_ids: list[str]) -> None:
        """See the base."""
        user_ids, items = self._users.texts(), pl.Series(item_ids, dtype=pl.String)
        whole_times = are_whole(table.timestamps)
        file.flush()
        for start in range(0, len(table.users), ROWS_PER_WRITE):
            rows = slice(start, start + ROWS_PER_WRITE)
            times = table.timestamps[rows]
            texts, which = rating_texts(table.ratings[rows])
            pl.DataFrame([
                user_ids.gather(table.users[rows]).alias("user"),
                items.gather(table.items[rows]).alias("item"),
                pl.Series("rating", texts, dtype=pl.String).gather(which),
                # Python's own text of a number with decimals; polars' may have other digits.
                pl.Series("time", times.astype(np.int64) if whole_times else list(map(str, times.tolist()))),
            ]).write_csv(file.buffer, include_header=False, separator="\t", quote_style="never")

    def _read_plain(self, block: bytes, fields: tuple[str, ...]) -> RatingBlock | None:
        types = {"user": self._users.type, "rating": pl.String, "timestamp": pl.Int64}
        try:
            frame = pl.read_csv(block, has_header=False, separator=",", quote_char=None,
                                schema={name: types.get(name, pl.String) for name in fields})
        except pl.exceptions.ComputeError:
            return None
        if any(frame[name].null_count() for name in ("user", "item", "rating", "timestamp")):
            return None
        ratings, texts = _numbered(frame["rating"])
        if not all(map(PLAIN_RATING.fullmatch, texts)):
            return None
        items, item_names = _numbered(frame["item"])
        users = self._users.numbers(frame["user"])
        return RatingBlock(users, np.ones(len(users), dtype=bool), items, item_names,
                           np.array(texts, dtype=np.float64)[ratings], frame["timestamp"].to_numpy().astype(np.float64))

    def _read_any(self, block: bytes, fields: tuple[str, ...]) -> RatingBlock:
        frame = parse(block, fields)
        (users, user_names), (items, item_names) = distinct(frame["user"]), distinct(frame["item"])
        numbers = self._users.numbers(pl.Series(user_names, dtype=self._users.type))
        is_usable = np.fromiter(map(is_usable_id, user_names), bool, len(user_names))
        return RatingBlock(numbers[users], is_usable[users], items.astype(np.int32), item_names,
                           frame["rating"].to_numpy("float64"), frame["timestamp"].to_numpy("float64"))


ENGINE = PolarsEngine


def _numbered(column: pl.Series) -> tuple[np.ndarray, list[str]]:
    """[rows] int32 position of each text among the distinct ones, and these."""
    categories = column.cast(pl.Categorical(pl.Categories.random()))
    distinct = categories.unique(maintain_order=True)
    return categories.to_physical().to_numpy().astype(np.int32), distinct.cast(pl.String).to_list()
