"""Makes RecBole fill missing values although pandas 3 lets it write only into a copy.

Symptom: silent. RecBole fills with `feat[field].fillna(..., inplace=True)`. Under copy-on-write this changes
    a temporary: NaNs stay, float features turn into NaN and token features into the id -9223372036854775808
    in the row of [PAD]. An empty cell of a token_seq or float_seq column raises "'float' object has no
    attribute 'split'".
Where: recbole 1.2.1 data/dataset/dataset.py:648,650 (`_fill_nan`) and :501 (`_load_feat`).
Upstream: none found (looked for pandas 3 in RecBole's issues); RecBole's install threads are 2215 and 2187.
Guard: a chained in-place fillna has no effect, i.e. pandas 3, or pandas 2 with copy-on-write switched on.
Can go when: RecBole assigns the result of fillna back to the column.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from recbole_soft.compat.module_view import ModuleView

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from recbole.data.dataset import Dataset

_SEQUENCE_SUFFIXES = (":token_seq", ":float_seq")


def is_needed() -> bool:
    """Whether a chained in-place fillna has no effect."""
    import pandas as pd

    frame = pd.DataFrame({"value": [float("nan")]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame["value"].fillna(0.0, inplace=True)
    return bool(frame["value"].isna().any())


def apply() -> None:
    """Replace RecBole's filling of missing values and its reading of sequence columns."""
    import pandas as pd
    from recbole.data.dataset import dataset

    dataset.pd = ModuleView(pd, read_csv=_read_csv_without_empty_sequences)
    dataset.Dataset._fill_nan = _fill_missing_values


def _read_csv_without_empty_sequences(*args: Any, **kwargs: Any) -> pd.DataFrame:
    """`pandas.read_csv`, with '' in the empty cells of columns such as `tags:token_seq`."""
    import pandas as pd

    frame = pd.read_csv(*args, **kwargs)
    for column in frame.columns:
        if str(column).endswith(_SEQUENCE_SUFFIXES):
            frame[column] = frame[column].fillna("")
    return frame


def _fill_missing_values(self: Dataset) -> None:
    """Replaces `Dataset._fill_nan`: tokens become [PAD], floats their column's mean, sequences empty."""
    import numpy as np
    from recbole.utils import FeatureType

    for feat_name in self.feat_name_list:
        feat = getattr(self, feat_name)
        for field in feat:
            column = feat[field]
            match self.field2type[field]:
                case FeatureType.TOKEN:
                    feat[field] = column.fillna(0)
                case FeatureType.FLOAT:
                    feat[field] = column.fillna(column.mean())
                case FeatureType.TOKEN_SEQ:
                    feat[field] = _without_missing_sequences(column, np.int64)
                case _:
                    feat[field] = _without_missing_sequences(column, np.float64)


def _without_missing_sequences(column: pd.Series, dtype: type[np.generic]) -> pd.Series:
    import numpy as np

    # A missing cell is the only float in a column of arrays.
    return column.map(lambda cell: np.array([], dtype=dtype) if isinstance(cell, float) else cell)
