"""Interactions out of Amazon's comma-separated ratings files of 2014, 2018 and 2023.

Lines are checked by whole blocks in numpy, so that each bad one is known by its number, and the good ones go
through the parser of pandas or polars (`prep_engine`). Rows of items without a title are counted and left out at
once, which keeps the table small. Does not know the k-core nor the output format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recbole_soft.data.prep_engine import PrepEngine, RatingBlock
from recbole_soft.data.raw_files import RawFile, no_usable_line, well_formed_lines
from recbole_soft.data.raw_metadata import Metadata, is_usable_id
from recbole_soft.errors import DataError

COLUMNS = ("user", "item", "rating", "timestamp")
ALIASES = {
    "user": ("user_id", "user", "reviewerid"),
    "item": ("parent_asin", "item_id", "item", "asin"),
    "rating": ("rating", "overall"),
    "timestamp": ("timestamp", "unixreviewtime", "time"),
}
NOT_A_NUMBER = "rating or timestamp that is no number"
TIME_OUT_OF_RANGE = "timestamp out of range"
BAD_ID = "empty or unusable user or item id"
EXPECTED = "lines of user,item,rating,timestamp separated by commas, as in Amazon's ratings-only files"

UNKNOWN_ITEM, UNTITLED_ITEM, UNUSABLE_ITEM = -1, -2, -3
FIRST_MILLISECONDS = 1e11  # as seconds the year 5138, as milliseconds 1973
LATEST_TIMESTAMP = 1e14
ASIN_LENGTH = 10


@dataclass
class Ratings:
    """Interactions with titled items, in file order, with what was left out.

    Attributes:
        users: [rows] int32 user numbers of the engine that read them.
        items: [rows] int32 rows of the metadata.
        ratings: [rows] float32.
        timestamps: [rows] float64 as in the file; `unit` says what they count.
        unit: `s` or `ms`.
        order: columns as found, such as `item,user,rating,timestamp`.
        has_header: whether the first line named the columns.
        unknown_items, untitled_items: interactions left out because of their item.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    timestamps: np.ndarray
    order: str
    has_header: bool
    unknown_items: int
    untitled_items: int

    @property
    def unit(self) -> str:
        return "ms" if np.median(self.timestamps) >= FIRST_MILLISECONDS else "s"

    @property
    def in_other_unit(self) -> int:
        """Rows whose timestamp looks like the other unit: a file should hold one unit only."""
        in_milliseconds = int((self.timestamps >= FIRST_MILLISECONDS).sum())
        return len(self.timestamps) - in_milliseconds if self.unit == "ms" else in_milliseconds

    def keep(self, mask: np.ndarray) -> Ratings:
        """The rows of `mask` ([rows] bool); user numbers stay as they are."""
        return replace(self, users=self.users[mask], items=self.items[mask], ratings=self.ratings[mask],
                       timestamps=self.timestamps[mask])


def read_ratings(file: RawFile, metadata: Metadata, engine: PrepEngine, progress: bool) -> Ratings:
    """Reads a ratings file in one pass; bad lines go into `file.tally`.

    Raises:
        DataError: not one usable line, a header without one of the columns, or no item of the metadata.
    """
    reader = _RatingsReader(file, metadata, engine)
    for first_line, block in file.blocks(progress):
        reader.take(first_line, block)
    return reader.finish()


