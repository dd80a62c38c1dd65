"""Seeded data shaped like Amazon's Kindle store, written some rows after the others at the speed of the disk.

Items are met by a power law, users come by one, in no order; ids, titles, times and metadata have the length and form
of the real ones. What is made: raw files as `prepare` reads them, and atomic files as they are after the 10-core.
Nothing here is measured.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

ROWS_AT_ONCE = 500_000
TITLES_AT_ONCE = 50_000
LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", dtype=np.uint8)
FIRST_MS, LAST_MS = 1_230_768_000_000, 1_694_000_000_000  # 2009 to 2023
RATING_SHARES = (0.03, 0.03, 0.08, 0.2, 0.66)
REPEATED_ROWS, REPEATED_TITLES, EMPTY_TITLES = 0.01, 0.04, 0.03
BROKEN_LINE = b"AEBROKENLINE,B0BROKEN,five stars\n"
VOCABULARY = 20_000
# Exponents by which the 10-core has about Kindle's size.
USER_EXPONENT, ITEM_EXPONENT = 0.57, 0.75


@dataclass(frozen=True)
class Scale:
    """How much data; 1 is Kindle."""

    factor: float

    def _of(self, kindle: int) -> int:
        return max(1, round(kindle * self.factor))

    @property
    def raw_rows(self) -> int:
        return self._of(25_600_000)

    @property
    def raw_users(self) -> int:
        return self._of(5_600_000)

    @property
    def raw_items(self) -> int:
        return self._of(1_590_000)

    @property
    def rows(self) -> int:
        return self._of(2_155_790)

    @property
    def users(self) -> int:
        return self._of(76_691)

    @property
    def items(self) -> int:
        return self._of(61_528)


def write_raw(folder: Path, scale: Scale, seed: int = 0) -> tuple[Path, Path]:
    """Ratings (csv.gz) and metadata (jsonl.gz); files that are there are taken as they are."""
    ratings, metadata = folder / "ratings.csv.gz", folder / "metadata.jsonl.gz"
    _write_once(ratings, _packed(_rating_lines(scale, np.random.default_rng(seed))))
    _write_once(metadata, _packed(_metadata_lines(scale, np.random.default_rng(seed + 1))))
    return ratings, metadata


def write_atomic(folder: Path, name: str, scale: Scale, seed: int = 0) -> Path:
    """`folder/name/name.inter` and `.item`: few users or items have less than ten interactions."""
    target = folder / name
    _write_once(target / f"{name}.item", _item_lines(scale.items, np.random.default_rng(seed + 1)))
    _write_once(target / f"{name}.inter", _inter_lines(scale, np.random.default_rng(seed)))
    return folder


def titles_of(count: int, seed: int = 0) -> Iterator[list[str]]:
    """Titles, some thousand at once; some come more than once, some words are HTML entities."""
    rng = np.random.default_rng(seed)
    words = _vocabulary(rng)
    for first in range(0, count, TITLES_AT_ONCE):
        size = min(TITLES_AT_ONCE, count - first)
        lengths = 2 + rng.poisson(4.5, size)
        drawn = iter(words[_power_law(rng, VOCABULARY, 0.9, int(lengths.sum()))].tolist())
        titles = [" ".join([next(drawn) for _ in range(length)]) for length in lengths.tolist()]
        for place in np.flatnonzero(rng.random(size) < REPEATED_TITLES).tolist():
            titles[place] = titles[place // 2]
        yield titles


def _write_once(path: Path, blocks: Iterator[bytes]) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("wb") as file:
        _write_all(file, blocks)
    unfinished.rename(path)


def _write_all(file: BinaryIO, blocks: Iterator[bytes]) -> None:
    for block in blocks:
        file.write(block)


def _packed(blocks: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    for block in blocks:
        yield packer.compress(block)
    yield packer.flush()


def _power_law(rng: np.random.Generator, count: int, exponent: float, size: int) -> np.ndarray:
    """[size] ranks below `count`; rank r comes with a probability that falls as r to the minus `exponent` (< 1)."""
    ranks = (count * rng.random(size) ** (1 / (1 - exponent))).astype(np.int64)
    return np.minimum(ranks, count - 1)


def _rating_lines(scale: Scale, rng: np.random.Generator) -> Iterator[bytes]:
    yield b"user_id,parent_asin,rating,timestamp\n"
    for first in range(0, scale.raw_rows, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, scale.raw_rows - first)
        users = _power_law(rng, scale.raw_users, USER_EXPONENT, size)
        items = _power_law(rng, scale.raw_items, ITEM_EXPONENT, size)
        lines = _lines(users, items, _ratings(rng, size), rng.integers(FIRST_MS, LAST_MS, size), b",")
        repeated = lines[rng.integers(0, size, round(size * REPEATED_ROWS / 2))]
        lines[rng.integers(0, size, len(repeated))] = repeated
        yield lines.tobytes() + BROKEN_LINE


def _inter_lines(scale: Scale, rng: np.random.Generator) -> Iterator[bytes]:
    extra = _power_law(rng, scale.users, USER_EXPONENT, max(0, scale.rows - 10 * scale.users))
    users = np.concatenate([np.repeat(np.arange(scale.users, dtype=np.int32), 10), extra.astype(np.int32)])
    del extra
    rng.shuffle(users)
    yield b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    for first in range(0, len(users), ROWS_AT_ONCE):
        some = users[first: first + ROWS_AT_ONCE]
        # A third of the interactions are spread evenly, so that hardly an item has less than ten.
        items = np.where(rng.random(len(some)) < 1 / 3, rng.integers(0, scale.items, len(some)),
                         _power_law(rng, scale.items, 0.7, len(some)))
        times = rng.integers(FIRST_MS, LAST_MS, len(some))
        yield _lines(some, items, _ratings(rng, len(some)), times, b"\t").tobytes()


def _item_lines(count: int, rng: np.random.Generator) -> Iterator[bytes]:
    yield b"item_id:token\ttitle:token\tcategory:token\n"
    first = 0
    for titles in titles_of(count, int(rng.integers(1 << 31))):
        ids = _texts(_item_ids(np.arange(first, first + len(titles))))
        yield "".join(f"{item}\t{title}\tKindle Store > Kindle eBooks > {title.split()[0]}\n"
                      for item, title in zip(ids, titles, strict=True)).encode()
        first += len(titles)


def _metadata_lines(scale: Scale, rng: np.random.Generator) -> Iterator[bytes]:
    first = 0
    for titles in titles_of(scale.raw_items, int(rng.integers(1 << 31))):
        ids = _texts(_item_ids(np.arange(first, first + len(titles))))
        is_empty = rng.random(len(titles)) < EMPTY_TITLES
        yield "".join(map(_metadata_line, ids, titles, is_empty.tolist())).encode()
        first += len(titles)


def _metadata_line(item: str, title: str, is_empty: bool) -> str:
    about = f"{title} is a story of {title.lower()} and what comes after it, told by somebody who was there. " * 2
    return json.dumps({
        "main_category": "Buy a Kindle", "title": "" if is_empty else title, "subtitle": "Kindle Edition",
        "author": {"name": title[:12], "about": [about[:80]]}, "average_rating": 4.4, "rating_number": 16,
        "features": [], "description": [about], "price": "3.99", "images": [{"large": f"https://example.org/{item}.jpg"}],
        "videos": [], "store": title[:9], "categories": ["Kindle Store", "Kindle eBooks", title.split()[0]],
        "details": {"Publisher": title[:15], "Language": "English", "Print length": "312 pages"}, "parent_asin": item,
        "bought_together": None}) + "\n"


def _ratings(rng: np.random.Generator, size: int) -> np.ndarray:
    return 1 + np.searchsorted(np.cumsum(RATING_SHARES)[:-1], rng.random(size))


def _lines(
    users: np.ndarray, items: np.ndarray, ratings: np.ndarray, times: np.ndarray, separator: bytes
) -> np.ndarray:
    """[n, width] bytes: every cell has the same width in all lines, so a line is a row of a matrix."""
    gap = np.full((len(users), 1), separator[0], dtype=np.uint8)
    stars = np.column_stack([ratings.astype(np.uint8) + ord("0"), np.full(len(users), ord(".")),
                             np.full(len(users), ord("0"))]).astype(np.uint8)
    digits = (times[:, None] // 10 ** np.arange(12, -1, -1)) % 10
    end = np.full((len(users), 1), ord("\n"), dtype=np.uint8)
    return np.hstack([_user_ids(users), gap, _item_ids(items), gap, stars, gap,
                      (digits + ord("0")).astype(np.uint8), end])


def _user_ids(numbers: np.ndarray) -> np.ndarray:
    """[n, 28] such as AE2NQKMZF..., without an order that shows."""
    scrambled = [numbers.astype(np.uint64) * np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)]
    return np.hstack([np.broadcast_to(LETTERS[[0, 4]], (len(numbers), 2)), *(_base32(part, 13) for part in scrambled)])


def _item_ids(numbers: np.ndarray) -> np.ndarray:
    """[n, 10] such as B0C3LZ5Q7M."""
    scrambled = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F)) % np.uint64(1 << 40)
    prefix = np.broadcast_to(np.frombuffer(b"B0", dtype=np.uint8), (len(numbers), 2))
    return np.hstack([prefix, _base32(scrambled, 8)])


def _base32(numbers: np.ndarray, width: int) -> np.ndarray:
    shifts = np.arange(5 * (width - 1), -1, -5, dtype=np.uint64)
    return LETTERS[((numbers[:, None] >> shifts) & np.uint64(31)).astype(np.int64)]


def _texts(ids: np.ndarray) -> list[str]:
    return [row.decode("ascii") for row in np.ascontiguousarray(ids).view(f"S{ids.shape[1]}").ravel().tolist()]


def _vocabulary(rng: np.random.Generator) -> np.ndarray:
    syllables = np.array([f"{a}{b}{c}" for a in ("b", "k", "l", "m", "r", "st", "th", "v") for b in "aeiou"
                          for c in ("", "n", "r", "s")])
    parts = syllables[rng.integers(0, len(syllables), (VOCABULARY, 3))]
    lengths = rng.integers(1, 4, VOCABULARY)
    words = np.array(["".join(row[:length]).capitalize() for row, length in zip(parts, lengths, strict=True)],
                     dtype=object)
    words[[3, 40, 400]] = ["of", "the", "&amp;"]
    return words
