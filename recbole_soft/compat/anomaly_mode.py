"""Symptom: after RecBole's sequential models are imported, every backward pass of the process is several times
slower, because each operation notes its stack trace.

Where: recbole/model/sequential_recommender/sine.py:25 calls `torch.autograd.set_detect_anomaly(True)` when the
module is imported, and the package imports all its modules.
Upstream: none found.
Guard: needed whenever that import turns the mode on. A mode that the user turned on before stays on.
Can go when: sine.py no longer calls it at import.
"""

from __future__ import annotations

import importlib

import torch

PACKAGE = "recbole.model.sequential_recommender"


def is_needed() -> bool:
    """Whether importing RecBole's sequential models turns anomaly detection on."""
    if torch.is_anomaly_enabled():
        return False
    importlib.import_module(PACKAGE)
    return torch.is_anomaly_enabled()


def apply() -> None:
    """Turn the mode off again; the package is imported by now and will not run its top level again."""
    importlib.import_module(PACKAGE)
    torch.autograd.set_detect_anomaly(False)