class _RatingsReader:
    """Grows the table block by block."""

    def __init__(self, file: RawFile, metadata: Metadata, engine: PrepEngine):
        self.file, self.tally, self.metadata, self.engine = file, file.tally, metadata, engine
        self.fields: tuple[str, ...] = ()
        self.has_header = False
        self.parts: list[list[np.ndarray]] = [[], [], [], []]
        self.usable = self.unknown_items = self.untitled_items = 0
        self.example_item = ""

    def take(self, first_line: int, block: bytes) -> None:
        """Adds the good lines of a block."""
        if first_line == 1:
            first, _, others = block.partition(b"\n")
            header = _header_fields(first, self.file)
            if header:
                self.fields, self.has_header = header, True
                first_line, block = 2, others
        width = len(self.fields) or len(COLUMNS)
        block, line_numbers = well_formed_lines(block, first_line, width, self.tally)
        if len(line_numbers) == 0:
            return
        if not self.fields:
            self.fields = _detected_order(block.split(b"\n"), self.metadata)
        self._add(self.engine.read(block, self.fields), line_numbers)

    def _add(self, block: RatingBlock, line_numbers: np.ndarray) -> None:
        ratings, times = block.ratings, block.times
        rows = map(self.metadata.row_of.get, block.item_names)
        item_rows = np.array([self._row_without_title(name) if row is None else row
                              for name, row in zip(block.item_names, rows, strict=True)], dtype=np.int32)[block.items]

        bad_number = ~(np.isfinite(ratings) & np.isfinite(times))
        bad_time = ~bad_number & ((times < 0) | (times >= LATEST_TIMESTAMP))
        bad_id = ~bad_number & ~bad_time & (~block.user_is_usable | (item_rows == UNUSABLE_ITEM))
        for reason, bad in ((NOT_A_NUMBER, bad_number), (TIME_OUT_OF_RANGE, bad_time), (BAD_ID, bad_id)):
            self.tally.reject(reason, line_numbers[bad])

        usable = ~(bad_number | bad_time | bad_id)
        self.usable += int(usable.sum())
        self.unknown_items += int((usable & (item_rows == UNKNOWN_ITEM)).sum())
        self.untitled_items += int((usable & (item_rows == UNTITLED_ITEM)).sum())
        if not self.example_item and usable.any():
            self.example_item = block.item_names[block.items[usable.argmax()]]
        kept = usable & (item_rows >= 0)
        columns = (block.users[kept], item_rows[kept], ratings[kept].astype(np.float32), times[kept])
        for parts, column in zip(self.parts, columns, strict=True):
            parts.append(column)

    def _row_without_title(self, item: str) -> int:
        if item in self.metadata.untitled:
            return UNTITLED_ITEM
        return UNKNOWN_ITEM if is_usable_id(item) else UNUSABLE_ITEM

    def finish(self) -> Ratings:
        if not self.usable:
            raise no_usable_line(self.file, EXPECTED)
        columns = []
        for parts in self.parts:  # one after the other, so that parts and whole are there for one column at a time
            columns.append(np.concatenate(parts))
            parts.clear()
        if len(columns[0]) == 0:
            raise DataError(
                f"no rated item has a title: of {self.usable:,} interactions, {self.unknown_items:,} are "
                f"with items not in the metadata and {self.untitled_items:,} with items without a title",
                where=f"{self.file.path} (taken as {','.join(self.fields)}; an item: {self.example_item})",
                remedy="give the ratings and the metadata of the same category and edition",
            )
        return Ratings(*columns, ",".join(self.fields), self.has_header, self.unknown_items, self.untitled_items)


def _header_fields(line: bytes, file: RawFile) -> tuple[str, ...]:
    """Our column name for each cell of a header (`-1`, ... for others); empty when the line is no header."""
    cells = [cell.strip().strip('"').strip().lower() for cell in line.decode("utf-8", "replace").split(",")]
    found = {
        # Of several aliases the first listed one counts: it comes last here.
        name: cells.index(alias)
        for name in COLUMNS for alias in reversed(ALIASES[name]) if alias in cells
    }
    missing = [name for name in COLUMNS if name not in found]
    if len(missing) > len(COLUMNS) // 2:
        return ()
    if missing:
        raise DataError(f"the header of the ratings file has no column for the {missing[0]}",
                        where=f"{file.path}, line 1: {','.join(cells)}",
                        remedy=f"name it {ALIASES[missing[0]][0]}")
    fields = [f"-{position}" for position in range(len(cells))]
    for name, position in found.items():
        fields[position] = name
    file.tally.read += 1
    return tuple(fields)


def _detected_order(lines: Sequence[bytes], metadata: Metadata) -> tuple[str, ...]:
    """Which of the first two columns holds the items: users come first in 2014, items in 2018."""
    cells = [line.decode("utf-8").split(",", 2)[:2] for line in lines if line]

    def item_share(column: int) -> tuple[float, float]:
        names = {row[column].strip() for row in cells}
        in_metadata = sum(name in metadata.row_of or name in metadata.untitled for name in names)
        return in_metadata / len(names), sum(len(name) == ASIN_LENGTH for name in names) / len(names)

    item_first = item_share(0) > item_share(1)
    return ("item", "user", "rating", "timestamp") if item_first else COLUMNS
