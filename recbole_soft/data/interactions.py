"""NAME.inter as a table of user, item and time.

Users and items are pandas categories: a small number per row, and every text once. That is a tenth of the memory that
columns of text take, and whatever counts or compares them works on numbers. `as_text` gives columns of text, on which
RecBole's own steps work whatever the settings are. Knows nothing of settings, filters or windows.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from recbole_soft.data.atomic import columns_of, is_plain, no_number, read_atomic, read_atomic_in_pieces, to_numbers
from recbole_soft.data.repeats import repeated_rows

# Below, pandas' reader of integers cannot have rounded away a decimal.
SURELY_EXACT = 2**48


class InteractionColumns(NamedTuple):
    """Names of the columns."""

    user: str
    item: str
    time: str


def read_interactions(
    path: Path, columns: InteractionColumns, separator: str = "\t", encoding: str = "utf-8", as_text: bool = False
) -> tuple[pd.DataFrame, int]:
    """All rows with a user and an item in file order, and how many rows the file has.

    Args:
        as_text: ids as text, not as categories of texts.

    Returns:
        Columns in the order of `columns`, times as float64; the number of rows, those without an id included.

    Raises:
        DataError: see `read_atomic`; or a time that is no finite number.
    """
    if as_text:
        frame = read_atomic(path, list(columns), separator, encoding)
        has_ids = (frame[columns.user] != "") & (frame[columns.item] != "")
        kept = frame[has_ids].copy()
        kept[columns.time] = to_numbers(kept[columns.time], path)
        return kept, len(frame)
    if find_spec("polars") is not None and (found := _by_polars(path, columns, separator, encoding)) is not None:
        return found
    try:  # whole numbers, as most files have: then no cell of the column becomes a text first
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # pandas warns of numbers that fit no integer
            return _in_pieces(path, columns, read_atomic_in_pieces(path, list(columns), separator, encoding, {
                columns.time: np.int64}))
    except (ValueError, OverflowError, RuntimeWarning):
        return _in_pieces(path, columns, read_atomic_in_pieces(path, list(columns), separator, encoding))


def _in_pieces(path: Path, columns: InteractionColumns, pieces: Iterator[pd.DataFrame]) -> tuple[pd.DataFrame, int]:
    users, items, times = _Numbers(), _Numbers(), _Times(columns.time)
    rows = 0
    for piece in pieces:
        rows += len(piece)
        kept = piece[(piece[columns.user] != "") & (piece[columns.item] != "")]
        users.add(kept[columns.user])
        items.add(kept[columns.item])
        times.add(kept[columns.time])
    return pd.DataFrame({columns.user: users.column(), columns.item: items.column(), columns.time: times.column(path)},
                        copy=False), rows


def _by_polars(
    path: Path, columns: InteractionColumns, separator: str, encoding: str
) -> tuple[pd.DataFrame, int] | None:
    """What polars makes of a file that is plain throughout, several times faster; None of any other."""
    if not is_plain(path, separator, encoding):
        return None
    from recbole_soft.data.polars_table import read_plain_table

    table = read_plain_table(path, columns_of(path, separator, encoding), columns, separator)
    if table is None:
        return None
    (users, user_ids), (items, item_ids), times, rows = table
    return pd.DataFrame({columns.user: _categories(users, user_ids), columns.item: _categories(items, item_ids),
                         columns.time: times}, copy=False), rows


class _Numbers:
    """Grows a column of categories; texts are numbered in the order in which they come."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._parts: list[np.ndarray] = []

    def add(self, texts: pd.Series) -> None:
        places, distinct = pd.factorize(texts.to_numpy(dtype=object))
        known = self._number_of
        numbers = np.fromiter((known.setdefault(text, len(known)) for text in distinct), np.int32, len(distinct))
        self._parts.append(numbers[places])

    def column(self) -> pd.Categorical:
        numbers = np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.int32)
        return _categories(numbers, list(self._number_of))


def _categories(numbers: np.ndarray, texts: list[str]) -> pd.Categorical:
    # Texts as Python's own: `Index` would look for numbers and dates among them.
    return pd.Categorical.from_codes(numbers, categories=pd.Index(np.array(texts, dtype=object), dtype=object))


class _Times:
    """Grows a column of numbers, and remembers the first cell that is none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._parts: list[np.ndarray] = []
        self._bad, self._first_bad = 0, ("", 0)

    def add(self, texts: pd.Series) -> None:
        if texts.dtype == np.int64 and len(texts) and texts.abs().max() >= SURELY_EXACT:
            raise ValueError("pandas' reader of integers takes numbers with decimals, too, and rounds large ones")
        numbers = pd.to_numeric(texts, errors="coerce").to_numpy("float64")
        is_bad = ~np.isfinite(numbers)
        if is_bad.any() and not self._bad:
            place = int(is_bad.argmax())
            self._first_bad = texts.iloc[place], int(texts.index[place])
        self._bad += int(is_bad.sum())
        self._parts.append(numbers)

    def column(self, path: Path) -> np.ndarray:
        if self._bad:
            raise no_number(self._name, *self._first_bad, self._bad, path)
        return np.concatenate(self._parts) if self._parts else np.zeros(0)


def is_repeated(frame: pd.DataFrame) -> np.ndarray:
    """[rows] bool: whether an earlier row of what `read_interactions` gave is equal in all columns."""
    user, item, time = frame.columns
    if not isinstance(frame[user].dtype, pd.CategoricalDtype):
        return frame.duplicated().to_numpy()
    return repeated_rows(frame[user].cat.codes.to_numpy(), frame[item].cat.codes.to_numpy(), frame[time].to_numpy())


def replaced(column: pd.Series, old: pd.Series, new: pd.Series) -> pd.Series:
    """A column in which every text of `old` is the text of `new` at the same place; `new` holds texts of `old` only."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return column.map(dict(zip(old, new, strict=True)))
    number_of = pd.Series(np.arange(len(column.cat.categories)), index=column.cat.categories)
    new_numbers = np.zeros(len(number_of), dtype=np.int32)
    new_numbers[number_of.loc[old].to_numpy()] = number_of.loc[new].to_numpy()
    numbers = new_numbers[column.cat.codes.to_numpy()]
    return pd.Series(pd.Categorical.from_codes(numbers, categories=column.cat.categories), index=column.index)
