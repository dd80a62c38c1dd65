"""Reads RecBole's atomic files without losing anything.

RecBole's own reader turns titles such as `None` or `NA` into missing values, lets a title that starts with a
double quote swallow the rows after it, and is slow. Here every cell is the text that stands in the file.
Knows nothing of users, items or settings.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from recbole_soft.errors import DataError, nearest


def read_atomic(path: Path, columns: list[str], separator: str = "\t", encoding: str = "utf-8") -> pd.DataFrame:
    """The asked columns of an atomic file, as text, in file order.

    Args:
        path: the file; its first line holds `name:type` cells.
        columns: names (without type) to read, all of which must exist.

    Raises:
        DataError: no header, a missing column, a row with too many cells, or bytes that are no text.
    """
    header = _read_header(path, separator, encoding)
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(
            f"column '{missing[0]}' is missing",
            where=f"{path}, first line; it has: {', '.join(header)}",
            remedy=f"{nearest(missing[0], header)} Name the column in the settings or add it to the file.",
        )
    try:
        frame = pd.read_csv(
            path, sep=separator, header=None, skiprows=1, names=list(header), usecols=columns, dtype=str,
            index_col=False, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding=_plain(encoding),
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(
            f"the file cannot be read: {str(error).strip()}", where=str(path),
            remedy=f"every line needs {len(header)} cells separated by {separator!r}, in {encoding}",
        ) from error
    return frame[columns]


def columns_of(path: Path, separator: str = "\t", encoding: str = "utf-8") -> list[str]:
    """Names of the columns of an atomic file, without their types."""
    return list(_read_header(path, separator, encoding))


def to_numbers(column: pd.Series, path: Path) -> pd.Series:
    """Text cells as float64.

    Raises:
        DataError: a cell that is no number, with its line.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    bad = numbers.isna().to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"'{column.iloc[row]}' in column '{column.name}' is not a number ({int(bad.sum())} such rows)",
            where=f"{path}, line {row + 2}", remedy="give every row a number, or drop the row",
        )
    return numbers.astype("float64")


def _read_header(path: Path, separator: str, encoding: str) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"there is no file {path.name}", where=str(path.parent),
                        remedy="give the folder that holds NAME/NAME.inter as data_path")
    try:
        with open(path, encoding=_plain(encoding)) as file:
            cells = file.readline().rstrip("\r\n").split(separator)
    except UnicodeDecodeError as error:
        raise DataError(f"the file is not {encoding} text", where=str(path), remedy="save it as UTF-8") from error
    if not all(":" in cell for cell in cells):
        raise DataError(
            "the first line is not a header of name:type cells", where=str(path),
            remedy="an atomic file starts with a line such as user_id:token<TAB>item_id:token<TAB>timestamp:float",
        )
    return dict(cell.rsplit(":", 1) for cell in cells)


def _plain(encoding: str) -> str:
    """UTF-8 with or without a byte-order mark is the same to us."""
    return "utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding
