"""Lines of a large ratings file that cannot be in the k-core, known before a table is made of them.

One pass over the file counts lines per user and per item in arrays of fixed size: an id goes by its hash to one of many
buckets, and a bucket's count stops at 255. The pass that reads the ratings then takes only lines whose two buckets have
reached k, so users, items and rows outside of any k-core never take memory.

Why nothing is lost: a line of the k-core has a user and an item with at least k lines in the k-core. The file holds
these lines and maybe more (repeated ones, those of items without title, those with a bad number), and other ids may
share the bucket, so both buckets count at least k: counts are never too small. Hence every line of the k-core passes,
by induction in every further pass, which counts the lines that passed before. What passes too much is taken away by
the exact k-core (`amazon.k_core_mask`): the k-core of a table and of any part of it that holds the k-core are the
same. The files that are written are the same bytes; only what the manifest says about dropped lines is divided
otherwise.

Knows neither ratings nor titles.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from recbole_soft.data.ratings_layout import COLUMNS, header_fields
from recbole_soft.data.raw_files import COMMA, NEWLINE, RawFile, well_formed_lines
from recbole_soft.errors import DataError

WORTH_FROM_BYTES = 200 << 20  # below, the whole table is small
BUCKET_BITS = 26  # 64 MiB per column
MOST_COUNTS = 3
WORTH_COUNTING_AGAIN = 0.25  # share of the lines that the last count dropped
HASHED_BYTES = 32  # longer ids go by their beginning and length; Amazon's have 10 to 28
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(32)

logger = logging.getLogger(__name__)


class CoreSieve:
    """Says which lines and items may be in the k-core.

    Attributes:
        k: of the k-core.
        first_ids: ids of the file's first good lines, by which the order of its columns is told.
    """

    def __init__(self, k: int, bucket_bits: int):
        """Args: k: from 2 to 255. bucket_bits: there are 2 to this power buckets per column."""
        self.k, self._bits = k, bucket_bits
        self.first_ids: set[str] = set()
        self._columns = (0, 1)
        self._item_columns: tuple[int, ...] = (0, 1)  # without header, either may hold the items
        self._enough: list[np.ndarray] = []  # [2 to the bits] bool per column: whether a bucket has reached k

    def count(self, file: RawFile, progress: bool) -> None:
        """Counts the file's lines, again as long as that drops many more.

        Raises:
            DataError: a header without one of the columns.
        """
        passed = 0
        for number in range(1, MOST_COUNTS + 1):
            before, passed = passed, self._count_once(file, progress, number)
            if number > 1 and before - passed < WORTH_COUNTING_AGAIN * before:
                break

    def passes(self, block: bytes, width: int) -> np.ndarray:
        """[lines] bool: which lines may be in the k-core.

        Args:
            block: well-formed lines (`well_formed_lines`) of `width` cells.
        """
        return self._passes(self._buckets(block, width))

    def may_be_items(self, ids: Sequence[str]) -> np.ndarray:
        """[ids] bool: which items may be in the k-core, or are needed to tell the columns apart."""
        block = ("\n".join(ids) + "\n").encode()
        buckets = self._bucket_of(cell_hashes(block, 1, 0)) if ids else np.zeros(0, dtype=np.int64)
        wanted = np.fromiter((identifier in self.first_ids for identifier in ids), bool, len(ids))
        for column in self._item_columns:
            wanted |= self._enough[column][buckets]
        return wanted

    def _count_once(self, original: RawFile, progress: bool, number: int) -> int:
        """Counts the lines that pass the count before; returns how many these are."""
        file = RawFile(original.path, original.role)  # a tally of its own: lines are judged when they are read
        counts = [np.zeros(1 << self._bits, dtype=np.uint8) for _ in self._columns]
        fields, width, passed = (), len(COLUMNS), 0
        for first_line, block in file.blocks(progress, f"count {number} of "):
            if first_line == 1:
                first, _, others = block.partition(b"\n")
                fields = header_fields(first, file)
                if fields:
                    first_line, block, width = 2, others, len(fields)
                    self._columns = fields.index("user"), fields.index("item")
                    self._item_columns = (1,)
            block, line_numbers = well_formed_lines(block, first_line, width, file.tally)
            if len(line_numbers) == 0:
                continue
            if not self.first_ids and not fields:
                self.first_ids = {cell.strip() for line in block.decode().split("\n")[:-1]
                                  for cell in line.split(",")[:2]}
            buckets = self._buckets(block, width)
            if self._enough:
                passes = self._passes(buckets)
                buckets = [column[passes] for column in buckets]
            for column, of_column in zip(buckets, counts, strict=True):
                add_saturating(of_column, column)
            passed += len(buckets[0])
        self._enough = [of_column >= self.k for of_column in counts]
        return passed

    def _buckets(self, block: bytes, width: int) -> list[np.ndarray]:
        return [self._bucket_of(cell_hashes(block, width, column)) for column in self._columns]

    def _bucket_of(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> np.uint64(64 - self._bits)).astype(np.int64)

    def _passes(self, buckets: list[np.ndarray]) -> np.ndarray:
        return self._enough[0][buckets[0]] & self._enough[1][buckets[1]]


def make_sieve(file: RawFile, k_core: int | None, paper_k: int, progress: bool) -> CoreSieve | None:
    """A sieve that has counted, or None where all rows are wanted or the file is small; says so in the log.

    Args:
        k_core: what will be written, None for everything.
        paper_k: the k-core whose size is always told; the sieve keeps this one, too.
    """
    k = min(k_core or 0, paper_k)
    if file.size < WORTH_FROM_BYTES or k < 2:  # a single line is enough for k = 1
        if file.size >= WORTH_FROM_BYTES:
            logger.info("%s: all interactions are kept in memory; --k_core=%d would need far less", file.path, paper_k)
        return None
    sieve = CoreSieve(k, BUCKET_BITS)
    logger.info("%s is large: users and items are counted first, and lines outside of any %d-core never read in",
                file.path, k)
    sieve.count(file, progress)
    return sieve


def nothing_in_core(k: int, where: str) -> DataError:
    """The error for ratings of which no line is left."""
    return DataError(f"nothing is left after the {k}-core", where=where, remedy="use a lower k_core")


def add_saturating(counts: np.ndarray, buckets: np.ndarray) -> None:
    """Adds 1 to `counts` ([buckets] uint8) for each of `buckets`, which may repeat; counts stop at 255."""
    distinct, times = np.unique(buckets, return_counts=True)
    counts[distinct] = np.minimum(counts[distinct] + times, 255)


def cell_hashes(block: bytes, width: int, column: int) -> np.ndarray:
    """[lines] uint64 hash of one cell per line without the blanks around it: equal for equal ids, in any process.

    Args:
        block: lines of `width` cells with commas between, each ending in a newline.
        column: which cell, from 0.
    """
    if b" " in block or not block.isascii():
        # Python knows all blanks that readers of the ids strip.
        lines = block.decode().split("\n")[:-1]
        cells = [(line.split(",")[column] if width > 1 else line).strip() for line in lines]
        block, width, column = ("\n".join(cells) + "\n").encode(), 1, 0
    padded = np.frombuffer(block + bytes(HASHED_BYTES), dtype=np.uint8)
    is_end = padded == NEWLINE
    if width > 1:
        is_end |= padded == COMMA
    ends_of_cells = np.flatnonzero(is_end).reshape(-1, width)
    ends = ends_of_cells[:, column]
    starts = ends_of_cells[:, column - 1] + 1 if column else np.concatenate([[0], ends_of_cells[:-1, -1] + 1])
    lengths = (ends - starts).astype(np.uint64)
    # The eight bytes from every byte on, as a number.
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded.data, strides=(1,))
    hashes = lengths * MULTIPLIER
    longest = int(lengths.max(initial=0))
    for offset in range(0, min(longest, HASHED_BYTES), 8):
        missing = 8 - np.clip(lengths.astype(np.int64) - offset, 0, 8)
        left = missing < 8
        own = words[starts + offset * left] & (~np.uint64(0) >> (8 * (missing % 8)).astype(np.uint64))
        hashes = np.where(left, _mixed(hashes ^ own), hashes)
    return _mixed(hashes)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ (hashes >> HALF)) * MULTIPLIER
    return (hashes ^ (hashes >> HALF)) * MULTIPLIER
