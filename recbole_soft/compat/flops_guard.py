"""Spares large models RecBole's operation count.

Symptom: `run_recbole` always calls `get_flops`, which deep-copies the model and runs it: twice the memory of
    a language model, for a number that leaves out attention.
Where: recbole 1.2.1 quick_start/quick_start.py:141, utils/utils.py:250,269.
Upstream: none; RecBole was not made for models of this size.
Guard: always. It changes nothing for a model that does not ask for it.
Can go when: RecBole offers a setting that skips the count.

A model asks with the class attribute `skip_flops = True`; its count is then reported as 0.
"""

from __future__ import annotations

import functools
from typing import Any


def is_needed() -> bool:
    """Always: `get_flops` changes only for models that ask for it."""
    return True


def apply() -> None:
    """Replace `get_flops` wherever RecBole or its users look it up."""
    import recbole.utils
    import recbole.utils.utils
    from recbole.quick_start import quick_start

    count = recbole.utils.utils.get_flops

    @functools.wraps(count)
    def get_flops(model: Any, *args: Any, **kwargs: Any) -> float:
        return 0 if getattr(model, "skip_flops", False) else count(model, *args, **kwargs)

    for module in (recbole.utils.utils, recbole.utils, quick_start):
        module.get_flops = get_flops
