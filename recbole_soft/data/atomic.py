"""Reads RecBole's atomic files without losing anything.

RecBole's own reader turns titles such as `None` or `NA` into missing values, lets a title that starts with a
double quote swallow the rows after it, and is slow. Here every cell is the text that stands in the file.
Knows nothing of users, items or settings.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_soft.errors import DataError, nearest

PIECE_ROWS = 1 << 19
BLOCK_BYTES = 1 << 23
NEWLINE, CARRIAGE_RETURN = b"\n"[0], b"\r"[0]


def read_atomic(path: Path, columns: list[str], separator: str = "\t", encoding: str = "utf-8") -> pd.DataFrame:
    """The asked columns of an atomic file, as text, in file order.

    Args:
        path: the file; its first line holds `name:type` cells.
        columns: names (without type) to read, all of which must exist.

    Raises:
        DataError: no header, a missing column, a row with too many or too few cells, or bytes that are no text.
    """
    pieces = list(_pieces(path, columns, separator, encoding, dtype=str))
    return pieces[0][columns] if pieces else pd.DataFrame({name: pd.Series(dtype=str) for name in columns})


def read_atomic_in_pieces(
    path: Path, columns: list[str], separator: str = "\t", encoding: str = "utf-8",
    types: Mapping[str, type] | None = None, rows: int = PIECE_ROWS,
) -> Iterator[pd.DataFrame]:
    """The same some rows after the others; the index goes on from piece to piece.

    Args:
        types: by name of a column; the others are Python's texts.

    Raises:
        DataError: as `read_atomic`.
        ValueError: a cell is not of its type.
    """
    dtype = dict.fromkeys(columns, object) | dict(types or {})
    for piece in _pieces(path, columns, separator, encoding, dtype=dtype, chunksize=rows):
        yield piece[columns]


def _pieces(path: Path, columns: list[str], separator: str, encoding: str, **options) -> Iterator[pd.DataFrame]:
    """What pandas reads with these options; a single piece where no `chunksize` is among them."""
    header = _read_header(path, separator, encoding)
    require_columns(path, dict.fromkeys(columns, ""), separator, encoding)
    try:
        _check_cells(path, len(header), separator, encoding)
        found = pd.read_csv(
            path, **_separated_by(separator), header=None, skiprows=1, names=list(header), usecols=columns,
            index_col=False, keep_default_na=False, quoting=csv.QUOTE_NONE, encoding=_plain(encoding), **options,
        )
        if isinstance(found, pd.DataFrame):
            yield found
            return
        with found:
            yield from found
    except pd.errors.EmptyDataError:
        return
    except UnicodeDecodeError as error:
        raise _no_text(path, encoding, error) from error
    except pd.errors.ParserError as error:
        raise DataError(
            f"the file cannot be read: {str(error).strip()}", where=str(path),
            remedy=f"every line needs {len(header)} cells separated by {separator!r}, in {encoding}",
        ) from error


def require_columns(path: Path, setting_of: Mapping[str, str], separator: str = "\t", encoding: str = "utf-8") -> None:
    """Raises DataError where a column is missing.

    Args:
        path: an atomic file.
        setting_of: by name of a column, the setting that names it (or nothing), for the remedy.
        separator, encoding: of the file.
    """
    header = _read_header(path, separator, encoding)
    for name, setting in setting_of.items():
        if name in header:
            continue
        suggestion = nearest(name, header)
        remedy = f"{suggestion} " if suggestion.startswith("did you mean") else ""
        remedy += f"name the column: --{setting}=NAME, or add it" if setting else "add the column"
        raise DataError(f"column '{name}' is missing", f"{path}, first line; it has: {', '.join(header)}", remedy)


def columns_of(path: Path, separator: str = "\t", encoding: str = "utf-8") -> list[str]:
    """Names of the columns of an atomic file, without their types."""
    return list(_read_header(path, separator, encoding))


def to_numbers(column: pd.Series, path: Path) -> pd.Series:
    """Text cells as float64.

    Raises:
        DataError: a cell that is no finite number, with its line.
    """
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    bad = ~np.isfinite(numbers.to_numpy())
    if bad.any():
        row = int(bad.argmax())
        raise no_number(column.name, column.iloc[row], int(column.index[row]), int(bad.sum()), path)
    return numbers


def no_number(column: str, text: str, row: int, count: int, path: Path) -> DataError:
    """The error for `count` cells of a column that are no finite number, the first being `text` in a row (from 0)."""
    return DataError(f"'{text}' in column '{column}' is not a finite number ({count} such rows)",
                     where=f"{path}, line {row + 2}", remedy="give every row a number, or drop the row")


def is_plain(path: Path, separator: str = "\t", encoding: str = "utf-8") -> bool:
    """Whether a file surely has even lines, each ended by a newline, in UTF-8 without a byte-order mark."""
    header = _read_header(path, separator, encoding)
    with open(path, "rb") as file:
        return file.read(3) != codecs.BOM_UTF8 and _has_even_lines(path, len(header), separator, encoding)


def _separated_by(separator: str) -> dict[str, str]:
    """pandas takes more than one character for a regular expression, which its quicker engine does not know."""
    return {"sep": separator} if len(separator) == 1 else {"sep": re.escape(separator), "engine": "python"}


def _read_header(path: Path, separator: str, encoding: str) -> dict[str, str]:
    if not path.is_file():
        raise DataError(f"there is no file {path.name}", where=str(path.parent),
                        remedy="give the folder that holds NAME/NAME.inter as data_path")
    try:
        with open(path, encoding=_plain(encoding)) as file:
            cells = file.readline().rstrip("\r\n").split(separator)
    except UnicodeDecodeError as error:
        raise _no_text(path, encoding, error) from error
    except UnicodeError as error:  # UTF-16 without its mark
        raise DataError(f"the file is not {encoding} text ({error})", where=str(path),
                        remedy="save it as UTF-8, or name its encoding with --encoding") from error
    except LookupError as error:
        raise DataError(f"{error}", where=f"encoding={encoding}",
                        remedy="name an encoding of texts, for instance --encoding=utf-8 or latin-1") from error
    if len(cells) == 1 and cells[0].count(":") > 1:
        raise DataError("the first line is a single cell", where=f"{path}: {cells[0][:80]}",
                        remedy="separate the cells by tabs, or name what separates them, for instance "
                               "--field_separator=,")
    if not all(":" in cell for cell in cells):
        raise DataError(
            "the first line is not a header of name:type cells", where=str(path),
            remedy="an atomic file starts with a line such as user_id:token<TAB>item_id:token<TAB>timestamp:float",
        )
    names = [cell.rsplit(":", 1)[0] for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"column '{twice}' is there twice", where=f"{path}, first line", remedy="rename one of them")
    return dict(cell.rsplit(":", 1) for cell in cells)


def _check_cells(path: Path, cells: int, separator: str, encoding: str) -> None:
    """A line with another number of cells than the first: a tab or a line break inside a title, most often.

    pandas would cut such a line or fill it up, and the item would go by another title.
    """
    if _has_even_lines(path, cells, separator, encoding):
        return
    with open(path, encoding=_plain(encoding)) as file:
        if set(map(str.count, file, repeat(separator))) <= {cells - 1}:
            return
        file.seek(0)
        for number, line in enumerate(file, 1):
            if line.strip("\r\n") and line.count(separator) != cells - 1:
                typed = separator.encode("unicode_escape").decode()
                raise DataError(
                    f"a line has {line.count(separator) + 1} cells, the first line has {cells}",
                    where=f"{path}, line {number}: {line.strip()[:80]}",
                    remedy="take the tab or line break out of the text, or drop all such lines: "
                           f"awk -F'{typed}' 'NF=={cells}' {path.name} > mended && mv mended {path.name}")


def _has_even_lines(path: Path, cells: int, separator: str, encoding: str) -> bool:
    """Whether all lines surely have that many cells: a look at bytes, several times faster than lines of text.

    Separators and line ends have to take turns in one pattern. What is not so plain (blank lines, carriage returns,
    other encodings, a last line that has no end) is for the slower check to say.
    """
    if _plain(encoding) != "utf-8-sig" or len(separator) != 1 or not separator.isascii():
        return False
    pattern = np.array([ord(separator)] * (cells - 1) + [NEWLINE], dtype=np.uint8)
    place = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            bytes_ = np.frombuffer(block, dtype=np.uint8)
            if (bytes_ == CARRIAGE_RETURN).any():
                return False
            marks = bytes_[(bytes_ == ord(separator)) | (bytes_ == NEWLINE)]
            if (marks != np.resize(np.roll(pattern, -place), len(marks))).any():
                return False
            place = (place + len(marks)) % cells
    return place == 0


def _no_text(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    return DataError(f"the file is not {encoding} text ({error.reason}: byte 0x{error.object[error.start]:02x})",
                     where=str(path), remedy="save it as UTF-8, or name its encoding, for instance --encoding=latin-1")


def _plain(encoding: str) -> str:
    """UTF-8 with or without a byte-order mark is the same to us."""
    return "utf-8-sig" if encoding.lower().replace("-", "") == "utf8" else encoding
