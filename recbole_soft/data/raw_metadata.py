"""Item titles and categories out of Amazon's metadata files of 2014, 2018 and 2023.

2023 and 2018 are JSON lines (`parent_asin` or `asin`); 2014 is one Python literal per line, read with
`ast.literal_eval`, which runs no code. Knows nothing of ratings.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import compress
from typing import Any

import numpy as np

from recbole_soft.data.raw_files import UNDECODABLE, RawFile, no_usable_line

CATEGORY_SEPARATOR = " > "
BROKEN_RECORD = "broken JSON or Python literal"
NO_ITEM_ID = "no usable item id"
Record = tuple[str, str, str]  # item id, title (empty for none), category
Wanted = Callable[[list[str]], np.ndarray]
EXPECTED = "item metadata, one JSON object per line with parent_asin (2023) or asin (2018, 2014) and title"

# Every character that some reader of text lines takes for the end of a line, a cell or a string.
_CELL_BREAKS = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Metadata:
    """Titled items in file order, the first record of an item with a title being the one that counts.

    Attributes:
        row_of: item id -> position in `titles` and `categories`.
        untitled: ids of the items without a title in any of their records.
        repeated: records of items that had been read already.
        outside_core: records left out because their item cannot be in the k-core; none of the above knows them.
        edition: `amazon-2023`, `amazon-2018` or `amazon-2014`, by the look of most records.
    """

    row_of: dict[str, int] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    untitled: set[str] = field(default_factory=set)
    repeated: int = 0
    outside_core: int = 0
    edition: str = ""

    def add(self, item_id: str, title: str, category: str) -> None:
        """Takes in one record; `title` is empty for an item without title."""
        if item_id in self.row_of or item_id in self.untitled:
            self.repeated += 1
        if item_id in self.row_of:
            return
        if not title:
            self.untitled.add(item_id)
            return
        self.untitled.discard(item_id)
        self.row_of[item_id] = len(self.titles)
        self.titles.append(title)
        self.categories.append(category)


def read_metadata(file: RawFile, progress: bool, wanted: Wanted | None = None) -> Metadata:
    """Reads a metadata file in one pass; bad lines go into `file.tally`.

    Args:
        wanted: which of some item ids to keep ([ids] bool), None for all.

    Raises:
        DataError: not one line could be used.
    """
    metadata = Metadata()
    editions: Counter[str] = Counter()
    for first_line, block in file.blocks(progress):
        records: list[Record] = []
        for number, line in enumerate(block.split(b"\n"), first_line):
            if not line.strip():
                continue
            file.tally.read += 1
            problem = _take_line(line, records, editions)
            if problem:
                file.tally.reject(problem, [number])
        _add_wanted(metadata, records, wanted)
    if not editions:
        raise no_usable_line(file, EXPECTED)
    metadata.edition = editions.most_common(1)[0][0]
    return metadata


def _add_wanted(metadata: Metadata, records: list[Record], wanted: Wanted | None) -> None:
    if wanted:
        is_wanted = wanted([item_id for item_id, _, _ in records]).tolist()
        metadata.outside_core += is_wanted.count(False)
        records = list(compress(records, is_wanted))
    for record in records:
        metadata.add(*record)


def clean_cell(text: str) -> str:
    """Text that is safe in a tab-separated file: line breaks, tabs and nulls become spaces.

    White space at both ends goes; HTML entities stay. Surrogates, which escapes can spell and UTF-8 cannot
    hold, are joined to a character, or become U+FFFD where the other half is missing.
    """
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _CELL_BREAKS.sub(" ", text).strip()


_clean_name = lru_cache(maxsize=1 << 16)(clean_cell)  # few categories, again and again


def is_usable_id(identifier: str) -> bool:
    """Whether an id is not empty and free of white space and control characters."""
    return identifier.isprintable() and identifier.split() == [identifier]


def _take_line(line: bytes, records: list[Record], editions: Counter[str]) -> str | None:
    """Adds the record of one line; returns the reason when the line is no good."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return UNDECODABLE
    record, is_json = _parse_record(text)
    if not isinstance(record, dict):
        return BROKEN_RECORD
    item_id = record.get("parent_asin") or record.get("asin")
    if not isinstance(item_id, str) or not is_usable_id(item_id.strip()):
        return NO_ITEM_ID
    title = record.get("title")
    records.append((item_id.strip(), clean_cell(title) if isinstance(title, str) else "", _category_path(record)))
    editions[_edition(record, is_json)] += 1
    return None


def _edition(record: dict[str, Any], is_json: bool) -> str:
    if not is_json:
        return "amazon-2014"
    return "amazon-2023" if "parent_asin" in record else "amazon-2018"


def _parse_record(text: str) -> tuple[Any, bool]:
    """The value of a line (None when broken) and whether it was JSON."""
    try:
        return json.loads(text), True
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            # Titles with a stray backslash make Python's own parser complain about an escape.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip()), False
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None, False


def _category_path(record: dict[str, Any]) -> str:
    """The category from general to special; of several paths (2014) the first."""
    path = record.get("categories") or record.get("category") or []
    if isinstance(path, list) and path and isinstance(path[0], list):
        path = path[0]
    if isinstance(path, str):
        path = [path]
    names = [_clean_name(name) for name in path if isinstance(name, str)] if isinstance(path, list) else []
    names = [name for name in names if name]
    if not names:
        general = record.get("main_category") or record.get("main_cat")
        names = [clean_cell(general)] if isinstance(general, str) else []
    return CATEGORY_SEPARATOR.join(names)
