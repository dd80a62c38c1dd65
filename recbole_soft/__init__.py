"""recbole_soft: fine-tuned language models for sequential recommendation, beside RecBole's models.

Importing this package is cheap. As soon as RecBole is imported, it is mended for today's libraries and knows
our names (see `recbole_soft.plugin`).
"""

from __future__ import annotations

import os
from typing import Any

# Threads that wait for work by spinning take the core that another thread works on: on two hyperthreads that
# makes training four times slower. Read by OpenMP when torch is imported, so it has to be said before.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from recbole_soft.compat.hook import when_recbole_is_imported

__version__ = "0.1.0"
__all__ = ["load_recommender", "run_recbole_soft"]


def _install() -> None:
    from recbole_soft.plugin import install

    install()


def __getattr__(name: str) -> Any:
    if name == "run_recbole_soft":
        from recbole_soft.run import run_recbole_soft

        return run_recbole_soft
    if name == "load_recommender":
        from recbole_soft.recommend.recommender import load_recommender

        return load_recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


when_recbole_is_imported(_install)
