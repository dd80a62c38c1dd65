"""Imports `recbole_soft.compat` without running `recbole_soft/__init__.py`.

That file arms the shims as soon as RecBole is imported. The scripts in this folder must also see RecBole as
it is without them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]


def import_compat() -> ModuleType:
    """The package `recbole_soft.compat`, below an empty stand-in for `recbole_soft`."""
    package = ModuleType("recbole_soft")
    package.__path__ = [str(REPOSITORY / "recbole_soft")]
    sys.modules["recbole_soft"] = package
    return importlib.import_module("recbole_soft.compat")
