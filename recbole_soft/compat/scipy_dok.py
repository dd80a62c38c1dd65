"""Gives scipy's dictionary-of-keys matrix back the private method that RecBole's graph models call.

Symptom: LightGCN and others raise "AttributeError: 'dok_matrix' object has no attribute '_update'".
Where: recbole 1.2.1 model/general_recommender/lightgcn.py:111, ngcf.py:110, gcmc.py:174, spectralcf.py:123,
    ncl.py:131, model/knowledge_aware_recommender/kgin.py:356, mcclk.py:425.
Upstream: https://github.com/RUCAIBox/RecBole/issues/2034 (open), also 2185 and 2090.
Guard: `scipy.sparse.dok_matrix` has no `_update`, i.e. scipy 1.13 or later.
Can go when: RecBole assigns the entries through scipy's public interface.

Set on scipy's class because the matrix is made inside the models, and RecBole-GNN's models call it as well.
A private name that scipy itself no longer uses cannot change what scipy does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scipy.sparse import dok_matrix


def is_needed() -> bool:
    """Whether scipy's matrix has lost the method."""
    from scipy.sparse import dok_matrix

    return not hasattr(dok_matrix, "_update")


def apply() -> None:
    """Add the method to scipy's matrix."""
    from scipy.sparse import dok_matrix

    dok_matrix._update = _set_entries


def _set_entries(matrix: dok_matrix, entries: Mapping[tuple[int, int], float]) -> None:
    """Set many entries `{(row, column): value}` at once and unchecked, as scipy up to 1.12 did."""
    matrix._dict.update(entries)
