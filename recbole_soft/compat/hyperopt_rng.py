"""Hands hyperopt the kind of random generator it asks for since 0.2.6.

Symptom: HyperTuning with `algo='exhaustive'` raises "'numpy.random.mtrand.RandomState' object has no
    attribute 'integers'"; random and bayes search work.
Where: recbole 1.2.1 trainer/hyper_tuning.py:117.
Upstream: https://github.com/RUCAIBox/RecBole/issues/1868, also 1320 and pull request 2037.
Guard: hyperopt 0.2.6 or later is installed (0.2.5, RecBole's own pin, wants the old generator).
Can go when: RecBole calls `numpy.random.default_rng` there.

The order in which the combinations are tried differs from the old stack's; the set of them does not.
"""

from __future__ import annotations

import re
from importlib import metadata

from recbole_soft.compat.module_view import ModuleView

_FIRST_WITH_GENERATOR = (0, 2, 6)


def is_needed() -> bool:
    """Whether a hyperopt is installed that wants the new kind of generator."""
    try:
        version = metadata.version("hyperopt")
    except metadata.PackageNotFoundError:
        return False
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3]) >= _FIRST_WITH_GENERATOR


def apply() -> None:
    """Replace the old kind of generator in RecBole's hyper_tuning module."""
    import numpy as np
    from recbole.trainer import hyper_tuning

    random = ModuleView(np.random, RandomState=np.random.default_rng)
    hyper_tuning.np = ModuleView(np, random=random)
