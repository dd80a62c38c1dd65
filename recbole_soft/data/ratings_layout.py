"""Which cell of a line is what in a ratings file: by its header, or by where the items of the metadata are."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_soft.data.raw_files import RawFile
from recbole_soft.data.raw_metadata import Metadata
from recbole_soft.errors import DataError

COLUMNS = ("user", "item", "rating", "timestamp")
ALIASES = {
    "user": ("user_id", "user", "reviewerid"),
    "item": ("parent_asin", "item_id", "item", "asin"),
    "rating": ("rating", "overall"),
    "timestamp": ("timestamp", "unixreviewtime", "time"),
}
ASIN_LENGTH = 10


def header_fields(line: bytes, file: RawFile) -> tuple[str, ...]:
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


def detected_order(lines: Sequence[bytes], metadata: Metadata) -> tuple[str, ...]:
    """Which of the first two columns holds the items: users come first in 2014, items in 2018."""
    cells = [line.decode("utf-8").split(",", 2)[:2] for line in lines if line]

    def item_share(column: int) -> tuple[float, float]:
        names = {row[column].strip() for row in cells}
        in_metadata = sum(name in metadata.row_of or name in metadata.untitled for name in names)
        return in_metadata / len(names), sum(len(name) == ASIN_LENGTH for name in names) / len(names)

    item_first = item_share(0) > item_share(1)
    return ("item", "user", "rating", "timestamp") if item_first else COLUMNS
