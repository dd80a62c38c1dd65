"""Lets RecBole 1.2.0 find its models without the package kmeans_pytorch.

Symptom: every `Config(...)` and `get_model(...)` raises "ModuleNotFoundError: No module named
    'kmeans_pytorch'", whatever the model, although only LDiffRec uses it and RecBole does not require it.
Where: recbole 1.2.0 model/general_recommender/ldiffrec.py:29 (imported by the package's `__init__`).
Upstream: mended in 1.2.1, which imports it inside the function (ldiffrec.py:70).
Guard: the installed ldiffrec.py imports kmeans_pytorch at top level, and kmeans_pytorch is not installed.
Can go when: recbole 1.2.1 or later is the oldest supported version (1.2.1 needs ray, which has no wheel for
    Python 3.12+).
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from recbole_soft.errors import UserError

MISSING = "kmeans_pytorch"
_MODELS = "recbole.model.general_recommender"


def is_needed() -> bool:
    """Whether importing RecBole's models would fail for want of kmeans_pytorch."""
    if importlib.util.find_spec(MISSING) is not None:
        return False
    model_folder = importlib.util.find_spec("recbole.model").submodule_search_locations[0]
    source = (Path(model_folder) / "general_recommender" / "ldiffrec.py").read_text(encoding="utf-8")
    return re.search(rf"^from {MISSING} import", source, flags=re.MULTILINE) is not None


def apply() -> None:
    """Import RecBole's general models with a stand-in for kmeans_pytorch, then take it away again."""
    stub = ModuleType(MISSING, "Stands in for kmeans_pytorch while RecBole is imported.")
    stub.kmeans = _kmeans_is_missing
    sys.modules[MISSING] = stub
    try:
        importlib.import_module(_MODELS)
    finally:
        # Nobody else may take the stub for the real package.
        del sys.modules[MISSING]


def _kmeans_is_missing(*args: object, **kwargs: object) -> NoReturn:
    raise UserError(
        "LDiffRec clusters the items with a package that is not installed",
        where="model LDiffRec with n_cate > 1",
        remedy="pip install kmeans-pytorch",
    )
