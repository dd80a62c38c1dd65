"""recbole_soft: fine-tuned language models for sequential recommendation, beside RecBole's models.

Importing this package is cheap. As soon as RecBole is imported, it is mended for today's libraries and knows
our names (see `recbole_soft.plugin`).
"""

from __future__ import annotations

from typing import Any

from recbole_soft.compat.hook import when_recbole_is_imported

__version__ = "0.1.0"
__all__ = ["run_recbole_soft"]


def _install() -> None:
    from recbole_soft.plugin import install

    install()


def __getattr__(name: str) -> Any:
    if name == "run_recbole_soft":
        from recbole_soft.run import run_recbole_soft

        return run_recbole_soft
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


when_recbole_is_imported(_install)
