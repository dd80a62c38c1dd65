"""Gives RecBole the numpy names it uses although numpy 2 dropped their sources.

Symptom: every `Config(...)` raises "AttributeError: `np.float_` was removed in the NumPy 2.0 release".
Where: recbole 1.2.1 config/configurator.py:625-635 sets `np.float = np.float_` and seven names like it; they
    are used in evaluator/metrics.py:90-196,287, data/interaction.py:31, data/dataset/dataset.py:652,
    trainer/hyper_tuning.py:386 and model/layers.py:932.
Upstream: https://github.com/RUCAIBox/RecBole/issues/2215 (open), pull request 2187 (open).
Guard: numpy has no `float_`, i.e. numpy 2 or later.
Can go when: RecBole stops using these aliases.

The aliases are set on numpy itself, as RecBole does on numpy 1, because models written for RecBole rely on
them too. Only absent names are set, and never `float_`, `complex_` or `unicode_`: other libraries test for
these to tell numpy 1 from numpy 2.
"""

from __future__ import annotations


def is_needed() -> bool:
    """Whether numpy lacks the names RecBole's Config copies from."""
    import numpy as np

    # Not hasattr: it would run numpy's module-level __getattr__, which warns for some of these names.
    return "float_" not in vars(np)


def apply() -> None:
    """Set the absent names now and with every Config."""
    from recbole.config.configurator import Config

    Config.compatibility_settings = _set_missing_names
    # RecBole sets them with the first Config; its data and metric classes can be used before.
    _set_missing_names()


def _set_missing_names(config: object | None = None) -> None:
    """Replaces `Config.compatibility_settings`, hence the unused argument."""
    import numpy as np

    aliases = {
        "bool": np.bool_,
        "int": np.int_,
        "float": np.float64,
        "complex": np.complex128,
        "object": np.object_,
        "str": np.str_,
        "long": np.int_,
        "unicode": np.str_,
    }
    for name, numpy_type in aliases.items():
        if name not in vars(np):
            setattr(np, name, numpy_type)
