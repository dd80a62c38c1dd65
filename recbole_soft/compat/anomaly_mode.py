"""Keeps RecBole from slowing down every backward pass of the process.

Symptom: once RecBole's sequential models are imported (any `get_model` does), autograd notes a stack trace for
    every operation; training was seen to run about ten times slower.
Where: recbole/model/sequential_recommender/sine.py:25 calls `torch.autograd.set_detect_anomaly(True)` at import,
    and the package's `__init__` imports all its modules.
Upstream: none found.
Guard: sine.py makes the call at top level. A mode that the user turned on before that import stays on.
Can go when: sine.py no longer makes the call at import.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

PACKAGE = "recbole.model.sequential_recommender"
CALL = r"^torch\.autograd\.set_detect_anomaly\(True\)"


def is_needed() -> bool:
    """Whether importing RecBole's sequential models turns anomaly detection on."""
    model_folder = importlib.util.find_spec("recbole.model").submodule_search_locations[0]
    source = (Path(model_folder) / "sequential_recommender" / "sine.py").read_text(encoding="utf-8")
    return re.search(CALL, source, flags=re.MULTILINE) is not None


def apply() -> None:
    """Import the models now, once, and put the mode back to what it was before."""
    import torch

    was_on = f"{PACKAGE}.sine" not in sys.modules and torch.is_anomaly_enabled()
    importlib.import_module(PACKAGE)
    torch.autograd.set_detect_anomaly(was_on)
