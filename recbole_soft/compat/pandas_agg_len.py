"""Makes `column.agg(len)` in RecBole mean the length of each cell again, not of the column.

Symptom: a dataset with a token_seq field raises "Length of values (1) does not match length of index"; with
    `benchmark_filename` it is silent: every `item_length` becomes the number of rows.
Where: recbole 1.2.1 data/dataset/dataset.py:712,792,809,1217, data/dataset/sequential_dataset.py:163-165,
    data/dataset/kg_dataset.py:316.
Upstream: none found (looked for pandas 3 in RecBole's issues).
Guard: `pandas.Series.agg` hands the whole column to the function, i.e. pandas 3.
Can go when: RecBole uses `Series.map(len)`.

The name `len` is replaced inside these three modules: they call it on lists, arrays, indexes and frames,
which go to the built-in, and on a Series only by way of `agg`.
"""

from __future__ import annotations

import builtins
from collections.abc import Sized
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def is_needed() -> bool:
    """Whether `agg(len)` gives one number for a whole column."""
    import pandas as pd

    return not isinstance(pd.Series([[0, 0]]).agg(len), pd.Series)


def apply() -> None:
    """Replace the name `len` in RecBole's dataset modules."""
    from recbole.data.dataset import dataset, kg_dataset, sequential_dataset

    for module in (dataset, sequential_dataset, kg_dataset):
        module.len = _length_of_each_cell


def _length_of_each_cell(sized: Sized) -> int | pd.Series:
    """The built-in `len`, except that a Series gives the Series of its cells' lengths."""
    import pandas as pd

    return sized.map(builtins.len) if isinstance(sized, pd.Series) else builtins.len(sized)
