"""Lets `recbole.quick_start` be imported without ray.

Symptom: `import recbole.quick_start` raises ModuleNotFoundError where ray is absent (it has no wheel for
    Python 3.12+), and "No module named 'pkg_resources'" where ray 2.6.3 meets setuptools 81 or later.
Where: recbole 1.2.0 and 1.2.1 quick_start/quick_start.py:20, used only in `objective_function` (:223).
Upstream: https://github.com/RUCAIBox/RecBole/issues/1820, also 1518 and pull request 2078.
Guard: neither `recbole.quick_start` nor the real `ray.tune` is imported yet. Whether ray would work is not
    tried: importing it takes seconds and starts threads.
Can go when: RecBole imports ray only where it reports to it.

The stand-in is in `sys.modules` only while quick_start itself is loaded; afterwards `import ray` finds the
real one. Users who tune with a working ray still can: a report reaches the real `ray.tune` if it was
imported.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_QUICK_START = "recbole.quick_start.quick_start"
_STOOD_IN_FOR = ("ray", "ray.tune")
_IMPORTED_BY_QUICK_START = ("recbole.config", "recbole.data", "recbole.data.transform", "recbole.utils")


def is_needed() -> bool:
    """Whether importing `recbole.quick_start` would import ray."""
    return _QUICK_START not in sys.modules and "ray.tune" not in sys.modules


def apply() -> None:
    """Import `recbole.quick_start` with a stand-in for ray, then take it away again."""
    # Everything else first: no other library may look at the stand-in while it is there.
    for name in _IMPORTED_BY_QUICK_START:
        importlib.import_module(name)
    hidden = {name: sys.modules.pop(name) for name in _STOOD_IN_FOR if name in sys.modules}
    sys.modules.update(_stand_ins())
    try:
        importlib.import_module(_QUICK_START)
    finally:
        for name in _STOOD_IN_FOR:
            del sys.modules[name]
        sys.modules.update(hidden)


def _stand_ins() -> dict[str, ModuleType]:
    ray, tune = (ModuleType(name, "Stands in for ray while RecBole is imported.") for name in _STOOD_IN_FOR)
    ray.__spec__, tune.__spec__ = (ModuleSpec(name, loader=None) for name in _STOOD_IN_FOR)
    ray.__path__ = []
    ray.tune = tune
    tune.report = _report_to_real_ray
    return {"ray": ray, "ray.tune": tune}


def _report_to_real_ray(*args: object, **metrics: object) -> None:
    """Pass a result on to ray if the user runs it; do nothing otherwise."""
    real_tune = sys.modules.get("ray.tune")
    if real_tune is not None:
        real_tune.report(*args, **metrics)
