"""Lets RecBole 1.2.0 and 1.2.1 run on numpy 2, pandas 3, scipy 1.13+ and torch 2.6+, without ray.

Each incompatibility is one module here. Its docstring gives the symptom, the place in RecBole, the upstream
thread, the guard that decides whether it is needed, and when the module can be deleted. Every shim is local:
it replaces a name inside one of RecBole's own modules and leaves numpy, pandas and torch as they are (the two
exceptions, `numpy_names` and `scipy_dok`, only add names that are missing and say why). `torch_load`,
`plain_strings` and `pickled_caches` also see to it that RecBole runs no code out of settings and files.

Importing this package imports neither RecBole nor torch. Knows nothing of language models or of our own
settings.
"""

from __future__ import annotations

import importlib

from recbole_soft.compat.hook import when_recbole_is_imported

__all__ = ["SHIMS", "applied_shims", "apply", "when_recbole_is_imported"]

# The order matters: RecBole's models import only after kmeans_stub, nothing imports them before anomaly_mode,
# and its quick_start imports only after ray_stub.
SHIMS: tuple[str, ...] = (
    "kmeans_stub",
    "anomaly_mode",
    "numpy_names",
    "scipy_dok",
    "pandas_agg_len",
    "pandas_frames",
    "collector",
    "hyperopt_rng",
    "ray_stub",
    "torch_load",
    "flops_guard",
    "plain_strings",
    "pickled_caches",
    "yaml_loader",
)

_was_needed: dict[str, bool] = {}


def apply() -> None:
    """Import RecBole and apply every shim that the installed libraries call for. A second call does nothing.

    Raises:
        ModuleNotFoundError: RecBole, or a library it requires, is not installed.
    """
    # First of all: this import may fire a hook that calls apply() itself. That inner call then does
    # everything, and the loop below finds nothing left to do.
    importlib.import_module("recbole")
    for name in SHIMS:
        if name in _was_needed:
            continue
        shim = importlib.import_module(f"{__name__}.{name}")
        needed = shim.is_needed()
        if needed:
            shim.apply()
        _was_needed[name] = needed


def applied_shims() -> tuple[str, ...]:
    """Names of the shims that were needed and applied so far, in order; for logs and bug reports."""
    return tuple(name for name in SHIMS if _was_needed.get(name))
