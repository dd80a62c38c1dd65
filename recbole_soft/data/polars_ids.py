"""Texts numbered by polars, block after block, in the order in which they come (the extra `prep`)."""

from __future__ import annotations

import numpy as np
import polars as pl


class PolarsIds:
    """Numbers texts with polars' categories, which keep a text once and without an object around it.

    Attributes:
        type: what polars reads a column as for `numbers`.
    """

    def __init__(self) -> None:
        self.type = pl.Categorical(pl.Categories.random())
        # polars forgets categories as soon as no column has them.
        self._kept = pl.Series([None], dtype=self.type)
        self._texts: list[pl.Series] = []
        self._count = 0

    def numbers(self, column: pl.Series) -> np.ndarray:
        """[rows] int32 numbers of a column of `type` without nulls, the same for a text in all blocks."""
        numbers = column.to_physical()
        new = pl.DataFrame({"text": column, "number": numbers}).filter(pl.col("number") >= self._count)
        new = new.unique("number").sort("number")
        self._texts.append(new["text"].cast(pl.String))
        self._count += len(new)
        return numbers.to_numpy().astype(np.int32)

    def texts(self) -> pl.Series:
        """Text by number."""
        return pl.concat([pl.Series([], dtype=pl.String), *self._texts])
