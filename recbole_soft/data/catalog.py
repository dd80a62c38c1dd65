"""The catalogue: which item has which title and category.

One rule for titles, used by every model of a table: HTML entities are resolved, white space is folded, and
items of equal title are one item (`duplicate_titles: merge`) or twins that share a text vector (`keep`).
Knows nothing of interactions beyond the item ids it is asked about.
"""

from __future__ import annotations

import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_soft.data.atomic import columns_of, read_atomic
from recbole_soft.errors import DataError


def clean_title(text: str) -> str:
    """A title as people write it: entities resolved (also when escaped twice), white space folded."""
    for _ in range(2):
        text = html.unescape(text)
    return " ".join(text.replace("\x00", " ").split())


@dataclass(frozen=True)
class ItemColumns:
    """Names of the columns of NAME.item."""

    item: str = "item_id"
    title: str = "title"
    category: str | None = "category"


def read_item_table(path: Path, columns: ItemColumns, separator: str = "\t", encoding: str = "utf-8") -> pd.DataFrame:
    """Cleaned titles and categories by item token (index); items without a title are left out.

    Raises:
        DataError: no title column, or a title that is empty everywhere.
    """
    available = columns_of(path, separator, encoding)
    # RecBole's own Amazon files call the column `categories`.
    category = next((name for name in (columns.category, "categories") if name in available), None)
    has_category = category is not None
    wanted = [columns.item, columns.title] + ([category] if has_category else [])
    table = read_atomic(path, wanted, separator, encoding)
    table = table.set_axis(["item", "title"] + (["category"] if has_category else []), axis=1)
    if not has_category:
        table["category"] = ""
    table = table.drop_duplicates("item", keep="first")
    table["title"] = [clean_title(title) for title in table["title"]]
    table["category"] = [clean_title(category) for category in table["category"]]
    titled = table[table["title"] != ""]
    if titled.empty:
        raise DataError(f"column '{columns.title}' is empty for every item", where=str(path),
                        remedy="name the column that holds the titles: --title_field=NAME")
    return titled.set_index("item")


def merge_equal_titles(item_tokens: pd.Series, table: pd.DataFrame) -> pd.Series:
    """Each item token replaced by the first token (in the order of `table`) that carries the same title."""
    first_of_title = pd.Series(table.index, index=table["title"]).groupby(level=0, sort=False).first()
    representative = pd.Series(first_of_title.loc[table["title"]].to_numpy(), index=table.index)
    return item_tokens.map(representative)


@dataclass(frozen=True)
class Catalog:
    """Titles and categories by RecBole's item id; id 0 is RecBole's padding and has an empty title.

    Attributes:
        tokens, titles, categories: one entry per item id.
    """

    tokens: tuple[str, ...]
    titles: tuple[str, ...]
    categories: tuple[str, ...]

    @classmethod
    def from_table(cls, item_tokens: Sequence[str], table: pd.DataFrame) -> Catalog:
        """Args: item_tokens: RecBole's `field2id_token` of items, position 0 being `[PAD]`."""
        rows = table.loc[list(item_tokens[1:])]
        return cls(tuple(item_tokens), ("", *rows["title"]), ("", *rows["category"]))

    def __len__(self) -> int:
        """Number of item ids, padding included (RecBole's `item_num`)."""
        return len(self.titles)

    @cached_property
    def unique_titles(self) -> tuple[str, ...]:
        """Distinct titles in the order of their first item id."""
        return tuple(dict.fromkeys(self.titles[1:]))

    @cached_property
    def title_rows(self) -> np.ndarray:
        """[n_items - 1] row of `unique_titles` for item ids 1, 2, ..."""
        row_of = {title: row for row, title in enumerate(self.unique_titles)}
        return np.array([row_of[title] for title in self.titles[1:]], dtype=np.int64)

    @cached_property
    def items_of_title(self) -> dict[str, list[int]]:
        """Item ids of every title, ascending; more than one only where equal titles were kept apart."""
        found: dict[str, list[int]] = {}
        for item, title in list(enumerate(self.titles))[1:]:
            found.setdefault(title, []).append(item)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Hash of tokens, titles and categories in id order."""
        digest = hashlib.sha256()
        for row in zip(self.tokens, self.titles, self.categories, strict=True):
            digest.update("\t".join(row).encode() + b"\n")
        return digest.hexdigest()[:16]
