"""Interactions out of Amazon's comma-separated ratings files of 2014, 2018 and 2023.

Lines are checked by whole blocks in numpy, so that each bad one is known by its number, and the good ones go
through the parser of pandas or polars (`prep_engine`). Rows of items without a title are counted and left out at
once, which keeps the table small. Does not know the k-core nor the output format.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from recbole_soft.data.core_sieve import CoreSieve, nothing_in_core
from recbole_soft.data.prep_engine import PrepEngine, RatingBlock
from recbole_soft.data.ratings_layout import COLUMNS, detected_order, header_fields
from recbole_soft.data.raw_files import RawFile, lines_where, no_usable_line, well_formed_lines
from recbole_soft.data.raw_metadata import Metadata, is_usable_id
from recbole_soft.errors import DataError

NOT_A_NUMBER = "rating or timestamp that is no number"
TIME_OUT_OF_RANGE = "timestamp out of range"
BAD_ID = "empty or unusable user or item id"
EXPECTED = "lines of user,item,rating,timestamp separated by commas, as in Amazon's ratings-only files"

UNKNOWN_ITEM, UNTITLED_ITEM, UNUSABLE_ITEM = -1, -2, -3
FIRST_MILLISECONDS = 1e11  # as seconds the year 5138, as milliseconds 1973
LATEST_TIMESTAMP = 1e14


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
        outside_core: lines that were never read in, because a count showed them to be outside of the k-core.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    timestamps: np.ndarray
    order: str
    has_header: bool
    unknown_items: int
    untitled_items: int
    outside_core: int = 0

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


def read_ratings(
    file: RawFile, metadata: Metadata, engine: PrepEngine, progress: bool, sieve: CoreSieve | None = None
) -> Ratings:
    """Reads a ratings file in one pass; bad lines go into `file.tally`.

    Args:
        sieve: has counted this file; lines that it does not let pass are left out before they are read any closer.

    Raises:
        DataError: not one usable line, a header without one of the columns, or no item of the metadata.
    """
    reader = _RatingsReader(file, metadata, engine, sieve)
    for first_line, block in file.blocks(progress):
        reader.take(first_line, block)
    return reader.finish()


class _RatingsReader:
    """Grows the table block by block."""

    def __init__(self, file: RawFile, metadata: Metadata, engine: PrepEngine, sieve: CoreSieve | None):
        self.file, self.tally, self.metadata, self.engine, self.sieve = file, file.tally, metadata, engine, sieve
        self.fields: tuple[str, ...] = ()
        self.has_header = False
        self.parts: list[list[np.ndarray]] = [[], [], [], []]
        self.usable = self.unknown_items = self.untitled_items = self.outside_core = 0
        self.example_item = ""

    def take(self, first_line: int, block: bytes) -> None:
        """Adds the good lines of a block."""
        if first_line == 1:
            first, _, others = block.partition(b"\n")
            header = header_fields(first, self.file)
            if header:
                self.fields, self.has_header = header, True
                first_line, block = 2, others
        width = len(self.fields) or len(COLUMNS)
        block, line_numbers = well_formed_lines(block, first_line, width, self.tally)
        if len(line_numbers) == 0:
            return
        if not self.fields:
            self.fields = detected_order(block.split(b"\n"), self.metadata)
        if self.sieve:
            passes = self.sieve.passes(block, width)
            self.outside_core += len(passes) - int(passes.sum())
            block, line_numbers = lines_where(block, passes), line_numbers[passes]
        if len(line_numbers):
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
        if not self.usable and self.outside_core:
            raise nothing_in_core(self.sieve.k, str(self.file.path))
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
        return Ratings(*columns, ",".join(self.fields), self.has_header, self.unknown_items, self.untitled_items,
                       self.outside_core)
