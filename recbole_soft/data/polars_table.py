"""A plain NAME.inter read by polars (the extra `prep`), block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recbole_soft.data.polars_ids import PolarsIds

BLOCK_BYTES = 32 << 20
Numbered = tuple[np.ndarray, list[str]]
"""[rows] int32 numbers, and the text of each number."""


def read_plain_table(
    path: Path, header: Sequence[str], columns: Sequence[str], separator: str
) -> tuple[Numbered, Numbered, np.ndarray, int] | None:
    """Users, items, times (float64) and number of all rows; None where a cell is empty or a time is not whole.

    Args:
        path: a file of even lines, each ended by a newline (`atomic.is_plain`).
        header: names of its columns.
        columns: the names of user, item and time among them.
    """
    user, item, time = columns
    users, items = PolarsIds(), PolarsIds()
    types = {user: users.type, item: items.type, time: pl.Int64}
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for block in _blocks(path):
        try:
            frame = pl.read_csv(block, has_header=False, separator=separator, quote_char=None,
                                schema={name: types.get(name, pl.String) for name in header}).select(columns)
        except pl.exceptions.ComputeError:
            return None
        if any(frame[name].null_count() for name in columns):
            return None
        parts.append((users.numbers(frame[user]), items.numbers(frame[item]),
                      frame[time].to_numpy().astype(np.float64)))
    if not parts:
        return None
    numbers = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return (numbers[0], users.texts().to_list()), (numbers[1], items.texts().to_list()), numbers[2], len(numbers[0])


def _blocks(path: Path) -> Iterator[bytes]:
    """The lines below the first one, some megabytes of whole lines at once."""
    with open(path, "rb") as file:
        file.readline()
        carried = b""
        while block := file.read(BLOCK_BYTES):
            cut = block.rfind(b"\n") + 1
            if cut:
                yield carried + block[:cut]
                carried = block[cut:]
            else:
                carried += block
