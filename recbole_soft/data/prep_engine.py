"""What takes the time in a preparation, by pandas or by polars: from lines to numbers, and from numbers to lines.

Both write the same bytes. pandas is always there; polars comes with the extra `prep` and is several times faster. What
counts as a good line, an item or a repetition is not decided here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

import numpy as np

from recbole_soft.errors import SettingError

if TYPE_CHECKING:
    from recbole_soft.data.raw_ratings import Ratings

ENGINES = ("auto", "pandas", "polars")
ROWS_PER_WRITE = 200_000


@dataclass(frozen=True)
class RatingBlock:
    """Some lines of a ratings file as numbers.

    Attributes:
        users: [rows] int32, the number of each user, the same in all blocks.
        user_is_usable: [rows] bool, whether the user's id is one (`is_usable_id`).
        items: [rows] int32 positions in `item_names`.
        item_names: ids of the block's items, stripped.
        ratings, times: [rows] float64, NaN for what is no number.
    """

    users: np.ndarray
    user_is_usable: np.ndarray
    items: np.ndarray
    item_names: list[str]
    ratings: np.ndarray
    times: np.ndarray


class PrepEngine(ABC):
    """Reads the blocks of one ratings file, numbers its users, and writes interactions.

    Attributes:
        name: as in `--engine`.
    """

    name = ""

    @abstractmethod
    def read(self, block: bytes, fields: tuple[str, ...]) -> RatingBlock:
        """A block of well-formed lines (`well_formed_lines`).

        Args:
            fields: name of each cell of a line; `user`, `item`, `rating` and `timestamp` are read.
        """

    @abstractmethod
    def write(self, file: TextIO, table: Ratings, item_ids: list[str]) -> None:
        """Appends the lines of NAME.inter to `file`.

        Args:
            table: its users are numbers of this engine.
            item_ids: item id by row of the metadata.
        """


def make_engine(name: str) -> PrepEngine:
    """A new engine.

    Args:
        name: `pandas`, `polars`, or `auto` for polars where it is installed and pandas elsewhere.

    Raises:
        SettingError: another name, or polars is asked for and not there.
    """
    if name not in ENGINES:
        raise SettingError(f"engine is '{name}'", where="engine", remedy=f"one of {', '.join(ENGINES)}")
    has_polars = find_spec("polars") is not None
    if name == "polars" and not has_polars:
        raise SettingError("polars is not installed", where="engine=polars",
                           remedy='pip install -e ".[prep]", or --engine=pandas, which gives the same files')
    if name == "auto":
        name = "polars" if has_polars else "pandas"
    module = import_module(f"recbole_soft.data.prep_{name}")
    return module.ENGINE()


def rating_texts(ratings: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Distinct texts, and [rows] which of them each float32 rating is: the shortest, 4.3, not 4.300000190734863."""
    distinct, which = np.unique(ratings, return_inverse=True)
    return [str(value) for value in distinct], which


def are_whole(times: np.ndarray) -> bool:
    """Whether all times are whole numbers; looked at in parts, for a table may be large."""
    parts = (times[first: first + ROWS_PER_WRITE] for first in range(0, len(times), ROWS_PER_WRITE))
    return all(bool((part == np.floor(part)).all()) for part in parts)
